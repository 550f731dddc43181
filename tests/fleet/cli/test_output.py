"""What people get to see."""

from __future__ import annotations

import io
import json
from datetime import datetime, timezone

import pytest

from fleet.cli import output
from fleet.cli.output import (
    Progress,
    age,
    human_size,
    local_time,
    merged,
    outline,
    print_document,
    printable,
    share,
    table,
)

NOW = datetime(2025, 9, 17, 10, 0, 0, tzinfo=timezone.utc)


@pytest.fixture(autouse=True)
def utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    output.time.tzset()
    yield
    monkeypatch.undo()
    output.time.tzset()


def test_a_table_has_columns_as_wide_as_they_need_to_be():
    assert table(("NAME", ">SIZE"), [("a", "1 B"), ("longer", "20.0 KiB")]).split("\n") == [
        "NAME        SIZE",
        "a            1 B",
        "longer  20.0 KiB",
    ]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (1048575, "1.0 MiB"), (1 << 20, "1.0 MiB"),
        (5 << 30, "5.0 GiB"), (3000 << 40, "3000.0 TiB"),
    ],
)  # fmt: skip
def test_sizes_are_for_people(size, text):
    assert human_size(size) == text


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [
        (0, None, ""), (0, 0, ""), (512, None, "512 B"), (0, 1 << 20, "0 % of 1.0 MiB"), (999, 1000, "99 % of 1000 B"),
        (1000, 1000, "100 % of 1000 B"), (1100, 1000, "100 % of 1000 B"),
    ],
)  # fmt: skip
def test_a_share_is_complete_only_when_it_is(done, total, text):
    assert share(done, total) == text


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        ("2025-09-17T10:00:00.000Z", "0 s ago"),
        ("2025-09-17T09:59:01.000Z", "59 s ago"),
        ("2025-09-17T09:58:59.000Z", "1 min ago"),
        ("2025-09-17T07:00:00.000Z", "3 h ago"),
        ("2025-09-16T10:01:00.000Z", "23 h ago"),
        ("2025-09-15T10:00:00.000Z", "2025-09-15 10:00:00 UTC"),
        ("2025-09-17T10:05:00.000Z", "2025-09-17 10:05:00 UTC"),
        (None, "never"),
        ("lately", "lately"),
    ],
)
def test_ages_are_relative_where_that_can_be_trusted(moment, text):
    assert age(moment, NOW) == text


def test_times_are_shown_in_the_zone_of_this_machine(monkeypatch):
    monkeypatch.setenv("TZ", "CET-1")
    output.time.tzset()

    assert local_time("2025-09-17T10:00:00.000Z") == "2025-09-17 11:00:00 CET"
    assert local_time("2025-09-17T12:00:00+02:00") == "2025-09-17 11:00:00 CET"


def test_a_time_beyond_what_this_machine_can_show_is_shown_as_it_came(monkeypatch):
    monkeypatch.setenv("TZ", "CET-1")
    output.time.tzset()

    assert age("9999-12-31T23:59:59Z", NOW) == "9999-12-31T23:59:59Z"


def test_what_could_steer_a_terminal_is_made_visible():
    assert printable("a\x1b[2J\r\nb\x9bü") == "a\\x1b[2J\\r\\nb\\x9bü"
    assert table(("NODE",), [("\x1b[31m",)]) == "NODE\n\\x1b[31m"
    assert "\x1b" not in outline({"\x1b": "\x1b", "list": ["\x1b"], "deep": {"x": "\x1b"}})


def test_an_outline_shows_a_document_of_any_shape():
    document = {
        "status": "ok", "nodes": {"online": 2, "offline": 0}, "jobs": {}, "bytes_free": 2048, "memory_total": 2048,
        "memory_percent": 2.5, "services": ["a", "b"],
        "healthy": True, "health": None, "started_at": "2025-09-17T10:00:00Z", "load": 0.5,
    }  # fmt: skip

    assert outline(document).split("\n") == [
        "status          ok",
        "nodes",
        "  online   2",
        "  offline  0",
        "jobs            -",
        "bytes free      2.0 KiB",
        "memory total    2.0 KiB",
        "memory percent  2.5",
        "services        a, b",
        "healthy         yes",
        "health          -",
        "started at      2025-09-17 10:00:00 UTC",
        "load            0.5",
    ]


def test_pages_become_one_document_and_a_single_one_is_left_alone():
    single = b'{"nodes":  [], "next": null}'

    assert merged([single], "nodes") == single
    assert json.loads(merged([b'{"nodes": [1], "next": "x"}', b'{"nodes": [2], "next": null}'], "nodes")) == {
        "nodes": [1, 2],
        "next": None,
    }
    assert json.loads(merged([b'{"a": 1, "nodes": {"x": 1}}', b'{"a": 2, "nodes": {"y": 2}}'], "nodes")) == {
        "a": 2,
        "nodes": {"x": 1, "y": 2},
    }


def test_a_document_is_printed_byte_for_byte_whatever_the_terminal_can_show(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(output.sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))

    print_document('{"name": "\u00fc"}'.encode())

    assert written.getvalue() == '{"name": "\u00fc"}\n'.encode()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "is_shown"), [(Terminal(), True), (io.StringIO(), False)])
def test_progress_is_drawn_on_a_terminal_and_cleared_at_the_end(stream, is_shown, monkeypatch):
    now = [10.0]
    monkeypatch.setattr(output.time, "monotonic", lambda: now[0])

    with Progress("demo.whl", 4096, stream) as progress:
        now[0] = 10.01
        progress.at(1024)  # and that much was there before
        now[0] = 10.5
        progress.at(2048)

    drawn = "\r\x1b[Kdemo.whl  50 % of 4.0 KiB  2.0 KiB/s\r\x1b[K"
    assert stream.getvalue() == (drawn if is_shown else "")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_that_a_transfer_begins_anew_is_said_anywhere(is_terminal, monkeypatch):
    now = [10.0]
    monkeypatch.setattr(output.time, "monotonic", lambda: now[0])
    stream = Terminal() if is_terminal else io.StringIO()

    with Progress("demo.whl", 4096, stream) as progress:
        progress.at(2048)
        progress.at(0)
        now[0] = 11.0
        progress.at(1024)

    said = "demo.whl: what was there is gone; it begins anew\n"
    drawn = f"\r\x1b[K{said}\r\x1b[Kdemo.whl  25 % of 4.0 KiB  1.0 KiB/s\r\x1b[K"
    assert stream.getvalue() == (drawn if is_terminal else said)
