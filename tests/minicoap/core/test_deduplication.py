"""The table of remembered answers: how long, how many."""

from __future__ import annotations

import pytest

from minicoap.core.deduplication import Deduplication
from minicoap.core.timers import Timers

LIFETIME = 100.0


def table(entries: int = 1000, size: int = 1_000_000) -> tuple[Deduplication, Timers]:
    timers = Timers()
    return Deduplication(timers, LIFETIME, entries, size), timers


@pytest.mark.parametrize("start", [0.0, 1.0, 50.0, 99.0, 101.0, 199.5])
@pytest.mark.parametrize("lifetime", [LIFETIME, 60.0])
def test_entry_is_known_for_its_lifetime_to_the_second_and_in_memory_for_two(start: float, lifetime: float) -> None:
    answers, timers = table()
    answers.remember(1, b"first", LIFETIME, 0.0)
    timers.run(start)
    answers.remember(2, b"answer", lifetime, start)
    for passed in range(int(lifetime)):
        timers.run(start + passed)
        assert answers.recall(2, start + passed) == b"answer"
    assert answers.recall(2, start + lifetime) is None
    for passed in range(int(lifetime), 202):
        timers.run(start + passed)
    assert len(answers) == 0


def test_empty_table_waits_for_nothing() -> None:
    answers, timers = table()
    answers.remember(1, b"answer", LIFETIME, 0.0)
    timers.run(100.0)
    assert len(answers) == 1
    timers.run(200.0)
    assert (len(answers), len(timers)) == (0, 0)


@pytest.mark.parametrize(("entries", "size"), [(100, 1_000_000), (1_000_000, 5800)])
def test_overflow_forgets_the_older_half_and_never_the_latest(entries: int, size: int) -> None:
    answers, _ = table(entries, size)
    for key in range(10_000):
        answers.remember(key, bytes(50), LIFETIME, 0.0)
        assert len(answers) <= 101
        assert all(answers.recall(kept, 1.0) for kept in range(max(0, key - 48), key + 1))


def test_newer_answer_takes_the_place_of_an_older_and_forgotten_is_gone() -> None:
    answers, timers = table()
    answers.remember(1, b"old", LIFETIME, 0.0)
    timers.run(100.0)
    answers.remember(1, b"new", LIFETIME, 100.0)
    assert answers.recall(1, 100.0) == b"new"
    answers.forget(1)
    assert answers.recall(1, 100.0) is None
