"""The CoAP message: bytes to `Message` and back (RFC 7252 §3). Pure functions.

The decoder is the hottest code of a server, and most of what arrives repeats the same options. `decode` therefore
takes a caller's dict as cache: the option bytes up to the first 0xFF lead to an `Options` decoded before. A prefix
enters the cache only if it was parsed whole, so that a 0xFF inside an option's value can never be taken for the payload
marker, and only without Block options, whose numbers would flush everything else.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Optional

from minicoap.codec import codes
from minicoap.codec.options import BLOCK1, BLOCK2, DEFINITIONS, URI_PATH, URI_QUERY, decode_uint
from minicoap.errors import MessageFormatError, OptionError, UsageError

CON, NON, ACK, RST = 0, 1, 2, 3
TYPE_NAMES = ("CON", "NON", "ACK", "RST")

VERSION_BITS = 0x40  # version 1 in the upper two bits
PAYLOAD_MARKER = 0xFF
MARKER = b"\xff"
HEADER = Struct("!BBH")  # version, type and token length; code; message ID
DIRECT_TOKEN_LENGTH = 12  # bytes; longer tokens have their length in one or two bytes of its own (RFC 8974 §2.1)
LONGEST_TOKEN = 269 + 65535  # bytes
CACHED_OPTIONS = 1024  # entries of a decoding cache
CACHED_OPTIONS_LENGTH = 128  # bytes; longer option prefixes are seldom seen twice

# `Options.mask` has bit n for option n below 60; the rest shares three bits.
EXTENDED = 1 << 60  # an elective option numbered 60 or above
EXTENDED_CRITICAL = 1 << 61  # a critical one
UNUSABLE_CRITICAL = 1 << 62  # a critical option repeated or of a length that its definition forbids (§5.4.3, §5.4.5)

_BLOCK_BITS = 1 << BLOCK1 | 1 << BLOCK2


class Options:
    """The options of one message, in order of their numbers; immutable.

    `items` has every option as it stood on the wire. `get`, `all` and `uint` leave out those that RFC 7252 §5.4.3 and
    §5.4.5 want treated as unrecognised: of a forbidden length, or a second one of a kind that is not repeatable.
    `mask` has bit n set if option n was seen, so that a layer is entered only if the message concerns it.
    """

    __slots__ = ("_index", "_path", "_query", "_raw", "_uints", "items", "mask")

    def __init__(self, items: Iterable[tuple[int, bytes]] = ()) -> None:
        self.items = tuple(sorted(items, key=_number))
        self.mask = _mask(self.items)
        self._raw: Optional[bytes] = None
        self._index: Optional[dict[int, tuple[bytes, ...]]] = None
        self._path: Optional[tuple[str, ...]] = None
        self._query: Optional[tuple[str, ...]] = None
        self._uints: Optional[dict[int, Optional[int]]] = None

    @classmethod
    def encoded(cls, items: tuple[tuple[int, bytes], ...], mask: int, raw: Optional[bytes]) -> Options:
        """Return options from all that is known of them, for who makes many that differ in one value.

        `items` are in order; `mask` and `raw` are what they would be if computed, the latter None to have that done.
        """
        options = cls.__new__(cls)
        options.items = items
        options.mask = mask
        options._raw = raw
        options._index = options._path = options._query = options._uints = None
        return options

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Options) and self.items == other.items

    def __hash__(self) -> int:
        return hash(self.items)

    def __repr__(self) -> str:
        return f"Options({list(self.items)!r})"

    def get(self, number: int) -> Optional[bytes]:
        """Return the value of option `number`, the first if it may be repeated; None if it is absent or unusable."""
        for each, value in self.items:
            if each >= number:
                if each != number:
                    break
                definition = DEFINITIONS.get(number)
                if definition is None or definition.minimum <= len(value) <= definition.maximum:
                    return value
                if not definition.repeatable:
                    break
        return None

    def all(self, number: int) -> tuple[bytes, ...]:
        """Return all usable values of option `number`, in order."""
        index = self._index
        if index is None:
            index = self._index = _index(self.items)
        return index.get(number, ())

    def uint(self, number: int) -> Optional[int]:
        """Return option `number` as an unsigned integer; None if it is absent or unusable."""
        if number < 60 and not self.mask & 1 << number:
            return None
        known = self._uints
        if known is None:
            known = self._uints = {}
        elif number in known:
            return known[number]
        value = self.get(number)
        number_read = known[number] = None if value is None else decode_uint(value)
        return number_read

    @property
    def path(self) -> tuple[str, ...]:
        """The Uri-Path segments; raises OptionError (4.00) if one is not UTF-8."""
        path = self._path
        if path is None:
            path = self._path = self._texts(URI_PATH, "Uri-Path")
        return path

    @property
    def query(self) -> tuple[str, ...]:
        """The Uri-Query arguments; raises OptionError (4.00) if one is not UTF-8."""
        query = self._query
        if query is None:
            query = self._query = self._texts(URI_QUERY, "Uri-Query")
        return query

    @property
    def raw(self) -> bytes:
        """The options as they stand on the wire, without payload marker."""
        raw = self._raw
        if raw is None:
            raw = self._raw = encode_options(self.items)
        return raw

    def _texts(self, number: int, name: str) -> tuple[str, ...]:
        try:
            if self.mask & UNUSABLE_CRITICAL:  # as one of these may be, for both are critical
                return tuple([value.decode() for value in self.all(number)])
            return tuple([value.decode() for each, value in self.items if each == number])
        except UnicodeDecodeError as error:
            raise OptionError(f"{name} is not UTF-8", codes.BAD_REQUEST) from error


def _number(item: tuple[int, bytes]) -> int:
    return item[0]


def _mask(items: tuple[tuple[int, bytes], ...]) -> int:
    mask = 0
    previous = -1
    for number, value in items:
        mask |= 1 << number if number < 60 else EXTENDED_CRITICAL if number & 1 else EXTENDED
        if number & 1 and (number != URI_PATH or len(value) > 255):  # of which there are more than of all others
            definition = DEFINITIONS.get(number)
            if definition is not None and (
                not definition.minimum <= len(value) <= definition.maximum
                or (number == previous and not definition.repeatable)
            ):
                mask |= UNUSABLE_CRITICAL
        previous = number
    return mask


def _is_usable(number: int, value: bytes, repeated: bool) -> bool:
    definition = DEFINITIONS.get(number)
    return definition is None or (
        definition.minimum <= len(value) <= definition.maximum and (definition.repeatable or not repeated)
    )


def _index(items: tuple[tuple[int, bytes], ...]) -> dict[int, tuple[bytes, ...]]:
    index: dict[int, tuple[bytes, ...]] = {}
    previous = -1
    for number, value in items:
        if _is_usable(number, value, number == previous):
            index[number] = (*index.get(number, ()), value)
        previous = number
    return index


NO_OPTIONS = Options()


class Message:
    """One CoAP message.

    `type` is CON, NON, ACK or RST; `code` an integer of `minicoap.codec.codes`; `message_id` 16 bits; `token` bytes, up
    to eight of them unless the peer is known to take more (RFC 8974); `payload` bytes.
    """

    __slots__ = ("code", "message_id", "options", "payload", "token", "type")

    def __init__(
        self,
        type: int,
        code: int,
        message_id: int,
        token: bytes = b"",
        options: Options = NO_OPTIONS,
        payload: bytes = b"",
    ) -> None:
        self.type = type
        self.code = code
        self.message_id = message_id
        self.token = token
        self.options = options
        self.payload = payload

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Message) and all(
            getattr(self, name) == getattr(other, name) for name in Message.__slots__
        )

    def __hash__(self) -> int:
        return hash((self.type, self.code, self.message_id, self.token))

    def __repr__(self) -> str:
        return (
            f"Message({TYPE_NAMES[self.type]}, {codes.code_name(self.code)}, {self.message_id}, "
            f"token={self.token.hex()!r}, {self.options!r}, {len(self.payload)} bytes)"
        )


def decode(data: bytes, cache: Optional[dict[bytes, Options]] = None) -> Message:
    """Return the message in `data`, one datagram; `cache` is a dict to keep decoded options in between calls.

    Raises MessageFormatError, and nothing else, for what RFC 7252 §3 calls a message format error.
    """
    length = len(data)
    if length < 4:
        raise MessageFormatError(f"{length} bytes are no CoAP header")
    first = data[0]
    if first & 0xC0 != VERSION_BITS:
        # §3: unknown versions are silently ignored, so there is no header to answer to.
        raise MessageFormatError(f"version {first >> 6} is not 1")
    code = data[1]
    message_id = data[2] << 8 | data[3]
    start = 4 + (first & 0x0F)
    if code == 0 and length != 4:
        raise _format_error(data, "an empty message has bytes after its header")  # §4.1
    if start > 4 + DIRECT_TOKEN_LENGTH:
        token, start = decode_token(data)
    elif length < start:
        raise _format_error(data, "the token is cut off")
    else:
        token = data[4:start]
    if length == start:
        return Message(first >> 4 & 3, code, message_id, token, NO_OPTIONS, b"")

    marker = data.find(0xFF, start)
    prefix = data[start:marker] if marker >= 0 else data[start:]
    if cache is not None:
        options = cache.get(prefix)
        if options is not None:
            if marker == length - 1:
                raise _format_error(data, "payload marker without payload")
            return Message(first >> 4 & 3, code, message_id, token, options, data[marker + 1 :] if marker >= 0 else b"")
    found, end = _decode_options(data, start)
    items = tuple(found)  # in order, as they came
    options = Options.encoded(items, _mask(items), None)
    if end == length - 1:
        raise _format_error(data, "payload marker without payload")
    if end - start == len(prefix):
        options._raw = prefix
        if cache is not None and not options.mask & _BLOCK_BITS and len(prefix) <= CACHED_OPTIONS_LENGTH:
            if len(cache) >= CACHED_OPTIONS:
                cache.clear()
            cache[prefix] = options
    return Message(first >> 4 & 3, code, message_id, token, options, data[end + 1 :])


def decode_token(data: bytes) -> tuple[bytes, int]:
    """Return the token of the message in `data`, and the offset behind it (RFC 8974 §2.1).

    Raises MessageFormatError for the reserved length 15, and where it is cut off.
    """
    nibble = data[0] & 0x0F
    if nibble == 15:
        raise _format_error(data, "token length 15 is reserved")
    size, start = (nibble, 4) if nibble <= DIRECT_TOKEN_LENGTH else _extended(data, nibble, 4)
    end = start + size
    if len(data) < end:
        raise _format_error(data, "the token is cut off")
    return data[start:end], end


def _format_error(data: bytes, text: str) -> MessageFormatError:
    return MessageFormatError(text, (data[0] >> 4 & 3, data[1], data[2] << 8 | data[3]))


def _decode_options(data: bytes, position: int) -> tuple[list[tuple[int, bytes]], int]:
    """Return the options from `position` on, and the offset of the payload marker or the message's end (§3.1)."""
    items: list[tuple[int, bytes]] = []
    length = len(data)
    number = 0
    while position < length:
        byte = data[position]
        if byte == PAYLOAD_MARKER:
            return items, position
        position += 1
        delta = byte >> 4
        size = byte & 0x0F
        if delta == 15 or size == 15:
            raise _format_error(data, "option delta or length 15 is reserved")
        if delta > 12:
            delta, position = _extended(data, delta, position)
        if size > 12:
            size, position = _extended(data, size, position)
        number += delta
        end = position + size
        if end > length:
            raise _format_error(data, f"option {number} is cut off")
        if number > 65535:
            raise _format_error(data, f"option number {number} is above 65535")
        items.append((number, data[position:end]))
        position = end
    return items, position


def _extended(data: bytes, nibble: int, position: int) -> tuple[int, int]:
    if nibble == 13:
        if position < len(data):
            return data[position] + 13, position + 1
    elif position + 1 < len(data):
        return (data[position] << 8 | data[position + 1]) + 269, position + 2
    raise _format_error(data, "an extended length is cut off")


def encode_options(items: Iterable[tuple[int, bytes]]) -> bytes:
    """Return options, sorted by number, in wire format (§3.1); raises UsageError for what does not fit into it."""
    parts = bytearray()
    previous = 0
    for number, value in items:
        delta = number - previous
        size = len(value)
        if delta < 13 and size < 13:
            parts.append(delta << 4 | size)
        else:
            if not 0 <= number <= 65535 or size > 65535 + 269:
                raise UsageError(f"option {number} with {size} bytes cannot be encoded")
            delta_nibble, delta_bytes = _extend(delta)
            size_nibble, size_bytes = _extend(size)
            parts.append(delta_nibble << 4 | size_nibble)
            parts += delta_bytes
            parts += size_bytes
        parts += value
        previous = number
    if previous > 65535:
        raise UsageError(f"option number {previous} is above 65535")
    return bytes(parts)


def _extend(value: int) -> tuple[int, bytes]:
    if value < 13:
        return value, b""
    if value < 269:
        return 13, bytes((value - 13,))
    return 14, (value - 269).to_bytes(2, "big")


def encode(message: Message) -> bytes:
    """Return `message` as one datagram (RFC 7252 §3); raises UsageError if it has no valid wire form."""
    payload = message.payload
    if message.code == 0 and (message.token or payload or message.options.items):
        raise UsageError("an empty message carries neither token nor options nor payload")
    head = encode_header(message.type, message.code, message.message_id, message.token)
    if payload:
        return b"".join((head, message.options.raw, MARKER, payload))
    return head + message.options.raw


def encode_header(type: int, code: int, message_id: int, token: bytes) -> bytes:
    """Return what comes before the options: header and token; raises UsageError for a token that cannot be."""
    size = len(token)
    if size <= DIRECT_TOKEN_LENGTH:
        return HEADER.pack(VERSION_BITS | type << 4 | size, code, message_id) + token
    if size > LONGEST_TOKEN:
        raise UsageError(f"token has {size} bytes; {LONGEST_TOKEN} are allowed")
    nibble, extension = _extend(size)
    return HEADER.pack(VERSION_BITS | type << 4 | nibble, code, message_id) + extension + token
