"""Observing (RFC 7641 §3): what a client makes of notifications, how it keeps an observation alive and how it ends."""

from __future__ import annotations

from typing import Any, Optional, Union

import pytest

from minicoap.codec import codes
from minicoap.codec.message import ACK, CON, NON, RST, Message
from minicoap.codec.options import ACCEPT, BLOCK2, ETAG, MAX_AGE, OBSERVE, encode_uint
from minicoap.core.body import Block
from minicoap.core.observe_client import Observation
from minicoap.core.parameters import Limits
from minicoap.core.request import Response
from minicoap.errors import (
    BodyError,
    CoapError,
    NetworkError,
    PathError,
    PeerError,
    RequestTimeout,
    ResetError,
    UsageError,
)
from tests.minicoap.core.observing import notify
from tests.minicoap.core.solo import PEER, Solo, ack, empty, empty_ack, reset


class Watching:
    """A client that observes, and the server's part played by hand."""

    def __init__(self, solo: Optional[Solo] = None, **arguments: Any) -> None:
        self.solo = solo or Solo()
        self.told: list[Union[Response, CoapError]] = []
        self.over_when_told: list[bool] = []
        arguments.setdefault("uri_path", ("state",))
        self.observation: Observation = self.solo.core.observe(PEER, self.update, self.solo.now, **arguments)
        sent = self.solo.sent()
        self.request = sent[0] if sent else None
        self.message_id = 1000

    def update(self, outcome: Union[Response, CoapError]) -> None:
        self.told.append(outcome)
        self.over_when_told.append(self.observation.is_over)

    @property
    def bodies(self) -> list[bytes]:
        return [outcome.body for outcome in self.told if isinstance(outcome, Response)]

    def answer(
        self, sequence: Optional[int], payload: bytes = b"", request: Optional[Message] = None, **more: Any
    ) -> Any:
        """Answer a request, the registration, in its acknowledgement."""
        request = request or self.request
        assert request is not None
        return self.solo.put(notify(ACK, request.message_id, request.token, sequence, payload, **more))

    def notify(self, sequence: Optional[int], payload: bytes = b"", type: int = CON, **more: Any) -> list[Message]:
        assert self.request is not None
        self.message_id += 1
        token = more.pop("token", self.request.token)
        return self.solo.put(notify(type, self.message_id, token, sequence, payload, **more))

    def next_request(self, seconds: float = 100.0) -> tuple[float, Message]:
        """Wait for the next request; return after how long it came."""
        start = self.solo.now
        while (due := self.solo.core.next_timeout()) is not None and due <= start + seconds:
            self.solo.now = max(self.solo.now, due)
            for when, request in self.solo.pass_time(0.0):
                self.request = request
                return when - start, request
        raise AssertionError("no request")


def watching(**arguments: Any) -> Watching:
    """One that has been answered with the number 10 and the state "a"."""
    watching = Watching(**arguments)
    watching.answer(10, b"a")
    return watching


def max_age(seconds: int) -> tuple[tuple[int, bytes], ...]:
    return ((MAX_AGE, encode_uint(seconds)),)


def without(request: Message, *numbers: int) -> list[tuple[int, bytes]]:
    return [item for item in request.options.items if item[0] not in numbers]


# Registration and notifications


def test_registration_is_a_get_with_an_empty_option_and_all_states_are_told() -> None:
    watching = Watching(accept=50, query=("a=1",))
    request = watching.request
    assert request is not None
    assert (request.type, request.code, len(request.token)) == (CON, codes.GET, 4)
    assert request.options.all(OBSERVE) == (b"",)
    assert (request.options.path, request.options.query, request.options.uint(ACCEPT)) == (("state",), ("a=1",), 50)
    assert watching.answer(5, b"a") == []
    assert watching.notify(6, b"b") == [empty(ACK, 1001)]
    assert watching.notify(7, b"c", NON) == []
    assert watching.bodies == [b"a", b"b", b"c"]
    assert all(isinstance(told, Response) and told.is_notification for told in watching.told)
    assert watching.over_when_told == [False] * 3


def test_first_response_may_come_separately() -> None:
    watching = Watching()
    assert watching.request is not None
    watching.solo.put(empty_ack(watching.request))
    assert watching.notify(5, b"a") == [empty(ACK, 1001)]
    assert watching.bodies == [b"a"]


def test_unreliable_registration_is_sent_once() -> None:
    watching = Watching(confirmable=False)
    assert watching.request is not None
    assert watching.request.type == NON
    watching.notify(5, b"a", NON)
    watching.notify(6, b"b", CON)
    assert watching.bodies == [b"a", b"b"]


@pytest.mark.parametrize(
    ("first", "second", "seconds", "is_fresher"),
    [
        (10, 11, 1.0, True),
        (10, 10, 1.0, False),
        (10, 9, 1.0, False),
        (0, (1 << 23) - 1, 1.0, True),
        (0, 1 << 23, 1.0, False),
        (0, (1 << 24) - 1, 1.0, False),
        ((1 << 24) - 1, 0, 1.0, True),
        ((1 << 23) + 1, 0, 1.0, True),
        (1 << 23, 0, 1.0, False),
        (10, 9, 128.0, False),
        (10, 9, 128.1, True),
        (10, 10, 128.1, True),
    ],
)
@pytest.mark.parametrize("type", [CON, NON])
def test_only_what_was_sent_later_is_told(first: int, second: int, seconds: float, is_fresher: bool, type: int) -> None:
    watching = Watching()
    watching.answer(first, b"a", options=max_age(3600))
    watching.solo.pass_time(seconds)
    assert watching.notify(second, b"b", type) == ([empty(ACK, 1001)] if type == CON else [])
    assert watching.bodies == [b"a", b"b"][: 1 + is_fresher]


def test_repeated_notification_is_acknowledged_again_and_told_once() -> None:
    watching_ = watching()
    for _ in range(3):
        watching_.message_id = 7
        assert watching_.notify(11, b"b") == [empty(ACK, 8)]
        assert watching_.notify(11, b"b", NON) == []
    assert watching_.bodies == [b"a", b"b"]


@pytest.mark.parametrize(
    ("type", "sequence", "is_rejected"), [(CON, 11, True), (NON, 11, True), (CON, None, True), (NON, None, False)]
)
def test_notification_nobody_waits_for_is_rejected(type: int, sequence: Optional[int], is_rejected: bool) -> None:
    for solo in (Solo(), watching().solo):
        answer = solo.put(notify(type, 9, b"old", sequence, b"x"))
        assert answer == ([empty(RST, 9)] if is_rejected else [])


def test_notification_with_an_unknown_critical_option_is_rejected_and_ends_it() -> None:
    watching_ = watching()
    assert watching_.notify(11, options=((9, b"x"),)) == [empty(RST, 1001)]
    assert isinstance(watching_.told[-1], PeerError)
    assert watching_.over_when_told == [False, True]
    assert watching_.solo.forgets_everything()


def test_fetch_is_observed_with_its_payload() -> None:
    watching = Watching(code=codes.FETCH, payload=b"which", content_format=50)
    assert watching.request is not None
    assert (watching.request.code, watching.request.payload) == (codes.FETCH, b"which")
    watching.answer(1, b"a")
    watching.observation.cancel(watching.solo.now)
    (goodbye,) = watching.solo.sent()
    assert (goodbye.code, goodbye.payload) == (codes.FETCH, b"which")


# Ends


@pytest.mark.parametrize("code", [codes.NOT_FOUND, codes.NOT_ACCEPTABLE, codes.INTERNAL_SERVER_ERROR])
def test_error_response_is_the_last_that_is_told(code: int) -> None:
    watching_ = watching()
    assert watching_.notify(None, b"gone", code=code) == [empty(ACK, 1001)]
    assert isinstance(watching_.told[1], Response)
    assert (watching_.told[1].code, watching_.told[1].body) == (code, b"gone")
    assert watching_.over_when_told == [False, True]
    assert watching_.notify(12, b"c") == [empty(RST, 1002)]
    assert len(watching_.told) == 2
    assert watching_.solo.forgets_everything()


def test_registration_that_is_refused_tells_the_response() -> None:
    watching = Watching()
    watching.answer(None, code=codes.NOT_FOUND)
    assert [outcome.code for outcome in watching.told if isinstance(outcome, Response)] == [codes.NOT_FOUND]
    assert watching.over_when_told == [True]
    assert watching.solo.forgets_everything()


def test_server_that_does_not_notify_gives_its_state_once() -> None:
    watching = Watching()
    watching.answer(None, b"a")
    assert watching.bodies == [b"a"]
    assert isinstance(watching.told[0], Response)
    assert not watching.told[0].is_notification
    assert watching.over_when_told == [True]
    watching.observation.cancel(watching.solo.now)
    assert watching.solo.sent() == []
    assert watching.solo.forgets_everything()


def test_target_may_be_observed_again_from_inside_the_last_word() -> None:
    watching = Watching()
    again: list[Watching] = []
    watching.update = lambda outcome: again.append(Watching(watching.solo))  # type: ignore[method-assign]
    watching.observation._update = watching.update
    watching.answer(None, b"a")
    watching.solo.pass_time(0.0)
    assert again[0].request is None or not again[0].observation.is_over
    assert watching.solo.core.footprint()["observations"] == 1


@pytest.mark.parametrize(("how", "error"), [("silence", RequestTimeout), ("reset", ResetError), ("path", PathError)])
def test_registration_that_fails_tells_why(how: str, error: type) -> None:
    watching = Watching()
    assert watching.request is not None
    if how == "silence":
        watching.solo.pass_time(100.0)
    elif how == "reset":
        watching.solo.put(reset(watching.request))
    else:
        watching.solo.core.path_failed(PEER, OSError(111, "refused"), watching.solo.now)
    assert [type(outcome) for outcome in watching.told] == [error]
    assert watching.over_when_told == [True]
    assert watching.solo.forgets_everything()


def test_cancel_deregisters_under_the_token_and_rejects_what_still_comes() -> None:
    watching_ = watching(accept=50, szx=2)
    registered = watching_.request
    assert registered is not None
    watching_.observation.cancel(watching_.solo.now)
    watching_.observation.cancel(watching_.solo.now)
    (goodbye,) = watching_.solo.sent()
    assert (goodbye.type, goodbye.code, goodbye.token) == (CON, codes.GET, registered.token)
    assert goodbye.options.all(OBSERVE) == (b"\x01",)
    assert without(goodbye, OBSERVE) == without(registered, OBSERVE)
    assert watching_.notify(11, b"b") == [empty(RST, 1001)]
    assert watching_.notify(12, b"c", NON) == [empty(RST, 1002)]
    watching_.solo.put(ack(codes.CONTENT, goodbye, payload=b"d"))
    assert watching_.notify(13, b"e") == [empty(RST, 1003)]
    assert watching_.bodies == [b"a"]
    assert watching_.observation.is_over
    assert watching_.solo.forgets_everything()


def test_deregistration_names_what_the_last_registration_did() -> None:
    watching = Watching()
    watching.answer(10, b"a", options=((ETAG, b"A"),))
    watching.next_request()
    watching.answer(11, b"b", options=((ETAG, b"B"),))
    watching.observation.cancel(watching.solo.now)
    (goodbye,) = watching.solo.sent()
    assert goodbye.options.all(ETAG) == (b"A",)  # so that the answer can be short if that is what it is again


def test_deregistration_that_gets_lost_is_repeated() -> None:
    watching_ = watching()
    watching_.observation.cancel(watching_.solo.now)
    assert len(watching_.solo.sent()) == 1
    assert len(watching_.solo.pass_time(100.0)) == 4
    assert watching_.solo.forgets_everything()


def test_cancel_before_the_first_response_stops_the_registration() -> None:
    watching = Watching()
    registration = watching.request
    assert registration is not None
    watching.observation.cancel(watching.solo.now)
    (goodbye,) = watching.solo.put(empty_ack(registration))  # two at once would be more than NSTART allows
    assert goodbye.options.all(OBSERVE) == (b"\x01",)
    assert {message.message_id for _, message in watching.solo.pass_time(100.0)} == {goodbye.message_id}
    assert watching.told == []


def test_no_room_for_the_request_is_an_error_at_once() -> None:
    solo = Solo(limits=Limits(peers=0))
    with pytest.raises(NetworkError, match="peers"):
        solo.core.observe(PEER, lambda outcome: None, solo.now)
    assert solo.is_empty()


# Staying registered


@pytest.mark.parametrize("seed", range(10))
def test_registers_again_under_its_token_some_seconds_after_max_age(seed: int) -> None:
    watching = Watching(Solo(seed=seed), accept=0)
    first = watching.request
    assert first is not None
    watching.answer(10, b"a", options=max_age(30))
    waited, again = watching.next_request(46.0)
    assert 35.0 <= waited <= 45.0
    assert (again.type, again.code, again.token) == (CON, codes.GET, first.token)
    assert again.options == first.options
    assert again.message_id != first.message_id
    watching.answer(11, b"b")
    assert watching.bodies == [b"a", b"b"]


def test_waiting_times_differ_from_client_to_client() -> None:
    times = []
    for seed in range(10):
        watching = Watching(Solo(seed=seed))
        watching.answer(10, b"a", options=max_age(30))
        times.append(watching.next_request()[0])
    assert len(set(times)) == 10
    assert max(times) - min(times) > 4.0


def test_notification_says_anew_how_long_it_is_good_for() -> None:
    watching_ = watching()
    watching_.solo.pass_time(50.0)
    watching_.notify(11, b"b", options=max_age(100))
    waited, _ = watching_.next_request(120.0)
    assert 105.0 <= waited <= 115.0


def test_old_notification_does_not() -> None:
    watching_ = watching()
    watching_.solo.pass_time(50.0)
    watching_.notify(9, b"b", options=max_age(100))
    waited, _ = watching_.next_request()
    assert waited <= 25.0


def test_registration_names_the_state_that_is_known_and_2_03_confirms_it() -> None:
    watching = Watching()
    assert watching.request is not None
    watching_options = without(watching.request)
    watching.answer(10, b"a", options=((ETAG, b"A"),))
    _, again = watching.next_request()
    assert again.options.all(ETAG) == (b"A",)
    assert without(again, ETAG) == watching_options
    watching.answer(11, code=codes.VALID, options=((ETAG, b"A"), *max_age(1000)))
    assert watching.bodies == [b"a"]
    watching.solo.pass_time(50.0)
    watching.notify(12, b"b", options=((ETAG, b"B"),))
    watching.notify(13, code=codes.VALID, options=((ETAG, b"A"),))
    assert watching.bodies == [b"a", b"b", b"a"]
    watching.notify(14, code=codes.VALID, options=((ETAG, b"A"),))
    assert watching.bodies == [b"a", b"b", b"a"]
    # one that it never had: asked for without naming any
    anew, _ = watching.notify(15, code=codes.VALID, options=((ETAG, b"Z"),))
    assert anew.options.all(ETAG) == ()


def test_silence_makes_it_register_under_fresh_tokens_until_patience_ends() -> None:
    watching_ = watching(patience=300.0)
    assert watching_.request is not None
    tokens = {watching_.request.token}
    start = watching_.solo.now
    attempts = watching_.solo.pass_time(1000.0)
    assert all(message.options.all(OBSERVE) == (b"",) for _, message in attempts)
    tokens = list(dict.fromkeys(message.token for _, message in attempts))
    assert tokens[0] == watching_.request.token
    assert len(tokens) >= 3
    assert isinstance(watching_.told[-1], RequestTimeout)
    assert watching_.over_when_told == [False, True]
    assert 300.0 < attempts[-1][0] - start < 600.0
    assert watching_.solo.forgets_everything()


def test_server_that_comes_back_is_registered_with_and_may_fail_as_long_again() -> None:
    watching_ = watching(patience=200.0)
    for number in range(3):
        transmissions = watching_.solo.pass_time(200.0)
        watching_.request = transmissions[-1][1]
        assert not watching_.observation.is_over
        watching_.answer(number, b"%d" % number)
    assert watching_.bodies == [b"a", b"0", b"1", b"2"]


@pytest.mark.parametrize("how", ["reset", "path", "unavailable"])
def test_failure_makes_it_register_under_a_fresh_token(how: str) -> None:
    watching_ = watching()
    first = watching_.request
    _, again = watching_.next_request(75.0)
    assert first is not None
    if how == "reset":
        watching_.solo.put(reset(again))
    elif how == "path":
        watching_.solo.core.path_failed(PEER, OSError(111, "refused"), watching_.solo.now)
    else:
        watching_.answer(None, code=codes.SERVICE_UNAVAILABLE, options=max_age(40))
    waited, anew = watching_.next_request()
    assert (40.0 if how == "unavailable" else 5.0) <= waited <= (40.0 if how == "unavailable" else 15.0)
    assert anew.token != first.token
    watching_.answer(1, b"b")  # a smaller number: another life of the server
    watching_.notify(2, b"c")
    assert watching_.bodies == [b"a", b"b", b"c"]
    assert watching_.notify(12, b"old", token=first.token) == [empty(RST, 1002)]


def test_path_that_fails_while_nothing_is_asked_makes_it_register() -> None:
    watching_ = watching()
    watching_.solo.core.path_failed(PEER, OSError(111, "refused"), watching_.solo.now)
    waited, anew = watching_.next_request()
    assert 5.0 <= waited <= 15.0
    assert anew.options.all(OBSERVE) == (b"",)


def test_server_that_counts_anew_is_registered_with_under_a_fresh_token() -> None:
    watching = Watching()
    watching.answer(1_000_000, b"a", options=max_age(1))
    _, again = watching.next_request(17.0)
    (anew,) = watching.answer(3, b"b")
    assert anew.token != again.token
    watching.request = anew
    watching.answer(4, b"b")
    watching.notify(5, b"c")
    assert watching.bodies == [b"a", b"b", b"c"]


def test_server_that_does_not_notify_any_more_is_asked_from_time_to_time() -> None:
    watching_ = watching()
    for number in range(3):
        waited, _ = watching_.next_request()
        assert 65.0 <= waited <= 75.0
        watching_.answer(None, b"%d" % number)
    assert watching_.bodies == [b"a", b"0", b"1", b"2"]
    assert not watching_.observation.is_over


def test_answer_that_a_newer_notification_overtook_is_not_told() -> None:
    watching_ = watching()
    watching_.next_request()
    watching_.notify(12, b"c", NON)
    watching_.answer(11, b"b")
    assert watching_.bodies == [b"a", b"c"]
    assert watching_.solo.pass_time(30.0) == []


def test_answer_is_told_though_an_older_notification_came_first() -> None:
    watching_ = watching()
    watching_.next_request()
    watching_.notify(11, b"b", NON)
    watching_.answer(12, b"c")
    assert watching_.bodies == [b"a", b"b", b"c"]


def test_registration_without_acknowledgement_has_not_failed_if_notifications_come() -> None:
    watching_ = watching()
    watching_.next_request(75.0)
    for number in range(20):
        watching_.notify(11 + number, b"%d" % number)
        watching_.solo.pass_time(8.0)
    assert len(watching_.told) == 21
    assert not watching_.observation.is_over


# Several callers


def test_callers_of_one_target_are_one_observer() -> None:
    one = watching()
    two = Watching(one.solo)
    other = Watching(one.solo, uri_path=("other",))
    assert two.request is None
    assert other.request is not None
    assert two.told == []
    other.answer(1, b"o")
    one.solo.pass_time(0.0)
    assert two.bodies == [b"a"]
    one.notify(11, b"b")
    assert one.bodies == two.bodies == [b"a", b"b"]
    one.observation.cancel(one.solo.now)
    assert one.solo.sent() == []
    one.notify(12, b"c")
    assert (one.bodies, two.bodies) == ([b"a", b"b"], [b"a", b"b", b"c"])
    two.observation.cancel(one.solo.now)
    assert [message.options.all(OBSERVE) for message in one.solo.sent()] == [(b"\x01",)]
    assert one.solo.core.footprint()["observations"] == 1


def test_caller_that_leaves_before_it_is_told_is_told_nothing() -> None:
    one = watching()
    two = Watching(one.solo)
    two.observation.cancel(one.solo.now)
    one.solo.pass_time(0.0)
    assert two.told == []


# Bodies longer than a block


class Sink:
    def __init__(self) -> None:
        self.data = b""
        self.size: Optional[int] = None

    def begin(self, response: Response, size: Optional[int]) -> None:
        self.size = size

    def write_at(self, offset: int, data: bytes) -> None:
        assert offset == len(self.data)
        self.data += data


def block(number: int, more: bool, etag: bytes = b"") -> tuple[tuple[int, bytes], ...]:
    return ((BLOCK2, Block(number, more, 0).encode()), *(((ETAG, etag),) if etag else ()))


def piece(letter: bytes) -> bytes:
    return letter * 16


def fetch(watching: Watching, request: Message, letter: bytes, more: bool, etag: bytes = b"", **arguments: Any) -> Any:
    """Answer the request for a block with sixteen times `letter`."""
    number = request.options.uint(BLOCK2)
    assert number is not None
    return watching.answer(None, piece(letter), request, options=block(number >> 4, more, etag), **arguments)


def test_rest_of_a_long_notification_is_fetched_under_other_tokens() -> None:
    watching_ = watching(accept=50)
    registered = watching_.request
    assert registered is not None
    request, acknowledgement = watching_.notify(11, piece(b"x"), options=block(0, True, b"E"))
    assert acknowledgement == empty(ACK, 1001)
    assert (request.type, request.code) == (CON, codes.GET)
    assert request.token != registered.token
    assert without(request, BLOCK2) == without(registered, OBSERVE)
    (request,) = fetch(watching_, request, b"y", True, b"E")
    assert watching_.bodies == [b"a"]
    assert fetch(watching_, request, b"z", False, b"E") == []
    assert watching_.bodies == [b"a", piece(b"x") + piece(b"y") + piece(b"z")]
    assert isinstance(watching_.told[1], Response)
    assert watching_.told[1].is_notification


def test_long_first_response_is_fetched_too() -> None:
    watching = Watching(szx=0)
    assert watching.request is not None
    assert watching.request.options.get(BLOCK2) == b""
    (request,) = watching.answer(10, piece(b"x"), options=block(0, True, b"E"))
    fetch(watching, request, b"y", False, b"E")
    assert watching.bodies == [piece(b"x") + piece(b"y")]


def test_long_response_of_a_server_that_does_not_notify_is_fetched_and_the_last() -> None:
    watching = Watching()
    (request,) = watching.answer(None, piece(b"x"), options=block(0, True, b"E"))
    assert watching.told == []
    fetch(watching, request, b"y", False, b"E")
    assert watching.bodies == [piece(b"x") + piece(b"y")]
    assert watching.over_when_told == [True]
    assert watching.solo.forgets_everything()


def test_body_under_way_is_fetched_to_its_end_and_then_the_latest() -> None:
    watching_ = watching()
    request, _ = watching_.notify(11, piece(b"x"), options=block(0, True, b"E"))
    assert len(watching_.notify(12, piece(b"s"), options=block(0, True, b"F"))) == 1
    assert len(watching_.notify(13, piece(b"u"), options=block(0, True, b"G"))) == 1
    fetch(watching_, request, b"y", False, b"E")
    ((_, request),) = watching_.solo.pass_time(0.0)
    fetch(watching_, request, b"v", False, b"G")
    assert watching_.bodies == [b"a", piece(b"x") + piece(b"y"), piece(b"u") + piece(b"v")]


def test_body_that_changes_under_way_gives_way_to_the_latest() -> None:
    watching_ = watching()
    request, _ = watching_.notify(11, piece(b"x"), options=block(0, True, b"E"))
    watching_.notify(12, piece(b"s"), options=block(0, True, b"F"))
    fetch(watching_, request, b"t", False, b"F")
    ((_, request),) = watching_.solo.pass_time(0.0)
    fetch(watching_, request, b"t", False, b"F")
    assert watching_.bodies == [b"a", piece(b"s") + piece(b"t")]


def test_short_state_is_told_at_once_in_place_of_a_body_under_way() -> None:
    watching_ = watching()
    request, _ = watching_.notify(11, piece(b"x"), options=block(0, True, b"E"))
    assert watching_.notify(12, b"short") == [empty(ACK, 1002)]
    assert watching_.bodies == [b"a", b"short"]
    assert fetch(watching_, request, b"y", False, b"E") == []
    assert watching_.bodies == [b"a", b"short"]


@pytest.mark.parametrize("how", ["changed", "refused", "silence"])
def test_body_that_cannot_be_had_makes_it_register_again(how: str) -> None:
    watching_ = watching()
    request, _ = watching_.notify(11, piece(b"x"), options=(*block(0, True, b"E"), *max_age(600)))
    if how == "changed":
        fetch(watching_, request, b"t", False, b"F")
    elif how == "refused":
        watching_.answer(None, request=request, code=codes.REQUEST_ENTITY_INCOMPLETE)
    else:
        watching_.solo.pass_time(92.9)
    for _, message in watching_.solo.pass_time(20.0):
        if message.options.mask & 1 << OBSERVE:
            watching_.request = message
            break
    watching_.answer(20, b"z")
    assert watching_.bodies == [b"a", b"z"]
    assert not watching_.observation.is_over


def test_bodies_go_into_sinks_one_each() -> None:
    sinks: list[Sink] = []

    def sink() -> Sink:
        sinks.append(Sink())
        return sinks[-1]

    watching = Watching(sink=sink)
    watching.answer(10, b"a", options=((ETAG, b"A"),))
    request, _ = watching.notify(11, piece(b"x"), options=block(0, True, b"E"))
    fetch(watching, request, b"y", False, b"E")
    assert [sink_.data for sink_ in sinks] == [b"a", piece(b"x") + piece(b"y")]
    assert watching.bodies == [b"", b""]
    assert watching.next_request()[1].options.get(ETAG) is None  # no state is kept that a 2.03 could mean


def test_sink_is_not_shared() -> None:
    one = watching()
    with pytest.raises(UsageError, match="sink"):
        Watching(one.solo, sink=Sink)
    two = Watching(one.solo, sink=Sink, uri_path=("other",))
    with pytest.raises(UsageError, match="sink"):
        Watching(two.solo, uri_path=("other",))


def test_body_that_is_too_long_for_memory_is_given_up() -> None:
    watching = Watching(Solo(limits=Limits(assembled_body=20)))
    watching.answer(10, b"a")
    request, _ = watching.notify(11, piece(b"x"), options=block(0, True, b"E"))
    fetch(watching, request, b"y", False, b"E")
    assert watching.bodies == [b"a"]
    assert watching.next_request()[0] <= 15.0


def test_first_body_that_cannot_be_had_from_a_server_that_does_not_notify_is_the_error() -> None:
    watching = Watching()
    (request,) = watching.answer(None, piece(b"x"), options=block(0, True, b"E"))
    fetch(watching, request, b"y", False, b"F")
    watching.solo.pass_time(0.0)
    assert [type(outcome) for outcome in watching.told] == [BodyError]
    assert watching.over_when_told == [True]


def test_path_of_a_deregistration_does_not_matter() -> None:
    watching_ = watching()
    watching_.observation.cancel(watching_.solo.now)
    watching_.solo.core.path_failed(PEER, OSError(111, "refused"), watching_.solo.now)
    assert watching_.bodies == [b"a"]
    assert watching_.solo.forgets_everything()


def test_answer_to_a_deregistration_that_comes_by_itself_is_acknowledged_and_a_notification_rejected() -> None:
    watching = Watching()
    watching.answer(1, b"a")
    watching.observation.cancel(watching.solo.now)
    (goodbye,) = watching.solo.sent()
    (rejected,) = watching.solo.put(notify(CON, 7, goodbye.token, 2, b"b"))
    assert (rejected.type, rejected.message_id) == (RST, 7)
    watching.solo.put(empty_ack(goodbye))
    (taken,) = watching.solo.put(notify(CON, 8, goodbye.token, None, b"b"))
    assert (taken.type, taken.message_id) == (ACK, 8)
    (late,) = watching.solo.put(notify(CON, 9, goodbye.token, None, b"c"))
    assert late.type == RST
    assert watching.bodies == [b"a"]
