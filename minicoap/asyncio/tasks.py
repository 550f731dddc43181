"""Handlers that are coroutine functions: each request has a task of its own, which answers when it is done."""

from __future__ import annotations

import asyncio
import logging
from typing import Callable

from minicoap.codec import codes
from minicoap.core.request import Deferred, Request, Response
from minicoap.core.resource import CoroutineHandler, Handler
from minicoap.errors import OptionError

logger = logging.getLogger(__name__)


class Tasks:
    """The tasks of one endpoint's handlers; `wake` is called when one has answered."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._running: dict[asyncio.Task[None], None] = {}

    def close(self) -> None:
        """Cancel what runs."""
        for task in self._running:
            task.cancel()

    def handler(self, function: CoroutineHandler) -> Handler:
        """Return a handler that runs the coroutine function in a task and answers when it is done."""

        def handle(request: Request) -> Deferred:
            deferred = request.defer()
            task = asyncio.get_running_loop().create_task(self._run(function, request, deferred))
            self._running[task] = None
            task.add_done_callback(self._running.pop)
            return deferred

        return handle

    async def _run(self, function: CoroutineHandler, request: Request, deferred: Deferred) -> None:
        try:
            response = await function(request)
        except OptionError as error:
            response = Response.refusal(error.code, str(error))
        except Exception:  # the boundary to a user's handlers: one broken resource must not end the server
            logger.exception("the handler of %s /%s failed", codes.code_name(request.code), "/".join(request.uri_path))
            response = Response.refusal(codes.INTERNAL_SERVER_ERROR)
        deferred.resolve(response, asyncio.get_running_loop().time())
        self._wake()
