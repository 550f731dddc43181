"""Requests and responses: which answer belongs to which question (RFC 7252 §5), whatever carries them.

Towards the network a client's request is known by its token and the peer; a server's by the layer below, which waits
for what is returned here. Block-wise transfer is entered only if a message has a block option or a body is too long.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Container
from typing import TYPE_CHECKING, Callable, Optional, TypeVar, Union

from minicoap.codec import codes
from minicoap.codec.message import EXTENDED, NO_OPTIONS, NON, Message, Options
from minicoap.codec.options import (
    BLOCK1,
    BLOCK2,
    DEFINITIONS,
    ECHO,
    ETAG,
    HOP_LIMIT,
    NO_RESPONSE,
    OBSERVE,
    PROXY_SCHEME,
    PROXY_URI,
    decode_uint,
    option_name,
)
from minicoap.core.backoff import Backoff
from minicoap.core.block_server import BlockServer
from minicoap.core.echo import AddressGuard, Echo
from minicoap.core.entropy import Entropy
from minicoap.core.flight import Flight
from minicoap.core.observe_server import OBSERVABLE_METHODS, Observers
from minicoap.core.outgoing import Outgoing, ignore_outcome
from minicoap.core.parameters import Limits, TransmissionParameters
from minicoap.core.peer import Peer, Peers
from minicoap.core.request import ALL_CLASSES, NOT_UNDERSTOOD, Q_BLOCKS, SAFE, Deferred, Path, Request, Response
from minicoap.core.request_tag import RequestTags
from minicoap.core.resource import Site
from minicoap.core.timers import Timer, Timers
from minicoap.core.transmission import Transmission
from minicoap.errors import CoapError, NetworkError, OptionError, PeerError, RequestTimeout

if TYPE_CHECKING:
    from minicoap.core.multicast import GroupClient
    from minicoap.core.qblock_peers import QuickPeers
    from minicoap.core.qblock_server import QuickServer

logger = logging.getLogger(__name__)

Answer = Union[Message, CoapError]
_NOTHING = Message(NON, codes.EMPTY, 0)  # the answer to a request that wants none
TOKEN_LENGTH = 4  # bytes; RFC 7252 §5.3.1 wants at least 32 bits of randomness without security
_TAG_LENGTH = 8  # bytes
_BLOCKS = 1 << BLOCK1 | 1 << BLOCK2 | Q_BLOCKS
_PROXY = 1 << PROXY_URI | 1 << PROXY_SCHEME
_OBSERVE = 1 << OBSERVE
_CHALLENGES = 5  # by Echo, that one request answers; more than one only if address or server change meanwhile
_REFUSED = NOT_UNDERSTOOD | _PROXY | 1 << HOP_LIMIT
_UNCOMMON = _REFUSED | _OBSERVE | EXTENDED
_WITHOUT_PAYLOAD = (codes.GET, codes.DELETE)
_RESHAPING = _BLOCKS | 1 << ETAG  # what makes of a short response another one


class Exchange:
    """One of our requests until its response is there."""

    __slots__ = (
        "_on_answer", "challenged", "code", "confirmable", "exchanges", "flight", "options", "outgoing", "parameters",
        "payload", "peer", "timer", "token", "unwanted",
    )  # fmt: skip

    parameters: TransmissionParameters
    refused = NOT_UNDERSTOOD | Q_BLOCKS  # critical options that a response must not have
    is_one_message = True  # which can be sent again as it is

    def __init__(
        self, exchanges: Exchanges, peer: Peer, token: bytes, on_answer: Callable[[Answer, float], None]
    ) -> None:
        self.exchanges = exchanges
        self.peer = peer
        self.token = token
        # The request, as it may have to be sent again; set by `Exchanges.send`.
        self.code = codes.EMPTY
        self.options = NO_OPTIONS
        self.payload = b""
        self.confirmable = True
        self.flight: Optional[Flight] = None
        self.challenged = 0  # times that it was sent again with the Echo value that a 4.01 asked for
        self.unwanted = 0  # classes of responses, as bits
        self.outgoing: Optional[Outgoing] = None
        self.timer: Optional[Timer] = None
        self._on_answer = on_answer

    def close(self, now: float) -> None:
        """End it without an answer."""
        self.peer.exchanges.pop(self.token, None)
        if self.timer is not None:
            self.timer.cancel()
        if self.outgoing is not None:
            self.exchanges.transmission.withdraw(self.outgoing, now)
            self.outgoing = None

    def answer(self, answer: Answer, now: float) -> None:
        """End it with a response or an error."""
        if isinstance(answer, Message):
            self.responded(now)
        self.close(now)
        self._on_answer(answer, now)

    def responded(self, now: float) -> None:
        """A response has come: the request need not be repeated."""
        if self.outgoing is not None:
            self.exchanges.transmission.responded(self.outgoing, now)
            self.outgoing = None

    def receive(self, message: Message, now: float) -> bool:
        """Take a response; False if it is to be rejected."""
        self.answer(message, now)
        return True

    def sent(self, error: Optional[CoapError], now: float) -> None:
        """The message layer's word on the request: acknowledged, or failed."""
        self.outgoing = None
        if error is not None:
            self.answer(error, now)
        elif self.unwanted & ALL_CLASSES == ALL_CLASSES:
            self.answer(_NOTHING, now)

    def timed_out(self, now: float) -> None:
        """No response came in time: a failure, unless silence may mean one that is not wanted (RFC 7967 §2.1)."""
        self.answer(_NOTHING if self.unwanted else RequestTimeout("no response in time"), now)


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
        self._parameters = parameters
        self._limits = limits
        self.quick_server: Optional[QuickServer] = None  # set when the first request with Q-Block comes
        self.quick_peers: Optional[QuickPeers] = None  # set when the first request with Q-Block is sent
        self.groups: Optional[GroupClient] = None  # set by the endpoint when it asks one for the first time
        self.backoff = Backoff(timers)
        self._echo = Echo(entropy, parameters.exchange_lifetime)
        self._guard = AddressGuard(self._echo, peers, limits.amplification)
        self.transmission: Transmission  # set by the endpoint: the layer below knows this one

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
        parameters: Optional[TransmissionParameters] = None,
        token_length: int = TOKEN_LENGTH,
    ) -> Union[Exchange, NetworkError]:
        """Send a request; `on_answer` is called once, never from inside this call, unless an error is returned.

        `timeout` is in seconds; None means EXCHANGE_LIFETIME for a confirmable request, MAX_TRANSMIT_WAIT otherwise.
        One of a `flight` does not wait for NSTART (see `Reliability.send`). `parameters` are the request's own, if not
        the endpoint's.
        """
        exchange = self.prepare(Exchange, path, on_answer, now, token_length)
        if isinstance(exchange, NetworkError):
            return exchange
        if len(self.backoff) and (refusal := self.backoff.recall(path, code, options, now)) is not None:
            held_back = refusal
            exchange.timer = self._timers.at(now, lambda when: exchange.answer(held_back, when))
            return exchange
        error = self.send(
            exchange,
            code,
            options,
            payload,
            confirmable=confirmable,
            timeout=timeout,
            now=now,
            flight=flight,
            parameters=parameters,
        )
        if error is None and exchange.unwanted & ALL_CLASSES == ALL_CLASSES and not confirmable:
            self._cease_listening(exchange, now)
        return exchange if error is None else error

    def prepare(
        self,
        kind: type[AnyExchange],
        path: Path,
        on_answer: Callable[[Answer, float], None],
        now: float,
        token_length: int = TOKEN_LENGTH,
    ) -> Union[AnyExchange, NetworkError]:
        """Return an exchange with a token of its own, for `send`."""
        peer = self._peers.reach(path, now)
        if peer is None:
            return NetworkError("too many peers are busy; see Limits.peers")
        return kind(self, peer, self.new_token(peer.exchanges, token_length), on_answer)

    def new_tag(self) -> bytes:
        """Return a Request-Tag that no other body has (RFC 9175 §3.4)."""
        return self._entropy.token(_TAG_LENGTH)

    def new_token(self, taken: Container[bytes], length: int = TOKEN_LENGTH) -> bytes:
        """Return a token that none of our requests to a peer has, of the usual length where a short one is taken."""
        token = self._entropy.token(length)
        while token in taken:
            token = self._entropy.token(max(length, TOKEN_LENGTH))
        return token

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
        parameters: Optional[TransmissionParameters] = None,
    ) -> Optional[NetworkError]:
        """Send the request of an exchange, or with the token of one that is open another; see `request`."""
        if parameters is None:
            parameters = self._parameters
        echo = exchange.peer.echo
        if echo is not None:  # RFC 9175 §2.3: in the next request to the server
            exchange.peer.echo = None
            options = _with_echo(options, echo)
        exchange.code = code
        exchange.options = options
        exchange.payload = payload
        exchange.confirmable = confirmable
        exchange.flight = flight
        exchange.parameters = parameters
        exchange.challenged = 0
        if options.mask & EXTENDED:
            exchange.unwanted = options.uint(NO_RESPONSE) or 0
        if not self._transmit(exchange, now):
            return NetworkError("too many messages wait for this peer; see Limits.queued_messages")
        if exchange.timer is not None:
            exchange.timer.cancel()
        if timeout is None:
            timeout = parameters.exchange_lifetime if confirmable else parameters.max_transmit_wait
            exchange.timer = self._timers.after(timeout, now, exchange.timed_out)
        else:
            exchange.timer = self._timers.at(now + timeout, exchange.timed_out)
        return None

    def _transmit(self, exchange: Exchange, now: float) -> bool:
        """Hand a request to the message layer; False if there is no room for it."""
        outgoing = self.transmission.send(
            exchange.peer,
            exchange.code,
            exchange.token,
            exchange.options,
            exchange.payload,
            now,
            exchange.sent,
            exchange.flight,
            confirmable=exchange.confirmable,
            parameters=exchange.parameters,
        )
        if outgoing is None:
            return False
        exchange.outgoing = None if outgoing.is_over else outgoing
        exchange.peer.exchanges[exchange.token] = exchange
        return True

    def _cease_listening(self, exchange: Exchange, now: float) -> None:
        """Let go of a request that wants no response; it is sent when its turn comes all the same (RFC 7967 §2.1)."""
        if exchange.outgoing is not None:
            exchange.outgoing.on_outcome = ignore_outcome
            exchange.outgoing = None
        del exchange.peer.exchanges[exchange.token]
        if exchange.timer is not None:
            exchange.timer.cancel()
        exchange.timer = self._timers.at(now, exchange.timed_out)

    def _repeats(self, exchange: Exchange, message: Message, now: float) -> bool:
        """Bring back an Echo value (RFC 9175 §2.3): with the same request if that was refused, else with the next.

        True if the request is on its way again. Once will do, unless our address or the server is another by then.
        """
        echo = message.options.get(ECHO)
        if echo is None:
            return False
        if message.code != codes.UNAUTHORIZED or not exchange.is_one_message:
            exchange.peer.echo = echo
            return False
        if exchange.challenged >= _CHALLENGES:
            return False
        exchange.challenged += 1
        exchange.responded(now)
        del exchange.peer.exchanges[exchange.token]
        exchange.token = self.new_token(exchange.peer.exchanges)
        exchange.options = _with_echo(exchange.options, echo)
        return self._transmit(exchange, now)

    def expects(self, token: bytes) -> bool:
        """Whether a response with this token may come from anybody."""
        return self.groups is not None and self.groups.expects(token)

    def response_received(self, message: Message, peer: Optional[Peer], path: Path, now: float) -> bool:
        """Hand a response to the request that it answers; False if there is none or it cannot be used."""
        exchange = peer.exchanges.get(message.token) if peer is not None else None
        if exchange is None:
            return self.groups is not None and self.groups.response_received(message, path, now)
        exchange.peer.verified = True  # it knows the token that was sent to its address
        exchange.peer.answered_at = now
        if message.options.mask & exchange.refused:
            # §5.4.1: such a response is rejected, and none other will come
            exchange.answer(PeerError(f"the response has {_not_understood(message.options, exchange.refused)}"), now)
            return False
        if message.options.mask & EXTENDED and self._repeats(exchange, message, now):
            return True
        if message.code == codes.TOO_MANY_REQUESTS:
            self.backoff.note(exchange.peer.path, exchange.code, exchange.options, message, now)
        return exchange.receive(message, now)

    # Server

    def needs_no_proof(self, path: Path) -> bool:
        """Whether nobody else can send in the name of `path`; see `AddressGuard`."""
        return self._guard.needs_no_proof(path)

    def request_received(self, message: Message, path: Path, now: float) -> Union[Response, Deferred]:
        """Answer a request: now, or by a Deferred."""
        options = message.options
        mask = options.mask
        if mask & _UNCOMMON:
            if mask & _REFUSED and (refusal := _refusal(options)) is not None:
                return refusal
            if mask & _OBSERVE and message.code in OBSERVABLE_METHODS and not mask & Q_BLOCKS:
                return self._observe_received(message, path, now)
            self._guard.note(options, path, now)
        body = message.payload
        if body and message.code in _WITHOUT_PAYLOAD and not mask & 1 << BLOCK1:
            body = b""  # §5.5: to be ignored
        request = Request(message.code, path, options, body, now, self._echo)
        try:
            if mask & _BLOCKS:
                if mask & Q_BLOCKS:
                    return self._quick(message, path, now)
                return self._blocks.request_received(request)
            resource = self._site.route(request)
            if isinstance(resource, Response):
                return resource
            if resource.upload is not None and message.code == codes.PUT:
                return self._blocks.whole_body_received(request, resource)
            response = resource.handlers[message.code](request)
            if isinstance(response, Deferred):
                return response
            payload = response.payload
            # As in `_fit`, for most responses without a call.
            if isinstance(payload, bytes) and len(payload) <= self._plain_limit and not mask & _RESHAPING:
                return response
            return self._fit(request, response)
        except OptionError as error:
            return Response.refusal(error.code, str(error))
        except Exception:  # noqa: BLE001  the boundary to a user's handlers: one broken resource must not end the server
            return _broken(request)

    def _quick(self, message: Message, path: Path, now: float) -> Union[Response, Deferred]:
        """Answer a request with a Q-Block option (RFC 9177); an observer of one is not taken on (RFC 7641 §4.1)."""
        from minicoap.core.qblock_bodies import QuickRequest
        from minicoap.core.qblock_server import QuickServer, is_probe

        if self.quick_server is None:
            self.quick_server = QuickServer(
                self._site, self._blocks, self._peers, self._timers, self._entropy, self._parameters, self._limits,
                self.transmission,
            )  # fmt: skip
        request = QuickRequest(message, path, now, self._echo)
        # What comes of it may be any number of messages to an address that may be forged (RFC 9175 §2.4).
        if not is_probe(request) and self._guard.is_too_much(sys.maxsize, message, path):
            return request.challenge()
        return self.quick_server.request_received(request)

    def group_request_received(self, message: Message, path: Path, now: float) -> Union[Response, Deferred, None]:
        """Answer a request that was sent to a group, if it is for a resource that has a part in it (§11.3)."""
        if message.options.mask & _OBSERVE:  # whose notifications would go on after the leisure
            message = _without_observe(message)
        request = Request(message.code, path, message.options, message.payload, now, self._echo)
        try:
            resource = self._site.route(request)
            if isinstance(resource, Response):
                return resource
        except OptionError as error:
            return Response.refusal(error.code, str(error))
        return self.request_received(message, path, now) if resource.group else None

    def defend(self, message: Message, path: Path, response: Response, size: int, now: float) -> Response:
        """Return what may be sent in place of `response`, which takes `size` bytes, to `path` (RFC 9175 §2.4, item 3).

        That is `response` itself if the address was verified, or the answer is not that much larger than the request.
        Else a request that only reads is answered by a challenge; another has been carried out by now, and its client
        gets the answer in blocks that are small enough.
        """
        if not self._guard.is_too_much(size, message, path):
            return response
        request = Request(message.code, path, message.options, message.payload, now, self._echo)
        if message.code in SAFE and not message.options.mask & 1 << BLOCK1:
            if message.options.mask & _OBSERVE:
                self.observers.refused(path, message.token, now)
            return request.challenge()
        return self._blocks.reduce(request, response)

    def late_response(self, request: Request, response: Response, now: float) -> Response:
        """Make a deferred response fit into one datagram."""
        return self.observers.late_response(request, self.fitted(request, response), now)

    def _observe_received(self, message: Message, path: Path, now: float) -> Union[Response, Deferred]:
        """Answer a request with an Observe option: as one without it, and then by a notification (RFC 7641 §4.1)."""
        registering = self.observers.requested(message, path, now)
        answer = self.request_received(_without_observe(message), path, now)
        if registering is None:
            return answer
        if isinstance(answer, Deferred):
            self.observers.deferred(registering, answer.request)
            return answer
        return self.observers.answered(registering, answer, now)

    def run(self, request: Request) -> Union[Response, Deferred]:
        """Have the resource's handler answer a request that had been answered before, for a notification."""
        try:
            # Whoever asked first may not be allowed to any more: that is no matter of the others.
            resource = self._site.find(request)
            return Response.refusal(codes.NOT_FOUND) if resource is None else resource.handlers[request.code](request)
        except OptionError as error:
            return Response.refusal(error.code, str(error))
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
        if isinstance(payload, bytes) and len(payload) <= self._plain_limit and not request.options.mask & _RESHAPING:
            return response
        if self.quick_server is not None and request.options.mask & Q_BLOCKS:
            return self.quick_server.respond(request, response)
        return self._blocks.respond(request, response)


def _without_observe(message: Message) -> Message:
    options = Options([item for item in message.options.items if item[0] != OBSERVE])
    return Message(message.type, message.code, message.message_id, message.token, options, message.payload)


def _with_echo(options: Options, value: bytes) -> Options:
    return Options([*[item for item in options.items if item[0] != ECHO], (ECHO, value)])


def _broken(request: Request) -> Response:
    logger.exception("the handler of %s /%s failed", codes.code_name(request.code), "/".join(request.uri_path))
    return Response.refusal(codes.INTERNAL_SERVER_ERROR)


def _refusal(options: Options) -> Optional[Response]:
    if options.mask & NOT_UNDERSTOOD:
        unknown = _not_understood(options, NOT_UNDERSTOOD)
        return Response.refusal(codes.BAD_OPTION, f"the request has {unknown}")  # §5.4.1
    if options.mask & _PROXY:
        return Response.refusal(codes.PROXYING_NOT_SUPPORTED, "this endpoint is no proxy")  # §5.10.2
    hops = [decode_uint(value) for number, value in options.items if number == HOP_LIMIT]
    if not 1 <= hops[0] <= 255:
        return Response.refusal(codes.BAD_REQUEST, "Hop-Limit is a number from 1 to 255")  # RFC 8768 §3
    return None


def _not_understood(options: Options, refused: int) -> str:
    for number, value in options.items:
        definition = DEFINITIONS.get(number)
        if not number & 1:
            continue
        if number >= 60 or 1 << number & refused:
            return f"critical option {number} ({option_name(number)}), which is not understood"
        if definition is not None and not definition.minimum <= len(value) <= definition.maximum:
            return f"{definition.name} of {len(value)} bytes; {definition.minimum} to {definition.maximum} are allowed"
    return "a critical option twice that may come once"
