"""Where a URI leads, and the waiting for what comes from there: of a host's several addresses one after the other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Callable, Optional

from minicoap.asyncio.addresses import resolve_all
from minicoap.codec.uri import CoapUri, format_uri
from minicoap.core.endpoint import EndpointCore
from minicoap.core.request import SAFE, Path
from minicoap.errors import CoapError, NetworkError, PathError, RequestTimeout, SecurityError, UsageError
from minicoap.shell.udp import UdpShell

if TYPE_CHECKING:
    from minicoap.shell.secure import SecureShell

_REACHED = 1024  # names whose working address is remembered

Begin = Callable[..., Optional[Callable[[float], None]]]
"""Starts something at an address: called with the path, a function to be told the outcome, and the time.

What it returns, if anything, takes it back.
"""


class Reach:
    """What an endpoint knows of where its requests go; `secure` is there once it speaks `coaps`."""

    def __init__(self, core: EndpointCore) -> None:
        self.secure: Optional[SecureShell] = None
        self.is_closed = False
        self._core = core
        self._pending: dict[asyncio.Future[Any], None] = {}
        self._reached: dict[tuple[str, str, int], Path] = {}  # which of a name's addresses answered

    def close(self) -> None:
        """Tell whoever still waits that nothing will come."""
        self.is_closed = True
        for future in self._pending:
            if not future.done():
                future.set_exception(NetworkError("the endpoint was closed"))

    async def wait(self, future: asyncio.Future[Any]) -> Any:
        """Wait for `future`, or for the end of the endpoint, which raises NetworkError."""
        if self.is_closed:
            raise NetworkError("the endpoint was closed")
        self._pending[future] = None
        try:
            return await future
        finally:
            del self._pending[future]

    async def addresses(self, target: CoapUri, shell: UdpShell) -> list[Path]:
        """Return where `target` may be: where it was the last time, then the rest."""
        if not target.port:
            raise UsageError("a request cannot go to port 0")
        paths = await resolve_all(target.host, target.port, shell.family, asyncio.get_running_loop())
        if target.scheme == "coaps":
            assert self.secure is not None  # there are credentials, and the socket is open
            paths = [self.secure.path_to(path, target.host) for path in paths]
        reached = self._reached.get(target[:3])
        return list(dict.fromkeys((reached, *paths))) if reached in paths else paths

    async def outcome(self, code: int, target: CoapUri, shell: UdpShell, begin: Begin) -> object:
        """Have `begin(path, done, now)` start something at the addresses of `target`, one after the other.

        The next is tried where one cannot be reached, and where it stays silent to a request that only reads: any other
        may have been carried out. The one that answered comes first from then on.
        """
        loop = asyncio.get_running_loop()
        paths = await self.addresses(target, shell)
        has_choice = len(paths) > 1
        while True:
            path = paths.pop(0)
            started = loop.time()
            try:
                outcome = await self._outcome_at(path, target, shell, begin)
            except (PathError, RequestTimeout, SecurityError) as error:
                may_repeat = isinstance(error, PathError) or code in SAFE
                if not paths or not may_repeat or self._core.has_answered(path, started):
                    raise
                continue
            if has_choice:
                if len(self._reached) >= _REACHED:
                    self._reached.clear()
                self._reached[target[:3]] = path
            return outcome

    async def _outcome_at(self, path: Path, target: CoapUri, shell: UdpShell, begin: Begin) -> object:
        """Have `begin` start something in the core, and wait for what it tells; it is taken back on cancellation."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.create_future()

        def done(outcome: object) -> None:
            if future.done():
                return
            if isinstance(outcome, CoapError):
                future.set_exception(placed(outcome, target))
            else:
                future.set_result(outcome)

        cancel = begin(path, done, loop.time())
        shell.wake()
        try:
            return await self.wait(future)
        except asyncio.CancelledError:
            if cancel is not None:
                cancel(loop.time())
                shell.wake()
            raise


def placed(error: CoapError, target: CoapUri) -> CoapError:
    """Return `error`, one of the path with the address as the caller wrote it."""
    if not isinstance(error, PathError):
        return error
    where = format_uri(target._replace(path=(), query=())).rstrip("/")
    return PathError(f"{where} cannot be reached: {error.error.strerror}", error.error)
