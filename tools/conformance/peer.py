"""The server under test, as a test sees it: send a packet, wait for what answers it, judge that.

Each test has a socket of its own, on a fresh port, so that nothing of another is in its way. Requests are repeated as
RFC 7252 §4.2 has it, and repeated answers are taken for what they are: a link that loses or repeats packets is no fault
of the server's.
"""

from __future__ import annotations

import os
import random
import select
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Callable, Optional, Union

from minicoap.codec import codes
from minicoap.codec.message import ACK, CON, NON, RST, Message
from minicoap.codec.options import CONTENT_FORMAT, ECHO, URI_PATH, URI_QUERY, encode_uint, option_name
from minicoap.core.parameters import TransmissionParameters
from tools.conformance.frames import Address, Frame, craft
from tools.conformance.model import MUST, SHOULD, Failure, Inconclusive, NotApplicable
from tools.conformance.secure import Secure

REFUSALS = (codes.UNAUTHORIZED, codes.FORBIDDEN, codes.TOO_MANY_REQUESTS, codes.SERVICE_UNAVAILABLE)
"""What a server may answer anything with, for reasons of its own."""

SENDINGS = 4
"""How often something is sent before silence is believed."""

PARAMETERS = TransmissionParameters()
Items = Iterable[tuple[int, bytes]]


class Sent:
    """A request that was sent; `frame` as it was, `message_id` and `token` to know its answers by."""

    def __init__(self, frame: Frame, type: int, message_id: int, token: bytes) -> None:
        self.frame = frame
        self.type = type
        self.message_id = message_id
        self.token = token


class Rejected(Inconclusive):
    """The server rejected a request with a reset; `frame` is that."""

    def __init__(self, frame: Frame) -> None:
        super().__init__("the server rejects the request with a reset, for reasons of its own")
        self.frame = frame


class Answer:
    """The response to a request: `frame` has it; `separate` if an empty acknowledgement came before."""

    def __init__(self, frame: Frame, message: Message, separate: bool) -> None:
        self.frame = frame
        self.message = message
        self.separate = separate

    @property
    def code(self) -> int:
        """The response code."""
        return self.message.code

    @property
    def payload(self) -> bytes:
        """The payload."""
        return self.message.payload

    def option(self, number: int) -> Optional[bytes]:
        """The first value of an option."""
        return self.message.options.get(number)

    def uint(self, number: int) -> Optional[int]:
        """The first value of an option as a number."""
        return self.message.options.uint(number)


class Peer:
    """The server at `address`; `resources` maps the roles that tests need to paths.

    `patience` is for how long something that has to come is waited for, in seconds, repetitions included; `grace` for
    how long something that must not come is. `slow` says that tests may take minutes; `secure` is where the server
    speaks CoAPS.
    """

    def __init__(
        self,
        address: Address,
        resources: dict[str, tuple[str, ...]],
        *,
        patience: float = 20.0,
        grace: float = 1.0,
        slow: bool = False,
        record: Optional[Callable[[Frame], None]] = None,
        secure: Optional[Secure] = None,
    ) -> None:
        self.address = address
        self.secure = secure
        self.patience = patience
        self.grace = grace
        self.slow = slow
        self.losses = 0  # packets that had to be repeated: what did not come may have been lost, too
        self.frames: list[Frame] = []
        self._resources = resources
        self._record = record
        self._socket = _connected(address)
        self.local: Address = self._socket.getsockname()[:2]
        self._message_id = random.randrange(0x10000)
        self._held: list[Frame] = []  # received, and not asked for yet
        self._acknowledged: set[int] = set()  # message IDs of the server's; repetitions are acknowledged again
        self._echo: Optional[bytes] = None  # shows the server that this address is ours (RFC 9175 §2.4)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    @contextmanager
    def another(self, address: Optional[Address] = None) -> Iterator[Peer]:
        """Lend a peer on another port, whose packets go into the same record; to another `address` if need be."""
        other = Peer(
            address or self.address, self._resources, patience=self.patience, grace=self.grace, slow=self.slow,
            record=self._record,
        )  # fmt: skip
        other.frames = self.frames
        try:
            yield other
        finally:
            other.close()

    # What to ask for

    def path(self, role: str) -> tuple[str, ...]:
        """Return the path of the resource that plays a role. Raises NotApplicable if there is none."""
        try:
            return self._resources[role]
        except KeyError:
            raise NotApplicable(f"the server has no resource for {role!r}") from None

    def has(self, role: str) -> bool:
        """Whether the server has a resource that plays a role."""
        return role in self._resources

    def next_message_id(self) -> int:
        """Return a message ID that was not used yet."""
        self._message_id = (self._message_id + 1) & 0xFFFF
        return self._message_id

    def token(self, length: int = 4) -> bytes:
        """Return a fresh token."""
        return os.urandom(length)

    # Packets

    def send(self, data: bytes) -> Frame:
        """Send a datagram, whatever it is."""
        frame = Frame(time.time(), True, self.local, self.address, data)
        self._note(frame)
        try:
            self._socket.send(data)
        except OSError as error:
            raise Inconclusive(f"cannot send: {error.strerror}") from error
        return frame

    def receive(self, wanted: Callable[[Frame], bool], timeout: float) -> Optional[Frame]:
        """Return the next frame that is `wanted`, None if none comes in time; others are kept for later."""
        for index, frame in enumerate(self._held):
            if wanted(frame):
                return self._held.pop(index)
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._socket], [], [], left)[0]:
                return None
            try:
                data = self._socket.recv(65535)
            except OSError as error:
                raise Inconclusive(f"{self.address[0]} port {self.address[1]}: {error.strerror}") from error
            frame = Frame(time.time(), False, self.address, self.local, data)
            self._note(frame)
            message = frame.message
            if message is not None and message.type == CON and message.message_id in self._acknowledged:
                self.send(craft(ACK, codes.EMPTY, message.message_id))
            elif wanted(frame):
                return frame
            else:
                self._held.append(frame)

    def request(
        self,
        code: int,
        where: Union[str, Sequence[str]] = (),
        *,
        type: int = CON,
        query: Sequence[str] = (),
        options: Items = (),
        payload: bytes = b"",
        content_format: Optional[int] = None,
        token: Optional[bytes] = None,
        message_id: Optional[int] = None,
    ) -> Sent:
        """Send a request to a role's resource, or to a path."""
        path = self.path(where) if isinstance(where, str) else tuple(where)
        items = [(URI_PATH, segment.encode()) for segment in path]
        items += [(URI_QUERY, argument.encode()) for argument in query]
        if content_format is not None:
            items.append((CONTENT_FORMAT, encode_uint(content_format)))
        items += options
        if self._echo is not None and all(number != ECHO for number, _ in items):
            items.append((ECHO, self._echo))
        token = self.token() if token is None else token
        message_id = self.next_message_id() if message_id is None else message_id
        return Sent(self.send(craft(type, code, message_id, token, items, payload)), type, message_id, token)

    def answer(
        self, sent: Sent, *, patience: Optional[float] = None, skip: Optional[Callable[[Message], bool]] = None
    ) -> Answer:
        """Return the response, the request repeated and a separate response acknowledged as it has to be.

        What has the request's token and still is not its response, as notifications, is for `skip` to say.

        Raises Inconclusive if none comes, Rejected if a reset does, and Failure for a response that does not belong to
        its request.
        """
        deadline = time.monotonic() + (self.patience if patience is None else patience)
        timeout = PARAMETERS.ack_timeout
        acknowledged = False
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                what = "a response after its empty acknowledgement" if acknowledged else "an answer"
                raise Inconclusive(f"{what} to {sent.frame} did not come")
            frame = self.receive(
                lambda frame: _concerns(frame, sent) and (skip is None or not skip(_message(frame))),
                left if acknowledged else min(timeout, left),
            )
            if frame is None:
                if not acknowledged and sent.type == CON:
                    self.losses += 1
                    self.send(sent.frame.data)
                    timeout *= 2
                continue
            message = frame.message
            assert message is not None
            if message.type == RST:
                raise Rejected(frame)
            if message.code == codes.EMPTY:
                acknowledged = True
                continue
            self._judge_carrier(frame, message, sent, acknowledged)
            if message.type == CON:
                self.acknowledge(message)
            return Answer(frame, message, acknowledged or message.type == CON)

    def ask(
        self,
        code: int,
        where: Union[str, Sequence[str]] = (),
        *,
        skip: Optional[Callable[[Message], bool]] = None,
        **arguments: Any,
    ) -> Answer:
        """Send a request and return its response; see `request`. A non-confirmable one is repeated if nothing comes.

        Where the server wants to know first that our address is no forged one, the request is repeated with the Echo
        value that it gives (RFC 9175 §2.4).
        """
        for _ in range(2):
            for last in (False, False, False, True):
                sent = self.request(code, where, **arguments)
                if sent.type == CON or last:
                    answer = self.answer(sent, skip=skip)
                    break
                try:
                    answer = self.answer(sent, patience=max(2 * PARAMETERS.ack_timeout, self.grace), skip=skip)
                    break
                except Inconclusive:
                    self.losses += 1
            echo = answer.option(ECHO)
            if answer.code != codes.UNAUTHORIZED or echo is None or self._echo is not None:
                break
            self._echo = echo
        return answer

    def control(self, role: str = "readable") -> Answer:
        """GET what a role has, plainly: what is asked of it later in another way is there, and may be read."""
        answer = self.ask(codes.GET, role)
        if answer.code != codes.CONTENT:
            raise Inconclusive(f"a plain GET of {role!r} is answered {codes.code_name(answer.code)}")
        return answer

    def insist(self, data: bytes, wanted: Callable[[Frame], bool], rule: str, section: str, **more: Any) -> Frame:
        """Send a datagram until something `wanted` answers it, and return that.

        Raises Failure if nothing does, although the server answers pings before, between and after; and Inconclusive
        if any of those had to be repeated: then packets get lost, and the answer may have been.
        """
        losses = self.losses
        self.ping()
        for _ in range(SENDINGS):
            sent = self.send(data)
            frame = self.receive(wanted, self.grace)
            if frame is None:
                self.ping()
                frame = self.receive(wanted, 0)
            if frame is not None:
                return frame
        if self.losses > losses:
            raise Inconclusive("nothing came back; but packets get lost on the way, and that may have, too")
        raise Failure(rule, section, sent, **more)

    def demand(self, code: int, where: Union[str, Sequence[str]], **arguments: Any) -> Answer:
        """Send a confirmable request that has to be answered, and return the response; see `insist`, `ask`.

        For requests that do no harm if they are carried out again.
        """
        sent = self.request(code, where, **arguments)
        frame = self.insist(
            sent.frame.data,
            lambda frame: _concerns(frame, sent),
            "a confirmable message is acknowledged, or rejected with a reset",
            "RFC 7252 §4.2",
            level=MUST,
        )
        self._held.insert(0, frame)
        return self.answer(sent)

    def acknowledge(self, message: Message) -> Frame:
        """Send the empty acknowledgement of a message, and from now on of its repetitions."""
        self._acknowledged.add(message.message_id)
        return self.send(craft(ACK, codes.EMPTY, message.message_id))

    def forget(self, message: Message) -> None:
        """Do not acknowledge the repetitions of a message any more."""
        self._acknowledged.discard(message.message_id)

    def reset(self, message: Message) -> Frame:
        """Reject a message."""
        return self.send(craft(RST, codes.EMPTY, message.message_id))

    def silence(self, wanted: Callable[[Frame], bool], rule: str, section: str) -> None:
        """Fail if a frame that is `wanted` comes: neither within the grace, nor before an answer to a later ping."""
        frame = self.receive(wanted, self.grace)
        if frame is None:
            self.ping()
            frame = self.receive(wanted, 0.05)
        if frame is not None:
            raise Failure(rule, section, frame)

    def ping(self) -> Frame:
        """Ping the server (RFC 7252 §4.3) and return its reset; raises Inconclusive if none comes."""
        message_id = self.next_message_id()
        deadline, timeout = time.monotonic() + self.patience, PARAMETERS.ack_timeout
        first = True
        while time.monotonic() < deadline:
            self.losses += not first
            first = False
            self.send(craft(CON, codes.EMPTY, message_id))
            frame = self.receive(
                lambda frame: frame.message is not None and frame.message.message_id == message_id
                and frame.message.type in (ACK, RST), timeout,
            )  # fmt: skip
            if frame is not None:
                return frame
            timeout *= 2
        raise Inconclusive("the server does not answer a ping")

    def keep_alive(self) -> None:
        """Send a ping and wait for nothing, so that routers on the way know that this port is in use."""
        self.send(craft(CON, codes.EMPTY, self.next_message_id()))

    def _note(self, frame: Frame) -> None:
        self.frames.append(frame)
        if self._record is not None:
            self._record(frame)

    def _judge_carrier(self, frame: Frame, message: Message, sent: Sent, acknowledged: bool) -> None:
        if message.token != sent.token:
            raise Failure("a response carries the token of its request", "RFC 7252 §5.3.1", frame)
        if message.type == ACK and sent.type == NON:
            raise Failure("a non-confirmable request is not acknowledged", "RFC 7252 §4.3", frame)
        if not codes.is_response(message.code):
            raise Failure("what carries a request's token back is a response", "RFC 7252 §5.2", frame)


def check(condition: object, rule: str, section: str, about: Union[Answer, Frame], level: Optional[str] = None) -> None:
    """Raise Failure if `condition` does not hold."""
    if not condition:
        raise Failure(rule, section, about.frame if isinstance(about, Answer) else about, level=level)


def check_success(answer: Answer, *expected: int, rule: str, section: str) -> None:
    """Raise Failure for a success other than those expected, and Inconclusive for an error: nobody has to serve us.

    Which code a success has is a SHOULD throughout (RFC 7252 §5.8).
    """
    came = codes.code_name(answer.code)
    if not codes.is_success(answer.code):
        raise Inconclusive(f"the server refuses: {came}")
    names = " or ".join(codes.code_name(code) for code in expected)
    check(answer.code in expected, f"{rule} ({names} expected, {came} came)", section, answer, SHOULD)


def check_code(answer: Answer, *expected: int, rule: str, section: str, level: Optional[str] = None) -> None:
    """Raise Failure if the code is none of those expected, and Inconclusive for a refusal that always may be."""
    came = codes.code_name(answer.code)
    if answer.code in REFUSALS and answer.code not in expected:
        raise Inconclusive(f"the server refuses: {came}")
    names = " or ".join(codes.code_name(code) for code in expected)
    check(answer.code in expected, f"{rule} ({names} expected, {came} came)", section, answer, level)


def check_absent(answer: Answer, number: int, rule: str, section: str, level: Optional[str] = None) -> None:
    """Raise Failure if the response has an option."""
    check(answer.option(number) is None, f"{rule} ({option_name(number)} is there)", section, answer, level)


def _message(frame: Frame) -> Message:
    assert frame.message is not None
    return frame.message


def _concerns(frame: Frame, sent: Sent) -> bool:
    message = frame.message
    if message is None:
        return False
    if message.type in (ACK, RST):
        return message.message_id == sent.message_id
    return message.token == sent.token and codes.is_response(message.code)


def _connected(address: Address) -> socket.socket:
    family, kind, protocol, _, target = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.connect(target)
    except OSError:
        sock.close()
        raise
    return sock
