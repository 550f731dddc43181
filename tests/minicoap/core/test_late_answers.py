"""Answers that come later: piggybacked if they come soon, else separate (RFC 7252 §5.2.2), on either side."""

from __future__ import annotations

import logging

import pytest

from minicoap.codec import codes
from minicoap.codec.message import CON, NON, encode
from minicoap.core.parameters import Limits
from minicoap.core.request import Deferred, Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.simulate.link import Link
from minicoap.simulate.pair import Pair
from tests.minicoap.core.handlers import Counter, Later
from tests.minicoap.core.solo import (
    ABROAD,
    LIFETIME,
    NON_LIFETIME,
    PEER,
    Solo,
    ack,
    con,
    empty_ack,
    message,
    non,
    reset,
)

# On the server's side


@pytest.mark.parametrize("code", [codes.GET, codes.POST])
def test_answer_that_comes_soon_is_piggybacked(code: int) -> None:
    later = Later()
    solo = Solo(later.site())
    request = con(code, 5, b"t", "later")
    assert solo.put(request) == []
    assert solo.put(request) == []  # a repetition while the answer is pending: silence
    solo.pass_time(0.9)
    later.deferred[0].resolve(Response(codes.CHANGED, b"done"), solo.now)
    assert solo.sent() == [ack(codes.CHANGED, request, payload=b"done")]
    assert len(later.deferred) == 1
    assert solo.forgets_everything()


def test_answer_given_before_the_handler_returns_is_piggybacked_and_remembered() -> None:
    calls = []

    def handle(request: Request) -> Deferred:
        calls.append(request)
        deferred = request.defer()
        deferred.resolve(Response(codes.CHANGED, b"%d" % len(calls)), request.now)
        return deferred

    solo = Solo(Site(Resource("/x", post=handle)))
    request = con(codes.POST, 5, b"t", "x")
    assert solo.put(request) == solo.put(request) == [ack(codes.CHANGED, request, payload=b"1")]
    assert solo.core.footprint()["pending"] == 0


@pytest.mark.parametrize("code", [codes.GET, codes.POST])
def test_answer_that_comes_late_follows_an_empty_acknowledgement(code: int) -> None:
    later = Later()
    solo = Solo(later.site())
    request = con(code, 5, b"t", "later")
    solo.put(request)
    assert solo.pass_time(10.0) == [(1001.0, empty_ack(request))]
    assert solo.put(request) == [empty_ack(request)]  # its acknowledgement was lost
    later.deferred[0].resolve(Response(codes.CHANGED, b"done"), solo.now)
    (separate,) = solo.sent()
    assert (separate.type, separate.code, separate.token, separate.payload) == (CON, codes.CHANGED, b"t", b"done")
    assert [encode(again) for _, again in solo.pass_time(5.0)] == [encode(separate)]
    solo.put(empty_ack(separate))
    assert solo.pass_time(100.0) == []
    assert len(later.deferred) == 1
    assert solo.forgets_everything()


def test_repeated_request_whose_late_answer_was_sent_is_acknowledged_and_not_carried_out_again() -> None:
    later = Later()
    solo = Solo(later.site())
    request = con(codes.POST, 5, b"t", "later")
    solo.put(request)
    solo.pass_time(5.0)
    later.deferred[0].resolve(Response(codes.CHANGED), solo.now)
    (separate,) = solo.sent()
    assert solo.put(request) == [empty_ack(request)]
    solo.put(empty_ack(separate))
    assert solo.put(request) == [empty_ack(request)]
    assert len(later.deferred) == 1
    solo.put(con(codes.POST, 5, b"other", "later"))
    assert len(later.deferred) == 2


def test_request_answered_late_leaves_no_more_than_its_token_behind() -> None:
    later = Later()
    solo = Solo(later.site(), limits=Limits(remembered_answers=100_000))
    for index in range(1000):
        solo.put(con(codes.POST, index, b"t", "later", payload=bytes(1024)))
    solo.pass_time(2.0)
    answers = solo.core._reliability._answers
    assert len(answers._pending) == 1000
    for deferred in later.deferred:
        deferred.resolve(Response(codes.CHANGED), solo.now)
    assert (len(answers._pending), len(answers)) == (0, 1000)
    assert answers._young is not None
    assert len(answers._young.records) <= 40 * 1000


@pytest.mark.parametrize("seconds", [0.0, 0.5, 10.0])
def test_late_answer_to_a_non_confirmable_request_is_non_confirmable(seconds: float) -> None:
    later = Later()
    solo = Solo(later.site())
    request = non(codes.POST, 5, b"t", "later")
    assert solo.put(request) == []
    assert solo.pass_time(seconds) == []
    later.deferred[0].resolve(Response(codes.CHANGED), solo.now)
    (answer,) = solo.sent()
    assert (answer.type, answer.code, answer.token) == (NON, codes.CHANGED, b"t")
    assert solo.put(request) == []
    assert len(later.deferred) == 1
    assert solo.forgets_everything()


def test_too_many_pending_answers_are_refused_for_a_while_and_the_refusal_is_remembered() -> None:
    later = Later()
    solo = Solo(later.site(), limits=Limits(deferred=2))
    for index in range(2):
        solo.put(con(codes.POST, index, b"t", "later"))
    refused = con(codes.POST, 9, b"t", "later")
    (answer,) = solo.put(refused)
    assert (answer.code, answer.options.items) == (codes.SERVICE_UNAVAILABLE, ((14, b"\x05"),))
    later.deferred[0].resolve(Response(codes.CHANGED), solo.now)
    solo.sent()
    assert solo.put(refused) == [answer]  # its client has been told that it was not carried out
    assert len(later.deferred) == 2
    solo.put(con(codes.POST, 10, b"t", "later"))
    assert len(later.deferred) == 3


def test_late_answers_beyond_the_queue_go_unreliably_and_none_is_dropped() -> None:
    later = Later()
    solo = Solo(later.site(), limits=Limits(queued_messages=3))
    for index in range(10):
        solo.put(con(codes.GET, index, b"%d" % index, "later"))
    solo.pass_time(2.0)
    for deferred in later.deferred:
        deferred.resolve(Response(), solo.now)
    sent = solo.sent()
    assert [one.type for one in sent] == [CON] + [NON] * 6
    for _ in range(3):
        sent += solo.put(empty_ack([one for one in sent if one.type == CON][-1]))
    assert sorted(one.token for one in sent) == [b"%d" % index for index in range(10)]


def test_answer_to_a_reused_message_id_does_not_touch_what_the_later_request_was_answered() -> None:
    later, counter = Later(), Counter()
    site = Site(Resource("/later", get=later.handle), Resource("/counter", post=counter.handle))
    solo = Solo(site)
    solo.put(con(codes.GET, 5, b"a", "later"))
    request = con(codes.POST, 5, b"b", "counter")
    solo.put(request)
    later.deferred[0].resolve(Response(), solo.now)
    solo.sent()
    assert solo.put(request) == [ack(codes.CHANGED, request, payload=b"1")]
    assert counter.count == 1


# Never answered


@pytest.mark.parametrize(("type", "lifetime"), [(CON, LIFETIME), (NON, NON_LIFETIME)])
def test_request_that_nobody_answers_is_given_up_in_silence_and_said_so(
    type: int, lifetime: float, caplog: pytest.LogCaptureFixture
) -> None:
    later = Later()
    solo = Solo(later.site(), limits=Limits(deferred=1))
    solo.put(message(type, codes.POST, 5, b"t", "later"))
    solo.pass_time(lifetime - 0.1)
    assert solo.core.footprint()["pending"] == 1
    caplog.set_level(logging.WARNING)
    assert solo.pass_time(0.2) == []
    assert solo.core.footprint()["pending"] == 0
    assert "never given" in caplog.text
    (answer,) = solo.put(con(codes.GET, 6, b"t", "missing"))  # there is room again
    assert answer.code == codes.NOT_FOUND
    later.deferred[0].resolve(Response(codes.CHANGED), solo.now)
    assert solo.sent() == []
    assert solo.forgets_everything()


def test_refusal_that_is_late_is_sent_as_reliably_as_any_answer() -> None:
    later = Later()
    solo = Solo(later.site())
    solo.put(con(codes.GET, 5, b"t", "later"), ABROAD)
    solo.pass_time(2.0)
    later.deferred[0].resolve(Response(codes.UNAUTHORIZED, b"who are you?"), solo.now)
    (answer,) = solo.sent()
    assert (answer.type, answer.code) == (CON, codes.UNAUTHORIZED)


# On the client's side


def test_separate_response_is_acknowledged_each_time_and_taken_once() -> None:
    solo = Solo()
    outcomes = solo.request(codes.GET, "x")
    (sent,) = solo.sent()
    solo.put(empty_ack(sent))
    separate = message(CON, codes.CONTENT, 99, sent.token, payload=b"late")
    assert [solo.put(separate) for _ in range(3)] == [[empty_ack(separate)]] * 3
    assert [outcome.text for outcome in outcomes if isinstance(outcome, Response)] == ["late"]
    assert solo.forgets_everything()


def test_separate_response_stands_for_the_lost_acknowledgement() -> None:
    solo = Solo()
    outcomes = solo.request(codes.GET, "x")
    (sent,) = solo.sent()
    separate = message(CON, codes.CONTENT, 99, sent.token)
    assert solo.put(separate) == [empty_ack(separate)]
    assert len(outcomes) == 1
    assert solo.pass_time(100.0) == []


def test_separate_response_to_a_cancelled_request_is_rejected() -> None:
    solo = Solo()
    transfer = solo.core.request(codes.GET, PEER, lambda _: None, solo.now)
    (sent,) = solo.sent()
    transfer.cancel(solo.now)
    separate = message(CON, codes.CONTENT, 99, sent.token)
    assert [solo.put(separate) for _ in range(2)] == [[reset(separate)]] * 2


@pytest.mark.parametrize("lost", [(), (0,), (1,), (2,), (3,), (0, 1), (0, 1, 2, 3)])
@pytest.mark.parametrize("side", ["there", "back"])
def test_deferred_post_is_carried_out_once_whichever_datagrams_are_lost(side: str, lost: tuple[int, ...]) -> None:
    later = Later()
    pair = Pair(later.site())
    seen: list[bytes] = []

    def admits(data: bytes) -> bool:
        seen.append(data)
        return len(seen) - 1 not in lost

    getattr(pair, side).admits = admits
    outcomes = pair.start(codes.POST, "later")
    pair.world.run_until(lambda: bool(later.deferred))
    pair.server_host.call_later(3.0, lambda: later.deferred[0].resolve(Response(codes.CHANGED), pair.world.now))
    pair.world.run_for(240.0)
    assert [type(outcome) for outcome in outcomes] == [Response]
    assert len(later.deferred) == 1
    pair.world.run_for(4 * LIFETIME)
    assert not any([*pair.client.footprint().values(), *pair.server.footprint().values()])


def test_post_is_carried_out_once_though_every_datagram_comes_twice() -> None:
    counter = Counter()
    pair = Pair(counter.site(), link=Link(duplicate=1.0, jitter=2.0))
    for index in range(50):
        assert pair.request(codes.POST, "counter").text == str(index + 1)
    pair.world.run_for(10.0)
    assert counter.count == 50


def test_request_with_message_id_and_token_of_a_response_taken_before_is_a_request() -> None:
    counter = Counter()
    solo = Solo(counter.site())
    solo.request(codes.GET, "x")
    (sent,) = solo.sent()
    solo.put(message(CON, codes.CONTENT, 99, sent.token))
    request = con(codes.POST, 99, sent.token, "counter")
    assert solo.put(request) == [ack(codes.CHANGED, request, payload=b"1")]
