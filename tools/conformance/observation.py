"""An observation, as the tester keeps it with a server: register, take notifications and judge each, end it (RFC 7641).

Sequence numbers are judged by the order of arrival. A network may change that order; so a notification counts as out of
order only if it comes a second after the one that it is older than, and is not a repetition.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Optional

from minicoap.codec import codes
from minicoap.codec.message import CON, NON, Message
from minicoap.codec.options import BLOCK2, CONTENT_FORMAT, DEFAULT_MAX_AGE, MAX_AGE, OBSERVE, encode_uint
from tools.conformance.frames import Frame
from tools.conformance.model import Failure, Inconclusive, NotApplicable
from tools.conformance.peer import Answer, Peer, check

REGISTER, DEREGISTER = b"", b"\x01"
SETTLE = 1.0  # seconds after which what was on its way has come
TOGETHER = 1.0  # seconds within which a network may change the order of packets
KEEP_ALIVE = 5.0  # seconds of silence after which a router on the way might forget us
HALF = 1 << 23  # of the sequence numbers (RFC 7641 §3.4)


def is_newer(number: int, than: int) -> bool:
    """Whether a sequence number is the newer one, time left aside (RFC 7641 §3.4)."""
    return number != than and (number - than) % (1 << 24) < HALF


class Observation:
    """One registration: `token` names it, `notifications` are those that came, each once."""

    def __init__(self, peer: Peer, role: str, *, type: int = CON, options: Iterable[tuple[int, bytes]] = ()) -> None:
        self.peer = peer
        self.role = role
        self.token = peer.token()
        self.notifications: list[Answer] = []
        self.first: Answer
        self._type = type
        self._options = list(options)
        self._seen: set[int] = set()
        self._registered = False

    def register(self) -> Answer:
        """Register, or do so again, and return the response. Raises NotApplicable if the server adds nobody."""
        answer = self.peer.ask(
            codes.GET, self.role, type=self._type, token=self.token, options=[(OBSERVE, REGISTER), *self._options],
            skip=_is_notification if self._registered else None,
        )  # fmt: skip
        if answer.code != codes.CONTENT:
            raise Inconclusive(f"the registration is answered {codes.code_name(answer.code)}")
        if answer.option(OBSERVE) is None:
            raise NotApplicable("the server does not add us to the observers; it need not")
        self._seen.add(answer.message.message_id)
        self.first = answer
        self.notifications.append(answer)
        self._registered = True
        return answer

    def raw(self, timeout: float) -> Optional[Frame]:
        """Return the next notification as it is, a repetition too, and do not acknowledge it."""
        return self.peer.receive(self._is_notification, timeout)

    def next(self, timeout: Optional[float] = None, *, acknowledge: bool = True) -> Optional[Answer]:
        """Return the next notification that is no repetition, judged; None if none comes in time."""
        deadline = time.monotonic() + (self.peer.patience if timeout is None else timeout)
        while True:
            left = deadline - time.monotonic()
            frame = self.raw(max(0.0, min(left, KEEP_ALIVE)))
            if frame is None:
                if left <= KEEP_ALIVE:
                    return None
                self.peer.keep_alive()
                continue
            message = frame.message
            assert message is not None
            if message.type == CON and acknowledge:
                self.peer.acknowledge(message)
            if message.message_id in self._seen:
                continue
            self._seen.add(message.message_id)
            answer = Answer(frame, message, True)
            self._judge(answer)
            self.notifications.append(answer)
            return answer

    def expect(self, timeout: Optional[float] = None) -> Answer:
        """Return the next notification; raises Inconclusive if none comes, since nothing may have changed."""
        answer = self.next(timeout)
        if answer is None:
            raise Inconclusive("no notification came; the resource may not have changed")
        return answer

    def period(self) -> float:
        """Return how long to wait for another notification, in seconds, by how they came so far."""
        times = [answer.frame.at for answer in self.notifications]
        gaps = [later - earlier for earlier, later in zip(times, times[1:])]
        return max([2.5 * gap for gap in gaps] + [2 * self.peer.grace])

    def deregister(self) -> Answer:
        """Ask, by the same token, not to be notified any more; return the response."""
        self._registered = False
        answer = self.peer.ask(
            codes.GET, self.role, type=self._type, token=self.token, options=[(OBSERVE, DEREGISTER), *self._options],
            skip=_is_notification,
        )  # fmt: skip
        self._seen.add(answer.message.message_id)
        return answer

    def reset(self, answer: Answer) -> None:
        """Reject a notification."""
        self.peer.reset(answer.message)

    def end(self) -> None:
        """See to it that the server forgets us; nothing is judged."""
        if not self._registered:
            return
        self._registered = False
        try:
            self.deregister()
        except (Failure, Inconclusive, NotApplicable):
            return

    def silent(self, rule: str, section: str, *, reset: bool = False, allowed: int = 1) -> None:
        """Fail if new notifications go on.

        One may have been on its way, or be repeated since its acknowledgement got lost: so more than `allowed` have to
        come, each by itself once all that was sent before must have arrived. With `reset` each of them is rejected.
        """
        period = self.period()
        self._drain(SETTLE, reset)
        for _ in range(allowed + 1):
            frame = self._fresh(period, reset)
            if frame is None:
                return
        raise Failure(rule, section, frame)

    def stale(self) -> None:
        """Judge that no notification came, though a GET gives another state than the last one told.

        That may be so for as long as what was told last is fresh (RFC 7641 §4.3.1).
        """
        last = self.notifications[-1]
        now = self.peer.ask(codes.GET, self.role)
        if now.code != codes.CONTENT or now.payload == last.payload:
            raise Inconclusive("no notification came; the resource may not have changed")
        age = max_age(last.message)
        if age > self.peer.patience:
            raise Inconclusive(f"no notification came, but what was told last holds for {age} s (Max-Age)")
        if self.next(age + max(SETTLE, 2 * self.peer.grace)) is not None:
            return
        if self.peer.losses:
            raise Inconclusive("no notification came; but packets get lost on the way")
        raise Failure(
            "an observer is told the latest state, at the latest when what it was told last is not fresh any more",
            "RFC 7641 §4.3.1, §4.5", now.frame,
        )  # fmt: skip

    def _drain(self, seconds: float, reset: bool) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._fresh(left, reset)

    def _fresh(self, timeout: float, reset: bool) -> Optional[Frame]:
        deadline = time.monotonic() + timeout
        while True:
            frame = self.raw(max(0.0, deadline - time.monotonic()))
            if frame is None:
                return None
            message = frame.message
            assert message is not None
            if reset:
                self.peer.reset(message)
            elif message.type == CON:
                self.peer.acknowledge(message)
            if message.message_id not in self._seen:
                self._seen.add(message.message_id)
                return frame

    def _is_notification(self, frame: Frame) -> bool:
        message = frame.message
        return (
            message is not None and message.token == self.token and codes.is_response(message.code)
            and message.type in (CON, NON)
        )  # fmt: skip

    def _judge(self, answer: Answer) -> None:
        number = answer.uint(OBSERVE)
        if not codes.is_success(answer.code):
            check(number is None, "a notification of an error has no Observe option", "RFC 7641 §4.2", answer)
            return
        check(number is not None, "a notification has an Observe option", "RFC 7641 §4.2", answer)
        check(
            answer.option(CONTENT_FORMAT) == self.first.option(CONTENT_FORMAT) or answer.code == codes.VALID,
            "all notifications have the Content-Format of the first response", "RFC 7641 §4.2", answer,
        )  # fmt: skip
        assert number is not None
        for previous in reversed(self.notifications):
            before = previous.uint(OBSERVE)
            if before is None or (answer.frame.at - previous.frame.at < TOGETHER and before != number):
                continue
            check(
                is_newer(number, before),
                "the Observe value of a notification is newer than that of any before",
                "RFC 7641 §4.4",
                answer,
            )
            return


def _is_notification(message: Message) -> bool:
    return message.type in (CON, NON) and message.options.get(OBSERVE) is not None


def max_age(message: Message) -> int:
    """Return for how many seconds a response is fresh."""
    value = message.options.uint(MAX_AGE)
    return DEFAULT_MAX_AGE if value is None else value


def block_option(szx: int) -> tuple[int, bytes]:
    """Return a Block2 option that asks for the first block, of a size."""
    return BLOCK2, encode_uint(szx)
