"""What a server may choose about blocks: their size, what it keeps of a response, and to write each by itself."""

from __future__ import annotations

import pytest

from minicoap.codec import codes
from minicoap.codec.options import BLOCK1, BLOCK2, ETAG, SIZE1
from minicoap.core.parameters import Limits
from minicoap.core.request import Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.errors import UsageError
from minicoap.simulate.pair import Pair
from tests.minicoap.core.solo import Solo, con
from tests.minicoap.core.test_block_server import BODY, Pages, Store, Uploader, asked, block_of


def test_last_block_of_a_response_that_cannot_be_made_again_is_repeated() -> None:
    for code in (codes.FETCH, codes.PUT, codes.POST):
        solo = Solo(Pages().site())
        asked(solo, None, code=code)
        last = asked(solo, 1, code=code)
        assert asked(solo, 1, code=code) == last
        assert solo.forgets_everything()


def test_download_that_begins_in_the_middle_is_made_once_too() -> None:
    pages = Pages()
    solo = Solo(pages.site())
    answers = [asked(solo, number, 4) for number in range(4, 8)]
    assert b"".join(answer.payload for answer in answers) == BODY[1024:]
    assert pages.calls == 1
    assert solo.forgets_everything()


@pytest.mark.parametrize("szx", [0, 2, 5])
def test_server_with_small_blocks_answers_by_them_whatever_was_asked_for(szx: int) -> None:
    solo = Solo(Pages().site(), limits=Limits(block_szx=szx))
    first = asked(solo, None)
    assert block_of(first, BLOCK2) == (0, True, szx)
    early = asked(solo, 0, 6, message_id=2)
    assert (block_of(early, BLOCK2), early.payload) == ((0, True, szx), BODY[: 16 << szx])
    later = asked(solo, 1, 6, message_id=3)
    assert (block_of(later, BLOCK2), later.payload) == ((64 >> szx, True, szx), BODY[1024:][: 16 << szx])


def test_server_with_small_blocks_takes_large_ones_and_asks_for_small() -> None:
    store = Store()
    uploader = Uploader(Solo(store.site(), limits=Limits(block_szx=2)))
    assert block_of(uploader.put(0, True, 6), BLOCK1) == (0, True, 2)
    assert block_of(uploader.put(16, True, 2), BLOCK1) == (16, True, 2)
    assert block_of(uploader.put(17, False, 2), BLOCK1) == (17, False, 2)
    assert block_of(uploader.put(0, False, 6), BLOCK1) == (0, False, 2)
    assert store.bodies == [BODY[:1152], BODY[:1024]]


def test_options_that_are_no_part_of_the_cache_key_may_differ_from_block_to_block() -> None:
    store = Store()
    uploader = Uploader(Solo(store.site()))
    answers = [
        uploader.put(0, True, options=((SIZE1, b"\x03"), (252, b"echo"))),
        uploader.put(1, True, options=((252, b"other"),)),
        uploader.put(2, False),
    ]
    assert [codes.code_text(answer.code) for answer in answers] == ["2.31", "2.31", "2.04"]


# Blocks that are written each by itself (RFC 7959 §2.3)


class Disk:
    def __init__(self) -> None:
        self.data = bytearray(2048)
        self.calls: list[tuple[int, int, bool]] = []

    def write(self, request: Request, offset: int, more: bool) -> Response:
        self.calls.append((offset, len(request.payload), more))
        self.data[offset : offset + len(request.payload)] = request.payload
        return Response(codes.CHANGED)

    def solo(self) -> Solo:
        return Solo(Site(Resource("/body", write_block=self.write, post=lambda _: Response(codes.CHANGED))))


def test_blocks_written_by_themselves_come_in_any_order_and_leave_nothing_behind() -> None:
    disk = Disk()
    solo = disk.solo()
    uploader = Uploader(solo)
    for number in (5, 0, 7, 2):
        answer = uploader.put(number, number < 7)
        assert (answer.code, block_of(answer, BLOCK1)) == (codes.CHANGED, (number, False, 4))
        assert solo.core.footprint()["bodies"] == 0
    for number in (0, 2, 5, 7):
        assert disk.data[256 * number :][:256] == BODY[256 * number :][:256]
    assert disk.calls == [(1280, 256, True), (0, 256, True), (1792, 256, False), (512, 256, True)]


def test_body_in_one_message_is_one_block_and_other_methods_are_atomic() -> None:
    disk = Disk()
    solo = disk.solo()
    solo.put(con(codes.PUT, 1, b"t", "body", payload=b"short"))
    assert disk.calls == [(0, 5, False)]
    assert Uploader(solo, codes.POST).codes((0, True), (1, False)) == ["2.31", "2.04"]
    assert len(disk.calls) == 1


def test_repeated_datagram_of_a_block_written_by_itself_is_not_written_again() -> None:
    disk = Disk()
    uploader = Uploader(disk.solo())
    block = uploader.message(1, True)
    assert uploader.solo.put(block) == uploader.solo.put(block)
    assert len(disk.calls) == 1


def test_our_client_uploads_to_such_a_resource() -> None:
    disk = Disk()
    pair = Pair(Site(Resource("/body", write_block=disk.write)))
    assert pair.request(codes.PUT, "body", payload=BODY, szx=4).code == codes.CHANGED
    assert disk.data == BODY


def test_only_one_may_have_the_bodies_of_put() -> None:
    disk = Disk()
    with pytest.raises(UsageError):
        Resource("/body", write_block=disk.write, put=lambda _: Response())


def test_source_that_changes_under_way_is_served_under_its_new_name() -> None:
    class Changing:
        etag, body = b"one", BODY

        @property
        def size(self) -> int:
            return len(self.body)

        def read_at(self, offset: int, length: int) -> bytes:
            return self.body[offset : offset + length]

    source = Changing()
    solo = Solo(Site(Resource("/page", get=lambda _: Response(payload=source))))
    assert asked(solo, 0, 4).options.get(ETAG) == b"one"
    assert asked(solo, 1, 4).options.get(ETAG) == b"one"
    source.etag, source.body = b"two", BODY[::-1]
    answer = asked(solo, 2, 4)
    assert (answer.options.get(ETAG), answer.payload) == (b"two", BODY[::-1][512:768])
