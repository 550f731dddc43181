"""Packets as they were seen: bytes with a time and a direction, and what they say as CoAP.

Requests are crafted with scapy, which lets anything be sent that a correct codec would refuse to write. What comes back
is read by `minicoap.codec`, which four readers agree on (tests/interop/test_differential.py): scapy's own reading takes
a token length of 9, and a payload marker without payload, for granted.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple, Optional

from minicoap.codec import codes
from minicoap.codec.message import TYPE_NAMES, Message, decode
from minicoap.codec.options import DEFINITIONS, option_name
from minicoap.errors import MessageFormatError

Address = tuple[str, int]


class Frame(NamedTuple):
    """One datagram: `at` in seconds since 1970, `sent` by the tester or received by it, `data` the UDP payload."""

    at: float
    sent: bool
    source: Address
    destination: Address
    data: bytes

    @property
    def message(self) -> Optional[Message]:
        """What it says; None if it is no CoAP message."""
        return _read(self.data)[0]

    @property
    def error(self) -> Optional[str]:
        """Why it is no CoAP message."""
        return _read(self.data)[1]

    def __str__(self) -> str:
        message = self.message
        arrow = "->" if self.sent else "<-"
        if message is None:
            return f"{arrow} {self.data.hex()} ({self.error})"
        parts = [
            arrow, TYPE_NAMES[message.type], codes.code_name(message.code), f"mid={message.message_id}",
            f"token={message.token.hex() or 'empty'}",
        ]  # fmt: skip
        parts += [f"{option_name(number)}={shown(number, value)}" for number, value in message.options.items]
        if message.payload:
            parts.append(f"{len(message.payload)} bytes {_abbreviated(message.payload)}")
        return " ".join(parts)


@lru_cache(maxsize=4096)
def _read(data: bytes) -> tuple[Optional[Message], Optional[str]]:
    try:
        return decode(data), None
    except MessageFormatError as error:
        return None, str(error)


def shown(number: int, value: bytes) -> str:
    """Return an option's value as its format reads it."""
    definition = DEFINITIONS.get(number)
    if definition is not None and definition.format == "string":
        return value.decode(errors="replace")
    if definition is not None and definition.format == "uint" and len(value) <= 8:
        return str(int.from_bytes(value, "big"))
    return "0x" + value.hex() if value else "empty"


def _abbreviated(payload: bytes) -> str:
    text = payload[:24].decode(errors="backslashreplace")
    return repr(text) + ("..." if len(payload) > 24 else "")


@lru_cache(maxsize=1)
def _scapy() -> Any:
    """Return scapy's CoAP layer, with the options that it has no names for entered."""
    import scapy.contrib.coap as layer

    for number, definition in DEFINITIONS.items():
        layer.coap_options[0].setdefault(number, definition.name)
        layer.coap_options[1].setdefault(definition.name, number)
    return layer


def craft(
    type: int,
    code: int,
    message_id: int,
    token: bytes = b"",
    options: Iterable[tuple[int, bytes]] = (),
    payload: bytes = b"",
    *,
    version: int = 1,
    token_length: Optional[int] = None,
) -> bytes:
    """Return a datagram. `token_length`, where given, is what the header says whatever the token has."""
    layer = _scapy()
    packet = layer.CoAP(
        ver=version,
        type=type,
        tkl=len(token) if token_length is None else token_length,
        code=code,
        msg_id=message_id,
        token=token,
        options=sorted(options, key=lambda option: option[0]),
        paymark=b"\xff" if payload else b"",
    )
    return bytes(packet) + payload
