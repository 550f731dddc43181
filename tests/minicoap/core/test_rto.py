"""The estimator of retransmission timeouts, and the message layer that follows it (RFC 6298)."""

from __future__ import annotations

import pytest

from minicoap.codec import codes
from minicoap.core.parameters import TransmissionParameters
from minicoap.core.rto import LONGEST, RoundTrips
from minicoap.errors import RequestTimeout
from tests.minicoap.core.solo import Solo, ack, empty_ack

ADAPTIVE = TransmissionParameters(ack_random_factor=1.0, adaptive_timeout=True)


def test_timeout_is_that_of_the_protocol_until_a_round_trip_is_known() -> None:
    assert RoundTrips(2.0).timeout == RoundTrips(2.0).expected == 2.0


def test_first_round_trip_counts_three_times() -> None:
    trips = RoundTrips(2.0)
    trips.measured(4.0)
    assert trips.timeout == trips.expected == 4.0 + 4 * 2.0  # RFC 6298 §2.2


def test_further_round_trips_are_smoothed() -> None:
    trips = RoundTrips(2.0)
    trips.measured(4.0)
    trips.measured(8.0)
    variation = 0.75 * 2.0 + 0.25 * abs(4.0 - 8.0)
    assert trips.timeout == pytest.approx(0.875 * 4.0 + 0.125 * 8.0 + 4 * variation)  # §2.3


@pytest.mark.parametrize(("ack_timeout", "shortest"), [(2.0, 1.0), (0.25, 0.25)])
def test_timeout_is_never_shorter_than_a_second_or_the_protocols_own(ack_timeout: float, shortest: float) -> None:
    trips = RoundTrips(ack_timeout)
    for _ in range(100):
        trips.measured(0.01)
    assert trips.timeout == shortest
    assert trips.expected == pytest.approx(0.02)  # the variation counts as 10 ms at least


def test_timeout_is_never_longer_than_a_minute() -> None:
    trips = RoundTrips(2.0)
    trips.measured(50.0)
    assert trips.timeout == LONGEST
    for now in range(0, 1000, 100):
        trips.timed_out(float(now))
    assert trips.timeout == LONGEST


def test_timeouts_at_once_double_it_once_and_it_stays_until_a_round_trip_is_measured() -> None:
    trips = RoundTrips(2.0)
    trips.measured(0.5)
    assert trips.timeout == 1.5
    for _ in range(5):
        trips.timed_out(10.0)
    assert trips.timeout == 3.0
    trips.timed_out(11.0)
    assert trips.timeout == 3.0
    trips.timed_out(11.5)
    assert trips.timeout == 6.0
    trips.measured(0.5)
    assert trips.timeout < 1.5


def test_repeated_message_ends_the_doubling_only_if_its_last_transmission_was_answered_as_usual() -> None:
    trips = RoundTrips(2.0)
    trips.measured(0.5)
    trips.measured(0.7)
    trips.timed_out(10.0)
    doubled = trips.timeout
    for seconds in (0.01, 0.49, trips.expected + 0.01, 5.0):
        trips.repeated(seconds)
        assert trips.timeout == doubled
    trips.repeated(0.6)
    assert trips.timeout == doubled / 2
    assert RoundTrips(2.0).repeated(0.1) is None  # type: ignore[func-returns-value]


# In the message layer


def exchange(solo: Solo, seconds: float) -> None:
    """Ask and be answered after so many seconds."""
    solo.request(codes.GET)
    (sent,) = solo.sent()
    solo.pass_time(seconds)
    solo.put(ack(codes.CONTENT, sent))


def silence(solo: Solo) -> list[float]:
    """Ask and never be answered; return after what times the request was repeated."""
    began = solo.now
    outcomes = solo.request(codes.GET)
    assert len(solo.sent()) == 1
    times = [when - began for when, _ in solo.pass_time(300.0)]
    assert [type(outcome) for outcome in outcomes] == [RequestTimeout]
    return times


def test_timeouts_follow_measured_round_trips_only_where_asked() -> None:
    for parameters, times in (
        (ADAPTIVE, [1.0, 3.0, 7.0, 15.0]),
        (TransmissionParameters(ack_random_factor=1.0), [2.0, 6.0, 14.0, 30.0]),
    ):
        solo = Solo(parameters=parameters)
        for _ in range(20):
            exchange(solo, 0.1)
        assert silence(solo) == pytest.approx(times)


def test_slow_path_is_not_asked_twice_for_everything() -> None:
    solo = Solo(parameters=ADAPTIVE)
    exchange(solo, 1.5)
    for _ in range(10):
        solo.request(codes.GET)
        (sent,) = solo.sent()
        assert solo.pass_time(3.5) == []
        solo.put(ack(codes.CONTENT, sent))


def test_round_trip_of_a_repeated_message_is_not_measured() -> None:
    solo = Solo(parameters=ADAPTIVE)
    solo.request(codes.GET)
    (sent,) = solo.sent()
    assert len(solo.pass_time(2.1)) == 1
    solo.put(ack(codes.CONTENT, sent))
    assert silence(solo)[0] == 4.0  # doubled by the timeout, and nothing measured since


def test_empty_acknowledgement_is_measured_too() -> None:
    solo = Solo(parameters=ADAPTIVE)
    for _ in range(20):
        solo.request(codes.GET)
        (sent,) = solo.sent()
        solo.pass_time(0.1)
        solo.put(empty_ack(sent))
    assert silence(solo)[0] == 1.0


def test_no_repetition_is_sent_beyond_max_transmit_span() -> None:
    solo = Solo(parameters=ADAPTIVE)
    exchange(solo, 0.1)
    assert silence(solo)[-1] < ADAPTIVE.max_transmit_span
    never = ADAPTIVE._replace(max_retransmit=0)
    assert silence(Solo(parameters=never)) == []
