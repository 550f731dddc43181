"""What the endpoint refuses by itself: a text for people (RFC 7252 §5.5.2), and no cache may repeat it (§5.10.5)."""

from __future__ import annotations

from typing import Any

import pytest

from minicoap.codec import codes
from minicoap.codec.options import (
    ACCEPT,
    BLOCK1,
    BLOCK2,
    CONTENT_FORMAT,
    ETAG,
    HOP_LIMIT,
    IF_MATCH,
    MAX_AGE,
    PROXY_URI,
    SIZE1,
    encode_uint,
)
from minicoap.core.body import Block
from minicoap.core.parameters import Limits
from minicoap.core.request import Request, Response
from minicoap.core.resource import Resource, Site
from tests.minicoap.core.solo import Solo, con


def fail(request: Request) -> Response:
    raise ValueError


def show(request: Request) -> Response:
    return Response(payload=b"." * 2000)


def site() -> Site:
    return Site(
        Resource("/it", get=show, put=show, content_formats=(0,), accepts=(0,), max_body=100),
        Resource("/broken", get=fail),
        Resource("/fresh", post=show, fresh=1.0),
    )


def block(option: int, number: int, more: bool, szx: int) -> tuple[int, bytes]:
    return option, Block(number, more, szx).encode()


TEXT = (CONTENT_FORMAT, b"")
REFUSED: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "no such path": ("4.04", "nothing", codes.GET, {}),
    "no such method here": ("4.05", "it", codes.POST, {}),
    "no such method": ("4.05", "nothing", 31, {}),
    "another format": ("4.15", "it", codes.PUT, {"payload": b"x"}),
    "conditions not honoured": ("4.02", "it", codes.GET, {"options": ((IF_MATCH, b""),)}),
    "an unknown critical option": ("4.02", "it", codes.GET, {"options": ((9, b""),)}),
    "no proxy": ("5.05", "it", codes.GET, {"options": ((PROXY_URI, b"coap://a"),)}),
    "no hop left": ("4.00", "it", codes.GET, {"options": ((HOP_LIMIT, b""),)}),
    "a broken handler": ("5.00", "broken", codes.GET, {}),
    "a token too long": ("4.00", "it", codes.GET, {"token": bytes(20)}),
    "a block before it is missing": (
        "4.08", "it", codes.PUT, {"payload": bytes(16), "options": (TEXT, block(BLOCK1, 1, True, 0))},
    ),
    "a block that is too short": (
        "4.00", "it", codes.PUT, {"payload": b"x", "options": (TEXT, block(BLOCK1, 0, True, 0))},
    ),
    "a size that is reserved": ("4.00", "it", codes.GET, {"options": (block(BLOCK2, 0, False, 7),)}),
    "a block beyond the end": ("4.00", "it", codes.GET, {"options": (block(BLOCK2, 99, False, 6),)}),
    "a response that nobody keeps": ("4.08", "it", codes.PUT, {"options": (block(BLOCK2, 1, False, 6),)}),
    "a body announced as too long": (
        "4.13", "it", codes.PUT,
        {"payload": bytes(16), "options": (TEXT, block(BLOCK1, 0, True, 0), (SIZE1, encode_uint(101)))},
    ),
    "not fresh": ("4.01", "fresh", codes.POST, {}),
}  # fmt: skip


def refused(path: str, code: int, arguments: dict[str, Any]) -> Any:
    solo = Solo(site(), limits=Limits(token_length=8))
    (answer,) = solo.put(con(code, 1, arguments.pop("token", b"t"), path, **arguments))
    return answer


@pytest.mark.parametrize("name", REFUSED)
def test_refusal_says_why_and_is_not_to_be_kept(name: str) -> None:
    code, path, method, arguments = REFUSED[name]
    answer = refused(path, method, dict(arguments))
    assert codes.code_text(answer.code) == code
    assert bool(answer.payload) == (name not in ("not fresh", "a broken handler"))
    answer.payload.decode()
    assert answer.options.all(MAX_AGE) == (b"",)
    assert answer.options.get(CONTENT_FORMAT) is None  # §5.5.2
    assert answer.options.get(ETAG) is None


def test_format_that_is_not_to_be_had_is_refused_without_a_word() -> None:
    """§5.9.2.7: 4.06 has no payload, since the client has just said what it can read."""
    answer = refused("it", codes.GET, {"options": ((ACCEPT, b"\x32"),)})
    assert (answer.code, answer.payload, answer.options.uint(MAX_AGE)) == (codes.NOT_ACCEPTABLE, b"", 0)


def test_body_that_is_too_large_is_told_how_much_would_be_taken_at_whichever_block_that_is_found_out() -> None:
    solo = Solo(site())
    answers = [
        solo.put(
            con(codes.PUT, number, b"t", "it", payload=bytes(64), options=(TEXT, block(BLOCK1, number, number < 2, 2)))
        )[0]
        for number in range(2)
    ]
    assert [codes.code_text(answer.code) for answer in answers] == ["2.31", "4.13"]
    assert (answers[1].options.uint(SIZE1), answers[1].payload) == (100, b"at most 100 bytes are taken here")
    assert answers[1].options.uint(MAX_AGE) == 0


@pytest.mark.parametrize(
    ("options", "blamed"),
    [
        (((1, b""), (9, b"")), b"critical option 9 (OSCORE)"),
        (((3, b"h" * 255), (65, b"")), b"critical option 65"),
        (((3, b""),), b"Uri-Host of 0 bytes; 1 to 255"),
        (((7, b"\x00\x16\x33"),), b"Uri-Port of 3 bytes; 0 to 2"),
        (((17, b""), (17, b"")), b"a critical option twice"),
    ],
)
def test_option_that_is_not_understood_is_named_and_none_other(
    options: tuple[tuple[int, bytes], ...], blamed: bytes
) -> None:
    assert blamed in refused("it", codes.GET, {"options": options}).payload
