"""The parts of Q-Block (RFC 9177): its parameters, which blocks have come, and when blocks are sent."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from minicoap.core.body import Block
from minicoap.core.parameters import TransmissionParameters
from minicoap.core.qblock import Bursts, Incoming, Stream, block_count
from minicoap.core.request import Response
from minicoap.core.timers import Timers
from minicoap.errors import UsageError

QUICK = TransmissionParameters().quick_blocks


def test_the_defaults_are_those_of_the_table() -> None:  # §7.2, table 3
    assert QUICK == (10, 2.0, 3.0, 4.0, 4, 248.0, 247.0)


def test_what_is_not_set_follows_from_the_parameters_of_rfc_7252() -> None:  # §7.2
    parameters = TransmissionParameters(ack_timeout=4.0, max_retransmit=2, max_latency=10.0)
    assert parameters.check().quick_blocks == (10, 4.0, 6.0, 8.0, 2, 44.0, 42.0)


def test_what_is_set_is_in_force() -> None:
    parameters = TransmissionParameters(
        max_payloads=5, non_timeout=3.0, non_receive_timeout=9.0, non_max_retransmit=1, non_probing_wait=20.0,
        non_partial_timeout=30.0,
    )  # fmt: skip
    assert parameters.check().quick_blocks == (5, 3.0, 4.5, 9.0, 1, 20.0, 30.0)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_payloads": 0}, "max_payloads"),
        ({"non_timeout": 0.0}, "non_timeout"),
        ({"non_max_retransmit": -1}, "non_max_retransmit"),
        ({"non_receive_timeout": 3.9}, "one second above"),
        ({"non_timeout": 4.0, "non_receive_timeout": 6.5}, "one second above"),
        ({"non_probing_wait": -1.0}, "non_probing_wait"),
        ({"non_partial_timeout": 0.0}, "non_partial_timeout"),
        ({"max_payloads": 11}, "overruns"),
        ({"non_timeout": 1.9}, "overruns"),
    ],
)
def test_what_cannot_work_is_refused(fields: dict[str, Any], words: str) -> None:  # §7.2
    with pytest.raises(UsageError, match=words):
        TransmissionParameters(**fields).check()


def test_congestion_control_elsewhere_allows_more_at_once() -> None:
    TransmissionParameters(max_payloads=64, non_timeout=0.1, congestion_controlled=True).check()


class Writer:
    """Takes what an `Incoming` hands on; refuses the block at `refuses_at`."""

    def __init__(self, refuses_at: Optional[int] = None) -> None:
        self.offsets: list[int] = []
        self.refuses_at = refuses_at

    def __call__(self, offset: int, data: bytes) -> Optional[Response]:
        self.offsets.append(offset // 16)
        return Response(0x8D) if offset == self.refuses_at else None


def incoming(writer: Writer, blocks: int = 30, **arguments: Any) -> Incoming:
    return Incoming(blocks * 16, 0, 10, writer, **arguments)


def test_blocks_are_handed_on_in_order_and_once() -> None:
    writer = Writer()
    body = incoming(writer)
    assert [body.take(number, bytes(16)) for number in (1, 0, 0, 3, 3, 2)] == [True, True, False, True, False, True]
    assert writer.offsets == [0, 1, 2, 3] and body.edge == 4


def test_a_sink_of_any_order_gets_blocks_as_they_come() -> None:
    writer = Writer()
    body = incoming(writer, any_order=True)
    for number in (2, 0, 1):
        body.take(number, bytes(16))
    assert writer.offsets == [2, 0, 1] and body.edge == 3


def test_what_lies_more_than_two_sets_ahead_is_let_go() -> None:
    body = incoming(Writer(), 100)
    assert body.take(19, bytes(16)) and not body.take(20, bytes(16))
    body.take(0, bytes(16))
    assert body.take(20, bytes(16))


def test_after_a_refusal_nothing_more_is_handed_on() -> None:
    writer = Writer(refuses_at=16)
    body = incoming(writer)
    for number in (2, 1, 0):
        body.take(number, bytes(16))
    assert writer.offsets == [0, 1] and body.refusal is not None


@pytest.mark.parametrize(
    ("taken", "missing", "overtaken", "ends_set"),
    [
        ([], [*range(10)], [], False),
        ([0, 3], [1, 2, 4, 5, 6, 7, 8, 9], [], False),
        ([*range(10)], [*range(10, 20)], [], True),  # §7.2: those after the block of the 'Continue'
        ([0, *range(2, 9), 11], [1, 9, 10, *range(12, 19)], [1, 9], False),  # ten at most
        ([*range(10), 10], [*range(11, 20)], [], False),
        ([*range(29)], [29], [], False),
    ],
)
def test_what_is_missing(taken: list[int], missing: list[int], overtaken: list[int], ends_set: bool) -> None:
    body = incoming(Writer())
    for number in taken:
        body.take(number, bytes(16))
    assert body.missing() == missing
    assert body.ends_set is ends_set
    assert body.overtaken() == overtaken
    assert body.overtaken() == []  # once for each set


def test_who_lags_behind_asks_for_more_when_what_was_asked_for_has_come() -> None:
    body = incoming(Writer())
    for number in (0, 25):  # 25 lies too far ahead to be kept
        body.take(number, bytes(16))
    assert body.overtaken() == [*range(1, 11)]
    for number in range(1, 10):
        body.take(number, bytes(16))
        assert body.overtaken() == []
    body.take(10, bytes(16))
    assert body.overtaken() == [*range(11, 20)]  # up to the set that has begun
    assert body.overtaken() == []


@pytest.mark.parametrize(
    ("block", "length", "fits"),
    [
        (Block(0, True, 0), 16, True),
        (Block(3, False, 0), 2, True),
        (Block(0, True, 1), 32, False),
        (Block(0, False, 0), 16, False),
        (Block(3, True, 0), 16, False),
        (Block(3, False, 0), 3, False),
        (Block(1, True, 0), 15, False),
        (Block(4, False, 0), 0, False),
    ],
)
def test_a_block_has_to_be_what_the_size_of_the_body_makes_it(block: Block, length: int, fits: bool) -> None:  # §4.6
    assert (Incoming(50, 0, 10, Writer()).misfit(block, length) is None) is fits


@pytest.mark.parametrize(("size", "count"), [(0, 1), (1, 1), (16, 1), (17, 2), (160, 10)])
def test_a_body_has_one_block_at_least(size: int, count: int) -> None:
    assert block_count(size, 0) == count


class Sender:
    """A pace, and what it has sent so far since it was last asked."""

    def __init__(self, count: int, first: int = 0) -> None:
        self.timers = Timers()
        self.numbers: list[int] = []
        self.pace = Bursts(count, QUICK, 2.5, self.emit, self.timers, first)

    def emit(self, number: int, now: float) -> bool:
        self.numbers.append(number)
        return True

    def sent(self) -> list[int]:
        numbers, self.numbers = self.numbers, []
        return numbers


def test_a_set_is_sent_at_once_and_the_next_after_a_pause() -> None:  # §7.2
    sender = Sender(25)
    sender.pace.start(0.0)
    assert sender.sent() == [*range(10)]
    sender.timers.run(2.4)
    assert sender.sent() == []
    sender.timers.run(2.5)
    assert sender.sent() == [*range(10, 20)]
    sender.timers.run(5.0)
    assert sender.sent() == [*range(20, 25)] and sender.pace.has_sent_all
    assert len(sender.timers) == 0


def test_continue_ends_the_pause() -> None:  # §7.2
    sender = Sender(25)
    sender.pace.start(0.0)
    sender.sent()
    sender.pace.go_on(10, 0.1)
    assert sender.sent() == [*range(10, 20)]
    sender.pace.go_on(10, 0.2)  # once more: it was sent already
    assert sender.sent() == []
    sender.timers.run(2.5)
    assert sender.sent() == []  # the pause begins anew with each set
    sender.timers.run(2.6)
    assert sender.sent() == [*range(20, 25)]


def test_what_is_missing_goes_first_and_a_pause_follows() -> None:  # §7.2
    sender = Sender(25)
    sender.pace.start(0.0)
    sender.sent()
    sender.pace.repeat([3, 1, 11], 1.0)  # 11 has not been sent yet, so it cannot be missing
    assert sender.sent() == [1, 3]
    sender.timers.run(3.4)
    assert sender.sent() == []
    sender.timers.run(3.5)
    assert sender.sent() == [*range(10, 20)]


def test_not_more_than_a_set_is_repeated_at_a_time() -> None:  # §7.2
    sender = Sender(25)
    for when in (0.0, 2.5, 5.0):
        sender.pace.start(when) if not when else sender.timers.run(when)
    sender.sent()
    sender.pace.repeat([*range(15)], 6.0)
    assert sender.sent() == [*range(10)]
    sender.timers.run(8.5)
    assert sender.sent() == [*range(10, 15)]


def test_a_body_can_begin_within_a_set() -> None:
    sender = Sender(25, first=7)
    sender.pace.start(0.0)
    assert sender.sent() == [7, 8, 9]


def test_a_pace_that_was_stopped_sends_nothing() -> None:
    sender = Sender(25)
    sender.pace.start(0.0)
    sender.sent()
    sender.pace.stop()
    sender.timers.run(9.0)
    sender.pace.go_on(10, 9.0)
    sender.pace.repeat([1], 9.0)
    assert sender.sent() == [] and len(sender.timers) == 0


def test_a_stream_has_as_many_under_way_as_nstart() -> None:  # §7.1
    numbers: list[int] = []
    timers = Timers()
    room = [True]

    def emit(number: int, now: float) -> bool:
        if room[0]:
            numbers.append(number)
        return room[0]

    stream = Stream(6, 2, emit, timers)
    stream.start(0.0)
    assert numbers == [0, 1]
    stream.acknowledged(0.1)
    stream.repeat([0], 0.1)
    stream.acknowledged(0.2)
    assert numbers == [0, 1, 2, 0]
    room[0] = False
    stream.acknowledged(0.3)
    assert numbers == [0, 1, 2, 0]
    room[0] = True
    timers.run(1.3)  # there was no room in the queue: tried again
    assert numbers == [0, 1, 2, 0, 3]
    stream.stop()
    stream.acknowledged(1.4)
    assert numbers == [0, 1, 2, 0, 3]
