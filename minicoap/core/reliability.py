"""The message layer on UDP: confirmable messages, their repetition and acknowledgement (RFC 7252 §4).

Types and message IDs exist in this file only. Above it there are requests, responses, tokens; below it datagrams. What
comes from above is sent by `send` and told its outcome once; a request that comes from below is handed up, and what the
layer above returns travels in the acknowledgement, unless it is late: then an empty acknowledgement goes first and the
answer follows as a message of its own (§5.2).
"""

from __future__ import annotations

import sys
from collections import deque
from typing import Optional, Protocol, Union

from minicoap.codec import codes
from minicoap.codec.message import (
    ACK,
    CON,
    DIRECT_TOKEN_LENGTH,
    EXTENDED,
    HEADER,
    MARKER,
    NON,
    RST,
    VERSION_BITS,
    Message,
    Options,
    decode_token,
    encode,
    encode_header,
)
from minicoap.codec.options import BLOCK1, BLOCK2, IF_MATCH, IF_NONE_MATCH, OBSERVE
from minicoap.core.deduplication import Deduplication
from minicoap.core.echo import SAFE_ANSWER
from minicoap.core.entropy import Entropy
from minicoap.core.flight import Flight
from minicoap.core.late import LateAnswers, Pending, ignore_outcome, record_of
from minicoap.core.outgoing import Notification, Outcome, Outgoing
from minicoap.core.parameters import Limits, TransmissionParameters
from minicoap.core.peer import Peer, Peers
from minicoap.core.request import NOT_UNDERSTOOD, SAFE, Deferred, Path, Request, Response, is_wanted
from minicoap.core.rto import RoundTrips
from minicoap.core.timers import Timers
from minicoap.errors import CoapError, MessageFormatError, RequestTimeout, ResetError

_LONGEST_REPAIR = 4  # round trips between two repetitions of a message while others of its flight come through
_OVERLOAD_MAX_AGE = 5  # seconds a client is asked to wait when too many answers are pending

# §4.5: repeating these must not carry them out again. PUT and DELETE are idempotent unless they carry a condition; the
# blocks of an upload belong to a sequence, so their first answers are repeated whatever the method. A long response is
# let go when its last block has been fetched, so that block is repeated too, unless a GET makes it again.
_NOT_IDEMPOTENT = frozenset((codes.POST, codes.PATCH, codes.IPATCH))
_ORDER_MATTERS = 1 << BLOCK1
_CONDITIONS = 1 << IF_MATCH | 1 << IF_NONE_MATCH
_LET_GO = 1 << BLOCK2
_MATTERS = _ORDER_MATTERS | _CONDITIONS | _LET_GO

_NON_INTERVAL = 3.0  # seconds from one non-confirmable notification to a peer to the next (RFC 7641 §4.5.1)


class Above(Protocol):
    """The layer that this one hands things to."""

    def request_received(self, message: Message, path: Path, now: float) -> Union[Response, Deferred]:
        """Answer a request."""

    def late_response(self, request: Request, response: Response, now: float) -> Response:
        """Return the response that a deferred answer leads to, ready for one datagram."""

    def defend(self, message: Message, path: Path, response: Response, size: int, now: float) -> Response:
        """Return what may be sent in place of a large response to an address that may be forged."""

    def expects(self, token: bytes) -> bool:
        """Whether a response with this token is expected from anybody, as members of a group are (§8.2)."""

    def response_received(self, message: Message, peer: Optional[Peer], path: Path, now: float) -> bool:
        """Take a response; False if nobody waits for it, or it cannot be used."""

    def room_made(self, peer: Peer) -> None:
        """Learn that notifications owed to `peer` may find room now."""


class Reliability:
    """The message layer of one endpoint; `outbox` is the list that datagrams to send are appended to."""

    def __init__(
        self,
        above: Above,
        outbox: list[tuple[bytes, Path]],
        peers: Peers,
        timers: Timers,
        entropy: Entropy,
        parameters: TransmissionParameters,
        limits: Limits,
    ) -> None:
        self._above = above
        self._outbox = outbox
        self._peers = peers
        self._timers = timers
        self._entropy = entropy
        self._parameters = parameters
        self._limits = limits
        self._longest_token = limits.token_length
        self._undefended = SAFE_ANSWER if limits.amplification else sys.maxsize  # bytes of a datagram
        self._answers = Deduplication(
            timers, parameters.exchange_lifetime, limits.remembered_answers, limits.remembered_bytes
        )
        self._late = LateAnswers(self, above, peers, timers, self._answers, limits)

    @property
    def pending(self) -> int:
        """How many requests await a late answer."""
        return self._late.count

    @property
    def remembered(self) -> int:
        """How many answers are kept for repeated requests."""
        return len(self._answers)

    # Sending

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

    def send_unreliably(self, peer: Peer, code: int, token: bytes, options: Options, payload: bytes) -> None:
        """Send a non-confirmable message that asks for no response (§4.3)."""
        self._outbox.append((encode(Message(NON, code, peer.next_message_id(), token, options, payload)), peer.path))

    def has_room(self, peer: Peer) -> bool:
        """Whether a notification may be sent to `peer` now (RFC 7641 §4.5.1)."""
        outstanding = len(peer.outstanding) - peer.in_flights
        return peer.unconfirmed is None and not peer.waiting and outstanding < self._parameters.nstart

    def notify(
        self, peer: Peer, response: Response, token: bytes, confirmable: bool, now: float, notification: Notification
    ) -> Outgoing:
        """Send a notification to a peer that has room for it; `response` fits into one datagram."""
        message_id = peer.next_message_id()
        data = _encode_response(CON if confirmable else NON, message_id, token, response)
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
            self._above.room_made(peer)
        outgoing.on_outcome(error, now)

    def send_empty(self, type: int, message_id: int, path: Path) -> None:
        """Send an empty message: acknowledgement or reset (§4.1)."""
        self._outbox.append((bytes((VERSION_BITS | type << 4, 0, message_id >> 8, message_id & 0xFF)), path))

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
                outgoing.peer.outstanding[outgoing.message_id] = outgoing
                outgoing.timer = self._timers.at(until, outgoing.unexpected)
            return
        outgoing.peer.outstanding[outgoing.message_id] = outgoing
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

    def _acknowledge(self, outgoing: Outgoing, now: float) -> None:
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
            del peer.outstanding[outgoing.message_id]
            peer.outstanding[message_id] = outgoing
            outgoing.message_id = message_id
        outgoing.data = _encode_response(CON, outgoing.message_id, outgoing.token, response)

    def unexpected(self, outgoing: Outgoing, now: float) -> None:
        """Let another interaction take the place of one that nothing is expected of any more."""
        self.settle(outgoing, now)
        outgoing.on_outcome(None, now)

    def settle(self, outgoing: Outgoing, now: float) -> None:
        """Take a message out of the outstanding ones and let the next in line go."""
        peer = outgoing.peer
        del peer.outstanding[outgoing.message_id]
        if outgoing.timer is not None:
            outgoing.timer.cancel()
        if outgoing.flight is not None:
            outgoing.flight.withdrawn(outgoing)
            peer.in_flights -= 1
        while peer.waiting and len(peer.outstanding) - peer.in_flights < peer.waiting[0].parameters.nstart:
            self._transmit_first(peer.waiting.popleft(), now)
        if peer.owed is not None:
            self._above.room_made(peer)

    # Receiving

    def malformed_received(self, error: MessageFormatError, path: Path) -> None:
        """Reject a confirmable message that is no message with a reset, ignore any other (§4.2, §4.3)."""
        if error.header is not None and error.header[0] == CON:
            self.send_empty(RST, error.header[2], path)

    def empty_received(self, message: Message, path: Path, now: float) -> None:
        """Take an acknowledgement or a reset; answer an empty confirmable message, a ping, with a reset (§4.3)."""
        if message.type == CON:
            self.send_empty(RST, message.message_id, path)
            return
        peer = self._peers.find(path)
        if peer is None or message.type == NON:
            return
        outgoing = peer.outstanding.get(message.message_id)
        if outgoing is None:
            unconfirmed = peer.unconfirmed
            if message.type == RST and unconfirmed is not None and unconfirmed.message_id == message.message_id:
                self.unconfirmed_ended(unconfirmed, ResetError("the peer rejected the notification"), now)
            return
        if not outgoing.confirmable:
            if message.type == ACK:
                return  # §4.3: it is not acknowledged
            self.settle(outgoing, now)
        else:
            self._acknowledge(outgoing, now)
        error = None if message.type == ACK else ResetError("the peer rejected the message with a reset")
        outgoing.on_outcome(error, now)

    def response_received(self, message: Message, path: Path, now: float) -> None:
        """Take a response: piggybacked, or separate and then acknowledged, or rejected (§5.2, §5.3.2)."""
        peer = self._peers.find(path)
        if message.type == ACK:
            outgoing = peer.outstanding.get(message.message_id) if peer is not None else None
            if outgoing is None or not outgoing.confirmable or outgoing.token != message.token:
                return
            self._acknowledge(outgoing, now)
            outgoing.on_outcome(None, now)
            self._above.response_received(message, peer, path, now)
            return
        if message.type == RST:
            return  # §4.2: only an empty message can be a reset
        if message.type == NON:
            # RFC 7641 §3.6: a notification that nobody wants is rejected, so that no more of them come.
            if not self._above.response_received(message, peer, path, now) and message.options.mask & 1 << OBSERVE:
                self.send_empty(RST, message.message_id, path)
            return
        if peer is None and self._above.expects(message.token):
            peer = self._peers.reach(path, now)
        if peer is None:
            self.send_empty(RST, message.message_id, path)
            return
        # A repetition of a response taken before is acknowledged again, though nobody waits for it any more.
        key = peer.index << 16 | message.message_id
        record = record_of(0, message)
        if self._answers.recall(key, now) == record:
            self.send_empty(ACK, message.message_id, path)
        elif self._above.response_received(message, peer, path, now):
            self._answers.remember(key, record, self._parameters.exchange_lifetime, now)
            self.send_empty(ACK, message.message_id, path)
        else:
            self.send_empty(RST, message.message_id, path)

    def reserved_received(self, message: Message, path: Path) -> None:
        """Reject a confirmable message of a reserved class (§4.2)."""
        if message.type == CON:
            self.send_empty(RST, message.message_id, path)

    def request_received(self, message: Message, path: Path, now: float) -> None:
        """Answer a request, once if it matters (§4.5)."""
        if message.type > NON:
            return  # §4.2: acknowledgements and resets carry no requests
        mask = message.options.mask
        if message.type == NON and mask & NOT_UNDERSTOOD:
            return  # §5.4.1: rejected, which §4.3 allows to do in silence
        remembers = message.code in _NOT_IDEMPOTENT or (mask & _MATTERS != 0 and _remembers(message.code, mask))
        key = 0
        peer: Optional[Peer] = None
        if remembers or self._late.count:
            peer = self._peers.reach(path, now)
            if peer is None:
                return
            key = peer.index << 16 | message.message_id
            known = self._answers.recall(key, now)
            if known is not None and self._is_repetition(known, message, path):
                return
        answer: Union[Response, Deferred]
        if len(message.token) > self._longest_token:
            answer = Response(codes.BAD_REQUEST, b"the token is too long")  # RFC 8974 §2.2.2
        elif self._late.count >= self._limits.deferred:
            answer = Response(codes.SERVICE_UNAVAILABLE, max_age=_OVERLOAD_MAX_AGE)
        else:
            answer = self._above.request_received(message, path, now)
        if isinstance(answer, Deferred):
            early = answer.response
            if early is None:
                self._late.wait(answer, message, path, remembers, now)
                return
            answer = self._above.late_response(answer.request, early, now)
        data: Optional[bytes]
        if mask & EXTENDED and not is_wanted(message.options, answer):
            data = self.silence(message, path)
        else:
            data = self.reply(message, path, answer, now)
        if remembers and data is not None:
            self._answers.remember(key, data, self.lifetime(message), now)

    def is_repeated(self, message: Message, path: Path, now: float) -> bool:
        """Whether a message to a group was received before, or cannot be kept to find that out; from now on it was."""
        peer = self._peers.reach(path, now)
        if peer is None:
            return True
        key = peer.index << 16 | message.message_id
        known = self._answers.recall(key, now)
        if known is not None and self._is_repetition(known, message, path):
            return True
        self._answers.remember(key, record_of(VERSION_BITS, message), self.lifetime(message), now)
        return False

    def lifetime(self, message: Message) -> float:
        """How long the message ID of `message` means this message and no other (§4.4)."""
        return self._parameters.exchange_lifetime if message.type == CON else self._parameters.non_lifetime

    def _is_repetition(self, known: Union[bytes, Pending], message: Message, path: Path) -> bool:
        """Answer a repeated request as the first was; the same ID with another token is a new request."""
        if isinstance(known, bytes):
            if not known[0] & VERSION_BITS or decode_token(known)[0] != message.token:
                return False
            # §4.5: a repeated NON is ignored in silence
            if message.type == CON:
                if known[1] == codes.EMPTY:
                    self.send_empty(ACK, message.message_id, path)
                else:
                    self._outbox.append((known, path))
            return True
        if known.message.token != message.token:
            return False
        if known.acknowledged and message.type == CON:
            self.send_empty(ACK, message.message_id, path)
        return True

    def reply(self, message: Message, path: Path, response: Response, now: float) -> Optional[bytes]:
        """Send `response` in the acknowledgement of `message`, or as NON if it was one (§5.2.3)."""
        payload = response.payload
        assert isinstance(payload, bytes)
        type = ACK
        message_id = message.message_id
        if message.type == NON:
            peer = self._peers.reach(path, now)
            if peer is None:
                return None
            type = NON
            message_id = peer.next_message_id()
        token = message.token
        size = len(token)
        if size > DIRECT_TOKEN_LENGTH:
            head = encode_header(type, response.code, message_id, token)
            token = b""
        else:
            head = HEADER.pack(VERSION_BITS | type << 4 | size, response.code, message_id)
        raw = response.options.raw
        data = b"".join((head, token, raw, MARKER, payload)) if payload else head + token + raw
        if len(data) > self._undefended:
            defended = self._above.defend(message, path, response, len(data), now)
            if defended is not response:
                data = _encode_response(type, message_id, message.token, defended)
        self._outbox.append((data, path))
        return data

    def defended(self, message: Message, path: Path, response: Response, now: float) -> Response:
        """Return `response` as it may be sent in a message of its own (RFC 9175 §2.4)."""
        payload = response.payload
        assert isinstance(payload, bytes)
        size = 5 + len(message.token) + len(response.options.raw) + len(payload)
        return response if size <= self._undefended else self._above.defend(message, path, response, size, now)

    def silence(self, message: Message, path: Path) -> bytes:
        """Send no response (RFC 7967): a confirmable request is acknowledged, or it would be repeated."""
        if message.type == CON:
            self.send_empty(ACK, message.message_id, path)
        return record_of(VERSION_BITS, message)


def _remembers(code: int, mask: int) -> bool:
    """Whether the answer to a request that is idempotent by its method is remembered for its options' sake."""
    return (
        mask & _ORDER_MATTERS != 0
        or (mask & _CONDITIONS != 0 and code not in SAFE)
        or (mask & _LET_GO != 0 and code != codes.GET)
    )


def _encode_response(type: int, message_id: int, token: bytes, response: Response) -> bytes:
    payload = response.payload
    assert isinstance(payload, bytes)
    return encode(Message(type, response.code, message_id, token, response.options, payload))
