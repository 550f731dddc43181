"""The endpoint: client and server at once, without I/O. The one class that shells know.

A shell hands in what arrives, and the time; it takes out what is to be sent, and when to call again. Everything between
are the layers, entered in this order and left by the same doors: codec, reliability, exchange, blocks, resource.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Callable, Optional, Union

from minicoap.codec import codes
from minicoap.codec.message import LONGEST_TOKEN, Options, decode
from minicoap.codec.options import (
    ACCEPT,
    CONTENT_FORMAT,
    ETAG,
    IF_NONE_MATCH,
    NO_RESPONSE,
    URI_PATH,
    URI_QUERY,
    encode_uint,
)
from minicoap.core.block_client import BodyOptions, Transfer
from minicoap.core.block_server import BlockServer
from minicoap.core.body import MAX_SZX, ClientSink, Source
from minicoap.core.entropy import Entropy
from minicoap.core.exchange import TOKEN_LENGTH, Answer, Exchanges
from minicoap.core.observe_client import Observation, Observations
from minicoap.core.parameters import Limits, TransmissionParameters
from minicoap.core.peer import Peers
from minicoap.core.reliability import Reliability
from minicoap.core.request import ALL_CLASSES, SAFE, ClientRequest, Path, Response
from minicoap.core.resource import Site
from minicoap.core.timers import Timers
from minicoap.core.transmission import Transmission
from minicoap.errors import CoapError, MessageFormatError, NetworkError, PathError, ResetError, UsageError

if TYPE_CHECKING:
    from minicoap.core.cache import Cache
    from minicoap.core.directory import Facts, Registration
    from minicoap.core.multicast import GroupRequest, GroupServer

Items = list[tuple[int, bytes]]
Done = Callable[[Union[Response, CoapError]], None]


class EndpointCore:
    """A CoAP endpoint (RFC 7252) over UDP as a `DatagramMachine`.

    `site` holds the resources it serves; `parameters` and `limits` are fixed for its life. With `cache`, responses that
    are fresh or confirmed are not asked for again. Raises UsageError for parameters that cannot work.
    """

    def __init__(
        self,
        entropy: Entropy,
        *,
        site: Optional[Site] = None,
        parameters: TransmissionParameters = TransmissionParameters(),  # noqa: B008  immutable
        limits: Limits = Limits(),  # noqa: B008  immutable
        cache: Optional[Cache] = None,
    ) -> None:
        parameters.check()
        lifetime = parameters.exchange_lifetime
        self.site = site if site is not None else Site()
        self._limits = limits
        self._entropy = entropy
        self._parameters = parameters
        self._cache = cache
        self._outbox: list[tuple[bytes, Path]] = []
        self._timers = Timers()
        self._decoded: dict[bytes, Options] = {}
        self._peers = Peers(entropy, self._timers, limits.peers, lifetime)
        self._blocks = BlockServer(self.site, self._timers, limits, lifetime)
        self._exchanges = Exchanges(self.site, self._blocks, self._peers, self._timers, entropy, parameters, limits)
        self._observations = Observations(self._exchanges, self._timers, entropy, limits.assembled_body)
        self._transmission = Transmission(
            self._outbox, self._timers, entropy, parameters, limits, self._exchanges.observers.room_made
        )
        self._exchanges.transmission = self._exchanges.observers.transmission = self._transmission
        self._reliability = Reliability(
            self._exchanges, self._transmission, self._outbox, self._peers, self._timers, parameters, limits
        )
        self._group_server: Optional[GroupServer] = None  # made when something is sent to a group that we are in

    # DatagramMachine

    def datagram_received(self, data: bytes, path: Path, now: float) -> None:
        """Take a datagram that came from `path`."""
        try:
            message = decode(data, self._decoded)
        except MessageFormatError as error:
            self._reliability.malformed_received(error, path)
            return
        code = message.code
        if 0 < code < 32:
            self._reliability.request_received(message, path, now)
        elif code == 0:
            self._reliability.empty_received(message, path, now)
        elif 64 <= code < 192:
            self._reliability.response_received(message, path, now)
        else:
            self._reliability.reserved_received(message, path)

    def multicast_received(self, data: bytes, path: Path, now: float) -> None:
        """Take a datagram that came from `path` and was sent to a group (RFC 7252 §8)."""
        try:
            message = decode(data, self._decoded)
        except MessageFormatError:
            return  # §8.1: no reset
        server = self._group_server
        if server is None:
            from minicoap.core.multicast import GroupServer

            server = self._group_server = GroupServer(
                self._exchanges, self._reliability, self._timers, self._entropy, self._parameters, self._limits
            )
        server.message_received(message, path, now)

    def path_failed(self, path: Path, error: OSError, now: float) -> None:
        """End everything under way with the peer at `path`, by a PathError unless `error` says itself what it is."""
        peer = self._peers.find(path)
        if peer is None:
            return
        failure: NetworkError
        if isinstance(error, NetworkError):
            failure = error
        else:
            failure = PathError(f"{path[0]} port {path[1]} cannot be reached: {error.strerror or error}", error)
        self._exchanges.observers.remove_all(peer, now)
        if self._exchanges.quick_server is not None:
            self._exchanges.quick_server.path_failed(path)
        exchanges = list(peer.exchanges.values())  # not those that are begun because of the failure
        self._transmission.fail_all(peer, failure, now)
        for exchange in exchanges:
            if peer.exchanges.get(exchange.token) is exchange:
                exchange.answer(failure, now)

    def needs_no_proof(self, path: Path) -> bool:
        """Whether a message from `path` is believed to come from there as it is.

        So on this machine, behind a security layer, and with ``Limits(amplification=0)``. From elsewhere anybody may
        send in the name of any address; a message that carries an Echo value made for that address (`Request.age`)
        comes from there, and no other message does, whatever that address proved before (RFC 9175 §2.3).
        """
        return self._exchanges.needs_no_proof(path)

    def datagrams_to_send(self) -> list[tuple[bytes, Path]]:
        """Return what is to be sent, and forget it."""
        outbox = self._outbox
        datagrams = outbox[:]
        outbox.clear()
        return datagrams

    def next_timeout(self) -> Optional[float]:
        """When the earliest timer is due."""
        return self._timers.next_deadline()

    def handle_timeout(self, now: float) -> None:
        """Run the timers that are due."""
        self._timers.run(now)

    # Client

    def request(
        self,
        code: int,
        path: Path,
        done: Callable[[Union[Response, CoapError]], None],
        now: float,
        *,
        uri_path: Sequence[str] = (),
        query: Sequence[str] = (),
        payload: Union[bytes, Source] = b"",
        content_format: Optional[int] = None,
        accept: Optional[int] = None,
        options: Iterable[tuple[int, bytes]] = (),
        confirmable: bool = True,
        timeout: Optional[float] = None,
        sink: Optional[ClientSink] = None,
        offset: int = 0,
        etag: Optional[bytes] = None,
        restart: bool = False,
        szx: Optional[int] = None,
        window: int = 1,
        qblock: bool = False,
        tagged: bool = False,
        sent: int = 0,
        tag: Optional[bytes] = None,
        any_order: bool = False,
        progress: Optional[Callable[[Transfer], None]] = None,
        no_response: int = 0,
        parameters: Optional[TransmissionParameters] = None,
        token_length: int = TOKEN_LENGTH,
    ) -> ClientRequest:
        """Send a request to `path`; bodies of any size travel block by block in both directions.

        `done` is called once, never from inside this call: with the response, whatever its code, or with the error
        that ended the exchange. `timeout` is the most that a single exchange may take, in seconds. With `sink` the body
        of a successful response goes there, and the response that `done` gets has no payload.

        A download that was broken off goes on at `offset` bytes, a multiple of the block size, 16 << `szx`. If its ETag
        is not `etag` then, or the body has become shorter, it ends in a BodyError or a 4.xx, or with `restart` begins
        anew at 0. `szx` is the largest block to be used (None: what the server likes). `window` is how many blocks of a
        GET's response may be asked for at once, or of a request's body be under way: congestion control decides
        (`minicoap.core.congestion`), and of a body one is under way at a time unless `any_order` says that the server
        keeps blocks that come before their turn, as this one does, or it shows that it acts on each by itself
        (`minicoap.core.block_upload`). A request body in blocks carries a Request-Tag if another one is under way to
        the same resource, and always if `tagged` (RFC 9175 §3). `progress(transfer)` is called as either body moves on.

        An upload that was broken off goes on behind `sent` bytes, a multiple of the block size, with the Request-Tag
        `tag` that it had, and that no other body ever had. It begins anew by itself, and `progress` sees it, if the
        server has let go of what it had.

        With `qblock` the bodies travel by Q-Block (RFC 9177), ten blocks at a time and without an answer to each, if
        the server has it, which is found out first; else as without. It is made for `confirmable=False`: what is lost
        is asked for again. There is no `window` then, nor `no_response`.

        `no_response` says which responses are not wanted: 2 for 2.xx, 8 for 4.xx, 16 for 5.xx, or their sum; `done`
        gets one with the code EMPTY where none is to come, or none has come in time (RFC 7967). `parameters` are those
        of this request if the endpoint's will not do (RFC 7252 §4.8).
        `token_length` may be less than 4 bytes where DTLS keeps out who could guess a token, and where a response that
        is held back on its way until the token comes again does no harm (RFC 9175 §4): 0 if one request at a time does
        with the empty token.

        Raises UsageError for arguments that cannot work, NetworkError if the endpoint has no room for another request,
        StorageError if `payload` cannot be read.
        """
        if parameters is not None:
            parameters.check()
        items = _request_options(uri_path, query, content_format, accept, options)
        largest = self._limits.block_szx
        if largest < MAX_SZX and (szx is None or szx > largest):
            szx = largest
        if no_response:
            if no_response & ~ALL_CLASSES:
                raise UsageError(f"no_response {no_response} is no sum of 2, 8 and 16")
            if (len(payload) if isinstance(payload, bytes) else payload.size) > 16 << (MAX_SZX if szx is None else szx):
                raise UsageError("a body that travels in blocks needs the responses to them")
            items.append((NO_RESPONSE, encode_uint(no_response)))
        body = BodyOptions(sink, offset, etag, restart, szx, window, tagged, sent, tag, any_order, progress)
        if qblock:
            if no_response:
                raise UsageError("a body that travels by Q-Block needs the responses to it (no_response)")
            if sent:
                raise UsageError("an upload by Q-Block can only be begun anew (sent)")
            return self._send_quick(path, code, items, payload, done, body, confirmable, timeout, parameters, now)

        def send(items: Items, done: Done) -> Transfer:
            transfer = Transfer(
                self._exchanges,
                path,
                code,
                items,
                payload,
                done,
                body,
                confirmable=confirmable,
                timeout=timeout,
                assembled_limit=self._limits.assembled_body,
                parameters=parameters,
                token_length=token_length,
            )
            transfer.start(now)
            return transfer

        if self._cache is None or sink is not None or progress is not None or no_response:
            return send(items, done)
        content = payload if isinstance(payload, bytes) else b""
        if code in SAFE and content is not payload:
            return send(items, done)
        return self._cache.request(path, code, items, content, done, send, self._timers, now)

    def _send_quick(
        self,
        path: Path,
        code: int,
        items: Items,
        payload: Union[bytes, Source],
        done: Done,
        body: BodyOptions,
        confirmable: bool,
        timeout: Optional[float],
        parameters: Optional[TransmissionParameters],
        now: float,
    ) -> ClientRequest:
        from minicoap.core.qblock_client import QuickTransfer
        from minicoap.core.qblock_peers import QuickPeers

        exchanges = self._exchanges
        if exchanges.quick_peers is None:
            exchanges.quick_peers = QuickPeers(self._timers, self._entropy)
        transfer = QuickTransfer(
            exchanges,
            exchanges.quick_peers,
            path,
            code,
            items,
            payload,
            done,
            body,
            confirmable=confirmable,
            timeout=timeout,
            assembled_limit=self._limits.assembled_body,
            parameters=self._parameters if parameters is None else parameters,
        )
        transfer.start(now)
        return transfer

    def observe(
        self,
        path: Path,
        update: Callable[[Union[Response, CoapError]], None],
        now: float,
        *,
        code: int = codes.GET,
        uri_path: Sequence[str] = (),
        query: Sequence[str] = (),
        payload: bytes = b"",
        content_format: Optional[int] = None,
        accept: Optional[int] = None,
        options: Iterable[tuple[int, bytes]] = (),
        confirmable: bool = True,
        timeout: Optional[float] = None,
        sink: Optional[Callable[[], ClientSink]] = None,
        szx: int = 6,
        patience: float = 300.0,
    ) -> Observation:
        """Observe a resource at `path`: have `update` called with its state, now and whenever it changes (RFC 7641).

        `update` is called with each representation, never from inside this call, the body whole, or with `sink` in the
        `ClientSink` that it returned for this one. `Observation.is_over` is true when it is called for the last time:
        with a 4.xx or 5.xx response, which ends an observation; with a 2.xx if the server does not support it (then
        `Response.is_notification` is false); or with the error that ended it. States in between may be skipped, the
        last is not. When Max-Age passes in silence, or the server seems to have been started anew, it is registered
        with again; a server that has not answered for `patience` seconds is given up. Observations of one target are
        one for the server. `timeout` is the most that one exchange may take. Raises UsageError if the target is
        observed already and a sink is involved, NetworkError if there is no room for the request.
        """
        return self._observations.observe(
            path,
            code,
            _request_options(uri_path, query, content_format, accept, options),
            payload,
            update,
            now,
            confirmable=confirmable,
            timeout=timeout,
            sink=sink,
            szx=szx,
            patience=patience,
        )

    def ping(self, path: Path, done: Callable[[Optional[CoapError]], None], now: float) -> None:
        """Send an empty confirmable message, which a CoAP endpoint answers with a reset (RFC 7252 §4.3).

        `done` is called with None once it has, or with the error. Raises NetworkError if there is no room.
        """

        def on_outcome(error: Optional[CoapError], when: float) -> None:
            done(None if isinstance(error, ResetError) else error)

        peer = self._peers.reach(path, now)
        if peer is None or self._transmission.send(peer, codes.EMPTY, b"", Options(), b"", now, on_outcome) is None:
            raise NetworkError("too many messages are under way; see Limits")

    def multicast(
        self,
        code: int,
        path: Path,
        on_response: Callable[[Response, Path], None],
        done: Callable[[Optional[CoapError]], None],
        now: float,
        *,
        uri_path: Sequence[str] = (),
        query: Sequence[str] = (),
        payload: bytes = b"",
        content_format: Optional[int] = None,
        accept: Optional[int] = None,
        options: Iterable[tuple[int, bytes]] = (),
        duration: Optional[float] = None,
    ) -> GroupRequest:
        """Send a request to the group at `path` (RFC 7252 §8).

        `on_response` is called with each response and where it came from, for `duration` seconds, twice DEFAULT_LEISURE
        where None; `done` once after that, with an error if the path failed, unless it was cancelled. A member that
        answers by a challenge or by the first of several blocks is asked again alone; the end waits for that. Raises
        UsageError for what a group cannot be asked, NetworkError if there is no room.
        """
        items = _request_options(uri_path, query, content_format, accept, options)
        if any(number == ETAG for number, _ in items):
            raise UsageError("a request to a group has no ETag")  # §8.2.1
        if len(payload) > 16 << MAX_SZX:
            raise UsageError("a body in blocks cannot be sent to a group")
        if duration is None:
            duration = 2 * self._parameters.default_leisure

        def ask(member: Path, answered: Done, when: float) -> None:
            try:
                self.request(code, member, answered, when, payload=payload, options=items)
            except CoapError as error:
                answered(error)

        from minicoap.core.multicast import GroupClient, GroupRequest

        groups = self._exchanges.groups
        if groups is None:
            groups = GroupClient(self._peers, self._timers, self._entropy, self._transmission)
            self._exchanges.groups = groups
        request = GroupRequest(on_response, done, ask)
        error = groups.request(path, code, Options(items), payload, request, duration, now)
        if error is not None:
            raise error
        return request

    def register(self, path: Path, facts: Facts, on_outcome: Done, now: float) -> Registration:
        """Register this endpoint with the resource directory at `path`, and go on doing so (RFC 9176 §5.1).

        `on_outcome` is called after each attempt. Raises UsageError for facts that no directory takes, NetworkError if
        there is no room.
        """
        from minicoap.core.directory import Registration

        def ask(uri_path: tuple[str, ...], query: list[str], done: Done, when: float) -> ClientRequest:
            return self.request(codes.POST, path, done, when, uri_path=uri_path, query=query)

        registration = Registration(path, facts, ask, self._timers, on_outcome)
        registration.start(now)
        return registration

    def try_token_length(
        self, path: Path, length: int, done: Callable[[Union[bool, CoapError]], None], now: float
    ) -> None:
        """Find out whether the server at `path` takes tokens of `length` bytes (RFC 8974 §2.2.2).

        `done` is called with that, or with the error that kept the server from saying so; the answer may be relied on
        for half an hour. Raises NetworkError if there is no room, UsageError for a length that no token has.
        """
        if not 1 <= length <= LONGEST_TOKEN:
            raise UsageError(f"a token to be known again has 1 to {LONGEST_TOKEN} bytes, not {length}")

        def on_answer(answer: Answer, when: float) -> None:
            if isinstance(answer, CoapError):
                done(False if isinstance(answer, ResetError) else answer)
            else:  # a server that can never take it says 4.00, one that cannot now 5.03
                done(answer.code not in (codes.BAD_REQUEST, codes.SERVICE_UNAVAILABLE))

        outcome = self._exchanges.request(
            path,
            codes.GET,
            Options(((IF_NONE_MATCH, b""),)),
            b"",
            confirmable=True,
            timeout=None,
            on_answer=on_answer,
            now=now,
            token_length=length,
        )
        if isinstance(outcome, NetworkError):
            raise outcome

    def has_answered(self, path: Path, since: float) -> bool:
        """Whether a response to a request of ours has come from `path` since then."""
        peer = self._peers.find(path)
        return peer is not None and peer.answered_at is not None and peer.answered_at >= since

    # What is kept, for tests and health reports

    def footprint(self) -> dict[str, int]:
        """Return how much is kept of what: peers, answers, bodies, Request-Tags, observers, observations, timers, …"""
        return {
            "peers": len(self._peers),
            "remembered": self._reliability.remembered,
            "pending": self._reliability.pending + (0 if self._group_server is None else len(self._group_server)),
            "bodies": len(self._blocks)
            + (0 if self._exchanges.quick_server is None else len(self._exchanges.quick_server)),
            "tags": len(self._exchanges.request_tags),
            "observers": len(self._exchanges.observers),
            "observations": len(self._observations),
            "groups": 0 if self._exchanges.groups is None else len(self._exchanges.groups),
            "cached": 0 if self._cache is None else len(self._cache),
            "refusals": len(self._exchanges.backoff),
            "timers": len(self._timers),
        }


def _request_options(
    uri_path: Sequence[str],
    query: Sequence[str],
    content_format: Optional[int],
    accept: Optional[int],
    options: Iterable[tuple[int, bytes]],
) -> list[tuple[int, bytes]]:
    items = [(URI_PATH, segment.encode()) for segment in uri_path]
    items.extend((URI_QUERY, argument.encode()) for argument in query)
    if content_format is not None:
        items.append((CONTENT_FORMAT, encode_uint(content_format)))
    if accept is not None:
        items.append((ACCEPT, encode_uint(accept)))
    items.extend(options)
    return items
