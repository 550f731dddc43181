"""What ETSI CoAP#4 left out of bodies in blocks: the reserved size, gaps, numbers past 65,535, Request-Tag, sizes.

RFC 7959; RFC 9175 §3.
"""

from __future__ import annotations

from typing import Optional

from minicoap.codec import codes
from minicoap.codec.contentformats import TEXT
from minicoap.codec.options import BLOCK1, BLOCK2, ETAG, REQUEST_TAG, SIZE2
from tools.conformance.blocks import block_of, block_value, fetch, judge_block2
from tools.conformance.model import ADVICE, CATALOGUE, SHOULD, Failure, Inconclusive, NotApplicable
from tools.conformance.peer import Answer, Peer, Rejected, check, check_code
from tools.conformance.tests.block import UPLOAD

test = CATALOGUE.test
UNASSIGNED_FORMAT = 65001


def block2(peer: Peer, role: str, number: int, szx: int) -> Answer:
    """GET one block."""
    answer = peer.ask(codes.GET, role, options=[(BLOCK2, block_value(number, False, szx))])
    if answer.code == codes.BAD_OPTION:
        raise NotApplicable("the server does not know Block2")
    return answer


def block1(
    peer: Peer,
    path: tuple[str, ...],
    number: int,
    more: bool,
    body: bytes,
    *,
    content_format: int = TEXT,
    tag: Optional[bytes] = None,
) -> Answer:
    """PUT one block of 64 bytes, which are those of `body` at its place."""
    options = [(BLOCK1, block_value(number, more, 2))]
    if tag is not None:
        options.append((REQUEST_TAG, tag))
    return peer.ask(
        codes.PUT, path, options=options, payload=body[number * 64 : (number + 1) * 64], content_format=content_format
    )


def gathered(answer: Answer) -> None:
    """Raise NotApplicable if a server does not say that it gathers the blocks of a body (RFC 7959 §2.3)."""
    block = block_of(answer, BLOCK1)
    if answer.code != codes.CONTINUE or block is None or not block.more:
        raise NotApplicable(f"the server does not gather a body: {codes.code_name(answer.code)}")


@test("BLOCK_21", section="RFC 7959 §2.2", needs=["readable"])
def reserved_size(peer: Peer) -> None:
    """The reserved block size, in a request for a block
    GET with Block2 of size exponent 7: 4.00, or 4.02 from a server that does not know the option.
    """
    peer.control()
    rule = "the reserved size exponent 7 in a request is answered 4.00"
    try:
        answer = peer.ask(codes.GET, "readable", options=[(BLOCK2, b"\x07")])
    except Rejected as error:
        raise Failure(f"{rule} (a reset came)", "RFC 7959 §2.2", error.frame) from error
    check_code(answer, codes.BAD_REQUEST, codes.BAD_OPTION, rule=rule, section="RFC 7959 §2.2")


@test("BLOCK_22", section="RFC 7959 §2.2", needs=["large_update"])
def reserved_size_sent(peer: Peer) -> None:
    """The reserved block size, in a request with a block
    PUT with Block1 of size exponent 7: 4.00, or 4.02 from a server that does not know the option.
    """
    rule = "the reserved size exponent 7 in a request is answered 4.00"
    try:
        answer = peer.ask(
            codes.PUT, "large_update", options=[(BLOCK1, b"\x0f")], payload=UPLOAD[:1024], content_format=TEXT
        )
    except Rejected as error:
        raise Failure(f"{rule} (a reset came)", "RFC 7959 §2.2", error.frame) from error
    if answer.code not in (codes.BAD_REQUEST, codes.BAD_OPTION) and not codes.is_success(answer.code):
        raise Inconclusive(f"the server refuses: {codes.code_name(answer.code)}")
    check_code(answer, codes.BAD_REQUEST, codes.BAD_OPTION, rule=rule, section="RFC 7959 §2.2")


@test("BLOCK_23", section="RFC 7959 §2.4", needs=["large"])
def more_is_ignored(peer: Peer) -> None:
    """The M bit in a request for a block
    GET with Block2 whose M bit is 1: answered as with 0.
    """
    plain = block2(peer, "large", 0, 4)
    if plain.code != codes.CONTENT:
        raise Inconclusive(f"the resource is answered {codes.code_name(plain.code)}")
    answer = peer.ask(codes.GET, "large", options=[(BLOCK2, block_value(0, True, 4))])
    check_code(answer, codes.CONTENT, rule="the M bit in a request for a block is ignored", section="RFC 7959 §2.4")
    block = block_of(answer, BLOCK2)
    check(
        block is not None and block.number == 0,
        "the M bit in a request for a block is ignored",
        "RFC 7959 §2.4",
        answer,
    )


@test("BLOCK_24", section="RFC 7959 §2.2, §2.4", needs=["large"])
def any_block(peer: Peer) -> None:
    """One block out of the middle
    GET of block 5 of 64 bytes alone: those bytes of the body, if the server gives them without the ones before.
    """
    code, _, body = fetch(peer, peer.path("large"))
    if code != codes.CONTENT or len(body) < 7 * 64:
        raise NotApplicable("the resource is not long enough")
    answer = block2(peer, "large", 5, 2)
    if answer.code != codes.CONTENT:
        raise Inconclusive(f"the server does not give it: {codes.code_name(answer.code)}")
    block = block_of(answer, BLOCK2)
    check(block is not None, "a response to a request for a block says which one it has", "RFC 7959 §2.4", answer)
    assert block is not None
    judge_block2(answer, block, 5, 2)
    if answer.payload != body[5 * 64 : 5 * 64 + block.size]:
        if fetch(peer, peer.path("large"))[2] != body:
            raise Inconclusive("the resource changes while it is fetched")
        raise Failure("a block has the bytes of the body at its place", "RFC 7959 §2.2", answer.frame)


@test("BLOCK_25", section="RFC 7959 §2.4", level=ADVICE, needs=["large"])
def past_the_end(peer: Peer) -> None:
    """A block past the end
    GET of block 1,000,000: an error, 4.00 or the like, and no block that there is not.
    """
    answer = block2(peer, "large", 1_000_000, 0)
    if answer.code != codes.CONTENT:
        check(
            codes.is_client_error(answer.code),
            f"a block that there is not is an error of the client's ({codes.code_name(answer.code)} came)",
            "RFC 7252 §5.9.2", answer,
        )  # fmt: skip
        return
    block = block_of(answer, BLOCK2)
    check(
        not answer.payload or block is None or block.number != 1_000_000 or block.more,
        "a block that there is not is not sent", "RFC 7959 §2.4", answer,
    )  # fmt: skip


@test("BLOCK_26", section="RFC 7959 §2.4", level=SHOULD, needs=["large_update"])
def etag(peer: Peer) -> None:
    """The ETag of a body that changes, sent in blocks
    PUT a long body; GET its blocks: each has an ETag, the same one. PUT another: the ETag is another.
    """
    tags = []
    for _ in range(2):
        body = peer.token(8).hex().encode() + UPLOAD
        answer = peer.ask(codes.PUT, "large_update", payload=body[:512], content_format=TEXT)
        if not codes.is_success(answer.code):
            raise Inconclusive(f"the PUT is answered {codes.code_name(answer.code)}")
        first, second = (block2(peer, "large_update", number, 2) for number in range(2))
        if not codes.is_success(first.code) or not codes.is_success(second.code) or first.option(BLOCK2) is None:
            raise Inconclusive("the resource is not given in blocks")
        for response in (first, second):
            check(
                response.option(ETAG) is not None,
                "each response that has a block of a body that changes has its ETag", "RFC 7959 §2.4", response,
            )  # fmt: skip
        check(
            first.option(ETAG) == second.option(ETAG), "all blocks of one body have the same ETag", "RFC 7959 §2.4",
            second,
        )  # fmt: skip
        tags.append((first.option(ETAG), first.payload, first))
    if tags[0][1] != tags[1][1]:
        check(tags[0][0] != tags[1][0], "another body has another ETag", "RFC 7252 §5.10.6", tags[1][2], "must")


@test("BLOCK_27", section="RFC 7959 §2.5", needs=["large_update"])
def gap(peer: Peer) -> None:
    """A body with a gap
    PUT blocks 0 and 2 of 64 bytes, the latter as the last: 4.08, unless the server takes each block by itself.
    """
    path = peer.path("large_update")
    body = peer.token(8).hex().encode() + UPLOAD
    gathered(block1(peer, path, 0, True, body))
    gathered(block1(peer, path, 1, True, body))
    whole = block1(peer, path, 2, False, body)
    if not codes.is_success(whole.code):
        raise Inconclusive(f"a body without a gap is answered {codes.code_name(whole.code)}")
    other_body = peer.token(8).hex().encode() + UPLOAD[16:]
    with peer.another() as other:
        gathered(block1(other, path, 0, True, other_body))
        last = block1(other, path, 2, False, other_body)
    check_code(
        last, codes.REQUEST_ENTITY_INCOMPLETE,
        rule="the last block of a body whose blocks are not all there is answered 4.08", section="RFC 7959 §2.5",
    )  # fmt: skip


@test("BLOCK_28", section="RFC 7959 §2.3", needs=["large_update"])
def other_format(peer: Peer) -> None:
    """A body whose blocks differ in Content-Format
    PUT block 0 with Content-Format 0, block 1 with 65001, as the last: not put together; usually 4.08.
    """
    path = peer.path("large_update")
    body = peer.token(8).hex().encode() + UPLOAD[:112]
    gathered(block1(peer, path, 0, True, body))
    last = block1(peer, path, 1, False, body, content_format=UNASSIGNED_FORMAT)
    check(
        not codes.is_success(last.code), "blocks of different Content-Formats are not put together to one body",
        "RFC 7959 §2.3", last,
    )  # fmt: skip


@test("BLOCK_29", section="RFC 7959 §2.5", needs=["large_update"])
def last_block_again(peer: Peer) -> None:
    """A body that begins anew
    PUT block 0 of a body, then all blocks of another: the second body is what is there.
    """
    path = peer.path("large_update")
    given_up, body = b"x" * 128, peer.token(8).hex().encode() + UPLOAD[:112]
    gathered(block1(peer, path, 0, True, given_up))
    first = block1(peer, path, 0, True, body)
    if first.code != codes.CONTINUE:
        raise Inconclusive(f"the second body is answered {codes.code_name(first.code)}")
    last = block1(peer, path, 1, False, body)
    if not codes.is_success(last.code):
        raise Inconclusive(f"the second body is answered {codes.code_name(last.code)}")
    code, _, back = fetch(peer, path)
    if code != codes.CONTENT:
        raise Inconclusive(f"the resource is answered {codes.code_name(code)}")
    check(
        given_up[:64] not in back, "a body that begins anew, by block 0, takes the place of what was there of it",
        "RFC 7959 §2.5", peer.frames[-1],
    )  # fmt: skip


@test("BLOCK_30", section="RFC 7959 §4", level=ADVICE, needs=["large"])
def size(peer: Peer) -> None:
    """How long a body is
    GET with Size2 0 and Block2: if the response has Size2, that is the length of the body.
    """
    answer = peer.ask(codes.GET, "large", options=[(SIZE2, b""), (BLOCK2, block_value(0, False, 6))])
    told = answer.uint(SIZE2)
    if answer.code != codes.CONTENT or told is None:
        raise NotApplicable("the server does not tell sizes; it need not")
    code, _, body = fetch(peer, peer.path("large"))
    if code != codes.CONTENT or len(body) == told:
        return
    if fetch(peer, peer.path("large"))[2] != body:
        raise Inconclusive("the resource changes")
    raise Failure(f"Size2 is the length of the body, here {len(body)}", "RFC 7959 §4", answer.frame)


@test("BLOCK_31", section="RFC 7959 §2.2", needs=["huge"])
def big_numbers(peer: Peer) -> None:
    """Blocks past number 65,535
    GET of the blocks 65,535, 65,536 and 65,537 of 16 bytes: the same bytes as within the blocks of 1,024 bytes.
    """
    whole = block2(peer, "huge", 1023, 6)
    after = block2(peer, "huge", 1024, 6)
    if whole.code != codes.CONTENT or after.code != codes.CONTENT or len(after.payload) < 32:
        raise NotApplicable("the resource has no more than 1,048,576 bytes")
    body = whole.payload + after.payload
    if block_of(whole, BLOCK2) is None or block_of(whole, BLOCK2).szx != 6:  # type: ignore[union-attr]
        raise NotApplicable("the server has smaller blocks only")
    tag = whole.option(ETAG)
    for number in (65_535, 65_536, 65_537):
        answer = block2(peer, "huge", number, 0)
        if not codes.is_success(answer.code):
            raise Failure(
                f"a block number has 20 bits: 65,536 is as good as any ({codes.code_name(answer.code)} came)",
                "RFC 7959 §2.2",
                answer.frame,
            )
        block = block_of(answer, BLOCK2)
        check(block is not None, "a response to a request for a block says which one it has", "RFC 7959 §2.4", answer)
        assert block is not None
        judge_block2(answer, block, number, 0)
        if answer.option(ETAG) != tag:
            raise Inconclusive("the resource changes")
        offset = number * 16 - 1023 * 1024
        check(
            answer.payload == body[offset : offset + 16], "a block has the bytes of the body at its place",
            "RFC 7959 §2.2", answer,
        )  # fmt: skip


@test("BLOCK_32", section="RFC 7959 §2.2, §2.3", needs=["huge_update"])
def big_numbers_sent(peer: Peer) -> None:
    """Blocks past number 65,535, sent
    PUT of block 65,536 of 16 bytes, to what takes each block by itself: acknowledged by that number.
    """
    answer = peer.ask(
        codes.PUT, "huge_update", options=[(BLOCK1, block_value(65_536, True, 0))], payload=b"sixteen bytes ..",
        content_format=TEXT,
    )  # fmt: skip
    if not codes.is_success(answer.code):
        raise NotApplicable(f"the server does not take it by itself: {codes.code_name(answer.code)}")
    block = block_of(answer, BLOCK1)
    check(block is not None, "the answer to a block acknowledges it by Block1", "RFC 7959 §2.3", answer)
    assert block is not None
    check(
        block.offset == 65_536 * 16, "the answer to a block says which one it acknowledges; numbers have 20 bits",
        "RFC 7959 §2.2, §2.3", answer,
    )  # fmt: skip


@test("REQUEST_TAG_01", section="RFC 9175 §3.2, RFC 7252 §5.4.1", needs=["writable"])
def tag_alone(peer: Peer) -> None:
    """Request-Tag on a request of one message
    PUT with Request-Tag, empty, and of 8 bytes: carried out as without.
    """
    plain = peer.ask(codes.PUT, "writable", payload=b"plain", content_format=TEXT)
    if not codes.is_success(plain.code):
        raise Inconclusive(f"a plain PUT is answered {codes.code_name(plain.code)}")
    for value in (b"", b"8 bytes."):
        answer = peer.ask(codes.PUT, "writable", payload=b"tag", content_format=TEXT, options=[(REQUEST_TAG, value)])
        check_code(
            answer, codes.CREATED, codes.CHANGED, codes.DELETED,
            rule="Request-Tag, which is elective, changes nothing of a request in one message",
            section="RFC 9175 §3.2, RFC 7252 §5.4.1",
        )  # fmt: skip


@test("REQUEST_TAG_02", section="RFC 9175 §3.3", level=ADVICE, needs=["large_update"])
def interleaved(peer: Peer) -> None:
    """Two bodies at once, told apart by Request-Tag
    PUT block 0 of one body, block 0 of another, block 1 of the first, all by their tags: no mixture of the two is made.
    """
    path = peer.path("large_update")
    bodies = {b"one": b"1" * 100, b"two": b"2" * 100}
    for tag, body in bodies.items():
        answer = block1(peer, path, 0, True, body, tag=tag)
        if answer.code == codes.SERVICE_UNAVAILABLE:
            raise NotApplicable("the server takes one body at a time")
        gathered(answer)
    last = block1(peer, path, 1, False, bodies[b"one"], tag=b"one")
    if not codes.is_success(last.code):
        return
    code, _, back = fetch(peer, path)
    if code != codes.CONTENT:
        raise Inconclusive(f"the resource is answered {codes.code_name(code)}")
    check(
        not (b"1" in back and b"2" in back and set(back) <= set(b"12")),
        "blocks of different Request-Tags are not put together to one body", "RFC 9175 §3.3", last,
    )  # fmt: skip
