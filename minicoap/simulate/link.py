"""One direction of a simulated link: what it loses, repeats, holds back and refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional

LARGEST_DATAGRAM = 65507  # bytes of payload in an IPv4 datagram: 65,535 less the headers of IP and UDP


class Link:
    """The way from one host to another. All may be changed while the world runs.

    `loss` and `duplicate` are probabilities from 0 to 1. A datagram arrives after `delay` seconds and up to `jitter`
    more, drawn anew for each (and for a duplicate), so that jitter reorders. `rate` in bytes/s makes datagrams queue
    behind each other; None is no limit. `mtu` is the largest datagram in bytes; a larger one fails at its sender with
    EMSGSIZE. While `up` is False, all is lost. `admits`, where set, decides about each datagram before chance does: a
    test can lose exactly the second acknowledgement.
    """

    __slots__ = ("admits", "delay", "duplicate", "free_at", "jitter", "loss", "mtu", "rate", "up")

    def __init__(
        self,
        *,
        loss: float = 0.0,
        duplicate: float = 0.0,
        delay: float = 0.01,
        jitter: float = 0.0,
        rate: Optional[float] = None,
        mtu: int = LARGEST_DATAGRAM,
    ) -> None:
        self.loss = loss
        self.duplicate = duplicate
        self.delay = delay
        self.jitter = jitter
        self.rate = rate
        self.mtu = mtu
        self.up = True
        self.admits: Optional[Callable[[bytes], bool]] = None
        self.free_at = 0.0  # when the datagrams queued so far will have left (rate)

    def copy(self) -> Link:
        """Return a link with the same parameters, up and with an empty queue."""
        return Link(
            loss=self.loss,
            duplicate=self.duplicate,
            delay=self.delay,
            jitter=self.jitter,
            rate=self.rate,
            mtu=self.mtu,
        )

    def arrivals(self, data: bytes, now: float, random: Callable[[], float]) -> tuple[float, ...]:
        """Return when `data`, sent at `now`, arrives: never, once or twice. `random` gives numbers below 1."""
        if not self.up or (self.admits is not None and not self.admits(data)):
            return ()
        if self.rate is not None:
            self.free_at = max(self.free_at, now) + len(data) / self.rate
            now = self.free_at
        if self.loss and random() < self.loss:
            return ()
        if not self.jitter and not self.duplicate:
            return (now + self.delay,)
        first = now + self.delay + self.jitter * random()
        if self.duplicate and random() < self.duplicate:
            return (first, now + self.delay + self.jitter * random())
        return (first,)
