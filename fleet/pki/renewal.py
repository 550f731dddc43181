"""When a certificate is renewed, and what a device believes that does not know the time.

A device without a battery-backed clock boots in 1970. It cannot say that a certificate has expired, but it knows
moments that have passed: the start of its own certificate, what its server told it. One that ended before those has
expired whatever the time is; all else is decided once the time is known.
"""

from __future__ import annotations

from typing import Optional

from fleet.host.clock import Clock
from fleet.pki.certificates import SKEW
from fleet.pki.keystore import Holder

PART = 2 / 3  # of a certificate's life after which it is renewed
SPREAD = 1 / 12  # of its life, over which those issued together spread their renewals


def renewal_due_at(holder: Holder) -> float:
    """When to renew, UTC seconds: spread by the certificate's number, so that a fleet does not ask at once."""
    life = holder.not_after - holder.not_before
    spread = holder.certificate.serial_number % 1000 / 1000
    return holder.not_before + life * (PART + SPREAD * spread)


class KnownTime:
    """The time as far as it is known: by the clock if that can be right, else by what a server told.

    `floor` is a moment, UTC seconds, that is known to have passed; keep it through restarts.
    """

    def __init__(self, clock: Clock, floor: float = 0.0) -> None:
        self._clock = clock
        self._offset: Optional[float] = None  # from the monotonic clock to UTC, as a server told
        self.floor = floor

    def told(self, at: float) -> None:
        """Take note of what a server that we trust says the time is, UTC seconds; never before the floor."""
        if at >= self.floor:
            self._offset = at - self._clock.monotonic()
            self.floor = at

    def passed(self, at: float) -> None:
        """Take note of a moment that has passed, as the start of a certificate that we were just given."""
        self.floor = max(self.floor, at)

    def now(self) -> Optional[float]:
        """UTC seconds; None while it is not known."""
        if self._clock.is_wall_trusted() and self._clock.wall() >= self.floor - SKEW:
            return self._clock.wall()
        if self._offset is not None:
            return self._clock.monotonic() + self._offset
        return None

    def has_ended(self, not_after: float) -> bool:
        """Whether a certificate with this end has surely expired."""
        now = self.now()
        return (self.floor if now is None else now) > not_after

    def is_valid(self, not_before: float, not_after: float) -> bool:
        """Whether a certificate with these ends may be relied on now, a clock that is a little off allowed for."""
        now = self.now()
        return not self.has_ended(not_after) and (now is None or now >= not_before - SKEW)
