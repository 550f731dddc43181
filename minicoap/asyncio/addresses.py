"""From a host and a port to the address that a socket takes, in the very form in which the socket reports it."""

from __future__ import annotations

import socket
from asyncio import AbstractEventLoop
from typing import Optional

from minicoap.core.request import Path
from minicoap.errors import PathError, UsageError


async def resolve(host: str, port: int, family: int, loop: AbstractEventLoop) -> Path:
    """Return where `host` is, the first of `resolve_all`."""
    return (await resolve_all(host, port, family, loop))[0]


async def resolve_all(host: str, port: int, family: int, loop: AbstractEventLoop) -> list[Path]:
    """Return where `host` may be, best first, for a socket of `family`.

    An IPv6 socket reaches IPv4 as ::ffff:192.0.2.7. Addresses are not looked up; of a name's addresses those come back
    that are of a family that the socket can reach, in the order of RFC 6724. Raises PathError where a name has none,
    UsageError for an address of a family that the socket cannot reach.
    """
    literal = parse_literal(host, port, family)
    if literal is not None:
        return [literal]
    wanted = socket.AF_INET if family == socket.AF_INET else socket.AF_UNSPEC
    found = await _look_up(host, port, wanted, loop)
    addresses = [address if kind == family else mapped(address) for kind, address in found]
    return list(dict.fromkeys(addresses))


async def resolve_local(host: str, port: int, loop: AbstractEventLoop) -> tuple[int, Path]:
    """Return the family and the address to bind for serving at `host`, an address or a name of this machine.

    Raises PathError where a name has no address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    literal = parse_literal(host, port, family)
    if literal is not None:
        return family, literal
    return (await _look_up(host, port, socket.AF_UNSPEC, loop))[0]


def parse_literal(host: str, port: int, family: int) -> Optional[Path]:
    """Return the address that `host` spells, for a socket of `family`; None if it is a name."""
    if ":" not in host:
        try:
            text = socket.inet_ntop(socket.AF_INET, socket.inet_pton(socket.AF_INET, host))
        except OSError:
            return None
        return (text, port) if family == socket.AF_INET else mapped((text, port))
    address, percent, zone = host.partition("%")
    try:
        text = socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, address))
    except OSError:
        raise UsageError(f"{host!r} is not an IPv6 address") from None
    if family != socket.AF_INET6:
        raise UsageError(f"{host!r} cannot be reached from an IPv4 socket")
    return (text, port, 0, _scope(zone) if percent else 0)


async def _look_up(host: str, port: int, family: int, loop: AbstractEventLoop) -> list[tuple[int, Path]]:
    try:
        found = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise PathError(f"no address for host {host!r}: {error.strerror}", error) from error
    if not found:
        raise PathError(f"no address for host {host!r}", OSError("getaddrinfo returned nothing"))
    return [(entry[0], tuple(entry[4])) for entry in found]


def mapped(address: Path) -> Path:
    """Return an IPv4 address as an IPv6 socket has it."""
    return (f"::ffff:{address[0]}", address[1], 0, 0)


def _scope(zone: str) -> int:
    if zone.isascii() and zone.isdigit():
        return int(zone)
    try:
        return socket.if_nametoindex(zone)
    except OSError:
        raise UsageError(f"there is no network interface {zone!r}") from None
