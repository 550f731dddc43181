"""Small machines to run in a world or a shell."""

from __future__ import annotations

from typing import Any, Optional

Path = tuple[Any, ...]


class Recorder:
    """Keeps what it is told and sends what it is given; answers each datagram with `answer` if there is one."""

    def __init__(self, answer: Optional[bytes] = None) -> None:
        self.answer = answer
        self.received: list[tuple[bytes, Path, float]] = []
        self.failures: list[tuple[Path, Optional[int], float]] = []
        self.timeouts: list[float] = []
        self.outbox: list[tuple[bytes, Path]] = []
        self.due: list[float] = []

    def datagram_received(self, data: bytes, path: Path, now: float) -> None:
        self.received.append((data, path, now))
        if self.answer is not None:
            self.outbox.append((self.answer, path))

    def path_failed(self, path: Path, error: OSError, now: float) -> None:
        self.failures.append((path, error.errno, now))

    def datagrams_to_send(self) -> list[tuple[bytes, Path]]:
        outbox, self.outbox = self.outbox, []
        return outbox

    def next_timeout(self) -> Optional[float]:
        return min(self.due) if self.due else None

    def handle_timeout(self, now: float) -> None:
        self.timeouts.append(now)
        self.due = [due for due in self.due if due > now]


class Reporter(Recorder):
    """Sends a report to the server each minute, starting at a moment of its own."""

    def __init__(self, server: Path, start: float) -> None:
        super().__init__()
        self.server = server
        self.due = [start]

    def handle_timeout(self, now: float) -> None:
        self.outbox.append((b"report", self.server))
        self.due = [now + 60.0]
