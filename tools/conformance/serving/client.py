"""The client under test, as a test sees it: wait for what it sends, answer, judge.

All tests share a socket, for the client has to find us at one address. A link that loses packets is no fault of the
client's: what it repeats is answered again, what we send confirmably is repeated, unless a test is about just that.
"""

from __future__ import annotations

import random
import select
import socket
import time
from collections.abc import Iterable, Sequence
from typing import Any, Callable, Optional, Union

from minicoap.codec import codes
from minicoap.codec.message import ACK, CON, NON, RST, Message
from minicoap.codec.options import CONTENT_FORMAT, encode_uint
from minicoap.codec.uri import CoapUri, format_uri
from minicoap.core.parameters import TransmissionParameters
from minicoap.errors import OptionError
from tools.conformance.capture.links import Datagram
from tools.conformance.frames import Address, Frame, craft
from tools.conformance.grading.exchanges import find
from tools.conformance.grading.model import Side
from tools.conformance.grading.rules import judge, reused_ids
from tools.conformance.model import Failure, Inconclusive
from tools.conformance.serving.model import Ask, Driver

PARAMETERS = TransmissionParameters()
DUPLICATED = 0.2  # seconds within which the same message came twice by the network's doing
Items = Iterable[tuple[int, bytes]]
Wanted = Callable[[Frame], bool]


class Request:
    """A request that came: `frame` as it was, `message` what it says, `at` when, by the monotonic clock."""

    def __init__(self, frame: Frame, message: Message, at: float) -> None:
        self.frame = frame
        self.message = message
        self.at = at

    @property
    def client(self) -> Address:
        """Where it came from."""
        return self.frame.source

    @property
    def path(self) -> tuple[str, ...]:
        """The path; raises Failure for what is no text."""
        try:
            return self.message.options.path
        except OptionError:
            raise Failure("Uri-Path is UTF-8", "RFC 7252 §5.10.1", self.frame) from None

    @property
    def query(self) -> tuple[str, ...]:
        """The query; raises Failure for what is no text."""
        try:
            return self.message.options.query
        except OptionError:
            raise Failure("Uri-Query is UTF-8", "RFC 7252 §5.10.1", self.frame) from None

    def uint(self, number: int) -> Optional[int]:
        """The first value of an option as a number."""
        return self.message.options.uint(number)


class Port:
    """The socket at which clients find us, at a host and port, 0 for any that is free. Raises OSError."""

    def __init__(self, host: str, port: int, record: Optional[Callable[[Frame], None]] = None) -> None:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        self.socket = socket.socket(family, kind, protocol)
        try:
            self.socket.bind(address)
        except OSError:
            self.socket.close()
            raise
        self.address: Address = self.socket.getsockname()[:2]
        self.record = record
        self.message_id = random.randrange(0x10000)

    def uri(self, path: str) -> str:
        """Return the URI of a path and query here."""
        return format_uri(CoapUri("coap", *self.address, (), ())).rstrip("/") + path

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


class Client:
    """One attempt at a test.

    `patience` is for how long something that has to come is waited for, `grace` for how long something that must not
    come is, both in seconds.
    """

    def __init__(self, port: Port, driver: Driver, *, patience: float, grace: float) -> None:
        self.patience = patience
        self.grace = grace
        self.frames: list[Frame] = []
        self.answers_again = True
        """Whether what the client repeats is answered as it was before."""
        self._port = port
        self._driver = driver
        self._ends: list[Callable[[], None]] = []
        self._held: list[tuple[Frame, float]] = []
        self._answers: dict[tuple[Address, bytes], bytes] = {}

    # What the client is to do

    def ask(self, method: str, path: str = "", **arguments: Any) -> None:
        """Have the client do something."""
        self._ends.append(self._driver(Ask(method, path, **arguments), self._port.uri(path)))

    def end(self) -> None:
        """End what the client does."""
        while self._ends:
            self._ends.pop()()

    # Packets

    def receive(self, wanted: Wanted, timeout: float) -> Optional[tuple[Frame, float]]:
        """Return the next frame that is `wanted`, and when it came; None if none does in time."""
        for index, (frame, at) in enumerate(self._held):
            if wanted(frame):
                del self._held[index]
                return frame, at
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._port.socket], [], [], left)[0]:
                return None
            try:
                data, address = self._port.socket.recvfrom(65535)
            except OSError:  # an ICMP error: the client is away
                continue
            at = time.monotonic()
            frame = Frame(time.time(), False, address[:2], self._port.address, data)
            self._note(frame)
            answer = self._answers.get((frame.source, data))
            if answer is not None and self.answers_again:
                self._send(answer, frame.source)
                continue
            if wanted(frame):
                return frame, at
            self._held.append((frame, at))

    def request(
        self, code: int, path: Optional[Sequence[str]] = None, *, type: Optional[int] = None,
        timeout: Optional[float] = None,
    ) -> Request:  # fmt: skip
        """Wait for a request of that method, to that path where one is given. Raises Inconclusive if none comes."""
        found = self.next_request(code, path, type=type, timeout=self.patience if timeout is None else timeout)
        if found is None:
            where = "" if path is None else " /" + "/".join(path)
            raise Inconclusive(f"the client did not send {codes.code_name(code)}{where} in time")
        return found

    def next_request(
        self, code: int, path: Optional[Sequence[str]] = None, *, type: Optional[int] = None, timeout: float
    ) -> Optional[Request]:
        """Wait for a request that was not seen before; None if none comes."""
        known = {(frame.source, frame.data) for frame in self.frames if not frame.sent}
        known -= {(frame.source, frame.data) for frame, _ in self._held}

        def wanted(frame: Frame) -> bool:
            message = frame.message
            if message is None or message.code != code or message.type not in (CON, NON):
                return False
            is_there = path is None or Request(frame, message, 0.0).path == tuple(path)
            return is_there and (type is None or message.type == type) and (frame.source, frame.data) not in known

        found = self.receive(wanted, timeout)
        if found is None:
            return None
        assert found[0].message is not None
        return Request(found[0], found[0].message, found[1])

    def copy(self, request: Request, timeout: float) -> Optional[Request]:
        """Wait for the client to repeat a request; None if it does not. Raises Failure if it changes it.

        `request` is the latest copy that was seen: what comes at its heels is the network's doing.
        """
        not_before = request.frame.at + DUPLICATED

        def wanted(frame: Frame) -> bool:
            message = frame.message
            if message is None or frame.source != request.client or frame.at < not_before:
                return False
            return message.code == request.message.code and message.message_id == request.message.message_id

        found = self.receive(wanted, timeout)
        if found is None:
            return None
        frame, at = found
        if frame.data != request.frame.data:
            raise Failure("a message that is repeated is the same, byte for byte", "RFC 7252 §4.2", frame)
        assert frame.message is not None
        return Request(frame, frame.message, at)

    # Answers

    def reply(
        self, request: Request, code: int, *, options: Items = (), payload: bytes = b"",
        content_format: Optional[int] = None, token: Optional[bytes] = None,
    ) -> None:  # fmt: skip
        """Answer: in the acknowledgement of a confirmable request, by a non-confirmable message otherwise."""
        message = request.message
        items = _items(options, content_format)
        token = message.token if token is None else token
        type, message_id = (ACK, message.message_id) if message.type == CON else (NON, self.next_message_id())
        data = craft(type, code, message_id, token, items, payload)
        if message.type == CON:
            self._answers[request.client, request.frame.data] = data
        self._send(data, request.client)

    def acknowledge(self, request: Request) -> None:
        """Acknowledge a request by an empty message."""
        data = craft(ACK, codes.EMPTY, request.message.message_id)
        self._answers[request.client, request.frame.data] = data
        self._send(data, request.client)

    def send(
        self, request: Request, type: int, code: int, *, options: Items = (), payload: bytes = b"",
        content_format: Optional[int] = None, token: Optional[bytes] = None, message_id: Optional[int] = None,
        raw: Optional[bytes] = None,
    ) -> tuple[int, bytes]:  # fmt: skip
        """Send a message of our own to the client of a request; returns its ID and its bytes."""
        message_id = self.next_message_id() if message_id is None else message_id
        token = request.message.token if token is None else token
        data = raw
        if data is None:
            data = craft(type, code, message_id, token, _items(options, content_format), payload)
        self._send(data, request.client)
        return message_id, data

    def deliver(self, request: Request, code: int, **arguments: Any) -> Frame:
        """Send a confirmable response until it is acknowledged; return the acknowledgement. Raises Failure without."""
        frame = self.confirmed(request, CON, code, **arguments)
        message = frame.message
        if message is not None and message.type == RST:
            raise Failure("a response that a client asked for is acknowledged", "RFC 7252 §4.2", frame)
        return frame

    def confirmed(self, request: Request, type: int, code: int, **arguments: Any) -> Frame:
        """Send a confirmable message until the client acknowledges or rejects it; return what does."""
        message_id, data = self.send(request, type, code, **arguments)
        sent = self.frames[-1]
        deadline, timeout = time.monotonic() + self.patience, PARAMETERS.ack_timeout
        while True:
            left = deadline - time.monotonic()
            frame = self.confirmation(request, message_id, max(0.0, min(timeout, left)))
            if frame is not None:
                return frame
            if left <= 0:
                raise Failure("a confirmable message is acknowledged, or rejected", "RFC 7252 §4.2", sent)
            self._send(data, request.client)
            timeout *= 2

    def confirmation(self, request: Request, message_id: int, timeout: float) -> Optional[Frame]:
        """Wait for the acknowledgement or reset of a message of ours. Raises Failure for a malformed one."""

        def wanted(frame: Frame) -> bool:
            data = frame.data
            is_ours = frame.source == request.client and int.from_bytes(data[2:4], "big") == message_id
            return is_ours and len(data) >= 4 and data[0] >> 4 & 3 in (ACK, RST)

        found = self.receive(wanted, timeout)
        if found is None:
            return None
        frame = found[0]
        if frame.message is None:
            raise Failure(f"what is sent is a well-formed message ({frame.error})", "RFC 7252 §4.1", frame)
        return frame

    def silence(self, wanted: Wanted, rule: str, section: str, seconds: Optional[float] = None) -> None:
        """Fail if a frame that is `wanted` comes within the grace, or `seconds`."""
        found = self.receive(wanted, self.grace if seconds is None else seconds)
        if found is not None:
            raise Failure(rule, section, found[0])

    def next_message_id(self) -> int:
        """Return a message ID that was not used yet."""
        self._port.message_id = (self._port.message_id + 1) & 0xFFFF
        return self._port.message_id

    def judge_all(self) -> None:
        """Judge all that the client sent by the rules that hold for every exchange. Raises the first Failure."""
        datagrams = [
            Datagram(number, frame.at, frame.source, frame.destination, frame.data)
            for number, frame in enumerate(self.frames, 1)
        ]
        conversations = find(datagrams, self._port.address[1])
        side = Side()
        for exchange in conversations.exchanges:
            if exchange.server == self._port.address:
                judge(exchange, side, Side())
        for seen, first in reused_ids(conversations).items():
            if seen.source != self._port.address:
                side.fault(
                    f"a message ID names one message as long as it lives (packet {first.number} has it too)",
                    "RFC 7252 §4.4", seen,
                )  # fmt: skip
        for fault in side.faults:
            raise Failure(fault.rule, fault.section, self.frames[fault.seen.number - 1])

    def _send(self, data: bytes, address: Address) -> None:
        target = socket.getaddrinfo(address[0], address[1], self._port.socket.family, socket.SOCK_DGRAM)[0][4]
        frame = Frame(time.time(), True, self._port.address, address, data)
        try:
            self._port.socket.sendto(data, target)
        except OSError as error:
            raise Inconclusive(f"cannot send: {error.strerror}") from error
        self._note(frame)

    def _note(self, frame: Frame) -> None:
        self.frames.append(frame)
        if self._port.record is not None:
            self._port.record(frame)


def check(condition: object, rule: str, section: str, about: Union[Request, Frame]) -> None:
    """Raise Failure if `condition` does not hold."""
    if not condition:
        raise Failure(rule, section, about.frame if isinstance(about, Request) else about)


def _items(options: Items, content_format: Optional[int]) -> list[tuple[int, bytes]]:
    items = list(options)
    if content_format is not None:
        items.append((CONTENT_FORMAT, encode_uint(content_format)))
    return items
