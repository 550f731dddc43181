"""Other people's CoAP codecs, each behind the same two functions: a neutral picture of a message to bytes and back.

`encode` and `decode` do all the work of the library's own; `built` and `seen` translate between its objects and the
picture, so that a benchmark can leave that out. The libraries are imported when a codec is made, and a test that makes
one skips where the library is missing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from minicoap.codec import message as ours


class Picture(NamedTuple):
    """A message as nobody's object: what all codecs have to agree on."""

    type: int
    code: int
    message_id: int
    token: bytes
    items: tuple[tuple[int, bytes], ...]
    payload: bytes


class Minicoap:
    """Ours."""

    name = "minicoap"

    def built(self, picture: Picture) -> ours.Message:
        return ours.Message(*picture[:4], ours.Options(picture.items), picture.payload)

    def seen(self, message: ours.Message) -> Picture:
        return Picture(
            message.type, message.code, message.message_id, message.token, message.options.items, message.payload
        )

    def encode(self, message: ours.Message) -> bytes:
        return ours.encode(message)

    def decode(self, data: bytes) -> ours.Message:
        return ours.decode(data)


class Aiocoap:
    """aiocoap; its options have typed values, so only those of their registered format survive the way through it."""

    name = "aiocoap"

    def __init__(self) -> None:
        self._aiocoap = pytest.importorskip("aiocoap")
        self._numbers = pytest.importorskip("aiocoap.numbers.optionnumbers")

    def built(self, picture: Picture) -> Any:
        message = self._aiocoap.Message(code=picture.code, payload=picture.payload)
        message.mtype = self._aiocoap.Type(picture.type)
        message.mid = picture.message_id
        message.token = picture.token
        for number, value in picture.items:
            message.opt.add_option(self._numbers.OptionNumber(number).create_option(decode=value))
        return message

    def seen(self, message: Any) -> Picture:
        items = tuple((int(option.number), option.encode()) for option in message.opt.option_list())
        return Picture(int(message.mtype), int(message.code), message.mid, message.token, items, message.payload)

    def encode(self, message: Any) -> bytes:
        return message.encode()

    def decode(self, data: bytes) -> Any:
        return self._aiocoap.Message.decode(data)


class Scapy:
    """scapy; it takes a payload marker right behind the token for an option: it sees messages with options only."""

    name = "scapy"

    def __init__(self) -> None:
        self._coap = pytest.importorskip("scapy.contrib.coap")
        self._raw = pytest.importorskip("scapy.packet").Raw

    def built(self, picture: Picture) -> Any:
        packet = self._coap.CoAP(
            type=picture.type,
            code=picture.code,
            msg_id=picture.message_id,
            token=picture.token,
            options=list(picture.items),
            paymark=b"\xff" if picture.payload else b"",
        )
        return packet / self._raw(picture.payload) if picture.payload else packet

    def seen(self, packet: Any) -> Picture:
        items = tuple((self._coap.coap_options[1].get(number, number), value) for number, value in packet.options)
        return Picture(packet.type, packet.code, packet.msg_id, packet.token, items, bytes(packet.payload))

    def encode(self, packet: Any) -> bytes:
        return bytes(packet)

    def decode(self, data: bytes) -> Any:
        return self._coap.CoAP(data)
