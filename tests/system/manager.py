"""A pretended service manager: the socket that processes tell how they are, and the rule of its watchdog."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import time
from collections.abc import Callable

WATCHDOG = 1.5  # seconds of silence after which the manager would end the process
PATIENCE = 60.0


class Manager:
    """Listens on a socket, with a path or abstract, that `variables` tells a process of."""

    def __init__(self, *, abstract: bool = False) -> None:
        # Not in a test's own directory, whose path may be longer than the 107 bytes of such an address.
        self._directory = tempfile.TemporaryDirectory(prefix="fleet")
        path = os.path.join(self._directory.name, "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + path if abstract else path)
        self._socket.setblocking(False)
        self.variables = {"NOTIFY_SOCKET": "@" + path if abstract else path, "WATCHDOG_USEC": str(int(WATCHDOG * 1e6))}
        self.heard: list[dict[str, str]] = []

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._directory.cleanup()

    async def hears(self, wanted: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        """The next datagram of which `wanted` is true."""
        end = time.monotonic() + PATIENCE
        while True:
            words = await self._next(end - time.monotonic())
            if wanted(words):
                return words

    async def falls_silent(self) -> None:
        """Wait until the watchdog would strike, as the manager counts."""
        end = time.monotonic() + PATIENCE
        last = time.monotonic()
        while time.monotonic() < last + WATCHDOG:
            assert time.monotonic() < end, "the process goes on saying that it is alive"
            try:
                words = await self._next(last + WATCHDOG - time.monotonic())
            except asyncio.TimeoutError:
                return
            if "WATCHDOG" in words:
                last = time.monotonic()

    async def _next(self, within: float) -> dict[str, str]:
        data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self._socket, 4096), max(within, 0))
        words = dict(line.split("=", 1) for line in data.decode().split("\n"))
        self.heard.append(words)
        return words
