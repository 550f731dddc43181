"""Block-wise transfer as a server does it, message by message (RFC 7959)."""

from __future__ import annotations

import logging
from typing import Any, Optional, Union

import pytest

from minicoap.codec import codes
from minicoap.codec.message import ACK, Message, encode
from minicoap.codec.options import BLOCK1, BLOCK2, ECHO, ETAG, IF_NONE_MATCH, MAX_AGE, SIZE1, SIZE2, encode_uint
from minicoap.core.body import Block, BytesSource, decode_block
from minicoap.core.parameters import Limits
from minicoap.core.request import Deferred, Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.simulate.pair import Pair
from tests.minicoap.core.solo import LIFETIME, OTHER, PEER, Solo, con, non

BODY = bytes(range(256)) * 8  # 2,048 bytes


class Store:
    """Resources that keep what is sent to them: /body assembles, /stream takes a sink."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.sinks: list[RecordingSink] = []
        self.refusal: Optional[Response] = None
        self.prepare: dict[str, Any] = {}  # what the next sinks are to do

    def take(self, request: Request) -> Response:
        self.bodies.append(request.payload)
        return Response(codes.CHANGED, b"%d" % len(self.bodies))

    def open(self, request: Request) -> Union[RecordingSink, Response]:
        if self.refusal is not None:
            return self.refusal
        self.sinks.append(RecordingSink(**self.prepare))
        return self.sinks[-1]

    def site(self) -> Site:
        take = self.take
        return Site(
            Resource("/body", put=take, post=take, max_body=4096),
            Resource("/other", put=take),
            Resource("/stream", upload=self.open),
        )


class RecordingSink:
    def __init__(
        self, *, refuse_at: Optional[int] = None, fail_at: Optional[int] = None, fails_at_end: bool = False
    ) -> None:
        self.data = b""
        self.log: list[str] = []
        self.answer: Optional[Deferred] = None
        self.refuse_at = refuse_at
        self.fail_at = fail_at
        self.fails_at_end = fails_at_end

    def write_at(self, offset: int, data: bytes) -> Optional[Response]:
        assert offset == len(self.data)
        if offset == self.fail_at:
            raise OSError(28, "No space left on device")
        if offset == self.refuse_at:
            return Response(codes.REQUEST_ENTITY_TOO_LARGE, b"enough")
        self.data += data
        return None

    def finish(self, answer: Deferred) -> None:
        if self.fails_at_end:
            raise OSError(5, "I/O error")
        self.log.append("finish")
        self.answer = answer

    def abort(self, reason: str) -> None:
        self.log.append("abort")


class Uploader:
    """Sends blocks, each with a message ID of its own."""

    def __init__(self, solo: Solo, code: int = codes.PUT, path: str = "body", peer: Any = PEER) -> None:
        self.solo, self.code, self.path, self.peer = solo, code, path, peer
        self.message_id = 0

    def message(self, number: int, more: bool, szx: int = 4, data: Optional[bytes] = None, **more_: Any) -> Message:
        block = Block(number, more, szx)
        payload = BODY[block.offset : block.offset + block.size] if data is None else data
        self.message_id += 1
        options = ((BLOCK1, block.encode()), *more_.get("options", ()))
        return con(self.code, self.message_id, b"t", self.path, options=options, payload=payload)

    def put(self, number: int, more: bool, szx: int = 4, data: Optional[bytes] = None, **more_: Any) -> Message:
        (answer,) = self.solo.put(self.message(number, more, szx, data, **more_), self.peer)
        return answer

    def codes(self, *blocks: tuple[int, bool]) -> list[str]:
        return [codes.code_text(self.put(number, more).code) for number, more in blocks]


def block_of(message: Message, number: int) -> Optional[tuple[int, bool, int]]:
    value = message.options.uint(number)
    return None if value is None else decode_block(value)


# Block1


def test_blocks_are_continued_and_the_last_one_is_answered() -> None:
    store = Store()
    uploader = Uploader(Solo(store.site()))
    answers = [uploader.put(0, True), uploader.put(1, True), uploader.put(2, False)]
    assert [codes.code_text(answer.code) for answer in answers] == ["2.31", "2.31", "2.04"]
    assert [block_of(answer, BLOCK1) for answer in answers] == [(0, True, 4), (1, True, 4), (2, False, 4)]
    assert store.bodies == [BODY[:768]]
    assert uploader.solo.core.footprint()["bodies"] == 0


def test_block_size_may_change_in_the_middle() -> None:
    store = Store()
    uploader = Uploader(Solo(store.site()))
    for number, more, szx in ((0, True, 6), (16, True, 2), (17, True, 2), (9, True, 3), (10, False, 3)):
        answer = uploader.put(number, more, szx)
    assert answer.code == codes.CHANGED
    assert store.bodies == [BODY[: 11 * 128]]


@pytest.mark.parametrize(
    ("blocks", "answers"),
    [
        ([(1, True)], ["4.08"]),
        ([(0, True), (2, True), (1, False)], ["2.31", "4.08", "2.04"]),
        ([(0, True), (2, False)], ["2.31", "4.08"]),
        ([(0, True), (1, True), (1, True), (2, False)], ["2.31", "2.31", "2.31", "2.04"]),
        ([(0, True), (1, True), (0, True), (1, False)], ["2.31", "2.31", "2.31", "2.04"]),
        ([(0, True), (1, False), (1, False)], ["2.31", "2.04", "4.08"]),
        ([(0, False)], ["2.04"]),
    ],
)
def test_blocks_out_of_order(blocks: list[tuple[int, bool]], answers: list[str]) -> None:
    store = Store()
    assert Uploader(Solo(store.site())).codes(*blocks) == answers
    assert [len(body) for body in store.bodies] == [256 * (blocks[-1][0] + 1)] * answers.count("2.04")


@pytest.mark.parametrize("code", [codes.PUT, codes.POST])
def test_repeated_datagram_of_any_block_gets_its_first_answer(code: int) -> None:
    store = Store()
    uploader = Uploader(Solo(store.site()), code)
    blocks = [uploader.message(0, True), uploader.message(1, True), uploader.message(2, False)]
    first = [uploader.solo.put(block) for block in blocks]
    uploader.solo.pass_time(LIFETIME - 1)
    assert [uploader.solo.put(block) for block in reversed(blocks)] == list(reversed(first))
    assert store.bodies == [BODY[:768]]


def test_repeated_first_block_does_not_start_over() -> None:
    store = Store()
    uploader = Uploader(Solo(store.site()))
    first = uploader.message(0, True)
    uploader.solo.put(first)
    uploader.put(1, True)
    uploader.solo.put(first)
    assert uploader.codes((2, False)) == ["2.04"]


@pytest.mark.parametrize(
    ("value", "payload", "code"),
    [
        (b"\x0f", bytes(16), "4.00"),  # SZX 7
        (b"\x07", bytes(16), "4.00"),
        (b"\x0c", bytes(255), "4.00"),
        (b"\x0c", bytes(257), "4.00"),
        (b"\x04", bytes(257), "4.00"),
        (b"\x0c", b"", "4.00"),
        (b"\x04", b"", "2.04"),
        (b"\x01\x02\x03\x04", bytes(16), "4.02"),
    ],
)
def test_block_that_is_not_what_its_option_says_is_refused(value: bytes, payload: bytes, code: str) -> None:
    solo = Solo(Store().site())
    (answer,) = solo.put(con(codes.PUT, 1, b"t", "body", options=((BLOCK1, value),), payload=payload))
    assert codes.code_text(answer.code) == code
    assert solo.core.footprint()["bodies"] == 0


def test_body_that_is_too_long_is_refused_at_once_if_announced_and_else_when_it_is() -> None:
    solo = Solo(Store().site())
    uploader = Uploader(solo)
    announced = uploader.put(0, True, options=((SIZE1, b"\x10\x01"),))
    assert (announced.code, announced.options.uint(SIZE1)) == (codes.REQUEST_ENTITY_TOO_LARGE, 4096)
    answers = [uploader.put(number, True, 6, bytes(1024)) for number in range(5)]
    assert [codes.code_text(answer.code) for answer in answers] == ["2.31"] * 4 + ["4.13"]
    assert answers[4].options.uint(SIZE1) == 4096
    assert solo.core.footprint()["bodies"] == 0


@pytest.mark.parametrize(
    ("path", "options", "code"), [("nowhere", (), "4.04"), ("body", ((1, b"etag"),), "4.02"), ("stream", (), "2.31")]
)
def test_refusal_comes_with_the_first_block(path: str, options: Any, code: str) -> None:
    answer = Uploader(Solo(Store().site()), path=path).put(0, True, options=options)
    assert codes.code_text(answer.code) == code


def test_bodies_of_other_paths_peers_methods_and_tags_do_not_mix() -> None:
    store = Store()
    solo = Solo(store.site())
    uploads = [
        (Uploader(solo), ()),
        (Uploader(solo, path="other"), ()),
        (Uploader(solo, peer=OTHER), ()),
        (Uploader(solo, codes.POST), ()),
        (Uploader(solo), ((292, b"tag"),)),
    ]
    for index, (uploader, _) in enumerate(uploads):
        uploader.message_id = 100 * index
    for number in range(3):
        for index, (uploader, options) in enumerate(uploads):
            uploader.put(number, number < 2, 0, bytes([index]) * 16, options=options)
    assert store.bodies == [bytes([index]) * 48 for index in range(5)]
    assert solo.forgets_everything()


def test_unfinished_upload_is_given_up_after_the_lifetime_and_its_sink_told() -> None:
    store = Store()
    uploader = Uploader(Solo(store.site()), path="stream")
    uploader.codes((0, True), (1, True))
    uploader.solo.pass_time(LIFETIME - 1.0)
    assert uploader.codes((2, True)) == ["2.31"]
    assert store.sinks[0].log == []
    assert uploader.solo.forgets_everything()
    assert store.sinks[0].log == ["abort"]
    assert uploader.codes((3, True)) == ["4.08"]


def test_one_sink_that_fails_when_aborted_keeps_no_other_from_ending(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    store = Store()
    solo = Solo(store.site())
    for port in range(3):
        Uploader(solo, path="stream", peer=("host", port)).put(0, True)

    def broken(reason: str) -> None:
        raise OSError(2, "No such file")

    store.sinks[0].abort = broken  # type: ignore[method-assign]
    assert solo.forgets_everything()
    assert [sink.log for sink in store.sinks[1:]] == [["abort"], ["abort"]]


def test_open_bodies_are_bounded_and_quiet_ones_give_way() -> None:
    store = Store()
    solo = Solo(store.site(), limits=Limits(open_bodies=2, body_grace=30.0))
    uploaders = [Uploader(solo, path="stream", peer=("127.0.0.1", port)) for port in range(4)]
    assert [uploader.put(0, True).code for uploader in uploaders[:2]] == [codes.CONTINUE] * 2
    refused = uploaders[2].put(0, True)
    assert (codes.code_text(refused.code), refused.options.uint(14)) == ("5.03", 10)
    solo.pass_time(20.0)
    uploaders[1].put(1, True)
    solo.pass_time(15.0)
    assert uploaders[3].put(0, True).code == codes.CONTINUE  # in place of the first, quiet for 35 s
    assert [sink.log for sink in store.sinks] == [["abort"], [], []]
    assert solo.forgets_everything()


def test_bytes_of_open_bodies_are_bounded_and_counted_back() -> None:
    store = Store()
    solo = Solo(store.site(), limits=Limits(open_body_bytes=3000))
    first, second = Uploader(solo), Uploader(solo, peer=OTHER)
    for uploader in (first, second):
        assert uploader.put(0, True, 6, bytes(1024)).code == codes.CONTINUE
    assert first.put(1, True, 6, bytes(1024)).code == codes.SERVICE_UNAVAILABLE
    assert second.put(1, False, 6, bytes(1024)).code == codes.CHANGED
    for _ in range(10):  # nothing of all this is still counted
        assert [first.put(n, n < 1, 6, bytes(1024)).code for n in range(2)] == [codes.CONTINUE, codes.CHANGED]
    streamed = Uploader(solo, path="stream", peer=("streamer", 1))
    assert [streamed.put(number, True, 6, bytes(1024)).code for number in range(10)] == [codes.CONTINUE] * 10


def test_the_host_that_holds_the_most_gives_up_its_longest_idle_body_for_others() -> None:
    store = Store()
    solo = Solo(store.site(), limits=Limits(open_bodies=4))
    greedy = [Uploader(solo, path="stream", peer=("127.0.0.1", port)) for port in range(5)]
    assert [uploader.put(0, True).code for uploader in greedy] == [codes.CONTINUE] * 4 + [codes.SERVICE_UNAVAILABLE]
    solo.pass_time(1.0)
    for uploader in (*greedy[:2], greedy[3]):
        assert uploader.put(1, True).code == codes.CONTINUE
    modest = Uploader(solo, peer=OTHER)
    assert modest.codes((0, True), (1, True)) == ["2.31", "2.31"]
    assert [sink.log for sink in store.sinks] == [[], [], ["abort"], []]
    assert greedy[4].put(0, True).code == codes.SERVICE_UNAVAILABLE  # would hold more than anybody
    second = Uploader(solo, path="other", peer=OTHER)
    second.message_id = 50
    assert second.put(0, True).code == codes.CONTINUE
    assert Uploader(solo, path="other", peer=("127.0.0.2", 1)).put(0, True).code == codes.SERVICE_UNAVAILABLE  # even
    assert modest.codes((2, False)) == ["2.04"]
    assert solo.forgets_everything()


def test_the_host_that_holds_the_most_bytes_gives_way_to_others() -> None:
    store = Store()
    solo = Solo(store.site(), limits=Limits(open_bodies=10, open_body_bytes=8192))
    greedy = [Uploader(solo, peer=("127.0.0.1", port)) for port in range(3)]
    for number, uploader in enumerate(greedy):
        assert uploader.put(0, True, 6, bytes(1024)).code == codes.CONTINUE
        assert uploader.put(1, True, 6, bytes(1024)).code == codes.CONTINUE
        solo.pass_time(1.0 + number)
    modest = Uploader(solo, peer=OTHER)
    assert [modest.put(number, True, 6, bytes(1024)).code for number in range(3)] == [codes.CONTINUE] * 3
    assert greedy[0].put(2, True, 6, bytes(1024)).code == codes.REQUEST_ENTITY_INCOMPLETE  # its body was given up
    assert greedy[1].put(2, True, 6, bytes(1024)).code == codes.CONTINUE
    assert modest.put(3, False, 6, bytes(1024)).code == codes.CHANGED
    assert solo.forgets_everything()


def test_forged_addresses_get_no_more_than_half_of_the_bodies() -> None:
    store = Store()
    solo = Solo(store.site(), limits=Limits(open_bodies=4))
    answers = [Uploader(solo, peer=(f"192.0.2.{host}", 1)).put(0, True) for host in range(1, 6)]
    assert [codes.code_text(answer.code) for answer in answers] == ["2.31", "2.31", "4.01", "4.01", "4.01"]
    echo = answers[2].options.get(ECHO)
    assert echo is not None
    real = Uploader(solo, peer=("192.0.2.3", 1))
    real.message_id = 50
    assert real.put(0, True, options=((ECHO, echo),)).code == codes.CONTINUE
    assert real.codes((1, False)) == ["2.04"]  # further blocks need no value
    assert Uploader(solo).put(0, True).code == codes.CONTINUE  # nobody forges this machine's own
    assert solo.forgets_everything()


def test_a_client_begins_anew_when_its_address_has_to_be_shown() -> None:
    store = Store()
    pair = Pair(store.site(), limits=Limits(open_bodies=2))
    forged = con(codes.PUT, 1, b"t", "stream", options=((BLOCK1, Block(0, True, 4).encode()),), payload=BODY[:256])
    pair.server.datagram_received(encode(forged), ("192.0.2.7", 1), pair.world.now)
    assert pair.request(codes.PUT, "body", payload=BODY).is_success
    assert store.bodies == [BODY]
    told = [message.code for sender, message in pair.messages() if sender == "server"]
    assert told[:3] == [codes.CONTINUE, codes.UNAUTHORIZED, codes.CONTINUE]


# Sinks


def test_sink_gets_the_blocks_and_answers_when_it_likes() -> None:
    store = Store()
    uploader = Uploader(Solo(store.site()), path="stream")
    uploader.codes((0, True), (1, True))
    last = uploader.message(2, False)
    assert uploader.solo.put(last) == []
    sink = store.sinks[0]
    assert (sink.data, sink.log) == (BODY[:768], ["finish"])
    assert sink.answer is not None
    sink.answer.resolve(Response(codes.CREATED, etag=b"e"), uploader.solo.now)
    (answer,) = uploader.solo.sent()
    assert (answer.type, answer.code, block_of(answer, BLOCK1)) == (ACK, codes.CREATED, (2, False, 4))
    assert uploader.solo.put(last) == [answer]
    assert uploader.solo.forgets_everything()


def test_body_in_one_piece_reaches_the_sink_too() -> None:
    store = Store()
    solo = Solo(store.site())
    solo.put(con(codes.PUT, 1, b"t", "stream", payload=b"short"))
    assert (store.sinks[0].data, store.sinks[0].log) == (b"short", ["finish"])


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("body", [b"no", bytes(3000)])
def test_resource_may_refuse_the_body_however_long_its_answer_is(whole: bool, body: bytes) -> None:
    store = Store()
    store.refusal = Response(codes.FORBIDDEN, body)
    solo = Solo(store.site())
    if whole:
        (answer,) = solo.put(con(codes.PUT, 1, b"t", "stream", payload=b"x"))
    else:
        answer = Uploader(solo, path="stream").put(0, True)
    assert (answer.code, answer.payload) == (codes.FORBIDDEN, body[:1024])


@pytest.mark.parametrize("offset", [0, 256, 512])
def test_sink_may_refuse_the_rest(offset: int) -> None:
    store = Store()
    uploader = Uploader(Solo(store.site()), path="stream")
    store.prepare = {"refuse_at": offset}
    assert uploader.codes((0, True), (1, True), (2, False))[offset // 256] == "4.13"
    assert store.sinks[0].log == ["abort"]
    assert uploader.solo.core.footprint()["bodies"] == 0


@pytest.mark.parametrize("offset", [0, 256, 512, "end"])
def test_sink_that_fails_is_aborted_once_and_the_client_told(
    offset: Union[int, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    store = Store()
    uploader = Uploader(Solo(store.site()), path="stream")
    store.prepare = {"fails_at_end": True} if offset == "end" else {"fail_at": offset}
    answers = uploader.codes((0, True), (1, True), (2, False))
    assert answers[512 // 256 if offset == "end" else int(offset) // 256] == "5.00"
    assert uploader.solo.forgets_everything()
    assert [sink.log for sink in store.sinks] == [["abort"]]


def test_whole_body_whose_sink_fails_is_aborted_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    store = Store()
    store.prepare = {"fail_at": 0}
    (answer,) = Solo(store.site()).put(con(codes.PUT, 1, b"t", "stream", payload=b"x"))
    assert (answer.code, store.sinks[0].log) == (codes.INTERNAL_SERVER_ERROR, ["abort"])


# Block2


class Pages:
    """Long responses by every method."""

    def __init__(self, body: bytes = BODY) -> None:
        self.body = body
        self.calls = 0

    def show(self, request: Request) -> Response:
        self.calls += 1
        return Response(codes.CONTENT, self.body, 42)

    def site(self) -> Site:
        return Site(Resource("/page", get=self.show, post=self.show, fetch=self.show, put=self.show))


def asked(solo: Solo, number: Optional[int], szx: int = 6, code: int = codes.GET, message_id: int = 0) -> Message:
    options = () if number is None else ((BLOCK2, Block(number, False, szx).encode()),)
    message_id = message_id or 1 + (number or 0) + (number is not None)
    (answer,) = solo.put(con(code, message_id, b"t", "page", options=options))
    return answer


@pytest.mark.parametrize("code", [codes.GET, codes.POST, codes.FETCH, codes.PUT])
def test_long_response_comes_in_blocks_and_is_made_once(code: int) -> None:
    pages = Pages()
    solo = Solo(pages.site())
    answers = [asked(solo, None, code=code), asked(solo, 1, code=code)]
    assert [block_of(answer, BLOCK2) for answer in answers] == [(0, True, 6), (1, False, 6)]
    assert b"".join(answer.payload for answer in answers) == BODY
    assert [answer.options.uint(SIZE2) for answer in answers] == [2048, None]
    assert answers[0].options.get(ETAG) == answers[1].options.get(ETAG) is not None
    assert all(answer.options.uint(12) == 42 for answer in answers)
    assert pages.calls == 1
    assert solo.forgets_everything()


@pytest.mark.parametrize("szx", range(7))
def test_client_chooses_the_block_size(szx: int) -> None:
    solo = Solo(Pages().site())
    count = 2048 >> (szx + 4)
    answers = [asked(solo, number, szx) for number in range(count)]
    assert [block_of(answer, BLOCK2) for answer in answers] == [(n, n < count - 1, szx) for n in range(count)]
    assert b"".join(answer.payload for answer in answers) == BODY


def test_block_size_may_shrink_after_the_first_block() -> None:
    solo = Solo(Pages().site())
    first = asked(solo, None)
    rest = [asked(solo, number, 4) for number in range(4, 8)]
    assert first.payload + b"".join(answer.payload for answer in rest) == BODY


@pytest.mark.parametrize(
    ("number", "szx", "code"),
    [(1, 6, "2.05"), (127, 0, "2.05"), (2, 6, "4.00"), (128, 0, "4.00"), (0xFFFFF, 6, "4.00"), (0, 7, "4.00")],
)
def test_any_block_may_be_asked_for_but_none_beyond_the_end(number: int, szx: int, code: str) -> None:
    solo = Solo(Pages().site())
    answer = asked(solo, number, szx, message_id=9)
    assert codes.code_text(answer.code) == code
    if code == "2.05":
        assert answer.payload == BODY[number << (szx + 4) :][: 16 << szx]


@pytest.mark.parametrize("size", [0, 1, 16, 1024, 1025])
def test_short_response_comes_whole_unless_blocks_are_asked_for(size: int) -> None:
    solo = Solo(Pages(bytes(size)).site())
    plain = asked(solo, None)
    assert block_of(plain, BLOCK2) == ((0, True, 6) if size > 1024 else None)
    assert len(plain.payload) == min(size, 1024)
    small = asked(solo, 0, 0)
    assert block_of(small, BLOCK2) == (0, size > 16, 0)
    assert len(small.payload) == min(size, 16)


@pytest.mark.parametrize("code", [codes.GET, codes.FETCH])
def test_kept_response_does_not_change_while_it_is_fetched_and_a_new_one_has_another_etag(code: int) -> None:
    pages = Pages()
    solo = Solo(pages.site())
    first = asked(solo, 0, code=code)
    pages.body = BODY[::-1]
    assert asked(solo, 1, code=code).options.get(ETAG) == first.options.get(ETAG)
    again = asked(solo, 1, code=code, message_id=50)  # the last answer was lost, and the client asks once more
    assert (again.payload, again.options.get(ETAG)) == (BODY[1024:], first.options.get(ETAG))
    assert asked(solo, 0, code=code, message_id=51).options.get(ETAG) != first.options.get(ETAG)
    assert asked(solo, 1, code=code, message_id=52).payload == BODY[::-1][1024:]


def test_last_block_repeated_for_a_list_that_changes_all_the_time_is_still_of_the_same_body() -> None:
    made: list[bytes] = []

    def show(request: Request) -> Response:
        made.append(bytes([len(made)]) * 2000)
        return Response(payload=made[-1])

    solo = Solo(Site(Resource("/page", get=show)))
    answers = [asked(solo, number, message_id=10 + number) for number in (0, 1, 1, 1)]
    assert [answer.payload for answer in answers[1:]] == [made[0][1024:]] * 3
    assert {answer.options.get(ETAG) for answer in answers} == {answers[0].options.get(ETAG)}
    solo.pass_time(LIFETIME / 2)
    assert asked(solo, 1, message_id=20).payload == made[0][1024:]
    assert len(made) == 1


def test_response_that_was_sent_whole_makes_room_for_others_at_once_the_longest_ago_first() -> None:
    pages = Pages()
    solo = Solo(pages.site(), limits=Limits(open_bodies=2))

    def ask(port: int, *numbers: Optional[int]) -> list[str]:
        options = [() if number is None else ((BLOCK2, Block(number, False, 6).encode()),) for number in numbers]
        answers = [
            solo.put(con(codes.POST, port + (n or 0), b"t", "page", options=more), ("127.0.0.1", port))[0]
            for n, more in zip(numbers, options)
        ]
        return [codes.code_text(answer.code) for answer in answers]

    assert ask(100, None, 1) == ["2.05"] * 2
    assert ask(200, None, 1) == ["2.05"] * 2
    assert ask(300, None) == ["2.05"]  # in place of 100's
    assert ask(200, 1) == ["2.05"]
    assert ask(110, None) == ["2.05"]  # in place of 200's
    assert ask(400, None) == ["5.03"]
    assert solo.core.footprint()["bodies"] == 2
    assert solo.forgets_everything()


@pytest.mark.parametrize("options", [(), ((SIZE2, b""),)], ids=["plain", "asking for the size"])
@pytest.mark.parametrize(("max_age", "left"), [(100, (70, 0)), (None, (30, 0)), (0, (0, 0))])
def test_later_block_says_what_is_left_of_max_age(
    max_age: Optional[int], left: tuple[int, int], options: tuple[tuple[int, bytes], ...]
) -> None:
    """RFC 7959 §2.10, RFC 7252 §5.10.5: as of the transmission."""
    solo = Solo(Site(Resource("/page", get=lambda _: Response(payload=BODY, content_format=42, max_age=max_age))))

    def ask(number: int, message_id: int) -> Message:
        block = (BLOCK2, Block(number, False, 6).encode())
        (answer,) = solo.put(con(codes.GET, message_id, b"t", "page", options=(block, *options)))
        assert (answer.payload, answer.options.uint(12)) == (BODY[number * 1024 :][:1024], 42)
        return answer

    assert ask(0, 1).options.uint(MAX_AGE) == max_age
    solo.now += 30.5
    assert [ask(1, number).options.all(MAX_AGE) for number in (2, 3)] == [(encode_uint(left[0]),)] * 2
    solo.now += 100.0
    assert ask(1, 4).options.uint(MAX_AGE) == left[1]


def test_block_of_a_response_given_up_is_made_again_for_get_and_refused_for_others() -> None:
    pages = Pages()
    solo = Solo(pages.site())
    for code in (codes.GET, codes.POST, codes.FETCH):
        asked(solo, None, code=code, message_id=code)
    solo.pass_time(3 * LIFETIME)
    assert solo.is_empty()
    answers = [asked(solo, 1, code=code, message_id=10 + code) for code in (codes.GET, codes.POST, codes.FETCH)]
    assert [codes.code_text(answer.code) for answer in answers] == ["2.05", "4.08", "4.08"]
    assert pages.calls == 4


def test_responses_kept_for_several_peers_are_bounded() -> None:
    pages = Pages()
    solo = Solo(pages.site(), limits=Limits(open_body_bytes=5000))

    def ask(code: int, port: int) -> str:
        (answer,) = solo.put(con(code, 1, b"t", "page"), ("127.0.0.1", port))
        return codes.code_text(answer.code)

    assert [ask(codes.POST, port) for port in range(3)] == ["2.05", "2.05", "5.03"]
    assert ask(codes.GET, 4) == "2.05"  # can be made again for each block
    assert solo.core.footprint()["bodies"] == 2
    solo.pass_time(31.0)
    assert ask(codes.POST, 5) == "2.05"
    assert solo.forgets_everything()


class Counting:
    """A synthetic body that is never in memory: each 4 bytes say where they stand."""

    etag = b"count"

    def __init__(self, size: int) -> None:
        self.size = size

    def read_at(self, offset: int, length: int) -> bytes:
        end = min(self.size, offset + length)
        return b"".join((at // 4).to_bytes(4, "big") for at in range(offset, end, 4))


@pytest.mark.parametrize("number", [65_535, 65_536, 70_000, 0xFFFFE, 0xFFFFF])
def test_block_numbers_go_on_past_16_bits(number: int) -> None:
    source = Counting(16 << 20)
    solo = Solo(Site(Resource("/page", get=lambda _: Response(payload=source))))
    answer = asked(solo, number, 0, message_id=1)
    assert block_of(answer, BLOCK2) == (number, number < 0xFFFFF, 0)
    assert answer.payload == source.read_at(16 * number, 16)
    assert answer.options.get(ETAG) == b"count"


def test_late_answer_is_cut_into_blocks_as_well() -> None:
    kept: list[Deferred] = []

    def handle(request: Request) -> Deferred:
        kept.append(request.defer())
        return kept[-1]

    solo = Solo(Site(Resource("/page", post=handle)))
    solo.put(con(codes.POST, 1, b"t", "page", options=((BLOCK2, b"\x05"),)))
    solo.pass_time(5.0)
    kept[0].resolve(Response(payload=BytesSource(BODY, b"mine")), solo.now)
    (answer,) = solo.sent()
    assert (block_of(answer, BLOCK2), answer.options.get(ETAG)) == ((0, True, 5), b"mine")
    assert asked(solo, 3, 5, codes.POST, 9).payload == BODY[1536:]
    assert len(kept) == 1


def test_upload_and_long_response_combine() -> None:
    """RFC 7959 Figure 11."""
    solo = Solo(Site(Resource("/body", post=lambda request: Response(codes.CHANGED, request.payload[::-1]))))
    uploader = Uploader(solo, codes.POST)
    uploader.codes((0, True), (1, True))
    answer = uploader.put(2, False, options=((BLOCK2, b"\x02"),))
    assert (block_of(answer, BLOCK1), block_of(answer, BLOCK2)) == ((2, False, 4), (0, True, 2))
    (second,) = solo.put(con(codes.POST, 77, b"t", "body", options=((BLOCK2, b"\x12"),)))
    assert (block_of(second, BLOCK1), block_of(second, BLOCK2)) == (None, (1, True, 2))
    assert answer.payload + second.payload == BODY[:768][::-1][:128]


def test_non_confirmable_blocks_work_alike() -> None:
    store = Store()
    solo = Solo(store.site())
    for number, more in ((0, True), (1, False)):
        block = Block(number, more, 0)
        (answer,) = solo.put(
            non(codes.PUT, number, b"t", "body", options=((BLOCK1, block.encode()),), payload=bytes(16))
        )
    assert answer.code == codes.CHANGED
    assert store.bodies == [bytes(32)]


@pytest.mark.parametrize("repeats", [False, True], ids=["as it should be", "on every block"])
def test_condition_of_the_first_block_holds_for_the_whole_body(repeats: bool) -> None:
    """§2.10: If-None-Match is on the first block only."""
    seen: list[Request] = []

    def handle(request: Request) -> Response:
        seen.append(request)
        return Response(codes.CHANGED if request.meets_conditions(b"e") else codes.PRECONDITION_FAILED)

    solo = Solo(Site(Resource("/x", put=handle, conditional=True)))

    def send(conditional: bool) -> list[str]:
        answers = []
        for number in range(3):
            options = [(BLOCK1, Block(number, number < 2, 0).encode())]
            if conditional and (repeats or not number):
                options.append((IF_NONE_MATCH, b""))
            message_id = len(seen) * 10 + number
            (answer,) = solo.put(con(codes.PUT, message_id, b"t", "x", payload=bytes(16), options=tuple(options)))
            answers.append(codes.code_text(answer.code))
        return answers

    assert send(True) == ["2.31", "2.31", "4.12"]
    assert send(False) == ["2.31", "2.31", "2.04"]
    assert [len(request.payload) for request in seen] == [48, 48]
    assert [request.options.all(IF_NONE_MATCH) for request in seen] == [(b"",), ()]
