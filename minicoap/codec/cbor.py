"""CBOR (RFC 8949), as far as JSON has words for it, and bytes: written in the shortest form, read strictly.

Refused is what two readers could understand in different ways, or what could make one work without end: duplicate keys,
anything behind the end, nesting without bound, tags, simple values other than true, false and null.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from struct import Struct
from typing import Any, Optional, Union

from minicoap.errors import PeerError, UsageError

DEPTH_LIMIT = 16

_BREAK = 0xFF
_FALSE, _TRUE, _NULL = b"\xf4", b"\xf5", b"\xf6"
_SIMPLE = {20: False, 21: True, 22: None}
_FLOATS = {25: Struct(">e"), 26: Struct(">f"), 27: Struct(">d")}  # by the detail of the first byte, §3.3
_HALF, _SINGLE, _DOUBLE = (Struct(">B" + struct.format[1:]) for struct in _FLOATS.values())
_POSITIVE_BIGNUM, _NEGATIVE_BIGNUM = b"\xc2", b"\xc3"  # §3.4.3

Key = Union[str, int]
_NONE: Mapping[str, int] = {}


def encode(value: Any, numbers: Mapping[str, int] = _NONE) -> bytes:
    """Write `value` in the preferred serialization (§4.1): dicts, lists, text, bytes, numbers, true, false, None.

    `numbers` are integers that stand for keys of maps. Raises UsageError for anything else.
    """
    encoded = bytearray()
    _write(value, encoded, numbers)
    return bytes(encoded)


def decode(
    data: bytes, *, integer_keys: bool = False, names: Optional[Mapping[int, str]] = None, tags: bool = False
) -> Any:
    """Read CBOR into dicts, lists and plain values; keys of maps are texts, with `integer_keys` integers too.

    `names` are keys that integers stand for; another integer then becomes the text that it is written as. With `tags`
    a tag is left away and what it is about kept. Raises PeerError for what is no CBOR, or is refused.
    """
    reader = _Reader(data, integer_keys or names is not None, names, tags)
    try:
        value = reader.item(0)
    except IndexError:
        raise PeerError("it ends too early") from None
    except UnicodeDecodeError:
        raise PeerError("a text is no UTF-8") from None
    if reader.at != len(data):
        raise PeerError(f"{len(data) - reader.at} bytes follow its end")
    return value


def _write(value: Any, encoded: bytearray, numbers: Mapping[str, int]) -> None:
    kind = value.__class__
    if kind is str:
        text = value.encode()
        encoded += _head(0x60, len(text)) + text
    elif kind is dict:
        encoded += _head(0xA0, len(value))
        for key, item in value.items():
            _write(numbers.get(key, key), encoded, numbers)
            _write(item, encoded, numbers)
    elif value is None:
        encoded += _NULL
    elif kind is bool:
        encoded += _TRUE if value else _FALSE
    elif kind is int:
        _write_integer(value, encoded)
    elif kind is float:
        encoded += _float(value)
    elif kind in (list, tuple):
        encoded += _head(0x80, len(value))
        for item in value:
            _write(item, encoded, numbers)
    elif kind is bytes:
        encoded += _head(0x40, len(value)) + value
    else:
        raise UsageError(f"CBOR is not written of a {kind.__name__}")


def _write_integer(value: int, encoded: bytearray) -> None:
    major, magnitude = (0x00, value) if value >= 0 else (0x20, -1 - value)
    if magnitude >> 64:
        number = magnitude.to_bytes((magnitude.bit_length() + 7) // 8, "big")
        encoded += (_NEGATIVE_BIGNUM if major else _POSITIVE_BIGNUM) + _head(0x40, len(number)) + number
    else:
        encoded += _head(major, magnitude)


def _head(major: int, argument: int) -> bytes:
    """The first bytes of an item (§3): its major type, shifted to its place, and its argument."""
    if argument < 24:
        return bytes((major | argument,))
    size = 0 if argument < 1 << 8 else 1 if argument < 1 << 16 else 2 if argument < 1 << 32 else 3
    return bytes((major | 24 + size,)) + argument.to_bytes(1 << size, "big")


def _float(value: float) -> bytes:
    """In as many bytes as keep all of it (§4.1)."""
    for form, detail in ((_HALF, 25), (_SINGLE, 26)):
        try:
            written = form.pack(0xE0 | detail, value)
        except OverflowError:
            continue
        if form.unpack(written)[1] == value or isnan(value):  # there is but one that is no number
            return written
    return _DOUBLE.pack(0xE0 | 27, value)


class _Reader:
    """Reads items of `data` from `at` on; IndexError is its end."""

    __slots__ = ("_data", "_integer_keys", "_names", "_tags", "at")

    def __init__(self, data: bytes, integer_keys: bool, names: Optional[Mapping[int, str]], tags: bool) -> None:
        self._data = data
        self._integer_keys = integer_keys
        self._names = names
        self._tags = tags
        self.at = 0

    def item(self, depth: int) -> Any:
        first = self._data[self.at]
        major = first >> 5
        argument = self._head()
        if major == 0:
            return argument
        if major == 1:
            assert argument is not None  # only strings, lists and maps can be of indefinite length
            return -1 - argument
        if major == 2:
            return self._string(major, argument)
        if major == 3:
            return self._string(major, argument).decode()
        if major == 7:
            return self._simple(first & 31)
        if major == 6 and not self._tags:
            raise PeerError(f"tags are not accepted (tag {argument}); send the plain value")
        if depth >= DEPTH_LIMIT:
            raise PeerError(f"it is nested deeper than {DEPTH_LIMIT} levels")
        if major == 6:
            return self.item(depth + 1)
        return self._list(argument, depth) if major == 4 else self._map(argument, depth)

    def _head(self) -> Optional[int]:
        """The argument of the head here, None for an indefinite length (§3.2.1)."""
        data, at = self._data, self.at
        major, detail = data[at] >> 5, data[at] & 31
        self.at = at + 1
        if detail < 24:
            return detail
        if detail < 28:
            return int.from_bytes(self._take(1 << (detail - 24)), "big")
        if detail == 31 and major in (2, 3, 4, 5):
            return None
        raise PeerError("a reserved length, or a break where none can be (RFC 8949 §3)")

    def _take(self, length: int) -> bytes:
        end = self.at + length
        if end > len(self._data):
            raise IndexError
        taken = self._data[self.at : end]
        self.at = end
        return taken

    def _ends(self) -> bool:
        """Whether a break is here, which ends an item of indefinite length."""
        if self._data[self.at] != _BREAK:
            return False
        self.at += 1
        return True

    def _simple(self, detail: int) -> Any:
        if detail in _FLOATS:
            form = _FLOATS[detail]
            return form.unpack_from(self._data, self.at - form.size)[0]
        if detail not in _SIMPLE:
            raise PeerError("a simple value that is neither true, false nor null")
        return _SIMPLE[detail]

    def _string(self, major: int, length: Optional[int]) -> bytes:
        if length is not None:
            return self._take(length)
        chunks = []
        while not self._ends():
            if self._data[self.at] >> 5 != major:
                raise PeerError("a string of indefinite length holds something else")
            chunk = self._head()
            if chunk is None:
                raise PeerError("a string of indefinite length holds another")
            chunks.append(self._take(chunk))
            if major == 3:
                chunks[-1].decode()  # §3.2.3: no character is cut in two
        return b"".join(chunks)

    def _list(self, length: Optional[int], depth: int) -> list[Any]:
        items: list[Any] = []
        while len(items) != length:
            if length is None and self._ends():
                break
            items.append(self.item(depth + 1))
        return items

    def _map(self, length: Optional[int], depth: int) -> dict[Key, Any]:
        items: dict[Key, Any] = {}
        while len(items) != length:
            if length is None and self._ends():
                break
            key = self._key()
            if key in items:
                raise PeerError(f"the key {str(key)[:80]!r} is there twice")
            items[key] = self.item(depth + 1)
        return items

    def _key(self) -> Key:
        major = self._data[self.at] >> 5
        if self._integer_keys and major in (0, 1):
            number = self._head()
            assert number is not None
            number = number if major == 0 else -1 - number
            return number if self._names is None else self._names.get(number, str(number))
        if major != 3:
            raise PeerError("a map has a key that is no text; use the field names")
        length = self._head()
        if length is None:
            raise PeerError("a map has a key of indefinite length; give definite lengths")
        return self._take(length).decode()
