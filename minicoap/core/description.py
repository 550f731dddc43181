"""Messages in words: a line for people, a document for programs. Nothing here is on the way of a message.

What is secret stays so (`minicoap.core.secrecy`), and what could steer a terminal is made visible.
"""

from __future__ import annotations

from typing import Any, Optional

from minicoap.codec import codes
from minicoap.codec.contentformats import content_format_name
from minicoap.codec.message import TYPE_NAMES, Message
from minicoap.codec.options import (
    ACCEPT,
    BLOCK1,
    BLOCK2,
    CONTENT_FORMAT,
    DEFINITIONS,
    ECHO,
    FORMAT_EMPTY,
    FORMAT_STRING,
    FORMAT_UINT,
    LOCATION_QUERY,
    MAX_AGE,
    NO_RESPONSE,
    OBSERVE,
    PROXY_URI,
    Q_BLOCK1,
    Q_BLOCK2,
    SIZE1,
    SIZE2,
    URI_PATH,
    URI_QUERY,
    decode_uint,
    is_critical,
    option_name,
)
from minicoap.codec.uri import format_path, format_query
from minicoap.core.body import decode_block
from minicoap.core.secrecy import why_hidden, without_secret

_TEXT_SHOWN = 80  # characters of a payload
_BYTES_SHOWN = 24
_BLOCKS = (BLOCK1, BLOCK2, Q_BLOCK1, Q_BLOCK2)
_UNITS = {MAX_AGE: "s", SIZE1: "bytes", SIZE2: "bytes"}
_IN_TARGET = (URI_PATH, URI_QUERY)  # shown as the target


def describe(message: Message, hidden: Optional[str] = None) -> str:
    """Return a line about `message`: type, message ID, token, method or code, target, options and payload.

    ::

        CON 4711 [a1b2c3d4]  GET /time?zone=utc | Accept: application/json
        ACK 4711 [a1b2c3d4]  2.05 Content | Max-Age: 5 s | 5 bytes "12:00"

    `hidden` says why the payload is not to be shown ("" to show it); where None, that is found out from the message
    itself.
    """
    token = f" [{message.token.hex()}]" if message.token else ""
    head = f"{TYPE_NAMES[message.type]} {message.message_id}{token}  {_name(message)}{target(message)}"
    options = (_option_text(message, *item) for item in _others(message))
    return " | ".join(filter(None, (head, *options, _payload_text(message, hidden))))


def facts(message: Message, hidden: Optional[str] = None) -> dict[str, Any]:
    """Return what `describe` tells, in the form that `docs/minicoap/tracing.md` describes, for JSON."""
    found: dict[str, Any] = {
        "type": TYPE_NAMES[message.type],
        "message_id": message.message_id,
        "token": message.token.hex(),
        "code": codes.code_text(message.code),
        "name": _name(message),
    }
    if codes.is_request(message.code):
        found["target"] = target(message).strip()
    found["options"] = [
        {"number": number, "name": option_name(number), "value": option_value(number, value)}
        for number, value in _others(message)
    ]
    found["payload"] = _payload_facts(message, why_hidden(message) if hidden is None else hidden)
    return found


def target(message: Message) -> str:
    """Return path and query of a request, percent-encoded and behind a space, without secrets; "" of all else."""
    if not codes.is_request(message.code):
        return ""
    items = message.options.items
    path = format_path([value for number, value in items if number == URI_PATH])
    return f" {path}{format_query([without_secret(value) for number, value in items if number == URI_QUERY])}"


def option_text(number: int, value: bytes) -> str:
    """Return an option as "Name: value": formats and blocks spelt out, opaque values in hexadecimal."""
    definition = DEFINITIONS.get(number)
    form = definition.format if definition is not None else ""
    text = value.hex()
    if number in (CONTENT_FORMAT, ACCEPT):
        text = content_format_name(decode_uint(value))
    elif number in _BLOCKS:
        block = decode_block(decode_uint(value))
        if block is not None:
            text = f"{block.number}, {block.size} bytes{', more to come' if block.more else ''}"
    elif number == NO_RESPONSE:
        unwanted = [f"{number}.xx" for number in (2, 4, 5) if decode_uint(value) & 1 << number - 1]
        text = ", ".join(unwanted) if unwanted else "all are wanted"
    elif form == FORMAT_UINT:
        text = f"{decode_uint(value)} {_UNITS.get(number, '')}".rstrip()
    elif form == FORMAT_STRING:
        text = printable(value.decode(errors="replace"))
    elif form == FORMAT_EMPTY and not value:
        return option_name(number)
    return f"{option_name(number)}: {text or '(empty)'}"


def option_value(number: int, value: bytes) -> Any:
    """Return an option's value by its format: int, str, True if empty, hexadecimal; number, more, size of a block."""
    definition = DEFINITIONS.get(number)
    form = definition.format if definition is not None else ""
    if number in _BLOCKS:
        block = decode_block(decode_uint(value))
        if block is not None:
            return {"number": block.number, "more": block.more, "size": block.size}
    elif form == FORMAT_UINT:
        return decode_uint(value)
    elif form == FORMAT_STRING:
        return value.decode(errors="replace")
    elif form == FORMAT_EMPTY and not value:
        return True
    return value.hex()


def printable(text: str) -> str:
    """Return `text` with what could steer a terminal made visible."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _name(message: Message) -> str:
    code = message.code
    name = codes.code_name(code)
    if code and not codes.is_request(code) and not codes.is_response(code):
        return f"{name} (reserved)"  # RFC 7252 §4.2
    return name if name[0].isalpha() or " " in name else f"{name} (unknown)"


def _others(message: Message) -> list[tuple[int, bytes]]:
    """The options that the target does not show, without what is secret in them."""
    is_request = codes.is_request(message.code)
    return [
        (number, _without_secret(number, value))
        for number, value in message.options.items
        if not (is_request and number in _IN_TARGET)
    ]


def _without_secret(number: int, value: bytes) -> bytes:
    if number in (LOCATION_QUERY, URI_QUERY):
        return without_secret(value)
    if number == PROXY_URI and b"?" in value:
        return value.partition(b"?")[0] + b"?..."
    return value


def _option_text(message: Message, number: int, value: bytes) -> str:
    is_request = codes.is_request(message.code)
    if number == OBSERVE and is_request and decode_uint(value) <= 1:
        return f"Observe: {'cancel' if decode_uint(value) else 'register'}"  # RFC 7641 §2
    if number == SIZE2 and is_request and not decode_uint(value):
        return "Size2: asked for"  # RFC 7959 §4
    text = option_text(number, value)
    if number == ECHO:
        # RFC 9175 §2.3, §2.2: what is to be brought back, with the same request or with the next one
        text += " (brought back)" if is_request else " (challenge)" if message.code >> 5 == 4 else " (for later)"
    definition = DEFINITIONS.get(number)
    if definition is None:
        return f"{text} (critical, unknown)" if is_critical(number) else text
    if not definition.minimum <= len(value) <= definition.maximum:
        return f"{text} (unusable: {len(value)} bytes, not {definition.minimum} to {definition.maximum})"
    return text


def _payload_text(message: Message, hidden: Optional[str]) -> str:
    payload = message.payload
    if not payload:
        return ""
    size = f"{len(payload)} byte{'s' if len(payload) != 1 else ''}"
    shown = _payload_facts(message, why_hidden(message) if hidden is None else hidden)
    if "hidden" in shown:
        return f"{size}, not shown: {shown['hidden']}"
    rest = " ..." if shown.get("cut") else ""
    if "text" in shown:
        text = shown["text"]
        mark = "'" if '"' in text and "'" not in text else '"'  # JSON reads best without backslashes
        escaped = text.replace("\\", "\\\\").replace(mark, f"\\{mark}")
        return f"{size} {mark}{printable(escaped)}{mark}{rest}"
    return f"{size} {shown['hex']}{rest}" if "hex" in shown else size


def _payload_facts(message: Message, hidden: str) -> dict[str, Any]:
    """Its size, and its beginning as text or hexadecimal; of a body that comes in blocks only the first one's."""
    payload = message.payload
    shown: dict[str, Any] = {"size": len(payload)}
    if not payload:
        return shown
    if hidden:
        shown["hidden"] = hidden
        return shown
    if _is_later_block(message):
        return shown
    text = _text(payload)
    if text is None:
        shown["hex"] = payload[:_BYTES_SHOWN].hex()
        is_cut = len(payload) > _BYTES_SHOWN
    else:
        shown["text"] = text[:_TEXT_SHOWN]
        is_cut = len(text) > _TEXT_SHOWN
    if is_cut:
        shown["cut"] = True
    return shown


def _is_later_block(message: Message) -> bool:
    """Whether the payload is a block that others come before; what is secret may have been named in one of those."""
    numbers = (BLOCK1, Q_BLOCK1) if codes.is_request(message.code) else (BLOCK2, Q_BLOCK2)
    return any(number in numbers and decode_uint(value) >> 4 for number, value in message.options.items)


def _text(payload: bytes) -> Optional[str]:
    """The payload as text, without a character that a block's end cuts in two; None if it is none."""
    try:
        text = payload.decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return None
        text = payload[: error.start].decode()
    return text if text and all(each.isprintable() or each in "\t\r\n" for each in text) else None
