"""Several blocks of a response under way at once: order, loss, what is asked for, and what else may be sent."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from minicoap.codec import codes
from minicoap.codec.message import CON, Message, decode
from minicoap.codec.options import BLOCK2, ETAG, SIZE2, encode_uint
from minicoap.core.block_download import AHEAD
from minicoap.core.body import Block, decode_block
from minicoap.core.parameters import Limits
from minicoap.core.request import Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.errors import BodyError, CoapError, NetworkError, PathError, RequestTimeout, StorageError, UsageError
from minicoap.simulate.link import Link
from minicoap.simulate.pair import Pair
from tests.minicoap.core.solo import PEER, Solo, ack, empty_ack, non, reset

BODY = b"".join(n.to_bytes(4, "big") for n in range(64 * 256))  # 64 KiB, each four bytes of it another


class Ordered:
    """Keeps what it gets, and insists on order."""

    def __init__(self) -> None:
        self.data = b""
        self.etag: Optional[bytes] = None
        self.fails_at: Optional[int] = None

    def begin(self, response: Response, size: Optional[int]) -> None:
        self.etag = response.etag

    def write_at(self, offset: int, data: bytes) -> None:
        if offset == self.fails_at:
            raise OSError(28, "No space left on device")
        assert offset == len(self.data)
        self.data += data


class AnyOrder(Ordered):
    """Keeps what it gets, wherever it belongs."""

    any_order = True

    def __init__(self) -> None:
        super().__init__()
        self.blocks: dict[int, bytes] = {}
        self.offsets: list[int] = []

    def write_at(self, offset: int, data: bytes) -> None:
        self.offsets.append(offset)
        self.blocks[offset] = data
        self.data = b"".join(self.blocks[at] for at in sorted(self.blocks))


def site(body: bytes = BODY) -> Site:
    return Site(
        Resource("/x", get=lambda _: Response(payload=body, etag=b"v")),
        Resource("/small", get=lambda _: Response(payload=b"small")),
    )


class Asked:
    """A transfer with a window, to a server played by the test."""

    def __init__(self, sink: Any = None, *, window: int = 4, szx: int = 6, **arguments: Any) -> None:
        self.solo = Solo()
        self.sink = sink if sink is not None else AnyOrder()
        self.size = 16 << szx
        self.szx = szx
        self.outcomes = self.solo.request(codes.GET, "x", sink=self.sink, window=window, szx=szx, **arguments)
        self.requests: list[Message] = []
        self.take(self.solo.sent())

    def take(self, messages: list[Message]) -> list[int]:
        self.requests += messages
        return [number(message) for message in messages]

    def answer(self, block: int, *, total: int = 64, etag: bytes = b"v", options: Any = ()) -> list[int]:
        """Answer the first request for a block; return the numbers of the blocks asked for then."""
        request = self.request(block)
        data = BODY[block * self.size :][: self.size]
        items = [(BLOCK2, Block(block, block < total - 1, self.szx).encode()), (ETAG, etag), *options]
        return self.take(self.solo.put(ack(codes.CONTENT, request, options=tuple(items), payload=data)))

    def refuse(self, block: int, code: int = codes.BAD_REQUEST) -> list[int]:
        return self.take(self.solo.put(ack(code, self.request(block), payload=b"no")))

    def request(self, block: int) -> Message:
        return next(message for message in self.requests if number(message) == block)

    def outcome(self) -> Any:
        (outcome,) = self.outcomes
        return outcome.code if isinstance(outcome, Response) else type(outcome)


def number(message: Message) -> int:
    value = message.options.uint(BLOCK2)
    block = None if value is None else decode_block(value)
    assert block is not None
    return block.number


# What is asked for


def test_first_block_goes_alone_and_asks_for_the_size() -> None:
    asked = Asked()
    (first,) = asked.requests
    assert (number(first), first.options.get(SIZE2)) == (0, b"")


def test_window_is_filled_behind_the_first_block_and_kept_full() -> None:
    asked = Asked()
    assert asked.answer(0) == [1, 2, 3, 4]
    assert asked.answer(1) == [5]
    assert asked.answer(2) == [6]
    assert all(message.type == CON and message.payload == b"" for message in asked.requests)
    assert {message.options.path for message in asked.requests} == {("x",)}
    assert len({message.token for message in asked.requests}) == len(asked.requests)


def test_nothing_is_asked_for_beyond_the_size_that_the_server_told() -> None:
    asked = Asked(window=16)
    assert asked.answer(0, total=3, options=((SIZE2, encode_uint(2100)),)) == [1, 2]


def test_size_that_was_too_small_is_found_out_at_its_end() -> None:
    asked = Asked()
    assert asked.answer(0, total=5, options=((SIZE2, encode_uint(2048)),)) == [1]
    assert asked.answer(1, total=5) == [2]
    assert asked.answer(2, total=5) == [3]
    assert asked.answer(3, total=5) == [4]
    asked.answer(4, total=5)
    assert (asked.outcome(), asked.sink.data) == (codes.CONTENT, BODY[:5120])


@pytest.mark.parametrize("order", [[1, 2, 3, 4], [4, 3, 2, 1], [3, 1, 4, 2]])
def test_errors_beyond_an_end_that_nobody_had_told_do_not_matter(order: list[int]) -> None:
    asked = Asked()
    asked.answer(0, total=3)
    for block in order:
        if any(number(request) == block for request in asked.requests) and not asked.outcomes:
            asked.answer(block, total=3) if block < 3 else asked.refuse(block)
    assert (asked.outcome(), asked.sink.data) == (codes.CONTENT, BODY[:3072])
    assert asked.solo.forgets_everything()


def test_error_before_the_end_is_the_outcome_once_all_before_it_is_there() -> None:
    asked = Asked()
    asked.answer(0)
    assert asked.refuse(3, codes.NOT_FOUND) == []
    assert asked.outcomes == []
    asked.answer(2)
    asked.answer(1)
    assert (asked.outcome(), asked.sink.data[:3072]) == (codes.NOT_FOUND, BODY[:3072])
    assert asked.solo.forgets_everything()


@pytest.mark.parametrize("order", [[2, 3], [3, 2]])
def test_first_of_several_errors_is_the_outcome_in_whatever_order_they_come(order: list[int]) -> None:
    asked = Asked()
    asked.answer(0)
    for block in order:
        asked.refuse(block, codes.NOT_FOUND if block == 2 else codes.FORBIDDEN)
    asked.answer(1)
    assert (asked.outcome(), asked.sink.data[:2048]) == (codes.NOT_FOUND, BODY[:2048])
    assert asked.solo.forgets_everything()


def test_block_beyond_the_last_one_is_an_error() -> None:
    asked = Asked()
    asked.answer(0)
    asked.answer(3)
    asked.answer(2, total=3)
    assert asked.outcome() is BodyError


def test_missing_block_holds_nothing_up_until_far_ahead() -> None:
    asked = Asked(window=4)
    asked.answer(0)
    for block in range(2, 60):
        if not any(number(request) == block for request in asked.requests):
            break
        asked.answer(block)
    assert block == 2 + AHEAD * 4
    assert asked.answer(1) == [18, 19, 20, 21]


# Order


def test_sink_that_takes_any_order_gets_blocks_as_they_come() -> None:
    asked = Asked()
    for block in (0, 3, 2, 4, 1):
        asked.answer(block, total=5)
    assert asked.sink.offsets == [0, 3072, 2048, 4096, 1024]
    assert (asked.outcome(), asked.sink.data) == (codes.CONTENT, BODY[:5120])


def test_other_sinks_get_them_in_order() -> None:
    asked = Asked(Ordered())
    for block in (0, 3, 2, 4):
        asked.answer(block, total=5)
    assert len(asked.sink.data) == 1024
    asked.answer(1, total=5)
    assert (asked.outcome(), asked.sink.data) == (codes.CONTENT, BODY[:5120])


def test_progress_is_what_is_there_without_a_gap() -> None:
    seen: list[tuple[int, Optional[int]]] = []
    asked = Asked(progress=lambda transfer: seen.append((transfer.received, transfer.received_size)))
    asked.answer(0, total=5, options=((SIZE2, encode_uint(5120)),))
    for block in (3, 2, 1, 4):
        asked.answer(block, total=5)
    assert seen == [(1024, 5120), (4096, 5120), (5120, 5120)]


def test_repeated_answer_is_taken_once() -> None:
    asked = Asked(Ordered())
    asked.answer(0)
    asked.answer(1)
    asked.answer(1)
    asked.answer(0)
    assert len(asked.sink.data) == 2048


def test_answers_may_come_separately() -> None:
    asked = Asked()
    asked.answer(0, total=5)
    for block in (1, 2, 3, 4):
        request = asked.request(block)
        assert asked.solo.put(empty_ack(request)) == []  # nothing more while the blocks themselves are not there
    for block in (4, 3, 2, 1):
        options = ((BLOCK2, Block(block, block < 4, 6).encode()), (ETAG, b"v"))
        data = BODY[block * 1024 :][:1024]
        asked.solo.put(non(codes.CONTENT, 50 + block, asked.request(block).token, options=options, payload=data))
    assert (asked.outcome(), asked.sink.data) == (codes.CONTENT, BODY[:5120])


# What ends it


@pytest.mark.parametrize("block", [1, 3])
def test_changed_etag_ends_it_wherever_it_is_noticed(block: int) -> None:
    asked = Asked()
    asked.answer(0)
    asked.answer(block, etag=b"w")
    assert asked.outcome() is BodyError
    assert asked.solo.pass_time(300.0) == []
    assert asked.solo.forgets_everything()


def test_sink_that_fails_ends_it() -> None:
    sink = Ordered()
    sink.fails_at = 2048
    asked = Asked(sink)
    for block in (0, 2, 1):
        asked.answer(block)
    assert asked.outcome() is StorageError
    assert asked.solo.forgets_everything()


def test_reset_of_one_request_ends_it() -> None:
    asked = Asked()
    asked.answer(0)
    asked.solo.put(reset(asked.request(2)))
    assert isinstance(asked.outcomes[0], CoapError)
    assert asked.solo.pass_time(300.0) == []


def test_silence_ends_it_once() -> None:
    asked = Asked()
    asked.answer(0)
    asked.solo.pass_time(300.0)
    assert asked.outcome() is RequestTimeout
    assert asked.solo.forgets_everything()


def test_path_that_fails_ends_it_once() -> None:
    asked = Asked()
    asked.answer(0)
    asked.solo.core.path_failed(PEER, OSError(111, "Connection refused"), asked.solo.now)
    assert asked.outcome() is PathError
    assert asked.solo.forgets_everything()


def test_cancelling_leaves_nothing() -> None:
    outcomes: list[Any] = []
    solo = Solo()
    transfer = solo.core.request(codes.GET, PEER, outcomes.append, solo.now, sink=AnyOrder(), window=8)
    (first,) = solo.sent()
    options = ((BLOCK2, Block(0, True, 6).encode()),)
    assert len(solo.put(ack(codes.CONTENT, first, options=options, payload=bytes(1024)))) == 4
    transfer.cancel(solo.now)
    assert solo.pass_time(300.0) == []
    assert outcomes == []
    assert solo.forgets_everything()


@pytest.mark.parametrize(
    "arguments",
    [{"window": 0}, {"window": 1000}, {"window": 2, "confirmable": False}, {"window": 2, "code": codes.PUT}],
)
def test_window_that_cannot_work_is_refused(arguments: dict[str, Any]) -> None:
    solo = Solo()
    code = arguments.pop("code", codes.GET)
    with pytest.raises(UsageError):
        solo.request(code, sink=AnyOrder(), **arguments)
    assert solo.is_empty()


# Block sizes


@pytest.mark.parametrize("block", [1, 3])
def test_server_may_turn_to_smaller_blocks_in_the_middle(block: int) -> None:
    asked = Asked()
    asked.answer(0)
    asked.szx, asked.size = 4, 256
    request = asked.request(block)
    asked.requests.clear()
    options = ((BLOCK2, Block(block * 4, True, 4).encode()), (ETAG, b"v"))
    again = asked.take(asked.solo.put(ack(codes.CONTENT, request, options=options, payload=BODY[block * 1024 :][:256])))
    first = 5 if block == 1 else 4  # what lies behind a gap is asked for anew
    assert again == list(range(first, first + 4))
    for number_ in range(first, 20):
        asked.answer(number_, total=20)
    assert (asked.outcome(), asked.sink.data) == (codes.CONTENT, BODY[:5120])


def test_what_waited_for_its_turn_is_let_go_when_blocks_become_smaller() -> None:
    written: list[int] = []

    class Counting(Ordered):
        def write_at(self, offset: int, data: bytes) -> None:
            super().write_at(offset, data)
            written.append(len(data))

    asked = Asked(Counting())
    asked.answer(0)
    asked.answer(3)
    request = asked.request(1)
    asked.requests.clear()
    asked.szx, asked.size = 4, 256
    options = ((BLOCK2, Block(4, True, 4).encode()), (ETAG, b"v"))
    asked.take(asked.solo.put(ack(codes.CONTENT, request, options=options, payload=BODY[1024:1280])))
    for number_ in range(5, 20):
        asked.answer(number_, total=20)
    assert (asked.outcome(), asked.sink.data) == (codes.CONTENT, BODY[:5120])
    assert written == [1024] + [256] * 16


def test_server_may_choose_smaller_blocks_at_once() -> None:
    solo, sink = Solo(), AnyOrder()
    outcomes = solo.request(codes.GET, "x", sink=sink, window=4)
    requests = solo.sent()
    while not outcomes:
        request = requests.pop(0)
        at = number(request)
        options = ((BLOCK2, Block(at, at < 19, 2).encode()), (ETAG, b"v"))
        requests += solo.put(ack(codes.CONTENT, request, options=options, payload=BODY[at * 64 :][:64]))
    assert sink.data == BODY[: 20 * 64]


@pytest.mark.parametrize("window", [1, 4])
def test_larger_blocks_than_were_asked_for_are_an_error(window: int) -> None:
    asked = Asked(szx=4, window=window)
    asked.szx, asked.size = 6, 1024
    asked.answer(0)
    assert asked.outcome() is BodyError


# Reliability


def test_nstart_goes_on_to_hold_for_all_other_requests() -> None:
    asked = Asked()
    solo = asked.solo
    asked.answer(0)
    others = [solo.request(codes.GET, "other"), solo.request(codes.GET, "another")]
    (sent,) = solo.sent()
    assert sent.options.path == ("other",)
    asked.answer(1)
    assert len(others[1]) == 0
    (sent,) = solo.put(ack(codes.CONTENT, sent))
    assert sent.options.path == ("another",)
    solo.put(ack(codes.CONTENT, sent))
    assert [len(outcomes) for outcomes in others] == [1, 1]


def test_request_that_waits_for_nstart_goes_when_a_plain_one_is_done_and_not_when_a_block_is() -> None:
    solo = Solo(limits=Limits(queued_messages=1))
    solo.request(codes.GET, "one")
    (one,) = solo.sent()
    solo.request(codes.GET, "two")
    with pytest.raises(NetworkError):
        solo.request(codes.GET, "three")
    solo.request(codes.GET, "x", sink=AnyOrder(), window=4)
    (block,) = solo.sent()
    options = ((BLOCK2, Block(0, True, 6).encode()),)
    sent = solo.put(ack(codes.CONTENT, block, options=options, payload=bytes(1024)))
    assert {message.options.path for message in sent} == {("x",)}
    assert [message.options.path for message in solo.put(ack(codes.CONTENT, one))] == [("two",)]


def test_overtaken_block_is_asked_for_again_when_a_round_trip_is_over() -> None:
    asked = Asked()
    solo = asked.solo
    solo.pass_time(0.1)
    asked.answer(0)  # a round trip of 100 ms; one takes 300 ms at most, says the estimator
    solo.pass_time(0.1)
    assert asked.answer(2) == [5]
    repeated = solo.pass_time(0.25)
    assert [number(message) for _, message in repeated] == [1]
    assert repeated[0][1] == asked.request(1)


def test_last_block_is_probed_once_and_then_waits_for_its_timeout() -> None:
    asked = Asked()
    solo = asked.solo
    solo.pass_time(0.1)
    asked.answer(0, total=3, options=((SIZE2, encode_uint(3000)),))
    solo.pass_time(0.1)
    asked.answer(1, total=3)
    began = solo.now - 0.1
    times = [when - began for when, message in solo.pass_time(2.0) if number(message) == 2]
    assert len(times) == 2
    assert 0.3 < times[0] < 0.7
    assert 1.0 <= times[1] - times[0] <= 1.6


def test_whole_window_lost_is_not_repeated_at_once() -> None:
    asked = Asked(window=8)
    solo = asked.solo
    solo.pass_time(0.1)
    asked.answer(0)
    within = [number(message) for _, message in solo.pass_time(0.99)]
    assert within == [4]  # the probe; the others have their timeout of 1 s or more


@pytest.mark.parametrize("sink", [Ordered, AnyOrder])
@pytest.mark.parametrize("seed", range(12))
def test_body_arrives_whole_over_a_bad_link(seed: int, sink: type) -> None:
    pair = Pair(site(), seed=seed, link=Link(loss=0.2, duplicate=0.1, delay=0.05, jitter=0.3))
    taken = sink()
    response = pair.request(codes.GET, "x", sink=taken, window=(4, 8, 32)[seed % 3], szx=(6, 5, 3)[seed % 3])
    assert response.is_success
    assert taken.data == BODY
    pair.world.run_for(1000.0)
    assert not any([*pair.client.footprint().values(), *pair.server.footprint().values()])


def test_short_and_missing_bodies_take_one_exchange() -> None:
    pair = Pair(site())
    sink = AnyOrder()
    assert pair.request(codes.GET, "small", sink=sink, window=8).is_success
    assert sink.data == b"small"
    assert pair.request(codes.GET, "nothing", sink=AnyOrder(), window=8).code == codes.NOT_FOUND
    assert len(pair.messages()) == 4


def test_window_makes_a_long_way_short() -> None:
    times = {}
    for window in (1, 16):
        pair = Pair(site(), link=Link(delay=0.2))
        assert pair.request(codes.GET, "x", sink=AnyOrder(), window=window).is_success
        times[window] = pair.world.now
    assert times[1] == pytest.approx(64 * 0.4)
    assert times[16] < 3.0


def test_two_windows_to_one_server_do_not_disturb_each_other() -> None:
    pair = Pair(site(), link=Link(loss=0.05))
    sinks = [AnyOrder(), Ordered()]
    outcomes = [pair.start(codes.GET, "x", sink=sink, window=8) for sink in sinks]
    assert pair.world.run_until(lambda: all(outcomes))
    assert [sink.data for sink in sinks] == [BODY, BODY]


def test_requests_of_a_window_are_what_plain_ones_are() -> None:
    """The shortcut that encodes only what differs makes the same datagram."""
    pair = Pair(Site(Resource("/x", get=show)))
    items = ((3, b"host"), (12, b""), (15, b"q=1"), (15, b"r"), (17, b"\x2a"), (60, b"\x01"), (2048, b"xyz"))
    for window in (1, 8):
        pair.request(codes.GET, "x", options=items, sink=AnyOrder(), window=window, szx=0)
    for datagram in pair.world.trace:
        if datagram.source[0] == "client":
            message = decode(datagram.data)
            assert [item for item in message.options.items if item[0] not in (11, BLOCK2, SIZE2)] == list(items)


def show(request: Request) -> Response:
    return Response(payload=BODY[: 16 * 300], etag=b"v")
