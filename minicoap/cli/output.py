"""What the command line prints: responses, options and tables, as text for people."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Optional, TextIO

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
    Q_BLOCK1,
    Q_BLOCK2,
    decode_uint,
    option_name,
)
from minicoap.core.body import TransferState, decode_block
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
    elif number in (BLOCK1, BLOCK2, Q_BLOCK1, Q_BLOCK2):
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


class ProgressLine:
    """A line of a terminal that says how far a transfer is; nothing at all where `stream` is no terminal.

    An instance is what `Endpoint.download` takes as `progress`, and a context manager that ends the line.
    """

    INTERVAL = 0.1  # seconds between two changes of the line

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream if stream.isatty() else None
        self._began_at = time.monotonic()
        self._began_with: Optional[int] = None
        self._shown_at: Optional[float] = None
        self._width = 0

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None and self._width:
            self._stream.write("\n")
            self._stream.flush()

    def __call__(self, state: TransferState, size: Optional[int]) -> None:
        """Show it, if it has not just been shown."""
        if self._stream is None:
            return
        now = time.monotonic()
        if self._began_with is None:
            self._began_with = state.offset
        if self._shown_at is not None and now < self._shown_at + self.INTERVAL and state.offset != size:
            return
        self._shown_at = now
        text = progress_text(state.offset, size, state.offset - self._began_with, now - self._began_at)
        self._stream.write("\r" + text.ljust(self._width))
        self._stream.flush()
        self._width = len(text)


def progress_text(done: int, size: Optional[int], moved: int, seconds: float) -> str:
    """Return how far a transfer is, and how fast `moved` bytes went in `seconds`."""
    text = f"{done * 100 // size:3} %  {_bytes(done)} of {_bytes(size)}" if size else _bytes(done)
    return f"{text}  {_bytes(int(moved / seconds))}/s" if seconds > 0 else text


def _bytes(count: int) -> str:
    """Return a number of bytes with a unit that suits it."""
    if count < 10_000:
        return f"{count} B"
    if count < 10_000 * 1024:
        return f"{count / 1024:.0f} KiB"
    return f"{count / 1024 / 1024:.1f} MiB"
