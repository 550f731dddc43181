"""A flight: who was overtaken by whom, and what the window is told of it."""

from __future__ import annotations

from typing import Any, Optional

from minicoap.core.flight import Flight


class Window:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def acknowledged(self, sent_at: float, outstanding: int, round_trip: Optional[float]) -> None:
        self.told.append(("acknowledged", sent_at, outstanding, round_trip))

    def lost(self, sent_at: float, now: float) -> None:
        self.told.append(("lost", sent_at, now))

    def timed_out(self, sent_at: float, now: float) -> None:
        self.told.append(("timed out", sent_at, now))


class Outgoing:
    def __init__(self, sent_at: float) -> None:
        self.sent_at = sent_at
        self.retransmissions = 0
        self.overtaken = False


def flight(count: int = 4) -> tuple[Any, Any, list[Any]]:
    window: Any = Window()
    made: Any = Flight(window)
    messages = [Outgoing(float(number)) for number in range(count)]
    for message in messages:
        made.sent(message)
    return made, window, messages


def test_those_before_an_acknowledged_one_are_overtaken_each_once() -> None:
    made, window, (first, second, third, fourth) = flight()
    assert made.acknowledged(third, 10.0) == [first, second]
    assert made.acknowledged(fourth, 11.0) == []
    assert made.acknowledged(first, 12.0) == []
    assert len(made) == 1
    assert window.told == [
        ("acknowledged", 2.0, 4, 8.0),
        ("acknowledged", 3.0, 3, 8.0),
        ("acknowledged", 0.0, 2, 12.0),
    ]
    assert second.overtaken
    assert not fourth.overtaken


def test_one_that_is_sent_again_is_the_newest_and_can_be_overtaken_again() -> None:
    made, window, (first, second, third, fourth) = flight()
    made.acknowledged(second, 10.0)
    first.retransmissions, first.overtaken = 1, False
    made.sent(first)
    assert made.newest is first
    assert made.acknowledged(third, 11.0) == []
    later = Outgoing(12.0)
    made.sent(later)
    assert made.acknowledged(later, 13.0) == [fourth, first]
    assert made.acknowledged(first, 14.0) == []
    assert window.told[-1] == ("acknowledged", 0.0, 2, None)  # nobody knows which transmission it was


def test_window_is_told_whether_anything_sent_later_came_through() -> None:
    made, window, (first, second, *_) = flight()
    made.acknowledged(second, 10.0)
    made.timed_out(first, 11.0)
    made.timed_out(made.newest, 12.0)
    assert window.told[1:] == [("lost", 0.0, 11.0), ("timed out", 3.0, 12.0)]


def test_withdrawn_message_is_forgotten_and_more_than_once_is_fine() -> None:
    made, _window, (first, second, *_) = flight()
    made.withdrawn(first)
    made.withdrawn(first)
    assert made.acknowledged(second, 10.0) == []
    assert len(made) == 2
