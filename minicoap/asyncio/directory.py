"""What `Endpoint.register` does: the first agreement of a resource directory, awaited; later ones are logged."""

from __future__ import annotations

import asyncio
import logging
from typing import Union

from minicoap.asyncio.reach import Reach
from minicoap.codec import codes
from minicoap.core.directory import Facts, Registration
from minicoap.core.endpoint import EndpointCore
from minicoap.core.request import Path, Response
from minicoap.errors import CoapError, PeerError
from minicoap.shell.udp import UdpShell

logger = logging.getLogger(__name__)


async def register(
    core: EndpointCore, shell: UdpShell, reach: Reach, uri: str, path: Path, facts: Facts
) -> Registration:
    """Register with the directory at `path`, and wait for its agreement."""
    loop = asyncio.get_running_loop()
    agreed: asyncio.Future[Response] = loop.create_future()

    def on_outcome(outcome: Union[Response, CoapError]) -> None:
        is_agreement = isinstance(outcome, Response) and outcome.code == codes.CHANGED
        if agreed.done():
            if not is_agreement:
                logger.warning("the registration of %r at %s was not refreshed: %r", facts.name, uri, outcome)
        elif isinstance(outcome, CoapError):
            agreed.set_exception(outcome)
        elif not is_agreement:
            agreed.set_exception(PeerError(f"{uri} answered {codes.code_name(outcome.code)}: {outcome.text}"))
        else:
            agreed.set_result(outcome)

    registration = core.register(path, facts, on_outcome, loop.time())
    is_registered = False
    try:
        shell.wake()
        await reach.wait(agreed)
        is_registered = True
    finally:
        if not is_registered:
            registration.stop(loop.time())
            shell.wake()
    return registration
