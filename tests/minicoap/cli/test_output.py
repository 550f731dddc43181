"""How responses, options and links look to a person."""

from __future__ import annotations

import pytest

from minicoap.cli.output import link_table, option_text, printable, status_lines
from minicoap.codec import codes, options
from minicoap.codec.linkformat import parse_links
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
