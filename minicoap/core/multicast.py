"""Requests to a group of servers, and a server's part in a group (RFC 7252 §8).

A client sends one non-confirmable message and hands on every answer until its time is over; answers are matched by the
token alone. A server answers only what is of use, at a random moment of its leisure, and never with a reset.
"""

from __future__ import annotations

from typing import Callable, Optional, Protocol, Union

from minicoap.codec import codes
from minicoap.codec.message import EXTENDED, NON, Message, Options
from minicoap.codec.options import BLOCK2, ECHO, NO_RESPONSE
from minicoap.core.body import decode_block
from minicoap.core.entropy import Entropy
from minicoap.core.outgoing import Outgoing
from minicoap.core.parameters import Limits, TransmissionParameters
from minicoap.core.peer import Peers
from minicoap.core.reliability import Reliability
from minicoap.core.request import NOT_UNDERSTOOD, Q_BLOCKS, Deferred, Path, Request, Response, is_wanted
from minicoap.core.timers import Timer, Timers
from minicoap.core.transmission import Transmission
from minicoap.errors import CoapError, NetworkError

_TOKEN_LENGTH = 4  # bytes
_MOST_RESPONSES = 65536  # that one request hands on; more are a flood

OnResponse = Callable[[Response, Path], None]
OnEnd = Callable[[Optional[CoapError]], None]
AskAlone = Callable[[Path, Callable[[Union[Response, CoapError]], None], float], None]


class GroupRequest:
    """One request to a group, until its time is over and what it led to has ended."""

    __slots__ = ("_ask", "_done", "_following", "_on_response", "_seen", "forget", "outgoing", "timer")

    def __init__(self, on_response: OnResponse, done: OnEnd, ask: AskAlone) -> None:
        self._on_response: Optional[OnResponse] = on_response
        self._done = done
        self._ask = ask
        self.forget: Callable[[], None] = _nothing  # has the endpoint expect no more answers to it
        self._seen: dict[tuple[Path, int], None] = {}
        self._following = 0  # requests to single members that are under way
        self.outgoing: Optional[Outgoing] = None
        self.timer: Optional[Timer] = None  # None once the time is over

    def cancel(self, now: float) -> None:
        """Hand on nothing more, and do not call `done`; what has not been sent yet is not. More than once is fine."""
        self._on_response = None
        if self.outgoing is not None:
            self.outgoing.transmission.withdraw(self.outgoing, now)
            self.outgoing = None
        self.over(now)

    def received(self, message: Message, path: Path, now: float) -> None:
        """Take a member's answer; one that is not whole is asked for once more, from that member alone."""
        key = (path, message.message_id)
        if key in self._seen or len(self._seen) >= _MOST_RESPONSES or self._on_response is None:
            return
        self._seen[key] = None
        value = message.options.uint(BLOCK2)
        block = None if value is None else decode_block(value)
        challenged = message.code == codes.UNAUTHORIZED and message.options.get(ECHO) is not None
        if challenged or (block is not None and block.more):  # RFC 9175 §2.4, RFC 7959 §2.8

            def done(outcome: Union[Response, CoapError]) -> None:
                self._following -= 1
                if isinstance(outcome, Response):
                    self._hand_on(outcome, path)
                self._end()

            self._following += 1
            self._ask(path, done, now)
            return
        self._hand_on(Response(message.code, message.payload, options=message.options), path)

    def over(self, now: float) -> None:
        """Its time is over."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.forget()
        self._end()

    def sent(self, error: Optional[CoapError], now: float) -> None:
        """The message layer's word: the path to the group failed, or it is another request's turn."""
        if error is not None and self._on_response is not None:
            self.cancel(now)
            self._done(error)

    def _hand_on(self, response: Response, path: Path) -> None:
        if self._on_response is not None:
            self._on_response(response, path)

    def _end(self) -> None:
        if self.timer is None and not self._following and self._on_response is not None:
            self._on_response = None
            self._done(None)


def _nothing() -> None:
    """Until there is something to forget."""


class GroupClient:
    """The requests to groups that an endpoint has under way."""

    __slots__ = ("_entropy", "_peers", "_requests", "_timers", "_transmission")

    def __init__(self, peers: Peers, timers: Timers, entropy: Entropy, transmission: Transmission) -> None:
        self._peers = peers
        self._timers = timers
        self._entropy = entropy
        self._transmission = transmission
        self._requests: dict[bytes, GroupRequest] = {}  # by token

    def __len__(self) -> int:
        return len(self._requests)

    def request(
        self,
        path: Path,
        code: int,
        options: Options,
        payload: bytes,
        request: GroupRequest,
        duration: float,
        now: float,
    ) -> Optional[NetworkError]:
        """Send a request to the group at `path` and hand what comes of it to `request` for `duration` seconds."""
        peer = self._peers.reach(path, now)
        if peer is None:
            return NetworkError("too many peers are busy; see Limits.peers")
        token = self._entropy.token(_TOKEN_LENGTH)
        while token in self._requests:
            token = self._entropy.token(_TOKEN_LENGTH)
        self._peers.avoid_confusion(peer)
        outgoing = self._transmission.send(peer, code, token, options, payload, now, request.sent, confirmable=False)
        if outgoing is None:
            return NetworkError("too many messages wait for this group; see Limits.queued_messages")
        request.outgoing = outgoing
        self._requests[token] = request

        def forget() -> None:
            self._requests.pop(token, None)

        def timed_out(when: float) -> None:
            # Its time begins when it is sent: one to a group that was silent to the last may have to wait (§4.7).
            begun_at = when if peer.waiting is not None and outgoing in peer.waiting else outgoing.begun_at
            if when < begun_at + duration:
                request.timer = self._timers.at(begun_at + duration, timed_out)
            else:
                request.over(when)

        request.forget = forget
        request.timer = self._timers.at(now + duration, timed_out)
        return None

    def expects(self, token: bytes) -> bool:
        """Whether a response with this token may come from anybody."""
        return token in self._requests

    def response_received(self, message: Message, path: Path, now: float) -> bool:
        """Hand on a member's response; False if nobody waits for it, or it cannot be used."""
        request = self._requests.get(message.token)
        if request is None or message.options.mask & (NOT_UNDERSTOOD | Q_BLOCKS):
            return False
        peer = self._peers.reach(path, now)
        if peer is not None:
            peer.verified = True
            peer.echo = message.options.get(ECHO) if message.options.mask & EXTENDED else None
        if request.outgoing is not None:
            self._transmission.responded(request.outgoing, now)
        request.received(message, path, now)
        return True


class _Above(Protocol):
    """The layer that requests to a group are handed to."""

    def group_request_received(self, message: Message, path: Path, now: float) -> Union[Response, Deferred, None]:
        """Answer a request to a group; None for nothing."""

    def late_response(self, request: Request, response: Response, now: float) -> Response:
        """Return the response that a deferred answer leads to, ready for one datagram."""


class GroupServer:
    """A server's part in the groups that its endpoint belongs to."""

    def __init__(
        self,
        above: _Above,
        reliability: Reliability,
        timers: Timers,
        entropy: Entropy,
        parameters: TransmissionParameters,
        limits: Limits,
    ) -> None:
        self._above = above
        self._reliability = reliability
        self._timers = timers
        self._entropy = entropy
        self._parameters = parameters
        self._limits = limits
        self._waiting = 0  # answers that wait for their handler or for their moment

    def __len__(self) -> int:
        return self._waiting

    def message_received(self, message: Message, path: Path, now: float) -> None:
        """Take a message that was sent to a group, by whoever is at `path`; what is not to be answered is ignored."""
        options = message.options
        if (
            message.type != NON  # §8.1: MUST be non-confirmable
            or not codes.is_request(message.code)
            or options.mask & (NOT_UNDERSTOOD | Q_BLOCKS)  # RFC 9177 §4.8
            or len(message.token) > self._limits.token_length
            or self._waiting >= self._limits.deferred
            or self._reliability.is_repeated(message, path, now)
        ):
            return
        answer = self._above.group_request_received(message, path, now)
        if isinstance(answer, Deferred):
            self._await(answer, message, path, now)
        elif answer is not None:
            self._answer(message, path, answer, now)

    def _await(self, answer: Deferred, message: Message, path: Path, now: float) -> None:
        self._waiting += 1

        def resolved(request: Request, response: Response, when: float) -> None:
            if deadline.callback is None:
                return  # too late
            deadline.cancel()
            self._waiting -= 1
            self._answer(message, path, self._above.late_response(request, response, when), when)

        def forgotten(when: float) -> None:
            self._waiting -= 1

        deadline = self._timers.after(self._parameters.non_lifetime, now, forgotten)
        if answer.response is not None:
            resolved(answer.request, answer.response, now)
        else:
            answer.on_resolved(resolved)

    def _answer(self, message: Message, path: Path, response: Response, now: float) -> None:
        """Answer in one's leisure, if the answer is of any use (§8.2)."""
        if not _is_useful(message.options, response):
            return

        def send(when: float) -> None:
            self._waiting -= 1
            self._reliability.reply(message, path, response, when)

        self._waiting += 1
        self._timers.at(now + self._entropy.uniform(0.0, self._parameters.default_leisure), send)


def _is_useful(options: Options, response: Response) -> bool:
    """Whether a group's client wants `response`: as its No-Response option says, else if it is a success that tells."""
    if options.get(NO_RESPONSE) is not None:
        return is_wanted(options, response)  # RFC 7967 §2.1: it overrides
    return response.is_success and bool(response.payload)
