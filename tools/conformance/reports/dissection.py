"""A CoAP message byte by byte: which bytes say what, as far as they can be read."""

from __future__ import annotations

from typing import NamedTuple

from minicoap.codec import codes
from minicoap.codec.message import TYPE_NAMES
from minicoap.codec.options import BLOCK1, BLOCK2, DEFINITIONS, Q_BLOCK1, Q_BLOCK2, option_name
from minicoap.core.body import decode_block
from tools.conformance.frames import Frame, shown

PAYLOAD_LINE = 16  # bytes a line
PAYLOAD_LINES = 16
_BLOCKS = (BLOCK1, BLOCK2, Q_BLOCK1, Q_BLOCK2)


class Part(NamedTuple):
    """Some bytes of a message: where they begin, what they are, and what they say."""

    offset: int
    data: bytes
    name: str
    value: str
    is_wrong: bool = False


def dissect(data: bytes) -> list[Part]:
    """Return the parts of a datagram, in order; what cannot be read is one part, and says so."""
    if len(data) < 4:
        return [Part(0, data, "not a CoAP header", f"{len(data)} bytes of 4", True)] if data else []
    first = data[0]
    version, length = first >> 6, first & 15
    head = f"version {version}, {TYPE_NAMES[first >> 4 & 3]}, token length {length}"
    parts = [
        Part(0, data[:1], "version, type, token length", head, version != 1 or length == 15),
        Part(1, data[1:2], "code", codes.code_name(data[1])),
        Part(2, data[2:4], "message ID", str(int.from_bytes(data[2:4], "big"))),
    ]
    if version != 1 or length == 15:
        return [*parts, *_rest(data, 4, "cannot be read")]
    if data[1] == codes.EMPTY and len(data) > 4:
        return [*parts, *_rest(data, 4, "an empty message has nothing behind its header")]
    position = 4
    if length in (13, 14):
        size = length - 12
        if position + size > len(data):
            return [*parts, *_rest(data, position, "the length is cut off")]
        parts.append(Part(position, data[position : position + size], "extended token length", "RFC 8974"))
        length = int.from_bytes(data[position : position + size], "big") + (13 if size == 1 else 269)
        position += size
    if position + length > len(data):
        return [*parts, *_rest(data, position, "the token is cut off")]
    if length:
        token = data[position : position + length]
        parts.append(Part(position, token, "token", token.hex()))
    return [*parts, *_options(data, position + length)]


def _options(data: bytes, position: int) -> list[Part]:
    parts: list[Part] = []
    number = 0
    while position < len(data):
        if data[position] == 0xFF:
            marker = Part(position, data[position : position + 1], "payload marker", "", position + 1 == len(data))
            return [*parts, marker, *_payload(data, position + 1)]
        begin = position
        delta, size = data[position] >> 4, data[position] & 15
        position += 1
        extended = []
        for nibble in (delta, size):
            width = {13: 1, 14: 2}.get(nibble, 0)
            if nibble == 15 or position + width > len(data):
                return [*parts, *_rest(data, begin, "no option: its head cannot be read")]
            value = int.from_bytes(data[position : position + width], "big")
            extended.append(nibble if not width else value + (13 if width == 1 else 269))
            position += width
        number += extended[0]
        end = position + extended[1]
        name = option_name(number)
        if end > len(data):
            return [*parts, *_rest(data, begin, f"option {name} is cut off")]
        head = f"option {number}: {name}, {extended[1]} byte{'' if extended[1] == 1 else 's'}"
        parts.append(Part(begin, data[begin:position], "delta, length", head))
        if extended[1]:
            value_shown, is_wrong = _value(number, data[position:end])
            parts.append(Part(position, data[position:end], name, value_shown, is_wrong))
        position = end
    return parts


def _value(number: int, value: bytes) -> tuple[str, bool]:
    definition = DEFINITIONS.get(number)
    is_wrong = definition is not None and not definition.minimum <= len(value) <= definition.maximum
    text = shown(number, value)
    if number in _BLOCKS and not is_wrong:
        block = decode_block(int.from_bytes(value, "big"))
        if block is None:
            return f"{text}: the reserved size exponent 7", True
        text = f"{text}: block {block.number}, {'more to come' if block.more else 'the last'}, {block.size} bytes"
    return text, is_wrong


def _payload(data: bytes, position: int) -> list[Part]:
    parts = []
    lines = range(position, len(data), PAYLOAD_LINE)
    for offset in lines[:PAYLOAD_LINES]:
        line = data[offset : offset + PAYLOAD_LINE]
        parts.append(Part(offset, line, "payload", "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in line)))
    left = len(data) - position - PAYLOAD_LINE * PAYLOAD_LINES
    if left > 0:
        parts.append(Part(position + PAYLOAD_LINE * PAYLOAD_LINES, b"", "payload", f"{left} bytes more"))
    return parts


def _rest(data: bytes, position: int, why: str) -> list[Part]:
    rest = data[position:]
    return [Part(position, rest, "wrong", why, True)] if rest else [Part(position, b"", "wrong", why, True)]


def label(data: bytes) -> str:
    """Return a message in a few words, for an arrow."""
    frame = Frame(0.0, True, ("", 0), ("", 0), data)
    message = frame.message
    if message is None:
        return f"no CoAP message: {frame.error}"
    parts = [TYPE_NAMES[message.type], codes.code_name(message.code), f"MID {message.message_id}"]
    if message.token:
        parts.append(f"token {message.token.hex()}")
    for number, value in message.options.items:
        text, _ = _value(number, value)
        parts.append(f"{option_name(number)} {text}")
    if message.payload:
        parts.append(f"{len(message.payload)} bytes")
    return " · ".join(parts)
