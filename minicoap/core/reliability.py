"""The message layer on UDP: confirmable messages, their repetition and acknowledgement (RFC 7252 §4).

Types and message IDs exist here and in `minicoap.core.transmission` only. Above there are requests, responses, tokens;
below, datagrams. This file takes what has come: a request is handed up, and what the layer above returns travels in the
acknowledgement, unless it is late: then an empty acknowledgement goes first and the answer follows as a message of its
own (§5.2). What goes out by itself, and is repeated until it is acknowledged, is that other file's.
"""

from __future__ import annotations

import sys
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
    decode_token,
    encode_header,
)
from minicoap.codec.options import BLOCK1, BLOCK2, CONTENT_FORMAT, IF_MATCH, IF_NONE_MATCH, OBSERVE, Q_BLOCK2
from minicoap.core.deduplication import Deduplication, key_of
from minicoap.core.echo import SAFE_ANSWER
from minicoap.core.entropy import Entropy
from minicoap.core.late import LateAnswers, Pending, record_of
from minicoap.core.parameters import Limits, TransmissionParameters
from minicoap.core.peer import Peer, Peers
from minicoap.core.request import NOT_UNDERSTOOD, Q_BLOCKS, SAFE, Deferred, Path, Request, Response, is_wanted
from minicoap.core.timers import Timers
from minicoap.core.transmission import Transmission, encode_response
from minicoap.errors import MessageFormatError, ResetError

_OVERLOAD_MAX_AGE = 5  # seconds a client is asked to wait when too many answers are pending

# §4.5: repeating these must not carry them out again. PUT and DELETE are idempotent unless they carry a condition; the
# blocks of an upload belong to a sequence, so their first answers are repeated whatever the method. A long response may
# be let go when its last block has been fetched, so that block is repeated too, unless a GET makes it again.
_NOT_IDEMPOTENT = frozenset((codes.POST, codes.PATCH, codes.IPATCH))
_ORDER_MATTERS = 1 << BLOCK1
_CONDITIONS = 1 << IF_MATCH | 1 << IF_NONE_MATCH
_LET_GO = 1 << BLOCK2
_MATTERS = _ORDER_MATTERS | _CONDITIONS | _LET_GO

_MAY_HAVE_NO_ANSWER = EXTENDED | Q_BLOCKS
_MISSING_BLOCKS = 272  # the Content-Format (RFC 9177 §12.3)


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


class Reliability:
    """The message layer of one endpoint; `outbox` is the list that datagrams to send are appended to."""

    def __init__(
        self,
        above: Above,
        transmission: Transmission,
        outbox: list[tuple[bytes, Path]],
        peers: Peers,
        timers: Timers,
        entropy: Entropy,
        parameters: TransmissionParameters,
        limits: Limits,
    ) -> None:
        self._above = above
        self._transmission = transmission
        self._outbox = outbox
        self._peers = peers
        self._parameters = parameters
        self._limits = limits
        self._longest_token = limits.token_length
        self._undefended = SAFE_ANSWER if limits.amplification else sys.maxsize  # bytes of a datagram
        self._answers = Deduplication(
            entropy, timers, parameters.exchange_lifetime, limits.remembered_answers, limits.remembered_bytes
        )
        self._late = LateAnswers(self, transmission, above, peers, timers, self._answers, limits)

    @property
    def pending(self) -> int:
        """How many requests await a late answer."""
        return self._late.count

    @property
    def remembered(self) -> int:
        """How many answers are kept for repeated requests."""
        return len(self._answers)

    def send_empty(self, type: int, message_id: int, path: Path) -> None:
        """Send an empty message: acknowledgement or reset (§4.1)."""
        self._outbox.append((bytes((VERSION_BITS | type << 4, 0, message_id >> 8, message_id & 0xFF)), path))

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
                self._transmission.unconfirmed_ended(unconfirmed, ResetError("the peer rejected the notification"), now)
            elif message.type == RST and peer.rejectable is not None:
                on_reset = peer.rejectable.pop(message.message_id, None)
                if on_reset is not None:
                    on_reset(now)
            return
        if not outgoing.confirmable:
            if message.type == ACK:
                return  # §4.3: it is not acknowledged
            self._transmission.settle(outgoing, now)
        else:
            self._transmission.acknowledge(outgoing, now)
        error = None if message.type == ACK else ResetError("the peer rejected the message with a reset")
        outgoing.on_outcome(error, now)

    def response_received(self, message: Message, path: Path, now: float) -> None:
        """Take a response: piggybacked, or separate and then acknowledged, or rejected (§5.2, §5.3.2)."""
        peer = self._peers.find(path)
        if message.type == ACK:
            outgoing = peer.outstanding.get(message.message_id) if peer is not None else None
            if outgoing is None or not outgoing.confirmable or outgoing.token != message.token:
                return
            self._transmission.acknowledge(outgoing, now)
            outgoing.on_outcome(None, now)
            self._above.response_received(message, peer, path, now)
            return
        if message.type == RST:
            return  # §4.2: only an empty message can be a reset
        if message.type == NON:
            if not self._above.response_received(message, peer, path, now) and _goes_on(message):
                self.send_empty(RST, message.message_id, path)
            return
        if peer is None and self._above.expects(message.token):
            peer = self._peers.reach(path, now)
        if peer is None:
            self.send_empty(RST, message.message_id, path)
            return
        # A repetition of a response taken before is acknowledged again, though nobody waits for it any more.
        key = key_of(path, message.message_id)
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
        key = b""
        if remembers or self._late.count:
            key = key_of(path, message.message_id)
            known = self._answers.recall(key, now)
            if known is not None and self._is_repetition(known, message, path):
                return
        answer: Union[Response, Deferred]
        if len(message.token) > self._longest_token:
            answer = Response.refusal(codes.BAD_REQUEST, "the token is too long")  # RFC 8974 §2.2.2
        elif self._late.count >= self._limits.deferred:
            answer = Response(codes.SERVICE_UNAVAILABLE, max_age=_OVERLOAD_MAX_AGE)
        else:
            answer = self._above.request_received(message, path, now)
        if isinstance(answer, Deferred):
            early = answer.response
            if early is None:
                self._late.wait(answer, message, path, key, remembers, now)
                return
            answer = self._above.late_response(answer.request, early, now)
        data: Optional[bytes]
        if mask & _MAY_HAVE_NO_ANSWER and not is_wanted(message.options, answer):
            data = self.silence(message, path)
        else:
            data = self.reply(message, path, answer, now)
        if remembers and data is not None:
            self._answers.remember(key, data, self.lifetime(message), now)

    def is_repeated(self, message: Message, path: Path, now: float) -> bool:
        """Whether a message to a group was received before; from now on it was."""
        key = key_of(path, message.message_id)
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
                data = encode_response(type, message_id, message.token, defended)
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


def _goes_on(message: Message) -> bool:
    """Whether a non-confirmable response that nobody wants is rejected, so that no more like it come.

    A notification (RFC 7641 §3.6), a block of a body, or a list of blocks that are missing (RFC 9177 §4.3).
    """
    options = message.options
    if options.mask & (1 << OBSERVE | 1 << Q_BLOCK2):
        return True
    return message.code == codes.REQUEST_ENTITY_INCOMPLETE and options.uint(CONTENT_FORMAT) == _MISSING_BLOCKS
