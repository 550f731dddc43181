"""A scenario with a pair reads in a few lines, and repeats itself."""

from __future__ import annotations

import pytest

from minicoap.codec import codes
from minicoap.codec.message import ACK, CON
from minicoap.core.request import Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.errors import RequestTimeout
from minicoap.simulate.link import Link
from minicoap.simulate.pair import Pair

BODY = bytes(range(256)) * 40


def site() -> Site:
    return Site(
        Resource("/time", get=lambda request: Response(payload=b"noon")),
        Resource("/body", get=lambda request: Response(payload=BODY)),
    )


def test_request_is_answered_in_one_round_trip() -> None:
    pair = Pair(site(), link=Link(delay=0.1))
    assert pair.request(codes.GET, "time").text == "noon"
    assert pair.world.now == pytest.approx(0.2)
    assert [(sender, message.type) for sender, message in pair.messages()] == [("client", CON), ("server", ACK)]


def test_lost_request_is_repeated_and_handled_once() -> None:
    handled = []

    def count(request: Request) -> Response:
        handled.append(request.now)
        return Response(codes.CHANGED)

    pair = Pair(Site(Resource("/count", post=count)))
    acknowledgements = iter([False, True])
    pair.back.admits = lambda data: next(acknowledgements)
    assert pair.request(codes.POST, "count").code == codes.CHANGED
    assert len(handled) == 1
    assert 2.0 <= pair.world.now <= 3.1


def test_silence_is_an_outcome() -> None:
    pair = Pair(site())
    pair.there.up = False
    assert isinstance(pair.outcome(codes.GET, "time"), RequestTimeout)
    assert 62.0 <= pair.world.now <= 93.0


@pytest.mark.parametrize("seed", range(5))
def test_body_comes_whole_through_a_bad_link_and_the_same_way_each_time(seed: int) -> None:
    digests = []
    for _ in range(2):
        pair = Pair(site(), seed=seed, link=Link(loss=0.2, duplicate=0.1, delay=0.05, jitter=0.2))
        assert pair.request(codes.GET, "body").body == BODY
        digests.append(pair.world.digest)
    assert digests[0] == digests[1]


def test_rebooted_server_answers_further_requests() -> None:
    pair = Pair(site())
    pair.request(codes.GET, "time")
    pair.server_host.crash()
    outcomes = pair.start(codes.GET, "time")
    pair.world.run_for(1.0)
    assert outcomes == []
    pair.server_host.boot(type(pair.server)(pair.world.entropy("second life"), site=site()))
    pair.world.run_for(10.0)
    assert [outcome.text for outcome in outcomes if isinstance(outcome, Response)] == ["noon"]
