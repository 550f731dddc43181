"""Q-Block (RFC 9177) between our endpoints and libcoap 4.3.5, which Debian 12 does not have.

`tools/peers.py DIRECTORY` fetches it; QBLOCK_PEERS names that directory.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from minicoap import Endpoint, PathError, Request, Resource, Response, Site, codes
from minicoap.codec.message import NON, Message, Options, encode
from minicoap.codec.options import Q_BLOCK1, Q_BLOCK2, REQUEST_TAG, SIZE1, URI_PATH
from tests.interop.readers import read_by_aiocoap, read_by_ours, read_by_scapy

BODY = b"".join(n.to_bytes(4, "big") for n in range(10_000))[:39_991]  # 40 blocks, the last one shorter
_LINE = re.compile(r"^v:1 t:(\w+) c:([\w.]+) i:\w+ \{\w*\} \[ (.*?) \]", re.MULTILINE)


def command(name: str) -> str:
    directory = os.environ.get("QBLOCK_PEERS")
    path = None if directory is None else Path(directory) / name
    if path is None or not path.exists():
        pytest.skip("no libcoap with Q-Block: tools/peers.py DIRECTORY, and QBLOCK_PEERS=DIRECTORY")
    return str(path)


class Store:
    """Our server's side: /body gives and takes, /turned gives back what it is sent, the last byte first."""

    def __init__(self) -> None:
        self.received: list[bytes] = []

    def site(self) -> Site:
        return Site(
            Resource("/body", get=lambda _: Response(payload=BODY, etag=b"v1"), put=self.take),
            Resource("/turned", post=self.turn, fetch=self.turn),
        )

    def take(self, request: Request) -> Response:
        self.received.append(request.payload)
        return Response(codes.CHANGED)

    def turn(self, request: Request) -> Response:
        return Response(payload=request.payload[::-1])


@asynccontextmanager
async def our_server() -> AsyncIterator[tuple[str, Store]]:
    store = Store()
    async with Endpoint(store.site()) as endpoint:
        await endpoint.serve("coap://127.0.0.1:0")
        yield endpoint.local_uri, store


@asynccontextmanager
async def libcoap_server(*arguments: str) -> AsyncIterator[str]:
    """libcoap's sample server, which keeps what is put to any path."""
    program = command("coap-server")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        program, "-L", "5", "-A", "127.0.0.1", "-p", str(port), "-d", "10", *arguments,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    uri = f"coap://127.0.0.1:{port}"
    try:
        await asyncio.wait_for(answering(uri), 20)
        yield uri
    finally:
        process.kill()
        await process.wait()


async def answering(uri: str) -> None:
    """Wait until a server is there."""
    while True:
        async with Endpoint() as endpoint:
            try:
                await endpoint.get(f"{uri}/.well-known/core")
                return
            except PathError:
                await asyncio.sleep(0.05)


async def run_client(*arguments: str) -> list[tuple[str, str, str]]:
    """Run libcoap's sample client; return type, code and options of each message that it shows."""
    process = await asyncio.create_subprocess_exec(
        command("coap-client"), "-v", "7", "-L", "5", "-B", "60", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), 90)
    return _LINE.findall(output.decode("latin-1"))


def kinds(confirmable: bool) -> list[str]:
    return [] if confirmable else ["-N"]


@pytest.mark.parametrize("confirmable", [False, True])
def test_libcoap_uploads_to_our_server(tmp_path: Path, confirmable: bool) -> None:
    async def main() -> None:
        file = tmp_path / "body"
        file.write_bytes(BODY)
        async with our_server() as (uri, store):
            shown = await run_client(*kinds(confirmable), "-m", "put", "-f", str(file), f"{uri}/body")
            assert store.received == [BODY]
        sent = [options for kind, code, options in shown if code == "PUT" and "Q-Block1" in options]
        assert len(sent) >= 40 and all("Request-Tag" in options and "Size1:39991" in options for options in sent)
        assert not any(re.search(r"(?<!Q-)Block[12]", options) for _, _, options in shown)
        assert sum(code == "2.31" for _, code, _ in shown) == (0 if confirmable else 3)
        assert {kind for kind, code, options in shown if code == "PUT"} == {"CON" if confirmable else "NON"}

    asyncio.run(main())


@pytest.mark.parametrize("confirmable", [False, True])
def test_libcoap_downloads_from_our_server(tmp_path: Path, confirmable: bool) -> None:
    async def main() -> None:
        file = tmp_path / "got"
        async with our_server() as (uri, _):
            shown = await run_client(*kinds(confirmable), "-b", "1024", "-o", str(file), f"{uri}/body")
            assert file.read_bytes() == BODY
        blocks = [options for _, code, options in shown if code == "2.05" and "Q-Block2" in options]
        assert len(blocks) >= 40
        assert not any(re.search(r"(?<!Q-)Block[12]", options) for _, _, options in shown)

    asyncio.run(main())


def test_libcoap_fetches_with_a_long_body_both_ways(tmp_path: Path) -> None:
    async def main() -> None:
        file, got = tmp_path / "body", tmp_path / "got"
        file.write_bytes(BODY)
        async with our_server() as (uri, _):
            await run_client("-N", "-m", "fetch", "-f", str(file), "-o", str(got), f"{uri}/turned")
            assert got.read_bytes() == BODY[::-1]

    asyncio.run(main())


def test_libcoap_recovers_what_was_lost_of_an_upload(tmp_path: Path) -> None:
    async def main() -> None:
        file = tmp_path / "body"
        file.write_bytes(BODY)
        async with our_server() as (uri, store):
            shown = await run_client("-N", "-l", "7,15", "-m", "put", "-f", str(file), f"{uri}/body")
            assert store.received == [BODY]
        assert any(code == "4.08" for _, code, _ in shown)

    asyncio.run(main())


def test_libcoap_recovers_what_was_lost_of_a_download(tmp_path: Path) -> None:
    async def main() -> None:
        async with Lossy() as lossy, our_server() as (uri, _):
            lossy.target = ("127.0.0.1", int(uri.rpartition(":")[2]))
            file = tmp_path / "got"
            await run_client("-N", "-b", "1024", "-o", str(file), f"coap://127.0.0.1:{lossy.port}/body")
            assert file.read_bytes() == BODY

    asyncio.run(main())


class Lossy(asyncio.DatagramProtocol):
    """A relay that loses the seventh and the fifteenth datagram which the server sends."""

    lost = (7, 15)

    def __init__(self) -> None:
        self.target: Optional[tuple[str, int]] = None
        self.client: Optional[tuple[str, int]] = None
        self.count = 0
        self.port = 0

    async def __aenter__(self) -> Lossy:
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self.port = self.transport.get_extra_info("sockname")[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.transport.close()

    def datagram_received(self, data: bytes, address: Any) -> None:
        assert self.target is not None
        if address[1] != self.target[1]:
            self.client = address
            self.transport.sendto(data, self.target)
            return
        self.count += 1
        if self.count not in self.lost:
            self.transport.sendto(data, self.client)


@pytest.mark.parametrize("confirmable", [False, True])
def test_our_client_uploads_to_libcoap_and_downloads_again(confirmable: bool) -> None:
    async def main() -> None:
        async with libcoap_server() as uri, Endpoint() as endpoint:
            common = {"qblock": True, "confirmable": confirmable}
            assert (await endpoint.put(f"{uri}/a", BODY, **common)).is_success
            response = await endpoint.get(f"{uri}/a", **common)
            assert response.payload == BODY
            assert response.options.get(Q_BLOCK2) is not None
            assert not any(endpoint.core.footprint()[name] for name in ("bodies", "pending"))

    asyncio.run(main())


def test_our_client_recovers_what_was_lost_on_the_way_to_and_from_libcoap() -> None:
    async def main() -> None:
        async with libcoap_server("-l", "13,29") as uri, Endpoint() as endpoint:
            common = {"qblock": True, "confirmable": False}
            assert (await endpoint.put(f"{uri}/a", BODY, **common)).is_success
            assert (await endpoint.get(f"{uri}/a", **common)).payload == BODY

    asyncio.run(main())


def test_a_libcoap_without_q_block_is_served_by_block_options() -> None:
    async def main() -> None:
        async with libcoap_server("-L", "1") as uri, Endpoint() as endpoint:
            assert (await endpoint.put(f"{uri}/a", BODY, qblock=True)).is_success
            response = await endpoint.get(f"{uri}/a", qblock=True)
            assert response.payload == BODY and response.options.get(Q_BLOCK2) is None

    asyncio.run(main())


# Not by tshark: the one of Debian 12 (4.0) knows neither option, and calls what has them malformed.
@pytest.mark.parametrize("read", [read_by_aiocoap, read_by_scapy])
def test_others_read_the_options_as_we_do(read: Callable[[dict[str, bytes]], object]) -> None:
    rows = {
        name: encode(Message(NON, codes.PUT, number, b"tk", Options(((URI_PATH, b"x"), *items)), b"payload"))
        for number, (name, items) in enumerate(
            {
                "Q-Block1": ((Q_BLOCK1, b"\x1e"), (SIZE1, b"\x9c\x37"), (REQUEST_TAG, b"tagg")),
                "Q-Block2": ((Q_BLOCK2, b"\x1e"),),
                "missing ones": ((Q_BLOCK2, b"\x16"), (Q_BLOCK2, b"\x96"), (Q_BLOCK2, b"\x01\x06")),
                "the largest": ((Q_BLOCK2, b"\xff\xff\xf6"),),
                "the empty one": ((Q_BLOCK2, b""),),
            }.items()
        )
    }
    assert read(rows) == read_by_ours(rows)
