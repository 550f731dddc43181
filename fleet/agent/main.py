"""The agent's process: socket, journal, signals. What the idle agent imports is held to an allow-list."""

from __future__ import annotations

import sys

# asyncio wants OpenSSL for TLS only, which costs 4 MB; a later `import ssl` still works.
if "ssl" not in sys.modules and "asyncio" not in sys.modules:
    sys.modules["ssl"] = None  # type: ignore[assignment]
    import asyncio

    del sys.modules["ssl"]
else:
    import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from typing import Callable

from fleet.agent.agent import Agent
from fleet.agent.config import AgentConfig
from fleet.errors import UsageError
from fleet.host.boot import SystemBoot
from fleet.host.clock import SystemClock
from fleet.host.facts import PsutilFacts
from fleet.host.files import SystemFiles
from fleet.host.processes import AsyncioProcesses, ProcessResult, RunningProcess
from minicoap.asyncio.addresses import resolve, resolve_local
from minicoap.asyncio.entropy import SystemEntropy
from minicoap.asyncio.udp import UdpShell, open_socket
from minicoap.codec.uri import parse_uri
from minicoap.errors import CoapError, PathError

logger = logging.getLogger(__name__)

RESOLVE_RETRY = 10.0  # seconds until the server's name is looked up again


def run(config: AgentConfig) -> int:
    """Serve until told to stop; returns the exit code. Raises UsageError for a configuration that cannot work."""
    asyncio.run(_run(config))
    return 0


async def _run(config: AgentConfig) -> None:
    loop = asyncio.get_running_loop()
    data_dir = os.path.abspath(config.data_dir)
    os.makedirs(data_dir, exist_ok=True)
    lock = _lock(data_dir)
    config = config._replace(data_dir=data_dir, python=config.python or sys.executable)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    try:
        family, address = await resolve_local(config.host, config.port, loop)
        sock = open_socket(family, address)
    except (OSError, CoapError) as error:
        raise UsageError(f"cannot listen on --port {config.port}: {error}; --port 0 takes any free one") from error
    files = SystemFiles()
    try:
        try:
            uri = parse_uri(config.server)
        except CoapError as error:
            raise UsageError(f"--server {config.server}: {error}") from error
        while True:
            try:
                server = await resolve(uri.host, uri.port, family, loop)
                break
            except PathError as error:
                logger.warning("%s; again in %.0f s", error, RESOLVE_RETRY)
                await asyncio.sleep(RESOLVE_RETRY)
        processes = _Processes()
        agent = Agent(
            config,
            server,
            clock=SystemClock(),
            entropy=SystemEntropy(),
            files=files,
            facts=PsutilFacts(data_dir),
            processes=processes,
            boot=SystemBoot(processes),
        )
        agent.start()
        shell = UdpShell(agent, sock, loop)
        processes.ended = shell.wake
        print(f"node {config.node_id} on port {sock.getsockname()[1]}, server {config.server}", flush=True)
        try:
            await stopped.wait()
        finally:
            shell.close()
    finally:
        sock.close()
        files.close()
        os.close(lock)


class _Processes(AsyncioProcesses):
    """Children whose end is followed by `ended`: what it led to has to be sent."""

    ended: Callable[[], None]

    def run(
        self, arguments: Sequence[str], input: bytes, timeout: float, done: Callable[[ProcessResult], None]
    ) -> RunningProcess:
        """Start a child, see `fleet.host.processes`."""

        def then(result: ProcessResult) -> None:
            done(result)
            self.ended()

        return super().run(arguments, input, timeout, then)


def _lock(directory: str) -> int:
    """Hold the data directory: two agents on one journal would undo each other's work."""
    import fcntl

    descriptor = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UsageError(f"another agent runs on {directory}; stop it, or give another --data-dir") from None
    return descriptor
