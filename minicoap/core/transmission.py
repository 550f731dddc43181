"""What the message layer sends of its own accord, and repeats until it is acknowledged (RFC 7252 §4.2, §4.3, §4.7).

Confirmable messages, non-confirmable requests and notifications. Whoever sends is told the outcome once. What is sent
in answer to a message, in its acknowledgement or instead of it, is the business of `minicoap.core.reliability`, which
also tells here what has come.
"""

from __future__ import annotations

from collections import deque
from typing import Callable, Optional

from minicoap.codec.message import CON, NON, Message, Options, encode
from minicoap.core.entropy import Entropy
from minicoap.core.flight import Flight
from minicoap.core.outgoing import Notification, Outcome, Outgoing, ignore_outcome
from minicoap.core.parameters import Limits, TransmissionParameters
from minicoap.core.peer import Peer
from minicoap.core.request import Path, Response
from minicoap.core.rto import RoundTrips
from minicoap.core.timers import Timers
from minicoap.errors import CoapError, RequestTimeout

_LONGEST_REPAIR = 4  # round trips between two repetitions of a message while others of its flight come through
_REJECTABLE = 64  # non-confirmable messages to a peer whose rejection is told, the last ones
_NON_INTERVAL = 3.0  # seconds from one non-confirmable notification to a peer to the next (RFC 7641 §4.5.1)


class Transmission:
    """All that one endpoint has under way; `outbox` is the list that datagrams to send are appended to.

    `room_made` is called with a peer that is owed notifications when they may find room.
    """

    def __init__(
        self,
        outbox: list[tuple[bytes, Path]],
        timers: Timers,
        entropy: Entropy,
        parameters: TransmissionParameters,
        limits: Limits,
        room_made: Callable[[Peer], None],
    ) -> None:
        self._outbox = outbox
        self._timers = timers
        self._entropy = entropy
        self._parameters = parameters
        self._limits = limits
        self._room_made = room_made

    def send(
        self,
        peer: Peer,
        code: int,
        token: bytes,
        options: Options,
        payload: bytes,
        now: float,
        on_outcome: Outcome,
        flight: Optional[Flight] = None,
        *,
        confirmable: bool = True,
        parameters: Optional[TransmissionParameters] = None,
    ) -> Optional[Outgoing]:
        """Send a confirmable message or a non-confirmable request, at once or when NSTART allows (§4.7).

        Returns None if its queue is full. `on_outcome` is called at most once, never from inside this call: for a
        confirmable message when its fate is known, for another if it is rejected, the path fails, or nothing is
        expected any more. A message of a `flight`, which is confirmable, goes at once: its congestion window is heeded
        by whoever sends it, and NSTART goes on to hold for all others.
        """
        if parameters is None:
            parameters = self._parameters
        message_id = peer.next_message_id()
        data = encode(Message(CON if confirmable else NON, code, message_id, token, options, payload))
        outgoing = Outgoing(self, peer, confirmable, message_id, token, data, on_outcome, parameters, flight)
        if flight is not None:
            peer.in_flights += 1
            self._transmit_first(outgoing, now)
            return outgoing
        if len(peer.outstanding) - peer.in_flights < parameters.nstart:
            self._transmit_first(outgoing, now)
            return outgoing
        if peer.waiting is None:
            peer.waiting = deque()
        if len(peer.waiting) >= self._limits.queued_messages:
            return None
        peer.waiting.append(outgoing)
        return outgoing

    def send_unreliably(
        self,
        peer: Peer,
        code: int,
        token: bytes,
        options: Options,
        payload: bytes,
        on_reset: Optional[Callable[[float], None]] = None,
    ) -> int:
        """Send a non-confirmable message, once and at once (§4.3); return its length in bytes.

        `on_reset(now)` is called if it is rejected, unless many more have been sent since; see `ignore_resets`.
        """
        message_id = peer.next_message_id()
        data = encode(Message(NON, code, message_id, token, options, payload))
        self._outbox.append((data, peer.path))
        if on_reset is not None:
            rejectable = peer.rejectable
            if rejectable is None:
                rejectable = peer.rejectable = {}
            rejectable.pop(message_id, None)
            rejectable[message_id] = on_reset
            if len(rejectable) > _REJECTABLE:
                del rejectable[next(iter(rejectable))]
        return len(data)

    def ignore_resets(self, peer: Peer, on_reset: Callable[[float], None]) -> None:
        """Nobody wants to be told by `on_reset` any more."""
        if peer.rejectable is not None:
            kept = {message_id: other for message_id, other in peer.rejectable.items() if other != on_reset}
            peer.rejectable = kept or None

    def has_room(self, peer: Peer) -> bool:
        """Whether a notification may be sent to `peer` now (RFC 7641 §4.5.1)."""
        outstanding = len(peer.outstanding) - peer.in_flights
        return peer.unconfirmed is None and not peer.waiting and outstanding < self._parameters.nstart

    def notify(
        self, peer: Peer, response: Response, token: bytes, confirmable: bool, now: float, notification: Notification
    ) -> Outgoing:
        """Send a notification to a peer that has room for it; `response` fits into one datagram."""
        message_id = peer.next_message_id()
        data = encode_response(CON if confirmable else NON, message_id, token, response)
        outgoing = Outgoing(self, peer, confirmable, message_id, token, data, notification.outcome, self._parameters)
        if confirmable:
            outgoing.notification = notification
            self._transmit_first(outgoing, now)
        else:
            # Outstanding as well, until the next may be sent (RFC 7641 §4.5.1); a reset can still find it.
            peer.unconfirmed = outgoing
            self._outbox.append((data, peer.path))
            outgoing.timer = self._timers.after(_NON_INTERVAL, now, outgoing.waited)
        return outgoing

    def unconfirmed_ended(self, outgoing: Outgoing, error: Optional[CoapError], now: float) -> None:
        """Tell the outcome of a non-confirmable notification."""
        peer = outgoing.peer
        if peer.unconfirmed is not outgoing:
            return
        peer.unconfirmed = None
        if outgoing.timer is not None:
            outgoing.timer.cancel()
        if peer.owed is not None:
            self._room_made(peer)
        outgoing.on_outcome(error, now)

    def responded(self, outgoing: Outgoing, now: float) -> None:
        """A response has come, which says all that an acknowledgement would; the outcome is not told (§5.2.2)."""
        outgoing.on_outcome = ignore_outcome
        if outgoing.peer.outstanding.get(outgoing.message_id) is outgoing:
            self.settle(outgoing, now)

    def withdraw(self, outgoing: Outgoing, now: float) -> None:
        """Stop repeating a message that nobody waits for any more; its outcome is not told.

        Giving up early is no licence to send more: towards a silent peer it keeps its place among the outstanding ones
        for as long as PROBING_RATE has it (§4.7). A sign of life frees that at once.
        """
        outgoing.on_outcome = ignore_outcome
        peer = outgoing.peer
        if peer.outstanding.get(outgoing.message_id) is not outgoing:
            if peer.waiting is not None and outgoing in peer.waiting:
                peer.waiting.remove(outgoing)
            return
        until = outgoing.expected_until
        if until <= now:
            self.settle(outgoing, now)
            return
        if outgoing.timer is not None:
            outgoing.timer.cancel()
        outgoing.timer = self._timers.at(until, outgoing.unexpected)

    def fail_all(self, peer: Peer, error: CoapError, now: float) -> None:
        """Give up every message to a peer that cannot be reached."""
        failed = list(peer.outstanding.values()) + list(peer.waiting or ())
        peer.waiting = None
        for outgoing in failed:
            if peer.outstanding.get(outgoing.message_id) is outgoing:
                self.settle(outgoing, now)
            outgoing.on_outcome(error, now)
        if peer.unconfirmed is not None:
            self.unconfirmed_ended(peer.unconfirmed, error, now)

    def _transmit_first(self, outgoing: Outgoing, now: float) -> None:
        parameters = outgoing.parameters
        outgoing.begun_at = now
        if not outgoing.confirmable:
            self._outbox.append((outgoing.data, outgoing.peer.path))
            until = outgoing.expected_until
            outgoing.is_over = until <= now
            if not outgoing.is_over:
                outgoing.peer.sent(outgoing)
                outgoing.timer = self._timers.at(until, outgoing.unexpected)
            return
        outgoing.peer.sent(outgoing)
        round_trips = self._round_trips(outgoing)
        timeout = parameters.ack_timeout if round_trips is None else round_trips.timeout
        # §4.2: the initial timeout is drawn from ACK_TIMEOUT to ACK_TIMEOUT * ACK_RANDOM_FACTOR, then doubled.
        outgoing.timeout = self._entropy.uniform(timeout, timeout * parameters.ack_random_factor)
        delay = outgoing.timeout
        if outgoing.flight is not None and round_trips is not None and round_trips.probe_after < delay:
            outgoing.probes = True
            delay = round_trips.probe_after
        self._transmit(outgoing, delay, now)

    def _transmit(self, outgoing: Outgoing, delay: float, now: float) -> None:
        outgoing.sent_at = now
        if outgoing.flight is not None:
            outgoing.flight.sent(outgoing)
        self._outbox.append((outgoing.data, outgoing.peer.path))
        outgoing.timer = self._timers.at(now + delay, outgoing.timed_out)

    def _round_trips(self, outgoing: Outgoing) -> Optional[RoundTrips]:
        """Return what the timeouts of this message follow, if it is not the fixed ACK_TIMEOUT (§4.8.1)."""
        if outgoing.flight is None and not outgoing.parameters.adaptive_timeout:
            return None
        peer = outgoing.peer
        if peer.round_trips is None:
            peer.round_trips = RoundTrips(outgoing.parameters.ack_timeout)
        return peer.round_trips

    def outgoing_timed_out(self, outgoing: Outgoing, now: float) -> None:
        """Repeat a message with twice the timeout, or give it up (§4.2).

        With the fixed timeout that is after MAX_RETRANSMIT times. A measured one may be shorter, and longer: then it is
        given up when no repetition is left within MAX_TRANSMIT_SPAN, on which the lifetime of message IDs rests.
        """
        if outgoing.probes and not outgoing.overtaken:
            self._probe(outgoing, now)
            return
        round_trips = self._round_trips(outgoing)
        if round_trips is None:
            is_last = outgoing.retransmissions >= outgoing.parameters.max_retransmit
        else:
            is_last = now - outgoing.begun_at >= outgoing.parameters.max_transmit_span
            if not outgoing.overtaken:
                round_trips.timed_out(now)
        if outgoing.flight is not None:
            outgoing.flight.timed_out(outgoing, now)
        if is_last:
            self.settle(outgoing, now)
            outgoing.on_outcome(
                RequestTimeout(f"no acknowledgement after {outgoing.retransmissions + 1} transmissions"), now
            )
            return
        outgoing.retransmissions += 1
        if not outgoing.overtaken:  # else the path works, and it is the window that gives way
            outgoing.timeout *= 2
        outgoing.overtaken = outgoing.probes = False
        if outgoing.notification is not None:
            self._renew(outgoing, outgoing.notification, now)
        self._transmit(outgoing, outgoing.timeout, now)

    def _probe(self, outgoing: Outgoing, now: float) -> None:
        """A message of a flight that nothing has overtaken: send it again if none was sent after it, else wait on."""
        outgoing.probes = False
        flight = outgoing.flight
        assert flight is not None
        if flight.newest is outgoing:
            flight.window.lost(outgoing.sent_at, now)
            outgoing.retransmissions += 1
            self._transmit(outgoing, outgoing.timeout, now)
        else:
            outgoing.timer = self._timers.at(outgoing.sent_at + outgoing.timeout, outgoing.timed_out)

    def acknowledge(self, outgoing: Outgoing, now: float) -> None:
        """Learn from the time that an acknowledgement took, and settle the message."""
        round_trips = self._round_trips(outgoing)
        if round_trips is not None:
            if not outgoing.retransmissions:
                round_trips.measured(now - outgoing.sent_at)
            else:
                round_trips.repeated(now - outgoing.sent_at)
            if outgoing.flight is not None:
                for late in outgoing.flight.acknowledged(outgoing, now):
                    if late.timer is not None:
                        late.timer.cancel()
                    due = late.sent_at + round_trips.expected * min(1 << late.retransmissions, _LONGEST_REPAIR)
                    late.timer = self._timers.at(min(due, late.sent_at + late.timeout), late.timed_out)
        self.settle(outgoing, now)

    def _renew(self, outgoing: Outgoing, notification: Notification, now: float) -> None:
        """Have a notification say what is current; another state goes under another message ID (RFC 7641 §4.5.2)."""
        is_another, response = notification.renew(now)
        if response is None:
            return
        peer = outgoing.peer
        if is_another:
            message_id = peer.next_message_id()
            peer.settled(outgoing.message_id)
            outgoing.message_id = message_id
            peer.sent(outgoing)
        outgoing.data = encode_response(CON, outgoing.message_id, outgoing.token, response)

    def unexpected(self, outgoing: Outgoing, now: float) -> None:
        """Let another interaction take the place of one that nothing is expected of any more."""
        self.settle(outgoing, now)
        outgoing.on_outcome(None, now)

    def settle(self, outgoing: Outgoing, now: float) -> None:
        """Take a message out of the outstanding ones and let the next in line go."""
        peer = outgoing.peer
        peer.settled(outgoing.message_id)
        if outgoing.timer is not None:
            outgoing.timer.cancel()
        if outgoing.flight is not None:
            outgoing.flight.withdrawn(outgoing)
            peer.in_flights -= 1
        while peer.waiting and len(peer.outstanding) - peer.in_flights < peer.waiting[0].parameters.nstart:
            self._transmit_first(peer.waiting.popleft(), now)
        if peer.owed is not None:
            self._room_made(peer)


def encode_response(type: int, message_id: int, token: bytes, response: Response) -> bytes:
    """Return the datagram of a response that fits into one."""
    payload = response.payload
    assert isinstance(payload, bytes)
    return encode(Message(type, response.code, message_id, token, response.options, payload))
