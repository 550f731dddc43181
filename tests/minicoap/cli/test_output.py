"""How responses, options and links look to a person."""

from __future__ import annotations

import io
from typing import Optional

import pytest

from minicoap.cli.output import ProgressLine, link_table, option_text, printable, progress_text, status_lines
from minicoap.codec import codes, options
from minicoap.codec.linkformat import parse_links
from minicoap.core.body import TransferState
from minicoap.core.request import Response


@pytest.mark.parametrize(
    ("number", "value", "text"),
    [
        (options.CONTENT_FORMAT, b"\x32", "Content-Format: application/json"),
        (options.CONTENT_FORMAT, b"", "Content-Format: text/plain; charset=utf-8"),
        (options.ETAG, b"\x01\xff", "ETag: 01ff"),
        (options.MAX_AGE, b"\x01\x00", "Max-Age: 256"),
        (options.LOCATION_PATH, "ü".encode(), "Location-Path: ü"),
        (options.LOCATION_PATH, b"\x1b[2J", "Location-Path: \\x1b[2J"),
        (options.URI_QUERY, b"\xff", "Uri-Query: \ufffd"),
        (options.IF_NONE_MATCH, b"", "If-None-Match"),
        (options.BLOCK2, b"\x2e", "Block2: 2, 1024 bytes, more to come"),
        (options.BLOCK2, b"\x0f", "Block2: 0f"),
        (65001, b"\xab", "Option 65001: ab"),
    ],
)
def test_option_is_shown_by_name_and_in_its_format(number: int, value: bytes, text: str) -> None:
    assert option_text(number, value) == text


def test_status_is_followed_by_the_options() -> None:
    response = Response(codes.CREATED, etag=b"\x01", location_path=("updates", "7"))
    assert status_lines(response) == ["2.01 Created", "  ETag: 01", "  Location-Path: updates", "  Location-Path: 7"]


def test_links_are_a_table_with_the_columns_that_have_something_in_them() -> None:
    links = parse_links('</time>;rt="clock";title="What time it is",</n>;ct="50 60"')
    assert link_table(links) == [
        "path   rt     ct     title",
        "/time  clock         What time it is",
        "/n            50 60",
    ]
    assert link_table([]) == ["path"]


def test_what_steers_a_terminal_is_made_visible() -> None:
    assert printable("a\nb\x07ü") == "a\\nb\\x07ü"


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


def test_progress_line_is_silent_without_a_terminal_and_without_progress() -> None:
    plain, terminal = io.StringIO(), Terminal()
    with ProgressLine(plain) as line:
        line(TransferState("coap://h/x", None, 1), 1)
    with ProgressLine(terminal):
        pass
    assert plain.getvalue() == terminal.getvalue() == ""
