"""What the operator's commands print: tables, sizes and times for people, the server's own JSON for programs.

Text that comes from the fleet is shown with what could steer a terminal made visible.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Optional, TextIO

from fleet.errors import InvalidError
from fleet.model.formats import JSON, decode, encode
from fleet.model.times import ms_from_iso

_UNITS = ("KiB", "MiB", "GiB", "TiB")
_SIZES = frozenset({"bytes", "memory", "disk", "resident", "quota"})  # words in names of what is a number of bytes
_REDRAWN_EVERY = 0.1  # seconds


def print_document(payload: bytes) -> None:
    """Print JSON byte for byte, whatever the terminal's encoding."""
    sys.stdout.flush()
    sys.stdout.buffer.write(payload + b"\n")
    sys.stdout.buffer.flush()


def merged(pages: Sequence[bytes], field: str) -> bytes:
    """The pages of a list as one document without a `next`; a single page is left as it came."""
    if len(pages) == 1:
        return pages[0]
    documents = [decode(page, JSON, dict[str, Any]) for page in pages]
    whole = documents[-1]
    parts = [document[field] for document in documents]
    if isinstance(parts[0], dict):
        whole[field] = {name: value for part in parts for name, value in part.items()}
    else:
        whole[field] = [item for part in parts for item in part]
    return encode(whole)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as they need to be; those whose header begins with ">" are aligned to the right."""
    cells = [[title.lstrip(">") for title in header], *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    is_right = [title.startswith(">") for title in header]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(row, widths, is_right)
        ).rstrip()
        for row in cells
    )


def outline(document: Mapping[str, Any], indent: int = 0) -> str:
    """A document of any shape as a line for each value, what is nested indented below its name."""
    width = max((len(name) for name in document), default=0)
    lines = []
    for name, value in document.items():
        label = " " * indent + printable(name).replace("_", " ")
        if isinstance(value, dict) and value:
            lines += [label, outline(value, indent + 2)]
        else:
            lines.append(f"{label.ljust(indent + width)}  {_scalar(name, value)}".rstrip())
    return "\n".join(lines)


def printable(text: str) -> str:
    """`text` on one line, with what could steer a terminal made visible."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def human_size(size: int) -> str:
    """A number of bytes for people: `999 B`, `1.4 MiB`."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in _UNITS:
        value /= 1024
        if value < 1023.95 or unit == _UNITS[-1]:
            break
    return f"{value:.1f} {unit}"


def share(done: int, total: Optional[int]) -> str:
    """How much of a number of bytes is done: `45 % of 1.4 MiB`; empty where nothing is to be done."""
    if not total:
        return human_size(done) if done else ""
    return f"{min(done * 100 // total, 100)} % of {human_size(total)}"


def local_time(moment: Optional[str]) -> str:
    """A time of the wire in this machine's zone; what cannot be read as one is shown as it came."""
    at = _moment(moment)
    return at.strftime("%Y-%m-%d %H:%M:%S %Z") if at is not None else moment or "never"


def counts_text(counts: Mapping[str, int]) -> str:
    """How many of each: `2 succeeded, 1 failed`."""
    return ", ".join(f"{count} {printable(state)}" for state, count in counts.items() if count)


def age(moment: Optional[str], now: datetime) -> str:
    """How long ago a time of the wire was: `12 s ago`.

    It is the server's clock that set it. Where that runs ahead of this machine's, or it was more than a day ago, the
    time itself is shown.
    """
    at = _moment(moment)
    if at is None:
        return moment or "never"
    seconds = (now - at).total_seconds()
    if not -1 < seconds < 86_400:
        return local_time(moment)
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return f"{max(int(seconds), 0)} s ago"


class Progress:
    """One line about a transfer that redraws itself on a terminal; elsewhere nothing is shown.

    That a transfer begins anew is said wherever it is.
    """

    def __init__(self, label: str, total: int, stream: TextIO) -> None:
        self._label = printable(label)
        self._total = total
        self._stream = stream
        self._is_shown = stream.isatty()
        self._started_at = self._drawn_at = time.monotonic()
        self._began_with: Optional[int] = None
        self._done = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def at(self, done: int) -> None:
        """Say that `done` bytes are there."""
        if self._began_with is None:
            self._began_with = self._done = done
        if done < self._done:
            self._began_with = done
            self._started_at = time.monotonic()
            end = "\r\x1b[K" if self._is_shown else ""
            self._stream.write(f"{end}{self._label}: what was there is gone; it begins anew\n")
        self._done = done
        now = time.monotonic()
        if not self._is_shown or now < self._drawn_at + _REDRAWN_EVERY:
            return
        self._drawn_at = now
        rate = human_size(int((done - self._began_with) / (now - self._started_at)))
        self._stream.write(f"\r\x1b[K{self._label}  {share(done, self._total)}  {rate}/s")
        self._stream.flush()


def _moment(moment: Optional[str]) -> Optional[datetime]:
    """A time of the wire in this machine's zone; None for what is none, or none that this machine can show."""
    if moment is None:
        return None
    try:
        return datetime.fromtimestamp(ms_from_iso(moment) / 1000, timezone.utc).astimezone()
    except (InvalidError, OverflowError, ValueError, OSError):
        return None


def _scalar(name: str, value: Any) -> str:
    if value is None or value in ([], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_scalar(name, item) for item in value)
    if isinstance(value, int) and not _SIZES.isdisjoint(name.split("_")):
        return human_size(value)
    if isinstance(value, str) and (name.endswith("_at") or name in ("time", "last_seen")):
        return local_time(value)
    return printable(str(value))
