"""JSON and CBOR, read strictly and written: payload bytes to structs and back (RFC 8259, RFC 8949).

A payload that is not of its format, or that two readers could understand differently, is a FormatError (4.00). One
that is, but does not fit the message, is an InvalidError (4.22) naming the field. CBOR is walked once before it is
decoded: no tags (they can build cycles or run code), no value that JSON has no word for, no duplicate keys, nothing
behind the end, a bounded depth.
"""

import re
from functools import lru_cache
from typing import Any, Hashable, Optional, TypeVar, Union, cast

import msgspec

from fleet.errors import FormatError, InvalidError, UsageError

JSON = 50
CBOR = 60
DEPTH_LIMIT = 16
_BREAK = 0xFF
_SIMPLE = (20, 21, 22, 25, 26, 27)  # of CBOR's major type 7: false, true, null and the three sizes of floats

T = TypeVar("T")

_WHERE = re.compile(r" - at `(?:key in )?(\$[^`]*)`\Z")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`\Z", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`\Z", re.DOTALL)


def decode(payload: bytes, content_format: Optional[int], kind: type[T]) -> T:
    """Read `payload` as a `kind`; without a Content-Format it is JSON.

    Raises FormatError, InvalidError with the field, and UsageError for another Content-Format.
    """
    if content_format == CBOR:
        return convert(decode_cbor(payload), kind)
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


def encode(message: Any, content_format: Optional[int] = JSON) -> bytes:
    """Write a struct, or dicts and lists, as JSON (50, or None) or CBOR (60)."""
    if content_format == CBOR:
        import cbor2

        written: bytes = cbor2.dumps(msgspec.to_builtins(message))
        return written
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


def decode_cbor(payload: bytes, *, integer_keys: bool = False) -> Any:
    """Read CBOR into dicts and lists; keys of maps are texts, with `integer_keys` integers too. Raises FormatError."""
    if not payload:
        raise FormatError("the payload is empty; send a CBOR map")
    try:
        end = _walk_cbor(payload, 0, 0, integer_keys)
    except IndexError:
        raise FormatError("the payload is no CBOR: it ends too early") from None
    if end != len(payload):
        raise FormatError(f"the payload is no CBOR: {len(payload) - end} bytes follow its end")
    import cbor2

    try:
        return cbor2.loads(payload)
    except (cbor2.CBORDecodeError, ValueError, OverflowError) as error:
        raise FormatError(f"the payload is no CBOR: {error}") from None


def _walk_cbor(data: bytes, at: int, depth: int, integer_keys: bool) -> int:
    """Return where the item at `at` ends; raises FormatError for what is refused, IndexError at a premature end."""
    before = at
    major = data[at] >> 5
    length, at = _cbor_head(data, at)
    if major in (0, 1, 7):
        if major == 7 and data[before] & 31 not in _SIMPLE:
            raise FormatError("the payload has a simple value of CBOR that is neither true, false nor null")
        return at
    if major == 6:
        raise FormatError(f"CBOR tags are not accepted (tag {length}); send the plain value")
    if major in (2, 3):
        return _walk_string(data, at, major, length)
    if depth >= DEPTH_LIMIT:
        raise FormatError(f"the payload is nested deeper than {DEPTH_LIMIT} levels")
    keys: dict[Union[str, int], None] = {}
    count = 0
    while length is None or count < length:
        if length is None and data[at] == _BREAK:
            return at + 1
        count += 1
        if major == 5:
            at = _walk_key(data, at, keys, integer_keys)
        at = _walk_cbor(data, at, depth + 1, integer_keys)
    return at


def _cbor_head(data: bytes, at: int) -> tuple[Optional[int], int]:
    """The argument of the head at `at`, None for an indefinite length (§3.2.1), and where what follows begins."""
    major, detail = data[at] >> 5, data[at] & 31
    at += 1
    if detail < 24:
        return detail, at
    if detail < 28:
        size = 1 << (detail - 24)
        if at + size > len(data):
            raise IndexError
        return int.from_bytes(data[at : at + size], "big"), at + size
    if detail == 31 and major in (2, 3, 4, 5):
        return None, at
    raise FormatError("the payload is no CBOR: a reserved length, or a break where none can be (RFC 8949 §3)")


def _walk_string(data: bytes, at: int, major: int, length: Optional[int]) -> int:
    if length is not None:
        if at + length > len(data):
            raise IndexError
        return at + length
    while data[at] != _BREAK:
        if data[at] >> 5 != major:
            raise FormatError("the payload is no CBOR: a string of indefinite length holds something else")
        chunk, at = _cbor_head(data, at)
        if chunk is None or at + chunk > len(data):
            raise FormatError("the payload is no CBOR: a string of indefinite length does not end")
        at += chunk
    return at + 1


def _walk_key(data: bytes, at: int, keys: dict[Union[str, int], None], integer_keys: bool) -> int:
    """Add the map key at `at` to `keys` and return where its value begins."""
    key: Union[str, int]
    major = data[at] >> 5
    length, start = _cbor_head(data, at)
    if integer_keys and major in (0, 1):
        assert length is not None  # only strings, lists and maps can be of indefinite length
        key, end = (length if major == 0 else -1 - length), start
    elif major != 3:
        raise FormatError("a CBOR map has a key that is no text; use the field names")
    elif length is None:
        raise FormatError("a CBOR map has a key of indefinite length; give definite lengths")
    else:
        end = start + length
        if end > len(data):
            raise IndexError
        try:
            key = data[start:end].decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"the payload is no CBOR: {error}") from None
    if key in keys:
        raise FormatError(f"the key {str(key)[:80]!r} is there twice")
    keys[key] = None
    return end
