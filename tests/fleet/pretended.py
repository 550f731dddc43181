"""A host that is only pretended: facts that never change, files in memory, children that answer as they are told."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import Any, Optional

import msgspec

from fleet.host.facts import HostHealth, ProcessFacts, SystemFacts
from fleet.host.processes import ProcessResult
from fleet.install.interface import Answer, Call


class FixedFacts:
    """Facts of a host that never changes."""

    def health(self, services: Sequence[str]) -> HostHealth:
        return HostHealth(15.5, 45.2, 30.1, 42.5, {name: name == "ssh" for name in services})

    def system(self) -> SystemFacts:
        return SystemFacts("host", "linux", "6.1", "aarch64", "3.9.2", 4, 1 << 30, 1 << 29, 1 << 33, 1 << 32, 5.0, 0.25)

    def process(self) -> ProcessFacts:
        return ProcessFacts(30 << 20, 1.5, 3)


class MemoryFiles:
    """The files of a host, in memory; `is_full(operation, path)` says which writes fail as on a full disk."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.is_full: Callable[[str, str], bool] = lambda operation, path: False
        self.free = 1 << 30

    def _check(self, operation: str, path: str) -> None:
        if self.is_full(operation, path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def read(self, path: str) -> bytes:
        if path not in self.content:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self.content[path]

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        return self.read(path)[offset : offset + length]

    def append(self, path: str, data: bytes) -> None:
        self._check("append", path)
        self.content[path] = self.content.get(path, b"") + data

    def write_at(self, path: str, offset: int, data: bytes) -> None:
        self._check("write_at", path)
        before = self.content.get(path, b"")
        self.content[path] = before[:offset].ljust(offset, b"\0") + data + before[offset + len(data) :]

    def size(self, path: str) -> Optional[int]:
        return len(self.content[path]) if path in self.content else None

    def truncate(self, path: str, size: int) -> None:
        self.content[path] = self.read(path)[:size].ljust(size, b"\0")

    def fsync(self, path: str) -> None:
        self._check("fsync", path)
        self.read(path)

    def replace(self, path: str, data: bytes) -> None:
        self._check("replace", path)
        self.content[path] = data

    def rename(self, path: str, new_path: str) -> None:
        self._check("rename", path)
        self.content[new_path] = self.content.pop(path)

    def remove(self, path: str) -> None:
        self.content.pop(path, None)

    def names(self, directory: str) -> list[str]:
        prefix = directory + "/"
        return sorted({path[len(prefix) :].split("/")[0] for path in self.content if path.startswith(prefix)})

    def make_directory(self, path: str) -> None:
        """Directories need no making here."""

    def free_bytes(self, path: str) -> int:
        return self.free


class PretendedChild:
    """One child: `end` lets it end."""

    def __init__(
        self, arguments: Sequence[str], call: Call, timeout: float, done: Callable[[ProcessResult], None]
    ) -> None:
        self.arguments = arguments
        self.call = call
        self.timeout = timeout
        self.was_killed = False
        self._done: Optional[Callable[[ProcessResult], None]] = done

    def kill(self) -> None:
        self.was_killed = True

    def end(self, answer: Answer) -> None:
        self.exit(0, b"said before\n" + msgspec.json.encode(answer) + b"\n")

    def exit(self, code: Optional[int], stdout: bytes = b"", stderr: bytes = b"", timed_out: bool = False) -> None:
        done, self._done = self._done, None
        assert done is not None, "a child ends once"
        done(ProcessResult(code, stdout, stderr, timed_out))


class PretendedProcesses:
    """Children of a host: each is in `children`, and ends when a test, or `answers`, says so.

    `answers` are by verb; `later(callback)` has a callback run, as an event loop would, never inside `run`.
    """

    def __init__(self, later: Callable[..., Any]) -> None:
        self.children: list[PretendedChild] = []
        self.answers: dict[str, Answer] = {}
        self._later = later

    def run(
        self, arguments: Sequence[str], input: bytes, timeout: float, done: Callable[[ProcessResult], None]
    ) -> PretendedChild:
        child = PretendedChild(arguments, msgspec.json.decode(input, type=Call), timeout, done)
        self.children.append(child)
        answer = self.answers.get(child.call.verb)
        if answer is not None:
            self._later(child.end, answer)
        return child

    @property
    def verbs(self) -> list[str]:
        return [child.call.verb for child in self.children]
