"""How much one transfer may have outstanding: a congestion window that starts at one, grows and gives way (AIMD).

Why there has to be one. NSTART = 1 is CoAP's congestion control; it may be raised only with "mechanisms that ensure
congestion control safety" and while round trips are measured (RFC 7252 §4.7, §4.8.1). RFC 8085 §3.1.1 says of bulk
transfers over UDP that they have to be about as careful as TCP. So this is TCP's window, counted in blocks:

- The first block travels alone, as NSTART has it. When it is there the window is four blocks, the initial window of
  RFC 5681 §3.1 for segments of that size. It grows by one for each block that is acknowledged, up to a threshold (slow
  start), then by one for each window of them (congestion avoidance).
- A loss makes it smaller, once for all that is lost of one flight: what was sent before the last reduction neither
  shrinks it again nor lets it grow (RFC 6582 §3.2, RFC 9002 §7.3.2).
- A timeout, which means that nothing sent later has come through either, sets it back to one (RFC 5681 §3.1).
- It does not grow while the transfer does not use it (RFC 7661 §4.3, RFC 9002 §7.8).
- It never exceeds the `limit` that the caller set.

By how much a loss makes it smaller. Half of it remains if the network shows that it is full: round trips are longer
than the shortest by what it takes to have three blocks or more of ours waiting in a queue. If none is waiting, the
radio dropped the block and not a router; then four fifths remain. This is how TCP Veno tells them apart (Fu and Liew,
IEEE JSAC 21(2), 2003). Halving for each such loss would keep a link that loses 1 % of its datagrams half idle for ever,
while nobody gains anything by it. Where a queue fills before it loses, which is what congestion is, the window halves
as TCP's does, and the threshold is what the way held without a queue, as in TCP Westwood (Mascolo et al., MobiCom
2001): half of it or more was queue, and stays away, or the queue was short, is gone at once and the way used again. To
a router that drops with no queue at all the window gives way by a fifth each round trip. The tests hold it to this at a
simulated router: transfers share it, and keep its queue from overflowing for good.

The class takes times and round trips; it knows neither messages nor blocks, and whoever uses it counts what is
outstanding.
"""

from __future__ import annotations

from typing import Optional

from minicoap.errors import UsageError

INITIAL = 4  # blocks, RFC 5681 §3.1
QUEUED = 3.0  # of ours in a queue on the way, from which on a loss is taken for congestion; TCP Veno's beta
AFTER_CONGESTION = 0.5  # of the window that remains
AFTER_RANDOM_LOSS = 0.8
LARGEST_WINDOW = 256  # a quarter of a MiB in 1024-byte blocks; more than that is no answer to a lossy link


class CongestionWindow:
    """One transfer's window, at most `limit`; times are seconds. Raises UsageError for a limit that cannot work."""

    __slots__ = ("_reduced_at", "_shortest", "_size", "_smoothed", "_threshold", "limit", "size")

    def __init__(self, limit: int) -> None:
        if not 1 <= limit <= LARGEST_WINDOW:
            raise UsageError(f"a window has 1 to {LARGEST_WINDOW} blocks, not {limit}")
        self.limit = limit
        self.size = min(INITIAL, limit)  # what may be outstanding
        self._size = float(self.size)
        self._threshold = float(limit)
        self._reduced_at: Optional[float] = None
        self._shortest = 0.0  # round trip, which no queue was part of
        self._smoothed = 0.0

    def acknowledged(self, sent_at: float, outstanding: int, round_trip: Optional[float]) -> None:
        """One that was sent at `sent_at` has come through, while `outstanding`, it included, were under way.

        `round_trip` is how long it took; None where that cannot be told, since it was sent more than once.
        """
        if round_trip is not None:
            if not self._smoothed:
                self._shortest = self._smoothed = round_trip
            elif round_trip < self._shortest:
                self._shortest = round_trip
            self._smoothed += (round_trip - self._smoothed) * 0.25
        if outstanding < self.size or (self._reduced_at is not None and sent_at <= self._reduced_at):
            return
        size = self._size
        if size >= self.limit:
            return
        size += 1.0 if size < self._threshold else 1.0 / size
        self._size = size
        self.size = min(int(size), self.limit)

    def lost(self, sent_at: float, now: float) -> None:
        """One that was sent at `sent_at` has been lost, while others sent later came through."""
        if self._reduced_at is None or sent_at > self._reduced_at:
            queued = self._queued()
            unqueued = self._size - queued
            self._reduce(AFTER_CONGESTION if queued >= QUEUED else AFTER_RANDOM_LOSS, now)
            self._threshold = max(self._size, unqueued) if queued >= QUEUED else self._size

    def timed_out(self, sent_at: float, now: float) -> None:
        """One that was sent at `sent_at` has been lost, and nothing sent later came through."""
        if self._reduced_at is None or sent_at > self._reduced_at:
            self._reduce(AFTER_CONGESTION, now)
            self._threshold = self._size
            self._size = 1.0
            self.size = 1

    def _queued(self) -> float:
        """How many of ours wait in queues on the way: the window's share of the time that is not the way's own."""
        return self._size * (1.0 - self._shortest / self._smoothed) if self._smoothed else self._size

    def _reduce(self, remains: float, now: float) -> None:
        self._reduced_at = now
        self._size = max(1.0, self._size * remains)
        self.size = int(self._size)
