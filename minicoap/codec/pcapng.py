"""The file format pcapng, for writing: what was said, for Wireshark and others to read.

A file is `section`, `interface` and any number of `packet`, one behind the other; as much of it as ends with a whole
block is a file too. Packets of the link type RAW begin with their IP header, which `datagram` makes for what went
through a UDP socket (draft-ietf-opsawg-pcapng).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from struct import pack
from typing import Any, Union

RAW = 101
"""The link type of packets that begin with their IP header."""

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_COMMENT, _APPLICATION, _NAME, _RESOLUTION = 1, 4, 2, 9
_MICROSECONDS = b"\x06"
_UDP = 17
_LARGEST = 65_535  # bytes: what the length field of an IPv4 header can say

Address = tuple[Any, ...]
"""A socket address: host and port first."""


def section(application: str) -> bytes:
    """Return the beginning of a file, which names the program that wrote it."""
    head = pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)
    return _block(_SECTION, head + _options((_APPLICATION, application.encode())))


def interface(name: str, link_type: int = RAW) -> bytes:
    """Return the description of the interface that the following packets belong to."""
    head = pack("<HHI", link_type, 0, 0)
    return _block(_INTERFACE, head + _options((_NAME, name.encode()), (_RESOLUTION, _MICROSECONDS)))


def packet(at: float, data: bytes, comment: str = "") -> bytes:
    """Return a packet, `at` in seconds since 1970."""
    micros = round(at * 1_000_000)
    head = pack("<IIIII", 0, micros >> 32, micros & 0xFFFFFFFF, len(data), len(data))
    return _block(_PACKET, head + _padded(data) + (_options((_COMMENT, comment.encode())) if comment else b""))


def datagram(source: Address, destination: Address, data: bytes) -> bytes:
    """Return a UDP datagram with headers of IP and UDP, the checksums right.

    The addresses are those of sockets; one of IPv4 that an IPv6 socket shows (::ffff:192.0.2.1) is taken for what it
    is, and a name, which has no place in a header, for 0.0.0.0. Data that no datagram has room for is cut.
    """
    here, there = _ip(source[0]), _ip(destination[0])
    if here.version != there.version:
        here, there = _mapped(here), _mapped(there)
    data = data[: _LARGEST - 48]
    udp = pack("!HHHH", source[1], destination[1], 8 + len(data), 0) + data
    pseudo = here.packed + there.packed + pack("!IxxxB", len(udp), _UDP)
    checksum = _checksum(pseudo + udp) or 0xFFFF
    udp = udp[:6] + pack("!H", checksum) + data
    if here.version == 6:
        return pack("!IHBB", 6 << 28, len(udp), _UDP, 64) + here.packed + there.packed + udp
    head = pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0x4000, 64, _UDP, 0) + here.packed + there.packed
    return head[:10] + pack("!H", _checksum(head)) + head[12:] + udp


def _ip(host: str) -> Union[IPv4Address, IPv6Address]:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return IPv4Address(0)
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _mapped(address: Union[IPv4Address, IPv6Address]) -> IPv6Address:
    if isinstance(address, IPv6Address):
        return address
    return IPv6Address(0) if not int(address) else IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071): the carry may be added last, for 2^16 is 1 modulo 2^16 - 1."""
    total = int.from_bytes(data + b"\0" * (len(data) % 2), "big") % 0xFFFF
    return 0xFFFF - total if total or not any(data) else 0


def _options(*items: tuple[int, bytes]) -> bytes:
    return b"".join(pack("<HH", code, len(value)) + _padded(value) for code, value in items) + b"\0\0\0\0"


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def _block(kind: int, body: bytes) -> bytes:
    length = pack("<I", 12 + len(body))
    return pack("<I", kind) + length + body + length
