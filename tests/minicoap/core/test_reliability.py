"""The message layer: repetition, acknowledgement, rejection, NSTART, and requests carried out once (RFC 7252 §4)."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from minicoap.codec import codes
from minicoap.codec.message import ACK, CON, NON, RST, Message, decode, encode
from minicoap.codec.options import BLOCK1, IF_MATCH, IF_NONE_MATCH, PROXY_SCHEME, PROXY_URI
from minicoap.core.parameters import Limits, TransmissionParameters
from minicoap.core.request import Response
from minicoap.errors import CoapError, NetworkError, PathError, RequestTimeout, ResetError, UsageError
from minicoap.simulate.pair import Pair
from tests.minicoap.core.handlers import Counter
from tests.minicoap.core.solo import (
    LIFETIME,
    NON_LIFETIME,
    OTHER,
    PEER,
    Solo,
    ack,
    con,
    empty,
    empty_ack,
    message,
    non,
    reset,
)

# Repetition


@pytest.mark.parametrize("seed", range(20))
def test_confirmable_message_is_repeated_four_times_with_doubled_timeouts_and_given_up(seed: int) -> None:
    solo = Solo(seed=seed)
    outcomes = solo.request(codes.GET, "x")
    (first,) = solo.sent()
    repeated = solo.pass_time(200.0)
    assert all(encode(again) == encode(first) for _, again in repeated)
    times = [when - 1000.0 for when, _ in repeated]
    assert 2.0 <= times[0] <= 3.0
    assert times == pytest.approx([times[0] * factor for factor in (1, 3, 7, 15)])
    assert isinstance(outcomes[0], RequestTimeout)
    assert solo.forgets_everything()


def test_initial_timeouts_differ_and_the_message_is_given_up_within_max_transmit_wait() -> None:
    firsts = []
    for seed in range(50):
        solo = Solo(seed=seed)
        outcomes = solo.request(codes.GET, "x")
        deadlines = []
        while not outcomes:
            solo.now = solo.core.next_timeout() or 0.0
            deadlines.append(solo.now - 1000.0)
            solo.core.handle_timeout(solo.now)
        assert deadlines[-1] == pytest.approx(31 * deadlines[0])
        assert deadlines[-1] <= TransmissionParameters().max_transmit_wait
        firsts.append(deadlines[0])
    assert min(firsts) < 2.1
    assert max(firsts) > 2.9


def test_derived_times_are_those_of_the_rfc() -> None:
    parameters = TransmissionParameters()
    assert parameters.max_transmit_span == 45.0
    assert parameters.max_transmit_wait == 93.0
    assert parameters.exchange_lifetime == 247.0
    assert parameters.non_lifetime == 145.0


def test_parameters_are_obeyed() -> None:
    solo = Solo(parameters=TransmissionParameters(ack_timeout=3.0, ack_random_factor=1.0, max_retransmit=2))
    solo.request(codes.GET, "x")
    assert len(solo.sent()) == 1
    assert [when - 1000.0 for when, _ in solo.pass_time(100.0)] == [3.0, 9.0]


def test_parameters_of_a_request_are_its_own() -> None:
    solo = Solo()
    outcomes = solo.request(
        codes.GET, "x", parameters=TransmissionParameters(ack_timeout=5.0, ack_random_factor=1.0, max_retransmit=1)
    )
    solo.request(codes.GET, "x", path=OTHER)
    assert len(solo.sent()) == 2
    sent = solo.pass_time(100.0)
    assert [when - 1000.0 for when, one in sent if one.message_id == sent[1][1].message_id][:1] == [5.0]
    assert [len(outcomes), len(sent)] == [1, 1 + 4]
    with pytest.raises(UsageError, match="congestion_controlled"):
        solo.request(codes.GET, "x", parameters=TransmissionParameters(nstart=4))


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (lambda sent: ack(codes.CONTENT, sent, payload=b"x"), Response),
        (lambda sent: message(NON, codes.CONTENT, 77, sent.token), Response),
        (lambda sent: message(CON, codes.CONTENT, 77, sent.token), Response),
        (reset, ResetError),
        (empty_ack, None),
    ],
)
def test_answer_of_any_kind_ends_the_repetition(answer: Any, outcome: Optional[type]) -> None:
    solo = Solo()
    outcomes = solo.request(codes.GET, "x", timeout=100.0)
    (sent,) = solo.sent()
    solo.put(answer(sent))
    assert [type(one) for one in outcomes] == ([outcome] if outcome else [])
    assert solo.pass_time(90.0) == []
    solo.pass_time(20.0)
    assert isinstance(outcomes[0], outcome or RequestTimeout)


@pytest.mark.parametrize(
    "answer",
    [
        lambda sent: empty(ACK, sent.message_id ^ 1),
        lambda sent: empty(RST, sent.message_id ^ 1),
        lambda sent: empty(NON, sent.message_id),
        lambda sent: message(ACK, codes.CONTENT, sent.message_id, b"wrong"),
        lambda sent: message(RST, codes.CONTENT, sent.message_id, sent.token),
        lambda sent: message(ACK, codes.GET, sent.message_id, sent.token),
        lambda sent: message(ACK, 0xE1, sent.message_id, sent.token),
        lambda sent: message(NON, codes.CONTENT, sent.message_id, b"wrong"),
        lambda sent: encode(empty_ack(sent)) + b"more",
        lambda sent: b"\x80" + encode(empty_ack(sent))[1:],
    ],
)
def test_what_is_no_answer_ends_nothing_and_gets_no_answer(answer: Any) -> None:
    solo = Solo()
    outcomes = solo.request(codes.GET, "x")
    (sent,) = solo.sent()
    assert solo.put(answer(sent)) == []
    assert solo.put(empty_ack(sent), OTHER) == []
    assert len(solo.pass_time(10.0)) == 2
    assert outcomes == []


# What is rejected


@pytest.mark.parametrize(
    ("datagram", "answer"),
    [
        (encode(empty(CON, 7)), empty(RST, 7)),  # a ping
        (encode(empty(NON, 7)), None),
        (encode(empty(ACK, 7)), None),
        (encode(empty(RST, 7)), None),
        (b"\x40\x00\x00\x07junk", empty(RST, 7)),
        (b"\x50\x00\x00\x07junk", None),
        (b"\x60\x00\x00\x07junk", None),
        (b"\x70\x00\x00\x07junk", None),
        (b"\x40\x01\x00\x07\xff", empty(RST, 7)),  # marker without payload
        (b"\x4f\x01\x00\x07" + bytes(15), empty(RST, 7)),  # token length 15
        (b"\x44\x01\x00\x07ab", empty(RST, 7)),  # token cut off
        (b"\x40\x01\x00\x07\xf0", empty(RST, 7)),
        (b"\x50\x01\x00\x07\xf0", None),
        (b"\x60\x01\x00\x07\xf0", None),
        (b"\x80\x01\x00\x07", None),  # version 2
        (b"\x00\x01\x00\x07", None),
        (b"\x40\x01\x00", None),
        (b"", None),
        (b"\x40\x21\x00\x07", empty(RST, 7)),  # reserved classes
        (b"\x40\xc0\x00\x07", empty(RST, 7)),
        (b"\x40\xe1\x00\x07", empty(RST, 7)),
        (b"\x50\x21\x00\x07", None),
        (b"\x60\xe1\x00\x07", None),
        (b"\x40\x45\x00\x07", empty(RST, 7)),  # a response to nothing
        (b"\x50\x45\x00\x07", None),
        (b"\x60\x45\x00\x07", None),
        (b"\x70\x45\x00\x07", None),
        (b"\x60\x01\x00\x07", None),  # requests that are no requests
        (b"\x70\x01\x00\x07", None),
    ],
)
def test_only_confirmable_messages_are_rejected_with_a_reset(datagram: bytes, answer: Optional[Message]) -> None:
    solo = Solo()
    assert solo.put(datagram) == ([] if answer is None else [answer])
    assert solo.is_empty()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (((1235, b""),), codes.BAD_OPTION),  # unknown, critical
        (((9, b""),), codes.BAD_OPTION),  # known, not supported (OSCORE)
        (((3, b"a"), (3, b"b")), codes.BAD_OPTION),  # supernumerary (Uri-Host)
        (((17, b"123"),), codes.BAD_OPTION),  # too long (Accept)
        (((3, b""),), codes.BAD_OPTION),  # too short
        (((PROXY_URI, b""),), codes.BAD_OPTION),
        (((PROXY_URI, b"coap://x"),), codes.PROXYING_NOT_SUPPORTED),
        (((PROXY_SCHEME, b"coap"),), codes.PROXYING_NOT_SUPPORTED),
        (((3, b"example.org"), (7, b"\x16\x33")), codes.CHANGED),
        (((1234, b"?"),), codes.CHANGED),  # elective ones
        (((12, b"123"),), codes.CHANGED),
        (((14, b"1"), (14, b"2")), codes.CHANGED),
        (((258, b"\x00"),), codes.CHANGED),
    ],
)
def test_critical_options_that_cannot_be_honoured_are_refused_and_elective_ones_ignored(
    options: tuple[tuple[int, bytes], ...], code: int
) -> None:
    counter = Counter()
    solo = Solo(counter.site())
    (answer,) = solo.put(con(codes.GET, 1, b"t", "counter", options=options))
    assert (answer.type, answer.code, answer.message_id, answer.token) == (ACK, code, 1, b"t")
    answers = solo.put(non(codes.GET, 2, b"u", "counter", options=options))
    expected = [] if code == codes.BAD_OPTION else [(NON, code, b"u")]
    assert [(one.type, one.code, one.token) for one in answers] == expected
    assert counter.count == (2 if code == codes.CHANGED else 0)
    assert solo.forgets_everything()


# NSTART and message IDs


def test_one_message_is_outstanding_and_the_others_follow_in_order() -> None:
    solo = Solo()
    all_outcomes = [solo.request(codes.GET, str(index)) for index in range(5)]
    sent = solo.sent()
    order = []
    while sent:
        (one,) = sent
        order.append(one.options.path[0])
        sent = solo.put(ack(codes.CONTENT, one))
    assert order == ["0", "1", "2", "3", "4"]
    assert all(len(outcomes) == 1 for outcomes in all_outcomes)


@pytest.mark.parametrize("nstart", [1, 2, 4])
def test_nstart_is_the_number_of_outstanding_messages_to_one_peer(nstart: int) -> None:
    solo = Solo(parameters=TransmissionParameters(nstart=nstart, congestion_controlled=True))
    for _ in range(6):
        solo.request(codes.GET, "x")
        solo.request(codes.GET, "x", path=OTHER)
    first = [decode(data) for data, path in solo.core.datagrams_to_send() if path == PEER]
    assert len(first) == nstart
    (second,) = solo.put(empty_ack(first[0]))
    assert len(solo.put(reset(second))) == 1
    assert solo.put(empty_ack(first[0])) == []


def test_message_given_up_or_cancelled_lets_the_next_one_go() -> None:
    solo = Solo(parameters=TransmissionParameters(congestion_controlled=True))
    transfer = solo.core.request(codes.GET, PEER, lambda _: None, solo.now, uri_path=["a"])
    waiting = solo.core.request(codes.GET, PEER, lambda _: None, solo.now, uri_path=["b"])
    solo.request(codes.GET, "c")
    solo.request(codes.GET, "d")
    assert [one.options.path for one in solo.sent()] == [("a",)]
    waiting.cancel(solo.now)
    transfer.cancel(solo.now)
    assert [one.options.path for one in solo.sent()] == [("c",)]
    sent = [one.options.path for _, one in solo.pass_time(94.0)]
    assert sent[:5] == [("c",)] * 4 + [("d",)]


# PROBING_RATE (§4.7)


@pytest.mark.parametrize(
    ("arguments", "size", "seconds"),
    [
        ({"confirmable": False}, 10, 10.0),
        ({"confirmable": False, "timeout": 1.0}, 10, 10.0),
        ({"confirmable": False}, 500, 93.0),
        ({"confirmable": False, "parameters": TransmissionParameters(probing_rate=10.0)}, 500, 50.0),
        ({"confirmable": False, "parameters": TransmissionParameters(congestion_controlled=True)}, 500, 0.0),
        ({"timeout": 1.0}, 10, 10.0),
        ({"timeout": 7.5, "parameters": TransmissionParameters(ack_random_factor=1.0)}, 10, 30.0),  # sent three times
        ({"timeout": 1.0}, 500, 93.0),
        ({"timeout": 1.0, "parameters": TransmissionParameters(congestion_controlled=True)}, 500, 1.0),
    ],
)
def test_silent_peer_is_sent_no_more_than_probing_rate_however_impatient_one_is(
    arguments: dict[str, Any], size: int, seconds: float
) -> None:
    solo = Solo()
    solo.request(codes.GET, payload=bytes(size - 9), **arguments)  # a header, four bytes of token and the marker
    solo.request(codes.GET, "next")
    solo.sent()
    before = [one for _, one in solo.pass_time(max(seconds - 0.01, 0.0))]
    assert all(one.options.path == () for one in before)
    if seconds:
        after = [one for _, one in solo.pass_time(0.02)]
        assert [one.options.path for one in after] == [("next",)]


@pytest.mark.parametrize("confirmable", [False, True])
@pytest.mark.parametrize("abandoned", [False, True])
@pytest.mark.parametrize("sign", ["response", "reset", "acknowledgement"])
def test_sign_of_life_lets_the_next_one_go_at_once(confirmable: bool, abandoned: bool, sign: str) -> None:
    solo = Solo()
    outcomes: list[Any] = []
    transfer = solo.core.request(codes.GET, PEER, outcomes.append, solo.now, confirmable=confirmable)
    solo.request(codes.GET, "next")
    (sent,) = solo.sent()
    if abandoned:
        transfer.cancel(solo.now)
        assert solo.sent() == []
    if sign == "response":
        answers = solo.put(ack(codes.CONTENT, sent) if confirmable else non(codes.CONTENT, 9, sent.token))
    else:
        answers = solo.put(reset(sent) if sign == "reset" else empty_ack(sent))
    if sign == "acknowledgement" and not confirmable:
        assert answers == []  # §4.3: a non-confirmable message is not acknowledged
    elif sign == "response" and abandoned and not confirmable:
        assert answers == []  # nobody knows that token any more
    else:
        assert [one.options.path for one in answers] == [("next",)]
    assert len(outcomes) == (0 if abandoned or sign == "acknowledgement" else 1)


def test_rejected_non_confirmable_request_ends_at_once() -> None:
    solo = Solo()
    outcomes = solo.request(codes.GET, confirmable=False)
    (sent,) = solo.sent()
    solo.put(reset(sent))
    assert [type(outcome) for outcome in outcomes] == [ResetError]
    assert solo.forgets_everything()


def test_queue_behind_nstart_is_bounded_and_says_so() -> None:
    solo = Solo(limits=Limits(queued_messages=3))
    for _ in range(4):
        solo.request(codes.GET, "x")
    with pytest.raises(NetworkError, match="queued_messages"):
        solo.request(codes.GET, "x")
    with pytest.raises(NetworkError):
        solo.core.ping(PEER, lambda _: None, solo.now)
    solo.request(codes.GET, "x", path=OTHER)
    assert solo.forgets_everything()


def test_full_table_of_busy_peers_is_told_to_the_caller() -> None:
    solo = Solo(limits=Limits(peers=1))
    solo.request(codes.GET, "x")
    with pytest.raises(NetworkError, match=r"Limits\.peers"):
        solo.request(codes.GET, "x", path=OTHER)


def test_more_requests_from_one_peer_than_there_are_message_ids_are_all_answered() -> None:
    counter = Counter()
    solo = Solo(counter.site())
    for index in range(66_000):
        (answer,) = solo.put(con(codes.POST, index & 0xFFFF, index.to_bytes(4, "big"), "counter"))
        assert answer.payload == b"%d" % (index + 1)


def test_more_requests_to_one_peer_than_there_are_message_ids_are_all_sent() -> None:
    solo = Solo()
    ids = []
    for _ in range(66_000):
        outcomes = solo.request(codes.GET, "x")
        (sent,) = solo.sent()
        ids.append(sent.message_id)
        solo.put(ack(codes.CONTENT, sent))
        assert len(outcomes) == 1
    assert ids[:65_536] == sorted(ids[:65_536], key=lambda number: (number - ids[0]) & 0xFFFF)
    assert len(set(ids[:65_536])) == 65_536


# Carried out once


@pytest.mark.parametrize(
    ("code", "options", "once"),
    [
        (codes.POST, (), True),
        (codes.PATCH, (), True),
        (codes.IPATCH, (), True),
        (codes.PUT, ((IF_NONE_MATCH, b""),), True),
        (codes.PUT, ((IF_MATCH, b"etag"),), True),
        (codes.DELETE, ((IF_MATCH, b"etag"),), True),
        (codes.PUT, ((BLOCK1, b""),), True),
        (codes.POST, ((BLOCK1, b""),), True),
        (codes.GET, (), False),
        (codes.PUT, (), False),
        (codes.DELETE, (), False),
        (codes.FETCH, (), False),
    ],
)
@pytest.mark.parametrize("type", [CON, NON])
def test_repeated_request_is_carried_out_again_only_where_that_is_harmless(
    type: int, code: int, options: tuple[tuple[int, bytes], ...], once: bool
) -> None:
    counter = Counter()
    solo = Solo(counter.site())
    request = message(type, code, 5, b"t", "counter", options=options)
    first = solo.put(request)
    solo.pass_time((LIFETIME if type == CON else NON_LIFETIME) - 1.0)
    again = [solo.put(request) for _ in range(3)]
    if once:
        assert counter.count == 1
        assert again == [first if type == CON else []] * 3  # §4.5: a repeated NON is ignored in silence
    else:
        assert [answer[0].payload for answer in again] == [b"2", b"3", b"4"]
    assert solo.forgets_everything()


@pytest.mark.parametrize(
    ("message_id", "token", "path"), [(5, b"other", PEER), (5, b"", PEER), (6, b"t", PEER), (5, b"t", OTHER)]
)
def test_other_token_message_id_or_peer_is_another_request(message_id: int, token: bytes, path: Any) -> None:
    counter = Counter()
    solo = Solo(counter.site())
    solo.put(con(codes.POST, 5, b"t", "counter"))
    (answer,) = solo.put(con(codes.POST, message_id, token, "counter"), path)
    assert answer.payload == b"2"


@pytest.mark.parametrize(("type", "lifetime"), [(CON, LIFETIME), (NON, NON_LIFETIME)])
def test_message_id_and_token_of_long_ago_are_another_request(type: int, lifetime: float) -> None:
    counter = Counter()
    solo = Solo(counter.site())
    request = message(type, codes.POST, 5, b"", "counter")
    solo.put(request)
    solo.pass_time(lifetime)
    (answer,) = solo.put(request)
    assert answer.payload == b"2"


def test_answers_are_forgotten_after_the_lifetime() -> None:
    counter = Counter()
    solo = Solo(counter.site())
    solo.put(con(codes.POST, 5, b"t", "counter"))
    assert solo.core.footprint()["remembered"] == 1
    assert solo.forgets_everything()
    solo.put(con(codes.POST, 5, b"t", "counter"))
    assert counter.count == 2


def test_flood_of_answers_stays_within_its_bounds() -> None:
    solo = Solo(Counter().site(), limits=Limits(remembered_answers=100, peers=10))
    for index in range(2000):
        solo.put(con(codes.POST, index, b"t", "counter"), ("host", index % 50))
        footprint = solo.core.footprint()
        assert footprint["remembered"] <= 100
        assert footprint["peers"] <= 10
    assert solo.forgets_everything()


# Ping and paths that fail


@pytest.mark.parametrize(("answer", "outcome"), [(reset, type(None)), (empty_ack, type(None)), (None, RequestTimeout)])
def test_ping_is_an_empty_confirmable_message(answer: Any, outcome: type) -> None:
    solo, outcomes = Solo(), []
    solo.core.ping(PEER, outcomes.append, solo.now)
    (sent,) = solo.sent()
    assert (sent.type, sent.code, sent.token, sent.payload) == (CON, codes.EMPTY, b"", b"")
    if answer is not None:
        solo.put(answer(sent))
    solo.pass_time(100.0)
    assert [type(one) for one in outcomes] == [outcome]


def test_ping_between_endpoints_is_answered() -> None:
    pair, outcomes = Pair(), []
    pair.client.ping(pair.server_host.address, outcomes.append, 0.0)
    pair.client_host.wake()
    pair.world.run_for(1.0)
    assert outcomes == [None]


def test_failed_path_ends_everything_with_it_and_nothing_else() -> None:
    solo = Solo()
    doomed = [solo.request(codes.GET, "x"), solo.request(codes.GET, "y"), solo.request(codes.GET, confirmable=False)]
    acknowledged = solo.request(codes.GET, "z")
    first = next(one for one in solo.sent() if one.type == CON)
    solo.put(empty_ack(first))
    pings: list[Optional[CoapError]] = []
    solo.core.ping(PEER, pings.append, solo.now)
    unharmed = solo.request(codes.GET, "x", path=OTHER)
    error = OSError(111, "Connection refused")
    solo.core.path_failed(PEER, error, solo.now)
    solo.core.path_failed(("nobody", 1), error, solo.now)
    for outcomes in (*doomed, acknowledged, pings):
        assert [type(outcome) for outcome in outcomes] == [PathError]
    assert doomed[0][0].error is error  # type: ignore[union-attr]
    assert unharmed == []
    assert solo.forgets_everything()


def test_request_begun_because_the_path_failed_is_not_ended_by_the_same_failure() -> None:
    solo = Solo()
    again: list[list[Any]] = []
    for _ in range(3):
        solo.core.request(codes.GET, PEER, lambda _: again.append(solo.request(codes.GET, "again")), solo.now)
    solo.sent()
    solo.core.path_failed(PEER, OSError(111, "Connection refused"), solo.now)
    assert again == [[], [], []]
    assert [one.options.path for one in solo.sent()] == [("again",)]
