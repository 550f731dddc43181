"""Uploads whose blocks come before their turn, and such whose beginning the resource has kept (RFC 7959 §2.5)."""

from __future__ import annotations

from typing import Any, Optional, Union

import pytest

from minicoap.codec import codes
from minicoap.codec.options import BLOCK1, REQUEST_TAG
from minicoap.core.body import EARLY_BLOCKS, Block
from minicoap.core.parameters import Limits
from minicoap.core.request import Deferred, Request, Response
from minicoap.core.resource import Resource, Site
from tests.minicoap.core.solo import Solo, con

TAG = ((REQUEST_TAG, b"t"),)


class Up:
    """Sends blocks, each with a message ID of its own."""

    def __init__(self, site: Site, **arguments: Any) -> None:
        self.solo = Solo(site, **arguments)
        self.message_id = 0

    def put(
        self, number: int, more: bool, szx: int = 6, *, payload: Optional[bytes] = None, code: int = codes.PUT,
        options: tuple[tuple[int, bytes], ...] = (),
    ) -> str:  # fmt: skip
        self.message_id += 1
        data = bytes(16 << szx) if payload is None else payload
        items = ((BLOCK1, Block(number, more, szx).encode()), *options)
        (answer,) = self.solo.put(con(code, self.message_id, b"t", "x", options=items, payload=data))
        return codes.code_text(answer.code)


class Store:
    """Assembles bodies."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def site(self) -> Site:
        return Site(Resource("/x", put=self.take, max_body=1 << 20))

    def take(self, request: Request) -> Response:
        self.bodies.append(request.payload)
        return Response(codes.CHANGED)


class Kept:
    """A resource that keeps what came of a body, whoever sent it, and whatever became of them."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.opened: list[str] = []
        self.ended: list[str] = []
        self.answer: Optional[Response] = None
        self.has_it = True

    def site(self, **arguments: Any) -> Site:
        return Site(Resource("/x", upload=self.begin, resume=self.resume, post=lambda _: Response()), **arguments)

    def begin(self, request: Request) -> KeptSink:
        self.opened.append("begin")
        return KeptSink(self)

    def resume(self, request: Request) -> Union[KeptSink, Response, None]:
        self.opened.append("resume")
        if self.answer is not None:
            return self.answer
        return KeptSink(self) if self.has_it else None


class KeptSink:
    def __init__(self, kept: Kept) -> None:
        self.kept = kept

    @property
    def offset(self) -> int:
        return len(self.kept.data)

    def write_at(self, offset: int, data: bytes) -> Optional[Response]:
        assert offset == len(self.kept.data)
        self.kept.data += data
        return None

    def finish(self, answer: Deferred) -> None:
        self.kept.ended.append("finish")
        answer.resolve(Response(codes.CHANGED), answer.request.now)

    def abort(self, reason: str) -> None:
        self.kept.ended.append("abort")


BLOCKS = b"".join(bytes([number]) * 1024 for number in range(4))


@pytest.mark.parametrize("order", [[0, 2, 1, 3], [0, 2, 2, 1, 3], [0, 1, 2, 3], [0, 2, 1, 2, 1, 0, 2, 1, 3]])
def test_blocks_before_their_turn_wait_where_a_tag_tells_them_from_others(order: list[int]) -> None:
    store = Store()
    up = Up(store.site())
    codes_ = [up.put(number, number < 3, payload=BLOCKS[number * 1024 :][:1024], options=TAG) for number in order]
    assert codes_ == ["2.31"] * (len(order) - 1) + ["2.04"]
    assert store.bodies[-1] == BLOCKS
    assert up.solo.forgets_everything()


def test_without_a_tag_they_are_refused() -> None:
    up = Up(Store().site())
    assert [up.put(0, True), up.put(2, True)] == ["2.31", "4.08"]


def test_last_block_before_its_turn_is_refused_and_the_body_not_lost() -> None:
    up = Up(Store().site())
    answers = [up.put(*block, options=TAG) for block in ((0, True), (2, False), (1, True), (2, False))]
    assert answers == ["2.31", "4.08", "2.31", "2.04"]


@pytest.mark.parametrize(
    ("ahead", "answer"), [(EARLY_BLOCKS, "2.31"), (EARLY_BLOCKS + 1, "4.08"), (EARLY_BLOCKS + 100, "4.08")]
)
def test_only_so_many_can_wait(ahead: int, answer: str) -> None:
    up = Up(Store().site())
    assert [up.put(0, True, options=TAG), up.put(ahead, True, options=TAG)] == ["2.31", answer]


def test_small_ones_are_counted_too() -> None:
    up = Up(Store().site())
    answers = [up.put(number, True, 0, options=TAG) for number in (0, *range(2, EARLY_BLOCKS + 4))]
    assert answers == ["2.31"] * (EARLY_BLOCKS + 1) + ["4.08"] * 2


def test_what_waits_counts_as_held_and_is_refused_where_there_is_no_room() -> None:
    up = Up(Kept().site(), limits=Limits(open_body_bytes=2048))
    answers = [up.put(number, True, options=TAG) for number in (0, 2, 3, 4, 1, 2, 3, 4)]
    assert answers == ["2.31"] * 3 + ["4.08"] + ["2.31"] * 4
    assert up.solo.forgets_everything()


@pytest.mark.parametrize("first", [1, 2, 0])
def test_body_that_the_resource_has_kept_goes_on_where_the_client_says(first: int) -> None:
    kept = Kept(BLOCKS[:2048])
    up = Up(kept.site())
    answers = [up.put(number, number < 3, payload=BLOCKS[number * 1024 :][:1024]) for number in range(first, 4)]
    assert answers == ["2.31"] * (3 - first) + ["2.04"]
    assert (bytes(kept.data), kept.opened) == (BLOCKS, ["resume" if first else "begin"])
    assert kept.ended == ["finish"]
    assert up.solo.forgets_everything()


def test_what_is_there_of_a_block_is_not_taken_twice() -> None:
    kept = Kept(BLOCKS[:1500])
    assert Up(kept.site()).put(1, True, payload=BLOCKS[1024:2048]) == "2.31"
    assert kept.data == BLOCKS[:2048]


@pytest.mark.parametrize(("size", "answer"), [(2500, "2.04"), (2048, "2.04"), (3000, "2.04"), (3001, "4.08")])
def test_last_block_ends_what_is_there_already_unless_that_is_more(size: int, answer: str) -> None:
    kept = Kept(BLOCKS[:size])
    assert Up(kept.site()).put(2, False, payload=BLOCKS[2048:3000]) == answer
    assert len(kept.data) == max(size, 3000)


@pytest.mark.parametrize("case", ["beyond", "none", "refusal", "post"])
def test_what_the_resource_has_not_kept_is_refused(case: str) -> None:
    kept = Kept(BLOCKS[:2048])
    kept.has_it = case != "none"
    kept.answer = Response(codes.FORBIDDEN) if case == "refusal" else None
    up = Up(kept.site())
    answer = up.put(3 if case == "beyond" else 2, True, code=codes.POST if case == "post" else codes.PUT)
    assert answer == ("4.03" if case == "refusal" else "4.08")
    assert kept.ended == (["abort"] if case == "beyond" else [])
    assert up.solo.forgets_everything()


def test_guard_has_its_say_before_a_body_goes_on() -> None:
    kept = Kept(BLOCKS[:2048])
    up = Up(kept.site(guard=lambda request, resource: Response(codes.FORBIDDEN)))
    assert (up.put(2, True), kept.opened) == ("4.03", [])


def test_body_that_went_on_and_was_left_is_let_go_of() -> None:
    kept = Kept(BLOCKS[:2048])
    up = Up(kept.site())
    up.put(2, True)
    assert up.solo.forgets_everything()
    assert kept.ended == ["abort"]
