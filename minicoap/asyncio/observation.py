"""What `Endpoint.observe` iterates over: the states of a resource, as the core's observation tells them (RFC 7641)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Union

from minicoap.asyncio.reach import Reach, placed
from minicoap.codec.uri import CoapUri
from minicoap.core.endpoint import EndpointCore
from minicoap.core.observe_client import Observation
from minicoap.core.request import Response
from minicoap.errors import CoapError, PathError
from minicoap.shell.udp import UdpShell


async def observe(
    core: EndpointCore,
    shell: UdpShell,
    reach: Reach,
    target: CoapUri,
    observations: dict[Observation, None],
    **arguments: Any,
) -> AsyncGenerator[Response, None]:
    """Yield each state of `target`, the latest if several came meanwhile.

    `arguments` are those of `EndpointCore.observe`; in `observations` is what has to be ended with the endpoint. Of
    several addresses the next is tried where one cannot be reached, until one has answered.
    """
    paths = await reach.addresses(target, shell)
    loop = asyncio.get_running_loop()
    latest: Union[Response, CoapError, None] = None
    news: asyncio.Future[object] = loop.create_future()

    def update(outcome: Union[Response, CoapError]) -> None:
        nonlocal latest
        latest = outcome
        if not news.done():
            news.set_result(None)

    def start() -> Observation:
        observation = core.observe(
            paths.pop(0), update, loop.time(), uri_path=target.path, query=target.query, **arguments
        )
        observations[observation] = None
        return observation

    observation = start()
    try:
        shell.wake()
        while True:
            await reach.wait(news)
            outcome, latest, news = latest, None, loop.create_future()
            if isinstance(outcome, PathError) and paths:
                del observations[observation]
                observation = start()
                shell.wake()
                continue
            if isinstance(outcome, CoapError):
                raise placed(outcome, target)
            assert outcome is not None
            paths.clear()  # this is the one
            is_last = observation.is_over
            yield outcome
            if is_last:
                return
    finally:
        del observations[observation]
        observation.cancel(loop.time())
        shell.wake()
