"""Our client as a command, for `serve --client`: does one thing, says what came of it, and ends.

python -m tools.conformance.serving.ours {method} {uri} {kind} {size} {accept} {block} {seconds}
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from minicoap import Endpoint
from minicoap.codec import codes
from minicoap.codec.contentformats import TEXT
from minicoap.errors import CoapError

_METHODS = {"get": codes.GET, "put": codes.PUT, "post": codes.POST, "delete": codes.DELETE}


async def act(method: str, uri: str, kind: str, size: int, accept: str, block: int, seconds: float) -> None:
    """Do it. Raises CoapError where nothing came of it."""
    async with Endpoint() as endpoint:
        if method == "observe":
            states = endpoint.observe(uri)
            try:
                await asyncio.wait_for(_show(states), seconds or None)
            except asyncio.TimeoutError:
                pass
            finally:
                await states.aclose()
                await asyncio.sleep(1.0)  # a last word may have to be repeated, and what comes late rejected
            return
        payload = (b"conformance test " * (size // 17 + 1))[:size]
        response = await endpoint.request(
            _METHODS[method], uri, payload, content_format=TEXT if size else None, confirmable=kind == "con",
            accept=None if accept == "-" else int(accept), timeout=None if kind == "con" else 30.0,
            szx=block.bit_length() - 5 if block else None,
        )  # fmt: skip
        print(codes.code_name(response.code), len(response.payload))
        await asyncio.sleep(1.0)


async def _show(states: object) -> None:
    async for response in states:  # type: ignore[attr-defined]
        print(codes.code_name(response.code), response.payload)


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    method, uri, kind, size, accept, block, seconds = arguments
    try:
        asyncio.run(act(method, uri, kind, int(size), accept, int(block), float(seconds)))
    except CoapError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
