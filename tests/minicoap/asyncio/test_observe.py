"""Observing over real loopback sockets: the iterator, its ends, and servers that change."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Optional

import pytest

from minicoap.asyncio.endpoint import Endpoint
from minicoap.codec import codes, contentformats
from minicoap.core import observe_client
from minicoap.core.parameters import TransmissionParameters
from minicoap.core.request import Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.errors import NetworkError, PathError, UsageError

QUICK = TransmissionParameters(ack_timeout=0.02, max_retransmit=1, congestion_controlled=True)


class Server:
    """A resource by each of the ways to write a handler, and one that cannot be observed."""

    def __init__(self) -> None:
        self.value = 0
        self.size = 0
        self.code = codes.CONTENT
        self.max_age = 60
        self.endpoint = Endpoint(
            Site(
                Resource("/plain", get=self.get, put=self.put, observable=True),
                Resource("/coroutine", get=self.get_later, observable=True),
                Resource("/once", get=self.get),
            )
        )

    def get(self, request: Request) -> Response:
        payload = (b"%d;" % self.value).ljust(self.size, b".")
        return Response(self.code, payload, contentformats.TEXT, max_age=self.max_age)

    async def get_later(self, request: Request) -> Response:
        await asyncio.sleep(0)
        return self.get(request)

    def put(self, request: Request) -> Response:
        self.value += 1
        self.endpoint.changed("/plain")
        return Response(codes.CHANGED)

    def change(self) -> None:
        self.value += 1
        self.endpoint.changed("/plain")
        self.endpoint.changed("/coroutine")

    @property
    def observers(self) -> int:
        return self.endpoint.core.footprint()["observers"]


async def until(condition: Callable[[], object]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0)

    await asyncio.wait_for(wait(), 20)


def run(scenario: Callable[[Endpoint, Server, str], Awaitable[None]]) -> None:
    """Run `scenario(client, server, uri of the server)`."""

    async def main() -> None:
        server = Server()
        async with server.endpoint, Endpoint() as client:
            await server.endpoint.serve("coap://127.0.0.1:0")
            await asyncio.wait_for(scenario(client, server, server.endpoint.local_uri), 20)  # type: ignore[arg-type]

    asyncio.run(main())


async def following(states: AsyncGenerator[Response, None]) -> int:
    return int((await states.__anext__()).text.split(";")[0])


@pytest.mark.parametrize("path", ["plain", "coroutine"])
@pytest.mark.parametrize("size", [0, 3000])
def test_iteration_shows_what_it_is_and_what_it_becomes(path: str, size: int) -> None:
    async def scenario(client: Endpoint, server: Server, uri: str) -> None:
        server.size = size
        seen = []
        async for response in client.observe(f"{uri}/{path}"):
            assert response.is_notification
            assert len(response.body) == size or not size
            seen.append(int(response.text.split(";")[0]))
            if len(seen) == 5:
                break
            server.change()
        assert seen == [0, 1, 2, 3, 4]
        await until(lambda: not server.observers)

    run(scenario)


def test_change_by_a_request_is_shown() -> None:
    async def scenario(client: Endpoint, server: Server, uri: str) -> None:
        states = client.observe(f"{uri}/plain", accept=contentformats.TEXT)
        assert await following(states) == 0
        await client.put(f"{uri}/plain")
        assert await following(states) == 1
        await states.aclose()
        await until(lambda: not server.observers)

    run(scenario)


def test_slow_consumer_gets_the_latest_state_only() -> None:
    async def scenario(client: Endpoint, server: Server, uri: str) -> None:
        slow, quick = client.observe(f"{uri}/plain"), client.observe(f"{uri}/plain")
        assert await following(slow) == await following(quick) == 0
        for value in range(1, 6):
            server.change()
            assert await following(quick) == value
        assert await following(slow) == 5
        assert server.observers == 1
        await quick.aclose()
        server.change()
        assert await following(slow) == 6
        await slow.aclose()

    run(scenario)


def test_iteration_ends_after_an_error_response() -> None:
    async def scenario(client: Endpoint, server: Server, uri: str) -> None:
        seen = []
        async for response in client.observe(f"{uri}/plain"):
            seen.append(response.code)
            server.code = codes.NOT_FOUND
            server.change()
        assert seen == [codes.CONTENT, codes.NOT_FOUND]
        assert not server.observers

    run(scenario)


@pytest.mark.parametrize(("path", "code"), [("once", codes.CONTENT), ("missing", codes.NOT_FOUND)])
def test_what_cannot_be_observed_is_shown_once(path: str, code: int) -> None:
    async def scenario(client: Endpoint, server: Server, uri: str) -> None:
        responses = [response async for response in client.observe(f"{uri}/{path}")]
        assert [(response.code, response.is_notification) for response in responses] == [(code, False)]

    run(scenario)


def test_iteration_survives_a_restart_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe_client, "JITTER", (0.01, 0.02))

    async def main() -> None:
        first, second = Server(), Server()
        first.max_age = 0
        second.value = 10
        async with Endpoint() as client:
            await first.endpoint.serve("coap://127.0.0.1:0")
            uri = first.endpoint.local_uri
            states = client.observe(f"{uri}/plain")
            assert await following(states) == 0
            first.endpoint.close()
            again: Optional[asyncio.Future[int]] = asyncio.ensure_future(following(states))
            await asyncio.sleep(0.1)  # the client finds nobody there
            await second.endpoint.serve(uri)
            async with second.endpoint:
                while (value := await again) == 0:  # what the first had still sent
                    again = asyncio.ensure_future(following(states))
                assert value == 10
                second.change()
                assert await following(states) == 11
                await states.aclose()
                await until(lambda: not second.observers)

    asyncio.run(asyncio.wait_for(main(), 20))


def test_server_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe_client, "JITTER", (0.01, 0.02))

    async def scenario(client: Endpoint, server: Server, uri: str) -> None:
        server.max_age = 0
        with pytest.raises(NetworkError):
            async for _ in client.observe(f"{uri}/plain", patience=0.05, timeout=0.05):
                server.endpoint.close()

    run(scenario)


def test_nobody_there_is_an_error_with_the_address() -> None:
    async def scenario(client: Endpoint, server: Server, uri: str) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
        with pytest.raises(PathError, match=rf"coap://127\.0\.0\.1:{port} cannot be reached"):
            async for _ in client.observe(f"coap://127.0.0.1:{port}/x"):
                pass
        with pytest.raises(UsageError, match="needs credentials"):
            await client.observe("coaps://127.0.0.1/").__anext__()

    run(scenario)


def test_cancelled_task_deregisters() -> None:
    async def scenario(client: Endpoint, server: Server, uri: str) -> None:
        async def watch() -> None:
            async for _ in client.observe(f"{uri}/plain"):
                pass

        task = asyncio.ensure_future(watch())
        await until(lambda: server.observers)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not server.observers)

    run(scenario)


@pytest.mark.parametrize("is_waiting", [True, False])
def test_closing_the_endpoint_ends_the_iteration_and_tells_the_server(is_waiting: bool) -> None:
    async def scenario(client: Endpoint, server: Server, uri: str) -> None:
        states = client.observe(f"{uri}/plain")
        assert await following(states) == 0
        waiting = asyncio.ensure_future(following(states)) if is_waiting else None
        await asyncio.sleep(0)
        client.close()
        with pytest.raises(NetworkError, match="closed"):
            await (waiting or following(states))
        await until(lambda: not server.observers)

    run(scenario)


def test_bodies_go_into_sinks() -> None:
    class Sink:
        def __init__(self) -> None:
            self.data = bytearray()

        def begin(self, response: Response, size: Optional[int]) -> None:
            pass

        def write_at(self, offset: int, data: bytes) -> None:
            self.data[offset:] = data

    async def scenario(client: Endpoint, server: Server, uri: str) -> None:
        server.size = 5000
        sinks: list[Any] = []

        def sink() -> Sink:
            sinks.append(Sink())
            return sinks[-1]

        async for response in client.observe(f"{uri}/plain", sink=sink):
            assert response.body == b""
            assert bytes(sinks[-1].data) == (b"%d;" % server.value).ljust(5000, b".")
            if server.value == 2:
                break
            server.change()
        assert len(sinks) == 3

    run(scenario)
