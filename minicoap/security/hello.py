"""The first word of a DTLS handshake: hellos of clients, answered without keeping anything (RFC 6347 §4.2.1).

Whoever says hello is asked to say it again with a cookie, which only he can have heard who is where he says. Nothing of
this needs OpenSSL, whose connections cost memory and time: it sees no hello before its cookie was found to be ours. A
`Reception` also bounds how many are answered in a turn of the loop; the rest is dropped at the cost of looking at it.
Honest clients say it again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from hashlib import blake2b
from hmac import compare_digest
from typing import Callable, NamedTuple, Optional

from minicoap.core.entropy import Entropy
from minicoap.core.request import Path
from minicoap.core.timers import Timer, Timers

logger = logging.getLogger(__name__)

RECORD_HEADER = 13  # bytes (RFC 6347 §4.1)
MESSAGE_HEADER = 12  # bytes, of a handshake's message behind it (RFC 6347 §4.2.2)
CLIENT_HELLO, HELLO_VERIFY = 1, 3
ANSWERS_A_TURN = 32  # hellos that are asked for a cookie, of the 64 datagrams that a turn of the loop may bring
ADAPTED_EVERY = 0.05  # seconds
STRAYS_A_PERIOD = 500  # records of no session, in such a time
HELLOS_A_PERIOD = 250  # of each kind: all in all a tenth of a processor's time, or so

ADMITTED = b""

_STRAYS_BORNE = 500  # records of no session without a thought
_CLOSED_FOR = 10.0  # seconds; then is looked again
_LOGGED_EVERY = 10.0  # seconds
_HANDSHAKE = 22  # content type of a record
_AHEAD = 2  # powers of two: where a flood begins, more came than was read
_SMALLEST_SHARE = 12  # as a power of two
_SHORTEST = 66  # bytes: empty session ID and cookie, one suite, one method of compression
_COOKIE = 16  # bytes
_COOKIE_SECONDS = 60  # a cookie is good for at least so long, and for at most twice that
_RANDOM = slice(27, 59)  # behind record header, message header and version
_VERIFY = b"\xfe\xff" + bytes((_COOKIE,))  # DTLS 1.0, whatever is agreed on later


class Hello(NamedTuple):
    """A client's hello: the record's number, the cookie (empty if none), and what the cookie answers for."""

    number: bytes
    cookie: bytes
    parameters: bytes


def hello_random(datagram: bytes) -> Optional[bytes]:
    """Return the random value of a datagram that begins with a client's hello; None for any other (RFC 6347 §4.3.2)."""
    if len(datagram) < 59 or datagram[0] != _HANDSHAKE or datagram[3:5] != b"\0\0" or datagram[13] != CLIENT_HELLO:
        return None
    return datagram[_RANDOM]


def read_hello(datagram: bytes) -> Optional[Hello]:
    """Return a hello that is whole, alone in its datagram and the first of its handshake, or the second; else None.

    One that comes in fragments is none: they would have to be kept before anything is known of its sender.
    """
    size = len(datagram)
    if size < _SHORTEST or datagram[0] != _HANDSHAKE or datagram[1] != 0xFE or datagram[3:5] != b"\0\0":
        return None
    length = datagram[14:17]
    if (
        datagram[13] != CLIENT_HELLO
        or int.from_bytes(datagram[11:13], "big") != size - RECORD_HEADER
        or int.from_bytes(length, "big") != size - RECORD_HEADER - MESSAGE_HEADER
        or datagram[19:22] != b"\0\0\0"
        or datagram[22:25] != length
    ):
        return None
    at = 60 + datagram[59]  # behind the session ID
    if datagram[59] > 32 or at >= size:
        return None
    behind = at + 1 + datagram[at]
    suites = behind + 2 + int.from_bytes(datagram[behind : behind + 2], "big")
    if suites >= size or suites + 1 + datagram[suites] > size:
        return None
    return Hello(
        datagram[5:11], datagram[at + 1 : behind], datagram[25:at] + datagram[behind : suites + 1 + datagram[suites]]
    )


class Admission(NamedTuple):
    """What is to reach us of what comes: of hellos one in two to the power of these, of records those from `ports`."""

    without_cookie: int = 0
    with_cookie: int = 0
    ports: Optional[frozenset[int]] = None  # of the other side; None for all


_OPEN = Admission()


class Reception:
    """Receives those who have no session; keeps a key and a few counts, and nothing of any of them.

    `dropped` counts the hellos that were not answered. While more comes than can be looked at, `admit` is called, where
    it is set, with what is to reach us at all. `held` says what the server holds, for the log; `ports` from which ports
    its sessions and handshakes come.
    """

    def __init__(
        self,
        entropy: Entropy,
        timers: Timers,
        held: Callable[[], str] = str,
        ports: Callable[[], Iterable[int]] = frozenset,
    ) -> None:
        self.dropped = 0
        self.admit: Optional[Callable[[Admission], None]] = None
        self._admission = Admission()
        self._key = entropy.token(32)
        self._held = held
        self._ports = ports
        self._turn = -1.0
        self._answers = 0  # left in this turn
        self._seen = [0, 0]  # hellos without cookie and with one, in this period
        self._strays = 0  # records of no session, in this period
        self._closed_until = 0.0  # to records from other ports
        self._dropped = 0  # when it was last told
        self._timers = timers
        self._timer: Optional[Timer] = None  # as long as there is a flood
        self._logged_at = 0.0

    def receive(self, datagram: bytes, address: Path, now: float) -> Optional[bytes]:
        """Take what came from `address`: return the answer, ADMITTED for a hello with its cookie, None to drop it."""
        if now != self._turn:
            self._turn, self._answers = now, ANSWERS_A_TURN
        hello = read_hello(datagram)
        if hello is None:
            return None
        cookie = hello.cookie
        self._seen[bool(cookie)] += 1
        if cookie or self._answers:
            slot = int(now // _COOKIE_SECONDS)
            ours = self._cookie(hello, address, slot)
            if cookie and (
                compare_digest(cookie, ours) or compare_digest(cookie, self._cookie(hello, address, slot - 1))
            ):
                return ADMITTED
            if self._answers:  # a cookie that is not ours counts for none
                self._answers -= 1
                return _verify_request(hello.number, ours)
        self.dropped += 1
        if self._timer is None:
            self._watch(now)
        return None

    def stray(self, now: float) -> None:
        """Note that a record came which belongs to no session."""
        self._strays += 1
        if self._timer is None and self._strays > _STRAYS_BORNE:
            self._watch(now)

    def _watch(self, now: float) -> None:
        self._seen = [0, 0]  # nobody knows since when
        self._strays = 0
        self._logged_at = now - _LOGGED_EVERY
        self._timer = self._timers.at(now + ADAPTED_EVERY, self._adapt)

    def _adapt(self, now: float) -> None:
        """Choose what is to reach us by what came in the last period."""
        shares = []
        for share, seen in zip(self._admission[:2], self._seen):
            fitting = ((seen << share) // HELLOS_A_PERIOD).bit_length()
            if fitting > share:
                fitting += _AHEAD
            shares.append(min(max(fitting, share - 1), _SMALLEST_SHARE))
        if self._strays > STRAYS_A_PERIOD:
            self._closed_until = now + _CLOSED_FOR
        ports = frozenset(self._ports()) if now < self._closed_until else None
        admission = Admission(shares[0], shares[1], ports)
        if admission != self._admission and self.admit is not None:
            self.admit(admission)
        self._admission = admission
        is_flood = admission != _OPEN
        if is_flood and now >= self._logged_at + _LOGGED_EVERY:
            self._logged_at = now
            logger.warning(
                "a flood of DTLS: of hellos without a cookie one in %d is looked at, of others one in %d, of records"
                " %s; %d hellos that were looked at got no answer; %s",
                1 << shares[0],
                1 << shares[1],
                "all" if ports is None else "those from ports of sessions",
                self.dropped,
                self._held(),
            )
        is_over = not is_flood and self.dropped == self._dropped and self._strays <= _STRAYS_BORNE
        self._seen, self._strays, self._dropped = [0, 0], 0, self.dropped
        self._timer = None if is_over else self._timers.at(now + ADAPTED_EVERY, self._adapt)

    def _cookie(self, hello: Hello, address: Path, slot: int) -> bytes:
        text = repr((slot, tuple(address))).encode() + hello.parameters
        return blake2b(text, key=self._key, digest_size=_COOKIE).digest()


def _verify_request(number: bytes, cookie: bytes) -> bytes:
    """Return a HelloVerifyRequest, in a record with the number of the hello's (RFC 6347 §4.2.1)."""
    body = _VERIFY + cookie
    length = len(body).to_bytes(3, "big")
    message = bytes((HELLO_VERIFY,)) + length + bytes(5) + length + body
    return b"\x16\xfe\xff\0\0" + number + len(message).to_bytes(2, "big") + message
