"""How server and node answer: structs in the client's format, every refusal with a body that a person can act on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Optional, Union

from fleet.errors import FormatError, InvalidError, PeerError
from fleet.model.api import ErrorAnswer
from fleet.model.formats import CBOR, JSON, encode
from minicoap.codec import codes, contentformats
from minicoap.codec.message import Options
from minicoap.codec.options import CONTENT_FORMAT, MAX_AGE, encode_uint
from minicoap.codec.problem import Problem, encode_problem
from minicoap.core.request import Deferred, Request, Response
from minicoap.core.resource import Handler

FORMATS = (JSON, CBOR)
RETRY_AFTER = 5  # seconds, for what cannot be done now
FIELD_ENTRY = "tag:minicoap,2026:problem-field"
"""The custom problem detail entry (RFC 9290 §3.2) of an error's field: its map has `field`, `state` and `legal`."""

_WITHOUT_BODY = (codes.GET, codes.DELETE)

# Live state: a cache may not answer for it. The default Max-Age of 60 s would let it.
_LIVE = {number: Options(((CONTENT_FORMAT, encode_uint(number)), (MAX_AGE, b""))) for number in FORMATS}


def answer(
    request: Request, message: Any, code: int = codes.CONTENT, *, location: Collection[str] = (), max_age: int = 0
) -> Response:
    """Return `message`, a struct, in the format that the client takes; JSON where it does not say."""
    number = request.accept
    if number is None:
        number = CBOR if request.content_format == CBOR else JSON
    if not location and not max_age:
        return Response(code, encode(message, number), options=_LIVE[number])
    return Response(code, encode(message, number), number, max_age=max_age, location_path=tuple(location))


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
    if wanted == CBOR:
        entry = {"field": field, "state": state, "legal": list(legal)}
        entry = {key: value for key, value in entry.items() if value}
        problem = Problem(codes.code_name(code), text, {FIELD_ENTRY: entry} if entry else {})
        return Response(code, encode_problem(problem), contentformats.PROBLEM_DETAILS_CBOR, max_age=max_age)
    if wanted in (None, JSON, contentformats.OCTET_STREAM):
        return Response(code, encode(ErrorAnswer(text, field, state, legal or ())), JSON, max_age=max_age)
    return Response(code, text.encode(), max_age=max_age)


def refuse_error(request: Request, error: PeerError) -> Response:
    """Return what an error in the client's message leads to."""
    if isinstance(error, InvalidError):
        return refusal(request, codes.UNPROCESSABLE_ENTITY, str(error), error.field)
    if isinstance(error, FormatError):
        return refusal(request, codes.BAD_REQUEST, str(error))
    return refusal(request, codes.BAD_REQUEST, str(error))


def unsupported_format(request: Request) -> Optional[Response]:
    """Return 4.15 for a payload that is neither JSON nor CBOR (an unnamed one is taken for JSON)."""
    if request.content_format in (None, JSON, CBOR):
        return None
    name = contentformats.content_format_name(request.content_format or 0)
    text = f"Content-Format {request.content_format} ({name}) is not served; send JSON (50) or CBOR (60)"
    return refusal(request, codes.UNSUPPORTED_CONTENT_FORMAT, text)


def arguments(request: Request, *known: str) -> dict[str, str]:
    """Return the query's `name=value` arguments; raises InvalidError for one that is not `known`, never ignores it."""
    found: dict[str, str] = {}
    for argument in request.query:
        name, _, value = argument.partition("=")
        if name not in known:
            text = f"this version does not know the query parameter {name[:80]!r}; known: {', '.join(known) or 'none'}"
            raise InvalidError(text, name[:80])
        if name in found:
            raise InvalidError(f"the query parameter {name!r} is there twice", name)
        found[name] = value
    return found


def guarded(handler: Handler) -> Handler:
    """Return `handler` with what it raises about the client's message turned into the answer that says so."""

    def handle(request: Request) -> Union[Response, Deferred]:
        try:
            if request.code not in _WITHOUT_BODY:
                refused = unsupported_format(request)
                if refused is not None:
                    return refused
            return handler(request)
        except PeerError as error:
            return refuse_error(request, error)

    return handle
