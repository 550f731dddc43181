"""Records and messages of the pretended DTLS, laid out as in RFC 6347."""

from __future__ import annotations

from hashlib import blake2b
from typing import Optional

from minicoap.security.hello import RECORD_HEADER

VERSION = b"\xfe\xfd"
TAG = 16  # bytes
_VERSIONS = (VERSION + b"\0", b"\xfe\xff\0\0")  # and that of a request for a cookie, which is never protected
_WINDOW = 64  # records (RFC 6347 §4.1.2.6)


class Window:
    """Which of the last records were accepted, so that none is twice (RFC 6347 §4.1.2.6)."""

    __slots__ = ("_newest", "_seen")

    def __init__(self) -> None:
        self._newest = -1
        self._seen = 0  # of the 64 up to that, as bits

    def admits(self, number: int) -> bool:
        """Whether a record was not accepted before, and is not too old for that to be known."""
        if number > self._newest:
            self._seen = (self._seen << (number - self._newest) | 1) & ((1 << _WINDOW) - 1)
            self._newest = number
            return True
        age = self._newest - number
        if age >= _WINDOW or self._seen >> age & 1:
            return False
        self._seen |= 1 << age
        return True


def digest(key: bytes, data: bytes) -> bytes:
    """Return a keyed hash."""
    return blake2b(data, key=key, digest_size=TAG).digest()


def tag(key: bytes, content: int, number: int, data: bytes) -> bytes:
    """Return what proves that a record is the session's."""
    return digest(key, b"%d/%d/%b" % (content, number, data))


def record_of(content: int, epoch: int, number: int, data: bytes) -> bytes:
    """Return a record (RFC 6347 §4.1)."""
    header = bytes((content,)) + VERSION + epoch.to_bytes(2, "big") + number.to_bytes(6, "big")
    return header + len(data).to_bytes(2, "big") + data


def split(datagram: bytes) -> list[bytes]:
    """Return the records of a datagram, up to the first that is none."""
    records: list[bytes] = []
    at = 0
    while at + RECORD_HEADER <= len(datagram) and datagram[at + 1 : at + 5].startswith(_VERSIONS):
        end = at + RECORD_HEADER + int.from_bytes(datagram[at + 11 : at + 13], "big")
        if end > len(datagram) or datagram[at + 4] > 1:
            break
        records.append(datagram[at:end])
        at = end
    return records


def message_of(kind: int, number: int, body: bytes) -> bytes:
    """A handshake message, never in fragments."""
    length = len(body).to_bytes(3, "big")
    return bytes((kind,)) + length + number.to_bytes(2, "big") + b"\0\0\0" + length + body


def pack(*fields: bytes) -> bytes:
    """Return fields with their lengths."""
    return b"".join(len(field).to_bytes(2, "big") + field for field in fields)


def unpack(data: bytes) -> Optional[list[bytes]]:
    """Return the fields; None if it is not whole."""
    fields: list[bytes] = []
    while data:
        length = int.from_bytes(data[:2], "big")
        if len(data) < 2 + length:
            return None
        fields.append(data[2 : 2 + length])
        data = data[2 + length :]
    return fields
