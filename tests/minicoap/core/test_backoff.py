"""4.29: a server's wish to be left alone is respected (RFC 8516 §4)."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from minicoap.codec import codes
from minicoap.codec.options import MAX_AGE, encode_uint
from minicoap.core import backoff
from minicoap.core.request import Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.simulate.pair import Pair
from tests.minicoap.core.solo import OTHER, Solo, ack


def refused(solo: Solo, max_age: Optional[int], *uri_path: str, **arguments: Any) -> None:
    solo.request(codes.PUT, *uri_path, **arguments)
    (sent,) = solo.sent()
    options = () if max_age is None else ((MAX_AGE, encode_uint(max_age)),)
    solo.put(ack(codes.TOO_MANY_REQUESTS, sent, options=options, payload=b"slow down"))


@pytest.mark.parametrize(("max_age", "seconds"), [(None, 60.0), (5, 5.0), (3600, 3600.0)])
def test_similar_request_is_not_sent_until_max_age_has_passed(max_age: Optional[int], seconds: float) -> None:
    solo = Solo()
    refused(solo, max_age, "x", query=["a=b"])
    solo.pass_time(seconds - 1.5)
    outcomes = solo.request(codes.PUT, "x", query=["a=b"], payload=b"other")
    assert (outcomes, solo.sent()) == ([], [])
    solo.pass_time(0.0)
    (outcome,) = outcomes
    assert isinstance(outcome, Response)
    assert (outcome.code, outcome.text, outcome.max_age) == (codes.TOO_MANY_REQUESTS, "slow down", 2)
    solo.pass_time(1.5)
    solo.request(codes.PUT, "x", query=["a=b"])
    assert len(solo.sent()) == 1
    assert solo.core.footprint()["refusals"] == 0


@pytest.mark.parametrize(
    ("code", "path", "query", "peer"),
    [
        (codes.GET, "x", ["a=b"], None),
        (codes.PUT, "y", ["a=b"], None),
        (codes.PUT, "x", [], None),
        (codes.PUT, "x", ["a=b"], OTHER),
    ],
)
def test_other_request_is_sent(code: int, path: str, query: list[str], peer: Any) -> None:
    solo = Solo()
    refused(solo, 60, "x", query=["a=b"])
    solo.request(code, path, query=query, **({} if peer is None else {"path": peer}))
    assert len(solo.sent()) == 1


def test_max_age_of_zero_holds_nothing_back() -> None:
    solo = Solo()
    refused(solo, 0, "x")
    solo.request(codes.PUT, "x")
    assert len(solo.sent()) == 1


def test_refusals_are_bounded_and_the_latest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "_MOST", 3)
    solo = Solo()
    for name in "abcde":
        refused(solo, 60, name)
    assert solo.core.footprint()["refusals"] == 3
    for name, sent in (("e", 0), ("c", 0), ("b", 1)):
        solo.request(codes.PUT, name)
        assert len(solo.sent()) == sent
    assert solo.forgets_everything()


def test_refused_request_may_be_cancelled() -> None:
    solo, outcomes = Solo(), []
    refused(solo, 60, "x")
    solo.core.request(codes.PUT, ("127.0.0.1", 5683), outcomes.append, solo.now, uri_path=["x"]).cancel(solo.now)
    assert solo.forgets_everything()
    assert outcomes == []


def test_server_is_asked_as_often_as_it_likes() -> None:
    asked = []

    def handle(request: Request) -> Response:
        asked.append(request.now)
        return Response(codes.TOO_MANY_REQUESTS, max_age=10)

    pair = Pair(Site(Resource("/x", post=handle)))
    for _ in range(100):
        assert pair.request(codes.POST, "x").code == codes.TOO_MANY_REQUESTS
        pair.world.run_for(1.0)
    assert 9 <= len(asked) <= 11


# 4.15 (RFC 7252 §5.9.2.10, RFC 8132 §2.2)


@pytest.mark.parametrize("code", [codes.POST, codes.PUT, codes.FETCH, codes.PATCH, codes.IPATCH])
@pytest.mark.parametrize(("content_format", "expected"), [(50, "2.04"), (0, "4.15"), (None, "4.15")])
def test_body_of_a_format_that_is_not_taken_is_refused(code: int, content_format: Optional[int], expected: str) -> None:
    handlers: dict[str, Any] = dict.fromkeys(("get", "post", "put", "fetch", "patch", "ipatch"))
    handlers.update(dict.fromkeys(handlers, lambda _: Response(codes.CHANGED)))
    pair = Pair(Site(Resource("/x", accepts=[50, 60], **handlers)))
    answer = pair.request(code, "x", payload=b"{}", content_format=content_format)
    assert codes.code_text(answer.code) == expected
    assert pair.request(codes.GET, "x").code == codes.CHANGED
