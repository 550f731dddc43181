"""Bodies under way at once, told apart by Request-Tag (RFC 9175 §3)."""

from __future__ import annotations

from typing import Any

import pytest

from minicoap.codec import codes
from minicoap.codec.message import Message
from minicoap.codec.options import BLOCK1, IF_NONE_MATCH, REQUEST_TAG
from minicoap.core.body import Block
from minicoap.core.parameters import TransmissionParameters
from minicoap.core.request import Request, Response
from minicoap.core.request_tag import RequestTags
from minicoap.core.resource import Resource, Site
from minicoap.errors import UsageError
from minicoap.simulate.link import Link
from minicoap.simulate.pair import Pair
from tests.minicoap.core.solo import Solo, ack, empty_ack

OPERATION = (("host", 1), codes.PUT, ((11, b"x"),))
OTHER = (("host", 1), codes.PUT, ((11, b"y"),))


def test_tags_are_the_shortest_that_are_free() -> None:
    tags = RequestTags()
    taken = [tags.take(OPERATION, always=False) for _ in range(4)]
    assert taken == [None, b"", b"\x00", b"\x01"]
    assert tags.take(OTHER, always=False) is None
    tags.give_back(OPERATION, b"")
    tags.give_back(OPERATION, None)
    assert [tags.take(OPERATION, always=False) for _ in range(3)] == [None, b"", b"\x02"]


def test_tags_are_longer_where_all_of_a_byte_are_taken() -> None:
    tags = RequestTags()
    taken = [tags.take(OPERATION, always=True) for _ in range(300)]
    assert taken[:2] == [b"", b"\x00"]
    assert taken[257] == b"\x01\x00"
    assert len(set(taken)) == 300
    for tag in taken:
        tags.give_back(OPERATION, tag)
    assert len(tags) == 0


def started(solo: Solo, payload: bytes, code: int = codes.PUT, **arguments: Any) -> tuple[Any, list[Message]]:
    outcomes: list[Any] = []
    transfer = solo.core.request(
        code, ("host", len(payload)), outcomes.append, solo.now, uri_path=["x"], payload=payload, **arguments
    )
    return transfer, solo.sent()


def test_lone_upload_has_no_tag_unless_it_is_asked_for_and_then_on_every_block() -> None:
    solo = Solo()
    _, (sent,) = started(solo, bytes(3000))
    assert REQUEST_TAG not in [number for number, _ in sent.options.items]
    _, (sent,) = started(solo, bytes(2999), tagged=True)
    for number in range(2):
        assert sent.options.get(REQUEST_TAG) == b""
        (sent,) = solo.put(
            ack(codes.CONTINUE, sent, options=((BLOCK1, Block(number, True, 6).encode()),)), ("host", 2999)
        )


@pytest.mark.parametrize("ends", ["answer", "cancel", "path"])
def test_tag_is_free_again_when_the_upload_ends(ends: str) -> None:
    solo = Solo()
    transfer, (sent,) = started(solo, bytes(3000))
    if ends == "answer":
        solo.put(ack(codes.FORBIDDEN, sent), ("host", 3000))
    elif ends == "cancel":
        transfer.cancel(solo.now)
        transfer.cancel(solo.now)
        solo.put(empty_ack(sent), ("host", 3000))  # or the next would have to wait (RFC 7252 §4.7)
    else:
        solo.core.path_failed(("host", 3000), OSError(111, "refused"), solo.now)
    _, (sent,) = started(solo, bytes(3000))
    assert sent.options.get(REQUEST_TAG) is None


def test_short_requests_are_not_tagged_and_a_question_beside_the_same_is() -> None:
    solo = Solo(parameters=TransmissionParameters(congestion_controlled=True))
    methods = (codes.PUT, codes.FETCH, codes.GET)
    first = [started(solo, b"x", code, confirmable=False)[1][0] for code in methods]
    second = [started(solo, b"x", code, confirmable=False)[1][0] for code in methods]
    assert [message.options.get(REQUEST_TAG) for message in first + second] == [None, None, None, None, b"", b""]


@pytest.mark.parametrize("arguments", [{"szx": 9}, {"window": 0}, {"offset": 3}])
def test_request_that_cannot_be_made_keeps_no_tag(arguments: dict[str, int]) -> None:
    solo = Solo()
    with pytest.raises(UsageError):
        solo.request(codes.GET, "x", **arguments)
    assert solo.is_empty()


def test_same_long_thing_that_changes_all_the_time_is_fetched_whole_by_all_who_ask_at_once() -> None:
    made: list[bytes] = []

    def show(request: Request) -> Response:
        made.append(bytes([len(made)]) * 3000)
        return Response(payload=made[-1])

    pair = Pair(Site(Resource("/x", get=show)))
    outcomes = [pair.start(codes.GET, "x") for _ in range(3)]
    assert pair.world.run_until(lambda: all(outcomes))
    assert [each[0].payload for each in outcomes] == made  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(5))
def test_bodies_at_once_to_one_resource_do_not_mix(seed: int) -> None:
    stored: list[bytes] = []

    def store(request: Request) -> Response:
        stored.append(request.payload)
        return Response(codes.CHANGED, request.payload[::-1])

    pair = Pair(Site(Resource("/x", post=store)), seed=seed, link=Link(loss=0.1, duplicate=0.1, jitter=0.3))
    bodies = [bytes([letter]) * (5000 + letter) for letter in b"abcde"]
    outcomes = [pair.start(codes.POST, "x", payload=body) for body in bodies]
    assert pair.world.run_until(lambda: all(outcomes))
    assert [each[0].payload for each in outcomes] == [body[::-1] for body in bodies]  # type: ignore[union-attr]
    assert sorted(stored) == bodies
    pair.world.run_for(1000.0)
    assert not any([*pair.client.footprint().values(), *pair.server.footprint().values()])


def test_condition_is_on_the_first_block_only_and_keeps_no_two_bodies_apart() -> None:
    """RFC 7959 §2.10: If-None-Match must not be on further blocks, which then look like those of another body."""
    solo = Solo()
    (first,) = started(solo, bytes(3000), options=((IF_NONE_MATCH, b""),))[1]
    (second,) = solo.put(ack(codes.CONTINUE, first, options=((BLOCK1, Block(0, True, 6).encode()),)), ("host", 3000))
    assert [each.options.all(IF_NONE_MATCH) for each in (first, second)] == [(b"",), ()]
    solo.put(empty_ack(second), ("host", 3000))
    (other,) = started(solo, bytes(3000))[1]
    assert [each.options.get(REQUEST_TAG) for each in (first, second, other)] == [None, None, b""]


def test_fetches_at_once_get_their_own_long_responses() -> None:
    pair = Pair(Site(Resource("/x", fetch=lambda request: Response(payload=request.payload * 3000))))
    outcomes = [pair.start(codes.FETCH, "x", payload=letter) for letter in (b"a", b"b", b"c")]
    assert pair.world.run_until(lambda: all(outcomes))
    assert [each[0].payload for each in outcomes] == [letter * 3000 for letter in (b"a", b"b", b"c")]  # type: ignore[union-attr]
