"""The running hour: reports become five-minute means and an hour's summary, packed, in little memory."""

from __future__ import annotations

import math
import random
import sys

import pytest

from fleet.model.health import HealthReport
from fleet.server.series import FIVE_MINUTES, HOUR, HOUR_MS, METRICS, Point, Series, merge, points

HOUR_NUMBER = 497_222
START = HOUR_NUMBER * HOUR_MS
MINUTE = 60_000
S = HOUR_NUMBER * 3600  # the hour's start in seconds


def report(cpu=None, memory=None, disk=None, temperature=None):
    return HealthReport("n1", True, cpu, memory, disk, temperature)


class Recorded:
    """A series of one node and what it handed over."""

    def __init__(self):
        self.blocks = []
        self.series = Series(self.blocks.append)
        self.row = self.series.add("n1")

    def at(self, minutes, *values):
        self.series.record(self.row, START + int(minutes * MINUTE), report(*values))

    def running(self, resolution=FIVE_MINUTES):
        number, row = self.series.running(self.row)
        return list(points(resolution, number, row.body(resolution)))


def test_reports_of_five_minutes_are_one_mean():
    recorded = Recorded()
    for minute, cpu in enumerate((10, 20, 30, 40, 50, 7, 8)):
        recorded.at(minute, cpu)

    assert recorded.running() == [Point(S, "cpu", 30.0), Point(S + 300, "cpu", 7.5)]


def test_an_hour_has_its_least_mean_and_greatest_value():
    recorded = Recorded()
    for minute, cpu in enumerate((10, 90, 20, 0.5)):
        recorded.at(minute * 5, cpu, 50)

    assert recorded.running(HOUR) == [Point(S, "cpu", 30.1, 0.5, 90.0), Point(S, "memory", 50.0, 50.0, 50.0)]


def test_the_hours_mean_weighs_each_five_minutes_alike_however_many_reports_came():
    recorded = Recorded()
    for _ in range(99):
        recorded.at(1, 100)
    recorded.at(6, 0)

    assert recorded.running(HOUR) == [Point(S, "cpu", 50.0, 0.0, 100.0)]


def test_values_are_by_time_and_then_in_the_order_of_the_metrics():
    recorded = Recorded()
    recorded.at(0, 1, 2, 3, -40.5)
    recorded.at(5, None, None, None, 45)

    assert METRICS == ("cpu", "memory", "disk", "temperature")
    assert recorded.running() == [
        Point(S, "cpu", 1.0), Point(S, "memory", 2.0), Point(S, "disk", 3.0), Point(S, "temperature", -40.5),
        Point(S + 300, "temperature", 45.0),
    ]  # fmt: skip


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, 3277.0, -1e300])
def test_what_cannot_be_a_measurement_is_none(value):
    recorded = Recorded()
    recorded.at(0, value, 5)

    assert recorded.running() == [Point(S, "memory", 5.0)]


def test_a_node_that_said_nothing_has_nothing():
    recorded = Recorded()
    assert recorded.series.running(recorded.row) is None
    assert recorded.series.next_due_at() is None

    recorded.at(0)
    assert recorded.series.running(recorded.row) is None


def test_more_reports_than_can_be_counted_leave_the_mean_as_it_is():
    recorded = Recorded()
    for _ in range(0xFFFF + 10):
        recorded.at(0, 3276.0)

    assert recorded.running() == [Point(S, "cpu", 3276.0)]


def test_an_hour_that_is_over_is_handed_over_by_the_next_report_or_by_time():
    for by_report in (True, False):
        recorded = Recorded()
        recorded.at(59, 10)
        assert recorded.series.next_due_at() == START + HOUR_MS
        recorded.series.advance(START + HOUR_MS - 1)
        assert recorded.blocks == []

        if by_report:
            recorded.at(60, 20)
        else:
            recorded.series.advance(START + HOUR_MS)

        (block,) = recorded.blocks
        ((node_id, row),) = block.rows()
        assert (block.number, node_id) == (HOUR_NUMBER, "n1")
        assert list(points(FIVE_MINUTES, block.number, row.means)) == [Point(S + 3300, "cpu", 10.0)]
        assert block.row("n1") == row
        assert block.row("n2") is None
        expected = (HOUR_NUMBER + 1) if by_report else None
        running = recorded.series.running(recorded.row)
        assert (running and running[0]) == expected


def test_a_stop_hands_over_what_there_is_and_nothing_if_there_is_nothing():
    recorded = Recorded()
    recorded.series.close()
    assert recorded.blocks == []

    recorded.at(3, 10)
    recorded.series.close()
    recorded.series.close()

    assert [block.number for block in recorded.blocks] == [HOUR_NUMBER]


def test_a_block_has_the_nodes_that_reported_sorted_and_does_not_change_any_more():
    blocks = []
    series = Series(blocks.append)
    rows = {node_id: series.add(node_id) for node_id in ("c", "a", "d", "b")}
    for node_id in ("c", "a", "b"):
        series.record(rows[node_id], START, report(5))
    series.close()
    before = list(blocks[0].rows())
    series.remove(rows["a"])
    series.record(series.add("e"), START, report(6))

    assert [node_id for node_id, _row in before] == ["a", "b", "c"]
    assert list(blocks[0].rows()) == before


def test_a_removed_node_leaves_nothing_to_the_one_that_gets_its_row():
    recorded = Recorded()
    recorded.at(0, 10)
    recorded.at(6, 10)
    recorded.series.remove(recorded.row)
    row = recorded.series.add("n2")

    assert row == recorded.row
    assert recorded.series.running(row) is None
    recorded.series.record(row, START + MINUTE, report(memory=3))
    assert recorded.running(HOUR) == [Point(S, "memory", 3.0, 3.0, 3.0)]
    recorded.series.close()
    assert [node_id for node_id, _row in recorded.blocks[0].rows()] == ["n2"]


def test_a_node_that_comes_in_mid_hour_is_as_any_other():
    recorded = Recorded()
    recorded.at(0, 10)
    recorded.at(6, 20)
    late = recorded.series.add("n2")
    recorded.series.record(late, START + 7 * MINUTE, report(5))
    recorded.series.record(late, START + 12 * MINUTE, report(6))

    number, row = recorded.series.running(late)
    assert list(points(FIVE_MINUTES, number, row.means)) == [Point(S + 300, "cpu", 5.0), Point(S + 600, "cpu", 6.0)]


def test_a_clock_set_back_a_little_reopens_nothing_and_one_set_far_back_begins_another_hour():
    recorded = Recorded()
    recorded.at(61, 10)
    recorded.at(59, 30)
    assert recorded.blocks == []
    assert recorded.running() == [Point(S + 3600, "cpu", 20.0)]
    recorded.at(67, 50)
    recorded.at(62, 70)
    assert recorded.running() == [Point(S + 3600, "cpu", 20.0), Point(S + 3900, "cpu", 60.0)]

    recorded.at(-180, 5)
    assert [block.number for block in recorded.blocks] == [HOUR_NUMBER + 1]
    assert recorded.running() == [Point(S - 3 * 3600, "cpu", 5.0)]


@pytest.mark.parametrize("seed", range(20))
def test_two_parts_of_an_hour_are_joined_to_what_one_would_have_been(seed):
    rng = random.Random(seed)
    reports = [
        (minute, [rng.choice((None, rng.randrange(-400, 1000) / 10)) for _ in METRICS])
        for minute in sorted(rng.sample(range(60), rng.randrange(2, 60)))
    ]
    cut = rng.choice((0, 5, 15, 35, 55, 60))
    whole, first, second = Recorded(), Recorded(), Recorded()
    for minute, values in reports:
        whole.at(minute, *values)
        (first if minute < cut else second).at(minute, *values)
    parts = [part.series.running(part.row) for part in (first, second)]
    if None in parts:
        return
    expected = whole.series.running(whole.row)[1]

    joined = merge(FIVE_MINUTES, parts[0][1].means, parts[1][1].means)

    assert joined == expected.means
    summary = merge(HOUR, parts[0][1].summary, parts[1][1].summary)
    for one, other in zip(points(HOUR, 0, summary), points(HOUR, 0, expected.summary)):
        assert (one.metric, one.least, one.greatest) == (other.metric, other.least, other.greatest)
        assert one.mean == pytest.approx(other.mean, abs=0.11)  # of rounded means


def test_a_slot_that_both_parts_have_is_their_mean():
    first, second = Recorded(), Recorded()
    first.at(1, 10)
    second.at(3, 20)

    joined = merge(FIVE_MINUTES, first.series.running(0)[1].means, second.series.running(0)[1].means)

    assert list(points(FIVE_MINUTES, HOUR_NUMBER, joined)) == [Point(S, "cpu", 15.0)]


def test_a_node_costs_little_memory():
    series = Series(print)
    for index in range(2000):
        series.add(f"n{index}")
    for index in range(2000):
        series.record(index, START, report(5))
        series.record(index, START + 6 * MINUTE, report(5))
    hour = series._hour
    parts = (hour._means, hour._slots, hour._running, series._node_ids)

    assert sum(map(sys.getsizeof, parts)) / 2000 < 160
