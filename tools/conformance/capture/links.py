"""From a packet to the UDP datagram in it: Ethernet and VLAN, Linux's cooked captures, raw IP, loopback, 802.15.4.

Fragments of IPv4 and IPv6 are put together. What is no UDP datagram, or not all there, is None: captures are full of
other things. IEEE 802.15.4 is left to scapy, whose 6LoWPAN layer decompresses headers (RFC 6282).
"""

from __future__ import annotations

import ipaddress
import struct
from collections import OrderedDict
from typing import NamedTuple, Optional

from tools.conformance.capture.files import Packet

Address = tuple[str, int]

NULL, ETHERNET, RAW, LOOP, LINUX_COOKED, IPV4, IPV6, LINUX_COOKED_2 = 0, 1, 101, 108, 113, 228, 229, 276
_RAW_AS_FILED = (12, 14)  # DLT_RAW of some systems
IEEE802_15_4 = (195, 230)  # with FCS, and without

_IPV4, _IPV6 = 0x0800, 0x86DD
_VLANS = (0x8100, 0x88A8, 0x9100)
_PPPOE = 0x8864
_UDP = 17
_FAMILIES_OF_IPV6 = (10, 24, 28, 30)  # AF_INET6 of Linux, NetBSD, FreeBSD, macOS
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION = 0, 43, 44, 60
_FRAGMENTED_AT_ONCE = 256  # packets being put together


class Datagram(NamedTuple):
    """A UDP datagram: `number` is the frame that completed it, `at` when that was seen, in seconds since 1970."""

    number: int
    at: float
    source: Address
    destination: Address
    data: bytes


class _Fragmented(Exception):
    """The frame is a part of a packet only, of which scapy does not make a whole one."""


class Dissector:
    """Finds datagrams in packets, one after the other in the order of the capture."""

    def __init__(self) -> None:
        self._fragments: OrderedDict[tuple[object, ...], dict[int, tuple[bytes, bool]]] = OrderedDict()
        self.unreadable: dict[str, int] = {}
        """What was met and cannot be read, with how often."""

    def datagram(self, packet: Packet) -> Optional[Datagram]:
        """Return the datagram that a packet holds or completes."""
        try:
            ip = self._network_layer(packet)
            return None if ip is None else self._internet(packet, ip)
        except (struct.error, IndexError, ValueError):
            self._count("packets that break off within their headers")
            return None

    def _count(self, what: str) -> None:
        self.unreadable[what] = self.unreadable.get(what, 0) + 1

    def _network_layer(self, packet: Packet) -> Optional[bytes]:
        kind, data = packet.link_type, packet.data
        if kind in (RAW, IPV4, IPV6, *_RAW_AS_FILED):
            return data
        if kind in (NULL, LOOP):
            family = data[:4]
            if 2 in (family[0], family[3]) or family[0] in _FAMILIES_OF_IPV6 or family[3] in _FAMILIES_OF_IPV6:
                return data[4:]
            return None
        if kind == ETHERNET:
            return _above(data, 12)
        if kind == LINUX_COOKED:
            return _above(data, 14)
        if kind == LINUX_COOKED_2:
            return _above(data, 0, after=20)
        if kind in IEEE802_15_4:
            try:
                return _sixlowpan(packet)
            except ImportError:
                self._count("packets of IEEE 802.15.4, for which scapy is needed,")
                return None
            except _Fragmented:
                self._count("fragments of 6LoWPAN")
                return None
        self._count(f"packets of link type {kind}")
        return None

    def _internet(self, packet: Packet, ip: bytes) -> Optional[Datagram]:
        if not ip:
            return None
        if ip[0] >> 4 == 4:
            return self._ipv4(packet, ip)
        return self._ipv6(packet, ip) if ip[0] >> 4 == 6 else None

    def _ipv4(self, packet: Packet, ip: bytes) -> Optional[Datagram]:
        head = (ip[0] & 0x0F) * 4
        total, identification, fragment, protocol = struct.unpack_from("!2xHHHxB", ip)
        if protocol != _UDP or head < 20 or total < head:
            return None
        hosts = str(ipaddress.IPv4Address(ip[12:16])), str(ipaddress.IPv4Address(ip[16:20]))
        payload: Optional[bytes] = ip[head:total]
        if total > len(ip):
            self._count("UDP datagrams that were not recorded whole")
            return None
        if fragment & 0x3FFF:
            key = (*hosts, identification)
            payload = self._gather(key, (fragment & 0x1FFF) * 8, payload or b"", bool(fragment & 0x2000))
        return None if payload is None else self._udp(packet, hosts, payload)

    def _ipv6(self, packet: Packet, ip: bytes) -> Optional[Datagram]:
        length, following = struct.unpack_from("!4xHB", ip)
        hosts = str(ipaddress.IPv6Address(ip[8:24])), str(ipaddress.IPv6Address(ip[24:40]))
        if 40 + length > len(ip):
            if following == _UDP:
                self._count("UDP datagrams that were not recorded whole")
            return None
        payload: Optional[bytes] = ip[40 : 40 + length]
        while following != _UDP:
            if payload is None or following not in (_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION):
                return None
            if following == _FRAGMENT:
                inner, where, identification = struct.unpack_from("!BxHI", payload)
                payload = self._gather((*hosts, identification), where & 0xFFF8, payload[8:], bool(where & 1))
            else:
                inner, payload = payload[0], payload[8 + payload[1] * 8 :]
            following = inner
        return None if payload is None else self._udp(packet, hosts, payload)

    def _gather(self, key: tuple[object, ...], offset: int, payload: bytes, more: bool) -> Optional[bytes]:
        """Return the whole payload, once all its fragments came."""
        pieces = self._fragments.setdefault(key, {})
        pieces[offset] = payload, more
        whole = b""
        for at in sorted(pieces):
            if at != len(whole):
                break
            whole += pieces[at][0]
            if not pieces[at][1]:
                del self._fragments[key]
                return whole
        if len(self._fragments) > _FRAGMENTED_AT_ONCE:
            self._fragments.popitem(last=False)
        return None

    def _udp(self, packet: Packet, hosts: tuple[str, str], udp: bytes) -> Optional[Datagram]:
        source, destination, length = struct.unpack_from("!HHH", udp)
        if length < 8 or length > len(udp):
            return None
        return Datagram(packet.number, packet.at, (hosts[0], source), (hosts[1], destination), udp[8:length])


def _above(data: bytes, offset: int, after: Optional[int] = None) -> Optional[bytes]:
    """Return what is above an EtherType at `offset`, VLAN tags and PPPoE skipped."""
    (kind,) = struct.unpack_from("!H", data, offset)
    offset = offset + 2 if after is None else after
    while kind in _VLANS:
        (kind,) = struct.unpack_from("!H", data, offset + 2)
        offset += 4
    if kind == _PPPOE:
        (inner,) = struct.unpack_from("!H", data, offset + 6)
        kind = {0x0021: _IPV4, 0x0057: _IPV6}.get(inner, 0)
        offset += 8
    return data[offset:] if kind in (_IPV4, _IPV6) else None


def _sixlowpan(packet: Packet) -> Optional[bytes]:
    """Return the IPv6 packet of an IEEE 802.15.4 frame, its headers decompressed by scapy; None if it has none."""
    from scapy.config import conf
    from scapy.layers.dot15d4 import Dot15d4, Dot15d4FCS
    from scapy.layers.inet6 import IPv6
    from scapy.layers.sixlowpan import LoWPANFragmentationFirst, LoWPANFragmentationSubsequent

    setattr(conf, "dot15d4_protocol", "sixlowpan")  # noqa: B010  its type says None
    frame = (Dot15d4FCS if packet.link_type == IEEE802_15_4[0] else Dot15d4)(packet.data)
    if LoWPANFragmentationFirst in frame or LoWPANFragmentationSubsequent in frame:
        raise _Fragmented
    layer = frame.getlayer(IPv6)
    return None if layer is None else bytes(layer)
