"""Reading pcap and pcapng files: packets as they were recorded, each with its number, time and link type.

Both formats in both byte orders, pcap with microseconds or nanoseconds, pcapng with several sections and interfaces
(draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng). Frame numbers count from 1, as Wireshark's do.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

LARGEST_FILE = 1 << 30  # bytes, unpacked
LARGEST_PACKET = 1 << 20  # bytes; a file that says more is damaged

_PCAP = {
    b"\xa1\xb2\xc3\xd4": (">", 1e-6),
    b"\xd4\xc3\xb2\xa1": ("<", 1e-6),
    b"\xa1\xb2\x3c\x4d": (">", 1e-9),
    b"\x4d\x3c\xb2\xa1": ("<", 1e-9),
}
_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _PACKET = 0x0A0D0D0A, 1, 2, 3, 6
_RESOLUTION = 9  # the option if_tsresol
_OFFSET = 14  # the option if_tsoffset


class CaptureError(Exception):
    """The file cannot be read as a capture; the text says which file and why."""


class Packet(NamedTuple):
    """A packet: `number` in its file, `at` in seconds since 1970, `link_type` as in the registry of LINKTYPE_ values.

    `data` is what was kept of it, `length` how long it was.
    """

    number: int
    at: float
    link_type: int
    data: bytes
    length: int


class _Interface(NamedTuple):
    link_type: int
    resolution: float  # seconds a unit
    offset: int  # seconds
    snaplen: int


def read(path: str) -> Iterator[Packet]:
    """Return the packets of a file, which may be packed by gzip.

    Raises CaptureError for what is no capture, before the first packet or where it breaks off; OSError for what cannot
    be read.
    """
    data = _content(path)
    if not data:
        raise CaptureError(f"{path} is empty: not even a capture without packets")
    if data[:4] in _PCAP:
        return _read_pcap(path, data)
    if data[:4] == b"\x0a\x0d\x0d\x0a":
        return _read_pcapng(path, data)
    raise CaptureError(f"{path} is no capture: it begins as neither pcap nor pcapng does ({data[:4].hex()})")


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if is_packed else open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CaptureError(f"{path} is no capture: it cannot be unpacked ({error})") from error
    if len(data) > LARGEST_FILE:
        raise CaptureError(f"{path} has more than {LARGEST_FILE >> 20} MiB: split it (editcap -c)")
    return data


def _read_pcap(path: str, data: bytes) -> Iterator[Packet]:
    order, unit = _PCAP[data[:4]]
    if len(data) < 24:
        raise CaptureError(f"{path} ends within its header")
    major, link_type = struct.unpack_from(order + "4xH14xI", data)
    if major != 2:
        raise CaptureError(f"{path} is of version {major} of the pcap format, which is not known")
    offset, number = 24, 0
    while offset < len(data):
        number += 1
        if offset + 16 > len(data):
            raise CaptureError(f"{path} ends within frame {number}")
        seconds, fraction, kept, length = struct.unpack_from(order + "IIII", data, offset)
        offset += 16
        if kept > LARGEST_PACKET or offset + kept > len(data):
            raise CaptureError(f"{path} ends within frame {number}, or is damaged there")
        packet = data[offset : offset + kept]
        offset += kept
        yield Packet(number, seconds + fraction * unit, link_type & 0x03FFFFFF, packet, length)


def _read_pcapng(path: str, data: bytes) -> Iterator[Packet]:
    order, offset, number = "<", 0, 0
    interfaces: list[_Interface] = []
    while offset < len(data):
        if offset + 12 > len(data):
            raise CaptureError(f"{path} ends within a block after frame {number}")
        (kind,) = struct.unpack_from(order + "I", data, offset)
        if kind == _SECTION:
            order = ">" if data[offset + 8 : offset + 12] == b"\x1a\x2b\x3c\x4d" else "<"
            interfaces = []
        (length,) = struct.unpack_from(order + "I", data, offset + 4)
        if length < 12 or length % 4 or offset + length > len(data):
            raise CaptureError(f"{path} ends within a block after frame {number}, or is damaged there")
        body = data[offset + 8 : offset + length - 4]
        offset += length
        if kind not in (_INTERFACE, _PACKET, _SIMPLE_PACKET, _OLD_PACKET):
            continue
        try:
            if kind == _INTERFACE:
                interfaces.append(_interface(body, order))
                continue
            number += 1
            yield _packet(kind, number, body, order, interfaces)
        except (struct.error, IndexError) as error:
            raise CaptureError(f"{path} is damaged at or after frame {number}") from error


def _interface(body: bytes, order: str) -> _Interface:
    link_type, snaplen = struct.unpack_from(order + "HxxI", body)
    resolution, shift = 1e-6, 0
    for code, value in _options(body[8:], order):
        if code == _RESOLUTION and value:
            resolution = 2.0 ** -(value[0] & 0x7F) if value[0] & 0x80 else 10.0 ** -value[0]
        if code == _OFFSET and len(value) == 8:
            (shift,) = struct.unpack(order + "q", value)
    return _Interface(link_type, resolution, shift, snaplen)


def _options(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(data):
        code, length = struct.unpack_from(order + "HH", data, offset)
        if code == 0:
            return
        yield code, data[offset + 4 : offset + 4 + length]
        offset += 4 + (length + 3 & ~3)


def _packet(kind: int, number: int, body: bytes, order: str, interfaces: list[_Interface]) -> Packet:
    if kind == _SIMPLE_PACKET:
        (length,) = struct.unpack_from(order + "I", body)
        interface = interfaces[0]
        kept = min(length, interface.snaplen or length, len(body) - 4)
        return Packet(number, 0.0, interface.link_type, body[4 : 4 + kept], length)
    layout = "IIIII" if kind == _PACKET else "HxxIIII"
    index, high, low, kept, length = struct.unpack_from(order + layout, body)
    interface = interfaces[index]
    at = (high << 32 | low) * interface.resolution + interface.offset
    return Packet(number, at, interface.link_type, body[20 : 20 + kept], length)
