"""How responses, options and links look to a person."""

from __future__ import annotations

import io
from typing import Optional

import pytest

from minicoap.cli.output import ProgressLine, link_document, link_table, progress_text, response_document, status_lines
from minicoap.codec import codes
from minicoap.codec.linkformat import parse_links
from minicoap.core.body import TransferState
from minicoap.core.request import Response


def test_status_is_followed_by_the_options() -> None:
    response = Response(codes.CREATED, etag=b"\x01", location_path=("updates", "7"))
    assert status_lines(response) == ["2.01 Created", "  ETag: 01", "  Location-Path: updates", "  Location-Path: 7"]


def test_links_are_a_table_with_the_columns_that_have_something_in_them() -> None:
    links = parse_links('</time>;rt="clock";title="What time it is";obs,</n>;ct="50 60 4711 x";sz=9')
    assert link_table([("", link) for link in links]) == [
        "path   rt     ct                sz  obs  title",
        "/time  clock                        yes  What time it is",
        "/n            json cbor 4711 x  9",
    ]
    assert link_table([]) == ["path"]


def test_links_of_several_members_are_told_apart() -> None:
    (link,) = parse_links("</\x1b>")
    assert link_table([("coap://192.0.2.7", link), ("coap://192.0.2.8", link)]) == [
        "member            path",
        "coap://192.0.2.7  /\\x1b",
        "coap://192.0.2.8  /\\x1b",
    ]
    assert link_document(parse_links('</a>;obs;rt="x y"')[0], "coap://h") == {
        "uri": "coap://h",
        "target": "/a",
        "attributes": [["obs", None], ["rt", "x y"]],
    }


@pytest.mark.parametrize(("payload", "field"), [(b"21.5", {"text": "21.5"}), (b"\xff", {"data": "/w=="})])
def test_response_is_a_document_with_its_payload_whole(payload: bytes, field: dict[str, str]) -> None:
    document = response_document(Response(codes.CONTENT, payload, 0, max_age=5), "coap://h/t")
    assert document == {
        "uri": "coap://h/t",
        "code": "2.05",
        "name": "2.05 Content",
        "options": [
            {"number": 12, "name": "Content-Format", "value": 0},
            {"number": 14, "name": "Max-Age", "value": 5},
        ],
        **field,
    }


@pytest.mark.parametrize(
    ("done", "size", "moved", "seconds", "text"),
    [
        (0, 0, 0, 0.0, "0 B"),
        (512, None, 512, 0.5, "512 B  1024 B/s"),
        (20_480, 40_960, 10_240, 1.0, " 50 %  20 KiB of 40 KiB  10 KiB/s"),
        (5 << 20, 64 << 20, 0, 2.0, "  7 %  5120 KiB of 64.0 MiB  0 B/s"),
        (64 << 20, 64 << 20, 64 << 20, 2.0, "100 %  64.0 MiB of 64.0 MiB  32.0 MiB/s"),
    ],
)
def test_progress_is_told_in_units_that_suit(
    done: int, size: Optional[int], moved: int, seconds: float, text: str
) -> None:
    assert progress_text(done, size, moved, seconds) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_line_is_not_drawn_anew_for_every_block_but_for_the_last() -> None:
    terminal = Terminal()
    with ProgressLine(terminal) as line:
        for offset in range(1024, 65_537, 1024):
            line(TransferState("coap://h/x", None, offset), 65_536)
    assert terminal.getvalue().startswith("\r  1 %  1024 B of 64 KiB")
    assert "\r100 %  64 KiB of 64 KiB" in terminal.getvalue()
    assert terminal.getvalue().count("\r") < 10


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_line_says_that_a_transfer_begins_anew(is_terminal: bool) -> None:
    stream = Terminal() if is_terminal else io.StringIO()
    with ProgressLine(stream) as line:
        for offset in (1024, 0, 1024, 2048):
            line(TransferState("coap://h/x", None, offset), 4096)
    assert stream.getvalue().count("what was there is gone; it begins anew\n") == 1
    assert stream.getvalue().startswith("\r 25 %" if is_terminal else "what")
    assert ("\r" in stream.getvalue()) is is_terminal


def test_progress_line_is_silent_without_a_terminal_and_without_progress() -> None:
    plain, terminal = io.StringIO(), Terminal()
    with ProgressLine(plain) as line:
        line(TransferState("coap://h/x", None, 1), 1)
    with ProgressLine(terminal):
        pass
    assert plain.getvalue() == terminal.getvalue() == ""
