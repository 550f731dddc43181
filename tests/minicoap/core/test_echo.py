"""Echo: requests shown to be fresh, and addresses shown to be real before much is sent there (RFC 9175 §2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import pytest

from minicoap.codec import codes
from minicoap.codec.message import ACK, CON, NON, Message, Options
from minicoap.codec.options import BLOCK1, BLOCK2, ECHO, ETAG
from minicoap.core.body import BytesSource
from minicoap.core.echo import Echo
from minicoap.core.parameters import Limits
from minicoap.core.request import Path, Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.simulate.entropy import SeededEntropy
from minicoap.simulate.pair import Pair
from tests.minicoap.core.handlers import Counter, Later
from tests.minicoap.core.observing import State, register
from tests.minicoap.core.solo import ABROAD, LIFETIME, PEER, Solo, ack, con, empty_ack, message, non

OTHER_PORT = (ABROAD[0], 9999)


def value_of(answer: Message) -> bytes:
    value = answer.options.get(ECHO)
    assert value is not None
    assert 1 <= len(value) <= 40
    return value


# The value


@pytest.mark.parametrize(
    ("change", "age"),
    [
        (lambda value: value, 10.0),
        (lambda value: value[:-1] + bytes((value[-1] ^ 1,)), None),
        (lambda value: bytes((value[0] ^ 1,)) + value[1:], None),
        (lambda value: value[:5], None),
        (lambda value: value[:4], None),
        (lambda value: value + b"x", None),
    ],
)
def test_value_is_recognised_and_none_that_was_changed(change: Callable[[bytes], bytes], age: Optional[float]) -> None:
    echo = Echo(SeededEntropy(1, "x"), 100.0)
    value = change(echo.value(ABROAD, 50.0))
    assert echo.age(value, ABROAD, 60.0) == age


def test_value_is_worth_nothing_to_another_address_or_another_endpoint_or_later() -> None:
    echo = Echo(SeededEntropy(1, "x"), 100.0)
    value = echo.value(ABROAD, 50.0)
    assert echo.age(value, ABROAD, 150.0) == 100.0
    assert echo.age(value, ABROAD, 150.1) is None
    assert echo.age(value, ABROAD, 49.9) is None
    for path in (OTHER_PORT, ("192.0.2.2", ABROAD[1])):
        assert echo.age(value, path, 60.0) is None
    assert Echo(SeededEntropy(2, "x"), 100.0).age(value, ABROAD, 60.0) is None


# Freshness


def fresh_counter(**more: Any) -> tuple[Counter, Site]:
    counter = Counter()
    handle = counter.handle
    return counter, Site(Resource("/lock", get=handle, fetch=handle, post=handle, put=handle, fresh=30.0, **more))


@pytest.mark.parametrize("code", [codes.POST, codes.PUT])
@pytest.mark.parametrize("type", [CON, NON])
def test_request_is_carried_out_when_it_brings_back_a_value_that_is_young_enough(type: int, code: int) -> None:
    counter, site = fresh_counter()
    solo = Solo(site)
    (refusal,) = solo.put(message(type, code, 1, b"t", "lock"))
    assert (refusal.code, counter.count) == (codes.UNAUTHORIZED, 0)
    solo.pass_time(29.9)
    echo = ((ECHO, value_of(refusal)),)
    (answer,) = solo.put(message(type, code, 2, b"t", "lock", options=echo))
    assert (answer.code, counter.count) == (codes.CHANGED, 1)
    solo.pass_time(0.2)
    (refusal,) = solo.put(message(type, code, 3, b"t", "lock", options=echo))
    assert (refusal.code, counter.count) == (codes.UNAUTHORIZED, 1)
    assert value_of(refusal) != echo[0][1]


def test_request_that_only_reads_need_not_be_fresh() -> None:
    _, site = fresh_counter()
    solo = Solo(site)
    for number, code in enumerate((codes.GET, codes.FETCH)):
        assert solo.put(con(code, number, b"t", "lock"))[0].code == codes.CHANGED


def test_handler_may_ask_for_freshness_itself() -> None:
    ages = []

    def handle(request: Request) -> Response:
        ages.append(request.age)
        return Response() if request.age is not None else request.challenge()

    pair = Pair(Site(Resource("/x", get=handle)))
    assert pair.request(codes.GET, "x").code == codes.CONTENT
    assert ages[0] is None
    assert ages[1] is not None
    assert 0.0 <= ages[1] < 1.0


@pytest.mark.parametrize("size", [10, 1024, 1025, 5000])
def test_client_repeats_a_refused_request_of_any_size_once(size: int) -> None:
    bodies = []

    def handle(request: Request) -> Response:
        bodies.append(request.payload)
        return Response(codes.CHANGED)

    pair = Pair(Site(Resource("/lock", post=handle, fresh=30.0)))
    body = bytes(range(256)) * 20
    assert pair.request(codes.POST, "lock", payload=body[:size]).code == codes.CHANGED
    assert bodies == [body[:size]]


def test_body_streamed_to_a_sink_is_as_fresh_as_its_first_block() -> None:
    answers = []

    class Sink:
        def write_at(self, offset: int, data: bytes) -> None:
            answers.append(offset)

        def finish(self, answer: Any) -> None:
            answer.resolve(Response(codes.CHANGED), 0.0)

        def abort(self, reason: str) -> None:
            answers.append(reason)

    pair = Pair(Site(Resource("/lock", upload=lambda _: Sink(), fresh=30.0)))
    assert pair.request(codes.PUT, "lock", payload=bytes(3000)).code == codes.CHANGED
    assert answers == [0, 1024, 2048]


def test_client_that_is_refused_again_gets_to_know_that() -> None:
    pair = Pair(Site(Resource("/x", get=lambda request: request.challenge())))
    outcome = pair.request(codes.GET, "x")
    assert outcome.code == codes.UNAUTHORIZED
    assert [sender for sender, _ in pair.messages()] == ["client", "server"] * (1 + 5)


def test_client_brings_a_value_back_in_its_next_request_to_that_server_and_to_no_other() -> None:
    solo = Solo()
    outcomes = solo.request(codes.GET)
    (sent,) = solo.sent()
    solo.put(ack(codes.CONTENT, sent, options=((ECHO, b"value"),)))
    assert len(outcomes) == 1
    solo.request(codes.GET, path=ABROAD)
    (elsewhere,) = solo.sent()
    solo.request(codes.GET)
    (there,) = solo.sent()
    solo.put(ack(codes.CONTENT, there))
    solo.request(codes.GET)
    (later,) = solo.sent()
    assert [one.options.get(ECHO) for one in (elsewhere, there, later)] == [None, b"value", None]


@pytest.mark.parametrize("type", [ACK, CON, NON])
def test_repeated_request_has_another_token_and_the_whole_of_the_first(type: int) -> None:
    solo = Solo()
    outcomes = solo.request(codes.POST, "x", payload=b"body", content_format=0, query=["a=b"])
    (first,) = solo.sent()
    refusal = message(type, codes.UNAUTHORIZED, first.message_id, first.token, options=((ECHO, b"value"),))
    second = solo.put(refusal)[0]  # before the refusal is acknowledged, if it has to be
    assert second.options.items == (*first.options.items, (ECHO, b"value"))
    assert (second.code, second.payload) == (first.code, first.payload)
    assert second.token != first.token
    assert outcomes == []
    solo.put(ack(codes.CHANGED, second))
    assert len(outcomes) == 1
    assert solo.forgets_everything()


# Amplification


def pages(size: int) -> Site:
    body = bytes(range(251)) * (size // 251 + 1)
    page = Response(payload=body[:size], etag=b"page")
    return Site(
        Resource("/page", get=lambda _: page, fetch=lambda _: page, post=lambda _: page, put=lambda _: page),
        Resource("/source", get=lambda _: Response(payload=BytesSource(body[:size]))),
    )


@pytest.mark.parametrize("type", [CON, NON])
@pytest.mark.parametrize("code", [codes.GET, codes.FETCH])
@pytest.mark.parametrize(
    ("size", "path", "limits", "asks_back"),
    [
        (110, ABROAD, Limits(), False),
        (136, ABROAD, Limits(), True),
        (1000, ABROAD, Limits(), True),
        (5000, ABROAD, Limits(), True),
        (5000, ABROAD, Limits(amplification=0), False),
        *[(5000, (host, 5683), Limits(), False) for host in ("127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1")],
        *[(5000, (host, 5683), Limits(), True) for host in ("::2", "12.0.0.1", "::ffff:12.0.0.1", "fe80::1%eth0")],
    ],
)
def test_large_answer_goes_only_to_who_has_shown_to_be_there(
    type: int, code: int, size: int, path: Path, limits: Limits, asks_back: bool
) -> None:
    solo = Solo(pages(size), limits=limits)
    (answer,) = solo.put(message(type, code, 1, b"t", "page"), path)
    assert answer.type == (ACK if type == CON else NON)
    if not asks_back:
        assert answer.code == codes.CONTENT
        return
    assert (answer.code, answer.payload) == (codes.UNAUTHORIZED, b"")
    again = message(type, code, 2, b"t", "page", options=((ECHO, value_of(answer)),))
    assert solo.put(again, OTHER_PORT)[0].code == codes.UNAUTHORIZED
    assert solo.put(again, path)[0].code == codes.CONTENT
    assert solo.put(message(type, code, 3, b"t", "page"), path)[0].code == codes.CONTENT  # once is enough
    assert solo.put(message(type, code, 4, b"t", "page"), OTHER_PORT)[0].code == codes.UNAUTHORIZED


def test_answer_may_have_three_times_the_bytes_of_its_request() -> None:
    solo = Solo(Site(Resource("/x", fetch=lambda request: Response(payload=bytes(int(request.query[0]))))))

    def code(payload: int, wanted: int) -> str:
        request = con(codes.FETCH, 1, b"t", "x", options=((15, b"%d" % wanted),), payload=bytes(payload))
        return codes.code_text(solo.put(request, ABROAD)[0].code)

    asked = 4 + 1 + 2 + 4 + 100  # without the marker, which counts for the answer
    assert code(100, 3 * asked - 6) == "2.05"
    assert code(100, 3 * asked - 5) == "4.01"


def test_who_has_answered_a_request_of_ours_is_where_it_says() -> None:
    solo = Solo(pages(1000))
    solo.request(codes.GET, path=ABROAD)
    (sent,) = solo.sent()
    solo.put(ack(codes.CONTENT, sent), OTHER_PORT)
    assert solo.put(con(codes.GET, 1, b"t", "page"), ABROAD)[0].code == codes.UNAUTHORIZED
    solo.put(ack(codes.CONTENT, sent), ABROAD)
    assert solo.put(con(codes.GET, 2, b"t", "page"), ABROAD)[0].code == codes.CONTENT
    solo.pass_time(3 * LIFETIME)
    assert solo.put(con(codes.GET, 3, b"t", "page"), ABROAD)[0].code == codes.UNAUTHORIZED


@pytest.mark.parametrize("number", [1, 4])
@pytest.mark.parametrize("path", ["page", "source"])
def test_further_block_is_not_had_by_asking_for_it_alone(number: int, path: str) -> None:
    solo = Solo(pages(5000))
    block = ((BLOCK2, bytes((number << 4 | 6,))),)
    assert solo.put(con(codes.GET, 1, b"t", path, options=block), ABROAD)[0].code == codes.UNAUTHORIZED
    small = ((BLOCK2, bytes((number << 4 | 2,))),)
    assert solo.put(con(codes.GET, 2, b"t", path, options=small), ABROAD)[0].code == codes.CONTENT


@pytest.mark.parametrize("size", [200, 1024, 1025, 3000])
@pytest.mark.parametrize("code", [codes.POST, codes.PUT])
def test_what_was_carried_out_is_answered_in_blocks_of_which_none_is_large(code: int, size: int) -> None:
    counter = Counter()

    def handle(request: Request) -> Response:
        counter.handle(request)
        return Response(codes.CHANGED, bytes(range(200)) * (size // 200) + bytes(size % 200), etag=b"e")

    pair = Pair(Site(Resource("/x", post=handle, put=handle)), limits=Limits())
    response = pair.request(codes.POST if code == codes.POST else codes.PUT, "x")
    assert response.body == bytes(range(200)) * (size // 200) + bytes(size % 200)
    assert counter.count == 1
    answers = [datagram for datagram in pair.world.trace if datagram.source[0] == "server"]
    assert len(answers[0].data) <= 136
    assert len(answers) <= 1 + -(-size // 64)


def test_late_answer_asks_back_in_a_message_that_is_not_repeated() -> None:
    later = Later()
    solo = Solo(later.site())
    solo.put(con(codes.GET, 1, b"t", "later"), ABROAD)
    assert [one for _, one in solo.pass_time(2.0)] == [empty_ack(con(codes.GET, 1))]
    later.deferred[0].resolve(Response(payload=bytes(500)), solo.now)
    (challenge,) = solo.sent()
    assert (challenge.type, challenge.code, challenge.token) == (NON, codes.UNAUTHORIZED, b"t")
    assert value_of(challenge)
    assert solo.pass_time(100.0) == []


def test_small_late_answer_goes_as_always() -> None:
    later = Later()
    solo = Solo(later.site())
    solo.put(con(codes.GET, 1, b"t", "later"), ABROAD)
    solo.pass_time(2.0)
    later.deferred[0].resolve(Response(payload=bytes(50)), solo.now)
    (answer,) = solo.sent()
    assert (answer.type, answer.code) == (CON, codes.CONTENT)


@pytest.mark.parametrize("size", [50, 800, 1025, 40_000])
@pytest.mark.parametrize("code", [codes.GET, codes.FETCH, codes.POST])
@pytest.mark.parametrize("confirmable", [True, False])
@pytest.mark.parametrize("payload", [b"", bytes(3000)])
def test_client_notices_nothing(size: int, code: int, confirmable: bool, payload: bytes) -> None:
    body = bytes(range(251)) * 200
    pair = Pair(
        Site(Resource("/x", **{name: lambda _: Response(payload=body[:size]) for name in ("get", "fetch", "post")})),
        limits=Limits(),
    )
    assert pair.request(code, "x", payload=payload, confirmable=confirmable).body == body[:size]
    pair.world.run_for(4 * LIFETIME)
    assert not any([*pair.client.footprint().values(), *pair.server.footprint().values()])


def test_observer_that_has_not_shown_where_it_is_is_none() -> None:
    """Its first notification would be the challenge, and the others would go to whoever is there (RFC 7641 §7)."""
    state = State()
    state.size = 500
    solo = Solo(state.site)
    (answer,) = solo.put(register(1), ABROAD)
    assert answer.code == codes.UNAUTHORIZED
    assert solo.core.footprint()["observers"] == 0
    state.change()
    assert solo.pass_time(1.0) == []
    (answer,) = solo.put(register(2, options=((ECHO, value_of(answer)),)), ABROAD)
    assert (answer.code, solo.core.footprint()["observers"]) == (codes.CONTENT, 1)
    state.change()
    assert len(solo.pass_time(0.0)) == 1


@pytest.mark.parametrize("confirmable", [True, False])
def test_observing_client_shows_where_it_is_by_itself(confirmable: bool) -> None:
    state = State()
    state.size = 3000
    pair, told = Pair(state.site, limits=Limits()), []
    pair.client.observe(pair.server_host.address, told.append, 0.0, uri_path=["state"], confirmable=confirmable)
    pair.client_host.wake()
    pair.world.run_for(5.0)
    state.change()
    pair.server_host.wake()
    pair.world.run_for(5.0)
    assert [len(response.body) for response in told] == [3000, 3000]
    assert told[0].body != told[1].body
    assert pair.server.footprint()["observers"] == 1


def test_echo_may_differ_from_block_to_block_of_one_body() -> None:
    """RFC 9175 §1.1: elective options that are no part of the cache key need not match."""
    bodies = []

    def handle(request: Request) -> Response:
        bodies.append(request.payload)
        return Response(codes.CHANGED)

    solo = Solo(Site(Resource("/x", post=handle)))
    for number, echo in enumerate((b"a", b"b", b"")):
        block = (BLOCK1, bytes((number << 4 | (8 if number < 2 else 0),)))
        options = (block, (ECHO, echo)) if echo else (block,)
        solo.put(con(codes.POST, number, b"t", "x", options=options, payload=bytes((number,)) * 16))
    assert bodies == [bytes(16) + b"\1" * 16 + b"\2" * 16]


def test_etag_that_the_client_has_makes_a_large_answer_small() -> None:
    solo = Solo(pages(1000))
    (answer,) = solo.put(con(codes.GET, 1, b"t", "page", options=((ETAG, b"page"),)), ABROAD)
    assert (answer.code, answer.payload, answer.options) == (codes.VALID, b"", Options(((ETAG, b"page"),)))


def test_loopback_is_where_solo_lives() -> None:
    assert Solo(pages(1000)).put(non(codes.GET, 1, b"t", "page"), PEER)[0].code == codes.CONTENT
