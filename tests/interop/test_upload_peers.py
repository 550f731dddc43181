"""Uploads with a window, and such as go on, to other people's servers: aiocoap takes blocks in order only, libcoap any.

What is lost on the way is lost by a relay, so that blocks come before their turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Optional

import pytest

from minicoap import BytesSource, Endpoint, Response, TransferState, UsageError, codes
from minicoap.codec.message import decode
from minicoap.codec.options import BLOCK1
from tests.interop.test_block_peers import BODY, aiocoap_server, libcoap_server
from tests.system.relay import Relay

Read = Callable[[Endpoint], Awaitable[bytes]]
LOST = (3, 11, 12, 30)  # blocks whose first transmission does not come through


@asynccontextmanager
async def server(name: str) -> AsyncIterator[tuple[str, str, Read]]:
    """Somebody's server: its URI, the path that takes bodies, and what reads the last one that it took."""
    if name == "aiocoap":
        async with aiocoap_server() as (uri, received):

            async def last(client: Endpoint) -> bytes:
                return received[-1]

            yield uri, "body", last
    else:
        async with libcoap_server() as uri:

            async def stored(client: Endpoint) -> bytes:
                return (await client.get(f"{uri}/kept")).body

            yield uri, "kept", stored


def losing() -> Callable[[bytes, bool], bool]:
    """Let each block of `LOST` through the second time only."""
    lost: set[int] = set()

    def passes(data: bytes, to_server: bool) -> bool:
        value = decode(data).options.uint(BLOCK1) if to_server else None
        if value is None or value >> 4 not in LOST or value >> 4 in lost:
            return True
        lost.add(value >> 4)
        return False

    return passes


def run(name: str, scenario: Callable[[Endpoint, str, Relay], Awaitable[Any]]) -> None:
    async def main() -> None:
        async with server(name) as (uri, path, read), Endpoint() as client:
            port = int(uri.rpartition(":")[2])
            async with Relay(("127.0.0.1", port)) as relay:
                response = await scenario(client, f"{relay.uri}/{path}", relay)
                assert response.code in (codes.CREATED, codes.CHANGED)
            assert await read(client) == BODY

    asyncio.run(asyncio.wait_for(main(), 120))


@pytest.mark.parametrize("window", [1, 2, 8, 32])
@pytest.mark.parametrize("name", ["aiocoap", "libcoap"])
def test_upload_with_a_window_arrives_whole_although_blocks_are_lost(name: str, window: int) -> None:
    async def scenario(client: Endpoint, uri: str, relay: Relay) -> Response:
        relay.passes = losing()
        return await client.upload(uri, BODY, window=window)

    run(name, scenario)


@pytest.mark.parametrize("window", [1, 8])
@pytest.mark.parametrize("name", ["aiocoap", "libcoap"])
def test_upload_goes_on_with_the_same_endpoint(name: str, window: int) -> None:
    states: list[TransferState] = []

    def stop(state: TransferState, size: Optional[int]) -> None:
        states.append(state)
        if state.offset > 15_000:
            raise ValueError("enough")

    async def scenario(client: Endpoint, uri: str, relay: Relay) -> Response:
        with pytest.raises(UsageError):
            await client.upload(uri, BODY, window=window, progress=stop)
        return await client.upload(uri, BODY, window=window, resume=states[-1])

    run(name, scenario)


@pytest.mark.parametrize("window", [1, 8])
@pytest.mark.parametrize("name", ["aiocoap", "libcoap"])
def test_upload_of_another_process_begins_anew(name: str, window: int) -> None:
    seen: list[int] = []

    async def scenario(client: Endpoint, uri: str, relay: Relay) -> Response:
        async with Endpoint() as earlier:
            states: list[TransferState] = []

            def stop(state: TransferState, size: Optional[int]) -> None:
                states.append(state)
                if state.offset > 15_000:
                    raise ValueError("enough")

            with pytest.raises(UsageError):
                await earlier.upload(uri, BODY, window=window, progress=stop)
        return await client.upload(
            uri,
            BytesSource(BODY),
            window=window,
            resume=states[-1],
            progress=lambda state, _: seen.append(state.offset),
        )

    run(name, scenario)
    assert seen[0] == 0
