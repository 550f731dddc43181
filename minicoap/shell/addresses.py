"""From a host and a port to the address that a socket takes, in the very form in which the socket reports it."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, Optional

from minicoap.core.request import Path
from minicoap.errors import PathError, UsageError


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


def looked_up(host: str, entries: Sequence[Any]) -> list[tuple[int, Path]]:
    """Return family and address of each of `getaddrinfo`'s entries. Raises PathError where there is none."""
    if not entries:
        raise PathError(f"no address for host {host!r}", OSError("getaddrinfo returned nothing"))
    return [(entry[0], tuple(entry[4])) for entry in entries]


def unknown_host(host: str, error: OSError) -> PathError:
    """Return the error of a name that could not be looked up."""
    return PathError(f"no address for host {host!r}: {error.strerror}", error)


def family_to_look_up(family: int) -> int:
    """Return the family of the addresses that a socket of `family` can reach."""
    return socket.AF_INET if family == socket.AF_INET else socket.AF_UNSPEC


def for_socket(found: Sequence[tuple[int, Path]], family: int) -> list[Path]:
    """Return addresses as a socket of `family` has them: an IPv6 socket reaches IPv4 as ::ffff:192.0.2.7."""
    return list(dict.fromkeys(address if kind == family else mapped(address) for kind, address in found))


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
