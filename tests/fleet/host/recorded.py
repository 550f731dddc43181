"""Processes that are never started, for tests of what starts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable

from fleet.host.processes import ProcessResult


class RecordedProcesses:
    """Keeps what was to be run; the test ends it."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self._done: list[Callable[[ProcessResult], None]] = []

    def run(
        self, arguments: Sequence[str], input: bytes, timeout: float, done: Callable[[ProcessResult], None]
    ) -> RecordedProcesses:
        self.commands.append(list(arguments))
        self._done.append(done)
        return self

    def kill(self) -> None:
        self.end(exit_code=-9)

    def end(self, *, exit_code: int, stderr: bytes = b"") -> None:
        self._done.pop(0)(ProcessResult(exit_code, b"", stderr, False))
