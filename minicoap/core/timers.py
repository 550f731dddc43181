"""Timers under a clock that is an argument.

Most timers have one of a few constant lifetimes: those are kept in the order of their start, which is the order of
their end. The rest goes to a heap. A cancelled timer lets go of what it holds at once; its empty slot is swept when
such slots outnumber the others.
"""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush
from typing import Callable, Optional


class Timer:
    """A callback due at `deadline`; `callback` is None once it was cancelled or has run."""

    __slots__ = ("callback", "deadline")

    def __init__(self, deadline: float, callback: Callable[[float], None]) -> None:
        self.deadline = deadline
        self.callback: Optional[Callable[[float], None]] = callback

    def cancel(self) -> None:
        """Make the timer do nothing; more than once is fine."""
        self.callback = None


_SWEEP_AT = 64  # slots; below it sweeping is not worth a thought


class Timers:
    """All timers of one endpoint."""

    __slots__ = ("_heap", "_queues", "_sequence", "_sweep_at")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._sequence = 0
        self._sweep_at = _SWEEP_AT
        self._queues: dict[float, deque[Timer]] = {}

    def __len__(self) -> int:
        """How many timers are waiting to run."""
        alive = sum(1 for _, _, timer in self._heap if timer.callback is not None)
        return alive + sum(1 for queue in self._queues.values() for timer in queue if timer.callback is not None)

    def at(self, deadline: float, callback: Callable[[float], None]) -> Timer:
        """Call `callback(now)` once `deadline` is reached."""
        timer = Timer(deadline, callback)
        heap = self._heap
        self._sequence += 1
        heappush(heap, (deadline, self._sequence, timer))
        if len(heap) >= self._sweep_at:
            heap[:] = [entry for entry in heap if entry[2].callback is not None]
            heapify(heap)
            self._sweep_at = max(_SWEEP_AT, 2 * len(heap))
        return timer

    def after(self, lifetime: float, now: float, callback: Callable[[float], None]) -> Timer:
        """Call `callback(now)` after `lifetime`, one of the few constants that the endpoint uses over and over."""
        queue = self._queues.get(lifetime)
        if queue is None:
            queue = self._queues[lifetime] = deque()
        timer = Timer(now + lifetime, callback)
        while queue and queue[0].callback is None:
            queue.popleft()
        queue.append(timer)
        return timer

    def next_deadline(self) -> Optional[float]:
        """When the earliest timer is due; None if none is waiting."""
        heap = self._heap
        while heap and heap[0][2].callback is None:
            heappop(heap)
        earliest = heap[0][0] if heap else None
        for queue in self._queues.values():
            while queue and queue[0].callback is None:
                queue.popleft()
            if queue and (earliest is None or queue[0].deadline < earliest):
                earliest = queue[0].deadline
        return earliest

    def run(self, now: float) -> None:
        """Run every timer that is due at `now`, each once."""
        heap = self._heap
        while heap and (heap[0][0] <= now or heap[0][2].callback is None):
            _fire(heappop(heap)[2], now)
        for queue in list(self._queues.values()):
            while queue and (queue[0].deadline <= now or queue[0].callback is None):
                _fire(queue.popleft(), now)


def _fire(timer: Timer, now: float) -> None:
    callback = timer.callback
    if callback is not None:
        timer.callback = None
        callback(now)
