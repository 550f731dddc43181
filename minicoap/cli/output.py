"""What the command line prints: responses, options and tables, as text for people."""

from __future__ import annotations

from collections.abc import Sequence

from minicoap.codec.codes import code_name
from minicoap.codec.contentformats import content_format_name
from minicoap.codec.linkformat import Link
from minicoap.codec.options import (
    ACCEPT,
    BLOCK1,
    BLOCK2,
    CONTENT_FORMAT,
    DEFINITIONS,
    FORMAT_EMPTY,
    FORMAT_STRING,
    FORMAT_UINT,
    decode_uint,
    option_name,
)
from minicoap.core.body import decode_block
from minicoap.core.request import Response

_COLUMNS = ("rt", "if", "ct", "title")  # of `discover`, besides the path


def status_lines(response: Response) -> list[str]:
    """Return the code, and below it a line for each option."""
    return [code_name(response.code), *(f"  {option_text(number, value)}" for number, value in response.options.items)]


def option_text(number: int, value: bytes) -> str:
    """Return an option as "Name: value": formats and blocks spelt out, opaque values in hexadecimal."""
    definition = DEFINITIONS.get(number)
    text = value.hex()
    if number in (CONTENT_FORMAT, ACCEPT):
        text = content_format_name(decode_uint(value))
    elif number in (BLOCK1, BLOCK2):
        block = decode_block(decode_uint(value))
        if block is not None:
            text = f"{block.number}, {block.size} bytes{', more to come' if block.more else ''}"
    elif definition is not None and definition.format == FORMAT_UINT:
        text = str(decode_uint(value))
    elif definition is not None and definition.format == FORMAT_STRING:
        text = printable(value.decode(errors="replace"))
    elif definition is not None and definition.format == FORMAT_EMPTY and not value:
        return option_name(number)
    return f"{option_name(number)}: {text}"


def link_table(links: Sequence[Link]) -> list[str]:
    """Return a table of links: the path and, where any link has them, type, interface, formats and title."""
    names = [name for name in _COLUMNS if any(link.get(name) for link in links)]
    rows = [["path", *names]]
    rows += [[printable(link.target), *(printable(link.get(name) or "") for name in names)] for link in links]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def printable(text: str) -> str:
    """Return `text` with what could steer a terminal made visible."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
