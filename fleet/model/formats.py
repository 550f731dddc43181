"""JSON and CBOR, read strictly and written: payload bytes to structs and back (RFC 8259, RFC 8949).

A payload that is not of its format, or that two readers could understand differently, is a FormatError (4.00). One
that is, but does not fit the message, is an InvalidError (4.22) naming the field. Of CBOR that is all that
`minicoap.codec.cbor` refuses.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Hashable, Optional, TypeVar, cast

import msgspec

from fleet.errors import FormatError, InvalidError, UsageError
from minicoap.codec import cbor
from minicoap.codec.cbor import DEPTH_LIMIT
from minicoap.errors import CoapError

from .keys import NAMES, NUMBERS

JSON = 50
CBOR = 60

T = TypeVar("T")

_WHERE = re.compile(r" - at `(?:key in )?(\$[^`]*)`\Z")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`\Z", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`\Z", re.DOTALL)


def decode(payload: bytes, content_format: Optional[int], kind: type[T]) -> T:
    """Read `payload` as a `kind`; without a Content-Format it is JSON.

    Raises FormatError, InvalidError with the field, and UsageError for another Content-Format.
    """
    if content_format == CBOR:
        return convert(decode_cbor(payload, names=NAMES), kind)
    _check_json(payload, content_format)
    try:
        message: T = _json_decoder(cast(Hashable, kind)).decode(payload)
        return message
    except msgspec.ValidationError as error:
        if kind is not object:
            decode(payload, content_format, object)  # what is no JSON further on is that first of all
        raise _invalid(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"the payload is no JSON: {error}") from None


def decode_unambiguous(payload: bytes, content_format: Optional[int]) -> Any:
    """Read `payload` into dicts and lists, also refusing duplicate keys in JSON: for what is to be obeyed."""
    value = decode(payload, content_format, object)
    if content_format == CBOR:
        return value
    import json  # a node, whose memory counts, reads nothing that way

    try:
        return json.loads(payload, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the payload is no JSON: {error}") from None


def convert(value: Any, kind: type[T]) -> T:
    """Check decoded `value` against `kind`; raises InvalidError naming the field."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _invalid(error) from None
    except (OverflowError, SystemError):  # of an integer that no float can hold, in msgspec 0.20
        raise InvalidError("a number is too large", "$") from None


def encode(message: Any, content_format: Optional[int] = JSON, *, numbers: bool = False) -> bytes:
    """Write a struct, or dicts and lists, as JSON (50, or None) or CBOR (60), there with `numbers` for field names."""
    if content_format == CBOR:
        return cbor.encode(msgspec.to_builtins(message), NUMBERS if numbers else {})
    if content_format not in (JSON, None):
        raise UsageError(f"Content-Format {content_format} is neither JSON (50) nor CBOR (60)")
    return msgspec.json.encode(message)


@lru_cache(maxsize=64)
def _json_decoder(kind: Any) -> "msgspec.json.Decoder[Any]":
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(kind)
    return decoder


def _check_json(payload: bytes, content_format: Optional[int]) -> None:
    if content_format not in (JSON, None):
        raise UsageError(f"Content-Format {content_format} is neither JSON (50) nor CBOR (60)")
    if not payload:
        raise FormatError("the payload is empty; send a JSON object")
    # Few payloads open that many brackets at all, so that counting settles nearly every case at no cost.
    if payload.count(b"{") + payload.count(b"[") > DEPTH_LIMIT and _json_depth(payload) > DEPTH_LIMIT:
        raise FormatError(f"the payload is nested deeper than {DEPTH_LIMIT} levels")


def _json_depth(payload: bytes) -> int:
    depth = deepest = 0
    in_string = escaped = False
    for byte in payload:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"}]":
            depth -= 1
    return deepest


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:80]!r} is there twice")
        found[key] = value
    return found


def _invalid(error: msgspec.ValidationError) -> InvalidError:
    text = str(error)
    where = _WHERE.search(text)
    field = where[1] if where else "$"
    text = text[: where.start()] if where else text
    unknown = _UNKNOWN.match(text)
    if unknown:
        name = unknown[1][:80]
        return InvalidError(f"this version does not know the field {name!r}; leave it away", f"{field}.{name}")
    missing = _MISSING.match(text)
    if missing:
        return InvalidError(f"the field {missing[1]!r} is required", f"{field}.{missing[1]}")
    return InvalidError(text[:1].lower() + text[1:], field)


def decode_cbor(payload: bytes, *, integer_keys: bool = False, names: Optional[Mapping[int, str]] = None) -> Any:
    """Read CBOR into dicts and lists; keys of maps are texts, with `integer_keys` integers too, or `names` for those.

    Raises FormatError.
    """
    if not payload:
        raise FormatError("the payload is empty; send a CBOR map")
    try:
        return cbor.decode(payload, integer_keys=integer_keys, names=names)
    except CoapError as error:
        raise FormatError(f"the payload is no CBOR: {error}") from None
