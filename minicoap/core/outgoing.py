"""What the message layer has under way: confirmable messages, non-confirmable requests, and notifications."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Optional, Protocol

from minicoap.core.flight import Flight
from minicoap.core.parameters import TransmissionParameters
from minicoap.core.request import Response
from minicoap.core.timers import Timer
from minicoap.errors import CoapError

if TYPE_CHECKING:
    from minicoap.core.peer import Peer
    from minicoap.core.transmission import Transmission

Outcome = Callable[[Optional[CoapError], float], None]
"""Told once how a confirmable message fared: None for acknowledged, else the error; and the time."""


def ignore_outcome(error: Optional[CoapError], now: float) -> None:
    """How a message fared is of no consequence: whoever it was for asks again if it did not arrive."""


class Notification(Protocol):
    """What the message layer asks of whoever sends a notification (RFC 7641)."""

    def outcome(self, error: Optional[CoapError], now: float) -> None:
        """Told once: None for acknowledged, or not rejected in time if non-confirmable; else the error."""

    def renew(self, now: float) -> tuple[bool, Optional[Response]]:
        """Return what to send instead of repeating an unacknowledged one (RFC 7641 §4.5.2).

        True and another state, or False and the same one with a current sequence number (§4.4), or None: as it was.
        """


class Outgoing:
    """An interaction that NSTART counts (RFC 7252 §4.7), or a message of a flight, or a notification.

    A confirmable message until it is acknowledged, rejected or given up; a non-confirmable request until there is a
    response, or none is expected any more (`is_over`: nothing was from the beginning). `sent_at` is when it was sent
    last, `overtaken` whether one of its flight that was sent later has been acknowledged, `probes` whether its timer
    asks first if it is the last of its flight (see `minicoap.core.flight`).
    """

    __slots__ = (
        "begun_at", "confirmable", "data", "flight", "is_over", "message_id", "notification", "on_outcome", "overtaken",
        "parameters", "peer", "probes", "retransmissions", "sent_at", "timeout", "timer", "token", "transmission",
    )  # fmt: skip

    def __init__(
        self,
        transmission: Transmission,
        peer: Peer,
        confirmable: bool,
        message_id: int,
        token: bytes,
        data: bytes,
        on_outcome: Outcome,
        parameters: TransmissionParameters,
        flight: Optional[Flight] = None,
    ) -> None:
        self.transmission = transmission
        self.peer = peer
        self.confirmable = confirmable
        self.parameters = parameters
        self.is_over = False
        self.message_id = message_id
        self.token = token
        self.data = data
        self.on_outcome = on_outcome
        self.notification: Optional[Notification] = None
        self.flight = flight
        self.retransmissions = 0
        self.begun_at = self.sent_at = 0.0
        self.overtaken = self.probes = False
        self.timeout = 0.0
        self.timer: Optional[Timer] = None

    @property
    def expected_until(self) -> float:
        """Until when silence holds back the next message: a silent peer is sent PROBING_RATE on average (§4.7).

        No longer, though, than a confirmable message would stand there, which sends five times as much meanwhile. The
        messages of a flight have their window for that, and a notification's client has been heard of.
        """
        parameters = self.parameters
        if parameters.congestion_controlled or self.flight is not None or self.notification is not None:
            return self.begun_at
        sent = len(self.data) * (self.retransmissions + 1)
        return self.begun_at + min(sent / parameters.probing_rate, parameters.max_transmit_wait)

    def unexpected(self, now: float) -> None:
        """Nothing is expected any more: another interaction may take its place."""
        self.transmission.unexpected(self, now)

    def timed_out(self, now: float) -> None:
        """No acknowledgement has come in time: repeat the message, or give up."""
        self.transmission.outgoing_timed_out(self, now)

    def waited(self, now: float) -> None:
        """No reset has come in the time until the next non-confirmable notification."""
        self.transmission.unconfirmed_ended(self, None, now)
