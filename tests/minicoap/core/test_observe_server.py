"""The list of observers and what they are sent (RFC 7641 §4): registration, notification, and every end of it."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any, Optional

import pytest

from minicoap.codec import codes
from minicoap.codec.message import ACK, CON, NON, RST, Message, encode
from minicoap.codec.options import (
    ACCEPT,
    BLOCK1,
    BLOCK2,
    CONTENT_FORMAT,
    ETAG,
    MAX_AGE,
    OBSERVE,
    URI_QUERY,
)
from minicoap.core.body import Block
from minicoap.core.parameters import Limits, TransmissionParameters
from minicoap.core.request import Deferred, Request, Response
from minicoap.core.resource import Resource, Site
from tests.minicoap.core.handlers import Later
from tests.minicoap.core.observing import REGISTER, State, acknowledging, deregister, number, register, value
from tests.minicoap.core.solo import OTHER, PEER, Solo, con, empty, empty_ack, non, reset


def changed(solo: Solo, state: State) -> list[Message]:
    """Change the state and return what is sent at once."""
    state.change()
    return [message for _, message in solo.pass_time(0.0)]


def observers(solo: Solo) -> int:
    return solo.core.footprint()["observers"]


# Registration


def test_registration_is_answered_by_a_notification_that_says_how_long_it_is_good_for() -> None:
    state = State()
    solo = Solo(state.site)
    (answer,) = solo.put(register())
    assert (answer.type, answer.code, answer.token, value(answer)) == (ACK, codes.CONTENT, b"t", 0)
    assert number(answer) is not None
    assert answer.options.uint(MAX_AGE) == 60
    assert observers(solo) == 1
    assert solo.core.next_timeout() is not None


def test_max_age_of_the_handler_is_kept() -> None:
    state = State()
    state.max_age = 7
    solo = Solo(state.site)
    (answer,) = solo.put(register())
    assert [value for number, value in answer.options.items if number == MAX_AGE] == [b"\x07"]
    (notification,) = changed(solo, state)
    assert [value for number, value in notification.options.items if number == MAX_AGE] == [b"\x07"]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (con(codes.GET, 1, b"t", "state", options=((OBSERVE, b"\x02"),)), codes.CONTENT),
        (con(codes.GET, 1, b"t", "state", options=((OBSERVE, b"\x00\x00\x00\x00"),)), codes.CONTENT),
        (con(codes.PUT, 1, b"t", "state", options=REGISTER), codes.CHANGED),
        (register(1, b"t", "plain"), codes.CONTENT),
        (register(1, b"t", "missing"), codes.NOT_FOUND),
        (register(1, b"t", "\udcff".encode(errors="surrogateescape").decode("latin-1")), codes.NOT_FOUND),
        (register(options=((BLOCK2, Block(1, False, 0).encode()),)), codes.BAD_REQUEST),
        (register(options=((BLOCK1, Block(0, True, 0).encode()),), payload=b"." * 16), codes.CONTINUE),
        (register(options=((ACCEPT, b"\x32"),)), codes.NOT_ACCEPTABLE),
    ],
    ids=[
        "unknown value", "value too long", "other method", "not observable", "not found", "odd path", "a later block",
        "a block of a body", "refused",
    ],
)  # fmt: skip
def test_what_cannot_be_a_registration_is_answered_without_the_option(request_: Message, code: int) -> None:
    state = State(content_formats=(0,))
    state.site.add(Resource("/plain", get=state.get))
    solo = Solo(state.site)
    (answer,) = solo.put(request_)
    assert (answer.code, number(answer), observers(solo)) == (code, None, 0)
    assert answer.options.uint(MAX_AGE) == (0 if code >> 5 == 4 else None)


def test_error_response_registers_nobody() -> None:
    state = State()
    state.code = codes.FORBIDDEN
    solo = Solo(state.site)
    (answer,) = solo.put(register())
    assert (answer.code, number(answer), observers(solo)) == (codes.FORBIDDEN, None, 0)
    assert changed(solo, state) == []


def test_non_confirmable_registration_is_answered_alike() -> None:
    solo = Solo(State().site)
    (answer,) = solo.put(non(codes.GET, 1, b"t", "state", options=REGISTER))
    assert (answer.type, value(answer), observers(solo)) == (NON, 0, 1)
    assert number(answer) is not None


@pytest.mark.parametrize("limits", [Limits(observers=2), Limits(observers_per_peer=2)], ids=["in all", "of one peer"])
def test_observers_above_the_limit_get_a_plain_answer(limits: Limits) -> None:
    state = State()
    solo = Solo(state.site, limits=limits)
    queries = [((URI_QUERY, b"%d" % index),) for index in range(3)]
    answers = [solo.put(register(index, b"%d" % index, options=query))[0] for index, query in enumerate(queries)]
    assert [number(answer) is not None for answer in answers] == [True, True, False]
    assert [value(answer) for answer in answers] == [0, 0, 0]
    assert observers(solo) == 2
    solo.put(deregister(9, b"0", "state"))
    assert number(solo.put(register(10, b"2", options=queries[2]))[0]) is not None


def test_limit_of_a_peer_is_no_other_peers() -> None:
    solo = Solo(State().site, limits=Limits(observers_per_peer=1))
    assert number(solo.put(register())[0]) is not None
    assert number(solo.put(register(), OTHER)[0]) is not None


# Notification


def test_change_is_notified_under_the_token_with_a_greater_number() -> None:
    state = State()
    solo = Solo(state.site)
    (first,) = solo.put(register())
    (notification,) = changed(solo, state)
    assert (notification.type, notification.code, notification.token) == (CON, codes.CONTENT, b"t")
    assert (value(notification), notification.options.uint(MAX_AGE)) == (1, 60)
    assert notification.options.uint(CONTENT_FORMAT) == 0
    assert number(notification) > number(first)  # type: ignore[operator]
    assert notification.message_id != first.message_id
    assert solo.put(empty_ack(notification)) == []
    assert solo.pass_time(3600.0) == []


def test_handler_runs_once_for_all_who_asked_the_same() -> None:
    state = State()
    solo = Solo(state.site)
    paths = [("127.0.0.9", port) for port in range(20)]
    for index, path in enumerate(paths):
        accept = ((ACCEPT, b""),) if index % 2 else ()
        solo.put(register(1, b"%d" % index, options=accept), path)
    state.asked.clear()
    notifications = changed(solo, state)
    assert sorted(message.token for message in notifications) == sorted(b"%d" % index for index in range(20))
    assert sorted(request.accept is None for request in state.asked) == [False, True]
    assert all(value(message) == 1 for message in notifications)
    assert all(not request.options.mask & 1 << OBSERVE for request in state.asked)


def test_change_by_a_request_is_notified_after_its_answer() -> None:
    state = State()
    solo = Solo(state.site)
    solo.put(register(), OTHER)
    (answer,) = solo.put(con(codes.PUT, 5, b"p", "state"))
    assert answer.code == codes.CHANGED
    ((when, notification),) = solo.pass_time(0.0)
    assert (when, value(notification)) == (solo.now, 1)


def test_changes_of_one_moment_are_one_notification() -> None:
    state = State()
    solo = Solo(state.site)
    solo.put(register())
    state.asked.clear()
    state.change()
    state.change()
    (notification,) = changed(solo, state)
    assert (value(notification), len(state.asked)) == (3, 1)


def test_change_of_another_path_and_of_none_is_nobody_elses() -> None:
    state = State("/nodes/{id}")
    solo = Solo(state.site)
    solo.put(register(1, b"a", "nodes", "7"))
    solo.put(register(2, b"b", "nodes", "8"))
    for path in ("/nodes", "/nodes/9", "/nodes/{id}", "/", "/nodes/7/"):
        state.site.changed(path)
        assert solo.pass_time(1.0) == [], path
    state.site.changed("/nodes/7")
    ((_, notification),) = solo.pass_time(0.0)
    assert (notification.token, state.asked[-1].args) == (b"a", {"id": "7"})


def test_changed_path_without_slash_is_an_error() -> None:
    with pytest.raises(Exception, match="slash"):
        State().site.changed("state")


def test_lenient_site_notifies_whatever_the_spelling() -> None:
    site = Site(Resource("/a/b", get=lambda request: Response(payload=b"0;"), observable=True), lenient_paths=True)
    solo = Solo(site)
    for index, path in enumerate((("a", "b"), ("a/b",), ("a", "", "b"), ("a", "%62"))):
        (answer,) = solo.put(register(index, b"%d" % index, *path), ("192.0.2.1", index))
        assert number(answer) is not None
    site.changed("/a/b")
    assert len(solo.pass_time(0.0)) == 4


def test_burst_leaves_in_parts_that_let_other_business_have_its_turn() -> None:
    state = State()
    solo = Solo(state.site)
    for port in range(600):
        solo.put(register(), ("127.0.0.9", port))
    state.change()
    times = [when for when, _ in solo.pass_time(0.1)]
    assert [times.count(when) for when in sorted(set(times))] == [256, 256, 88]
    assert len(state.asked) == 601


@pytest.mark.parametrize("seconds", [1.0, 511.0])
def test_number_is_24_bits_of_one_that_grows_slowly_enough(seconds: float) -> None:
    state = State()
    solo = Solo(state.site)
    solo.now = (1 << 24) / (1 << 15) - 0.5
    (last,) = solo.put(register())
    for _ in range(3):
        solo.pass_time(seconds)
        (notification,) = changed(solo, state)
        grown = (number(notification) - number(last)) % (1 << 24)  # type: ignore[operator]
        assert grown > 0
        assert grown <= (1 << 23) * seconds / 256 + 1 or seconds > 256
        solo.put(empty_ack(notification))
        last = notification
    assert number(last) < 1 << 24  # type: ignore[operator]


def test_number_grows_even_if_time_stands_still() -> None:
    state = State()
    solo = Solo(state.site)
    numbers = [number(solo.put(register())[0])]
    for _ in range(5):
        (notification,) = changed(solo, state)
        numbers.append(number(notification))
        solo.put(empty_ack(notification))
    assert numbers == sorted(set(numbers))  # type: ignore[type-var]


# Congestion control (§4.5.1) and renewal (§4.5.2)


def test_one_notification_is_outstanding_and_the_next_carries_the_latest_state() -> None:
    state = State()
    solo = Solo(state.site)
    solo.put(register())
    (first,) = changed(solo, state)
    assert changed(solo, state) == changed(solo, state) == []
    solo.put(empty_ack(first))
    ((_, second),) = solo.pass_time(0.0)
    assert value(second) == 3
    solo.put(empty_ack(second))
    assert solo.pass_time(3600.0) == []


@pytest.mark.parametrize("nstart", [1, 2])
def test_observations_of_one_client_share_nstart_in_turn(nstart: int) -> None:
    state = State()
    solo = Solo(state.site, parameters=TransmissionParameters(nstart=nstart, congestion_controlled=True))
    for index in range(4):
        solo.put(register(index, b"%d" % index, options=((URI_QUERY, b"%d" % index),)))
    sent = changed(solo, state)
    tokens = []
    while sent:
        assert len(sent) <= nstart
        tokens += [message.token for message in sent]
        for message in sent:
            solo.put(empty_ack(message))
        sent = [message for _, message in solo.pass_time(0.0)]
    assert tokens == [b"0", b"1", b"2", b"3"]


def test_notification_waits_for_a_request_of_ours_and_goes_when_that_is_through() -> None:
    state = State()
    solo = Solo(state.site)
    solo.put(register())
    solo.request(codes.GET, "there")
    (request,) = solo.sent()
    assert changed(solo, state) == []
    solo.put(empty_ack(request))
    assert [value(message) for _, message in solo.pass_time(0.0)] == [1]


def test_repeated_notification_has_a_current_number_and_its_old_id() -> None:
    state = State()
    solo = Solo(state.site)
    solo.put(register())
    sent = changed(solo, state) + [message for _, message in solo.pass_time(40.0)]
    assert len(sent) == 5
    assert len({message.message_id for message in sent}) == 1
    grown = [(number(after) - number(before)) % (1 << 24) for before, after in zip(sent, sent[1:])]  # type: ignore[operator]
    assert all(0 < step < 1 << 23 for step in grown)
    assert {value(message) for message in sent} == {1}


def test_repetition_is_superseded_by_the_latest_state_without_starting_over() -> None:
    state = State()
    solo = Solo(state.site)
    solo.put(register())
    (first,) = changed(solo, state)
    started = solo.now
    assert changed(solo, state) == []
    transmissions = solo.pass_time(100.0)
    assert [value(message) for _, message in transmissions] == [2, 2, 2, 2]  # the fifth transmission is the last
    assert len({message.message_id for _, message in transmissions} | {first.message_id}) == 2
    gaps = [after - before for (before, _), (after, _) in zip([(started, first), *transmissions], transmissions)]
    assert gaps == pytest.approx([gaps[0] * 2**index for index in range(4)])
    assert observers(solo) == 0


def test_acknowledgement_of_what_was_superseded_is_no_end() -> None:
    state = State()
    solo = Solo(state.site)
    solo.put(register())
    (first,) = changed(solo, state)
    state.change()
    ((_, second),) = solo.pass_time(3.5)
    assert value(second) == 2
    solo.put(empty_ack(first))
    assert observers(solo) == 1
    solo.put(empty_ack(second))
    assert solo.pass_time(3600.0) == []
    assert observers(solo) == 1


def test_state_that_was_rendered_too_long_ago_is_asked_for_again() -> None:
    state = State()
    state.max_age = 1
    solo = Solo(state.site)
    for index in range(2):
        solo.put(register(1, b"%d" % index), ("127.0.0.9", index))
    _, other = changed(solo, state)
    solo.put(empty_ack(other), ("127.0.0.9", 1))
    (notification,) = changed(solo, state)
    solo.put(empty_ack(notification), ("127.0.0.9", 1))
    state.asked.clear()
    ((_, late),) = solo.pass_time(3.5)
    assert (late.token, value(late), late.options.uint(MAX_AGE), len(state.asked)) == (b"0", 2, 1, 1)


def test_late_recipient_of_a_rendering_is_told_the_age_that_is_left() -> None:
    state = State()
    solo = Solo(state.site)
    for index in range(2):
        solo.put(register(1, b"%d" % index), ("127.0.0.9", index))
    blocked, other = changed(solo, state)
    solo.put(empty_ack(other), ("127.0.0.9", 1))
    changed(solo, state)
    state.asked.clear()
    solo.now += 1.5
    solo.put(empty_ack(blocked), ("127.0.0.9", 0))
    ((_, late),) = solo.pass_time(0.0)
    assert (value(late), late.options.uint(MAX_AGE), state.asked) == (2, 59, [])


# Non-confirmable notifications


def test_non_confirmable_notifications_keep_three_seconds_apart_for_each_client() -> None:
    state = State(notify_confirmable=False)
    solo = Solo(state.site)
    for index in range(2):
        solo.put(register(index, b"%d" % index, options=((URI_QUERY, b"%d" % index),)))
    solo.put(register(9, b"x"), OTHER)
    sent = []
    for _ in range(30):
        state.change()
        sent += acknowledging(solo, 0.5)
    for tokens in ((b"0", b"1"), (b"x",)):
        times = [when for when, message in sent if message.token in tokens and message.type == NON]
        assert len(times) > 3
        assert min(after - before for before, after in zip(times, times[1:])) >= 3.0
    assert [message.token for _, message in sent if message.token != b"x"][:4] == [b"0", b"1", b"0", b"1"]


def test_every_sixth_notification_is_confirmable() -> None:
    state = State(notify_confirmable=False)
    solo = Solo(state.site)
    solo.put(register())
    types = []
    for _ in range(14):
        state.change()
        types += [message.type for _, message in acknowledging(solo, 10.0)]
    assert types == [NON] * 5 + [CON] + [NON] * 5 + [CON] + [NON] * 2


def test_last_state_of_a_series_is_confirmed_when_its_max_age_is_over() -> None:
    state = State(notify_confirmable=False)
    state.max_age = 20
    solo = Solo(state.site)
    solo.put(register())
    start = solo.now
    for _ in range(2):
        state.change()
        acknowledging(solo, 10.0)
    sent = acknowledging(solo, 20.0)
    assert [(when - start, message.type, value(message)) for when, message in sent] == [(30.0, CON, 2)]
    assert solo.pass_time(3600.0) == []


def test_last_state_is_confirmed_within_an_hour_however_long_it_is_good_for() -> None:
    state = State(notify_confirmable=False)
    state.max_age = 10 * 24 * 3600
    solo = Solo(state.site)
    solo.put(register())
    start = solo.now
    state.change()
    sent = acknowledging(solo, 10 * 3600.0)
    assert [(when - start, message.type) for when, message in sent] == [(0.0, NON), (3600.0, CON)]


@pytest.mark.parametrize("max_age", [0, 2])
def test_confirmation_of_what_ages_fast_waits_its_turn(max_age: int) -> None:
    state = State(notify_confirmable=False)
    state.max_age = max_age
    solo = Solo(state.site)
    solo.put(register())
    start = solo.now
    state.change()
    sent = acknowledging(solo, 100.0)
    assert [(when - start, message.type) for when, message in sent] == [(0.0, NON), (3.0, CON)]


@pytest.mark.parametrize("interval", [1800.0, 3599.0, 7200.0, 6 * 3600.0, 20 * 3600.0])
def test_no_24_hours_pass_without_a_confirmable_notification(interval: float) -> None:
    state = State(notify_confirmable=False)
    state.max_age = 10 * 24 * 3600
    solo = Solo(state.site)
    solo.put(register())
    confirmed = [solo.now]
    for _ in range(int(10 * 24 * 3600 / interval)):
        state.change()
        sent = acknowledging(solo, interval)
        confirmed += [when for when, message in sent if message.type == CON]
    confirmed.append(solo.now)
    assert max(after - before for before, after in zip(confirmed, confirmed[1:])) <= 24 * 3600
    assert observers(solo) == 1


def test_observer_of_what_never_changes_is_asked_once_a_day() -> None:
    solo = Solo(State().site)
    solo.put(register())
    start = solo.now
    days = acknowledging(solo, 2.5 * 24 * 3600)
    assert [(when - start, message.type) for when, message in days] == [(24 * 3600.0, CON), (48 * 3600.0, CON)]
    assert len(solo.pass_time(24 * 3600)) == 5  # nobody is there any more
    assert observers(solo) == 0


# Ends


def ended(solo: Solo, state: State) -> bool:
    """Whether nobody observes any more and nothing of it is left."""
    assert changed(solo, state) == []
    assert observers(solo) == 0
    return solo.forgets_everything()


@pytest.mark.parametrize("confirmable", [True, False])
def test_reset_ends_the_observation(confirmable: bool) -> None:
    state = State(notify_confirmable=confirmable)
    solo = Solo(state.site)
    solo.put(register())
    solo.put(register(7, b"u", options=((URI_QUERY, b"other"),)))
    sent = changed(solo, state)
    assert [(message.type, message.token) for message in sent] == [(CON if confirmable else NON, b"t")]
    solo.put(reset(sent[0]))
    assert observers(solo) == 1
    ((_, other),) = solo.pass_time(0.0)  # nothing is outstanding any more, so the other one has its turn
    assert other.token == b"u"
    solo.put(reset(other))
    assert ended(solo, state)


def test_acknowledgement_of_a_non_confirmable_notification_means_nothing() -> None:
    state = State(notify_confirmable=False)
    solo = Solo(state.site)
    solo.put(register())
    (notification,) = changed(solo, state)
    solo.put(empty(ACK, notification.message_id))
    assert observers(solo) == 1
    assert changed(solo, state) == []  # the three seconds are not over
    assert solo.put(reset(notification)) == []
    assert ended(solo, state)


def test_reset_of_another_message_means_nothing() -> None:
    state = State(notify_confirmable=False)
    solo = Solo(state.site)
    solo.put(register())
    (notification,) = changed(solo, state)
    solo.put(empty(RST, notification.message_id + 1 & 0xFFFF))
    solo.put(reset(notification), OTHER)
    assert observers(solo) == 1


def test_silence_ends_the_observation() -> None:
    state = State()
    solo = Solo(state.site)
    solo.put(register())
    changed(solo, state)
    solo.pass_time(92.0)
    assert ended(solo, state)


def test_deregistration_is_answered_as_a_get_and_ends_the_observation() -> None:
    state = State()
    solo = Solo(state.site)
    solo.put(register())
    (notification,) = changed(solo, state)
    (answer,) = solo.put(deregister())
    assert (answer.type, answer.code, number(answer), value(answer)) == (ACK, codes.CONTENT, None, 1)
    assert solo.pass_time(100.0) == []  # the outstanding notification is not repeated either
    assert solo.put(empty_ack(notification)) == []
    assert ended(solo, state)


@pytest.mark.parametrize(("token", "path"), [(b"u", PEER), (b"t", OTHER)])
def test_deregistration_of_another_token_or_peer_ends_nothing(token: bytes, path: Any) -> None:
    state = State()
    solo = Solo(state.site)
    solo.put(register())
    solo.put(deregister(5, token), path)
    assert len(changed(solo, state)) == 1


def test_plain_get_ends_nothing() -> None:
    state = State()
    solo = Solo(state.site)
    solo.put(register())
    (answer,) = solo.put(con(codes.GET, 5, b"u", "state"))
    assert (number(answer), answer.options.uint(MAX_AGE)) == (None, None)
    assert len(changed(solo, state)) == 1


@pytest.mark.parametrize(
    ("again", "tokens"),
    [
        (register(5, b"t"), [b"t"]),
        (register(5, b"u"), [b"u"]),
        (register(5, b"t", options=((URI_QUERY, b"x"),)), [b"t"]),
        (register(5, b"u", options=((URI_QUERY, b"x"),)), [b"t", b"u"]),
    ],
    ids=["the same", "the same request, another token", "the same token, another request", "another"],
)
def test_registration_replaces_what_has_its_token_or_its_target(again: Message, tokens: list[bytes]) -> None:
    state = State()
    solo = Solo(state.site, parameters=TransmissionParameters(nstart=10, congestion_controlled=True))
    (first,) = solo.put(register())
    (second,) = solo.put(again)
    assert number(second) > number(first) or second.token != first.token  # type: ignore[operator]
    assert observers(solo) == len(tokens)
    assert [message.token for message in changed(solo, state)] == tokens


def test_registration_under_the_token_of_an_observation_ends_it_even_if_it_fails() -> None:
    state = State()
    state.site.add(Resource("/plain", get=state.get))
    solo = Solo(state.site)
    solo.put(register())
    solo.put(register(5, b"t", "plain"))
    assert ended(solo, state)


def test_reset_of_what_was_sent_before_a_new_registration_does_not_end_that() -> None:
    state = State(notify_confirmable=False)
    solo = Solo(state.site)
    solo.put(register())
    (notification,) = changed(solo, state)
    solo.put(register(5))
    solo.put(reset(notification))
    assert observers(solo) == 1
    assert len(changed(solo, state)) == 1


def test_new_registration_takes_the_place_of_an_outstanding_notification() -> None:
    state = State()
    solo = Solo(state.site)
    solo.put(register())
    changed(solo, state)
    (answer,) = solo.put(register(5))
    assert value(answer) == 1
    assert solo.pass_time(3600.0) == []
    (notification,) = changed(solo, state)
    assert value(notification) == 2


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"code": codes.NOT_FOUND}, codes.NOT_FOUND),
        ({"code": codes.INTERNAL_SERVER_ERROR}, codes.INTERNAL_SERVER_ERROR),
        ({"content_format": 50}, codes.NOT_ACCEPTABLE),
        ({"content_format": None}, codes.NOT_ACCEPTABLE),
        ({"get": None}, codes.INTERNAL_SERVER_ERROR),
    ],
    ids=["gone", "error", "another format", "no format", "broken handler"],
)
@pytest.mark.parametrize("confirmable", [True, False])
def test_what_cannot_be_notified_is_told_reliably_and_is_the_end(
    change: dict[str, Any], code: int, confirmable: bool
) -> None:
    state = State(notify_confirmable=confirmable)
    solo = Solo(state.site)
    for index in range(2):
        solo.put(register(1, b"%d" % index), ("127.0.0.9", index))
    if "get" in change:
        change = {"body": lambda: 1 // 0}
    for name, new in change.items():
        setattr(state, name, new)
    sent = changed(solo, state)
    assert [(message.type, message.code, number(message)) for message in sent] == [(CON, code, None)] * 2
    assert observers(solo) == 0
    solo.put(empty_ack(sent[0]), ("127.0.0.9", 0))
    assert len(solo.pass_time(100.0)) == 4  # the other did not get it
    assert ended(solo, state)


def test_end_supersedes_what_is_outstanding() -> None:
    state = State()
    solo = Solo(state.site)
    solo.put(register())
    changed(solo, state)
    state.code = codes.NOT_FOUND
    state.change()
    ((_, first), (_, second)) = solo.pass_time(10.0)
    assert [(message.code, number(message)) for message in (first, second)] == [(codes.NOT_FOUND, None)] * 2
    assert observers(solo) == 0
    solo.put(empty_ack(second))
    assert ended(solo, state)


def test_path_that_fails_ends_all_observations_of_its_peer() -> None:
    state = State()
    solo = Solo(state.site)
    solo.put(register())
    solo.put(register(7, b"u", options=((URI_QUERY, b"other"),)))
    solo.put(register(), OTHER)
    solo.core.path_failed(PEER, OSError(111, "refused"), solo.now)
    assert observers(solo) == 1
    assert len(changed(solo, state)) == 1


def test_peer_with_an_observation_is_not_forgotten() -> None:
    state = State()
    solo = Solo(state.site)
    solo.put(register())
    for _ in range(20):
        assert solo.pass_time(1000.0) == []
        assert solo.core.footprint()["peers"] == 1
    assert len(changed(solo, state)) == 1


# Handlers that answer later


def later_site() -> tuple[Later, Site]:
    later = Later()
    return later, Site(Resource("/later", get=later.handle, observable=True))


def resolve(solo: Solo, deferred: Deferred, text: bytes, code: int = codes.CONTENT) -> list[Message]:
    deferred.resolve(Response(code, text, 0), solo.now)
    return solo.sent() + [message for _, message in solo.pass_time(0.0)]


@pytest.mark.parametrize("delay", [0.5, 5.0])
def test_registration_may_be_answered_later(delay: float) -> None:
    later, site = later_site()
    solo = Solo(site)
    solo.put(register(1, b"t", "later"))
    solo.pass_time(delay)
    (answer,) = resolve(solo, later.deferred[0], b"1;")
    assert (answer.type, answer.token, value(answer)) == (ACK if delay < 1 else CON, b"t", 1)
    assert number(answer) is not None
    assert answer.options.uint(MAX_AGE) == 60
    if delay > 1:
        solo.put(empty_ack(answer))
    site.changed("/later")
    assert solo.pass_time(0.0) == []
    (notification,) = resolve(solo, later.deferred[1], b"2;")
    assert value(notification) == 2
    solo.put(reset(notification))
    assert solo.forgets_everything()


def test_registration_refused_later_is_none() -> None:
    later, site = later_site()
    solo = Solo(site)
    solo.put(register(1, b"t", "later"))
    (answer,) = resolve(solo, later.deferred[0], b"", codes.NOT_FOUND)
    assert (answer.code, number(answer)) == (codes.NOT_FOUND, None)
    assert solo.forgets_everything()


def test_change_before_the_first_answer_is_notified_after_it() -> None:
    later, site = later_site()
    solo = Solo(site)
    solo.put(register(1, b"t", "later"))
    site.changed("/later")
    assert solo.pass_time(0.0) == []
    (answer,) = resolve(solo, later.deferred[0], b"1;")
    assert (answer.type, value(answer)) == (ACK, 1)
    (notification,) = resolve(solo, later.deferred[1], b"2;")
    assert (notification.type, value(notification)) == (CON, 2)


def test_nothing_is_notified_before_the_answer_to_another_registration() -> None:
    later, site = later_site()
    solo = Solo(site)
    for path in (PEER, OTHER):
        solo.put(register(1, b"t", "later"), path)
        resolve(solo, later.deferred[-1], b"0;")
    solo.put(register(2, b"t", "later"))
    site.changed("/later")
    solo.pass_time(0.0)
    (notification,) = resolve(solo, later.deferred[3], b"1;")  # the other one's
    (answer, follower) = resolve(solo, later.deferred[2], b"0;")
    assert [value(message) for message in (notification, answer, follower)] == [1, 0, 1]
    assert (answer.type, follower.type) == (ACK, CON)
    assert number(follower) > number(answer)  # type: ignore[operator]


def test_deregistration_before_the_first_answer_leaves_a_plain_one() -> None:
    later, site = later_site()
    solo = Solo(site)
    solo.put(register(1, b"t", "later"))
    solo.put(deregister(2, b"t", "later"))
    (answer,) = resolve(solo, later.deferred[0], b"1;")
    assert number(answer) is None
    resolve(solo, later.deferred[1], b"1;")
    assert solo.forgets_everything()


def test_late_rendering_is_shared_and_overtaken_by_the_next() -> None:
    later, site = later_site()
    solo = Solo(site)
    for index in range(3):
        solo.put(register(1, b"%d" % index, "later"), ("127.0.0.9", index))
        resolve(solo, later.deferred[index], b"0;")
    site.changed("/later")
    solo.pass_time(0.0)
    site.changed("/later")
    assert solo.pass_time(0.0) == []
    assert len(later.deferred) == 4
    sent = resolve(solo, later.deferred[3], b"1;")
    assert [value(message) for message in sent] == [1, 1, 1]  # of the change before the last, but not to be held back
    assert len(later.deferred) == 5
    for index, message in enumerate(sent):
        solo.put(empty_ack(message), ("127.0.0.9", index))
    solo.pass_time(0.0)
    assert [value(message) for message in resolve(solo, later.deferred[4], b"2;")] == [2, 2, 2]
    assert len(later.deferred) == 5


def test_rendering_that_comes_when_nobody_waits_any_more_is_dropped() -> None:
    later, site = later_site()
    solo = Solo(site)
    solo.put(register(1, b"t", "later"))
    resolve(solo, later.deferred[0], b"0;")
    site.changed("/later")
    solo.pass_time(0.0)
    solo.put(deregister(2, b"t", "later"))
    assert resolve(solo, later.deferred[1], b"1;".ljust(3000)) == []
    assert solo.core.footprint()["bodies"] == 0
    resolve(solo, later.deferred[2], b"1;")
    assert solo.forgets_everything()


def test_repetition_while_the_new_state_is_not_there_yet_is_of_the_old_one() -> None:
    later, site = later_site()
    solo = Solo(site)
    solo.put(register(1, b"t", "later"))
    resolve(solo, later.deferred[0], b"0;")
    site.changed("/later")
    solo.pass_time(0.0)
    resolve(solo, later.deferred[1], b"1;")
    site.changed("/later")
    assert [value(message) for _, message in solo.pass_time(4.0)] == [1]
    assert resolve(solo, later.deferred[2], b"2;") == []
    assert [value(message) for _, message in solo.pass_time(5.0)] == [2]


# Long representations (RFC 7959 §2.6)


def block2(message: Message) -> Optional[tuple[int, bool, int]]:
    found = message.options.uint(BLOCK2)
    return None if found is None else (found >> 4, bool(found & 8), 16 << (found & 7))


def next_block(solo: Solo, index: int, path: Any = PEER, size: int = 6) -> Message:
    options = ((BLOCK2, Block(index, False, size).encode()),)
    (answer,) = solo.put(con(codes.GET, 100 + index, b"b%d" % index, "state", options=options), path)
    return answer


def test_long_representation_is_notified_by_its_first_block_and_the_rest_is_kept_for_all() -> None:
    state = State()
    state.size = 2500
    solo = Solo(state.site)
    paths = [("127.0.0.9", port) for port in range(3)]
    for path in paths:
        (answer,) = solo.put(register(), path)
        assert block2(answer) == (0, True, 1024)
    sent = changed(solo, state)
    state.asked.clear()
    for path, first in zip(paths, sent):
        assert (block2(first), len(first.payload), value(first)) == ((0, True, 1024), 1024, 1)
        assert number(first) is not None
        solo.put(empty_ack(first), path)
        blocks = [first, *(next_block(solo, index, path) for index in (1, 2))]
        assert b"".join(block.payload for block in blocks) == state.body()
        assert len({block.options.get(ETAG) for block in blocks}) == 1
        assert [number(block) for block in blocks[1:]] == [None, None]
    assert state.asked == []
    assert len(sent) == 3


def test_later_block_cannot_be_observed() -> None:
    state = State()
    state.size = 2500
    solo = Solo(state.site)
    (answer,) = solo.put(register(options=((BLOCK2, Block(1, False, 6).encode()),)))
    assert (answer.code, block2(answer), number(answer)) == (codes.CONTENT, (1, True, 1024), None)
    assert observers(solo) == 0


def test_long_answers_to_fetch_are_kept_for_each_client_of_its_own() -> None:
    def fetch(request: Request) -> Response:
        return Response(payload=request.payload * 2000)

    site = Site(Resource("/state", fetch=fetch, observable=True))
    solo = Solo(site)
    for letter, path in ((b"a", PEER), (b"b", OTHER)):
        solo.put(register(1, letter, code=codes.FETCH, payload=letter), path)
    site.changed("/state")
    assert len(solo.pass_time(0.0)) == 2
    for letter, path in ((b"a", PEER), (b"b", OTHER)):
        options = ((BLOCK2, Block(1, False, 6).encode()),)
        (answer,) = solo.put(con(codes.FETCH, 9, b"n", "state", options=options), path)
        assert answer.payload == letter * 976


def test_block_size_of_the_registration_holds_for_notifications() -> None:
    state = State()
    state.size = 100
    solo = Solo(state.site)
    (answer,) = solo.put(register(options=((BLOCK2, Block(0, False, 1).encode()),)))
    assert block2(answer) == (0, True, 32)
    (notification,) = changed(solo, state)
    assert block2(notification) == (0, True, 32)
    state.asked.clear()
    blocks = [notification, *(next_block(solo, index, size=1) for index in (1, 2, 3))]
    assert b"".join(block.payload for block in blocks) == state.body()
    assert state.asked == []


def test_kept_body_is_that_of_the_last_notification_and_goes_with_the_observers() -> None:
    state = State()
    state.size = 2500
    solo = Solo(state.site)
    solo.put(register())
    (first,) = changed(solo, state)
    solo.put(empty_ack(first))
    (second,) = changed(solo, state)
    assert next_block(solo, 1).options.get(ETAG) == second.options.get(ETAG) != first.options.get(ETAG)
    bodies = solo.core.footprint()["bodies"]
    solo.put(reset(second))
    assert solo.core.footprint()["bodies"] == bodies - 1
    state.size = 0
    assert ended(solo, state)


def test_renewed_notification_is_followed_by_its_own_blocks_whatever_the_client_has_asked_for_meanwhile() -> None:
    state = State()
    state.size = 2500
    solo = Solo(state.site)
    solo.put(register())
    changed(solo, state)  # never acknowledged
    solo.put(con(codes.GET, 50, b"g", "state"))
    next_block(solo, 1)
    state.change()
    ((_, renewed),) = solo.pass_time(3.0)
    assert value(renewed) == 2
    solo.put(empty_ack(renewed))
    assert next_block(solo, 2).options.get(ETAG) == renewed.options.get(ETAG)


def test_body_that_has_become_short_is_not_kept() -> None:
    state = State()
    state.size = 2500
    solo = Solo(state.site)
    solo.put(register())
    next_block(solo, 1)
    next_block(solo, 2)
    (first,) = changed(solo, state)
    assert solo.core.footprint()["bodies"] == 1
    solo.put(empty_ack(first))
    state.size = 0
    changed(solo, state)
    assert solo.core.footprint()["bodies"] == 0


def test_many_observers_of_one_long_body_hold_it_once() -> None:
    state = State()
    state.size = 4000
    solo = Solo(state.site, limits=Limits(open_body_bytes=10_000))
    for port in range(50):
        path = ("127.0.0.9", port)
        (answer,) = solo.put(register(), path)
        assert answer.code == codes.CONTENT
        for index in (1, 2, 3):
            next_block(solo, index, path)
    assert len(changed(solo, state)) == 50
    assert solo.core.footprint()["bodies"] == 1


# Validation (§4.3.2), FETCH (RFC 8132 §2.4)


def test_state_that_the_client_has_is_confirmed_and_not_sent() -> None:
    state = State()
    state.etags = True
    solo = Solo(state.site)
    (answer,) = solo.put(register(options=((ETAG, b"v0"), (ETAG, b"v2"))))
    assert (answer.code, answer.payload, answer.options.get(ETAG)) == (codes.VALID, b"", b"v0")
    assert number(answer) is not None
    (first,) = changed(solo, state)
    assert (first.code, value(first)) == (codes.CONTENT, 1)
    solo.put(empty_ack(first))
    (second,) = changed(solo, state)
    assert (second.code, second.payload, second.options.get(ETAG)) == (codes.VALID, b"", b"v2")
    assert second.options.uint(MAX_AGE) == 60
    assert number(second) > number(first)  # type: ignore[operator]
    assert second.options.uint(CONTENT_FORMAT) is None


def test_etags_of_one_observer_are_no_other_ones() -> None:
    state = State()
    state.etags = True
    solo = Solo(state.site)
    solo.put(register(options=((ETAG, b"v1"),)))
    solo.put(register(), OTHER)
    assert [message.code for message in changed(solo, state)] == [codes.VALID, codes.CONTENT]


def test_fetch_is_observed_as_get_is_each_payload_for_itself() -> None:
    asked: list[Request] = []

    def fetch(request: Request) -> Response:
        asked.append(request)
        return Response(payload=request.payload)

    site = Site(Resource("/state", fetch=fetch, observable=True))
    solo = Solo(site, parameters=TransmissionParameters(nstart=9, congestion_controlled=True))
    for token, payload in ((b"a", b"1"), (b"b", b"2")):
        (answer,) = solo.put(register(1, token, code=codes.FETCH, payload=payload))
        assert number(answer) is not None
    site.changed("/state")
    sent = [(message.token, message.payload) for _, message in solo.pass_time(0.0)]
    assert sent == [(b"a", b"1"), (b"b", b"2")]


# Memory


def test_observer_takes_no_more_than_500_bytes_its_peer_included() -> None:
    state = State()
    solo = Solo(state.site)
    count = 2000
    paths = [("127.0.0.9", port) for port in range(count)]
    requests = [encode(register(2, b"%04d" % port)) for port in range(count)]
    solo.put(register(), OTHER)
    gc.collect()
    tracemalloc.start()
    for path, request in zip(paths, requests):
        solo.core.datagram_received(request, path, solo.now)
        solo.core.datagrams_to_send()
        state.asked.clear()
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert observers(solo) == count + 1
    print(f"{size / count:.0f} bytes an observer")
    assert size / count <= 500


def test_rendering_is_kept_only_while_somebody_waits_for_it() -> None:
    state = State()
    solo = Solo(state.site)
    for index in range(2):
        solo.put(register(1, b"%d" % index), ("192.0.2.9", index))
    (subject,) = solo.core._exchanges.observers._subjects.values()
    first = changed(solo, state)
    assert subject.rendering is None
    solo.put(empty_ack(first[0]), ("192.0.2.9", 0))
    (second,) = changed(solo, state)
    assert (subject.behind, subject.rendering is None) == (1, False)
    solo.put(empty_ack(first[1]), ("192.0.2.9", 1))
    solo.pass_time(0.0)
    assert (subject.behind, subject.rendering) == (0, None)
    assert value(second) == 2


@pytest.mark.parametrize("confirmable", [True, False])
def test_observers_that_come_and_go_leave_nothing(confirmable: bool) -> None:
    state = State(notify_confirmable=confirmable)
    solo = Solo(state.site)
    paths = [("127.0.0.9", port) for port in range(100)]
    for cycle in range(30):
        for index, path in enumerate(paths):
            solo.put(register(cycle, b"%d" % cycle, options=((URI_QUERY, b"%d" % (index % 7)),)), path)
        state.change()
        solo.pass_time(1.0)
        for path in paths[cycle % 3 :: 2]:
            solo.put(deregister(cycle + 100, b"%d" % cycle), path)
    solo.pass_time(24 * 3600.0)
    assert observers(solo) == 0
    assert solo.forgets_everything()
    owner = solo.core._exchanges.observers
    for table in ("_subjects", "_by_path", "_registering", "_changed", "_ready"):
        assert not getattr(owner, table), table
