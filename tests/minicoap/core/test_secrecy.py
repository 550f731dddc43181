"""What a trace hides: payloads that name a secret, all of enrolment, and secret arguments of a query."""

from __future__ import annotations

import pytest

from minicoap.codec import codes, contentformats
from minicoap.codec.message import CON, Message, Options
from minicoap.codec.options import CONTENT_FORMAT, LOCATION_QUERY, PROXY_URI, URI_PATH, URI_QUERY, encode_uint
from minicoap.core.description import describe
from minicoap.core.secrecy import ENROLMENT, SECRET, is_enrolment, why_hidden, without_secret


def payload(data: bytes, content_format: int = contentformats.JSON) -> Message:
    return Message(CON, codes.POST, 1, b"", Options(((CONTENT_FORMAT, encode_uint(content_format)),)), data)


@pytest.mark.parametrize(
    "path",
    [
        (b".well-known", b"est", b"sen"),
        (b".well-known", b"est"),
        (b".well-known/est/sren",),
        (b"", b".well-known", b"%65st", b"crts"),
        (b".well-known%2Fest%2Fskg",),
        (b".WELL-KNOWN", b"EST"),
        (b"est", b"sen"),
    ],
)
def test_enrolment_is_known_however_its_path_is_spelt(path: tuple[bytes, ...]) -> None:
    assert is_enrolment(path)
    options = Options([(URI_PATH, segment) for segment in path])
    assert why_hidden(Message(CON, codes.POST, 1, b"", options, b"csr")) == ENROLMENT


@pytest.mark.parametrize("path", [(), (b"test",), (b"nodes", b"west"), (b".well-known", b"core")])
def test_other_paths_are_no_enrolment(path: tuple[bytes, ...]) -> None:
    assert not is_enrolment(path)


@pytest.mark.parametrize(
    "data",
    [
        b'{"token": "x"}',
        b'{"enrolment_token" : "x"}',
        b"{'Password':'x'}",
        b"password=x",
        b"api-key: x",
        b'{"private_key": "x"}',
        b'{"key": "x"}',
        b"psk=x",
        b"-----BEGIN EC PRIVATE KEY-----",
        b"\xa1\x65token\x61x\xff",
        b"\xa1\x6cclient_secretDx\xff\xff\xff",
    ],
)
def test_payload_that_names_a_secret_is_hidden(data: bytes) -> None:
    assert why_hidden(payload(data)) == SECRET
    assert "not shown" in describe(payload(data))


@pytest.mark.parametrize("content_format", [19, 61, 101, 102, 280, 284, 286])
def test_formats_of_keys_and_tokens_are_hidden(content_format: int) -> None:
    assert why_hidden(payload(b"x", content_format)) == SECRET


@pytest.mark.parametrize(
    "data", [b'{"node_id": "n1"}', b"the token is too long", b'{"keyboard": 1}', b"\xff\x00", b'{"monkey": "x"}', b""]
)
def test_other_payloads_are_shown(data: bytes) -> None:
    assert why_hidden(payload(data)) == ""


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        (b"token=abc", b"token=..."),
        (b"access_token=abc", b"access_token=..."),
        (b"X-Key=abc=d", b"X-Key=..."),
        (b"PIN=1", b"PIN=..."),
        (b"key=1", b"key=..."),
        (b"monkey=1", b"monkey=1"),
        (b"token", b"token"),
        (b"zone=token", b"zone=token"),
    ],
)
def test_secret_arguments_of_a_query_are_hidden(argument: bytes, shown: bytes) -> None:
    assert without_secret(argument) == shown


def test_nothing_secret_is_in_a_line_wherever_it_stood() -> None:
    for options in (
        ((URI_QUERY, b"token=s3cret"),),
        ((PROXY_URI, b"coap://h/x?token=s3cret"),),
        ((URI_PATH, b"est"),),
    ):
        assert "s3cret" not in describe(Message(CON, codes.POST, 1, b"", Options(options), b"key: s3cret"))
    created = Message(CON, codes.CREATED, 1, b"", Options(((LOCATION_QUERY, b"token=s3cret"),)))
    assert "s3cret" not in describe(created)


def test_what_follows_the_first_block_is_never_shown() -> None:
    first = Message(CON, codes.PUT, 1, b"", Options(((27, b"\x08"),)), b'{"a": 1, "passwo')
    later = Message(CON, codes.PUT, 2, b"", Options(((27, b"\x10"),)), b'rd": "s3cret"}')
    assert "passwo" in describe(first)
    assert "s3cret" not in describe(later)
