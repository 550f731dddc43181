"""Long bodies both ways between ours and other people's endpoints: aiocoap, and libcoap's sample programs."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Optional

import pytest

from minicoap import Endpoint, PathError, Request, Resource, Response, Site, codes

BODY = b"".join(n.to_bytes(4, "big") for n in range(10_000))[:39_991]  # no multiple of a block
LIBCOAP_CLIENTS = ("coap-client-notls", "coap-client")
LIBCOAP_SERVERS = ("coap-server-notls", "coap-server")
SZX = [None, 6, 4, 2]


def command(names: tuple[str, ...]) -> str:
    for name in names:
        found = shutil.which(name)
        if found is not None:
            return found
    pytest.skip(f"none of {', '.join(names)} is installed")


class Store:
    """Our server's side: /body gives and takes."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.written = bytearray(len(BODY))
        self.calls = 0

    def site(self) -> Site:
        return Site(
            Resource("/body", get=self.get, put=self.take, post=self.turn),
            Resource("/disk", write_block=self.write),
        )

    def get(self, request: Request) -> Response:
        self.calls += 1
        return Response(payload=BODY, etag=b"v1")

    def take(self, request: Request) -> Response:
        self.received.append(request.payload)
        return Response(codes.CHANGED)

    def turn(self, request: Request) -> Response:
        return Response(codes.CHANGED, request.payload[::-1])

    def write(self, request: Request, offset: int, more: bool) -> Response:
        self.written[offset : offset + len(request.payload)] = request.payload
        return Response(codes.CHANGED)


class Memory:
    any_order = True

    def __init__(self) -> None:
        self.data = bytearray()

    def begin(self, response: Response, size: Optional[int]) -> None:
        pass

    def write_at(self, offset: int, data: bytes) -> None:
        self.data[len(self.data) : offset] = bytes(max(0, offset - len(self.data)))
        self.data[offset : offset + len(data)] = data


async def download(client: Endpoint, uri: str, window: int, szx: Optional[int]) -> bytes:
    sink, digest = Memory(), hashlib.sha256()
    more: dict[str, Any] = {} if szx is None else {"szx": szx}
    response = await client.download(uri, sink, window=window, digest=digest, **more)
    assert response.is_success, response
    assert digest.digest() == hashlib.sha256(bytes(sink.data)).digest()
    return bytes(sink.data)


# aiocoap


@asynccontextmanager
async def aiocoap_server() -> AsyncIterator[tuple[str, list[bytes]]]:
    """An aiocoap server with a body, and what it was sent."""
    aiocoap = pytest.importorskip("aiocoap")
    resource = pytest.importorskip("aiocoap.resource")
    received: list[bytes] = []

    class Body(resource.Resource):  # type: ignore[misc,name-defined]
        async def render_get(self, request: Any) -> Any:
            return aiocoap.Message(payload=BODY, etag=b"v1")

        async def render_put(self, request: Any) -> Any:
            received.append(request.payload)
            return aiocoap.Message(code=aiocoap.CHANGED)

        async def render_post(self, request: Any) -> Any:
            return aiocoap.Message(code=aiocoap.CHANGED, payload=request.payload[::-1])

    site = resource.Site()
    site.add_resource(["body"], Body())
    port = free_port()
    context = await aiocoap.Context.create_server_context(site, bind=("127.0.0.1", port))
    try:
        yield f"coap://127.0.0.1:{port}", received
    finally:
        await context.shutdown()


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# aiocoap tells no size, so blocks beyond the end are asked for; it drops its coroutines for those when it is shut down.
@pytest.mark.filterwarnings("ignore:coroutine 'Context._render_to_pipe' was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("window", [1, 8])
@pytest.mark.parametrize("szx", SZX)
def test_our_client_downloads_from_aiocoap(szx: Optional[int], window: int) -> None:
    async def main() -> None:
        async with aiocoap_server() as (uri, _), Endpoint() as client:
            assert await download(client, f"{uri}/body", window, szx) == BODY

    asyncio.run(asyncio.wait_for(main(), 60))


def test_our_client_uploads_to_aiocoap_and_takes_a_long_answer() -> None:
    async def main() -> None:
        async with aiocoap_server() as (uri, received), Endpoint() as client:
            assert (await client.upload(f"{uri}/body", BODY)).code == codes.CHANGED
            assert received == [BODY]
            assert (await client.post(f"{uri}/body", BODY)).body == BODY[::-1]
            bodies = [bytes([n]) * 5000 for n in range(4)]
            responses = await asyncio.gather(*(client.post(f"{uri}/body", body, szx=5) for body in bodies))
            assert [response.body for response in responses] == bodies

    asyncio.run(asyncio.wait_for(main(), 60))


def test_aiocoap_downloads_uploads_and_takes_a_long_answer_from_our_server() -> None:
    aiocoap = pytest.importorskip("aiocoap")
    store = Store()

    async def main() -> None:
        async with Endpoint(store.site()) as server:
            await server.serve("coap://127.0.0.1:0")
            context = await aiocoap.Context.create_client_context()
            try:
                for code, payload, expected in (
                    (aiocoap.GET, b"", BODY),
                    (aiocoap.PUT, BODY, b""),
                    (aiocoap.POST, BODY, BODY[::-1]),
                ):
                    message = aiocoap.Message(code=code, uri=f"{server.local_uri}/body", payload=payload)
                    response = await context.request(message).response
                    assert response.code.is_successful()
                    assert response.payload == expected
                message = aiocoap.Message(code=aiocoap.PUT, uri=f"{server.local_uri}/disk", payload=BODY)
                assert (await context.request(message).response).code.is_successful()
            finally:
                await context.shutdown()

    asyncio.run(asyncio.wait_for(main(), 60))
    assert store.received == [BODY]
    assert store.calls == 1
    assert store.written == BODY


# libcoap


@asynccontextmanager
async def libcoap_server() -> AsyncIterator[str]:
    """libcoap's coap-server, which makes a resource of whatever is PUT to it."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        command(LIBCOAP_SERVERS), "-A", "127.0.0.1", "-p", str(port), "-d", "10",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    uri = f"coap://127.0.0.1:{port}"
    try:
        async with Endpoint() as client:
            await asyncio.wait_for(answering(client, uri), 20)
        yield uri
    finally:
        process.terminate()
        await process.wait()


async def answering(client: Endpoint, uri: str) -> None:
    """Return once there is a sign of life."""
    while True:
        try:
            await client.ping(uri)
            return
        except PathError:
            await asyncio.sleep(0)


@pytest.mark.parametrize("window", [1, 8])
@pytest.mark.parametrize("szx", SZX)
def test_our_client_uploads_to_libcoap_and_downloads_it_again(szx: Optional[int], window: int) -> None:
    async def main() -> None:
        async with libcoap_server() as uri, Endpoint() as client:
            more: dict[str, Any] = {} if szx is None else {"szx": szx}
            response = await client.upload(f"{uri}/kept", BODY, tagged=True, **more)
            assert response.code in (codes.CREATED, codes.CHANGED)
            assert await download(client, f"{uri}/kept", window, szx) == BODY

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("size", ["1024", "256", "64"])
def test_libcoap_downloads_from_and_uploads_to_our_server(tmp_path: Path, size: str) -> None:
    store = Store()
    program = command(LIBCOAP_CLIENTS)
    (tmp_path / "body").write_bytes(BODY)

    async def run(*arguments: str) -> None:
        process = await asyncio.create_subprocess_exec(program, "-B", "30", "-b", size, *arguments)
        assert await process.wait() == 0

    async def main() -> None:
        async with Endpoint(store.site()) as server:
            await server.serve("coap://127.0.0.1:0")
            await run("-o", str(tmp_path / "got"), f"{server.local_uri}/body")
            await run("-m", "put", "-f", str(tmp_path / "body"), f"{server.local_uri}/body")
            await run("-m", "put", "-f", str(tmp_path / "body"), f"{server.local_uri}/disk")

    asyncio.run(asyncio.wait_for(main(), 90))
    assert (tmp_path / "got").read_bytes() == BODY
    assert store.received == [BODY]
    assert store.calls == 1
    assert store.written == BODY
