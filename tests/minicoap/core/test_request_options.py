"""Options that change what becomes of a request: validation, conditions, No-Response, Hop-Limit; and long tokens."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from minicoap.codec import codes
from minicoap.codec.message import ACK, CON, NON, Options, decode, encode
from minicoap.codec.options import (
    BLOCK1,
    BLOCK2,
    ETAG,
    HOP_LIMIT,
    IF_MATCH,
    IF_NONE_MATCH,
    LOCATION_PATH,
    LOCATION_QUERY,
    MAX_AGE,
    NO_RESPONSE,
)
from minicoap.core.body import BytesSource
from minicoap.core.identity import ANONYMOUS, Identity
from minicoap.core.parameters import Limits
from minicoap.core.request import Request, Response, SecurePath
from minicoap.core.resource import Resource, Site
from minicoap.errors import RequestTimeout, UsageError
from minicoap.simulate.pair import Pair
from tests.minicoap.core.handlers import Counter, Later
from tests.minicoap.core.solo import LIFETIME, Solo, ack, con, empty, empty_ack, message, non, reset

# ETag and 2.03 (RFC 7252 §5.9.1.3, §5.10.6)


@pytest.mark.parametrize(
    ("code", "answer", "etags", "block", "expected"),
    [
        (codes.GET, codes.CONTENT, (b"e",), None, "2.03"),
        (codes.GET, codes.CONTENT, (b"a", b"e", b"b"), None, "2.03"),
        (codes.GET, codes.CONTENT, (b"other",), None, "2.05"),
        (codes.GET, codes.CONTENT, (), None, "2.05"),
        (codes.GET, codes.CONTENT, (b"e",), b"", "2.03"),  # block 0 is asked for
        (codes.GET, codes.CONTENT, (b"e",), b"\x10", "2.05"),  # a further block is no validation
        (codes.FETCH, codes.CONTENT, (b"e",), None, "2.03"),
        (codes.POST, codes.CONTENT, (b"e",), None, "2.05"),
        (codes.GET, codes.NOT_FOUND, (b"e",), None, "4.04"),
    ],
)
@pytest.mark.parametrize("how", ["option", "source"])
def test_representation_that_the_client_has_is_answered_by_its_etag_alone(
    how: str, code: int, answer: int, etags: tuple[bytes, ...], block: Optional[bytes], expected: str
) -> None:
    def handle(request: Request) -> Response:
        if how == "source":
            return Response(answer, BytesSource(bytes(100), b"e"), 0, max_age=9)
        return Response(answer, bytes(100), 0, etag=b"e", max_age=9)

    solo = Solo(Site(Resource("/x", get=handle, fetch=handle, post=handle)))
    options = [(ETAG, etag) for etag in etags]
    if block is not None:
        options.append((BLOCK2, block))
    (response,) = solo.put(con(code, 1, b"t", "x", options=tuple(options)))
    assert codes.code_text(response.code) == expected
    if expected == "2.03":
        assert (response.options, response.payload) == (Options(((ETAG, b"e"), (MAX_AGE, b"\x09"))), b"")


def test_handler_may_say_valid_without_making_the_representation() -> None:
    def handle(request: Request) -> Response:
        assert request.etags == (b"mine",)
        return Response.valid(b"mine", 30)

    response = Pair(Site(Resource("/x", get=handle))).request(codes.GET, "x", options=[(ETAG, b"mine")])
    assert (response.code, response.etag, response.max_age) == (codes.VALID, b"mine", 30)


# If-Match, If-None-Match (§5.10.8)


@pytest.mark.parametrize(
    ("options", "etag", "met"),
    [
        ([], b"e", True),
        ([], None, True),
        ([(IF_MATCH, b"e")], b"e", True),
        ([(IF_MATCH, b"a"), (IF_MATCH, b"e")], b"e", True),
        ([(IF_MATCH, b"a"), (IF_MATCH, b"b")], b"e", False),
        ([(IF_MATCH, b"")], b"e", True),  # it has to exist
        ([(IF_MATCH, b"")], None, False),
        ([(IF_MATCH, b"e")], None, False),
        ([(IF_NONE_MATCH, b"")], None, True),
        ([(IF_NONE_MATCH, b"")], b"e", False),
        ([(IF_MATCH, b"e"), (IF_NONE_MATCH, b"")], b"e", False),
    ],
)
def test_conditions_are_met_or_not(options: list[tuple[int, bytes]], etag: Optional[bytes], met: bool) -> None:
    assert Request(codes.PUT, ("host", 1), Options(options), b"", 0.0).meets_conditions(etag) is met


def test_location_is_path_and_query() -> None:
    response = Response(codes.CREATED, location_path=["a", "b"], location_query=["c=d", "e"])
    assert response.options.all(LOCATION_PATH) == (b"a", b"b")
    assert response.options.all(LOCATION_QUERY) == (b"c=d", b"e")
    assert response.location == "/a/b?c=d&e"


# Hop-Limit (RFC 8768 §3)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((b"\x01",), "2.05"),
        ((b"\xff",), "2.05"),
        ((b"\x00",), "4.00"),
        ((b"",), "4.00"),
        ((b"\x01\x00",), "4.00"),
        ((b"\x05", b"\x00"), "2.05"),  # supernumerary and elective: ignored
    ],
)
def test_hop_limit_is_between_1_and_255(values: tuple[bytes, ...], expected: str) -> None:
    solo = Solo(Site(Resource("/x", get=lambda _: Response())))
    (answer,) = solo.put(con(codes.GET, 1, b"t", "x", options=tuple((HOP_LIMIT, value) for value in values)))
    assert codes.code_text(answer.code) == expected


# No-Response (RFC 7967), the server's side

NO_2XX, NO_4XX, NO_5XX, NO_ALL = b"\x02", b"\x08", b"\x10", b"\x1a"


@pytest.mark.parametrize(
    ("value", "answer", "wanted"),
    [
        (b"", codes.CONTENT, True),
        (NO_2XX, codes.CONTENT, False),
        (NO_2XX, codes.CHANGED, False),
        (NO_2XX, codes.BAD_REQUEST, True),
        (NO_2XX, codes.INTERNAL_SERVER_ERROR, True),
        (NO_4XX, codes.CONTENT, True),
        (NO_4XX, codes.BAD_REQUEST, False),
        (NO_4XX, codes.INTERNAL_SERVER_ERROR, True),
        (NO_5XX, codes.CONTENT, True),
        (NO_5XX, codes.BAD_REQUEST, True),
        (NO_5XX, codes.INTERNAL_SERVER_ERROR, False),
        (NO_ALL, codes.CONTENT, False),
        (NO_ALL, codes.NOT_FOUND, False),
        (NO_ALL, codes.SERVICE_UNAVAILABLE, False),
        (b"\xff", codes.CONTENT, False),
        (b"\x00\x02", codes.CONTENT, True),  # ill-sized and elective: ignored
    ],
)
@pytest.mark.parametrize("type", [CON, NON])
@pytest.mark.parametrize("late", [None, 0.5, 3.0])
def test_unwanted_response_is_not_sent(
    type: int, value: bytes, answer: int, wanted: bool, late: Optional[float]
) -> None:
    later = Later()
    site = later.site() if late is not None else Site(Resource("/later", post=lambda _: Response(answer)))
    solo = Solo(site)
    request = message(type, codes.POST, 1, b"t", "later", options=((NO_RESPONSE, value),))
    sent = solo.put(request)
    if late is not None:
        sent += [one for _, one in solo.pass_time(late)]
        later.deferred[0].resolve(Response(answer), solo.now)
        sent += solo.sent()
    responses = [one for one in sent if one.code]
    assert [one.code for one in responses] == ([answer] if wanted else [])
    if type == CON and not wanted:
        assert sent == [empty_ack(request)]
        assert solo.put(request) == sent  # it is not carried out again
    elif not wanted:
        assert sent == []
        assert solo.put(request) == []
    for one in responses:
        if one.type == CON:
            solo.put(empty_ack(one))
    assert solo.forgets_everything()


def test_response_that_a_transfer_needs_is_sent_whether_wanted_or_not() -> None:
    solo = Solo(Site(Resource("/x", post=lambda _: Response(codes.CHANGED))))
    options = ((BLOCK1, b"\x08"), (NO_RESPONSE, NO_ALL))
    (answer,) = solo.put(con(codes.POST, 1, b"t", "x", options=options, payload=bytes(16)))
    assert answer.code == codes.CONTINUE


def test_refusal_by_the_endpoint_itself_may_be_unwanted_too() -> None:
    solo = Solo(Site())
    for number, name in enumerate(("missing", "")):
        request = con(
            codes.PUT, number, b"t", *filter(None, [name]), options=((NO_RESPONSE, NO_4XX), (35, b"coap://x"))
        )
        assert [one.code for one in solo.put(request)] == [codes.PROXYING_NOT_SUPPORTED]
        request = con(codes.PUT, number + 10, b"t", *filter(None, [name]), options=((NO_RESPONSE, NO_4XX),))
        assert solo.put(request) == [empty_ack(request)]


# No-Response, the client's side


def test_request_that_wants_nothing_is_over_when_it_is_sent_or_acknowledged() -> None:
    solo = Solo()
    outcomes = solo.request(codes.PUT, "x", no_response=26, confirmable=False)
    (sent,) = solo.sent()
    assert sent.options.get(NO_RESPONSE) == NO_ALL
    assert outcomes == []
    solo.pass_time(0.0)
    assert [outcome.code for outcome in outcomes] == [codes.EMPTY]  # type: ignore[union-attr]
    assert solo.put(non(codes.CHANGED, 7, sent.token)) == []
    assert solo.put(reset(sent)) == []

    confirmable = solo.request(codes.PUT, "x", no_response=26)
    (sent,) = solo.sent()
    solo.pass_time(1.0)
    assert confirmable == []
    solo.put(empty_ack(sent))
    assert [outcome.code for outcome in confirmable] == [codes.EMPTY]  # type: ignore[union-attr]
    assert len(outcomes) == 1
    assert solo.forgets_everything()


def test_requests_that_want_nothing_are_sent_at_probing_rate_and_none_is_lost() -> None:
    """Nothing comes back that would say that the peer is there (RFC 7967 §3.2, RFC 7252 §4.7)."""
    solo = Solo()
    outcomes = [solo.request(codes.PUT, "x", no_response=26, confirmable=False) for _ in range(3)]
    size = len(encode(solo.sent()[0]))
    sent = solo.pass_time(100.0)
    assert [when - 1000.0 for when, _ in sent] == [pytest.approx(size), pytest.approx(2 * size)]
    assert all(len(one) == 1 for one in outcomes)
    assert solo.forgets_everything()


def test_confirmable_request_that_wants_nothing_but_is_never_acknowledged_fails() -> None:
    solo = Solo()
    outcomes = solo.request(codes.PUT, "x", no_response=26)
    solo.pass_time(100.0)
    assert [type(outcome) for outcome in outcomes] == [RequestTimeout]


@pytest.mark.parametrize("confirmable", [True, False])
def test_silence_may_mean_success_where_only_errors_are_wanted(confirmable: bool) -> None:
    counter = Counter()
    pair = Pair(Site(Resource("/x", post=counter.handle)))
    arguments: dict[str, Any] = {"no_response": 2, "confirmable": confirmable, "timeout": 5.0}
    assert pair.request(codes.POST, "x", **arguments).code == codes.EMPTY
    assert (counter.count, pair.world.now) == (1, pytest.approx(5.0))
    assert pair.request(codes.POST, "missing", **arguments).code == codes.NOT_FOUND


def test_response_that_comes_all_the_same_is_handed_on() -> None:
    """The option is elective: a server may not know it."""
    solo = Solo()
    outcomes = solo.request(codes.PUT, "x", no_response=2)
    (sent,) = solo.sent()
    solo.put(ack(codes.CHANGED, sent))
    assert [outcome.code for outcome in outcomes] == [codes.CHANGED]  # type: ignore[union-attr]


@pytest.mark.parametrize("arguments", [{"no_response": 1}, {"no_response": 2, "payload": bytes(1025)}])
def test_no_response_that_cannot_work_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Solo().request(codes.PUT, "x", **arguments)


# Extended tokens (RFC 8974)


@pytest.mark.parametrize("length", [0, 8, 9, 12, 13, 255, 256])
@pytest.mark.parametrize("late", [False, True])
def test_token_of_any_length_comes_back_and_is_known_again(length: int, late: bool) -> None:
    later, token = Later(), bytes(range(256))[:length]
    solo = Solo(later.site())
    request = con(codes.POST, 1, token, "later")
    assert solo.put(request) == []
    acknowledged = solo.pass_time(2.0 if late else 0.1)
    later.deferred[0].resolve(Response(codes.CHANGED), solo.now)
    (answer,) = solo.sent()
    assert (answer.type, answer.token) == (CON if late else ACK, token)
    assert solo.put(request) == ([one for _, one in acknowledged] if late else [answer])
    assert len(later.deferred) == 1
    if length:
        assert solo.put(con(codes.POST, 1, token[:-1], "later")) == []
        assert len(later.deferred) == 2


@pytest.mark.parametrize("length", [257, 269, 5000])
def test_token_that_is_too_long_is_refused_and_not_reset(length: int) -> None:
    solo = Solo(Site(Resource("/x", get=lambda _: Response())))
    (answer,) = solo.put(con(codes.GET, 1, bytes(length), "x"))
    assert (answer.type, answer.code, answer.token) == (ACK, codes.BAD_REQUEST, bytes(length))
    assert Solo(limits=Limits(token_length=length)).put(con(codes.GET, 1, bytes(length)))[0].code == codes.NOT_FOUND


@pytest.mark.parametrize(
    ("answer", "supported"),
    [
        (lambda sent: ack(codes.BAD_OPTION, sent), True),
        (lambda sent: ack(codes.BAD_REQUEST, sent), False),
        (lambda sent: ack(codes.SERVICE_UNAVAILABLE, sent), False),
        (reset, False),
    ],
)
def test_server_is_tried_with_a_long_token(answer: Any, supported: bool) -> None:
    solo, outcomes = Solo(), []
    solo.core.try_token_length(("127.0.0.1", 5683), 40, outcomes.append, solo.now)
    ((data, _),) = solo.core.datagrams_to_send()
    sent = decode(data)
    assert (sent.type, sent.code, sent.options) == (CON, codes.GET, Options(((IF_NONE_MATCH, b""),)))
    assert len(sent.token) == 40
    assert outcomes == []
    solo.put(answer(sent))
    assert outcomes == [supported]
    assert solo.forgets_everything()


def test_server_that_does_not_answer_says_nothing_about_tokens() -> None:
    solo, outcomes = Solo(), []
    solo.core.try_token_length(("127.0.0.1", 5683), 40, outcomes.append, solo.now)
    solo.pass_time(LIFETIME)
    assert [type(outcome) for outcome in outcomes] == [RequestTimeout]
    with pytest.raises(UsageError):
        solo.core.try_token_length(("127.0.0.1", 5683), 70_000, outcomes.append, solo.now)


def test_our_own_server_takes_the_trial() -> None:
    pair, outcomes = Pair(), []
    pair.client.try_token_length(pair.server_host.address, 256, outcomes.append, 0.0)
    pair.client_host.wake()
    pair.world.run_for(1.0)
    assert outcomes == [True]


def test_empty_messages_are_no_responses() -> None:
    solo = Solo()
    outcomes = solo.request(codes.GET)
    (sent,) = solo.sent()
    solo.put(empty(NON, sent.message_id))
    assert outcomes == []


def test_request_tells_who_asks_as_its_path_knows() -> None:
    path = SecurePath(("127.0.0.1", 40000))
    path.identity = Identity("x509", "n1", ("urn:x:n1",))
    assert path == ("127.0.0.1", 40000)
    assert Request(codes.GET, path, Options(), b"", 0.0).identity.subject == "n1"
    assert Request(codes.GET, ("127.0.0.1", 40000), Options(), b"", 0.0).identity is ANONYMOUS
