"""A name with several addresses: the next is tried where one does not work; and hosts that have but one IP version."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from minicoap import Endpoint, PathError, Request, RequestTimeout, Resource, Response, Site, TransmissionParameters
from minicoap.codec import codes
from tests.minicoap.asyncio.namespace import run_alone

QUICK = TransmissionParameters(ack_timeout=0.02, max_retransmit=1, congestion_controlled=True)
GOOD, CLOSED, SILENT = "127.0.0.2", "127.0.0.3", "127.0.0.4"


class Name:
    """A name whose addresses the test chooses, and a server at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
        self.hosts = hosts
        self.handled = 0
        self.monkeypatch = monkeypatch

    def handle(self, request: Request) -> Response:
        self.handled += 1
        return Response(payload=b"here")

    async def scenario(self, asked: Any) -> None:
        loop = asyncio.get_running_loop()

        async def getaddrinfo(host: str, port: int, **_: Any) -> Any:
            assert host == "many.example"
            return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (address, port)) for address in self.hosts]

        self.monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        site = Site(Resource("/x", get=self.handle, put=self.handle, post=self.handle))
        async with Endpoint(site) as server, Endpoint(parameters=QUICK) as client:
            await server.serve(f"coap://{GOOD}:0")
            port = int(server.local_uri.rpartition(":")[2])
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
                silent.bind((SILENT, port))
                await asked(client, f"coap://many.example:{port}/x")

    def run(self, asked: Any) -> None:
        asyncio.run(self.scenario(asked))


@pytest.mark.parametrize("hosts", [(CLOSED, GOOD), (GOOD, CLOSED), (CLOSED, CLOSED, GOOD), (SILENT, GOOD)])
def test_next_address_is_tried_and_the_one_that_works_comes_first_from_then_on(
    hosts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = Name(monkeypatch, *hosts)

    async def asked(client: Endpoint, uri: str) -> None:
        assert (await client.get(uri)).text == "here"
        name.hosts = (SILENT, *hosts)
        assert (await client.get(uri, timeout=5.0)).text == "here"
        silent = client.core._peers.find(("::ffff:" + SILENT, int(uri.split(":")[2][:-2]), 0, 0))
        assert (silent is None) is (SILENT not in hosts)

    name.run(asked)


def test_failure_of_the_last_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def asked(client: Endpoint, uri: str) -> None:
        with pytest.raises(PathError, match=r"many\.example"):
            await client.get(uri)

    Name(monkeypatch, CLOSED, CLOSED).run(asked)


@pytest.mark.parametrize("code", [codes.POST, codes.PUT])
def test_request_that_may_have_been_carried_out_is_not_sent_elsewhere(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = Name(monkeypatch, SILENT, GOOD)

    async def asked(client: Endpoint, uri: str) -> None:
        with pytest.raises(RequestTimeout):
            await client.request(code, uri)

    name.run(asked)
    assert name.handled == 0


@pytest.mark.parametrize("code", [codes.POST, codes.PUT])
def test_request_that_never_got_there_is(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    name = Name(monkeypatch, CLOSED, GOOD)

    async def asked(client: Endpoint, uri: str) -> None:
        assert (await client.request(code, uri)).is_success

    name.run(asked)
    assert name.handled == 1


def test_ping_tries_them_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    async def asked(client: Endpoint, uri: str) -> None:
        assert await client.ping(uri[:-2]) < 5.0

    Name(monkeypatch, CLOSED, GOOD).run(asked)


ONE_VERSION = """
import asyncio, socket
from minicoap import Endpoint, Resource, Response, Site, PathError
from minicoap.asyncio import addresses

async def main():
    loop = asyncio.get_running_loop()
    async def getaddrinfo(host, port, family=0, type=0):
        found = [(socket.AF_INET6, ({six!r}, port, 0, 0)), (socket.AF_INET, ({four!r}, port))]
        return [(kind, type, 17, "", address) for kind, address in found if family in (0, kind)]
    loop.getaddrinfo = getaddrinfo
    async with Endpoint(Site(Resource("/x", get=lambda _: Response(payload=b"here")))) as server, Endpoint() as client:
        await server.serve({serve!r})
        print((await client.get("coap://many.example/x", timeout=5.0)).text)
        print(client.local_uri.rpartition(":")[0])

asyncio.run(main())
"""


def test_host_with_ipv4_alone_reaches_a_name_that_has_both() -> None:
    code = ONE_VERSION.format(six="2001:db8::1", four="127.0.0.1", serve="coap://127.0.0.1:5683")
    off = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"
    assert run_alone(off, code).split()[0] == "here"


def test_host_with_ipv6_alone_reaches_a_name_that_has_both() -> None:
    code = ONE_VERSION.format(six="::1", four="192.0.2.1", serve="coap://[::1]:5683")
    without = "ip addr flush dev lo scope host; ip -6 addr add ::1/128 dev lo"
    assert run_alone(without, code).split()[0] == "here"
    unreachable = ONE_VERSION.format(six="2001:db8::1", four="127.0.0.1", serve="coap://[::]:5683")
    assert run_alone("", unreachable).split()[0] == "here"
