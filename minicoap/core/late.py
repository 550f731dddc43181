"""Answers that are not there yet when a request comes (RFC 7252 §5.2.2), of one endpoint's message layer.

One that comes soon still travels in the acknowledgement; else an empty acknowledgement goes first, and the answer
follows as a message of its own.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Optional

from minicoap.codec import codes
from minicoap.codec.message import ACK, CON, EXTENDED, VERSION_BITS, Message, encode_header
from minicoap.core.deduplication import Deduplication, key_of
from minicoap.core.outgoing import ignore_outcome
from minicoap.core.parameters import Limits
from minicoap.core.peer import Peers
from minicoap.core.request import Deferred, Path, Request, Response, is_wanted
from minicoap.core.timers import Timer, Timers

if TYPE_CHECKING:
    from minicoap.core.reliability import Above, Reliability
    from minicoap.core.transmission import Transmission

logger = logging.getLogger(__name__)


class Pending:
    """A request whose answer is not there yet."""

    __slots__ = ("_owner", "acknowledged", "deadline", "key", "message", "path", "remembers", "timer")

    def __init__(self, owner: LateAnswers, message: Message, path: Path, key: bytes, remembers: bool) -> None:
        self._owner = owner
        self.message = message
        self.path = path
        self.key = key
        self.remembers = remembers
        self.acknowledged = False
        self.timer: Optional[Timer] = None
        self.deadline: Optional[Timer] = None  # None once it is over

    def acknowledge(self, now: float) -> None:
        """The answer will be late."""
        self.acknowledged = True
        self._owner.acknowledge(self)

    def answered(self, request: Request, response: Response, now: float) -> None:
        """The answer is there."""
        self._owner.answered(self, request, response, now)

    def forgotten(self, now: float) -> None:
        """Nobody has answered it in all this time."""
        self._owner.forgotten(self)


class LateAnswers:
    """All requests that wait for their answer; `count` says how many."""

    __slots__ = ("_above", "_answers", "_limits", "_peers", "_reliability", "_timers", "_transmission", "count")

    def __init__(
        self,
        reliability: Reliability,
        transmission: Transmission,
        above: Above,
        peers: Peers,
        timers: Timers,
        answers: Deduplication,
        limits: Limits,
    ) -> None:
        self.count = 0
        self._reliability = reliability
        self._transmission = transmission
        self._above = above
        self._peers = peers
        self._timers = timers
        self._answers = answers
        self._limits = limits

    def wait(self, answer: Deferred, message: Message, path: Path, key: bytes, remembers: bool, now: float) -> None:
        """Have `answer` sent when it is there; `remembers` says whether it is kept for repetitions then."""
        if not key:
            key = key_of(path, message.message_id)
        pending = Pending(self, message, path, key, remembers)
        lifetime = self._reliability.lifetime(message)
        self._answers.wait(key, pending)
        self.count += 1
        pending.deadline = self._timers.after(lifetime, now, pending.forgotten)
        if message.type == CON:
            pending.timer = self._timers.after(self._limits.piggyback_delay, now, pending.acknowledge)
        answer.on_resolved(pending.answered)

    def acknowledge(self, pending: Pending) -> None:
        """Send the empty acknowledgement (§5.2.2)."""
        self._reliability.send_empty(ACK, pending.message.message_id, pending.path)

    def answered(self, pending: Pending, request: Request, response: Response, now: float) -> None:
        """Send a late answer: piggybacked if its acknowledgement is still owed, else confirmable on its own."""
        if not self._end(pending):
            return
        reliability = self._reliability
        response = self._above.late_response(request, response, now)
        message = pending.message
        data: Optional[bytes]
        wanted = not message.options.mask & EXTENDED or is_wanted(message.options, response)
        if pending.acknowledged:
            if wanted:
                self._send_separately(message, response, pending.path, now)
            # A repeated request is acknowledged again and not carried out again.
            data = record_of(VERSION_BITS, message)
        else:
            if wanted:
                data = reliability.reply(message, pending.path, response, now)
            else:
                data = reliability.silence(message, pending.path)
            if not pending.remembers:
                data = None
        if self._answers.recall(pending.key, now) not in (pending, None):
            return  # another request has the message ID by now
        self._answers.forget(pending.key)
        if data is not None:
            self._answers.remember(pending.key, data, reliability.lifetime(message), now)

    def forgotten(self, pending: Pending) -> None:
        """Give up a request that nobody has answered within the lifetime of its message ID.

        In silence: a client stops expecting a response by then (§4.7), its token may belong to another request, and
        what is sent to say so would be rejected. An answer that is given after all is dropped.
        """
        if self._end(pending):
            self._answers.forget(pending.key)
            logger.warning("a deferred answer was never given: %r from %s", pending.message, pending.path[0])

    def _end(self, pending: Pending) -> bool:
        """Count a pending request no more; False if that was done before."""
        if pending.deadline is None:
            return False
        pending.deadline.cancel()
        pending.deadline = None
        self.count -= 1
        if pending.timer is not None:
            pending.timer.cancel()
        return True

    def _send_separately(self, message: Message, response: Response, path: Path, now: float) -> None:
        """Send a late answer as a message of its own, without reliability if too many wait for this peer (§5.2.2)."""
        peer = self._peers.reach(path, now)
        if peer is None:
            return
        transmission = self._transmission
        defended = self._reliability.defended(message, path, response, now)
        is_challenge = defended is not response and defended.code == codes.UNAUTHORIZED
        response = defended
        token = message.token
        payload = response.payload
        assert isinstance(payload, bytes)
        # RFC 9175 §2.4: a challenge never goes in a message that would be repeated.
        if (
            is_challenge
            or transmission.send(peer, response.code, token, response.options, payload, now, ignore_outcome) is None
        ):
            transmission.send_unreliably(peer, response.code, token, response.options, payload)


def record_of(version_bits: int, message: Message) -> bytes:
    """Return what is kept of a message that was answered by an empty acknowledgement: a header and its token.

    It looks like a datagram without code; of version 1 for a request, of version 0 for a response, no answer of ours.
    """
    header = encode_header(CON, codes.EMPTY, 0, message.token)
    return bytes((header[0] & ~VERSION_BITS | version_bits,)) + header[1:]
