"""The table of remembered answers: how long, how many."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace

import pytest

from minicoap.core.deduplication import Deduplication, key_of
from minicoap.core.timers import Timers
from minicoap.simulate.entropy import SeededEntropy

LIFETIME = 100.0


def table(entries: int = 1000, size: int = 1_000_000) -> tuple[Deduplication, Timers]:
    timers = Timers()
    return Deduplication(SeededEntropy(1, "answers"), timers, LIFETIME, entries, size), timers


def key(number: int) -> bytes:
    return key_of((f"192.0.2.{number >> 16}", 5683), number & 0xFFFF)


@pytest.mark.parametrize("start", [0.0, 1.0, 50.0, 99.0, 101.0, 199.5])
@pytest.mark.parametrize("lifetime", [LIFETIME, 60.0])
def test_entry_is_known_for_its_lifetime_to_the_second_and_in_memory_for_two(start: float, lifetime: float) -> None:
    answers, timers = table()
    answers.remember(key(1), b"first", LIFETIME, 0.0)
    timers.run(start)
    answers.remember(key(2), b"answer", lifetime, start)
    for passed in range(int(lifetime)):
        timers.run(start + passed)
        assert answers.recall(key(2), start + passed) == b"answer"
    assert answers.recall(key(2), start + lifetime) is None
    for passed in range(int(lifetime), 202):
        timers.run(start + passed)
    assert len(answers) == 0


def test_empty_table_waits_for_nothing() -> None:
    answers, timers = table()
    answers.remember(key(1), b"answer", LIFETIME, 0.0)
    timers.run(100.0)
    assert len(answers) == 1
    timers.run(200.0)
    assert (len(answers), len(timers)) == (0, 0)


@pytest.mark.parametrize(("entries", "size"), [(100, 1_000_000), (1_000_000, 7300)])
def test_overflow_forgets_the_older_half_and_never_the_latest(entries: int, size: int) -> None:
    answers, _ = table(entries, size)
    for number in range(10_000):
        answers.remember(key(number), bytes(50), LIFETIME, 0.0)
        assert len(answers) <= 110
        assert all(answers.recall(key(kept), 1.0) for kept in range(max(0, number - 48), number + 1))


def test_newer_answer_takes_the_place_of_an_older() -> None:
    answers, timers = table()
    answers.remember(key(1), b"old", LIFETIME, 0.0)
    answers.remember(key(1), b"newer", LIFETIME, 1.0)
    assert answers.recall(key(1), 1.0) == b"newer"
    assert len(answers) == 1
    timers.run(100.0)
    answers.remember(key(1), b"newest", LIFETIME, 100.0)
    assert answers.recall(key(1), 100.0) == b"newest"


def test_answer_that_is_not_there_yet_is_awaited_until_it_is_or_nobody_waits() -> None:
    answers, _ = table()
    pending = SimpleNamespace()
    answers.wait(key(1), pending)  # type: ignore[arg-type]
    answers.wait(key(2), pending)  # type: ignore[arg-type]
    assert answers.recall(key(1), 0.0) is pending
    answers.remember(key(1), b"answer", LIFETIME, 0.0)
    assert answers.recall(key(1), 0.0) == b"answer"
    answers.forget(key(2))
    assert answers.recall(key(2), 0.0) is None


def test_no_two_messages_are_taken_for_each_other() -> None:
    paths = [
        ("192.0.2.1", 1), ("192.0.2.1", 11), ("192.0.2.11", 1), ("2001:db8::1", 1, 0, 0), ("2001:db8::1", 1, 0, 2),
        ("2001:db8::1", 1, 0, "dtls 1"), ("192.0.2.1", 1, "dtls 1"),
    ]  # fmt: skip
    messages = [(path, message_id) for path in paths for message_id in (0, 1, 11, 65_535)]
    answers, _ = table()
    for number, message in enumerate(messages):
        assert answers.recall(key_of(*message), 0.0) is None
        answers.remember(key_of(*message), bytes((number,)), LIFETIME, 0.0)
    for number, message in enumerate(messages):
        assert answers.recall(key_of(*message), 1.0) == bytes((number,))


def test_full_table_finds_everything_and_what_is_not_there() -> None:
    answers, _ = table(entries=20_000)
    for number in range(10_000):
        answers.remember(key(number), number.to_bytes(2, "big"), LIFETIME, 0.0)
    assert all(answers.recall(key(number), 1.0) == number.to_bytes(2, "big") for number in range(10_000))
    assert not any(answers.recall(key(number), 1.0) for number in range(10_000, 20_000))


def test_entry_costs_few_bytes_beside_its_answer() -> None:
    answers, _ = table(entries=200_000, size=100_000_000)
    tracemalloc.start()
    for number in range(100_000):
        answers.remember(key(number), bytes(80), LIFETIME, 0.0)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / len(answers) < 140
