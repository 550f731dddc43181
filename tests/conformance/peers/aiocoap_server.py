"""A server made of aiocoap, as its documentation shows one, with the resources that the conformance tests ask for.

python tests/conformance/peers/aiocoap_server.py PORT
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import aiocoap
from aiocoap import resource
from aiocoap.numbers.codes import Code

LARGE = b"".join(b"%07d\n" % number for number in range(400))
TEXT, LINK_FORMAT, XML = 0, 40, 41


def content(payload: bytes, content_format: int = TEXT) -> Any:
    return aiocoap.Message(payload=payload, content_format=content_format)


class Stored(resource.Resource):
    """Gives what it was given."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.body = body

    async def render_get(self, request: Any) -> Any:
        return content(self.body)

    async def render_put(self, request: Any) -> Any:
        self.body = request.payload
        return aiocoap.Message(code=Code.CHANGED)


class Test(Stored):
    async def render_post(self, request: Any) -> Any:
        return aiocoap.Message(code=Code.CREATED, location_path=("location1", "location2", "location3"))

    async def render_delete(self, request: Any) -> Any:
        return aiocoap.Message(code=Code.DELETED)


class Validate(Stored):
    async def render_get(self, request: Any) -> Any:
        response = content(self.body)
        resource.hashing_etag(request, response)
        return response


class Slow(Stored):
    async def render_get(self, request: Any) -> Any:
        await asyncio.sleep(3)
        return content(self.body)


class Query(resource.Resource):
    async def render_get(self, request: Any) -> Any:
        return content("&".join(request.opt.uri_query).encode())


class LocationQuery(resource.Resource):
    async def render_post(self, request: Any) -> Any:
        return aiocoap.Message(code=Code.CREATED, location_query=("first=1", "second=2"))


class MultiFormat(resource.Resource):
    async def render_get(self, request: Any) -> Any:
        if request.opt.accept in (None, TEXT):
            return content(b"text")
        if request.opt.accept == XML:
            return content(b"<text/>", XML)
        raise aiocoap.error.UnsupportedContentFormat if request.opt.accept is None else NotAcceptable


class NotAcceptable(aiocoap.error.RenderableError):
    def to_message(self) -> Any:
        return aiocoap.Message(code=Code.NOT_ACCEPTABLE)


class LargePost(resource.Resource):
    async def render_post(self, request: Any) -> Any:
        return aiocoap.Message(code=Code.CHANGED, payload=request.payload[::-1] + LARGE, content_format=TEXT)


class LargeCreate(resource.Resource):
    async def render_post(self, request: Any) -> Any:
        return aiocoap.Message(code=Code.CREATED, location_path=("large-update",))


class Counter(resource.Resource):
    count = 0

    async def render_get(self, request: Any) -> Any:
        return content(b"%d" % self.count)

    async def render_post(self, request: Any) -> Any:
        self.count += 1
        return aiocoap.Message(code=Code.CHANGED, payload=b"%d" % self.count, content_format=TEXT)


class Fetch(resource.Resource):
    async def render_fetch(self, request: Any) -> Any:
        return content(request.payload[::-1])


class Changing(resource.ObservableResource):
    """Changes every two seconds; `length` says how long it is in its n-th state."""

    def __init__(self, length: Any = lambda number: 0) -> None:
        super().__init__()
        self.number = 0
        self.length = length
        self.body = b""
        self.task = asyncio.get_running_loop().create_task(self.change())

    async def change(self) -> None:
        while True:
            self.number += 1
            self.body = b"%06d\n" % self.number + LARGE[: self.length(self.number)]
            self.updated_state()
            await asyncio.sleep(2)

    async def render_get(self, request: Any) -> Any:
        return content(self.body)

    async def render_put(self, request: Any) -> Any:
        self.body = request.payload
        self.updated_state()
        return aiocoap.Message(code=Code.CHANGED)


async def main(port: int) -> None:
    site = resource.Site()
    site.add_resource([".well-known", "core"], resource.WKCResource(site.get_resources_as_linkheader))
    for path, served in {
        "test": Test(b"aiocoap"),
        "separate": Slow(b"slow"),
        "seg1/seg2/seg3": Stored(b"segments"),
        "query": Query(),
        "location-query": LocationQuery(),
        "multi-format": MultiFormat(),
        "validate": Validate(b"first"),
        "large": Stored(LARGE),
        "large-update": Stored(LARGE),
        "large-create": LargeCreate(),
        "large-post": LargePost(),
        "huge": Stored(LARGE * 330),
        "counter": Counter(),
        "fetch": Fetch(),
        "obs": Changing(),
        "obs-large": Changing(lambda number: 2000),
        "obs-pumping": Changing(lambda number: number % 2 * 2000),
    }.items():
        site.add_resource(path.split("/"), served)
    await aiocoap.Context.create_server_context(site, bind=("127.0.0.1", port))
    print("ready", flush=True)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
