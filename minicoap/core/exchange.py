"""Requests and responses: which answer belongs to which question (RFC 7252 §5), whatever carries them.

Towards the network a client's request is known by its token and the peer; a server's by the layer below, which waits
for what is returned here. Block-wise transfer is entered only if a message has a block option or a body is too long.
"""

from __future__ import annotations

import logging
from typing import Callable, Optional, TypeVar, Union

from minicoap.codec import codes
from minicoap.codec.message import Message, Options
from minicoap.codec.options import BLOCK1, BLOCK2, DEFINITIONS, OBSERVE, PROXY_SCHEME, PROXY_URI, option_name
from minicoap.core.block_server import BlockServer
from minicoap.core.entropy import Entropy
from minicoap.core.flight import Flight
from minicoap.core.observe_server import OBSERVABLE_METHODS, Observers
from minicoap.core.outgoing import Outgoing
from minicoap.core.parameters import Limits, TransmissionParameters
from minicoap.core.peer import Peer, Peers
from minicoap.core.reliability import Reliability
from minicoap.core.request import NOT_UNDERSTOOD, Deferred, Path, Request, Response
from minicoap.core.request_tag import RequestTags
from minicoap.core.resource import Site
from minicoap.core.timers import Timer, Timers
from minicoap.errors import CoapError, NetworkError, OptionError, PeerError, RequestTimeout

logger = logging.getLogger(__name__)

Answer = Union[Message, CoapError]
_TOKEN_LENGTH = 4  # bytes; RFC 7252 §5.3.1 wants at least 32 bits of randomness without security
_BLOCKS = 1 << BLOCK1 | 1 << BLOCK2
_PROXY = 1 << PROXY_URI | 1 << PROXY_SCHEME
_SPECIAL = NOT_UNDERSTOOD | _PROXY | 1 << OBSERVE  # what keeps a request from the plain way


class Exchange:
    """One of our requests until its response is there."""

    __slots__ = ("_on_answer", "exchanges", "outgoing", "peer", "timer", "token")

    def __init__(
        self, exchanges: Exchanges, peer: Peer, token: bytes, on_answer: Callable[[Answer, float], None]
    ) -> None:
        self.exchanges = exchanges
        self.peer = peer
        self.token = token
        self.outgoing: Optional[Outgoing] = None
        self.timer: Optional[Timer] = None
        self._on_answer = on_answer

    def close(self, now: float) -> None:
        """End it without an answer."""
        self.peer.exchanges.pop(self.token, None)
        if self.timer is not None:
            self.timer.cancel()
        if self.outgoing is not None:
            self.exchanges.reliability.withdraw(self.outgoing, now)
            self.outgoing = None

    def answer(self, answer: Answer, now: float) -> None:
        """End it with a response or an error."""
        self.close(now)
        self._on_answer(answer, now)

    def receive(self, message: Message, now: float) -> bool:
        """Take a response; False if it is to be rejected."""
        self.answer(message, now)
        return True

    def sent(self, error: Optional[CoapError], now: float) -> None:
        """The message layer's word on the request: acknowledged, or failed."""
        self.outgoing = None
        if error is not None:
            self.answer(error, now)

    def timed_out(self, now: float) -> None:
        """No response came in time."""
        self.answer(RequestTimeout("no response in time"), now)


AnyExchange = TypeVar("AnyExchange", bound=Exchange)


class Exchanges:
    """The request/response layer of one endpoint."""

    def __init__(
        self,
        site: Site,
        blocks: BlockServer,
        peers: Peers,
        timers: Timers,
        entropy: Entropy,
        parameters: TransmissionParameters,
        limits: Limits,
    ) -> None:
        self.observers = Observers(site, peers, timers, limits, self.run, self.fitted, blocks.forget)
        self.request_tags = RequestTags()
        self._plain_limit = 16 << limits.block_szx  # the longest payload that needs no block-wise transfer
        self._site = site
        self._blocks = blocks
        self._peers = peers
        self._timers = timers
        self._entropy = entropy
        self._lifetime = parameters.exchange_lifetime
        self._patience = parameters.max_transmit_wait
        self.reliability: Reliability  # set by the endpoint: the two know each other

    # Client

    def request(
        self,
        path: Path,
        code: int,
        options: Options,
        payload: bytes,
        *,
        confirmable: bool,
        timeout: Optional[float],
        on_answer: Callable[[Answer, float], None],
        now: float,
        flight: Optional[Flight] = None,
    ) -> Union[Exchange, NetworkError]:
        """Send a request; `on_answer` is called once, never from inside this call, unless an error is returned.

        `timeout` is in seconds; None means EXCHANGE_LIFETIME for a confirmable request, MAX_TRANSMIT_WAIT otherwise.
        One of a `flight` does not wait for NSTART (see `Reliability.send`).
        """
        exchange = self.prepare(Exchange, path, on_answer, now)
        if isinstance(exchange, NetworkError):
            return exchange
        error = self.send(
            exchange, code, options, payload, confirmable=confirmable, timeout=timeout, now=now, flight=flight
        )
        return exchange if error is None else error

    def prepare(
        self, kind: type[AnyExchange], path: Path, on_answer: Callable[[Answer, float], None], now: float
    ) -> Union[AnyExchange, NetworkError]:
        """Return an exchange with a token of its own, for `send`."""
        peer = self._peers.reach(path, now)
        if peer is None:
            return NetworkError("too many peers are busy; see Limits.peers")
        token = self._entropy.token(_TOKEN_LENGTH)
        while token in peer.exchanges:
            token = self._entropy.token(_TOKEN_LENGTH)
        return kind(self, peer, token, on_answer)

    def send(
        self,
        exchange: Exchange,
        code: int,
        options: Options,
        payload: bytes,
        *,
        confirmable: bool,
        timeout: Optional[float],
        now: float,
        flight: Optional[Flight] = None,
    ) -> Optional[NetworkError]:
        """Send the request of an exchange, or with the token of one that is open another; see `request`."""
        peer = exchange.peer
        token = exchange.token
        if confirmable:
            exchange.outgoing = self.reliability.send(peer, code, token, options, payload, now, exchange.sent, flight)
            if exchange.outgoing is None:
                return NetworkError("too many messages wait for this peer; see Limits.queued_messages")
        else:
            self.reliability.send_unreliably(peer, code, token, options, payload)
        peer.exchanges[token] = exchange
        if exchange.timer is not None:
            exchange.timer.cancel()
        if timeout is None:
            timeout = self._lifetime if confirmable else self._patience
            exchange.timer = self._timers.after(timeout, now, exchange.timed_out)
        else:
            exchange.timer = self._timers.at(now + timeout, exchange.timed_out)
        return None

    def response_received(self, message: Message, peer: Optional[Peer], now: float) -> bool:
        """Hand a response to the request that it answers; False if there is none or it cannot be used."""
        exchange = peer.exchanges.get(message.token) if peer is not None else None
        if exchange is None:
            return False
        if message.options.mask & NOT_UNDERSTOOD:
            # §5.4.1: such a response is rejected, and none other will come
            exchange.answer(PeerError(f"the response has {_not_understood(message.options)}"), now)
            return False
        return exchange.receive(message, now)

    # Server

    def request_received(self, message: Message, path: Path, now: float) -> Union[Response, Deferred]:
        """Answer a request: now, or by a Deferred."""
        options = message.options
        mask = options.mask
        if mask & _SPECIAL:
            if mask & (NOT_UNDERSTOOD | _PROXY):
                return _refuse(options)
            if message.code in OBSERVABLE_METHODS:
                return self._observe_received(message, path, now)
        request = Request(message.code, path, options, message.payload, now)
        try:
            if mask & _BLOCKS:
                return self._blocks.request_received(request)
            resource = self._site.route(request)
            if isinstance(resource, Response):
                return resource
            if resource.upload is not None and message.code == codes.PUT:
                return self._blocks.whole_body_received(request, resource)
            response = resource.handlers[message.code](request)
            if isinstance(response, Deferred):
                return response
            return self._fit(request, response)
        except OptionError as error:
            return Response(error.code, str(error).encode())
        except Exception:  # noqa: BLE001  the boundary to a user's handlers: one broken resource must not end the server
            return _broken(request)

    def late_response(self, request: Request, response: Response, now: float) -> Response:
        """Make a deferred response fit into one datagram."""
        return self.observers.late_response(request, self.fitted(request, response), now)

    def room_made(self, peer: Peer) -> None:
        """Learn that notifications owed to `peer` may find room now."""
        self.observers.room_made(peer)

    def _observe_received(self, message: Message, path: Path, now: float) -> Union[Response, Deferred]:
        """Answer a request with an Observe option: as one without it, and then by a notification (RFC 7641 §4.1)."""
        registering = self.observers.requested(message, path, now)
        options = Options([item for item in message.options.items if item[0] != OBSERVE])
        plain = Message(message.type, message.code, message.message_id, message.token, options, message.payload)
        answer = self.request_received(plain, path, now)
        if registering is None:
            return answer
        if isinstance(answer, Deferred):
            self.observers.deferred(registering, answer.request)
            return answer
        return self.observers.answered(registering, answer, now)

    def run(self, request: Request) -> Union[Response, Deferred]:
        """Have the resource's handler answer a request that had been answered before, for a notification."""
        try:
            resource = self._site.route(request)
            return resource if isinstance(resource, Response) else resource.handlers[request.code](request)
        except OptionError as error:
            return Response(error.code, str(error).encode())
        except Exception:  # noqa: BLE001  the boundary to a user's handlers, as above
            return _broken(request)

    def fitted(self, request: Request, response: Response) -> Response:
        """Return `response` ready for one datagram, its first block if it is long."""
        try:
            return self._fit(request, response)
        except Exception:  # noqa: BLE001  a body's source is the user's too
            return _broken(request)

    def _fit(self, request: Request, response: Response) -> Response:
        payload = response.payload
        if isinstance(payload, bytes) and len(payload) <= self._plain_limit and not request.options.mask & _BLOCKS:
            return response
        return self._blocks.respond(request, response)


def _broken(request: Request) -> Response:
    logger.exception("the handler of %s /%s failed", codes.code_name(request.code), "/".join(request.uri_path))
    return Response(codes.INTERNAL_SERVER_ERROR)


def _refuse(options: Options) -> Response:
    if options.mask & _PROXY and not options.mask & NOT_UNDERSTOOD:
        return Response(codes.PROXYING_NOT_SUPPORTED, b"this endpoint is no proxy")  # §5.10.2
    return Response(codes.BAD_OPTION, f"the request has {_not_understood(options)}".encode())  # §5.4.1


def _not_understood(options: Options) -> str:
    for number, value in options.items:
        definition = DEFINITIONS.get(number)
        if not number & 1:
            continue
        if number >= 60 or 1 << number & NOT_UNDERSTOOD:
            return f"critical option {number} ({option_name(number)}), which is not understood"
        if definition is not None and not definition.minimum <= len(value) <= definition.maximum:
            return f"{definition.name} of {len(value)} bytes; {definition.minimum} to {definition.maximum} are allowed"
    return "a critical option twice that may come once"
