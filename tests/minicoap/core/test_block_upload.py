"""Uploads with several blocks under way, and such as go on where an earlier one stood (RFC 7959, RFC 9175 §3)."""

from __future__ import annotations

import hashlib
import tracemalloc
from typing import Any, Callable, Optional

import pytest

from minicoap.codec import codes
from minicoap.codec.message import Message
from minicoap.codec.options import BLOCK1, BLOCK2, IF_NONE_MATCH, REQUEST_TAG, SIZE1
from minicoap.core.block_upload import BEGINNINGS
from minicoap.core.body import EARLY_BLOCKS, Block, BytesSource, HashingSource, decode_block
from minicoap.core.endpoint import EndpointCore
from minicoap.core.parameters import Limits
from minicoap.core.request import Deferred, Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.errors import BodyError, NetworkError, RequestTimeout, StorageError, UsageError
from minicoap.simulate.entropy import SeededEntropy
from minicoap.simulate.link import Link
from minicoap.simulate.pair import Pair
from tests.minicoap.core.solo import Solo, ack

BODY = b"".join(n.to_bytes(4, "big") for n in range(64 * 256))  # 64 KiB, each four bytes of it another
LAST = len(BODY) // 1024 - 1
TAG = b"the body"


class Store:
    """Streams bodies to where they stay, in order."""

    def __init__(self) -> None:
        self.begun = 0
        self.whole: list[bytes] = []
        self.aborted: list[str] = []

    def site(self) -> Site:
        return Site(Resource("/x", upload=self.open, conditional=True), Resource("/y", post=self.take, put=self.take))

    def open(self, request: Request) -> StoreSink:
        self.begun += 1
        return StoreSink(self)

    def take(self, request: Request) -> Response:
        self.whole.append(request.payload)
        return Response(codes.CHANGED, request.payload[:3000])


class StoreSink:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.data = b""

    def write_at(self, offset: int, data: bytes) -> Optional[Response]:
        assert offset == len(self.data)
        self.data += data
        return None

    def finish(self, answer: Deferred) -> None:
        self.store.whole.append(self.data)
        answer.resolve(Response(codes.CHANGED), answer.request.now)

    def abort(self, reason: str) -> None:
        self.store.aborted.append(reason)


def restart(pair: Pair) -> None:
    pair.server = EndpointCore(pair.world.entropy(f"life from {pair.world.now}"), site=pair.server.site)
    pair.server_host.boot(pair.server)


def block_of(message: Message) -> Block:
    value = message.options.uint(BLOCK1)
    block = None if value is None else decode_block(value)
    assert block is not None
    return block


def sent_blocks(pair: Pair) -> list[int]:
    messages = [one for name, one in pair.messages() if name == "client" and one.options.mask & 1 << BLOCK1]
    return [block_of(one).number for one in messages]


class Played:
    """An upload to a server played by the test, answering each block as `answer` says: a code, or None for later."""

    def __init__(
        self, answer: Callable[[int], Optional[int]], *, body: bytes = BODY, code: int = codes.PUT, **arguments: Any
    ) -> None:
        self.solo = Solo()
        self.answer = answer
        self.progress: list[int] = []
        arguments = {"any_order": True, **arguments}
        self.outcomes = self.solo.request(
            code, "x", payload=body, progress=lambda transfer: self.progress.append(transfer.sent), **arguments
        )
        self.requests: list[Message] = []
        self.waiting = self.solo.sent()
        self.run()

    @property
    def numbers(self) -> list[int]:
        """The blocks that were sent, in order."""
        return [block_of(message).number for message in self.requests]

    def run(self) -> None:
        """Answer what can be answered, one after the other."""
        later = []
        while self.waiting:
            message = self.waiting.pop(0)
            if message not in self.requests:
                self.requests.append(message)
            code = self.answer(block_of(message).number)
            if code is None:
                later.append(message)
            else:
                self.waiting += self.say(message, code)
        self.waiting = later

    def say(self, message: Message, code: int, szx: Optional[int] = None) -> list[Message]:
        block = block_of(message)
        named = Block(block.number, code == codes.CONTINUE, block.szx if szx is None else szx)
        return self.solo.put(ack(code, message, options=((BLOCK1, named.encode()),)))

    def outcome(self) -> Any:
        (outcome,) = self.outcomes
        return outcome.code if isinstance(outcome, Response) else type(outcome)


def obliging(number: int) -> int:
    return codes.CHANGED if number == LAST else codes.CONTINUE


class InOrder:
    """Answers as a server does that takes blocks in order only; `forgetful` lets go of the body at any other."""

    def __init__(self, *, forgetful: bool = False, lost: int = -1) -> None:
        self.next = 0
        self.forgetful = forgetful
        self.lost = lost  # a block that does not come through the first time

    def __call__(self, number: int) -> Optional[int]:
        if number == self.lost:
            self.lost = -1
            return None
        if number == 0:
            self.next = 0
        if number != self.next:
            if self.forgetful:
                self.next = -1
            return codes.REQUEST_ENTITY_INCOMPLETE
        self.next += 1
        return obliging(number)


# What is under way


def test_first_block_goes_alone_and_says_how_long_the_body_is() -> None:
    played = Played(lambda _: None, window=8)
    (first,) = played.requests
    assert (block_of(first).number, first.options.uint(SIZE1), len(first.payload)) == (0, len(BODY), 1024)


def test_window_is_filled_in_order_and_the_last_block_waits_for_all_others() -> None:
    held: list[int] = [5, 62]
    played = Played(lambda number: None if number in held else obliging(number), window=8)
    assert sorted(played.numbers) == list(range(LAST))  # all but the last one
    assert played.numbers[:5] == [0, 1, 2, 3, 4]
    held.pop(0)
    played.run()
    assert LAST not in played.numbers
    held.pop(0)
    played.run()
    assert (played.numbers[-1], played.outcome()) == (LAST, codes.CHANGED)
    assert all(SIZE1 not in dict(message.options.items) for message in played.requests[1:])


def test_without_a_window_one_block_is_under_way() -> None:
    played = Played(lambda number: None if number == 3 else obliging(number))
    assert played.numbers == [0, 1, 2, 3]


def test_blocks_of_a_window_have_a_tag_that_no_other_body_has() -> None:
    tags = set()
    for _ in range(2):
        played = Played(obliging, window=4)
        (tag,) = {message.options.get(REQUEST_TAG) for message in played.requests}
        tags.add(tag)
        played.solo.request(codes.PUT, "x", payload=BODY, window=4, any_order=True)
        (other,) = played.solo.sent()
        tags.add(other.options.get(REQUEST_TAG))
    assert {len(tag) for tag in tags if tag is not None} == {8}
    assert len(tags) == 2  # two to each endpoint, and both have the same randomness


def test_no_more_is_ahead_of_a_missing_block_than_a_server_keeps() -> None:
    body = bytes(1024 * 1000)
    played = Played(lambda number: None if number == 1 else codes.CONTINUE, body=body, window=64)
    assert max(played.numbers) == EARLY_BLOCKS


def test_progress_is_what_the_server_has_without_a_gap() -> None:
    held = [2]
    played = Played(lambda number: None if number in held else obliging(number), window=4)
    assert played.progress == [1024, 2048]
    held.clear()
    played.run()
    assert played.progress[2] > 3 * 1024
    assert played.progress[-1] == len(BODY)


@pytest.mark.parametrize("window", [1, 2, 16, 64])
@pytest.mark.parametrize("seed", range(4))
def test_body_arrives_whole_and_once_over_any_network(window: int, seed: int) -> None:
    store = Store()
    link = Link(loss=0.1, duplicate=0.1, jitter=0.3)
    pair = Pair(store.site(), link=link, seed=seed)
    assert pair.request(codes.PUT, "x", payload=BODY, window=window, any_order=True).code == codes.CHANGED
    assert store.whole == [BODY]
    pair.world.run_for(1000.0)
    assert pair.client.footprint() == pair.server.footprint()
    assert not any(pair.server.footprint().values())


@pytest.mark.parametrize("size", [0, 1, 1024, 1025, 2048, 2049])
def test_body_of_any_size_arrives_whole(size: int) -> None:
    store = Store()
    assert Pair(store.site()).request(codes.PUT, "x", payload=BODY[:size] or BytesSource(b""), **(
        {"window": 16} if size else {}
    )).code == codes.CHANGED  # fmt: skip
    assert store.whole == [BODY[:size]]


def test_long_response_to_a_windowed_body_comes_in_order() -> None:
    store = Store()
    pair = Pair(store.site())
    assert pair.request(codes.POST, "y", payload=BODY, window=16, any_order=True).payload == BODY[:3000]
    asked = [one.options.uint(BLOCK2) for name, one in pair.messages() if name == "client"]
    assert [value >> 4 for value in asked if value] == [1, 2]


def test_two_uploads_at_once_do_not_mix() -> None:
    store = Store()
    pair = Pair(store.site(), link=Link(loss=0.1, jitter=0.3), seed=3)
    outcomes = [pair.start(codes.PUT, "x", payload=body, window=8, any_order=True) for body in (BODY, BODY[::-1])]
    pair.world.run_for(300.0)
    assert [each[0].code for each in outcomes] == [codes.CHANGED] * 2  # type: ignore[union-attr]
    assert sorted(store.whole) == sorted([BODY, BODY[::-1]])


@pytest.mark.parametrize("szx", [4, 5])
def test_smaller_blocks_are_sent_from_when_the_server_asks_for_them(szx: int) -> None:
    store = Store()
    pair = Pair(store.site(), limits=Limits(amplification=0, block_szx=szx), link=Link(loss=0.05, jitter=0.2))
    client = EndpointCore(pair.world.entropy("large"), limits=Limits(amplification=0))
    pair.client = client
    pair.client_host.boot(client)
    assert pair.request(codes.PUT, "x", payload=BODY, window=16, any_order=True).code == codes.CHANGED
    assert store.whole == [BODY]


def test_smaller_blocks_may_be_asked_for_while_larger_ones_are_under_way() -> None:
    played = Played(lambda _: None, window=4)
    played.waiting = played.say(played.waiting.pop(), codes.CONTINUE)
    while played.waiting:
        message = played.waiting.pop(0)
        is_last = not block_of(message).more
        played.waiting += played.say(message, codes.CHANGED if is_last else codes.CONTINUE, 5)
        played.requests.append(message)
    taken = sorted((block_of(message).offset, len(message.payload)) for message in played.requests)
    assert played.outcome() == codes.CHANGED
    assert sum(length for _, length in taken) == len(BODY)
    assert {length for _, length in taken} == {1024, 512}


class Huge:
    """A body as long as blocks of 1024 bytes can count."""

    size = 1 << 30
    etag = None

    def read_at(self, offset: int, length: int) -> bytes:
        return bytes(length)


def test_body_that_the_servers_smaller_blocks_cannot_count_is_an_error() -> None:
    played = Played(lambda _: None, body=Huge())  # type: ignore[arg-type]
    played.say(played.waiting.pop(), codes.CONTINUE, 5)
    assert played.outcome() == BodyError


def test_body_that_smaller_blocks_cannot_count_is_not_sent_in_them() -> None:
    played = Played(lambda _: None, body=Huge())  # type: ignore[arg-type]
    assert played.say(played.waiting.pop(), codes.REQUEST_ENTITY_TOO_LARGE, 5) == []
    assert played.outcome() == codes.REQUEST_ENTITY_TOO_LARGE


def test_one_that_goes_on_does_so_in_the_blocks_that_the_server_wants() -> None:
    played = Played(lambda _: None, tag=TAG, sent=10 * 1024)
    (again,) = played.say(played.waiting.pop(), codes.REQUEST_ENTITY_TOO_LARGE, 4)
    assert (block_of(again), len(again.payload)) == ((40, True, 4), 256)
    assert again.options.uint(SIZE1) == len(BODY)


# Servers that want order


def test_server_that_refuses_what_comes_early_gets_all_in_order_from_then_on() -> None:
    server = InOrder(lost=3)
    played = Played(server, window=8)
    assert played.outcomes == []
    sent = len(played.requests)
    played.run()
    assert played.outcome() == codes.CHANGED
    assert played.numbers[sent:] == list(range(4, LAST + 1))


def test_server_that_lets_go_of_all_that_came_gets_it_anew_in_order() -> None:
    server = InOrder(forgetful=True, lost=3)
    played = Played(server, window=8)
    sent = len(played.requests)
    played.run()
    assert played.outcome() == codes.CHANGED
    assert played.numbers[sent:] == [3, *range(LAST + 1)]  # 3 had been ahead, too, when it was sent
    assert played.progress.count(0) == 1


def test_server_that_acts_on_each_block_by_itself_gets_them_with_a_window() -> None:
    taken: dict[int, bytes] = {}

    def write(request: Request, offset: int, more: bool) -> Response:
        taken[offset] = request.payload
        return Response(codes.CHANGED)

    pair = Pair(Site(Resource("/x", write_block=write)), link=Link(loss=0.1, jitter=0.3))
    assert pair.request(codes.PUT, "x", payload=BODY, window=16, any_order=True).code == codes.CHANGED
    assert b"".join(taken[offset] for offset in sorted(taken)) == BODY
    assert pair.world.now < 30.0


@pytest.mark.parametrize("code", [codes.FORBIDDEN, codes.REQUEST_ENTITY_TOO_LARGE, codes.SERVICE_UNAVAILABLE])
def test_any_other_refusal_ends_it_and_what_is_under_way(code: int) -> None:
    played = Played(lambda number: code if number == 7 else None if number == 5 else obliging(number), window=8)
    assert played.outcome() == code
    assert max(played.numbers) < 30
    assert played.solo.core.footprint()["tags"] == 0


@pytest.mark.parametrize(("number", "code"), [(LAST, codes.CONTINUE), (3, codes.CHANGED)])
def test_answers_that_make_no_sense_are_errors(number: int, code: int) -> None:
    played = Played(lambda each: None if each == number else obliging(each), window=4)
    message = next(one for one in played.waiting if block_of(one).number == number)
    played.solo.put(ack(code, message, options=((BLOCK1, b"\x0f"),) if number == LAST else ()))
    assert played.outcome() == BodyError


def test_network_that_fails_ends_it() -> None:
    pair = Pair(Store().site(), link=Link(loss=0.0))
    outcomes = pair.start(codes.PUT, "x", payload=BODY, window=8, any_order=True)
    pair.world.run_until(lambda: len(sent_blocks(pair)) > 20)
    pair.there.up = False
    pair.world.run_for(300.0)
    assert [type(outcome) for outcome in outcomes] == [RequestTimeout]
    assert pair.client.footprint()["tags"] == 0


@pytest.mark.parametrize("arguments", [{"confirmable": False}, {"payload": b""}])
def test_window_is_for_confirmable_bodies(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Solo().request(codes.PUT, "x", **{"payload": BODY, "window": 4, **arguments})


# Going on


@pytest.mark.parametrize("window", [1, 8])
def test_upload_goes_on_with_the_first_block_that_the_server_has_not_acknowledged(window: int) -> None:
    store = Store()
    pair = Pair(store.site())
    transfers: list[Any] = []
    pair.start(codes.PUT, "x", payload=BODY, tag=TAG, window=window, any_order=True, progress=transfers.append)
    pair.world.run_until(lambda: bool(transfers) and transfers[0].sent >= 20 * 1024)
    sent = transfers[0].sent
    transfers[0].cancel(pair.world.now)
    pair.world.run_for(10.0)
    before = len(sent_blocks(pair))

    pair.request(codes.PUT, "x", payload=BODY, tag=TAG, sent=sent, window=window, any_order=True)

    assert (store.whole, store.begun) == ([BODY], 1)
    assert sent_blocks(pair)[before:] == list(range(sent // 1024, LAST + 1))


def test_first_block_of_one_that_goes_on_has_the_tag_and_the_size() -> None:
    solo = Solo()
    solo.request(codes.PUT, "x", payload=BODY, tag=TAG, sent=2048)
    (sent,) = solo.sent()
    assert block_of(sent) == (2, True, 6)
    assert (sent.options.get(REQUEST_TAG), sent.options.uint(SIZE1)) == (TAG, len(BODY))


@pytest.mark.parametrize("window", [1, 8])
@pytest.mark.parametrize("sent", [1024, 30 * 1024, LAST * 1024])
def test_server_that_has_let_go_of_it_gets_it_anew(sent: int, window: int) -> None:
    store = Store()
    pair = Pair(store.site(), link=Link(loss=0.05))
    progress: list[int] = []
    pair.request(
        codes.PUT, "x", payload=BODY, tag=TAG, sent=sent, window=window, any_order=True,
        progress=lambda transfer: progress.append(transfer.sent),
    )  # fmt: skip
    assert store.whole == [BODY]
    assert (progress[0], progress[-1]) == (0, len(BODY))


@pytest.mark.parametrize("window", [1, 8])
@pytest.mark.parametrize("seed", range(4))
def test_server_that_is_restarted_in_the_middle_gets_it_anew_and_progress_says_so(seed: int, window: int) -> None:
    store = Store()
    pair = Pair(store.site(), link=Link(loss=0.05, duplicate=0.05, jitter=0.1), seed=seed)
    progress: list[int] = []
    outcomes = pair.start(
        codes.PUT,
        "x",
        payload=BODY,
        window=window,
        any_order=True,
        progress=lambda transfer: progress.append(transfer.sent),
    )
    pair.world.run_until(lambda: bool(progress) and progress[-1] > 20_000)
    restart(pair)
    pair.world.run_for(600.0)
    assert [outcome.code for outcome in outcomes] == [codes.CHANGED]  # type: ignore[union-attr]
    assert (store.whole, progress.count(0)) == ([BODY], 1)


def test_nothing_of_the_first_attempt_counts_for_the_second() -> None:
    # 2 and 4 are taken before their turn, the others are under way
    played = Played(lambda number: codes.CONTINUE if number in (0, 2, 4) else None, window=4)
    assert played.numbers == [0, 1, 2, 3, 4, 5, 6]
    before = len(played.requests)
    second = played.waiting.pop(0)
    played.waiting = played.say(second, codes.REQUEST_ENTITY_INCOMPLETE)
    assert [block_of(message).number for message in played.waiting] == [0]
    played.answer = obliging
    played.run()
    assert played.numbers[before:] == list(range(LAST + 1))
    assert played.outcome() == codes.CHANGED
    assert played.progress == [1024, *range(0, len(BODY) + 1, 1024)]


@pytest.mark.parametrize(
    ("blocks", "taken"),
    [
        (4, (0, 2)),  # one has been taken before its turn, none is under way
        (64, (0,)),  # such are under way
    ],
)
def test_second_attempt_is_in_order_if_the_first_was_not(blocks: int, taken: tuple[int, ...]) -> None:
    played = Played(lambda number: codes.CONTINUE if number in taken else None, body=BODY[: blocks * 1024], window=4)
    before = len(played.requests)
    played.waiting = played.say(played.waiting.pop(0), codes.REQUEST_ENTITY_INCOMPLETE)
    played.run()
    assert played.numbers[before:] == [0, 1]


def test_first_block_of_a_second_attempt_goes_alone_and_says_how_long_the_body_is() -> None:
    played = Played(lambda number: codes.CONTINUE if number < 3 else None, body=BODY[:4096], window=4)
    (first,) = played.say(played.waiting.pop(), codes.REQUEST_ENTITY_INCOMPLETE)
    assert (block_of(first).number, first.options.uint(SIZE1)) == (0, 4096)
    assert [block_of(message).number for message in played.say(first, codes.CONTINUE)] == [1, 2]


def test_server_that_lets_go_of_it_again_and_again_has_the_last_word() -> None:
    played = Played(lambda number: codes.CONTINUE if number < 3 else codes.REQUEST_ENTITY_INCOMPLETE)
    assert played.outcome() == codes.REQUEST_ENTITY_INCOMPLETE
    assert played.numbers == [0, 1, 2, 3] * BEGINNINGS


def test_server_that_wants_no_first_block_has_the_last_word() -> None:
    played = Played(lambda _: codes.REQUEST_ENTITY_INCOMPLETE, window=4)
    assert (played.outcome(), played.numbers) == (codes.REQUEST_ENTITY_INCOMPLETE, [0])


@pytest.mark.parametrize(
    ("code", "again"), [(codes.PUT, True), (codes.FETCH, True), (codes.IPATCH, True), (codes.POST, False),
                        (codes.PATCH, False)],
)  # fmt: skip
def test_what_may_have_been_carried_out_is_not_sent_again(code: int, again: bool) -> None:
    ends = [codes.REQUEST_ENTITY_INCOMPLETE, codes.CHANGED]
    played = Played(lambda number: ends.pop(0) if number == LAST else codes.CONTINUE, code=code)
    assert played.outcome() == (codes.CHANGED if again else codes.REQUEST_ENTITY_INCOMPLETE)


def test_condition_is_told_by_the_first_block_also_where_the_upload_goes_on() -> None:
    condition = ((IF_NONE_MATCH, b""),)
    played = Played(obliging, tag=TAG, sent=30 * 1024, options=condition, window=4)
    assert played.numbers == [0, *range(30, LAST + 1)]
    assert [IF_NONE_MATCH in dict(message.options.items) for message in played.requests[:2]] == [True, False]
    assert played.progress[:2] == [30 * 1024, 31 * 1024]


def test_condition_and_a_server_that_has_let_go_of_it() -> None:
    store = Store()
    pair = Pair(store.site())
    pair.request(
        codes.PUT, "x", payload=BODY, tag=TAG, sent=30 * 1024, options=((IF_NONE_MATCH, b""),), window=4
    )  # fmt: skip
    assert store.whole == [BODY]


def test_upload_that_is_under_way_is_not_begun_a_second_time() -> None:
    solo = Solo()
    solo.request(codes.PUT, "x", payload=BODY, tag=TAG)
    with pytest.raises(UsageError):
        solo.request(codes.PUT, "x", payload=BODY, tag=TAG, sent=1024)
    solo.request(codes.PUT, "y", payload=BODY, tag=TAG)  # elsewhere it is another


@pytest.mark.parametrize("arguments", [{"sent": 1000}, {"sent": -1024}, {"sent": len(BODY)}, {"sent": 512, "szx": 6}])
def test_places_to_go_on_that_cannot_be_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Solo().request(codes.PUT, "x", payload=BODY, **arguments)


def test_q_block_uploads_are_begun_anew() -> None:
    with pytest.raises(UsageError):
        Solo().request(codes.PUT, "x", payload=BODY, sent=1024, qblock=True)


@pytest.mark.parametrize("seed", range(6))
def test_uploads_with_restarts_on_both_sides_end_with_the_whole_body(seed: int) -> None:
    store = Store()
    pair = Pair(store.site(), link=Link(loss=0.08, duplicate=0.08, jitter=0.2), seed=seed)
    chance = pair.world.entropy("chance")
    sent, tag = 0, TAG
    for _ in range(4):
        transfers: list[Any] = []
        request = pair.client.request(
            codes.PUT, pair.path, lambda _: None, pair.world.now, uri_path=("x",), payload=BODY, tag=tag, sent=sent,
            window=8, any_order=True, progress=transfers.append,
        )  # fmt: skip
        pair.client_host.wake()
        until = chance.uniform(1.0, 4.0) + pair.world.now
        pair.world.run_until(lambda: pair.world.now >= until or bool(store.whole))  # noqa: B023
        sent = transfers[-1].sent if transfers else sent
        request.cancel(pair.world.now)
        if store.whole:
            break
        if chance.uniform(0.0, 1.0) < 0.5:
            restart(pair)
        else:
            pair.client = EndpointCore(pair.world.entropy(f"client {pair.world.now}"), limits=Limits(amplification=0))
            pair.client_host.boot(pair.client)
    else:
        pair.request(codes.PUT, "x", payload=BODY, tag=tag, sent=sent, window=8, any_order=True)
    assert set(store.whole) == {BODY}
    pair.world.run_for(2000.0)
    assert not any(pair.server.footprint().values())


# Memory, files and digests


class Endless:
    """A body that is nowhere as a whole."""

    size = 4 * 1024 * 1024
    etag = None

    def read_at(self, offset: int, length: int) -> bytes:
        return bytes(min(length, self.size - offset))


class Counting(StoreSink):
    count = 0

    def write_at(self, offset: int, data: bytes) -> Optional[Response]:
        assert offset == self.count
        self.count += len(data)
        return None


def carried(payload: Any) -> int:
    """Upload it, with the blocks of each window in reverse order; return the bytes that were held at most."""
    here, there = ("127.0.0.1", 1), ("127.0.0.1", 2)
    site = Site(Resource("/x", upload=lambda _: Counting(Store())))
    server = EndpointCore(SeededEntropy(1, "server"), site=site, limits=Limits(remembered_answers=100))
    client = EndpointCore(SeededEntropy(1, "client"))
    outcomes: list[Any] = []
    now = 0.0
    tracemalloc.start()
    client.request(
        codes.PUT, there, outcomes.append, now, uri_path=("x",), payload=payload, window=32, any_order=True
    )  # fmt: skip
    while not outcomes:
        now += 0.0001
        for data, _ in reversed(client.datagrams_to_send()):
            server.datagram_received(data, here, now)
        for data, _ in server.datagrams_to_send():
            client.datagram_received(data, there, now)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert outcomes[0].code == codes.CHANGED
    return peak


def test_memory_does_not_grow_with_the_body() -> None:
    carried(BytesSource(BODY))  # what is made once is there then
    assert carried(Endless()) < 512 * 1024


@pytest.mark.parametrize("sent", [0, 10 * 1024])
def test_digest_is_of_the_whole_body_whatever_is_sent_again(sent: int) -> None:
    digest = hashlib.sha256()
    played = Played(InOrder(forgetful=True, lost=20), body=HashingSource(BytesSource(BODY), digest), sent=sent,
                    tag=TAG, window=8)  # type: ignore[arg-type]  # fmt: skip
    played.run()
    assert (played.outcome(), digest.digest()) == (codes.CHANGED, hashlib.sha256(BODY).digest())


def test_digest_takes_every_byte_once_in_order_however_it_is_read() -> None:
    digest = hashlib.sha256()
    source = HashingSource(BytesSource(BODY, b"name"), digest)
    assert (source.size, source.etag) == (len(BODY), b"name")
    for offset, length in ((0, 100), (50, 100), (0, 10), (400, 10), (405, 5), (300, 200)):
        assert source.read_at(offset, length) == BODY[offset : offset + length]
    assert digest.digest() == hashlib.sha256(BODY[:500]).digest()


def test_digest_of_a_body_that_has_become_shorter_fails() -> None:
    class Cut(BytesSource):
        size = 5000

    with pytest.raises(OSError, match="shorter"):
        HashingSource(Cut(b"short"), hashlib.sha256()).read_at(4096, 904)


def test_source_that_fails_ends_it() -> None:
    class Failing(BytesSource):
        def read_at(self, offset: int, length: int) -> bytes:
            if offset >= 5 * 1024:
                raise OSError(5, "Input/output error")
            return super().read_at(offset, length)

    played = Played(lambda number: None if number == 1 else obliging(number), body=Failing(BODY), window=8)  # type: ignore[arg-type]
    assert played.outcome() == StorageError  # and nobody waits for what is under way


def test_endpoint_without_room_for_more_messages_ends_it() -> None:
    solo = Solo(limits=Limits(queued_messages=0))
    solo.request(codes.GET, "x")
    with pytest.raises(NetworkError):
        solo.request(codes.PUT, "x", payload=BODY)


# Servers of which nobody knows anything


def test_window_is_not_used_where_nobody_knows_what_the_server_makes_of_the_order() -> None:
    played = Played(lambda number: None if number == 3 else obliging(number), window=8, any_order=False)
    assert played.numbers == [0, 1, 2, 3]


@pytest.mark.parametrize("shown_by", [0, 2])
def test_window_is_used_once_the_server_shows_that_it_acts_on_each_block_by_itself(shown_by: int) -> None:
    played = Played(
        lambda number: None if number > shown_by else codes.CONTINUE if number < shown_by else codes.CHANGED,
        window=4,
        any_order=False,
    )
    assert played.numbers == list(range(shown_by + 1 + 4))


def test_server_that_goes_on_is_not_one_that_acts_on_each_block_whatever_it_says_of_more() -> None:
    played = Played(lambda _: None, window=4, any_order=False)
    (second,) = played.solo.put(ack(codes.CONTINUE, played.waiting[0], options=((BLOCK1, b"\x06"),)))
    assert block_of(second).number == 1


def test_server_that_wants_order_after_all_is_believed_more_than_its_answers() -> None:
    def answer(number: int) -> Optional[int]:
        return None if number == 1 else codes.REQUEST_ENTITY_INCOMPLETE if number == 2 and ends.pop() else codes.CHANGED

    ends = [False, True]
    played = Played(answer, window=4, any_order=False)
    assert played.numbers == [0, 1, 2, 3, 4]
    played.answer = lambda number: None if number == 5 else codes.CHANGED
    played.run()
    assert played.numbers == [0, 1, 2, 3, 4, 2, 5]


@pytest.mark.parametrize("code", [codes.INTERNAL_SERVER_ERROR, codes.BAD_REQUEST, codes.NOT_FOUND])
def test_server_that_makes_nothing_of_a_body_from_its_middle_gets_it_from_its_beginning(code: int) -> None:
    begun: list[int] = []

    def answer(number: int) -> int:
        begun.append(number)
        return code if len(begun) == 1 else obliging(number)

    played = Played(answer, tag=TAG, sent=10 * 1024)
    assert played.outcome() == codes.CHANGED
    assert played.numbers == [10, *range(LAST + 1)]


@pytest.mark.parametrize("code", [codes.TOO_MANY_REQUESTS, codes.SERVICE_UNAVAILABLE])
def test_server_that_has_no_time_now_is_left_alone(code: int) -> None:
    played = Played(lambda _: code, tag=TAG, sent=10 * 1024)
    assert (played.outcome(), played.numbers) == (code, [10])


def test_refusal_of_a_body_is_not_asked_for_twice() -> None:
    played = Played(lambda number: codes.FORBIDDEN if number == 5 else codes.CONTINUE)
    assert (played.outcome(), played.numbers) == (codes.FORBIDDEN, [0, 1, 2, 3, 4, 5])
