"""CoAP among other traffic, and what belongs together in it.

A *flow* is what went between two UDP addresses. It is taken for CoAP on port 5683 if most of it can be read as that; on
any other port only if a request in it, with options that are all known, is answered by message ID or token, and almost
all of the rest can be read too: bytes that look like CoAP by chance do not do that.

An *exchange* is a request with its repetitions, whatever the server sent for it (an acknowledgement, a response, the
notifications of an observation), and what the client acknowledged or rejected of that (RFC 7252 §4, §5.3.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Optional

from minicoap.codec import codes
from minicoap.codec.message import ACK, CON, NON, RST, Message
from minicoap.codec.options import DEFINITIONS, OBSERVE
from minicoap.errors import OptionError
from tools.conformance.capture.links import Address, Datagram
from tools.conformance.frames import Frame

COAP_PORT = 5683
EXCHANGE_LIFETIME = 247.0  # seconds for which a message ID names one message (RFC 7252 §4.8.2)
NON_LIFETIME = 145.0


class Seen:
    """A datagram of a capture: `number` is its frame, `message` what it says, None where that is no CoAP message.

    `type` and `message_id` are those of its header, also where the rest is malformed.
    """

    __slots__ = ("at", "data", "destination", "error", "frame", "message", "message_id", "number", "source", "type")

    def __init__(self, datagram: Datagram) -> None:
        self.number, self.at, self.source, self.destination, self.data = datagram
        self.frame = Frame(self.at, True, self.source, self.destination, self.data)
        self.message: Optional[Message] = self.frame.message
        self.error = self.frame.error
        has_header = len(self.data) >= 4 and self.data[0] >> 6 == 1
        self.type = self.data[0] >> 4 & 3 if has_header else -1
        self.message_id = int.from_bytes(self.data[2:4], "big") if has_header else -1

    @property
    def code(self) -> int:
        """The code; -1 of what is no message."""
        return -1 if self.message is None else self.message.code

    def __repr__(self) -> str:
        return f"frame {self.number}: {self.frame}"


class Exchange:
    """A request of `client` to `server`, and all that belongs to it, each list in the order of the capture."""

    def __init__(self, request: Seen) -> None:
        assert request.message is not None
        self.request = request
        self.message: Message = request.message
        self.client: Address = request.source
        self.server: Address = request.destination
        self.copies: list[Seen] = []
        """Repetitions of the request."""
        self.replies: list[Seen] = []
        """Everything that the server sent for it."""
        self.confirmations: list[Seen] = []
        """The client's acknowledgements and rejections of that."""

    @property
    def is_ping(self) -> bool:
        """Whether it is an empty confirmable message."""
        return self.message.code == codes.EMPTY

    @property
    def path(self) -> tuple[str, ...]:
        """The path; empty if it is no text."""
        try:
            return self.message.options.path
        except OptionError:
            return ()

    @property
    def query(self) -> tuple[str, ...]:
        """The query; empty if it is no text."""
        try:
            return self.message.options.query
        except OptionError:
            return ()

    @property
    def responses(self) -> list[Seen]:
        """The responses, without their repetitions; more than one only of an observation."""
        found: dict[tuple[bool, int], Seen] = {}
        for seen in self.replies:
            if codes.is_response(seen.code):
                found.setdefault((seen.type == ACK, seen.message_id), seen)
        return list(found.values())

    @property
    def response(self) -> Optional[Seen]:
        """The first response."""
        responses = self.responses
        return responses[0] if responses else None

    @property
    def notifications(self) -> list[Seen]:
        """The responses after the first."""
        return self.responses[1:]

    @property
    def empty_ack(self) -> Optional[Seen]:
        """The acknowledgement without a response."""
        return next((seen for seen in self.replies if seen.type == ACK and seen.code == codes.EMPTY), None)

    @property
    def is_separate(self) -> bool:
        """Whether the response came in a message of its own."""
        response = self.response
        return response is not None and response.type != ACK

    @property
    def is_observation(self) -> bool:
        """Whether it asks to observe, and the server agreed."""
        response = self.response
        return (
            self.message.options.uint(OBSERVE) == 0 and response is not None and response.message is not None
            and response.message.options.uint(OBSERVE) is not None
        )  # fmt: skip

    def confirmation(self, seen: Seen) -> Optional[Seen]:
        """The client's first acknowledgement or rejection of a message of the server."""
        return next((each for each in self.confirmations if each.message_id == seen.message_id), None)

    @property
    def frames(self) -> list[Seen]:
        """All of it, in the order of the capture."""
        return sorted((self.request, *self.copies, *self.replies, *self.confirmations), key=lambda seen: seen.number)


class Conversations:
    """What was found: `exchanges`, the messages that belong to none, and how many datagrams were of something else."""

    def __init__(self, exchanges: list[Exchange], stray: list[Seen], foreign: int) -> None:
        self.exchanges = exchanges
        self.stray = stray
        self.foreign = foreign

    @property
    def messages(self) -> int:
        """How many datagrams are CoAP."""
        return sum(len(exchange.frames) for exchange in self.exchanges) + len(self.stray)

    @property
    def ends_at(self) -> float:
        """When the last of them was seen."""
        return max((seen.at for each in self.exchanges for seen in each.frames), default=0.0)


def find(datagrams: Iterable[Datagram], port: int = COAP_PORT) -> Conversations:
    """Return the exchanges in a capture, of a server at `port` and on all other ports."""
    flows: dict[frozenset[Address], list[Seen]] = {}
    everything = [Seen(datagram) for datagram in datagrams]
    for seen in everything:
        flows.setdefault(frozenset((seen.source, seen.destination)), []).append(seen)
    mine = [seen for flow in flows.values() if _is_coap(flow, port) for seen in flow]
    mine.sort(key=lambda seen: seen.number)
    matcher = _Matcher()
    for seen in mine:
        matcher.take(seen)
    return Conversations(matcher.exchanges, matcher.stray, len(everything) - len(mine))


class _Matcher:
    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.stray: list[Seen] = []
        self._by_id: dict[tuple[Address, Address, int], Exchange] = {}  # client, server, the client's message ID
        self._by_token: dict[tuple[Address, Address, bytes], list[Exchange]] = {}
        self._by_reply: dict[tuple[Address, Address, int], Exchange] = {}  # client, server, the server's message ID

    def take(self, seen: Seen) -> None:
        exchange = self._exchange_of(seen)
        if exchange is None:
            self.stray.append(seen)

    def _exchange_of(self, seen: Seen) -> Optional[Exchange]:
        message = seen.message
        if message is not None and (codes.is_request(message.code) or (message.code == 0 and seen.type == CON)):
            return self._request(seen, message)
        if seen.type in (ACK, RST):
            return self._answer(seen)
        if message is not None and codes.is_response(message.code):
            return self._separate(seen, message)
        return None

    def _request(self, seen: Seen, message: Message) -> Exchange:
        key = seen.source, seen.destination, seen.message_id
        known = self._by_id.get(key)
        lifetime = EXCHANGE_LIFETIME if seen.type == CON else NON_LIFETIME
        if known is not None and known.request.data == seen.data and seen.at - known.request.at < lifetime:
            known.copies.append(seen)
            return known
        exchange = Exchange(seen)
        self.exchanges.append(exchange)
        self._by_id[key] = exchange
        self._by_token.setdefault((seen.source, seen.destination, message.token), []).append(exchange)
        return exchange

    def _answer(self, seen: Seen) -> Optional[Exchange]:
        """An acknowledgement or reset: of the server for a request, or of the client for a message of the server."""
        asked = self._by_id.get((seen.destination, seen.source, seen.message_id))
        replied = self._by_reply.get((seen.source, seen.destination, seen.message_id))
        if asked is not None and (replied is None or codes.is_response(seen.code)):
            asked.replies.append(seen)
            return asked
        if replied is not None:
            replied.confirmations.append(seen)
        return replied

    def _separate(self, seen: Seen, message: Message) -> Optional[Exchange]:
        key = seen.destination, seen.source, seen.message_id
        known = self._by_reply.get(key)
        if known is not None and known.message.token == message.token:  # repeated, if nothing is wrong
            known.replies.append(seen)
            return known
        candidates = self._by_token.get((seen.destination, seen.source, message.token), [])
        exchange = _latest([each for each in candidates if each.response is None]) or _latest(
            [each for each in candidates if each.is_observation]
        )
        if exchange is None:
            exchange = _latest(candidates)
        if exchange is not None:
            exchange.replies.append(seen)
            self._by_reply[key] = exchange
        return exchange


def _latest(exchanges: Sequence[Exchange]) -> Optional[Exchange]:
    return exchanges[-1] if exchanges else None


def _is_coap(flow: list[Seen], port: int) -> bool:
    """Whether a flow is CoAP."""
    readable = sum(seen.message is not None or seen.type >= 0 for seen in flow)
    well_formed = sum(seen.message is not None for seen in flow)
    if any(port in (seen.source[1], seen.destination[1]) for seen in flow):
        return well_formed > 0 and 2 * readable >= len(flow)
    return 4 * readable >= 3 * len(flow) and any(_answers(seen, flow[:index]) for index, seen in enumerate(flow))


def _answers(seen: Seen, before: list[Seen]) -> bool:
    """Whether `seen` answers a request that cannot be taken for anything else."""
    message = seen.message
    if message is None:
        return False
    for earlier in before:
        request = earlier.message
        if request is None or (earlier.source, earlier.destination) != (seen.destination, seen.source):
            continue
        if request.code == codes.EMPTY:
            matches = earlier.type == CON and seen.type == RST
        else:
            matches = _is_plausible(request) and (codes.is_response(message.code) or message.code == codes.EMPTY)
        if seen.type in (ACK, RST):
            same = seen.message_id == earlier.message_id and message.token == (request.token if message.code else b"")
        else:
            same = bool(message.token) and message.token == request.token and codes.is_response(message.code)
        if matches and same and seen.at - earlier.at < EXCHANGE_LIFETIME:
            return True
    return False


def _is_plausible(request: Message) -> bool:
    options = request.options.items
    return (
        request.type in (CON, NON) and codes.GET <= request.code <= codes.IPATCH and len(request.token) <= 8
        and all(number in DEFINITIONS for number, _ in options)
        and all(DEFINITIONS[number].minimum <= len(value) <= DEFINITIONS[number].maximum for number, value in options)
    )  # fmt: skip
