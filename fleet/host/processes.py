"""Child processes: started without a shell, in a group of their own, bounded in time and in what is kept of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Callable, NamedTuple, Optional, Protocol

if TYPE_CHECKING:
    from minicoap.shell.loop import Loop, TimerHandle

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


class SystemProcesses:
    """Children of this process, watched by `loop`; one for all of them. `done` is called in the loop, never in `run`.

    `environment` replaces the clean environment that a child gets otherwise: the few variables of this process that
    say where things are (paths, locale, proxies, certificates, pip's configuration), and none of the rest.
    """

    def __init__(self, loop: Loop, environment: Optional[Mapping[str, str]] = None) -> None:
        self._loop = loop
        self._environment = clean_environment(os.environ) if environment is None else dict(environment)
        self._running: dict[int, _Child] = {}  # by process id, until they have ended

    def run(
        self, arguments: Sequence[str], input: bytes, timeout: float, done: Callable[[ProcessResult], None]
    ) -> RunningProcess:
        """Start `arguments`, feed it `input`, call `done` once when it and its pipes ended; `timeout` in seconds."""
        if not self._running:
            self._loop.add_signal_handler(signal.SIGCHLD, self._children_ended)
        child = _Child(self._loop, input, timeout, self._ended, done)
        try:
            child.start(arguments, self._environment)
        except OSError as error:
            if not self._running:
                self._loop.remove_signal_handler(signal.SIGCHLD)
            self._loop.call_later(0, done, ProcessResult(None, b"", str(error).encode(), False))
        else:
            self._running[child.pid] = child
        return child

    def close(self) -> None:
        """End the children that run, at once; no `done` is called for them."""
        for child in list(self._running.values()):
            child.abandon()

    def _children_ended(self) -> None:
        for child in list(self._running.values()):
            child.look()

    def _ended(self, pid: int) -> None:
        del self._running[pid]
        if not self._running:
            self._loop.remove_signal_handler(signal.SIGCHLD)


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of `environment` that a child may see."""
    return {
        name: value
        for name, value in environment.items()
        if name in KEPT_VARIABLES or name.startswith(KEPT_PREFIXES) or name.endswith(KEPT_SUFFIXES)
    }


class _Child:
    """One child from start to end. It stays a zombie, whose number and group nobody else can get, until it is told."""

    def __init__(
        self,
        loop: Loop,
        input: bytes,
        timeout: float,
        ended: Callable[[int], None],
        done: Callable[[ProcessResult], None],
    ) -> None:
        self._loop = loop
        self._input = memoryview(input)
        self._timeout = timeout
        self._ended = ended  # called with its number, before `done`
        self._done = done
        self._output: dict[int, bytes] = {}  # by our end of the pipe
        self._pipes: list[int] = []  # our ends of those that are open
        self._stdin = self._stdout = self._stderr = -1
        self._timer: Optional[TimerHandle] = None
        self._timed_out = False
        self._is_graceless = False  # its pipes are not waited for any longer
        self._has_ended = False  # what was started; its pipes may be held by others still
        self.pid = 0  # while there is one

    def start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it. Raises OSError."""
        theirs: list[int] = []
        try:
            for number in range(3):
                reading, writing = os.pipe()
                ours, their = (writing, reading) if number == 0 else (reading, writing)
                self._pipes.append(ours)
                theirs.append(their)
                os.set_blocking(ours, False)
            self.pid = os.posix_spawnp(
                arguments[0],
                list(arguments),
                environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs[number], number) for number in range(3)],
                setsid=True,
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),  # which Python ignores
                setsigmask=(),
            )
        except OSError:
            for descriptor in self._pipes:
                os.close(descriptor)
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        self._stdin, self._stdout, self._stderr = self._pipes
        for descriptor in (self._stdout, self._stderr):
            self._output[descriptor] = b""
            self._loop.add_reader(descriptor, self._read, descriptor)
        self._loop.add_writer(self._stdin, self._write)
        self._timer = self._loop.call_later(self._timeout, self._took_too_long)

    def kill(self) -> None:
        """End the child and its group, now."""
        if self.pid:
            try:
                os.killpg(self.pid, signal.SIGKILL)  # its group has its number: it leads a session
            except ProcessLookupError:
                return  # all of them ended just now

    def abandon(self) -> None:
        """End it without a word."""
        self.kill()
        self._finish()

    def look(self) -> None:
        """Find out whether what was started has ended; whoever it started may hold its pipes still."""
        if self._has_ended or os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return
        self._has_ended = True
        if self._stdin in self._pipes:
            self._close(self._stdin)
        self._tell_if_over()

    def _write(self) -> None:
        try:
            written = os.write(self._stdin, self._input)
        except BlockingIOError:
            return
        except BrokenPipeError:  # it does not read what it is told
            written = len(self._input)
        self._input = self._input[written:]
        if not self._input:
            self._close(self._stdin)

    def _read(self, descriptor: int) -> None:
        """Keep the end of what the child says."""
        try:
            data = os.read(descriptor, OUTPUT_KEPT)
        except BlockingIOError:
            return
        if data:
            self._output[descriptor] = (self._output[descriptor] + data)[-OUTPUT_KEPT:]
        else:
            self._close(descriptor)
            self._tell_if_over()

    def _close(self, descriptor: int) -> None:
        self._loop.remove_reader(descriptor)
        self._loop.remove_writer(descriptor)
        self._pipes.remove(descriptor)
        os.close(descriptor)

    def _took_too_long(self) -> None:
        """End it for its time; whoever left its group may then hold the pipes still, but not for long."""
        if self._timed_out:
            self._is_graceless = True
            self._tell_if_over()
            return
        self._timed_out = True
        self.kill()
        self._timer = self._loop.call_later(GRACE, self._took_too_long)

    def _tell_if_over(self) -> None:
        if self._has_ended and (not self._pipes or self._is_graceless):
            exit_code = self._finish()
            output = self._output[self._stdout], self._output[self._stderr]
            self._done(ProcessResult(exit_code, *output, self._timed_out))

    def _finish(self) -> int:
        """Let go of all that is held of it and return how it ended."""
        if self._timer is not None:
            self._timer.cancel()
        for descriptor in self._pipes[:]:
            self._close(descriptor)
        _, status = os.waitpid(self.pid, 0)
        pid, self.pid = self.pid, 0
        self._ended(pid)
        return os.waitstatus_to_exitcode(status)
