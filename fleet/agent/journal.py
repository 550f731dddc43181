"""The agent's memory across power cuts: an append-only file of records, each with its length and its CRC.

A record is a header of two little-endian 32-bit numbers, the length of the payload and the CRC-32 of that length and
the payload (so that zeros are no record), then the payload: one JSON object of `fleet.agent.machine.Record`.

What a power cut leaves at the end of such a file is any prefix of what was appended since the last fsync, or, on file
systems that grow a file before they fill it, zeros. Neither passes the check, so opening the file keeps the records up
to the first bad one and truncates the rest: an append that goes behind a torn tail would be lost with it at the next
start. A bad record with more data behind it is no power cut but a damaged disk; nothing behind it can be trusted
either, since each record only makes sense after those before it.

A full disk must not stop a job half-way: a small file beside the journal is given up the first time an append finds
no space, and is made anew when the journal is rewritten at the end of the job.
"""

from __future__ import annotations

import errno
import logging
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Optional

import msgspec

from fleet.agent.machine import Record

if TYPE_CHECKING:
    from fleet.host.files import Files

RESERVE_BYTES = 64 * 1024
"""Size of the file that is given up when the disk is full: enough for every record that a job still has to write."""

_HEADER = struct.Struct("<II")
_LENGTH = struct.Struct("<I")
_log = logging.getLogger(__name__)
_decoder = msgspec.json.Decoder(Record)


class Journal:
    """The file of records at `path`; `open` it once, then append.

    Every method lets an OSError of the disk pass to the caller, and leaves the file and this object as if the call
    had not been made, so that the same call may be tried again.
    """

    def __init__(self, files: Files, path: str) -> None:
        self._files = files
        self._path = path
        self._reserve_path = path + ".reserve"
        self._size = 0

    def open(self) -> list[Record]:
        """Return the records of earlier lives, oldest first, having cut off what a crash left behind them."""
        records: list[Record] = []
        if self._files.size(self._path):
            data = self._files.read(self._path)
            records, self._size = _parse(data)
            if self._size < len(data):
                self._say_what_is_dropped(data)
                self._files.truncate(self._path, self._size)
            self._files.fsync(self._path)  # after a kill, records may be in the file and not yet on the disk
        self._keep_reserve()
        return records

    def append(self, record: Record, sync: bool) -> None:
        """Write one record behind the others; with `sync` it is on the disk, with all before it, on return.

        Raises OSError: ENOSPC once the reserve is used up too. The record is not in the journal then.
        """
        frame = _frame(record)
        try:
            self._with_reserve(lambda: self._files.append(self._path, frame))
            if sync:
                self._files.fsync(self._path)
        except OSError:
            self._cut_back()
            raise
        self._size += len(frame)

    def is_sound(self) -> bool:
        """Whether the disk still takes the journal: it is asked to, and nothing is written."""
        try:
            if self._files.size(self._path) is not None:
                self._files.fsync(self._path)
        except OSError as error:
            _log.error("%s: %s", self._path, error)
            return False
        return True

    def rewrite(self, records: Sequence[Record]) -> None:
        """Replace the whole file by these records: durable on return, and after a crash either the old or the new."""
        data = b"".join(_frame(record) for record in records)
        self._with_reserve(lambda: self._files.replace(self._path, data))
        self._size = len(data)
        self._keep_reserve()

    def _with_reserve(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            if error.errno != errno.ENOSPC or self._files.size(self._reserve_path) is None:
                raise
            _log.warning("%s: the disk is full, the space kept in reserve is used now", self._path)
            self._files.remove(self._reserve_path)
            self._cut_back()
            write()

    def _cut_back(self) -> None:
        """Take away what a failed write left: a full disk takes the first half of a record."""
        if self._files.size(self._path) is not None:
            self._files.truncate(self._path, self._size)

    def _keep_reserve(self) -> None:
        if self._files.size(self._reserve_path) is not None:
            return
        try:
            self._files.replace(self._reserve_path, bytes(RESERVE_BYTES))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            _log.warning("%s: the disk is full, no space is kept in reserve", self._path)

    def _say_what_is_dropped(self, data: bytes) -> None:
        """A power cut leaves one bad record with nothing or zeros behind it; anything else is worth a warning."""
        rest = len(data) - self._size
        length = _HEADER.unpack_from(data, self._size)[0] if rest >= _HEADER.size else 0
        if any(data[self._size + _HEADER.size + length :]):
            _log.warning("%s: damaged at byte %d, %d bytes from there on dropped", self._path, self._size, rest)
        else:
            _log.info("%s: %d bytes of an unfinished record dropped", self._path, rest)


def _frame(record: Record) -> bytes:
    payload = msgspec.json.encode(record)
    length = _LENGTH.pack(len(payload))
    return length + _LENGTH.pack(zlib.crc32(payload, zlib.crc32(length))) + payload


def _parse(data: bytes) -> tuple[list[Record], int]:
    """Return the records up to the first bad one, and the offset at which they end."""
    records: list[Record] = []
    offset = 0
    while True:
        payload = _payload_at(data, offset)
        if payload is None:
            return records, offset
        try:
            records.append(_decoder.decode(payload))
        except msgspec.DecodeError:  # written by a version that knew more: what it meant cannot be guessed
            return records, offset
        offset += _HEADER.size + len(payload)


def _payload_at(data: bytes, offset: int) -> Optional[bytes]:
    if len(data) - offset < _HEADER.size:
        return None
    length, checksum = _HEADER.unpack_from(data, offset)
    start = offset + _HEADER.size
    payload = data[start : start + length]
    if len(payload) < length:
        return None
    if zlib.crc32(payload, zlib.crc32(data[offset : offset + _LENGTH.size])) != checksum:
        return None
    return payload
