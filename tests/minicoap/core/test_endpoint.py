"""The endpoint as a whole: whatever arrives, it neither fails nor keeps anything for ever."""

from __future__ import annotations

from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicoap.codec import codes
from minicoap.codec.message import Message, Options, encode
from minicoap.codec.options import BLOCK1
from minicoap.core.endpoint import EndpointCore
from minicoap.core.parameters import Limits, TransmissionParameters
from minicoap.core.request import Deferred, Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.errors import NetworkError, UsageError
from minicoap.simulate.entropy import SeededEntropy
from minicoap.simulate.pair import Pair
from tests.minicoap.core.solo import OTHER, PEER, Solo, con, empty_ack
from tests.minicoap.core.test_block_server import RecordingSink

LIMITS = Limits(peers=4, queued_messages=3, remembered_answers=20, deferred=3, open_bodies=3, open_body_bytes=4096)


class Everything:
    """A site with a resource of each kind, whose deferred answers the test gives."""

    def __init__(self) -> None:
        self.deferred: list[Deferred] = []
        self.sinks: list[RecordingSink] = []

    def later(self, request: Request) -> Deferred:
        self.deferred.append(request.defer())
        return self.deferred[-1]

    def open(self, request: Request) -> RecordingSink:
        self.sinks.append(RecordingSink())
        return self.sinks[-1]

    def resolve_all(self, now: float) -> None:
        for answer in [*self.deferred, *(sink.answer for sink in self.sinks if sink.answer is not None)]:
            if answer.response is None:
                answer.resolve(Response(payload=bytes(2000)), now)

    def site(self) -> Site:
        def echo(request: Request) -> Response:
            return Response(payload=request.payload or bytes(3000))

        return Site(
            Resource("/a", get=echo, post=echo, put=echo, fetch=echo, conditional=True),
            Resource("/b", get=self.later, post=self.later),
            Resource("/c", upload=self.open),
            Resource("/{d}/{e}", get=echo, delete=echo, content_formats=(0,)),
            lenient_paths=True,
        )


OPTIONS = st.tuples(
    st.sampled_from(
        [1, 3, 4, 5, 6, 7, 9, 11, 11, 11, 12, 14, 15, 17, 23, 23, 27, 27, 28, 35, 60, 252, 258, 292, 65535]
    ),
    st.one_of(
        st.sampled_from([b"", b"a", b"b", b"c", b"\x06", b"\x08", b"\x0e", b"\x16", b"\x1e"]), st.binary(max_size=10)
    ),
)
MESSAGES = st.builds(
    lambda type, code, message_id, token, options, payload: encode(
        Message(type, code, message_id, token, Options(options), payload) if code else Message(type, 0, message_id)
    ),
    st.integers(0, 3),
    st.one_of(st.sampled_from([0, 1, 2, 3, 4, 5, 0x45, 0x5F, 0x80, 0xE1]), st.integers(0, 255)),
    st.integers(0, 5),
    st.sampled_from([b"", b"t", b"12345678"]),
    st.lists(OPTIONS, max_size=5),
    st.one_of(st.sampled_from([b"", bytes(16), bytes(1024)]), st.binary(max_size=30)),
)
EVENTS = st.one_of(
    st.tuples(st.just("datagram"), st.one_of(MESSAGES, MESSAGES, st.binary(max_size=40)), st.integers(0, 5)),
    st.tuples(st.just("answer"), st.integers(0x41, 0xBF), st.lists(OPTIONS, max_size=3)),
    st.tuples(st.just("request"), st.sampled_from([0, 16, 3000]), st.booleans()),
    st.tuples(st.just("time"), st.sampled_from([0.5, 3.0, 40.0, 300.0]), st.none()),
    st.tuples(st.just("resolve"), st.none(), st.none()),
    st.tuples(st.just("fail"), st.none(), st.none()),
)


@given(st.lists(EVENTS, max_size=40))
def test_endpoint_survives_whatever_happens_and_forgets_it(events: list[Any]) -> None:
    everything, outcomes, started = Everything(), [], 0
    solo = Solo(everything.site(), limits=LIMITS)
    last_sent: list[Message] = []
    for what, one, other in events:
        if what == "datagram":
            last_sent = solo.put(one, ("host", other)) or last_sent
        elif what == "answer" and last_sent:
            reply = last_sent[-1]
            message = Message(2, one, reply.message_id, reply.token, Options(other), bytes(16))
            last_sent = solo.put(message) or last_sent
        elif what == "request":
            try:
                solo.core.request(codes.POST, PEER, outcomes.append, solo.now, payload=bytes(one), confirmable=other)
                started += 1
            except NetworkError as error:
                assert "see Limits" in str(error)
            last_sent = solo.sent() or last_sent
        elif what == "time":
            solo.pass_time(one)
        elif what == "resolve":
            everything.resolve_all(solo.now)
        elif what == "fail":
            solo.core.path_failed(PEER, OSError(111, "Connection refused"), solo.now)
        footprint = solo.core.footprint()
        assert footprint["peers"] <= LIMITS.peers
        assert footprint["remembered"] <= LIMITS.remembered_answers
        assert footprint["pending"] <= LIMITS.deferred
        assert footprint["bodies"] <= LIMITS.open_bodies
    everything.resolve_all(solo.now)
    assert solo.forgets_everything()
    everything.resolve_all(solo.now)
    assert solo.forgets_everything(), solo.core.footprint()
    assert len(outcomes) == started
    assert all(len(sink.log) == 1 for sink in everything.sinks)


def test_download_keeps_no_timer_for_each_of_its_blocks() -> None:
    """Cancelled timers must not wait for their time behind one that runs."""
    pair = Pair(Site(Resource("/x", get=lambda _: Response(payload=bytes(1 << 20)))))
    assert len(pair.request(codes.GET, "x").body) == 1 << 20
    for endpoint in (pair.client, pair.server):
        slots = [queue.timers for queue in endpoint._timers._queues.values()] + [endpoint._timers._heap]
        assert all(len(timers) <= 128 for timers in slots)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ack_timeout": 0.0, "congestion_controlled": True},
        {"ack_random_factor": 0.9},
        {"max_retransmit": -1},
        {"nstart": 0},
        {"probing_rate": 0.0},
        {"default_leisure": -1.0},
        {"max_latency": -1.0},
        {"nstart": 2},
        {"ack_timeout": 1.9},
    ],
)
def test_parameters_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        EndpointCore(SeededEntropy(1, "x"), parameters=TransmissionParameters(**wrong))


def test_new_endpoint_waits_for_nothing_and_holds_nothing() -> None:
    solo = Solo()
    assert (solo.core.next_timeout(), solo.core.datagrams_to_send(), solo.is_empty()) == (None, [], True)


def test_outbox_is_emptied_by_taking_it() -> None:
    solo = Solo()
    solo.request(codes.GET)
    solo.request(codes.GET, path=OTHER)
    assert [path for _, path in solo.core.datagrams_to_send()] == [PEER, OTHER]
    assert solo.core.datagrams_to_send() == []


def test_endpoint_is_client_and_server_at_once() -> None:
    """A handler that asks back before it answers."""
    pair = Pair(Site())

    def ask_back(request: Request) -> Deferred:
        answer = request.defer()

        def done(outcome: Any) -> None:
            answer.resolve(Response(payload=b"you said " + outcome.payload), pair.world.now)

        pair.server.request(codes.GET, request.path, done, request.now, uri_path=["name"])
        return answer

    pair.server.site.add(Resource("/greet", get=ask_back))
    pair.client.site.add(Resource("/name", get=lambda _: Response(payload=b"client")))
    assert pair.request(codes.GET, "greet").text == "you said client"


def test_who_has_answered_since_when_is_known() -> None:
    """Of a host's several addresses the next one is not tried then (`minicoap.asyncio.reach`)."""
    solo = Solo()
    solo.request(codes.GET, "x")
    (sent,) = solo.sent()
    began = solo.now
    solo.now += 1.0
    solo.put(empty_ack(sent))
    assert not solo.core.has_answered(PEER, began)
    solo.put(con(codes.CONTENT, 9, sent.token))
    assert solo.core.has_answered(PEER, began)
    assert solo.core.has_answered(PEER, solo.now)
    assert not solo.core.has_answered(PEER, solo.now + 0.1)
    assert not solo.core.has_answered(OTHER, began)


@pytest.mark.parametrize(("szx", "asked"), [(None, 2), (6, 2), (2, 2), (1, 1)])
def test_endpoint_with_small_blocks_asks_for_no_larger_ones(szx: Optional[int], asked: int) -> None:
    solo = Solo(limits=Limits(block_szx=2))
    solo.request(codes.PUT, "x", szx=szx, payload=bytes(200))
    (sent,) = solo.sent()
    assert len(sent.payload) == 16 << asked
    assert sent.options.uint(BLOCK1) == 8 | asked
