"""How server and node answer: structs in the client's format, every refusal with a body that a person can act on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Optional, Union

from fleet.errors import FormatError, InvalidError, PeerError
from fleet.model.api_answers import ErrorAnswer
from fleet.model.formats import CBOR, JSON, encode
from fleet.model.keys import has_numbers
from minicoap.codec import codes, contentformats
from minicoap.codec.message import Options
from minicoap.codec.options import ACCEPT, CONTENT_FORMAT, ETAG, MAX_AGE, URI_QUERY, encode_uint
from minicoap.codec.problem import Problem, decode_problem, encode_problem
from minicoap.core.request import Deferred, Request, Response
from minicoap.core.resource import Handler
from minicoap.errors import CoapError

FORMATS = (JSON, CBOR)
RETRY_AFTER = 5  # seconds, for what cannot be done now
FIELD_ENTRY = "tag:minicoap,2026:problem-field"
"""The custom problem detail entry (RFC 9290 §3.2) of an error's field: its map has `field`, `state` and `legal`."""

# Who reads or writes these reads an error in that form too.
_JSON_READERS = (None, JSON, contentformats.OCTET_STREAM, contentformats.SENML_JSON, contentformats.MERGE_PATCH)
_CBOR_READERS = (CBOR, contentformats.SENML_CBOR)

_WITHOUT_BODY = (codes.GET, codes.DELETE)

NAMES_FORMAT = 1 << ACCEPT | 1 << CONTENT_FORMAT
"""Bits of `Options.mask` that mean: the client says in which format."""

# Live state: a cache may not answer for it. The default Max-Age of 60 s would let it.
_LIVE = {number: Options(((CONTENT_FORMAT, encode_uint(number)), (MAX_AGE, b""))) for number in FORMATS}
# The same behind an ETag: the Content-Format's delta counts from option 4 then instead of from 0.
_BEHIND_ETAG = {number: bytes((live.raw[0] - (ETAG << 4),)) + live.raw[1:] for number, live in _LIVE.items()}
_ETAG_HEADS = [bytes((ETAG << 4 | size,)) for size in range(9)]


def answer(
    request: Request,
    message: Any,
    code: int = codes.CONTENT,
    *,
    location: Collection[str] = (),
    max_age: int = 0,
    etag: Optional[bytes] = None,
) -> Response:
    """Return `message`, a struct, in the format that the client takes; JSON where it does not say."""
    number = JSON
    mask = request.options.mask
    if mask & NAMES_FORMAT:
        accepted = request.accept if mask & 1 << ACCEPT else None
        number = accepted if accepted is not None else CBOR if request.content_format == CBOR else JSON
    payload = encode(message, number, numbers=number == CBOR and speaks_numbers(request))
    if not location and not max_age:
        return Response.ready(code, payload, _LIVE[number] if etag is None else _tagged(etag, number))
    return Response(code, payload, number, max_age=max_age, location_path=tuple(location), etag=etag)


def speaks_numbers(request: Request) -> bool:
    """Whether a client names fields by their integer keys, and so reads them."""
    return request.content_format == CBOR and has_numbers(request.payload)


def _tagged(etag: bytes, number: int) -> Options:
    """Return ETag, Content-Format and a Max-Age of 0: encoded by hand, since each of many reports gets its own."""
    live = _LIVE[number]
    raw = _ETAG_HEADS[len(etag)] + etag + _BEHIND_ETAG[number]
    return Options.encoded(((ETAG, etag), *live.items), live.mask | 1 << ETAG, raw)


def refusal(
    request: Request, code: int, text: str, field: Optional[str] = None, state: Optional[str] = None,
    legal: tuple[str, ...] = (),
) -> Response:  # fmt: skip
    """Return an error: JSON, or problem details (RFC 9290) to a client that speaks CBOR; nothing on 4.06."""
    # Errors are cacheable too (RFC 7252 §5.9.2); a job that is not there may be in a moment.
    max_age = RETRY_AFTER if code in (codes.SERVICE_UNAVAILABLE, codes.TOO_MANY_REQUESTS) else 0
    if code == codes.NOT_ACCEPTABLE:
        return Response(code, max_age=max_age)
    wanted = request.accept if request.accept is not None else request.content_format
    if wanted in _CBOR_READERS:
        entry = {"field": field, "state": state, "legal": list(legal)}
        entry = {key: value for key, value in entry.items() if value}
        problem = Problem(codes.code_name(code), text, {FIELD_ENTRY: entry} if entry else {})
        return Response(code, encode_problem(problem), contentformats.PROBLEM_DETAILS_CBOR, max_age=max_age)
    if wanted in _JSON_READERS:
        return Response(code, encode(ErrorAnswer(text, field, state, legal or ())), JSON, max_age=max_age)
    return Response(code, text.encode(), max_age=max_age)


def refuse_error(request: Request, error: PeerError) -> Response:
    """Return what an error in the client's message leads to."""
    if isinstance(error, InvalidError):
        return refusal(request, codes.UNPROCESSABLE_ENTITY, str(error), error.field)
    if isinstance(error, FormatError):
        return refusal(request, codes.BAD_REQUEST, str(error))
    return refusal(request, codes.BAD_REQUEST, str(error))


def said(response: Response) -> str:
    """Return what an answer says to people: its code, and the text of an error in whichever form it came."""
    text = response.text
    if response.content_format == contentformats.PROBLEM_DETAILS_CBOR:
        try:
            text = decode_problem(response.body).detail
        except CoapError:
            text = ""
    return f"{codes.code_name(response.code)} {text}".rstrip()


def _unsupported_format(request: Request, formats: Collection[Optional[int]]) -> Response:
    """Return 4.15 for a payload in none of `formats`, saying which they are."""
    known = " or ".join(_format_text(number) for number in formats if number is not None)
    given = "none" if request.content_format is None else _format_text(request.content_format)
    text = f"the Content-Format is {given}; send {known}"
    return refusal(request, codes.UNSUPPORTED_CONTENT_FORMAT, text)


def _format_text(number: int) -> str:
    return f"{number} ({contentformats.content_format_name(number)})"


def arguments(request: Request, *known: str) -> dict[str, str]:
    """Return the query's `name=value` arguments; raises InvalidError for one that is not `known`, never ignores it."""
    found: dict[str, str] = {}
    if not request.options.mask & 1 << URI_QUERY:
        return found
    for argument in request.query:
        name, _, value = argument.partition("=")
        if name not in known:
            text = f"this version does not know the query parameter {name[:80]!r}; known: {', '.join(known) or 'none'}"
            raise InvalidError(text, name[:80])
        if name in found:
            raise InvalidError(f"the query parameter {name!r} is there twice", name)
        found[name] = value
    return found


def guarded(handler: Handler, formats: Collection[Optional[int]] = (None, *FORMATS)) -> Handler:
    """Return `handler` with what it raises about the client's message turned into the answer that says so.

    `formats` are those of the payloads that it takes, None for one whose format is not named.
    """

    def handle(request: Request) -> Union[Response, Deferred]:
        try:
            if request.code not in _WITHOUT_BODY and request.options.uint(CONTENT_FORMAT) not in formats:
                return _unsupported_format(request, formats)
            return handler(request)
        except PeerError as error:
            return refuse_error(request, error)

    return handle
