"""Q-Block at a server (RFC 9177 §4): what it refuses, what it answers to blocks that come again, and what it keeps."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from minicoap.codec import codes
from minicoap.codec.message import ACK, CON, NON, RST, Message, Options
from minicoap.codec.options import (
    BLOCK1,
    BLOCK2,
    ECHO,
    ETAG,
    OBSERVE,
    Q_BLOCK1,
    Q_BLOCK2,
    REQUEST_TAG,
    SIZE1,
    SIZE2,
    encode_uint,
)
from minicoap.core.body import Block
from minicoap.core.parameters import Limits
from minicoap.core.request import Deferred, Path, Request, Response
from minicoap.core.resource import Resource, Site
from tests.minicoap.core.quick import Store, body, described
from tests.minicoap.core.solo import ABROAD, LIFETIME, OTHER, PEER, Solo, message, reset


def said(messages: list[Message]) -> list[str]:
    return [described(message) for message in messages]


class Client:
    """One that plays by hand."""

    def __init__(self, site: Site, *, limits: Limits = Limits(), path: Path = PEER) -> None:  # noqa: B008  immutable
        self.solo = Solo(site, limits=limits)
        self.path = path
        self.message_id = 0

    def send(
        self,
        code: int,
        *options: tuple[int, bytes],
        payload: bytes = b"",
        type: int = NON,
        token: Optional[bytes] = None,
        path: Optional[Path] = None,
        resource: str = "x",
    ) -> list[Message]:
        """Send a request and return what comes at once, and what was meant to come right after it."""
        self.message_id += 1
        if token is None:
            token = self.message_id.to_bytes(2, "big")
        request = message(type, code, self.message_id, token, resource, options=options, payload=payload)
        answers = self.solo.put(request, self.path if path is None else path)
        return answers + [later for _, later in self.solo.pass_time(0.0)]

    def put(
        self, data: bytes, number: int, *, tag: Optional[bytes] = b"T", szx: int = 6, code: int = codes.PUT, **more: Any
    ) -> list[str]:
        """Send one block of a body; return what comes at once."""
        size = 16 << szx
        more_follow = (number + 1) * size < len(data)
        options = [(Q_BLOCK1, Block(number, more_follow, szx).encode()), (SIZE1, encode_uint(len(data)))]
        if tag is not None:
            options.append((REQUEST_TAG, tag))
        return said(self.send(code, *options, payload=data[number * size : (number + 1) * size], **more))

    def get(self, *blocks: Block, **more: Any) -> list[Message]:
        return self.send(codes.GET, *[(Q_BLOCK2, block.encode()) for block in blocks], **more)

    def bodies(self) -> int:
        return self.solo.core.footprint()["bodies"]


BLOCK = (Q_BLOCK1, Block(0, True, 6).encode())


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ([BLOCK, (SIZE1, b"\x08\x00")], codes.BAD_REQUEST, b"Request-Tag"),  # §4.3
        ([BLOCK, (REQUEST_TAG, b"T")], codes.BAD_REQUEST, b"Size1"),  # §4.3
        ([(Q_BLOCK1, b"\x0f"), (REQUEST_TAG, b"T"), (SIZE1, b"\x08\x00")], codes.BAD_REQUEST, b"reserved"),  # §4.2
        ([(Q_BLOCK1, b"\x06"), (REQUEST_TAG, b"T"), (SIZE1, b"\x08\x00")], codes.BAD_REQUEST, b"more"),
        ([(Q_BLOCK1, b"\x0d"), (REQUEST_TAG, b"T"), (SIZE1, b"\x08\x00")], codes.BAD_REQUEST, b"length"),
        ([(Q_BLOCK1, b"\x2e"), (REQUEST_TAG, b"T"), (SIZE1, b"\x08\x00")], codes.BAD_REQUEST, b"2048"),
        ([BLOCK, (BLOCK1, b"\x0e"), (REQUEST_TAG, b"T"), (SIZE1, b"\x08\x00")], codes.BAD_OPTION, b"mixed"),  # §4.1
        ([BLOCK, (BLOCK2, b"\x06"), (REQUEST_TAG, b"T"), (SIZE1, b"\x08\x00")], codes.BAD_OPTION, b"mixed"),  # §4.1
        ([(Q_BLOCK2, b"\x0e"), (BLOCK2, b"\x06")], codes.BAD_OPTION, b"mixed"),  # §4.1
        ([(Q_BLOCK2, b"\x0f")], codes.BAD_REQUEST, b"reserved"),
        ([BLOCK, BLOCK, (REQUEST_TAG, b"T"), (SIZE1, b"\x08\x00")], codes.BAD_OPTION, b"twice"),  # §4.1
    ],
)
def test_what_is_no_q_block_request_is_refused(options: list[tuple[int, bytes]], code: int, words: bytes) -> None:
    client = Client(Store().site())
    (answer,) = client.send(codes.PUT, *options, payload=bytes(1024), type=CON)
    assert (answer.type, answer.code) == (ACK, code) and words in answer.payload
    assert client.bodies() == 0


def test_a_duplicate_block_is_ignored_and_answered_as_it_was() -> None:  # §4.3
    store = Store()
    client = Client(store.site())
    data = body(11)
    assert [client.put(data, number) for number in range(9)] == [[]] * 9
    assert client.put(data, 9) == ["NON 2.31 QB1:9/1"]
    assert client.put(data, 9) == ["NON 2.31 QB1:9/1"]
    assert client.put(data, 3) == []
    assert client.put(data, 10) == ["NON 2.04"]
    assert client.put(data, 10) == ["NON 2.04"] and client.put(data, 0) == ["NON 2.04"]
    assert store.taken == [data]


def test_bodies_with_other_request_tags_are_other_bodies() -> None:  # §4.3
    store = Store()
    client = Client(store.site())
    one, other = body(2), bytes(2048)
    client.put(one, 0, tag=b"1")
    client.put(other, 0, tag=b"2")
    client.put(other, 1, tag=b"2")
    client.put(one, 1, tag=b"1")
    assert store.taken == [other, one]


def test_the_same_tag_of_another_client_is_another_body() -> None:
    store = Store()
    client = Client(store.site())
    client.put(body(2), 0)
    assert client.put(bytes(2048), 1, path=OTHER) == []
    assert client.put(bytes(2048), 0, path=OTHER) == ["NON 2.04"]
    assert store.taken == [bytes(2048)]


def test_any_block_may_come_first() -> None:
    store = Store()
    client = Client(store.site())
    for number in (2, 1, 0):
        answers = client.put(body(3), number)
    assert answers == ["NON 2.04"] and store.taken == [body(3)]


def test_confirmable_blocks_are_acknowledged_without_continue() -> None:  # §4.3
    client = Client(Store().site())
    said_ = [client.put(body(11), number, type=CON) for number in range(11)]
    assert said_ == [["ACK 0.00"]] * 10 + [["ACK 2.04"]]


def test_one_body_is_all_confirmable_or_not_at_all() -> None:  # §7
    client = Client(Store().site())
    client.put(body(3), 0)
    assert client.put(body(3), 1, type=CON) == ["ACK 4.00"]
    assert client.put(body(3), 1) == []


def test_a_confirmable_body_that_is_not_completed_is_dropped() -> None:  # §7.2: NON_PARTIAL_TIMEOUT
    client = Client(Store().site())
    client.put(body(3), 0, type=CON)
    assert client.solo.pass_time(246.0) == [] and client.bodies() == 1
    assert client.solo.pass_time(2.0) == [] and client.bodies() == 0


def test_size1_is_the_same_for_all_blocks() -> None:  # §4.6
    client = Client(Store().site())
    client.put(body(3), 0)
    assert client.put(body(2, 1000), 1) == ["NON 4.00"]
    assert client.put(body(3), 1) == []


def test_missing_blocks_are_asked_for_with_the_token_that_came_last() -> None:  # §5
    client = Client(Store().site())
    client.put(body(4), 0, token=b"one")
    client.put(body(4), 3, token=b"two")
    client.solo.pass_time(3.9)
    ((when, asked),) = client.solo.pass_time(0.2)
    assert described(asked) == "NON 4.08 missing 1,2" and asked.token == b"two"
    assert when == pytest.approx(1004.0)


def test_a_reset_to_the_list_of_missing_blocks_ends_the_body() -> None:  # §4.3
    client = Client(Store().site())
    client.put(body(4), 0)
    ((_, asked),) = client.solo.pass_time(5.0)
    client.solo.put(reset(asked))
    assert client.bodies() == 0 and client.solo.pass_time(100.0) == []


def test_a_list_of_missing_blocks_has_those_of_one_set_at_most() -> None:  # §5
    client = Client(Store().site())
    data = body(40)
    client.put(data, 0)
    assert client.put(data, 15) == ["NON 4.08 missing 1,2,3,4,5,6,7,8,9"]


def test_lists_of_missing_blocks_keep_to_probing_rate() -> None:  # §7.2
    client = Client(Store().site())
    client.put(body(12), 11, token=b"")
    sent = client.solo.pass_time(400.0)
    assert [described(asked) for _, asked in sent] == ["NON 4.08 missing " + ",".join(map(str, range(10)))] * 4
    rates = [count * 18 / (when - 1000.0) for count, (when, _) in enumerate(sent)]  # 18 bytes each
    assert all(rate <= 1.01 for rate in rates) and client.bodies() == 0


def test_the_first_answer_to_a_long_body_is_repeated_by_its_first_block() -> None:
    client = Client(Store().site())
    data = body(3)
    client.put(data, 0, code=codes.POST)
    client.put(data, 1, code=codes.POST)
    assert client.put(data, 2, code=codes.POST) == ["NON 2.05 QB2:0/1", "NON 2.05 QB2:1/1", "NON 2.05 QB2:2/0"]
    assert client.put(data, 2, code=codes.POST) == ["NON 2.05 QB2:0/1"]


def test_a_body_that_is_announced_as_too_large_is_refused() -> None:  # RFC 7959 §2.9.3, which §4.3 refers to
    client = Client(Site(Resource("/x", put=lambda _: Response(codes.CHANGED), max_body=2000)))
    options = [BLOCK, (REQUEST_TAG, b"T"), (SIZE1, b"\x08\x00")]
    (answer,) = client.send(codes.PUT, *options, payload=bytes(1024))
    assert answer.code == codes.REQUEST_ENTITY_TOO_LARGE and answer.options.uint(SIZE1) == 2000
    assert client.bodies() == 0


def test_blocks_larger_than_ours_are_refused_with_a_size_that_will_do() -> None:
    client = Client(Store().site(), limits=Limits(block_szx=4))
    options = [BLOCK, (REQUEST_TAG, b"T"), (SIZE1, b"\x08\x00")]
    (answer,) = client.send(codes.PUT, *options, payload=bytes(1024))
    assert answer.code == codes.REQUEST_ENTITY_TOO_LARGE and answer.options.uint(Q_BLOCK1) == 8 | 4


class Disk:
    """A sink that insists on order."""

    def __init__(self, refuses_at: int = -1) -> None:
        self.data = b""
        self.refuses_at = refuses_at
        self.ended = ""

    def write_at(self, offset: int, data: bytes) -> Optional[Response]:
        assert offset == len(self.data)
        if offset == self.refuses_at:
            return Response(codes.FORBIDDEN)
        self.data += data
        return None

    def finish(self, answer: Deferred) -> None:
        self.ended = "finished"
        answer.resolve(Response(codes.CREATED), 0.0)

    def abort(self, reason: str) -> None:
        self.ended = reason


def test_a_sink_gets_the_blocks_in_order() -> None:
    disk = Disk()
    client = Client(Site(Resource("/x", upload=lambda _: disk)))
    for number in (1, 3, 0, 2):
        answers = client.put(body(4), number)
    assert answers == ["NON 2.01"] and disk.data == body(4) and disk.ended == "finished"


def test_a_sink_that_refuses_ends_the_body() -> None:
    disk = Disk(refuses_at=1024)
    client = Client(Site(Resource("/x", upload=lambda _: disk)))
    client.put(body(4), 0)
    assert client.put(body(4), 1) == ["NON 4.03"] and disk.ended == "refused"
    assert client.put(body(4), 2) == ["NON 4.03"]  # those that were under way


def test_a_sink_is_told_when_the_rest_does_not_come() -> None:
    disk = Disk()
    client = Client(Site(Resource("/x", upload=lambda _: disk)))
    client.put(body(4), 0)
    client.solo.pass_time(200.0)
    assert "did not come" in disk.ended and client.bodies() == 0


def test_further_bodies_are_answered_to_come_later() -> None:
    client = Client(Store().site(), limits=Limits(open_bodies=2))
    for tag in (b"1", b"2"):
        assert client.put(body(2), 0, tag=tag) == []
    assert client.put(body(2), 0, tag=b"3") == ["NON 5.03"]
    client.solo.pass_time(31.0)  # the grace of a quiet one
    assert client.put(body(2), 0, tag=b"3") == []


def test_whoever_holds_the_most_gives_way_to_who_holds_less() -> None:
    client = Client(Store().site(), limits=Limits(open_bodies=4))
    for number in range(4):
        client.put(body(2), 0, tag=b"%d" % number)
    assert client.put(body(2), 0, path=OTHER) == []
    assert client.put(body(2), 1, path=OTHER) == ["NON 2.04"]
    assert client.put(body(2), 1, tag=b"3") == ["NON 2.04"]  # it was the oldest that had to go
    assert client.bodies() <= 4


def test_what_has_ended_leaves_its_room_to_others() -> None:
    client = Client(Store(body(4)).site(), limits=Limits(open_body_bytes=8192))
    for number in range(4):  # each of them takes all that the one before has left
        client.put(body(4), 0, tag=b"a%d" % number)
        client.solo.pass_time(300.0)
        client.put(body(4), 0, tag=b"b%d" % number, code=codes.POST)
        for block in (1, 2, 3):
            answers = client.put(body(4), block, tag=b"b%d" % number, code=codes.POST)
        assert answers[0] == "NON 2.05 QB2:0/1"
        client.solo.pass_time(600.0)
        assert client.bodies() == 0
        assert len(client.get(Block(0, True, 6))) == 4
        client.solo.pass_time(600.0)


def test_bodies_in_memory_are_bounded_in_bytes() -> None:
    client = Client(Store().site(), limits=Limits(open_body_bytes=5000))
    assert client.put(body(4), 0, tag=b"1") == []
    assert client.put(body(4), 0, tag=b"2") == ["NON 5.03"]


def test_every_block_of_a_response_has_etag_and_size2() -> None:  # §4.4, §4.6
    client = Client(Store(body(3)).site())
    blocks = client.get(Block(0, True, 6))
    assert said(blocks) == ["NON 2.05 QB2:0/1", "NON 2.05 QB2:1/1", "NON 2.05 QB2:2/0"]
    assert all(block.options.get(ETAG) == b"v1" and block.options.uint(SIZE2) == 3072 for block in blocks)
    assert b"".join(block.payload for block in blocks) == body(3)


def test_a_source_without_an_etag_is_given_one() -> None:  # §4.4
    class Tape:
        size = 3000
        etag = None

        def read_at(self, offset: int, length: int) -> bytes:
            return bytes(min(length, 3000 - offset))

    client = Client(Site(Resource("/x", get=lambda _: Response(payload=Tape()))))
    etags = {block.options.get(ETAG) for block in client.get(Block(0, True, 6))}
    assert len(etags) == 1 and None not in etags


def test_without_m_only_that_block_is_sent() -> None:  # §4.4
    client = Client(Store(body(30)).site())
    assert said(client.get(Block(0, False, 0), type=CON)) == ["ACK 2.05 QB2:0/1"]
    assert client.bodies() == 0
    assert said(client.get(Block(7, False, 6))) == ["NON 2.05 QB2:7/1"]


def test_missing_blocks_are_sent_once_each_under_the_token_of_who_asks() -> None:  # §4.4
    client = Client(Store(body(30)).site())
    client.get(Block(0, True, 6), token=b"one")
    asked = client.get(Block(2, False, 6), Block(4, True, 6), Block(6, False, 6), token=b"two")
    assert said(asked) == [f"NON 2.05 QB2:{number}/1" for number in (2, 4, 5, 6, 7, 8, 9)]
    assert {block.token for block in asked} == {b"two"}


@pytest.mark.parametrize("numbers", [(4, 2), (3, 3)])
def test_missing_blocks_that_do_not_ascend_are_refused(numbers: tuple[int, int]) -> None:  # §4.4
    client = Client(Store(body(30)).site())
    (answer,) = client.get(*[Block(number, False, 6) for number in numbers])
    assert answer.code == codes.BAD_REQUEST


def test_not_more_than_a_set_is_sent_for_one_request() -> None:  # §7.2
    client = Client(Store(body(30)).site())
    client.get(Block(0, True, 6))
    assert len(client.get(*[Block(number, False, 6) for number in range(15)])) == 10


def test_continue_goes_on_under_the_first_token() -> None:  # §4.4, §10.3.2
    client = Client(Store(body(12)).site())
    client.get(Block(0, True, 6), token=b"one")
    more = client.get(Block(10, True, 6), token=b"two")
    assert said(more) == ["NON 2.05 QB2:10/1", "NON 2.05 QB2:11/0"] and {block.token for block in more} == {b"one"}
    assert client.get(Block(10, True, 6), token=b"three") == []


def test_continue_may_repeat_the_first_block_of_the_request() -> None:
    client = Client(Store().site())
    data = body(12)
    for number in range(12):
        client.put(data, number, code=codes.FETCH)
    options = [BLOCK, (SIZE1, encode_uint(len(data))), (REQUEST_TAG, b"T"), (Q_BLOCK2, Block(10, True, 6).encode())]
    assert said(client.send(codes.FETCH, *options)) == ["NON 2.05 QB2:10/1", "NON 2.05 QB2:11/0"]


def test_sending_missing_blocks_begins_the_pause_anew() -> None:  # §7.2
    client = Client(Store(body(12)).site())
    client.get(Block(0, True, 6))
    client.solo.pass_time(1.9)
    client.get(Block(3, False, 6))
    assert client.solo.pass_time(1.9) == []
    assert len(client.solo.pass_time(1.2)) == 2


def test_without_continue_the_next_set_follows_after_a_pause() -> None:  # §7.2
    client = Client(Store(body(12)).site())
    client.get(Block(0, True, 6))
    sent = client.solo.pass_time(10.0)
    assert said([block for _, block in sent]) == ["NON 2.05 QB2:10/1", "NON 2.05 QB2:11/0"]
    assert all(1002.0 <= when <= 1003.0 for when, _ in sent)


def test_the_same_datagram_once_more_changes_nothing() -> None:
    client = Client(Store(body(12)).site())
    client.get(Block(0, True, 6), token=b"one")
    client.message_id -= 1
    assert client.get(Block(0, True, 6), token=b"one") == []


def test_a_reset_ends_the_response() -> None:
    client = Client(Store(body(30)).site())
    *_, last = client.get(Block(0, True, 6))
    client.solo.put(reset(last))
    assert client.solo.pass_time(20.0) == []


def test_an_unreachable_client_is_sent_nothing_more() -> None:
    client = Client(Store(body(30)).site())
    client.get(Block(0, True, 6))
    client.solo.core.path_failed(PEER, OSError(111, "Connection refused"), client.solo.now)
    assert client.solo.pass_time(20.0) == []


def test_a_change_of_the_body_ends_its_transmission() -> None:  # §4.4
    class Changing:
        size = 20 * 1024

        def __init__(self) -> None:
            self.etag = b"1"

        def read_at(self, offset: int, length: int) -> bytes:
            return bytes(min(length, self.size - offset))

    source = Changing()
    client = Client(Site(Resource("/x", get=lambda _: Response(payload=source))))
    client.get(Block(0, True, 6))
    source.etag = b"2"
    assert client.solo.pass_time(20.0) == []
    (answer,) = client.get(Block(3, False, 6))  # answered by the new one
    assert answer.options.get(ETAG) == b"2"


def test_a_short_response_says_that_it_is_all() -> None:
    client = Client(Store(b"short").site())
    (answer,) = client.get(Block(0, True, 6))
    assert described(answer) == "NON 2.05 QB2:0/0" and answer.options.uint(SIZE2) == 5
    assert client.bodies() == 0


def test_an_etag_that_the_client_has_is_confirmed() -> None:
    client = Client(Store(body(3)).site())
    (answer,) = client.send(codes.GET, (ETAG, b"v1"), (Q_BLOCK2, Block(0, True, 6).encode()))
    assert answer.code == codes.VALID and not answer.payload


def test_nobody_is_taken_on_as_an_observer_by_q_block() -> None:
    client = Client(Site(Resource("/x", get=lambda _: Response(payload=body(3), etag=b"v1"), observable=True)))
    answers = client.send(codes.GET, (OBSERVE, b""), (Q_BLOCK2, Block(0, True, 6).encode()))
    assert said(answers) == ["NON 2.05 QB2:0/1", "NON 2.05 QB2:1/1", "NON 2.05 QB2:2/0"]
    assert not any(answer.options.mask & 1 << OBSERVE for answer in answers)
    assert said(client.get(Block(1, False, 6))) == ["NON 2.05 QB2:1/1"]
    assert client.bodies() == 1  # they are of one body
    assert client.solo.core.footprint()["observers"] == 0


def test_a_request_to_a_group_is_ignored() -> None:  # §4.8
    solo = Solo(Site(Resource("/x", get=lambda _: Response(payload=body(3)), group=True)))
    request = message(NON, codes.GET, 1, b"t", "x", options=((Q_BLOCK2, Block(0, True, 6).encode()),))
    from minicoap.codec.message import encode

    solo.core.multicast_received(encode(request), PEER, solo.now)
    assert solo.pass_time(10.0) == [] and solo.sent() == []


def test_an_address_that_may_be_forged_is_challenged_first() -> None:  # RFC 9175 §2.4
    client = Client(Store(body(30)).site(), path=ABROAD)
    (challenge,) = client.get(Block(0, True, 6))
    assert challenge.code == codes.UNAUTHORIZED
    echo = challenge.options.get(ECHO)
    assert echo is not None
    answers = client.send(codes.GET, (ECHO, echo), (Q_BLOCK2, Block(0, True, 6).encode()))
    assert len(answers) == 10


def test_who_asks_whether_there_is_q_block_is_told_at_once() -> None:  # §4.1
    client = Client(Store(body(30)).site(), path=ABROAD)
    (answer,) = client.get(Block(0, False, 0), type=CON)
    assert described(answer) == "ACK 2.05 QB2:0/1"


def test_a_late_answer_is_sent_block_by_block_too() -> None:
    waiting: list[Deferred] = []

    def later(request: Request) -> Deferred:
        waiting.append(request.defer())
        return waiting[-1]

    client = Client(Site(Resource("/x", get=later)))
    assert client.get(Block(0, True, 6)) == []
    client.solo.pass_time(5.0)
    waiting[0].resolve(Response(payload=body(3)), client.solo.now)
    answers = client.solo.sent() + [block for _, block in client.solo.pass_time(0.0)]
    assert said(answers) == ["NON 2.05 QB2:0/1", "NON 2.05 QB2:1/1", "NON 2.05 QB2:2/0"]


def test_nothing_is_left_in_the_end() -> None:
    client = Client(Store(body(30)).site())
    client.get(Block(0, True, 6))
    for number in range(2):
        client.put(body(2), number)
    client.put(body(2), 0, tag=b"never")
    assert client.bodies() == 3
    client.solo.pass_time(4 * LIFETIME)
    assert client.solo.is_empty()


def test_a_plain_exchange_does_not_understand_q_block() -> None:  # RFC 7252 §5.4.1
    solo = Solo()
    outcomes = solo.request(codes.GET, "x")
    (request,) = solo.sent()
    options = Options(((Q_BLOCK2, b"\x0e"),))
    solo.put(Message(ACK, codes.CONTENT, request.message_id, request.token, options, bytes(1024)))
    assert "Q-Block2" in str(outcomes[0])


def test_a_block_that_nobody_waits_for_is_rejected() -> None:
    solo = Solo()
    solo.request(codes.GET, "x")
    solo.sent()
    options = Options(((Q_BLOCK2, b"\x0e"),))
    (answer,) = solo.put(Message(NON, codes.CONTENT, 77, b"unknown", options, bytes(1024)))
    assert (answer.type, answer.message_id) == (RST, 77)


@pytest.mark.parametrize("code", [codes.POST, codes.PUT, codes.FETCH, codes.GET])
@pytest.mark.parametrize("numbers", [(1,), (0, 1), (2, 3)])
def test_further_blocks_of_a_response_that_is_not_kept_carry_nothing_out(code: int, numbers: tuple[int, ...]) -> None:
    """They are asked for without payload (§10.3.3): only a GET can be answered anew."""
    store = Store(body(5))
    client = Client(store.site())
    wanted = [(Q_BLOCK2, Block(number, False, 6).encode()) for number in numbers]
    answer = client.send(code, *wanted)[0]
    assert codes.code_text(answer.code) == ("2.05" if code == codes.GET else "4.08")
    assert store.taken == []
