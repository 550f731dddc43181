"""Timers: order, cancelling, and that cancelled ones take no memory."""

from __future__ import annotations

import gc
from typing import Callable

import pytest

from minicoap.core.timers import Timer, Timers


def test_timers_run_once_they_are_due_and_only_once() -> None:
    timers, log = Timers(), []
    first = timers.at(5.0, lambda now: log.append(("at 5", now)))
    timers.after(3.0, 1.0, lambda now: log.append(("after 3", now)))
    assert timers.next_deadline() == 4.0
    for now in (3.9, 4.0, 4.5, 7.0, 8.0):
        timers.run(now)
    assert log == [("after 3", 4.0), ("at 5", 7.0)]
    assert (timers.next_deadline(), len(timers)) == (None, 0)
    assert first.callback is None


def test_cancelled_timer_neither_runs_nor_counts_nor_is_waited_for() -> None:
    timers, log = Timers(), []
    doomed = [timers.at(1.0, log.append), timers.after(2.0, 0.0, log.append)]
    timers.at(3.0, log.append)
    for timer in doomed:
        timer.cancel()
        timer.cancel()
    assert (timers.next_deadline(), len(timers)) == (3.0, 1)
    timers.run(10.0)
    assert log == [10.0]


def test_timer_that_starts_another_has_it_run_in_its_turn() -> None:
    timers, log = Timers(), []

    def again(now: float) -> None:
        log.append(now)
        timers.after(1.0, now, again)

    timers.after(1.0, 0.0, again)
    for now in (1.0, 2.0, 3.5):
        timers.run(now)
    assert log == [1.0, 2.0, 3.5]
    assert timers.next_deadline() == 4.5


def timer_objects() -> int:
    gc.collect()
    return sum(isinstance(thing, Timer) for thing in gc.get_objects())


@pytest.mark.parametrize("start", [Timers.at, lambda timers, when, run: timers.after(300.0, when - 300.0, run)])
def test_cancelled_timers_leave_no_slots_behind_though_a_live_one_is_before_them(
    start: Callable[[Timers, float, Callable[[float], None]], Timer],
) -> None:
    timers = Timers()
    before = timer_objects()
    start(timers, 300.0, print)
    for index in range(10_000):
        start(timers, 300.0 + index / 1000, print).cancel()
    assert timer_objects() - before < 200
    assert len(timers) == 1


def test_timers_started_while_their_queue_is_run_and_swept_are_not_lost() -> None:
    timers, ran = Timers(), []
    for index in range(500):

        def run(now: float, index: int = index) -> None:
            ran.append(index)
            timers.after(1.0, now, lambda now: ran.append(1000 + index))
            timers.after(1.0, now, print).cancel()

        timers.after(1.0, 0.0, run)
    timers.run(1.0)
    timers.run(2.0)
    assert ran == [*range(500), *range(1000, 1500)]
    assert len(timers) == 0
