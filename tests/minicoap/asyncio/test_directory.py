"""Registering with a resource directory over sockets; a small one of our own plays the other side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Callable

import pytest

from minicoap import Endpoint, PathError, PeerError, Request, Resource, Response, Site, UsageError, codes


class Directory:
    """Reads what registers, and lists it."""

    def __init__(self) -> None:
        self.registered: dict[str, str] = {}
        self.site = Site(
            Resource("/.well-known/rd", post=self.register, resource_type="core.rd"),
            Resource("/lookup", get=self.look_up, resource_type="core.rd-lookup-res"),
        )
        self.endpoint = Endpoint(self.site)

    async def register(self, request: Request) -> Response:
        facts = dict(argument.partition("=")[::2] for argument in request.query)
        if facts["ep"] == "unwanted":
            return Response(codes.FORBIDDEN, b"not you")
        links = await self.endpoint.links(f"coap://{request.path[0]}:{request.path[1]}/.well-known/core")
        for link in links:
            self.registered[facts["ep"]] = link.target
        return Response(codes.CHANGED)

    def look_up(self, request: Request) -> Response:
        links = ",".join(f"<{target}>;ep={name}" for name, target in self.registered.items())
        return Response(payload=links.encode(), content_format=40)


def run(scenario: Callable[[Endpoint, str], Awaitable[None]]) -> Directory:
    directory = Directory()

    async def main() -> None:
        node = Endpoint(Site(Resource("/temperature", get=lambda _: Response())))
        async with directory.endpoint, node:
            await directory.endpoint.serve("coap://127.0.0.1:0")
            await node.serve("coap://127.0.0.1:0")
            await scenario(node, directory.endpoint.local_uri)

    asyncio.run(main())
    return directory


def test_directory_is_found_and_lists_what_registered() -> None:
    async def scenario(node: Endpoint, uri: str) -> None:
        (found,) = await node.links(f"{uri}/.well-known/core?rt=core.rd")
        assert found.target == "/.well-known/rd"
        registration = await node.register(uri, "node1", lifetime=60)
        assert registration.registered_until is not None
        assert registration.registered_until > asyncio.get_running_loop().time() + 50.0
        (link,) = await node.links(f"{uri}/lookup")
        assert (link.target, link.get("ep")) == ("/temperature", "node1")

    assert run(scenario).registered == {"node1": "/temperature"}


def test_refusal_and_silence_are_told() -> None:
    async def scenario(node: Endpoint, uri: str) -> None:
        with pytest.raises(PeerError, match=r"4\.03 Forbidden: not you"):
            await node.register(uri, "unwanted")
        with pytest.raises(UsageError, match=r"well-known"):
            await node.register(f"{uri}/rd", "node1")
        with pytest.raises(UsageError, match="name"):
            await node.register(uri, "")
        with pytest.raises(PeerError, match=r"4\.04"):
            await node.links(f"{uri}/missing")
        with pytest.raises(PathError):
            await node.register("coap://127.0.0.1:1", "node1")

    run(scenario)
