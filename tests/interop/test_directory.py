"""A foreign resource directory (RFC 9176): aiocoap's, as a process of its own, and our client of it."""

from __future__ import annotations

import asyncio
import socket
import sys
from asyncio.subprocess import DEVNULL

import pytest

from minicoap import CoapError, Endpoint, Resource, Response, Site


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def wait_for(client: Endpoint, uri: str) -> None:
    while True:
        try:
            await client.ping(uri, timeout=1.0)
            return
        except CoapError:
            await asyncio.sleep(0.05)


def test_foreign_directory_is_found_registered_with_and_looked_up() -> None:
    pytest.importorskip("aiocoap.cli.rd", reason="aiocoap's resource directory needs LinkHeader")

    async def scenario() -> None:
        port = free_port()
        uri = f"coap://127.0.0.1:{port}"
        directory = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "aiocoap.cli.rd", "--bind", f"127.0.0.1:{port}", stdout=DEVNULL, stderr=DEVNULL
        )
        site = Site(Resource("/temperature", get=lambda _: Response(), resource_type="temperature"))
        try:
            async with Endpoint(site) as node:
                await node.serve("coap://127.0.0.1:0")
                await wait_for(node, uri)
                found = {
                    link.get("rt"): link.target for link in await node.links(f"{uri}/.well-known/core?rt=core.rd*")
                }
                assert {"core.rd", "core.rd-lookup-ep", "core.rd-lookup-res"} <= set(found)

                registration = await node.register(uri, "node1", sector="here", lifetime=60, attributes={"et": "demo"})
                assert registration.registered_until is not None

                (endpoint,) = await node.links(f"{uri}{found['core.rd-lookup-ep']}?ep=node1")
                assert (endpoint.get("ep"), endpoint.get("d"), endpoint.get("et")) == ("node1", "here", "demo")
                assert endpoint.get("base") == node.local_uri
                links = await node.links(f"{uri}{found['core.rd-lookup-res']}?rt=temperature")
                assert [link.target for link in links] == [f"{node.local_uri}/temperature"]
        finally:
            directory.kill()
            await directory.wait()

    asyncio.run(asyncio.wait_for(scenario(), 60))
