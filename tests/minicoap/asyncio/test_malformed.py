"""Every way to break a message, sent from a raw socket, and what RFC 7252 §3, §4.2, §4.3 and §5.4 want to come back.

That nothing comes back is seen without waiting: a good request is sent behind the bad one, and its answer is the first
thing to arrive. Nothing that is broken may crash the server or take memory.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from minicoap import Endpoint, Resource, Response, Site, codes
from minicoap.codec.message import ACK, CON, NON, RST, Message, Options, decode, encode

TYPES = {"CON": CON, "NON": NON, "ACK": ACK, "RST": RST}
SILENCE = None
RESET = "RST"
GET, PUT = codes.GET, codes.PUT
PATH = "b1 78"  # Uri-Path: x

# Format errors (§3): what stands behind `4T CC 1234`, a confirmable one is reset, any other ignored (§4.2, §4.3).
BROKEN_FORMATS = {
    "the reserved token length 15": ("4f", "01", "00" * 15),
    "a token cut off": ("44", "01", "616263"),
    "the length of a long token cut off": ("4d", "01", ""),
    "a long token cut off": ("4d", "01", "05" + "61" * 17),
    "a payload marker without payload": ("40", "01", PATH + "ff"),
    "a payload marker alone": ("40", "01", "ff"),
    "option delta 15": ("40", "01", "f0"),
    "option length 15": ("40", "01", "bf"),
    "an option cut off": ("40", "01", "b2 78"),
    "an extended delta cut off": ("40", "01", "d0"),
    "a doubly extended delta cut off": ("40", "01", "e0 00"),
    "an extended length cut off": ("40", "01", "bd"),
    "a doubly extended length cut off": ("40", "01", "be 00"),
    "an option number above 65535": ("40", "01", "e0 fef3"),
    "an option number above 65535 in two steps": ("40", "01", "e0 fef2 10"),
    "an empty message with a token": ("41", "00", "61"),
    "an empty message with an option": ("40", "00", PATH),
    "an empty message with a payload": ("40", "00", "ff 61"),
    "an empty message that announces a token": ("41", "00", ""),
    "a response with a payload marker without payload": ("40", "45", "ff"),
}

# Well-formed, and yet not to be had: (type and token length, code, rest) and what comes back.
UNUSABLE: dict[str, tuple[str, str, str, Any]] = {
    "a ping": ("40", "00", "", RESET),
    "an empty non-confirmable message": ("50", "00", "", SILENCE),
    "an acknowledgement of nothing": ("60", "00", "", SILENCE),
    "a reset of nothing": ("70", "00", "", SILENCE),
    "a request in an acknowledgement": ("60", "01", PATH, SILENCE),
    "a request in a reset": ("70", "01", PATH, SILENCE),
    "a response in a reset": ("70", "45", "", SILENCE),
    "a confirmable response that nobody asked for": ("41", "45", "61", RESET),
    "a non-confirmable response that nobody asked for": ("51", "45", "61", SILENCE),
    "an acknowledgement with a response that nobody asked for": ("61", "45", "61", SILENCE),
    **{f"a confirmable message of class {n}": ("40", f"{n << 5:02x}", "", RESET) for n in (1, 6, 7)},
    **{f"a non-confirmable message of class {n}": ("50", f"{n << 5:02x}", "", SILENCE) for n in (1, 6, 7)},
    "a method nobody knows": ("40", "08", PATH, codes.METHOD_NOT_ALLOWED),
    "the last method nobody knows": ("40", "1f", PATH, codes.METHOD_NOT_ALLOWED),
    "a method that the resource has not": ("40", "04", PATH, codes.METHOD_NOT_ALLOWED),
    "a path that leads nowhere": ("40", "01", "b1 79", codes.NOT_FOUND),
    # §5.4.1: critical options that are not understood
    "an unknown critical option": ("40", "01", PATH + "e0 03bd", codes.BAD_OPTION),
    "the same in a non-confirmable request": ("50", "01", PATH + "e0 03bd", SILENCE),
    "a critical option of an extension that is not here": ("40", "01", "90" + "21 78", codes.BAD_OPTION),  # OSCORE
    "an unknown elective option": ("40", "01", PATH + "e0 03bc", codes.CONTENT),
    "the reserved option 0": ("40", "01", "00" + PATH, codes.CONTENT),
    # §5.4.3: of a length that is not allowed, so not understood
    "Uri-Host of 256 bytes": ("40", "01", "3d f3" + "61" * 256 + "81 78", codes.BAD_OPTION),
    "Uri-Host that is empty": ("40", "01", "30" + "81 78", codes.BAD_OPTION),
    "If-None-Match with a value": ("40", "01", "51 61" + "61 78", codes.BAD_OPTION),
    "Uri-Port of three bytes": ("40", "01", "73 000001" + "41 78", codes.BAD_OPTION),
    "Accept of three bytes": ("40", "01", PATH + "63 000001", codes.BAD_OPTION),
    "Block2 of four bytes": ("40", "01", PATH + "c4 00000001", codes.BAD_OPTION),
    "the same in a non-confirmable one": ("50", "01", PATH + "c4 00000001", SILENCE),
    "ETag of nine bytes": ("40", "01", "49" + "61" * 9 + "71 78", codes.CONTENT),
    "ETag without a byte": ("40", "01", "40" + "71 78", codes.CONTENT),
    "Content-Format of three bytes": ("40", "01", PATH + "13 000001", codes.CONTENT),
    "Size1 of five bytes": ("40", "01", PATH + "d5 24 0000000001", codes.CONTENT),
    # §5.4.5: more often than allowed
    "Uri-Host twice": ("40", "01", "31 61" + "01 62" + "81 78", codes.BAD_OPTION),
    "Accept twice": ("40", "01", PATH + "61 00" + "01 00", codes.BAD_OPTION),
    "Block2 twice": ("40", "01", PATH + "c1 06" + "01 06", codes.BAD_OPTION),
    "If-None-Match twice": ("40", "01", "50 00" + "61 78", codes.BAD_OPTION),
    "Content-Format twice": ("40", "01", PATH + "11 00" + "01 32", codes.CONTENT),
    "Max-Age twice": ("40", "01", PATH + "31 00" + "01 01", codes.CONTENT),
    # values
    "a path that is not UTF-8": ("40", "01", "b1 ff", codes.BAD_REQUEST),
    "If-Match where it is not honoured": ("40", "01", "11 61" + "a1 78", codes.BAD_OPTION),
    "If-None-Match where it is not honoured": ("40", "01", "50" + "61 78", codes.BAD_OPTION),
    "a format that cannot be had": ("40", "01", PATH + "61 3c", codes.NOT_ACCEPTABLE),
    "the block size exponent 7": ("40", "01", PATH + "c1 07", codes.BAD_REQUEST),
    "Hop-Limit 0": ("40", "01", PATH + "51 00", codes.BAD_REQUEST),
    "Proxy-Uri": ("40", "01", "d1 16 61", codes.PROXYING_NOT_SUPPORTED),
    "Proxy-Scheme": ("40", "01", PATH + "d1 0f 61", codes.PROXYING_NOT_SUPPORTED),
    "Proxy-Uri that is empty": ("40", "01", "d0 16", codes.BAD_OPTION),
    "a token that is too long": ("4d", "01", "ff" + "61" * 268 + PATH, codes.BAD_REQUEST),
    # what has to be understood all the same
    "a number with leading zeros": ("40", "01", PATH + "62 0000", codes.CONTENT),
    "a token of nine bytes": ("49", "01", "61" * 9 + PATH, codes.CONTENT),
}


def rows() -> Iterator[tuple[str, bytes, Any]]:
    for length in range(4):
        yield f"{length} bytes", bytes.fromhex("40011234")[:length], SILENCE
    for version in (0, 2, 3):
        for kind, number in TYPES.items():
            head = f"{version << 6 | number << 4:02x} 01 1234"
            yield f"version {version}, {kind}", bytes.fromhex(head + PATH), SILENCE
    for name, (first, code, rest) in BROKEN_FORMATS.items():
        for kind, number in TYPES.items():
            head = f"{int(first, 16) | number << 4:02x} {code} 1234"
            yield f"{name}, {kind}", bytes.fromhex(head + rest), RESET if kind == "CON" else SILENCE
    for name, (first, code, rest, expected) in UNUSABLE.items():
        yield name, bytes.fromhex(f"{first} {code} 1234 {rest}"), expected


ROWS = list(rows())


def site() -> Site:
    return Site(Resource("/x", get=lambda _: Response(payload=b"here", content_format=0), content_formats=[0]))


class Raw:
    """A socket of our own towards a server; asking it runs in a thread while the loop serves."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(10.0)
        self.socket.connect(("127.0.0.1", port))
        self.message_id = 0x4000

    async def ask(self, *datagrams: bytes) -> list[Message]:
        """Send datagrams and a good request; return what comes before the answer to that."""
        return await asyncio.get_running_loop().run_in_executor(None, self._ask, datagrams)

    def _ask(self, datagrams: tuple[bytes, ...]) -> list[Message]:
        self.message_id += 1
        good = Message(CON, GET, self.message_id, b"good", Options(((11, b"x"),)))
        for datagram in (*datagrams, encode(good)):
            self.socket.send(datagram)
        received = []
        while True:
            message = decode(self.socket.recv(65535))
            if message.message_id == good.message_id:
                assert (message.type, message.code, message.payload) == (ACK, codes.CONTENT, b"here")
                return received
            received.append(message)


async def served(asked: Any) -> None:
    async with Endpoint(site()) as endpoint:
        await endpoint.serve("coap://127.0.0.1:0")
        raw = Raw(int(endpoint.local_uri.rpartition(":")[2]))
        try:
            await asked(endpoint, raw)
        finally:
            raw.socket.close()


@pytest.mark.parametrize(("data", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_broken_message_gets_what_the_rfc_has_for_it(data: bytes, expected: Any) -> None:
    async def asked(endpoint: Endpoint, raw: Raw) -> None:
        received = await raw.ask(data)
        if expected is SILENCE:
            assert received == []
        elif expected is RESET:
            assert received == [Message(RST, codes.EMPTY, 0x1234)]
        else:
            (answer,) = received
            assert codes.code_name(answer.code) == codes.code_name(expected)
            assert answer.message_id == 0x1234 or answer.type == NON
        assert not any(endpoint.core.footprint().values())

    asyncio.run(served(asked))


def test_thousands_of_broken_messages_cost_nothing() -> None:
    chance = random.Random(1)
    good = encode(Message(CON, PUT, 0x1234, b"token", Options(((11, b"x"), (12, b"")))))

    def broken() -> bytes:
        data = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        return bytes(data[: chance.randrange(len(data) + 1)])

    async def asked(endpoint: Endpoint, raw: Raw) -> None:
        for _ in range(50):
            await raw.ask(*[broken() for _ in range(50)])
        footprint = endpoint.core.footprint()
        assert footprint["pending"] == footprint["bodies"] == 0
        assert footprint["peers"] <= 1

    asyncio.run(served(asked))


@pytest.mark.parametrize("name", [name for name, (first, *_) in BROKEN_FORMATS.items() if first[0] == "4"])
@pytest.mark.parametrize("kind", TYPES.values(), ids=TYPES)
def test_client_goes_on_waiting_whatever_broken_thing_comes_first(name: str, kind: int) -> None:
    first, code, rest = BROKEN_FORMATS[name]

    class Server(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.received: list[bytes] = []

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, address: Any) -> None:
            request = decode(data)
            if request.code == codes.EMPTY:
                self.received.append(data)
                return
            head = f"{int(first, 16) | kind << 4:02x} {code} {request.message_id:04x}"
            self.transport.sendto(bytes.fromhex(head + rest), address)
            good = Message(ACK, codes.CONTENT, request.message_id, request.token, payload=b"good")
            self.transport.sendto(encode(good), address)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        transport, server = await loop.create_datagram_endpoint(Server, ("127.0.0.1", 0))
        async with Endpoint() as endpoint:
            port = transport.get_extra_info("sockname")[1]
            assert (await endpoint.get(f"coap://127.0.0.1:{port}/x")).text == "good"
            await endpoint.get(f"coap://127.0.0.1:{port}/x")  # what was sent to the broken message has come by now
            assert len(server.received) == (1 if kind == CON else 0)
        transport.close()

    asyncio.run(scenario())
