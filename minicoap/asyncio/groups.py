"""Multicast: sockets that belong to a group, and the interface that requests to groups leave by (RFC 7252 §8).

A socket bound to the group's own address gets what is sent to the group and nothing else, so what arrives there is
known to be multicast. Answers leave from the endpoint's other socket, which has a unicast address.
"""

from __future__ import annotations

import socket
import struct
from typing import Optional

from minicoap.errors import UsageError

# Linux numbers that the socket module lacks (linux/in.h, linux/in6.h).
_IP_MULTICAST_ALL = 49
_IPV6_MULTICAST_ALL = 29
_MREQN = struct.Struct("=4s4si")  # group, local address, interface
_MREQ6 = struct.Struct("=16sI")  # group, interface


def is_group(host: str) -> bool:
    """Whether `host` spells a multicast address."""
    address, _, _ = host.partition("%")
    try:
        if ":" in address:
            return socket.inet_pton(socket.AF_INET6, address)[0] == 0xFF
        return 224 <= socket.inet_pton(socket.AF_INET, address)[0] <= 239
    except OSError:
        return False


def interface_index(name: Optional[str]) -> int:
    """Return the number of an interface, 0 for whichever the routing table has; raises UsageError if it is missing."""
    if name is None:
        return 0
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise UsageError(f"there is no network interface {name!r}") from None


def open_group_socket(group: str, port: int, interface: int, main: socket.socket) -> socket.socket:
    """Return a non-blocking socket that is a member of `group` on `interface`, beside the endpoint's `main` socket.

    Other programs of this host may be members too. Raises OSError.
    """
    family = socket.AF_INET6 if ":" in group else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        packed = socket.inet_pton(family, group)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            address: tuple[object, ...] = (group, port, 0, interface)
        else:
            address = (group, port)
        _bind_beside(sock, address, main)
        _only_own_groups(main)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, _MREQ6.pack(packed, interface))
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, _MREQN.pack(packed, bytes(4), interface))
    except OSError:
        sock.close()
        raise
    return sock


def send_by(sock: socket.socket, interface: int) -> None:
    """Have what `sock` sends to groups leave by `interface`. Raises OSError."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, interface)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, _MREQN.pack(bytes(4), bytes(4), interface))


def _bind_beside(sock: socket.socket, address: tuple[object, ...], main: socket.socket) -> None:
    """Bind though `main` may have the port on all addresses; it allows that for this moment only."""
    main.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(address)
    finally:
        main.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)


def _only_own_groups(main: socket.socket) -> None:
    """Keep the main socket from hearing as unicast what is sent to the groups of others (Linux would have it so)."""
    try:
        main.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        if main.family == socket.AF_INET6:
            main.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
    except OSError:  # another system, which has no such habit
        pass
