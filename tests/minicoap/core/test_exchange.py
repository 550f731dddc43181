"""Requests and responses: which belongs to which, and what a handler's failure leads to (RFC 7252 §5)."""

from __future__ import annotations

import logging
from typing import Any, Optional

import pytest

from minicoap.codec import codes
from minicoap.codec.message import ACK, CON, NON
from minicoap.core.parameters import TransmissionParameters
from minicoap.core.request import Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.errors import NetworkError, OptionError, PeerError, RequestTimeout, UsageError
from minicoap.simulate.link import Link
from minicoap.simulate.pair import Pair
from tests.minicoap.core.solo import LIFETIME, OTHER, PEER, Solo, ack, con, empty_ack, message, non, reset


def test_response_is_matched_by_token_and_by_where_it_comes_from() -> None:
    solo = Solo(parameters=TransmissionParameters(nstart=2, congestion_controlled=True))
    first, second = solo.request(codes.GET), solo.request(codes.GET)
    one, other = solo.sent()
    assert one.token != other.token
    assert len(one.token) == 4
    assert solo.put(non(codes.CONTENT, 1, other.token), OTHER) == []
    assert solo.put(non(codes.CONTENT, 1, other.token[:3])) == []
    assert (first, second) == ([], [])
    solo.put(non(codes.CONTENT, 2, other.token, payload=b"second"))
    solo.put(non(codes.CONTENT, 3, one.token, payload=b"first"))
    assert [outcome.text for outcome in (*first, *second) if isinstance(outcome, Response)] == ["first", "second"]


def test_confirmable_response_from_a_stranger_is_rejected_and_costs_nothing() -> None:
    solo = Solo()
    outcomes = solo.request(codes.GET)
    (sent,) = solo.sent()
    forged = con(codes.CONTENT, 9, sent.token)
    assert solo.put(forged, OTHER) == [reset(forged)]
    assert outcomes == []
    assert solo.core.footprint()["peers"] == 1


@pytest.mark.parametrize(("type", "answers"), [(ACK, 0), (CON, 1), (NON, 0)])
@pytest.mark.parametrize("options", [((1235, b"x"),), ((9, b""),), ((23, b"1234"),), ((3, b"a"), (3, b"b"))])
def test_response_with_a_critical_option_that_is_not_understood_is_rejected(
    type: int, answers: int, options: tuple[tuple[int, bytes], ...]
) -> None:
    solo = Solo()
    outcomes = solo.request(codes.GET)
    (sent,) = solo.sent()
    response = message(type, codes.CONTENT, sent.message_id, sent.token, options=options)
    assert solo.put(response) == [reset(response)] * answers
    assert [isinstance(outcome, PeerError) for outcome in outcomes] == [True]
    assert solo.pass_time(100.0) == []


def test_repeated_piggybacked_response_is_taken_once() -> None:
    solo = Solo()
    outcomes = solo.request(codes.GET)
    (sent,) = solo.sent()
    for _ in range(3):
        assert solo.put(ack(codes.CONTENT, sent)) == []
    assert len(outcomes) == 1
    assert solo.forgets_everything()


@pytest.mark.parametrize(
    ("arguments", "acknowledged", "seconds"),
    [
        ({}, False, None),  # the message layer gives up first
        ({}, True, LIFETIME),
        ({"timeout": 10.0}, False, 10.0),
        ({"timeout": 10.0}, True, 10.0),
        ({"timeout": 500.0}, True, 500.0),
        ({"confirmable": False}, False, 93.0),
        ({"confirmable": False, "timeout": 3.0}, False, 3.0),
    ],
)
def test_request_without_response_ends_in_time(
    arguments: dict[str, Any], acknowledged: bool, seconds: Optional[float]
) -> None:
    solo = Solo()
    outcomes = solo.request(codes.GET, **arguments)
    (sent,) = solo.sent()
    if acknowledged:
        solo.put(empty_ack(sent))
    if seconds is not None:
        solo.pass_time(seconds - 0.001)
        assert outcomes == []
        solo.pass_time(0.002)
    else:
        solo.pass_time(93.0)
    assert [type(outcome) for outcome in outcomes] == [RequestTimeout]
    assert solo.forgets_everything()


def test_non_confirmable_request_is_sent_once_and_answered_by_a_non_confirmable_response() -> None:
    pair = Pair(Site(Resource("/x", get=lambda _: Response(payload=b"here"))))
    assert pair.request(codes.GET, "x", confirmable=False).text == "here"
    pair.world.run_for(100.0)
    assert [(sender, one.type) for sender, one in pair.messages()] == [("client", NON), ("server", NON)]


def test_many_requests_under_way_each_get_their_own_response() -> None:
    site = Site(Resource("/echo/{text}", get=lambda request: Response(payload=request.args["text"].encode())))
    pair = Pair(site, link=Link(jitter=1.0))
    all_outcomes = [pair.start(codes.GET, "echo", str(index), confirmable=index % 2 == 0) for index in range(60)]
    pair.world.run_for(200.0)
    assert [outcomes[0].text for outcomes in all_outcomes] == [str(index) for index in range(60)]  # type: ignore[union-attr]


@pytest.mark.parametrize("acknowledged", [False, True])
def test_cancelled_request_is_not_told_anything_and_leaves_nothing(acknowledged: bool) -> None:
    solo, outcomes = Solo(), []
    transfer = solo.core.request(codes.GET, PEER, outcomes.append, solo.now)
    (sent,) = solo.sent()
    if acknowledged:
        solo.put(empty_ack(sent))
    transfer.cancel(solo.now)
    transfer.cancel(solo.now)
    assert transfer.is_done
    solo.put(ack(codes.CONTENT, sent))
    assert solo.pass_time(500.0) == []
    assert outcomes == []
    assert solo.forgets_everything()


# Handlers that fail


def raises(error: Exception) -> Any:
    def handle(request: Request) -> Response:
        raise error

    return handle


@pytest.mark.parametrize(
    ("handler", "code"),
    [
        (raises(ValueError("broken")), codes.INTERNAL_SERVER_ERROR),
        (raises(OSError(5, "I/O error")), codes.INTERNAL_SERVER_ERROR),
        (raises(OptionError("no", codes.BAD_REQUEST)), codes.BAD_REQUEST),
        (lambda request: None, codes.INTERNAL_SERVER_ERROR),
        (lambda request: Response(payload="text"), codes.INTERNAL_SERVER_ERROR),
        (lambda request: Response(options=((70_000, b""),)), codes.INTERNAL_SERVER_ERROR),
        (lambda request: Response(etag=b"123456789"), codes.INTERNAL_SERVER_ERROR),
        (lambda request: Response(payload=request.query[0].encode()), codes.BAD_REQUEST),
    ],
)
def test_handler_that_fails_is_answered_for_and_the_endpoint_goes_on(
    handler: Any, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    solo = Solo(Site(Resource("/x", get=handler, post=handler)))
    (answer,) = solo.put(con(codes.GET, 1, b"t", "x", options=((15, b"\xff"),)))
    assert (answer.type, answer.code) == (ACK, code)
    assert [one.code for one in solo.put(con(codes.POST, 2, b"t", "x", options=((15, b"\xff"),)))] == [code]


def test_deferred_answer_can_be_given_once_only() -> None:
    deferred = Request(codes.GET, PEER, con(codes.GET, 1).options, b"", 0.0).defer()
    deferred.resolve(Response(), 1.0)
    with pytest.raises(UsageError, match="before"):
        deferred.resolve(Response(), 2.0)


def test_deferred_answer_whose_body_cannot_be_read_is_an_internal_error() -> None:
    class Broken:
        size = 5000
        etag = None

        def read_at(self, offset: int, length: int) -> bytes:
            raise OSError(5, "I/O error")

    kept: list[Any] = []

    def handle(request: Request) -> Any:
        kept.append(request.defer())
        return kept[-1]

    solo = Solo(Site(Resource("/x", get=handle)))
    solo.put(con(codes.GET, 1, b"t", "x"))
    kept[0].resolve(Response(payload=Broken()), solo.now)
    assert [one.code for one in solo.sent()] == [codes.INTERNAL_SERVER_ERROR]


def test_request_while_one_is_answered_gets_through() -> None:
    """`done` may start the next request."""
    site = Site(Resource("/x", get=lambda _: Response(payload=b"x")))
    pair, outcomes = Pair(site), []

    def again(outcome: Any) -> None:
        outcomes.append(outcome)
        if len(outcomes) < 10:
            pair.client.request(codes.GET, pair.server_host.address, again, pair.world.now, uri_path=["x"])

    again(NetworkError("start"))
    pair.client_host.wake()
    pair.world.run_for(10.0)
    assert [outcome.text for outcome in outcomes[1:]] == ["x"] * 9
