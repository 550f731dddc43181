"""From a host and a port to the address that a socket takes, names looked up beside the running event loop."""

from __future__ import annotations

import socket
from asyncio import AbstractEventLoop

from minicoap.core.request import Path
from minicoap.shell.addresses import family_to_look_up, for_socket, looked_up, parse_literal, unknown_host


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
    return for_socket(await _look_up(host, port, family_to_look_up(family), loop), family)


async def resolve_local(host: str, port: int, loop: AbstractEventLoop) -> tuple[int, Path]:
    """Return the family and the address to bind for serving at `host`, an address or a name of this machine.

    Raises PathError where a name has no address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    literal = parse_literal(host, port, family)
    if literal is not None:
        return family, literal
    return (await _look_up(host, port, socket.AF_UNSPEC, loop))[0]


async def _look_up(host: str, port: int, family: int, loop: AbstractEventLoop) -> list[tuple[int, Path]]:
    try:
        found = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise unknown_host(host, error) from error
    return looked_up(host, found)
