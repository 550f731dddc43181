"""Observe between us and others, in both directions: aiocoap, and libcoap's client and server; long states too."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from minicoap import Endpoint, Request, Resource, Response, Site, codes, contentformats

SIZES = pytest.mark.parametrize("size", [0, 3000], ids=["short", "long"])
# Non-confirmable ones keep three seconds apart.
CHANGES = pytest.mark.parametrize(("path", "changes"), [("state", 3), ("unconfirmed", 1)])
# Debian names them after the TLS library; plain CoAP is the same in all.
TLS = ("-notls", "-openssl", "-gnutls", "")


def command(name: str) -> str:
    for tls in TLS:
        found = shutil.which(name + tls)
        if found is not None:
            return found
    pytest.skip(f"no {name} of libcoap is installed here (Debian: libcoap3-bin)")


class State:
    """An observable resource of ours at /state, beside it one whose notifications are not confirmable."""

    def __init__(self, size: int) -> None:
        self.value = 0
        self.size = size
        self.code = codes.CONTENT
        site = Site(
            Resource("/state", get=self.get, observable=True),
            Resource("/unconfirmed", get=self.get, observable=True, notify_confirmable=False),
        )
        self.endpoint = Endpoint(site)

    def body(self) -> bytes:
        return (b"%d;" % self.value).ljust(self.size, b"%d" % (self.value % 10))

    def get(self, request: Request) -> Response:
        return Response(self.code, self.body(), contentformats.TEXT)

    def change(self) -> None:
        self.value += 1
        self.endpoint.changed("/state")
        self.endpoint.changed("/unconfirmed")

    @property
    def observers(self) -> int:
        return self.endpoint.core.footprint()["observers"]


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 60))  # type: ignore[arg-type]


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def served(size: int) -> AsyncIterator[tuple[State, str]]:
    state = State(size)
    async with state.endpoint:
        await state.endpoint.serve("coap://127.0.0.1:0")
        yield state, state.endpoint.local_uri


# aiocoap observes us


@contextlib.asynccontextmanager
async def aiocoap_client() -> AsyncIterator[tuple[Any, Any]]:
    aiocoap = pytest.importorskip("aiocoap")
    context = await aiocoap.Context.create_client_context()
    try:
        yield aiocoap, context
    finally:
        await context.shutdown()


@SIZES
@CHANGES
def test_aiocoap_observes_us_and_takes_its_leave(size: int, path: str, changes: int) -> None:
    async def scenario() -> None:
        async with served(size) as (state, uri), aiocoap_client() as (aiocoap, context):
            request = context.request(aiocoap.Message(code=aiocoap.GET, uri=f"{uri}/{path}", observe=0))
            first = await request.response
            assert first.payload == state.body()
            assert first.opt.observe is not None
            notifications = request.observation.__aiter__()
            for _ in range(changes):
                state.change()
                notification = await notifications.__anext__()
                assert (notification.code, notification.payload) == (aiocoap.CONTENT, state.body())
            request.observation.cancel()
            while path == "state" and state.observers:
                state.change()  # aiocoap rejects what it does not want any more, from the second on
                await asyncio.sleep(0.01)

    run(scenario)


def test_aiocoap_is_told_that_it_is_over() -> None:
    async def scenario() -> None:
        async with served(0) as (state, uri), aiocoap_client() as (aiocoap, context):
            request = context.request(aiocoap.Message(code=aiocoap.GET, uri=f"{uri}/state", observe=0))
            await request.response
            state.code = codes.NOT_FOUND
            notifications = request.observation.__aiter__()
            state.change()
            notification = await notifications.__anext__()
            assert notification.code == aiocoap.NOT_FOUND
            assert state.observers == 0

    run(scenario)


# We observe aiocoap


@contextlib.asynccontextmanager
async def aiocoap_server(size: int) -> AsyncIterator[tuple[Any, str]]:
    aiocoap = pytest.importorskip("aiocoap")
    from aiocoap import resource

    class Observable(resource.ObservableResource):  # type: ignore[misc]
        value = 0
        observers = 0

        def body(self) -> bytes:
            return (b"%d;" % self.value).ljust(size, b"%d" % (self.value % 10))

        async def render_get(self, request: Any) -> Any:
            etag = b"%d" % self.value
            return aiocoap.Message(payload=self.body(), content_format=0, etag=etag)

        def update_observation_count(self, count: int) -> None:
            self.observers = count

        def change(self) -> None:
            self.value += 1
            self.updated_state()

    observable = Observable()
    site = resource.Site()
    site.add_resource(["state"], observable)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = await aiocoap.Context.create_server_context(site, bind=("127.0.0.1", port))
    try:
        yield observable, f"coap://127.0.0.1:{port}"
    finally:
        await context.shutdown()


@SIZES
def test_we_observe_aiocoap_and_take_our_leave(size: int) -> None:
    async def scenario() -> None:
        async with aiocoap_server(size) as (observable, uri), Endpoint() as endpoint:
            states = endpoint.observe(f"{uri}/state")
            for _ in range(4):
                response = await states.__anext__()
                assert response.is_notification
                assert response.body == observable.body()
                observable.change()
            assert observable.observers == 1
            await states.aclose()
            await until(lambda: not observable.observers)

    run(scenario)


# libcoap


@SIZES
@CHANGES
def test_libcoap_observes_us(size: int, path: str, changes: int) -> None:
    client = command("coap-client")

    async def scenario() -> None:
        async with served(size) as (state, uri):
            arguments = ("-s", "60", "-B", "60", "-w", "-v", "3", f"{uri}/{path}")
            process = await asyncio.create_subprocess_exec(client, *arguments, stdout=PIPE, limit=1 << 20)
            assert process.stdout is not None
            try:
                for _ in range(changes + 1):
                    while (line := (await process.stdout.readline()).strip()) == b"":
                        pass
                    assert line == state.body()
                    state.change()
            finally:
                process.kill()  # a client that is gone: the port is closed
                await process.wait()
            while path == "state" and state.observers:
                state.change()
                await asyncio.sleep(0.01)

    run(scenario)


def test_libcoap_takes_its_leave_of_us() -> None:
    client = command("coap-client")

    async def scenario() -> None:
        async with served(0) as (state, uri):
            process = await asyncio.create_subprocess_exec(client, "-s", "1", "-v", "3", f"{uri}/state", stdout=PIPE)
            await until(lambda: state.observers)
            await process.communicate()
            await until(lambda: not state.observers)

    run(scenario)


@contextlib.asynccontextmanager
async def libcoap_server(*arguments: str) -> AsyncIterator[str]:
    program = command("coap-server")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(program, "-A", "127.0.0.1", "-p", str(port), "-v", "3", *arguments)
    try:
        async with Endpoint() as endpoint:
            uri = f"coap://127.0.0.1:{port}"
            while True:
                with contextlib.suppress(Exception):
                    await endpoint.get(uri, timeout=1.0)
                    break
                await asyncio.sleep(0.05)
        yield uri
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.parametrize("arguments", [(), ("-N",)], ids=["confirmable", "non-confirmable"])
def test_we_observe_the_clock_of_libcoap(arguments: tuple[str, ...]) -> None:
    async def scenario() -> None:
        async with libcoap_server(*arguments) as uri, Endpoint() as endpoint:
            ticks = []
            async for response in endpoint.observe(f"{uri}/time?ticks"):
                assert response.is_notification
                ticks.append(int(response.text))
                if len(ticks) == 3:
                    break
            assert ticks == sorted(set(ticks))

    run(scenario)


@SIZES
def test_we_observe_what_others_put_to_libcoap(size: int) -> None:
    async def scenario() -> None:
        async with libcoap_server() as uri, Endpoint() as endpoint, Endpoint() as other:
            data = f"{uri}/example_data"
            bodies = [b"%d;".ljust(size, b".") % index for index in range(4)]
            await other.put(data, bodies[0])
            seen = []
            async for response in endpoint.observe(data):
                seen.append(response.body)
                if len(seen) == len(bodies):
                    break
                await other.put(data, bodies[len(seen)])
            assert seen == bodies

    run(scenario)
