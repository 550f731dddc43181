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


class _Queue:
    """Timers of one lifetime, in the order of their start; swept once it has grown to `sweep_at` slots."""

    __slots__ = ("sweep_at", "timers")

    def __init__(self) -> None:
        self.timers: deque[Timer] = deque()
        self.sweep_at = _SWEEP_AT


class Timers:
    """All timers of one endpoint."""

    __slots__ = ("_heap", "_queues", "_sequence", "_sweep_at")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._sequence = 0
        self._sweep_at = _SWEEP_AT
        self._queues: dict[float, _Queue] = {}

    def __len__(self) -> int:
        """How many timers are waiting to run."""
        alive = sum(1 for _, _, timer in self._heap if timer.callback is not None)
        return alive + sum(1 for queue in self._queues.values() for timer in queue.timers if timer.callback is not None)

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
            queue = self._queues[lifetime] = _Queue()
        timer = Timer(now + lifetime, callback)
        timers = queue.timers
        while timers and timers[0].callback is None:
            timers.popleft()
        timers.append(timer)
        if len(timers) >= queue.sweep_at:
            # One that is long in coming would else hold back all that were cancelled behind it.
            queue.timers = deque([each for each in timers if each.callback is not None])
            queue.sweep_at = max(_SWEEP_AT, 2 * len(queue.timers))
        return timer

    def next_deadline(self) -> Optional[float]:
        """When the earliest timer is due; None if none is waiting."""
        heap = self._heap
        while heap and heap[0][2].callback is None:
            heappop(heap)
        earliest = heap[0][0] if heap else None
        for queue in self._queues.values():
            timers = queue.timers
            while timers and timers[0].callback is None:
                timers.popleft()
            if timers and (earliest is None or timers[0].deadline < earliest):
                earliest = timers[0].deadline
        return earliest

    def run(self, now: float) -> None:
        """Run every timer that is due at `now`, each once."""
        heap = self._heap
        while heap and (heap[0][0] <= now or heap[0][2].callback is None):
            _fire(heappop(heap)[2], now)
        for queue in list(self._queues.values()):
            # Looked up anew each time: a callback may start another timer and so sweep the queue.
            while queue.timers and (queue.timers[0].deadline <= now or queue.timers[0].callback is None):
                _fire(queue.timers.popleft(), now)


def _fire(timer: Timer, now: float) -> None:
    callback = timer.callback
    if callback is not None:
        timer.callback = None
        callback(now)
