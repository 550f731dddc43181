"""The event loop as far as the shells need one: asyncio's has these methods, and so has `minicoap.poll.loop.Loop`."""

from __future__ import annotations

from typing import Any, Callable, Protocol


class TimerHandle(Protocol):
    """A callback that waits for its time."""

    def cancel(self) -> None:
        """Let it not be called; more than once is fine."""

    def when(self) -> float:
        """Its time, seconds of the loop's clock."""


class Loop(Protocol):
    """Waits for files and for times, and calls back in one thread; times are seconds of a monotonic clock."""

    def time(self) -> float:
        """Return what time it is."""

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any) -> TimerHandle:
        """Call `callback(*args)` at a time."""

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> TimerHandle:
        """Call `callback(*args)` after `delay` seconds."""

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:
        """Call `callback(*args)` whenever a descriptor, or an object that has one, can be read."""

    def remove_reader(self, fd: Any) -> bool:
        """Watch for that no longer; False if it was not."""

    def add_writer(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:
        """Call `callback(*args)` whenever a descriptor can be written to."""

    def remove_writer(self, fd: Any) -> bool:
        """Watch for that no longer; False if it was not."""

    def add_signal_handler(self, sig: int, callback: Callable[..., Any], *args: Any) -> None:
        """Call `callback(*args)` after a signal."""

    def remove_signal_handler(self, sig: int) -> bool:
        """Let the signal do what it does by default; False if nothing was called for it."""
