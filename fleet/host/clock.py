"""Time: a monotonic clock for waits, a wall clock for what people read.

A device without a real-time clock boots in 1970. Whoever decides by wall time (windows, expiry) asks
`is_wall_trusted` first and waits, saying so, while the answer is no.
"""

from __future__ import annotations

import time
from typing import Protocol

EARLIEST_PLAUSIBLE = 1_767_225_600.0  # 2026-01-01T00:00:00Z: no clock of a running fleet can rightly say less


class Clock(Protocol):
    """The two clocks of a host."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back."""

    def wall(self) -> float:
        """UTC as seconds since 1970-01-01."""

    def is_wall_trusted(self) -> bool:
        """Whether `wall` can be right."""


class SystemClock:
    """The clocks of the operating system; `floor` (UTC seconds) is the earliest wall time that is believed."""

    def __init__(self, floor: float = EARLIEST_PLAUSIBLE) -> None:
        self._floor = floor

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back."""
        return time.monotonic()

    def wall(self) -> float:
        """UTC as seconds since 1970-01-01."""
        return time.time()

    def is_wall_trusted(self) -> bool:
        """Whether the wall clock stands at or after the floor."""
        return time.time() >= self._floor
