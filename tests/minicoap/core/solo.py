"""One endpoint without a network: messages are put in by hand, what comes out is looked at, time moves when told to."""

from __future__ import annotations

from typing import Any, Optional, Union

from minicoap.codec.message import ACK, CON, NON, RST, Message, Options, decode, encode
from minicoap.core.endpoint import EndpointCore
from minicoap.core.parameters import Limits, TransmissionParameters
from minicoap.core.request import Path, Response
from minicoap.core.resource import Site
from minicoap.errors import CoapError
from minicoap.simulate.entropy import SeededEntropy

# On loopback nobody has to show where they are; from abroad a large answer has to be asked for twice (RFC 9175 §2.4).
PEER: Path = ("127.0.0.1", 5683)
OTHER: Path = ("127.0.0.2", 5683)
ABROAD: Path = ("192.0.2.1", 5683)
LIFETIME = TransmissionParameters().exchange_lifetime
NON_LIFETIME = TransmissionParameters().non_lifetime
Outcome = Union[Response, CoapError]


class Solo:
    """An endpoint and the clock it lives by."""

    def __init__(
        self,
        site: Optional[Site] = None,
        *,
        parameters: TransmissionParameters = TransmissionParameters(),  # noqa: B008  immutable
        limits: Limits = Limits(),  # noqa: B008  immutable
        seed: int = 1,
    ) -> None:
        self.core = EndpointCore(SeededEntropy(seed, "solo"), site=site, parameters=parameters, limits=limits)
        self.now = 1000.0

    def put(self, message: Union[Message, bytes], path: Path = PEER) -> list[Message]:
        """Hand in a message; return what is sent at once, to whomever."""
        self.core.datagram_received(message if isinstance(message, bytes) else encode(message), path, self.now)
        return self.sent()

    def sent(self) -> list[Message]:
        return [decode(data) for data, _ in self.core.datagrams_to_send()]

    def pass_time(self, seconds: float) -> list[tuple[float, Message]]:
        """Run the timers of so many seconds, each when it is due; return what is sent, and when."""
        end = self.now + seconds
        sent: list[tuple[float, Message]] = []
        while True:
            due = self.core.next_timeout()
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            self.core.handle_timeout(self.now)
            sent.extend((self.now, message) for message in self.sent())
        self.now = end
        return sent

    def request(self, code: int, *uri_path: str, path: Path = PEER, **arguments: Any) -> list[Outcome]:
        """Start a request; return the list that its outcome will be put into."""
        outcomes: list[Outcome] = []
        self.core.request(code, path, outcomes.append, self.now, uri_path=uri_path, **arguments)
        return outcomes

    def is_empty(self) -> bool:
        """Whether nothing at all is kept."""
        return not any(self.core.footprint().values())

    def forgets_everything(self) -> bool:
        """Whether nothing is left once all lifetimes have passed."""
        self.pass_time(4 * LIFETIME)
        return self.is_empty()


def message(
    type: int,
    code: int,
    message_id: int,
    token: bytes = b"",
    *uri_path: str,
    options: tuple[tuple[int, bytes], ...] = (),
    payload: bytes = b"",
) -> Message:
    """Return a message with a path, further options and a payload."""
    items = [(11, segment.encode()) for segment in uri_path]
    return Message(type, code, message_id, token, Options([*items, *options]), payload)


def con(code: int, message_id: int, token: bytes = b"t", *uri_path: str, **more: Any) -> Message:
    return message(CON, code, message_id, token, *uri_path, **more)


def non(code: int, message_id: int, token: bytes = b"t", *uri_path: str, **more: Any) -> Message:
    return message(NON, code, message_id, token, *uri_path, **more)


def ack(code: int, request: Message, **more: Any) -> Message:
    """A piggybacked answer to `request`."""
    return message(ACK, code, request.message_id, request.token, **more)


def empty(type: int, message_id: int) -> Message:
    return Message(type, 0, message_id)


def empty_ack(request: Message) -> Message:
    return empty(ACK, request.message_id)


def reset(request: Message) -> Message:
    return empty(RST, request.message_id)
