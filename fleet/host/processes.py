"""Child processes: started without a shell, in a group of their own, bounded in time and in what is kept of them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Callable, NamedTuple, Optional, Protocol

OUTPUT_KEPT = 65_536  # bytes, the last ones, of each of stdout and stderr
GRACE = 1.0  # seconds that the pipes of a killed child may take to close

KEPT_VARIABLES = frozenset(
    {
        "CURL_CA_BUNDLE", "HOME", "LANG", "LANGUAGE", "LOGNAME", "NETRC", "PATH", "REQUESTS_CA_BUNDLE", "SHELL",
        "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR", "TZ", "USER", "XDG_CACHE_HOME", "XDG_CONFIG_DIRS",
        "XDG_CONFIG_HOME",
        "PYTHONPATH",  # a child in Python must find the modules that this process was started with
    }
)  # fmt: skip
KEPT_PREFIXES = ("LC_", "PIP_")  # PIP_: the node's own package index is configured there
KEPT_SUFFIXES = ("_PROXY", "_proxy")


class ProcessResult(NamedTuple):
    """How a child ended.

    `exit_code` is negative for a signal, as in subprocess, and None where the child could not be started (then
    `stderr` says why). `stdout` and `stderr` are the last bytes of each. `timed_out`: it was killed for its time.
    """

    exit_code: Optional[int]
    stdout: bytes
    stderr: bytes
    timed_out: bool


class RunningProcess(Protocol):
    """A child under way."""

    def kill(self) -> None:
        """End it and all it started, at once; its `done` is still called. Without effect once it has ended."""


class Processes(Protocol):
    """Starts children."""

    def run(
        self, arguments: Sequence[str], input: bytes, timeout: float, done: Callable[[ProcessResult], None]
    ) -> RunningProcess:
        """Start `arguments`, feed it `input`, call `done` once when it and its pipes ended; `timeout` in seconds."""


class AsyncioProcesses:
    """Children of the running event loop; `done` is called in it, never inside `run`.

    `environment` replaces the clean environment that a child gets otherwise: the few variables of this process that
    say where things are (paths, locale, proxies, certificates, pip's configuration), and none of the rest.
    """

    def __init__(self, environment: Optional[Mapping[str, str]] = None) -> None:
        self._environment = clean_environment(os.environ) if environment is None else dict(environment)
        self._running: set[asyncio.Task[None]] = set()  # the loop itself keeps tasks by weak reference only

    def run(
        self, arguments: Sequence[str], input: bytes, timeout: float, done: Callable[[ProcessResult], None]
    ) -> RunningProcess:
        """Start `arguments`, feed it `input`, call `done` once when it and its pipes ended; `timeout` in seconds."""
        child = _Child(list(arguments), input, timeout, self._environment)
        task = asyncio.get_running_loop().create_task(child.run(done))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return child


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of `environment` that a child may see."""
    return {
        name: value
        for name, value in environment.items()
        if name in KEPT_VARIABLES or name.startswith(KEPT_PREFIXES) or name.endswith(KEPT_SUFFIXES)
    }


class _Child(asyncio.SubprocessProtocol):
    """One child from start to end."""

    def __init__(self, arguments: list[str], input: bytes, timeout: float, environment: dict[str, str]) -> None:
        self._arguments = arguments
        self._input = input
        self._timeout = timeout
        self._environment = environment
        self._output = {1: b"", 2: b""}  # by descriptor
        self._pid: Optional[int] = None  # while there is a process to kill
        self._killed = False
        self._ended: asyncio.Future[None] = (
            asyncio.get_running_loop().create_future()
        )  # the child ended, and so did its pipes

    def kill(self) -> None:
        """End the child and its group, now or, if it is not started yet, then."""
        self._killed = True
        if self._pid is not None:
            try:
                os.killpg(self._pid, signal.SIGKILL)  # its group has its number: it leads a session
            except ProcessLookupError:
                return  # all of them ended just now

    async def run(self, done: Callable[[ProcessResult], None]) -> None:
        """Start the child, wait for its end, tell `done`."""
        try:
            transport, _ = await asyncio.get_running_loop().subprocess_exec(
                lambda: self, *self._arguments, env=self._environment, start_new_session=True
            )
        except OSError as error:
            done(ProcessResult(None, b"", str(error).encode(), False))
            return
        self._pid = transport.get_pid()
        if self._killed:
            self.kill()
        stdin = transport.get_pipe_transport(0)
        assert isinstance(stdin, asyncio.WriteTransport)
        stdin.write(self._input)
        stdin.close()
        try:
            timed_out = await self._wait()
        finally:  # cancelled, as at the end of the loop, too: nothing of ours outlives it
            if not self._ended.done():
                self.kill()
            transport.close()
            await self._ended
            self._pid = None
        done(ProcessResult(transport.get_returncode(), self._output[1], self._output[2], timed_out))

    async def _wait(self) -> bool:
        """Whether the child had to be killed for its time; whoever left its group may then hold the pipes still."""
        await asyncio.wait([self._ended], timeout=self._timeout)
        if self._ended.done():
            return False
        self.kill()
        await asyncio.wait([self._ended], timeout=GRACE)
        return True

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Keep the end of what the child says."""
        self._output[fd] = (self._output[fd] + data)[-OUTPUT_KEPT:]

    def connection_lost(self, exc: Optional[Exception]) -> None:
        """The child has ended and its pipes are closed."""
        if not self._ended.done():
            self._ended.set_result(None)
