"""What the command line prints: responses, options and tables, as text for people."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Sequence
from typing import Any, Optional, TextIO

from minicoap.codec.codes import code_name, code_text
from minicoap.codec.contentformats import content_format_name
from minicoap.codec.linkformat import Link
from minicoap.codec.options import option_name
from minicoap.core.body import TransferState
from minicoap.core.description import option_text, option_value, printable
from minicoap.core.request import Response

_COLUMNS = ("rt", "if", "ct", "sz", "obs", "title")  # of `discover`, besides the path


def status_lines(response: Response) -> list[str]:
    """Return the code, and below it a line for each option."""
    return [code_name(response.code), *(f"  {option_text(number, value)}" for number, value in response.options.items)]


def response_document(response: Response, uri: str) -> dict[str, Any]:
    """Return a response for programs: its payload as `text` if it is UTF-8, else in base64 as `data`."""
    document: dict[str, Any] = {
        "uri": uri,
        "code": code_text(response.code),
        "name": code_name(response.code),
        "options": [
            {"number": number, "name": option_name(number), "value": option_value(number, value)}
            for number, value in response.options.items
        ],
    }
    try:
        document["text"] = response.body.decode()
    except UnicodeDecodeError:
        document["data"] = b64encode(response.body).decode()
    return document


def link_document(link: Link, uri: str) -> dict[str, Any]:
    """Return a link that `uri` answered with, for programs; an attribute without value is null."""
    return {"uri": uri, "target": link.target, "attributes": [list(attribute) for attribute in link.attributes]}


def link_table(links: Sequence[tuple[str, Link]]) -> list[str]:
    """Return a table of links: the path and, where any link has them, type, interface, formats, size and title.

    Before each link stands who answered with it, where that is not the same for all and empty.
    """
    names = [name for name in _COLUMNS if any(name in dict(link.attributes) for _, link in links)]
    members = ["member"] if any(member for member, _ in links) else []
    rows = [[*members, "path", *names]]
    for member, link in links:
        cells = [printable(link.target), *(printable(_cell(link, name)) for name in names)]
        rows.append([member, *cells] if members else cells)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def _cell(link: Link, name: str) -> str:
    """An attribute as people read it: formats by name, a mark where it is there and has no value."""
    attributes = dict(link.attributes)
    if name not in attributes:
        return ""
    value = attributes[name]
    if name == "ct" and value is not None:
        return " ".join(_format_name(word) for word in value.split())
    return "yes" if value is None else value


def _format_name(word: str) -> str:
    """A format without what most have in common; a number without a name as it is."""
    if not (word.isascii() and word.isdigit()) or len(word) > 5:
        return word
    name = content_format_name(int(word))
    return word if name.startswith("Content-Format ") else name.partition(";")[0].removeprefix("application/")


class ProgressLine:
    """A line of a terminal that says how far a transfer is; where `stream` is none, only that one begins anew.

    An instance is what `Endpoint.download` takes as `progress`, and a context manager that ends the line.
    """

    INTERVAL = 0.1  # seconds between two changes of the line

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_shown = stream.isatty()
        self._done = 0
        self._began_at = time.monotonic()
        self._began_with: Optional[int] = None
        self._shown_at: Optional[float] = None
        self._width = 0

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._width:
            self._stream.write("\n")
            self._stream.flush()

    def __call__(self, state: TransferState, size: Optional[int]) -> None:
        """Show it, if it has not just been shown."""
        now = time.monotonic()
        if state.offset < self._done:
            self._stream.write(("\n" if self._width else "") + "what was there is gone; it begins anew\n")
            self._began_with, self._began_at, self._width = None, now, 0
        self._done = state.offset
        if not self._is_shown:
            return
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
