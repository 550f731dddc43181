"""The peer of `bench/rates.py`: an aiocoap server with `/test` and a megabyte at `/large`; prints its port."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import aiocoap
import aiocoap.resource

SIZE = 1024 * 1024


class Test(aiocoap.resource.Resource):
    async def render_get(self, request: Any) -> Any:
        return aiocoap.Message(payload=b'{"status":"ok"}', content_format=50)


class Large(aiocoap.resource.Resource):
    def __init__(self) -> None:
        super().__init__()
        self.content = bytes(range(256)) * (SIZE // 256)

    async def render_get(self, request: Any) -> Any:
        return aiocoap.Message(payload=self.content, content_format=42)


async def main() -> None:
    site = aiocoap.resource.Site()
    site.add_resource(["test"], Test())
    site.add_resource(["large"], Large())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    await aiocoap.Context.create_server_context(site, bind=("127.0.0.1", port))
    print(port, flush=True)
    await asyncio.get_running_loop().create_future()


asyncio.run(main())
