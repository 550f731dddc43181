"""The table of resources: routing, refusals, lenient paths and `/.well-known/core`."""

from __future__ import annotations

from typing import Any

import pytest

from minicoap.codec import codes, contentformats
from minicoap.codec.options import ACCEPT, IF_MATCH, IF_NONE_MATCH
from minicoap.core.request import Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.errors import UsageError
from tests.minicoap.core.solo import PEER, Solo, con


def show(request: Request) -> Response:
    return Response(payload=repr(sorted(request.args.items())).encode())


def asked(site: Site, code: int, *path: Any, options: tuple[tuple[int, bytes], ...] = ()) -> tuple[str, str]:
    segments = tuple((11, segment if isinstance(segment, bytes) else segment.encode()) for segment in path)
    (answer,) = Solo(site).put(con(code, 1, b"t", options=segments + options))
    return codes.code_text(answer.code), answer.payload.decode()


TABLE = (
    Resource("/", get=show),
    Resource("/time", get=show, post=show, content_formats=(0, 50)),
    Resource("/nodes/{id}", get=show, delete=show, conditional=True),
    Resource("/nodes/{id}/health", get=show),
    Resource("/nodes/all", get=lambda _: Response(payload=b"all")),
)


@pytest.mark.parametrize(
    ("code", "path", "answer"),
    [
        (codes.GET, (), ("2.05", "[]")),
        (codes.GET, ("time",), ("2.05", "[]")),
        (codes.GET, ("nodes", "7"), ("2.05", "[('id', '7')]")),
        (codes.GET, ("nodes", "a/b"), ("2.05", "[('id', 'a/b')]")),
        (codes.GET, ("nodes", "all"), ("2.05", "all")),
        (codes.GET, ("nodes", "7", "health"), ("2.05", "[('id', '7')]")),
        (codes.GET, ("nodes", ""), ("4.04", "there is nothing at this path")),
        (codes.GET, ("nodes",), ("4.04", "there is nothing at this path")),
        (codes.GET, ("time", ""), ("4.04", "there is nothing at this path")),
        (codes.GET, ("Time",), ("4.04", "there is nothing at this path")),
        (codes.PUT, ("time",), ("4.05", "only GET, POST here")),
        (codes.PUT, ("nothing",), ("4.04", "there is nothing at this path")),
        (0x1F, ("time",), ("4.05", "only GET, POST here")),
        (0x1F, ("nothing",), ("4.05", "there is no method 0.31")),
        (codes.GET, (b"\xff",), ("4.00", "Uri-Path is not UTF-8")),
    ],
)
def test_request_reaches_the_resource_of_its_path_or_is_refused(code: int, path: Any, answer: Any) -> None:
    assert asked(Site(*TABLE), code, *path) == answer


@pytest.mark.parametrize(
    ("path", "number", "value", "code"),
    [
        ("time", ACCEPT, b"", "2.05"),
        ("time", ACCEPT, b"\x32", "2.05"),
        ("time", ACCEPT, b"\x00\x32", "2.05"),
        ("time", ACCEPT, b"\x3c", "4.06"),
        ("", ACCEPT, b"\x3c", "2.05"),
        ("time", IF_MATCH, b"etag", "4.02"),
        ("time", IF_MATCH, b"", "4.02"),
        ("time", IF_NONE_MATCH, b"", "4.02"),
    ],
)
def test_what_the_resource_cannot_honour_is_refused(path: str, number: int, value: bytes, code: str) -> None:
    segments = (path,) if path else ()
    assert asked(Site(*TABLE), codes.GET, *segments, options=((number, value),))[0] == code


def test_conditional_resource_sees_the_condition() -> None:
    assert asked(Site(*TABLE), codes.DELETE, "nodes", "7", options=((IF_MATCH, b"etag"),))[0] == "2.05"


@pytest.mark.parametrize(
    ("path", "strict", "lenient"),
    [
        (("nodes/7/health",), "4.04", "2.05"),
        (("nodes", "7", "health", ""), "4.04", "2.05"),
        (("", "nodes", "7"), "4.04", "2.05"),
        (("nodes//7",), "4.04", "2.05"),
        (("%6eodes", "7"), "4.04", "2.05"),
        (("nodes%2F7",), "4.04", "2.05"),
        (("nodes", "7%"), "2.05", "2.05"),
        (("nodes", "%zz"), "2.05", "2.05"),
        (("nodes", "..", "time"), "4.04", "4.00"),
        (("nodes", "%2e%2e"), "2.05", "4.00"),
        (("nodes", "%2e%2e%2ftime"), "2.05", "4.00"),
        (("%ff",), "4.04", "4.00"),
        ((".",), "4.04", "4.04"),
    ],
)
def test_lenient_site_understands_other_spellings_and_never_leads_upwards(path: Any, strict: str, lenient: str) -> None:
    assert asked(Site(*TABLE), codes.GET, *path)[0] == strict
    site = Site(*TABLE, lenient_paths=True)
    assert [asked(site, codes.GET, *path)[0] for _ in range(2)] == [lenient, lenient]


@pytest.mark.parametrize(
    ("query", "links"),
    [
        ((), '</time>;rt="clock";title="Time";ct="0 50",</a>,</b>;obs'),
        ((b"obs",), "</b>;obs"),
        ((b"rt=clock",), '</time>;rt="clock";title="Time";ct="0 50"'),
        ((b"href=/a",), "</a>"),
        ((b"rt=nothing",), ""),
        ((b"rt=clock", b"href=/a"), ""),
    ],
)
def test_well_known_core_lists_what_is_a_resource_and_not_hidden(query: tuple[bytes, ...], links: str) -> None:
    site = Site(
        Resource("/time", get=show, title="Time", resource_type="clock", content_formats=(0, 50)),
        Resource("/a", get=show),
        Resource("/b", get=show, observable=True),
        Resource("/secret", get=show, hidden=True, observable=True),
        Resource("/nodes/{id}", get=show),
    )
    (answer,) = Solo(site).put(
        con(codes.GET, 1, b"t", ".well-known", "core", options=tuple((15, value) for value in query))
    )
    assert answer.payload.decode() == links
    assert answer.options.uint(12) == contentformats.LINK_FORMAT


@pytest.mark.parametrize(
    "make",
    [
        lambda: Resource("time"),
        lambda: Resource("/x", put=show, upload=lambda request: Response()),
        lambda: Site(Resource("/x"), Resource("/x")),
        lambda: Site(Resource("/.well-known/core")),
    ],
)
def test_table_that_cannot_work_is_refused_when_it_is_made(make: Any) -> None:
    with pytest.raises(UsageError):
        make()


def test_request_and_response_show_what_their_options_say() -> None:
    options = con(codes.GET, 1, b"t", "a", "b", options=((15, b"x=1"), (12, b"\x32"), (17, b"\x3c"))).options
    request = Request(codes.GET, PEER, options, b"", 0.0)
    assert (request.uri_path, request.query, request.content_format, request.accept) == (("a", "b"), ("x=1",), 50, 60)
    response = Response(codes.CREATED, b"caf\xc3\xa9", 0, etag=b"e", max_age=5, location_path=["updates", "7"])
    assert (response.text, response.content_format, response.etag, response.max_age) == ("café", 0, b"e", 5)
    assert (response.location, response.is_success, response.body) == ("/updates/7", True, "café".encode())
    assert (Response().max_age, Response().location, Response(codes.NOT_FOUND).is_success) == (60, "", False)


@pytest.mark.parametrize(
    ("code", "seen"), [(codes.GET, b""), (codes.DELETE, b""), (codes.POST, b"x"), (codes.PUT, b"x")]
)
def test_payload_of_a_method_that_has_none_is_ignored(code: int, seen: bytes) -> None:
    """RFC 7252 §5.5."""
    asked_for: list[bytes] = []

    def handle(request: Request) -> Response:
        asked_for.append(request.payload)
        return Response()

    site = Site(Resource("/x", get=handle, delete=handle, post=handle, put=handle, accepts=(0,)))
    options = () if seen == b"" else ((12, b""),)
    (answer,) = Solo(site).put(con(code, 1, b"t", "x", payload=b"x", options=options))
    assert (answer.code >> 5, asked_for) == (2, [seen])
