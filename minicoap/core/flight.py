"""The confirmable messages that one transfer has outstanding at once, beyond NSTART (RFC 7252 §4.7, §4.8.1).

A `Flight` is what a transfer hands to the message layer with each of its messages: that layer then sends at once, and
tells it what becomes of them. The messages are kept in the order in which they were last sent. If one is acknowledged,
those before it have been overtaken; each of them is sent again as soon as a round trip should have been over, by the
measure of `minicoap.core.rto`. So one that is lost holds nobody up.

Nothing can overtake the last one. If it is not acknowledged in twice that time it is sent again, once, and only then
comes the timeout: a tail loss probe (RFC 8985 §7; compare RFC 9002 §6.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from minicoap.core.congestion import CongestionWindow

if TYPE_CHECKING:
    from minicoap.core.outgoing import Outgoing


class Flight:
    """One transfer's messages under way; `window` says how many there may be."""

    __slots__ = ("_outgoing", "window")

    def __init__(self, window: CongestionWindow) -> None:
        self.window = window
        self._outgoing: dict[Outgoing, None] = {}  # in the order of their last transmission

    def __len__(self) -> int:
        return len(self._outgoing)

    @property
    def newest(self) -> Outgoing:
        """The one that was sent last."""
        return next(reversed(self._outgoing))

    def sent(self, outgoing: Outgoing) -> None:
        """`outgoing` has been sent, or sent again."""
        self._outgoing.pop(outgoing, None)
        self._outgoing[outgoing] = None

    def acknowledged(self, outgoing: Outgoing, now: float) -> list[Outgoing]:
        """`outgoing` has been acknowledged; return those that it has overtaken for the first time."""
        flight = self._outgoing
        round_trip = now - outgoing.sent_at if not outgoing.retransmissions else None
        self.window.acknowledged(outgoing.sent_at, len(flight), round_trip)
        overtaken = _NONE
        for each in flight:
            if each is outgoing:
                break
            if not each.overtaken:
                each.overtaken = True
                overtaken = [*overtaken, each]
        del flight[outgoing]
        return overtaken

    def timed_out(self, outgoing: Outgoing, now: float) -> None:
        """`outgoing` is about to be sent again, or given up: it was not acknowledged in time."""
        if outgoing.overtaken:
            self.window.lost(outgoing.sent_at, now)
        else:
            self.window.timed_out(outgoing.sent_at, now)

    def withdrawn(self, outgoing: Outgoing) -> None:
        """`outgoing` is not under way any more, without an acknowledgement."""
        self._outgoing.pop(outgoing, None)


_NONE: list[Outgoing] = []
