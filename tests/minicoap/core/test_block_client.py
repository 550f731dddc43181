"""Block-wise transfer as a client does it, against servers that behave and servers that do not (RFC 7959)."""

from __future__ import annotations

from typing import Any, Callable, Optional

import pytest

from minicoap.codec import codes
from minicoap.codec.message import CON, Message
from minicoap.codec.options import BLOCK1, BLOCK2, ETAG, SIZE1, SIZE2
from minicoap.core.body import Block, BytesSource, decode_block
from minicoap.core.parameters import Limits
from minicoap.core.request import Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.errors import BodyError, NetworkError, StorageError, UsageError
from minicoap.simulate.link import Link
from minicoap.simulate.pair import Pair
from tests.minicoap.core.solo import LIFETIME, PEER, Solo, ack, empty_ack, non

BODY = bytes(range(256)) * 40  # 10,240 bytes


class Sink:
    """Keeps what a download brings."""

    def __init__(self) -> None:
        self.begun: list[tuple[Optional[bytes], Optional[int]]] = []
        self.blocks: list[tuple[int, bytes]] = []
        self.on_begin: Callable[[], None] = lambda: None
        self.on_write: Callable[[], None] = lambda: None

    @property
    def data(self) -> bytes:
        return b"".join(data for _, data in self.blocks)

    def begin(self, response: Response, size: Optional[int]) -> None:
        self.begun.append((response.etag, size))
        self.on_begin()

    def write_at(self, offset: int, data: bytes) -> None:
        self.on_write()
        self.blocks.append((offset, data))


class Server:
    """A resource whose body may be replaced, and which keeps what it is sent."""

    def __init__(self, body: bytes = BODY) -> None:
        self.body = body
        self.received: list[bytes] = []

    def show(self, request: Request) -> Response:
        return Response(payload=self.body)

    def take(self, request: Request) -> Response:
        self.received.append(request.payload)
        return Response(codes.CHANGED, request.payload[::-1])

    def pair(self, **arguments: Any) -> Pair:
        return Pair(Site(Resource("/x", get=self.show, post=self.take, put=self.take)), **arguments)


def blocks(pair: Pair, number: int, sender: str) -> list[Block]:
    values = [one.options.uint(number) for name, one in pair.messages() if name == sender]
    return [block for value in values if value is not None for block in [decode_block(value)] if block is not None]


def option(block: tuple[int, bool, int], number: int = BLOCK2) -> tuple[int, bytes]:
    return number, Block(*block).encode()


def block_of(message: Message, number: int) -> Optional[tuple[int, bool, int]]:
    value = message.options.uint(number)
    return None if value is None else decode_block(value)


# Downloads


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 2048, 10_240])
@pytest.mark.parametrize("szx", [None, 0, 4, 6])
def test_response_of_any_size_arrives_whole(size: int, szx: Optional[int]) -> None:
    pair = Server(BODY[:size]).pair()
    response = pair.request(codes.GET, "x", **({} if szx is None else {"szx": szx}))
    assert response.payload == BODY[:size]
    if szx is not None and szx < 6:
        assert all(block.szx == szx for block in blocks(pair, BLOCK2, "client") + blocks(pair, BLOCK2, "server"))


def test_sink_gets_every_block_once_with_etag_and_size_before_the_first() -> None:
    sink = Sink()
    pair = Server().pair(link=Link(loss=0.15, duplicate=0.2, jitter=0.5))
    response = pair.request(codes.GET, "x", sink=sink)
    assert (sink.data, response.payload) == (BODY, b"")
    assert [offset for offset, _ in sink.blocks] == list(range(0, 10_240, 1024))
    assert sink.begun == [(response.etag, 10_240)]


@pytest.mark.parametrize("offset", [1024, 5120, 9216])
def test_download_resumes_at_an_offset(offset: int) -> None:
    sink = Sink()
    pair = Server().pair()
    pair.request(codes.GET, "x", sink=sink, offset=offset)
    assert (sink.data, sink.blocks[0][0]) == (BODY[offset:], offset)
    assert blocks(pair, BLOCK2, "client")[0] == (offset // 1024, False, 6)


def test_resuming_beyond_the_end_is_refused_by_the_server() -> None:
    assert Server().pair().request(codes.GET, "x", sink=Sink(), offset=10_240).code == codes.BAD_REQUEST


def test_resuming_where_blocks_are_not_served_fails() -> None:
    solo = Solo()
    outcomes = solo.request(codes.GET, sink=Sink(), offset=1024)
    (sent,) = solo.sent()
    solo.put(ack(codes.CONTENT, sent, payload=b"all of it"))
    assert [type(outcome) for outcome in outcomes] == [BodyError]


def test_body_that_changes_in_the_middle_fails_loudly() -> None:
    server, sink = Server(), Sink()
    pair = server.pair()
    outcomes = pair.start(codes.GET, "x", sink=sink)
    pair.world.run_until(lambda: len(sink.blocks) == 3)
    server.body = BODY[::-1]
    pair.server_host.boot(type(pair.server)(pair.world.entropy("second life"), site=pair.server.site))
    pair.world.run_for(60.0)
    assert [type(outcome) for outcome in outcomes] == [BodyError]
    assert sink.data == BODY[:3072]


@pytest.mark.parametrize(
    ("options", "payload"),
    [
        ([option((2, True, 6)), (ETAG, b"a")], bytes(1024)),  # another block than was asked for
        ([option((0, True, 6)), (ETAG, b"a")], bytes(1024)),
        ([option((1, True, 6)), (ETAG, b"b")], bytes(1024)),  # another ETag
        ([option((1, True, 6))], bytes(1024)),  # no ETag any more
        ([option((1, True, 6)), (ETAG, b"a")], bytes(1023)),
        ([(BLOCK2, b"\x1f"), (ETAG, b"a")], bytes(1024)),  # SZX 7
        ([], b"something else"),
    ],
)
def test_answer_that_is_not_the_next_block_fails_loudly(options: Any, payload: bytes) -> None:
    solo, sink = Solo(), Sink()
    outcomes = solo.request(codes.GET, sink=sink)
    (sent,) = solo.sent()
    (second,) = solo.put(ack(codes.CONTENT, sent, options=(option((0, True, 6)), (ETAG, b"a")), payload=bytes(1024)))
    assert block_of(second, BLOCK2) == (1, False, 6)
    assert solo.put(ack(codes.CONTENT, second, options=tuple(options), payload=payload)) == []
    assert [type(outcome) for outcome in outcomes] == [BodyError]
    assert len(sink.blocks) == 1
    assert solo.forgets_everything()


def test_error_in_the_middle_is_the_response() -> None:
    solo = Solo()
    outcomes = solo.request(codes.GET)
    (sent,) = solo.sent()
    (second,) = solo.put(ack(codes.CONTENT, sent, options=(option((0, True, 6)),), payload=bytes(1024)))
    solo.put(ack(codes.NOT_FOUND, second, payload=b"gone"))
    assert [(one.code, one.text) for one in outcomes if isinstance(one, Response)] == [(codes.NOT_FOUND, "gone")]


def test_smaller_blocks_than_asked_for_are_followed() -> None:
    solo = Solo()
    outcomes = solo.request(codes.GET, "x", options=((15, b"q"),))
    (sent,) = solo.sent()
    for number in range(4):
        options = (option((number, number < 3, 2)),)
        requests = solo.put(ack(codes.CONTENT, sent, options=options, payload=BODY[64 * number : 64 * (number + 1)]))
        if number < 3:
            (sent,) = requests
            assert block_of(sent, BLOCK2) == (number + 1, False, 2)
            assert sent.options.query == ("q",)
    assert [one.payload for one in outcomes if isinstance(one, Response)] == [BODY[:256]]


@pytest.mark.parametrize("size_option", [(), ((SIZE2, b"\x0b\xb8"),)])
def test_body_that_would_fill_memory_is_refused(size_option: Any) -> None:
    solo = Solo(limits=Limits(assembled_body=2048))
    outcomes = solo.request(codes.GET)
    (sent,) = solo.sent()
    count = 0
    while not outcomes:
        options = (option((count, True, 6)), *size_option)
        sent = (solo.put(ack(codes.CONTENT, sent, options=options, payload=bytes(1024))) or [sent])[0]
        count += 1
    assert isinstance(outcomes[0], BodyError)
    assert count == (1 if size_option else 3)


@pytest.mark.parametrize("place", ["begin", "write"])
@pytest.mark.parametrize(("error", "outcome"), [(BodyError("no"), BodyError), (OSError(28, "full"), StorageError)])
@pytest.mark.parametrize("body", [b"short", BODY])
def test_sink_that_refuses_or_fails_ends_the_request(place: str, error: Exception, outcome: type, body: bytes) -> None:
    def fail() -> None:
        raise error

    sink = Sink()
    setattr(sink, f"on_{place}", fail)
    pair = Server(body).pair()
    outcomes = pair.start(codes.GET, "x", sink=sink)
    pair.world.run_for(60.0)
    assert [type(one) for one in outcomes] == [outcome]
    assert len(pair.messages()) == 2
    if isinstance(error, OSError):
        assert outcomes[0].error is error  # type: ignore[union-attr]


@pytest.mark.parametrize("place", ["begin", "write"])
def test_sink_may_cancel_its_own_request(place: str) -> None:
    pair, sink, outcomes = Server().pair(), Sink(), []
    transfer = pair.client.request(codes.GET, PEER, outcomes.append, 0.0)
    transfer.cancel(0.0)
    transfer = pair.client.request(codes.GET, pair.server_host.address, outcomes.append, 0.0, uri_path=["x"], sink=sink)
    setattr(sink, f"on_{place}", lambda: transfer.cancel(pair.world.now))
    pair.client_host.wake()
    pair.world.run_for(60.0)
    assert (outcomes, len(sink.blocks)) == ([], 1 if place == "write" else 0)
    assert not any(block.number > 0 for block in blocks(pair, BLOCK2, "client"))


# Uploads


@pytest.mark.parametrize("size", [0, 1024, 1025, 2048, 10_240])
@pytest.mark.parametrize("szx", [2, 6])
def test_request_and_response_of_any_size_travel_in_blocks_and_post_is_carried_out_once(size: int, szx: int) -> None:
    server = Server()
    pair = server.pair(link=Link(loss=0.1, duplicate=0.2, jitter=0.5), seed=size)
    response = pair.request(codes.POST, "x", payload=BODY[:size], szx=szx)
    assert (response.code, response.payload) == (codes.CHANGED, BODY[:size][::-1])
    pair.world.run_for(4 * LIFETIME)
    assert server.received == [BODY[:size]]
    assert not any([*pair.client.footprint().values(), *pair.server.footprint().values()])


def test_first_block_announces_the_size_and_no_later_one_does() -> None:
    pair = Server().pair()
    pair.request(codes.PUT, "x", payload=BODY)
    sizes = [
        one.options.uint(SIZE1) for name, one in pair.messages() if name == "client" and one.options.mask >> 27 & 1
    ]
    assert sizes == [10_240] + [None] * 9


def uploaded(szx: int, answers: list[tuple[int, Optional[tuple[int, bool, int]]]], size: int = 400) -> tuple[Any, Any]:
    """Upload to a server that answers as told; return the blocks sent and the outcomes."""
    solo = Solo()
    outcomes = solo.request(codes.PUT, payload=BODY[:size], szx=szx)
    (sent,) = solo.sent()
    requests = [sent]
    for code, block in answers:
        options = () if block is None else (option(block, BLOCK1),)
        sent_ = solo.put(ack(code, requests[-1], options=options))
        requests += sent_
    assert all(one.type == CON for one in requests)
    for request in requests:
        block = block_of(request, BLOCK1)
        offset = 0 if block is None else Block(*block).offset
        length = size if block is None else Block(*block).size
        assert request.payload == BODY[:size][offset : offset + length]
    return [block_of(request, BLOCK1) for request in requests], outcomes


CONTINUE, CHANGED, TOO_LARGE = codes.CONTINUE, codes.CHANGED, codes.REQUEST_ENTITY_TOO_LARGE


@pytest.mark.parametrize(
    ("szx", "answers", "sent"),
    [
        (3, [(CONTINUE, (n, True, 3)) for n in range(3)] + [(CHANGED, (3, False, 3))],
         [(0, True, 3), (1, True, 3), (2, True, 3), (3, False, 3)]),
        # RFC 7959 Figure 9: the server wants smaller blocks, at first and later
        (3, [(CONTINUE, (0, True, 2)), (CONTINUE, (2, True, 2)), (CONTINUE, (3, True, 1))],
         [(0, True, 3), (2, True, 2), (3, True, 2), (8, True, 1)]),
        (3, [(CONTINUE, (0, True, 6))], [(0, True, 3), (1, True, 3)]),  # never larger ones
        # Figure 8: the server acts on each block by itself
        (3, [(CHANGED, (n, False, 3)) for n in range(4)], [(0, True, 3), (1, True, 3), (2, True, 3), (3, False, 3)]),
        # §2.9.3: too large for one message, not for the server
        (3, [(TOO_LARGE, (0, True, 1)), (CONTINUE, (0, True, 1))], [(0, True, 3), (0, True, 1), (1, True, 1)]),
        (6, [(TOO_LARGE, (0, False, 2)), (CONTINUE, (0, True, 2))], [None, (0, True, 2), (1, True, 2)]),
    ],
)  # fmt: skip
def test_block_size_follows_the_server(szx: int, answers: Any, sent: Any) -> None:
    assert uploaded(szx, answers)[0] == sent


@pytest.mark.parametrize(
    ("szx", "answers", "outcome"),
    [
        (3, [(CHANGED, None)], BodyError),  # a success, though most of the body is not there yet
        (3, [(CONTINUE, None)], BodyError),
        (3, [(CONTINUE, (n, True, 3)) for n in range(4)], BodyError),
        (3, [(CONTINUE, (0, True, 7))], BodyError),
        (3, [(codes.REQUEST_ENTITY_INCOMPLETE, None)], codes.REQUEST_ENTITY_INCOMPLETE),
        (3, [(TOO_LARGE, None)], TOO_LARGE),
        (3, [(TOO_LARGE, (0, True, 3))], TOO_LARGE),
        (3, [(CONTINUE, (0, True, 3)), (TOO_LARGE, (1, True, 1))], TOO_LARGE),
        (6, [(TOO_LARGE, (0, False, 5))], TOO_LARGE),  # it fits into one such block, and was refused
        (6, [(TOO_LARGE, None)], TOO_LARGE),
        (3, [(codes.NOT_FOUND, (0, False, 3))], codes.NOT_FOUND),
    ],
)
def test_upload_that_ends_early_does_not_end_well(szx: int, answers: Any, outcome: Any) -> None:
    (result,) = uploaded(szx, answers)[1]
    assert (result.code if isinstance(result, Response) else type(result)) == outcome


def test_size_of_response_blocks_is_asked_for_with_the_last_block_only() -> None:
    pair = Server().pair()
    pair.request(codes.POST, "x", payload=BODY[:200], szx=2)
    first = [one for name, one in pair.messages() if name == "client"][:4]
    assert [block_of(one, BLOCK2) for one in first] == [None, None, None, (0, False, 2)]
    assert [block_of(one, BLOCK1) for one in first] == [(0, True, 2), (1, True, 2), (2, True, 2), (3, False, 2)]


@pytest.mark.parametrize("size", [30, 200])
def test_requests_for_further_blocks_of_the_response_carry_no_payload(size: int) -> None:
    pair = Pair(Site(Resource("/x", post=lambda _: Response(payload=BODY))))
    assert pair.request(codes.POST, "x", payload=BODY[:size], szx=2).payload == BODY
    asked = [one for name, one in pair.messages() if name == "client"]
    further = [one for one in asked if (block_of(one, BLOCK2) or (0,))[0]]
    assert len(further) == 159
    assert all(one.payload == b"" and block_of(one, BLOCK1) is None for one in further)


class Failing(BytesSource):
    """A body that cannot be read from some offset on."""

    def __init__(self, fails_at: int, size: int) -> None:
        super().__init__(BODY[:size])
        self.fails_at = fails_at

    def read_at(self, offset: int, length: int) -> bytes:
        if offset >= self.fails_at:
            raise OSError(5, "I/O error")
        return super().read_at(offset, length)


@pytest.mark.parametrize("size", [100, 5000])
def test_body_that_cannot_be_read_at_first_is_told_to_the_caller(size: int) -> None:
    solo = Solo()
    with pytest.raises(StorageError):
        solo.request(codes.PUT, payload=Failing(0, size))
    assert solo.sent() == []
    assert solo.is_empty()


def test_body_that_cannot_be_read_later_ends_the_request() -> None:
    pair = Server().pair()
    outcomes = pair.start(codes.PUT, "x", payload=Failing(2048, 5000))
    pair.world.run_for(10.0)
    assert [type(outcome) for outcome in outcomes] == [StorageError]


def test_no_room_for_the_next_block_ends_the_request() -> None:
    solo = Solo(limits=Limits(queued_messages=0))
    outcomes = solo.request(codes.PUT, payload=BODY)
    (sent,) = solo.sent()
    solo.put(empty_ack(sent))
    solo.request(codes.GET)  # takes the only place
    solo.put(non(codes.CONTINUE, 5, sent.token, options=(option((0, True, 6), BLOCK1),)))
    assert [type(outcome) for outcome in outcomes] == [NetworkError]


@pytest.mark.parametrize(
    "arguments",
    [{"offset": 100}, {"offset": -1024}, {"szx": 7}, {"szx": -1}, {"offset": 512, "szx": 6}, {"payload": "huge"}],
)
def test_arguments_that_cannot_work_are_refused(arguments: dict[str, Any]) -> None:
    class Huge(BytesSource):
        size = (1 << 30) + 1  # type: ignore[assignment]

    if arguments.get("payload") == "huge":
        arguments = {"payload": Huge(b"")}
    solo = Solo()
    with pytest.raises(UsageError):
        solo.request(codes.PUT, **arguments)
    assert solo.is_empty()


# Cancelling


@pytest.mark.parametrize("events", [0, 1, 2, 3, 5, 8, 13, 21, 30, 41])
def test_transfer_cancelled_at_any_moment_leaves_nothing_behind(events: int) -> None:
    server, outcomes = Server(), []
    pair = server.pair(link=Link(loss=0.2, jitter=0.2), seed=events)
    transfer = pair.client.request(
        codes.POST, pair.server_host.address, outcomes.append, 0.0, uri_path=["x"], payload=BODY
    )
    pair.client_host.wake()
    for _ in range(events):
        pair.world.step()
    transfer.cancel(pair.world.now)
    pair.client_host.wake()
    pair.world.run_for(5 * LIFETIME)
    assert outcomes == []
    assert not any([*pair.client.footprint().values(), *pair.server.footprint().values()])


@pytest.mark.parametrize("sinks", [False, True])
def test_valid_has_no_payload_whatever_the_server_sends(sinks: bool) -> None:
    """RFC 7252 §5.5: it is ignored."""
    solo, sink = Solo(), Sink()
    outcomes = solo.request(codes.GET, "x", options=((ETAG, b"e"),), **({"sink": sink} if sinks else {}))
    (sent,) = solo.sent()
    solo.put(ack(codes.VALID, sent, options=((ETAG, b"e"),), payload=b"unasked"))
    assert [(each.code, each.body, each.etag) for each in outcomes if isinstance(each, Response)] == [
        (codes.VALID, b"", b"e")
    ]
    assert (sink.begun, sink.blocks) == ([], [])


def test_upload_whose_caller_fails_when_told_of_progress_ends_by_saying_so() -> None:
    def fail(transfer: Any) -> None:
        raise ValueError("no")

    server = Server()
    pair = server.pair()
    outcome = pair.outcome(codes.POST, "x", payload=BODY, progress=fail)
    assert isinstance(outcome, UsageError)
    assert isinstance(outcome.__cause__, ValueError)
    assert server.received == []
    pair.world.run_for(2000.0)
    assert not any([*pair.client.footprint().values(), *pair.server.footprint().values()])
