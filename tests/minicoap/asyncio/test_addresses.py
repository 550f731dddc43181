"""Hosts and ports become the socket's own addresses."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from minicoap.asyncio.addresses import resolve, resolve_all
from minicoap.errors import PathError, UsageError
from minicoap.shell.addresses import parse_literal

V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.mark.parametrize(
    ("host", "family", "address"),
    [
        ("192.0.2.7", V4, ("192.0.2.7", 5683)),
        ("192.0.2.7", V6, ("::ffff:192.0.2.7", 5683, 0, 0)),
        ("2001:DB8:0:0:0:0:0:1", V6, ("2001:db8::1", 5683, 0, 0)),
        ("::ffff:192.0.2.7", V6, ("::ffff:192.0.2.7", 5683, 0, 0)),
        ("fe80::1%7", V6, ("fe80::1", 5683, 0, 7)),
        ("fe80::1%lo", V6, ("fe80::1", 5683, 0, socket.if_nametoindex("lo"))),
        ("example.com", V4, None),
        ("1.2.3", V4, None),
    ],
)
def test_literal_becomes_what_the_socket_reports(host: str, family: int, address: Any) -> None:
    assert parse_literal(host, 5683, family) == address


@pytest.mark.parametrize(
    ("host", "family", "says"),
    [("::1", V4, "IPv4 socket"), ("1::2::3", V6, "not an IPv6"), ("fe80::1%nowhere0", V6, "no network interface")],
)
def test_literal_that_cannot_work_is_refused(host: str, family: int, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_literal(host, 5683, family)


class Loop:
    """Stands for the event loop's resolver."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[Any] = []

    async def getaddrinfo(self, host: str, port: int, *, family: int, type: int) -> Any:
        self.asked.append((host, port, family))
        if isinstance(self.answer, OSError):
            raise self.answer
        return [(family_, type, 17, "", address) for family_, address in self.answer]


def resolved(answer: Any, family: int) -> Any:
    loop: Any = Loop(answer)
    return asyncio.run(resolve("example.com", 5683, family, loop))


def test_name_becomes_its_first_address() -> None:
    assert resolved([(V4, ("192.0.2.7", 5683))], V4) == ("192.0.2.7", 5683)
    assert resolved([(V6, ("2001:db8::1", 5683, 0, 0)), (V4, ("192.0.2.7", 5683))], V6) == ("2001:db8::1", 5683, 0, 0)
    assert resolved([(V4, ("192.0.2.7", 5683))], V6) == ("::ffff:192.0.2.7", 5683, 0, 0)


def test_name_may_be_at_several_addresses_each_of_them_once() -> None:
    loop: Any = Loop([(V6, ("2001:db8::1", 5683, 0, 0)), (V4, ("192.0.2.7", 5683)), (V4, ("192.0.2.7", 5683))])
    found = asyncio.run(resolve_all("example.com", 5683, V6, loop))
    assert found == [("2001:db8::1", 5683, 0, 0), ("::ffff:192.0.2.7", 5683, 0, 0)]


@pytest.mark.parametrize("answer", [[], socket.gaierror(socket.EAI_NONAME, "Name or service not known")])
def test_name_without_an_address_is_a_path_error_that_names_it(answer: Any) -> None:
    with pytest.raises(PathError, match=r"example\.com"):
        resolved(answer, V4)


def test_ipv4_socket_asks_for_ipv4_only() -> None:
    loop: Any = Loop([(V4, ("192.0.2.7", 5683))])
    asyncio.run(resolve("example.com", 5683, V4, loop))
    asyncio.run(resolve("example.com", 5683, V6, loop))
    assert [family for _, _, family in loop.asked] == [V4, socket.AF_UNSPEC]
