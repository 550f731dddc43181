"""Messages in words: exact lines for a table of messages, and the same as documents."""

from __future__ import annotations

import json
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicoap.codec import codes, options
from minicoap.codec.message import ACK, CON, NON, RST, Message, Options, decode
from minicoap.core.description import describe, facts, option_text, option_value, printable
from minicoap.errors import MessageFormatError

GET_TIME = ((options.URI_PATH, b"time"),)


def message(
    type: int, code: int, *items: tuple[int, bytes], token: bytes = b"\xa1\xb2", payload: bytes = b""
) -> Message:
    return Message(type, code, 4711, token, Options(items), payload)


LINES = [
    (message(CON, codes.GET, *GET_TIME), "CON 4711 [a1b2]  GET /time"),
    (message(NON, codes.GET, token=b""), "NON 4711  GET /"),
    (message(CON, codes.EMPTY, token=b""), "CON 4711  Empty"),
    (message(RST, codes.EMPTY, token=b""), "RST 4711  Empty"),
    (
        message(
            CON, codes.GET, (11, b"a/b"), (11, b"\xff"), (15, b"x=1&2"), (15, b"y"), (3, b"h.example"), (7, b"\x16\x33")
        ),
        "CON 4711 [a1b2]  GET /a%2Fb/%FF?x=1%262&y | Uri-Host: h.example | Uri-Port: 5683",
    ),
    (
        message(ACK, codes.CONTENT, (4, b"\x01\xff"), (12, b""), (14, b"\x05"), payload=b"12:00"),
        'ACK 4711 [a1b2]  2.05 Content | ETag: 01ff | Content-Format: text/plain; charset=utf-8 | Max-Age: 5 s'
        ' | 5 bytes "12:00"',
    ),
    (
        message(CON, codes.PUT, (17, b"\x3c"), (12, b"\x32"), (5, b""), (1, b""), payload=b'{"on":1}'),
        "CON 4711 [a1b2]  PUT / | If-Match: (empty) | If-None-Match | Content-Format: application/json"
        " | Accept: application/cbor | 8 bytes '{\"on\":1}'",
    ),
    (message(CON, codes.GET, (6, b"")), "CON 4711 [a1b2]  GET / | Observe: register"),
    (message(CON, codes.GET, (6, b"\x01")), "CON 4711 [a1b2]  GET / | Observe: cancel"),
    (message(CON, codes.GET, (28, b"")), "CON 4711 [a1b2]  GET / | Size2: asked for"),
    (message(ACK, codes.CONTENT, (28, b"")), "ACK 4711 [a1b2]  2.05 Content | Size2: 0 bytes"),
    (message(CON, codes.CONTENT, (6, b"\x01")), "CON 4711 [a1b2]  2.05 Content | Observe: 1"),
    (
        message(CON, codes.PUT, (27, b"\x0e"), (60, b"\x04\xb0"), payload=b"a" * 1024),
        "CON 4711 [a1b2]  PUT / | Block1: 0, 1024 bytes, more to come | Size1: 1200 bytes"
        f' | 1024 bytes "{"a" * 80}" ...',
    ),
    (
        message(CON, codes.PUT, (27, b"\x12"), payload=b"a" * 64),
        "CON 4711 [a1b2]  PUT / | Block1: 1, 64 bytes | 64 bytes",  # the beginning of no body
    ),
    (
        message(ACK, codes.CONTINUE, (27, b"\x1f")),
        "ACK 4711 [a1b2]  2.31 Continue | Block1: 1f",  # size exponent 7
    ),
    (message(CON, codes.GET, (31, b"\x0a"), (31, b"\x1a")),
     "CON 4711 [a1b2]  GET / | Q-Block2: 0, 64 bytes, more to come | Q-Block2: 1, 64 bytes, more to come"),
    (
        message(ACK, codes.UNAUTHORIZED, (252, b"\x01\x02")),
        "ACK 4711 [a1b2]  4.01 Unauthorized | Echo: 0102 (challenge)",
    ),
    (message(CON, codes.GET, (252, b"\x01\x02")), "CON 4711 [a1b2]  GET / | Echo: 0102 (brought back)"),
    (message(ACK, codes.CONTENT, (252, b"\x01")), "ACK 4711 [a1b2]  2.05 Content | Echo: 01 (for later)"),
    (message(NON, codes.POST, (258, b"\x1a")), "NON 4711 [a1b2]  POST / | No-Response: 2.xx, 4.xx, 5.xx"),
    (message(NON, codes.POST, (258, b"")), "NON 4711 [a1b2]  POST / | No-Response: all are wanted"),
    (
        message(CON, codes.POST, (292, b"\x07"), (16, b"\x10")),
        "CON 4711 [a1b2]  POST / | Hop-Limit: 16 | Request-Tag: 07",
    ),
    (
        message(CON, codes.GET, (65001, b"\xab"), (65000, b"\xcd")),
        "CON 4711 [a1b2]  GET / | Option 65000: cd | Option 65001: ab (critical, unknown)",
    ),
    (
        message(CON, codes.GET, (17, b"\x00\x00\x01"), (23, bytes(4))),
        "CON 4711 [a1b2]  GET / | Accept: Content-Format 1 (unusable: 3 bytes, not 0 to 2)"
        " | Block2: 0, 16 bytes (unusable: 4 bytes, not 0 to 3)",
    ),
    (message(ACK, 0x9F), "ACK 4711 [a1b2]  4.31 (unknown)"),
    (message(CON, 0x1F), "CON 4711 [a1b2]  0.31 (unknown) /"),
    (message(CON, 0x25), "CON 4711 [a1b2]  1.05 (reserved)"),
    (message(CON, 0xE1), "CON 4711 [a1b2]  7.01 CSM (reserved)"),
    (message(CON, codes.CONTENT, payload=bytes(30)), f"CON 4711 [a1b2]  2.05 Content | 30 bytes {'00' * 24} ..."),
    (message(CON, codes.CONTENT, payload=b"\xff"), "CON 4711 [a1b2]  2.05 Content | 1 byte ff"),
    (
        message(CON, codes.CONTENT, (8, b"\x1b[2J"), payload=b"a\x1b[2J"),
        "CON 4711 [a1b2]  2.05 Content | Location-Path: \\x1b[2J | 5 bytes 611b5b324a",
    ),
    (
        message(CON, codes.CONTENT, payload=b'it\'s "x"\\\n'),
        'CON 4711 [a1b2]  2.05 Content | 10 bytes "it\'s \\"x\\"\\\\\\n"',
    ),
    (
        message(CON, codes.CONTENT, (23, b"\x0e"), payload="üü".encode()[:3]),  # a block's end cuts a character
        'CON 4711 [a1b2]  2.05 Content | Block2: 0, 1024 bytes, more to come | 3 bytes "ü"',
    ),
]  # fmt: skip


@pytest.mark.parametrize(("told", "line"), LINES)
def test_line_says_all_of_a_message(told: Message, line: str) -> None:
    assert describe(told) == line


def test_document_has_every_option_with_its_value() -> None:
    told = message(
        CON, codes.PUT, (11, b"time"), (15, b"x=1"), (3, b"h"), (27, b"\x1e"), (5, b""), (4, b"\xff"), (60, b"\x05"),
        (65001, b"\x01"), payload=b"12:00",
    )  # fmt: skip
    assert facts(told) == {
        "type": "CON",
        "message_id": 4711,
        "token": "a1b2",
        "code": "0.03",
        "name": "PUT",
        "target": "/time?x=1",
        "options": [
            {"number": 3, "name": "Uri-Host", "value": "h"},
            {"number": 4, "name": "ETag", "value": "ff"},
            {"number": 5, "name": "If-None-Match", "value": True},
            {"number": 27, "name": "Block1", "value": {"number": 1, "more": True, "size": 1024}},
            {"number": 60, "name": "Size1", "value": 5},
            {"number": 65001, "name": "Option 65001", "value": "01"},
        ],
        "payload": {"size": 5},
    }


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (b"", {"size": 0}),
        (b"12:00", {"size": 5, "text": "12:00"}),
        (b"a" * 81, {"size": 81, "text": "a" * 80, "cut": True}),
        (b"\xff" * 25, {"size": 25, "hex": "ff" * 24, "cut": True}),
        (b"abc\xffdef", {"size": 7, "hex": "616263ff646566"}),
    ],
)
def test_document_has_the_beginning_of_the_payload(payload: bytes, shown: dict[str, Any]) -> None:
    assert facts(message(ACK, codes.CONTENT, payload=payload))["payload"] == shown
    assert "target" not in facts(message(ACK, codes.CONTENT))


@pytest.mark.parametrize(
    ("hidden", "line"),
    [("", '3 bytes "abc"'), ("enrolment", "3 bytes, not shown: enrolment"), (None, '3 bytes "abc"')],
)
def test_payload_is_not_shown_for_a_reason_that_is_given(hidden: Optional[str], line: str) -> None:
    told = message(ACK, codes.CONTENT, payload=b"abc")
    assert describe(told, hidden) == f"ACK 4711 [a1b2]  2.05 Content | {line}"
    assert facts(told, hidden)["payload"].get("hidden", "") == (hidden or "")


@pytest.mark.parametrize(
    ("number", "value", "text", "decoded"),
    [
        (options.CONTENT_FORMAT, b"\x32", "Content-Format: application/json", 50),
        (options.CONTENT_FORMAT, b"", "Content-Format: text/plain; charset=utf-8", 0),
        (options.ETAG, b"\x01\xff", "ETag: 01ff", "01ff"),
        (options.MAX_AGE, b"\x01\x00", "Max-Age: 256 s", 256),
        (options.LOCATION_PATH, "ü".encode(), "Location-Path: ü", "ü"),
        (options.LOCATION_PATH, b"\x1b[2J", "Location-Path: \\x1b[2J", "\x1b[2J"),
        (options.URI_QUERY, b"\xff", "Uri-Query: \ufffd", "\ufffd"),
        (options.IF_NONE_MATCH, b"", "If-None-Match", True),
        (options.IF_NONE_MATCH, b"\x01", "If-None-Match: 01", "01"),
        (options.BLOCK2, b"\x2e", "Block2: 2, 1024 bytes, more to come", {"number": 2, "more": True, "size": 1024}),
        (options.BLOCK2, b"\x0f", "Block2: 0f", "0f"),
        (65001, b"\xab", "Option 65001: ab", "ab"),
    ],
)
def test_option_is_shown_by_name_and_in_its_format(number: int, value: bytes, text: str, decoded: Any) -> None:
    assert option_text(number, value) == text
    assert option_value(number, value) == decoded


def test_what_steers_a_terminal_is_made_visible() -> None:
    assert printable("a\nb\x07ü") == "a\\nb\\x07ü"


@given(st.binary(min_size=4, max_size=200).map(lambda data: bytes((data[0] & 0x3F | 0x40,)) + data[1:]))
def test_whatever_can_be_decoded_can_be_described_on_one_printable_line(data: bytes) -> None:
    try:
        told = decode(data)
    except MessageFormatError:
        return
    line = describe(told)
    assert line.isprintable()
    assert json.loads(json.dumps(facts(told)))["message_id"] == told.message_id
