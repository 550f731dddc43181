"""A socket bound to all addresses answers from the one that was asked; one bound to a single address need not look."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

import pytest

from minicoap import Deferred, Endpoint, Request, Resource, Response, Site
from minicoap.codec import codes
from minicoap.codec.message import ACK, CON, Message, Options, decode, encode
from minicoap.shell import udp
from minicoap.shell.local import LocalAddresses
from minicoap.shell.udp import UdpShell, open_socket
from tests.minicoap.asyncio.namespace import run_alone

FAMILIES = [("0.0.0.0", ""), ("[::]", "::ffff:")]


async def received(sock: socket.socket) -> tuple[bytes, Any]:
    return await asyncio.get_running_loop().run_in_executor(None, sock.recvfrom, 2000)


def client() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(10.0)
    sock.bind(("127.0.0.1", 0))
    return sock


def get(message_id: int) -> bytes:
    return encode(Message(CON, codes.GET, message_id, b"t", Options(((11, b"x"),))))


@pytest.mark.parametrize(("bound", "mapped"), FAMILIES)
@pytest.mark.parametrize("asked", ["127.0.0.1", "127.0.0.5", "127.200.0.1"])
def test_answer_comes_from_the_address_that_was_asked(bound: str, mapped: str, asked: str) -> None:
    paths = []

    def handle(request: Request) -> Response:
        paths.append(request.path)
        return Response()

    async def scenario() -> None:
        async with Endpoint(Site(Resource("/x", get=handle))) as endpoint:
            await endpoint.serve(f"coap://{bound}:0")
            port = int(endpoint.local_uri.rpartition(":")[2])
            with client() as sock:
                sock.sendto(get(1), (asked, port))
                data, source = await received(sock)
                assert (decode(data).type, source) == (ACK, (asked, port))
                plain = (mapped + "127.0.0.1", sock.getsockname()[1], *((0, 0) if mapped else ()))
                # The address that the routing table prefers anyway is not worth mentioning.
                assert paths == [plain if asked == "127.0.0.1" else (*plain, mapped + asked)]

    asyncio.run(scenario())


@pytest.mark.parametrize(("bound", "mapped"), FAMILIES)
def test_late_answer_comes_from_there_too(bound: str, mapped: str) -> None:
    deferred: list[Deferred] = []

    def handle(request: Request) -> Deferred:
        deferred.append(request.defer())
        return deferred[-1]

    async def scenario() -> None:
        from minicoap import Limits

        async with Endpoint(Site(Resource("/x", get=handle)), limits=Limits(piggyback_delay=0.0)) as endpoint:
            await endpoint.serve(f"coap://{bound}:0")
            port = int(endpoint.local_uri.rpartition(":")[2])
            with client() as sock:
                for message_id, asked in enumerate(("127.0.0.7", "127.0.0.8")):
                    sock.sendto(get(message_id), (asked, port))
                    assert await received(sock) == (b"\x60\x00\x00" + bytes((message_id,)), (asked, port))
                for answer in deferred:
                    answer.resolve(Response(), asyncio.get_running_loop().time())
                endpoint.wake()
                sources = []
                for _ in deferred:
                    data, source = await received(sock)
                    assert decode(data).code == codes.CONTENT
                    sources.append(source)
                assert sources == [("127.0.0.7", port), ("127.0.0.8", port)]

    asyncio.run(scenario())


@pytest.mark.parametrize(("bound", "mapped"), FAMILIES)
def test_endpoint_that_serves_all_addresses_is_a_client_as_well(bound: str, mapped: str) -> None:
    async def scenario() -> None:
        async with Endpoint() as one, Endpoint(Site(Resource("/x", get=lambda _: Response(payload=b"here")))) as other:
            await one.serve(f"coap://{bound}:0")
            await other.serve(f"coap://{bound}:0")
            port = other.local_uri.rpartition(":")[2]
            for host in ("127.0.0.1", "127.0.0.9"):
                assert (await one.get(f"coap://{host}:{port}/x")).text == "here"

    asyncio.run(scenario())


class Machine:
    """Collects what the shell tells it."""

    def __init__(self) -> None:
        self.received: list[tuple[bytes, Any]] = []
        self.failed: list[tuple[Any, int | None]] = []
        self.outbox: list[tuple[bytes, Any]] = []
        self.event = asyncio.Event()

    def datagram_received(self, data: bytes, path: Any, now: float) -> None:
        self.received.append((data, path))
        self.event.set()

    def path_failed(self, path: Any, error: OSError, now: float) -> None:
        self.failed.append((path, error.errno))
        self.event.set()

    def datagrams_to_send(self) -> list[tuple[bytes, Any]]:
        outbox, self.outbox = self.outbox, []
        return outbox

    def next_timeout(self) -> None:
        return None

    def handle_timeout(self, now: float) -> None:
        raise AssertionError


@pytest.mark.skipif(udp._MSG_ERRQUEUE is None, reason="only Linux tells which destination an ICMP error is about")
@pytest.mark.parametrize(("bound", "mapped"), FAMILIES)
@pytest.mark.parametrize("local", ["127.0.0.1", "127.0.0.6"])
def test_icmp_error_names_the_local_address_as_well(bound: str, mapped: str, local: str) -> None:
    async def scenario() -> None:
        machine = Machine()
        family = socket.AF_INET6 if mapped else socket.AF_INET
        shell = UdpShell(machine, open_socket(family, (bound.strip("[]"), 0)), asyncio.get_running_loop())
        with client() as gone:
            port = gone.getsockname()[1]
        plain = (mapped + "127.0.0.1", port, *((0, 0) if mapped else ()))
        path = plain if local == "127.0.0.1" else (*plain, mapped + local)
        machine.outbox.append((b"x", path))
        shell.wake()
        await asyncio.wait_for(machine.event.wait(), 10.0)
        assert machine.failed == [(path, errno.ECONNREFUSED)]
        shell.close()

    asyncio.run(scenario())


def test_address_that_is_not_ours_fails_the_path() -> None:
    async def scenario() -> None:
        machine = Machine()
        shell = UdpShell(machine, open_socket(socket.AF_INET, ("0.0.0.0", 0)), asyncio.get_running_loop())
        path = ("127.0.0.1", 9, "192.0.2.99")
        machine.outbox.append((b"x", path))
        shell.wake()
        assert [one for one, _ in machine.failed] == [path]
        shell.close()

    asyncio.run(scenario())


def test_broadcast_is_ignored() -> None:
    async def scenario() -> None:
        machine = Machine()
        shell = UdpShell(machine, open_socket(socket.AF_INET, ("0.0.0.0", 0)), asyncio.get_running_loop())
        with client() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            port = shell.local_address[1]
            sock.sendto(b"to all", ("127.255.255.255", port))
            sock.sendto(b"to us", ("127.0.0.1", port))
            while len(machine.received) < 2:
                machine.event.clear()
                await asyncio.wait_for(machine.event.wait(), 10.0)
        assert [data for data, _ in machine.received] == [b"", b"to us"]
        shell.close()

    asyncio.run(scenario())


def test_socket_bound_to_one_address_does_not_look() -> None:
    async def scenario() -> None:
        for address, serves, looks in (
            ("127.0.0.1", True, False),
            ("0.0.0.0", False, False),
            ("0.0.0.0", True, True),
        ):
            sock = open_socket(socket.AF_INET, (address, 0))
            shell = UdpShell(Machine(), sock, asyncio.get_running_loop(), serves=serves)
            assert (shell._receive != sock.recvfrom) is looks
            shell.close()

    asyncio.run(scenario())


def test_preferred_addresses_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minicoap.shell.local._PREFERRED", 10)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        local = LocalAddresses(sock)
        for host in range(1, 50):
            local.send(b"x", (f"127.0.0.{host}", 9))
            assert len(local._preferred) <= 10


def test_ipv6_answers_come_from_the_address_that_was_asked_too() -> None:
    """With two IPv6 addresses on one interface, which takes a network of its own."""
    output = run_alone(
        "ip addr add fd00::5/128 dev lo; ip addr add fd00::6/128 dev lo",
        """
        import asyncio
        from minicoap import Endpoint, Resource, Response, Site

        async def main():
            site = Site(Resource("/x", get=lambda request: Response(payload=repr(request.path[4:]).encode())))
            async with Endpoint(site) as server, Endpoint() as client:
                await server.serve("coap://[::]:5683")
                for host in ("::1", "fd00::5", "fd00::6"):
                    response = await client.get(f"coap://[{host}]/x", timeout=5.0)
                    print(host, response.text)

        asyncio.run(main())
        """,
    )
    assert output.splitlines()[0] == "::1 ()"
    assert {line.split()[0] for line in output.splitlines()} == {"::1", "fd00::5", "fd00::6"}
