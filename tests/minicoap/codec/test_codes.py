"""The registry of codes and how codes are written."""

import sys

import pytest

from minicoap.codec import codes


@pytest.mark.parametrize(
    ("code", "text", "name"),
    [
        (codes.EMPTY, "0.00", "Empty"),
        (codes.GET, "0.01", "GET"),
        (codes.IPATCH, "0.07", "iPATCH"),
        (codes.CREATED, "2.01", "2.01 Created"),
        (codes.CONTENT, "2.05", "2.05 Content"),
        (codes.CONTINUE, "2.31", "2.31 Continue"),
        (codes.BAD_REQUEST, "4.00", "4.00 Bad Request"),
        (codes.UNPROCESSABLE_ENTITY, "4.22", "4.22 Unprocessable Entity"),
        (codes.TOO_MANY_REQUESTS, "4.29", "4.29 Too Many Requests"),
        (codes.HOP_LIMIT_REACHED, "5.08", "5.08 Hop Limit Reached"),
        (codes.ABORT, "7.05", "7.05 Abort"),
        (0x9F, "4.31", "4.31"),
        (0x1F, "0.31", "0.31"),
    ],
)
def test_code_is_written_as_the_rfc_writes_it(code: int, text: str, name: str) -> None:
    assert (codes.code_text(code), codes.code_name(code)) == (text, name)


@pytest.mark.parametrize(
    ("code", "kinds"),
    [
        (0x00, set()),
        (0x01, {"request"}),
        (0x1F, {"request"}),
        (0x20, set()),
        (0x3F, set()),
        (0x40, {"response", "success"}),
        (0x5F, {"response", "success"}),
        (0x60, set()),
        (0x80, {"response", "client_error"}),
        (0x9F, {"response", "client_error"}),
        (0xA0, {"response", "server_error"}),
        (0xBF, {"response", "server_error"}),
        (0xC0, set()),
        (0xE1, set()),
        (0xFF, set()),
    ],
)
def test_class_of_a_code_decides_what_it_is(code: int, kinds: set[str]) -> None:
    names = ("request", "response", "success", "client_error", "server_error")
    assert {name for name in names if getattr(codes, f"is_{name}")(code)} == kinds


@pytest.mark.skipif(sys.version_info < (3, 10), reason="the last aiocoap for Python 3.9 does not list its registry")
def test_registry_agrees_with_aiocoap() -> None:
    numbers = pytest.importorskip("aiocoap.numbers.codes")
    theirs = {int(code) for code in numbers.Code} - {0}
    assert {*codes.METHOD_NAMES, *codes.RESPONSE_NAMES, *codes.SIGNALING_NAMES} == theirs
