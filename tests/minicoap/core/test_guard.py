"""A site's guard is asked before anything is told of a resource, about each block too, but not for renderings."""

from __future__ import annotations

from typing import Optional

import pytest

from minicoap.codec import codes
from minicoap.codec.message import Options
from minicoap.codec.options import BLOCK1, BLOCK2, URI_PATH
from minicoap.core.block_server import BlockServer
from minicoap.core.body import Block
from minicoap.core.parameters import Limits
from minicoap.core.request import Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.core.timers import Timers

PATH = ("192.0.2.9", 40000)


class Door:
    """A guard that can be shut, and notes whom it was asked about."""

    def __init__(self) -> None:
        self.is_open = True
        self.asked: list[tuple[int, Optional[str]]] = []

    def __call__(self, request: Request, resource: Optional[Resource]) -> Optional[Response]:
        self.asked.append((request.code, None if resource is None else resource.path))
        return None if self.is_open else Response(codes.FORBIDDEN)


def a_site(door: Door) -> Site:
    def get(request: Request) -> Response:
        return Response(payload=b"x" * 100)

    return Site(
        Resource("/a", get=get, put=lambda request: Response(codes.CHANGED)),
        Resource("/a/{id}", get=get),
        lenient_paths=True,
        guard=door,
    )


def a_request(code: int, *path: str, block: Optional[tuple[int, Block]] = None, payload: bytes = b"") -> Request:
    items = [(URI_PATH, segment.encode()) for segment in path]
    if block is not None:
        items.append((block[0], block[1].encode()))
    return Request(code, PATH, Options(items), payload, 0.0)


@pytest.mark.parametrize(
    ("code", "path", "asked"),
    [
        (codes.GET, ("a",), "/a"),
        (codes.GET, ("a", "7"), "/a/{id}"),
        (codes.GET, ("a%2F7",), "/a/{id}"),
        (codes.GET, ("", "a", ""), "/a"),
        (codes.DELETE, ("a",), "/a"),
        (codes.GET, ("b",), None),
    ],
)
def test_whoever_is_refused_learns_nothing_of_what_is_there(code, path, asked):
    door = Door()
    site = a_site(door)
    door.is_open = False

    answer = site.route(a_request(code, *path))

    assert isinstance(answer, Response) and answer.code == codes.FORBIDDEN
    assert door.asked == [(code, asked)]


def test_a_further_block_is_asked_about_like_the_first():
    door = Door()
    blocks = BlockServer(a_site(door), Timers(), Limits(), 247.0)
    first = blocks.request_received(a_request(codes.PUT, "a", block=(BLOCK1, Block(0, True, 0)), payload=b"x" * 16))
    assert isinstance(first, Response) and first.code == codes.CONTINUE
    shown = blocks.request_received(a_request(codes.GET, "a", block=(BLOCK2, Block(0, False, 0))))
    assert isinstance(shown, Response) and shown.code == codes.CONTENT
    door.is_open = False

    second = blocks.request_received(a_request(codes.PUT, "a", block=(BLOCK1, Block(1, True, 0)), payload=b"x" * 16))
    further = blocks.request_received(a_request(codes.GET, "a", block=(BLOCK2, Block(1, False, 0))))

    assert isinstance(second, Response) and second.code == codes.FORBIDDEN
    assert isinstance(further, Response) and further.code == codes.FORBIDDEN
    assert len(blocks) == 1  # the body that was sent is gone; the one that is read may be others' too


def test_what_was_allowed_once_is_found_for_observers_without_the_guard():
    door = Door()
    site = a_site(door)
    door.is_open = False

    found = site.find(a_request(codes.GET, "a", "7"))

    assert found is not None and found.path == "/a/{id}"
    assert door.asked == []


def test_long_paths_are_understood_but_not_kept():
    site = a_site(Door())

    for number in range(100):
        site.route(a_request(codes.GET, *["s"] * 1000, str(number)))
        site.route(a_request(codes.GET, *["s" * 200] * 3, str(number)))

    assert len(site._normalised) == 0
    assert site.canonical(("a%2F7",)) == ("a", "7")
