"""CoAPS over real sockets: one socket for both, or two; resumed, rebound, lost and repeated datagrams."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable
from typing import Any, Callable

import pytest

from minicoap import Endpoint, Request, Resource, Response, Site
from minicoap.core.parameters import TransmissionParameters
from minicoap.errors import PathError, RequestTimeout, SecurityError, UsageError
from tests.minicoap.security.pair import client_credentials, server_credentials, whoami

BODY = bytes(range(256)) * 256  # 64 KiB


def site() -> Site:
    async def slow(request: Request) -> Response:
        await asyncio.sleep(0)
        return Response(payload=request.identity.subject.encode())

    return Site(
        Resource("/whoami", get=whoami, observable=True),
        Resource("/slow", get=slow),
        Resource("/body", get=lambda request: Response(payload=BODY)),
        Resource("/part", get=lambda request: Response(payload=BODY[:20_000])),
    )


def run(scenario: Callable[[], Awaitable[Any]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_plain_and_secure_requests_are_served_side_by_side() -> None:
    async def scenario() -> None:
        async with Endpoint(site(), credentials=server_credentials()) as server:
            await server.serve("coap://127.0.0.1:0")
            await server.serve("coaps://127.0.0.1:0")
            plain, secure = server.local_uris
            assert plain.startswith("coap://127.0.0.1:")
            assert secure.startswith("coaps://127.0.0.1:")
            async with Endpoint(credentials=client_credentials()) as client:
                for _ in range(3):
                    assert (await client.get(f"{secure}/whoami")).text == "x509 n1 urn:fleet:node:n1"
                    assert (await client.get(f"{plain}/whoami")).text == "none "
                assert (await client.get(f"{secure}/slow")).text == "n1"
                assert (await client.get(f"{secure}/body")).payload == BODY
                assert (await client.get(f"{secure}/body", window=16)).payload == BODY
                port = secure.rpartition(":")[2]
                with pytest.raises(RequestTimeout):
                    await client.get(f"coap://127.0.0.1:{port}/whoami", timeout=0.2)

    run(scenario)


@pytest.mark.parametrize("first", ["coap", "coaps"])
def test_the_order_of_serving_does_not_matter(first: str) -> None:
    async def scenario() -> None:
        second = "coaps" if first == "coap" else "coap"
        async with Endpoint(site(), credentials=server_credentials()) as server:
            await server.serve(f"{first}://127.0.0.1:0")
            await server.serve(f"{second}://127.0.0.1:0")
            with pytest.raises(UsageError):
                await server.serve(f"{second}://127.0.0.1:0")
            async with Endpoint(credentials=client_credentials()) as client:
                for uri in server.local_uris:
                    expected = "none " if uri.startswith("coap:") else "x509 n1 urn:fleet:node:n1"
                    assert (await client.get(f"{uri}/whoami")).text == expected

    run(scenario)


def test_changes_reach_observers_through_the_second_socket_too() -> None:
    async def scenario() -> None:
        async with Endpoint(site(), credentials=server_credentials()) as server:
            await server.serve("coap://127.0.0.1:0")
            await server.serve("coaps://127.0.0.1:0")
            async with Endpoint(credentials=client_credentials()) as client:
                seen = 0
                async for response in client.observe(f"{server.local_uris[1]}/whoami"):
                    assert response.text.startswith("x509")
                    seen += 1
                    if seen == 3:
                        break
                    server.changed("/whoami")

    run(scenario)


def test_the_server_may_ask_the_client_over_the_session_that_it_opened() -> None:
    async def scenario() -> None:
        paths: list[Any] = []

        def remember(request: Request) -> Response:
            paths.append(request.path)
            return Response()

        async with Endpoint(Site(Resource("/hello", post=remember)), credentials=server_credentials()) as server:
            await server.serve("coaps://127.0.0.1:0")
            async with Endpoint(site(), credentials=client_credentials()) as client:
                await client.post(f"{server.local_uri}/hello")
                answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
                server.core.request(
                    1, paths[0], answered.set_result, asyncio.get_running_loop().time(), uri_path=("whoami",)
                )
                server.wake()
                assert (await answered).text == "x509 server urn:fleet:server:main server.example"

    run(scenario)


def test_who_is_not_believed_is_refused_with_an_error_that_says_why() -> None:
    async def scenario() -> None:
        async with Endpoint(site(), credentials=server_credentials(require_certificate=True)) as server:
            await server.serve("coaps://127.0.0.1:0")
            async with Endpoint(credentials=client_credentials(None)) as client:
                with pytest.raises(SecurityError, match="wants a certificate"):
                    await client.get(f"{server.local_uri}/whoami")
            async with Endpoint(credentials=client_credentials(fingerprint="ab" * 32)) as client:
                with pytest.raises(SecurityError, match="fingerprint"):
                    await client.get(f"{server.local_uri}/whoami")
        async with Endpoint() as client:
            with pytest.raises(UsageError, match="credentials"):
                await client.get("coaps://127.0.0.1/whoami")

    run(scenario)


def test_nobody_there_is_found_out_at_once() -> None:
    async def scenario() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        async with Endpoint(credentials=client_credentials()) as client:
            with pytest.raises(PathError):
                await client.get(f"coaps://127.0.0.1:{port}/whoami")

    run(scenario)


class Relay:
    """Stands between a client and a server, and treats their datagrams as networks do."""

    def __init__(
        self, server: tuple[str, int], seed: int, *, loss: float, repeat: float = 0.1, replay: float = 0.0
    ) -> None:
        self._server = server
        self._random = random.Random(seed)
        self._loss = loss
        self._repeat = repeat
        self._replay = replay
        self._recorded: list[Callable[[], Any]] = []
        self._inside = self._open()
        self._outside = self._open()
        self._client: Any = None
        self._inside_port = self._inside.getsockname()[1]
        self.uri = f"coaps://127.0.0.1:{self._inside_port}"
        loop = asyncio.get_running_loop()
        loop.add_reader(self._inside, self._up)
        loop.add_reader(self._outside, self._down)

    def _open(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        return sock

    def rebind(self) -> None:
        """Have the client's datagrams come from another port, and forget the way back from the former."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._outside)
        self._outside.close()
        self._outside = self._open()
        loop.add_reader(self._outside, self._down)

    def close(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in (self._inside, self._outside):
            loop.remove_reader(sock)
            sock.close()

    def _up(self) -> None:
        data, self._client = self._inside.recvfrom(65535)
        self._treat(data, lambda: self._outside.sendto(data, self._server))

    def _down(self) -> None:
        data, _ = self._outside.recvfrom(65535)
        self._treat(data, lambda: self._inside.sendto(data, self._client))

    def _treat(self, data: bytes, send: Callable[[], Any]) -> None:
        loop = asyncio.get_running_loop()
        if self._random.random() < self._loss:
            return
        for _ in range(2 if self._random.random() < self._repeat else 1):
            loop.call_later(self._random.random() * 0.02, self._send, send)
        if data[0] == 23:  # of a session: nothing protects a handshake from who can put something into it
            self._recorded.append(send)
        if self._recorded and self._random.random() < self._replay:
            self._send(self._random.choice(self._recorded))

    @staticmethod
    def _send(send: Callable[[], Any]) -> None:
        try:
            send()
        except (OSError, ValueError):  # closed meanwhile
            pass


@pytest.mark.parametrize("seed", range(4))
def test_a_handshake_is_agreed_on_though_a_fifth_of_it_is_lost(seed: int) -> None:
    async def scenario() -> None:
        async with Endpoint(site(), credentials=server_credentials()) as server:
            await server.serve("coaps://127.0.0.1:0")
            relay = Relay(("127.0.0.1", int(server.local_uri.rpartition(":")[2])), seed, loss=0.2)
            try:
                async with Endpoint(credentials=client_credentials()) as client:
                    assert (await client.get(f"{relay.uri}/whoami")).text == "x509 n1 urn:fleet:node:n1"
            finally:
                relay.close()

    run(scenario)


def test_a_download_goes_on_when_the_way_to_the_client_changes() -> None:
    async def scenario() -> None:
        async with Endpoint(site(), credentials=server_credentials()) as server:
            await server.serve("coaps://127.0.0.1:0")
            relay = Relay(("127.0.0.1", int(server.local_uri.rpartition(":")[2])), 1, loss=0.0)
            try:
                async with Endpoint(credentials=client_credentials()) as client:
                    download = asyncio.ensure_future(client.get(f"{relay.uri}/body"))
                    await asyncio.sleep(0.3)
                    assert not download.done()
                    relay.rebind()
                    assert (await download).payload == BODY
                    assert len(server._secure.machine._associations) == 1
            finally:
                relay.close()

    run(scenario)


@pytest.mark.parametrize("seed", range(3))
def test_a_download_goes_on_amid_loss_disorder_and_replayed_records_while_its_way_changes(
    seed: int,
) -> None:
    async def scenario() -> None:
        async with Endpoint(site(), credentials=server_credentials()) as server:
            await server.serve("coaps://127.0.0.1:0")
            address = ("127.0.0.1", int(server.local_uri.rpartition(":")[2]))
            relay = Relay(address, seed, loss=0.1, repeat=0.2, replay=0.3)
            quick = TransmissionParameters(ack_timeout=0.3, max_retransmit=8, congestion_controlled=True)
            try:
                async with Endpoint(credentials=client_credentials(), parameters=quick) as client:
                    assert (await client.get(f"{relay.uri}/whoami")).text == "x509 n1 urn:fleet:node:n1"
                    (path,) = server._secure.machine._associations
                    download = asyncio.ensure_future(client.get(f"{relay.uri}/part"))
                    for _ in range(2):
                        await asyncio.sleep(0.1)
                        assert not download.done()
                        relay.rebind()
                    assert (await download).payload == BODY[:20_000]
                    assert server._secure.machine._associations.keys() == {path}, "and nobody else has come"
            finally:
                relay.close()

    run(scenario)
