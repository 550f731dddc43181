"""Requests and responses as handlers and callers see them, and the answer that comes later."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Callable, Optional, Protocol, Union

from minicoap.codec import codes, contentformats
from minicoap.codec.message import EXTENDED_CRITICAL, NO_OPTIONS, UNUSABLE_CRITICAL, Options
from minicoap.codec.options import (
    ACCEPT,
    BLOCK1,
    BLOCK2,
    CONTENT_FORMAT,
    ECHO,
    ETAG,
    IF_MATCH,
    IF_NONE_MATCH,
    LOCATION_PATH,
    LOCATION_QUERY,
    MAX_AGE,
    NO_RESPONSE,
    OBSERVE,
    PROXY_SCHEME,
    PROXY_URI,
    Q_BLOCK1,
    Q_BLOCK2,
    URI_HOST,
    URI_PATH,
    URI_PORT,
    URI_QUERY,
    decode_uint,
    encode_uint,
)
from minicoap.core.identity import ANONYMOUS, Identity
from minicoap.errors import UsageError

if TYPE_CHECKING:
    from minicoap.core.body import Source
    from minicoap.core.echo import Echo

Path = tuple[Any, ...]
"""The address of the other side, made and understood by the shell: a socket address. [0] is the host, [1] the port."""


class SecurePath(tuple[Any, ...]):
    """A path below which a security layer knows the other side; `identity` is who that is.

    It stays the same while the other side keeps its session, wherever that comes from: its members are where it came
    from first, `address` where it is now.
    """

    identity: Identity = ANONYMOUS
    address: Path = ()


def address_of(path: Path) -> Path:
    """Return where the other side of `path` is now, host and port first: to be shown, and written down."""
    return path.address or path if isinstance(path, SecurePath) else path


_UNDERSTOOD = (
    IF_MATCH, URI_HOST, IF_NONE_MATCH, URI_PORT, URI_PATH, URI_QUERY, ACCEPT, BLOCK2, BLOCK1, PROXY_URI, PROXY_SCHEME,
    Q_BLOCK1, Q_BLOCK2,
)  # fmt: skip
NOT_UNDERSTOOD = (
    sum(1 << number for number in range(1, 60, 2) if number not in _UNDERSTOOD) | EXTENDED_CRITICAL | UNUSABLE_CRITICAL
)
"""Bits of `Options.mask` that mean: a critical option which this endpoint cannot honour (RFC 7252 §5.4.1)."""

Q_BLOCKS = 1 << Q_BLOCK1 | 1 << Q_BLOCK2
"""Bits of `Options.mask` that mean Q-Block (RFC 9177): understood in a request to this endpoint alone, not to a group,
and in a response to somebody who asked for it."""

SAFE = frozenset((codes.GET, codes.FETCH))
"""Methods that only read (RFC 7252 §5.1, RFC 8132 §2.1)."""

IDEMPOTENT = SAFE | {codes.PUT, codes.DELETE, codes.IPATCH}
"""Methods that may be carried out twice (RFC 7252 §5.1, RFC 8132 §3)."""

_BLOCKS = 1 << BLOCK1 | 1 << BLOCK2 | Q_BLOCKS

# Options with nothing but a Content-Format, which most responses have; encoded once.
_FORMAT_ONLY = {
    number: Options(((CONTENT_FORMAT, encode_uint(number)),))
    for number in (
        contentformats.TEXT,
        contentformats.LINK_FORMAT,
        contentformats.OCTET_STREAM,
        contentformats.JSON,
        contentformats.CBOR,
    )
}


class Request:
    """A request that a handler is to answer.

    `code` is the method, `path` where it came from, `options` and `payload` as received (a block-wise body assembled),
    `args` the values of the resource's template variables, `now` the arrival in seconds of the endpoint's clock.
    """

    __slots__ = ("args", "code", "echo", "now", "options", "path", "payload")

    def __init__(
        self, code: int, path: Path, options: Options, payload: bytes, now: float, echo: Optional[Echo] = None
    ) -> None:
        self.code = code
        self.path = path
        self.options = options
        self.payload = payload
        self.now = now
        self.echo = echo
        self.args: dict[str, str] = _NO_ARGS

    @property
    def identity(self) -> Identity:
        """Who asks, as the security layer that the request came through proved it."""
        path = self.path
        return path.identity if isinstance(path, SecurePath) else ANONYMOUS

    @property
    def uri_path(self) -> tuple[str, ...]:
        """The segments of the path that was asked for."""
        return self.options.path

    @property
    def query(self) -> tuple[str, ...]:
        """The Uri-Query arguments, such as ``("limit=10", "after=x")``."""
        return self.options.query

    @property
    def content_format(self) -> Optional[int]:
        """The payload's Content-Format, if the client named it."""
        return self.options.uint(CONTENT_FORMAT)

    @property
    def accept(self) -> Optional[int]:
        """The Content-Format that the client wants to have, if it named one."""
        return self.options.uint(ACCEPT)

    @property
    def etags(self) -> tuple[bytes, ...]:
        """The representations that the client has already (RFC 7252 §5.10.6.2): one of them is answered 2.03.

        A handler need not look: a 2.05 with one of these as its ETag is turned into 2.03 on its way out. It may save
        itself the work, though, by returning `Response.valid`.
        """
        return self.options.all(ETAG)

    def meets_conditions(self, etag: Optional[bytes]) -> bool:
        """Whether If-Match and If-None-Match allow the request on a resource whose entity tag is `etag` (§5.10.8).

        None means that the resource does not exist. Where it returns False, answer 4.12 (Precondition Failed).
        """
        if_match = self.options.all(IF_MATCH)
        if if_match and (etag is None or (etag not in if_match and b"" not in if_match)):
            return False
        return etag is None or not self.options.mask & 1 << IF_NONE_MATCH

    @property
    def age(self) -> Optional[float]:
        """How many seconds old the request is at most, as its Echo option proves; None where it has none of ours.

        Without a security protocol this proves no more than that somebody at that address asked (RFC 9175 §2.3).
        """
        value = self.options.get(ECHO)
        return None if value is None or self.echo is None else self.echo.age(value, self.path, self.now)

    def challenge(self) -> Response:
        """Return 4.01 with an Echo value: the client repeats its request with it (RFC 9175 §2.3)."""
        return Response.refusal(codes.UNAUTHORIZED, added=self.echo_options())

    def echo_options(self) -> tuple[tuple[int, bytes], ...]:
        """Return an Echo value for the options of any response: the client brings it back with its next request.

        So it proves where it is without an answer being held back (RFC 9175 §2.3).
        """
        return () if self.echo is None else ((ECHO, self.echo.value(self.path, self.now)),)

    def defer(self) -> Deferred:
        """Return an answer to be given later.

        If it comes soon it still travels in the acknowledgement, else separately (RFC 7252 §5.2.2): the handler need
        not care.
        """
        return Deferred(self)


_NO_ARGS: dict[str, str] = {}
_NOT_FRESH = Options(((MAX_AGE, b""),))


class Response:
    """A response: what a handler returns, and what a client receives.

    `code` is an integer of `minicoap.codec.codes`. `payload` is bytes, or in a handler's response a `Source`, which is
    sent block by block. `options` are further options as (number, value) pairs, or a ready-made `Options` if nothing
    else is given. `etag` is one to eight bytes, `max_age` seconds, `location_path` and `location_query` the segments
    and arguments of the URI of what was created. A client that asked for no response (RFC 7967) gets the code EMPTY.
    Raises UsageError for an etag of another length and for an option that cannot be encoded.
    """

    __slots__ = ("code", "options", "payload")

    def __init__(
        self,
        code: int = codes.CONTENT,
        payload: Union[bytes, Source] = b"",
        content_format: Optional[int] = None,
        *,
        options: Union[Options, Iterable[tuple[int, bytes]]] = NO_OPTIONS,
        etag: Optional[bytes] = None,
        max_age: Optional[int] = None,
        location_path: Sequence[str] = (),
        location_query: Sequence[str] = (),
    ) -> None:
        self.code = code
        self.payload = payload
        if etag is None and max_age is None and not location_path and not location_query:
            if content_format is None and isinstance(options, Options):
                self.options = options
                return
            if options is NO_OPTIONS and content_format in _FORMAT_ONLY:
                self.options = _FORMAT_ONLY[content_format]
                return
        items = list(options.items if isinstance(options, Options) else options)
        if content_format is not None:
            items.append((CONTENT_FORMAT, encode_uint(content_format)))
        if etag is not None:
            if not 1 <= len(etag) <= 8:
                raise UsageError(f"an ETag has one to eight bytes, not {len(etag)}")
            items.append((ETAG, etag))
        if max_age is not None:
            items.append((MAX_AGE, encode_uint(max_age)))
        items.extend((LOCATION_PATH, segment.encode()) for segment in location_path)
        items.extend((LOCATION_QUERY, argument.encode()) for argument in location_query)
        self.options = Options(items)
        self.options.raw  # noqa: B018  encoded here, where what cannot be still is the fault of whoever passed it

    @classmethod
    def ready(cls, code: int, payload: Union[bytes, Source], options: Options) -> Response:
        """Return a response with options that are made already, as a handler does that answers often the same way."""
        response = cls.__new__(cls)
        response.code = code
        response.payload = payload
        response.options = options
        return response

    @classmethod
    def refusal(cls, code: int, text: str = "", added: Sequence[tuple[int, bytes]] = ()) -> Response:
        """Return an error with a diagnostic payload (RFC 7252 §5.5.2), which no cache answers for.

        Errors too are fresh for 60 s where Max-Age does not say otherwise (§5.9.2, §5.10.5), and what is wrong now may
        be right in a moment. `added` are further options.
        """
        options = Options((*added, *_NOT_FRESH.items)) if added else _NOT_FRESH
        return cls.ready(code, text.encode(), options)

    @classmethod
    def valid(cls, etag: bytes, max_age: Optional[int] = None) -> Response:
        """Return 2.03: the representation that the client has, named by `etag`, is still good (RFC 7252 §5.9.1.3)."""
        return cls(codes.VALID, etag=etag, max_age=max_age)

    def __repr__(self) -> str:
        size = len(self.payload) if isinstance(self.payload, bytes) else self.payload.size
        return f"Response({codes.code_name(self.code)}, {self.options!r}, {size} bytes)"

    @property
    def body(self) -> bytes:
        """The payload of a received response."""
        return self.payload if isinstance(self.payload, bytes) else self.payload.read_at(0, self.payload.size)

    @property
    def text(self) -> str:
        """The payload as UTF-8 text, what is not UTF-8 replaced."""
        return self.body.decode(errors="replace")

    @property
    def is_success(self) -> bool:
        """Whether the code is of class 2.xx."""
        return self.code >> 5 == 2

    @property
    def content_format(self) -> Optional[int]:
        """The payload's Content-Format, if named."""
        return self.options.uint(CONTENT_FORMAT)

    @property
    def etag(self) -> Optional[bytes]:
        """The entity tag, if there is one."""
        return self.options.get(ETAG)

    @property
    def is_notification(self) -> bool:
        """Whether a client has this as an observer, and further states will follow (RFC 7641 §2)."""
        return self.options.mask & 1 << OBSERVE != 0

    @property
    def max_age(self) -> int:
        """Seconds for which the response stays fresh; 60 where it does not say (RFC 7252 §5.10.5)."""
        value = self.options.get(MAX_AGE)
        return 60 if value is None else decode_uint(value)

    @property
    def location(self) -> str:
        """The URI reference of what was created, such as ``/updates/7?x=y``; empty where there is none."""
        path = "".join("/" + value.decode(errors="replace") for value in self.options.all(LOCATION_PATH))
        query = "&".join(value.decode(errors="replace") for value in self.options.all(LOCATION_QUERY))
        return f"{path}?{query}" if query else path


ALL_CLASSES = 2 | 8 | 16
"""The value of No-Response that stands for no response of class 2.xx, 4.xx or 5.xx (RFC 7967 §2.1)."""


def is_wanted(options: Options, response: Response) -> bool:
    """Whether a request with `options` wants to have `response` (RFC 7967 §2.1).

    A response that is part of a block-wise transfer is wanted in any case: without it the client could not go on. One
    with the code EMPTY stands for none at all, as most blocks of Q-Block have.
    """
    if response.code == codes.EMPTY:
        return False
    unwanted = options.uint(NO_RESPONSE)
    if not unwanted or (response.options.mask | options.mask) & _BLOCKS:
        return True
    return not unwanted >> ((response.code >> 5) - 1) & 1


SILENCE = Response(codes.EMPTY)
"""What a request is answered that is to have no response now, and perhaps never (RFC 9177 §4.3)."""


class ClientRequest(Protocol):
    """A request under way."""

    @property
    def is_done(self) -> bool:
        """Whether the outcome has been told, or the request was cancelled."""

    def cancel(self, now: float) -> None:
        """Stop; the outcome will not be told. More than once is fine."""


class Deferred:
    """The answer to one request, to be given once."""

    __slots__ = ("_deliver", "request", "response")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.response: Optional[Response] = None
        self._deliver: Optional[Callable[[Request, Response, float], None]] = None

    def resolve(self, response: Response, now: float) -> None:
        """Give the answer at `now`; raises UsageError if it was given before."""
        if self.response is not None:
            raise UsageError("this request has been answered before")
        self.response = response
        if self._deliver is not None:
            self._deliver(self.request, response, now)

    def on_resolved(self, deliver: Callable[[Request, Response, float], None]) -> None:
        """Have `deliver(request, response, now)` called once the answer is there; for the message layer."""
        self._deliver = deliver
