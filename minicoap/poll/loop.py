"""An event loop for a process that does little and sleeps long: poll(2), a heap of timers, signals through a pipe.

It takes 0.1 MB of memory where asyncio's takes 6, and has of asyncio's methods those that shells use
(`minicoap.shell.loop.Loop`), so that they run in either.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections import deque
from heapq import heapify, heappop, heappush
from math import ceil
from types import FrameType
from typing import Any, Callable, Optional, Union

logger = logging.getLogger(__name__)

Callback = Callable[..., Any]
_Watched = Union[int, Any]  # a descriptor, or what has one

_FROM_THREAD = 0  # in the pipe, where else numbers of signals are
_PIPE_BYTES = 256  # read at a time
_SWEEP_AT = 64  # cancelled timers are swept when the heap has so many entries
_FOREVER = None


class Timer:
    """A callback that waits for its time."""

    __slots__ = ("_arguments", "_callback", "_when")

    def __init__(self, when: float, callback: Callback, arguments: tuple[Any, ...]) -> None:
        self._when = when
        self._callback: Optional[Callback] = callback
        self._arguments = arguments

    def cancel(self) -> None:
        """Let it not be called; more than once is fine."""
        self._callback = None
        self._arguments = ()

    def when(self) -> float:
        """Its time, seconds of the monotonic clock."""
        return self._when

    @property
    def is_cancelled(self) -> bool:
        """Whether it is not to be called, or has been."""
        return self._callback is None

    def run(self) -> None:
        """Call it, unless it was cancelled."""
        callback, arguments = self._callback, self._arguments
        self.cancel()
        if callback is not None:
            _call(callback, arguments)


class Loop:
    """Runs callbacks in one thread, the main one if there are to be signals, between `run` and `stop`.

    Use it as ``with Loop() as loop``. `wakeups` counts how often it has returned from waiting. What a callback raises
    is logged, and the loop goes on.
    """

    def __init__(self) -> None:
        self.wakeups = 0
        self._is_running = False
        self._poll = select.poll()
        self._readers: dict[int, tuple[Callback, tuple[Any, ...]]] = {}
        self._writers: dict[int, tuple[Callback, tuple[Any, ...]]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._sequence = 0
        self._sweep_at = _SWEEP_AT
        self._from_threads: deque[tuple[Callback, tuple[Any, ...]]] = deque()
        self._signals: dict[int, tuple[Callback, tuple[Any, ...]]] = {}
        self._pipe, self._into_pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        os.set_blocking(self._into_pipe, False)
        self.add_reader(self._pipe, self._notified)

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give signals and descriptors back. Calling it again does nothing."""
        if self._pipe < 0:
            return
        for number in list(self._signals):
            self.remove_signal_handler(number)
        os.close(self._pipe)
        os.close(self._into_pipe)
        self._pipe = self._into_pipe = -1

    # Times

    def time(self) -> float:
        """Return what time it is, seconds of the monotonic clock."""
        return time.monotonic()

    def call_at(self, when: float, callback: Callback, *args: Any) -> Timer:
        """Call `callback(*args)` at a time."""
        timer = Timer(when, callback, args)
        timers = self._timers
        self._sequence += 1
        heappush(timers, (when, self._sequence, timer))
        if len(timers) >= self._sweep_at:
            timers[:] = [entry for entry in timers if not entry[2].is_cancelled]
            heapify(timers)
            self._sweep_at = max(_SWEEP_AT, 2 * len(timers))
        return timer

    def call_later(self, delay: float, callback: Callback, *args: Any) -> Timer:
        """Call `callback(*args)` after `delay` seconds."""
        return self.call_at(time.monotonic() + delay, callback, *args)

    # Descriptors

    def add_reader(self, fd: _Watched, callback: Callback, *args: Any) -> None:
        """Call `callback(*args)` whenever a descriptor, or an object that has one, can be read."""
        self._readers[_number(fd)] = (callback, args)
        self._watch(_number(fd))

    def remove_reader(self, fd: _Watched) -> bool:
        """Watch for that no longer; False if it was not."""
        was_there = self._readers.pop(_number(fd), None) is not None
        self._watch(_number(fd))
        return was_there

    def add_writer(self, fd: _Watched, callback: Callback, *args: Any) -> None:
        """Call `callback(*args)` whenever a descriptor can be written to."""
        self._writers[_number(fd)] = (callback, args)
        self._watch(_number(fd))

    def remove_writer(self, fd: _Watched) -> bool:
        """Watch for that no longer; False if it was not."""
        was_there = self._writers.pop(_number(fd), None) is not None
        self._watch(_number(fd))
        return was_there

    def _watch(self, number: int) -> None:
        events = (select.POLLIN if number in self._readers else 0) | (select.POLLOUT if number in self._writers else 0)
        if events:
            self._poll.register(number, events)
        else:
            try:
                self._poll.unregister(number)
            except KeyError:
                return  # it was not watched

    # Signals and threads

    def add_signal_handler(self, sig: int, callback: Callback, *args: Any) -> None:
        """Call `callback(*args)` after a signal, in the loop."""
        if not self._signals:
            signal.set_wakeup_fd(self._into_pipe, warn_on_full_buffer=False)
        self._signals[sig] = (callback, args)
        signal.signal(sig, _noted_in_the_pipe)
        signal.siginterrupt(sig, False)

    def remove_signal_handler(self, sig: int) -> bool:
        """Let the signal do what it does by default; False if nothing was called for it."""
        if self._signals.pop(sig, None) is None:
            return False
        signal.signal(sig, signal.default_int_handler if sig == signal.SIGINT else signal.SIG_DFL)
        if not self._signals:
            signal.set_wakeup_fd(-1)
        return True

    def call_soon_threadsafe(self, callback: Callback, *args: Any) -> None:
        """Call `callback(*args)` in the loop; may be called by other threads."""
        self._from_threads.append((callback, args))
        if self._into_pipe < 0:  # closed: nobody waits for it any more
            return
        try:
            os.write(self._into_pipe, bytes((_FROM_THREAD,)))
        except BlockingIOError:
            return  # so much is in it that the loop wakes anyway

    def _notified(self) -> None:
        numbers = os.read(self._pipe, _PIPE_BYTES)
        for number in numbers:
            handler = self._signals.get(number)
            if handler is not None:
                _call(*handler)
        for _ in range(len(self._from_threads)):
            _call(*self._from_threads.popleft())

    # Life

    def stop(self) -> None:
        """Let `run` return, once the callbacks that are due now are through."""
        self._is_running = False

    def run(self) -> None:
        """Wait and call back until `stop`; may be called again after."""
        self._is_running = True
        while self._is_running:
            ready = self._poll.poll(self._wait())
            self.wakeups += 1
            for number, events in ready:
                # An error or a hang-up is found out by whoever reads or writes.
                if events & ~select.POLLOUT and number in self._readers:
                    _call(*self._readers[number])
                if events & ~select.POLLIN and number in self._writers:
                    _call(*self._writers[number])
            self._run_timers()

    def _wait(self) -> Optional[int]:
        """How long to wait, in milliseconds: never less than to the next timer, or it would be waited for twice."""
        timers = self._timers
        while timers and timers[0][2].is_cancelled:
            heappop(timers)
        if not timers:
            return _FOREVER
        return max(0, ceil((timers[0][0] - time.monotonic()) * 1000))

    def _run_timers(self) -> None:
        timers = self._timers
        now = time.monotonic()
        due = []
        while timers and timers[0][0] <= now:
            due.append(heappop(timers)[2])
        for timer in due:
            timer.run()


def _call(callback: Callback, arguments: tuple[Any, ...]) -> None:
    try:
        callback(*arguments)
    except Exception:  # the boundary to whatever runs here: one failure must not end what else does
        logger.exception("a callback of the loop failed")


def _noted_in_the_pipe(number: int, frame: Optional[FrameType]) -> None:
    """Handle a signal: its number is in the pipe already (`signal.set_wakeup_fd`)."""


def _number(fd: _Watched) -> int:
    number: int = fd if isinstance(fd, int) else fd.fileno()
    return number
