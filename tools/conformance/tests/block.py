"""TD_COAP_BLOCK of ETSI CoAP#4: bodies in blocks, RFC 7959."""

from __future__ import annotations

from typing import Optional

from minicoap.codec import codes
from minicoap.codec.contentformats import TEXT
from minicoap.codec.options import BLOCK1, BLOCK2, CONTENT_FORMAT, LOCATION_PATH
from tools.conformance.blocks import MOST_BLOCKS, block_of, block_value, fetch, judge_block2, put
from tools.conformance.model import ADVICE, CATALOGUE, Failure, Inconclusive, NotApplicable
from tools.conformance.peer import Answer, Peer, check, check_success

test = CATALOGUE.test
LINE = 32
UPLOAD = b"".join(b"%030d\r\n" % number for number in range(50))
"""1,600 bytes: several blocks of every size, no two blocks of them alike."""


def fetched(peer: Peer, szx: Optional[int]) -> tuple[Optional[int], bytes]:
    """Fetch what is large in blocks of a size, or of the server's own; return its Content-Format and body."""
    code, content_format, body = fetch(peer, peer.path("large"), szx=szx)
    if code != codes.CONTENT:
        raise Inconclusive(f"the resource is answered {codes.code_name(code)}")
    return content_format, body


def large(peer: Peer, szx: Optional[int]) -> None:
    """Fetch what is large twice: in blocks of a size, and in the largest ones; the body has to be the same."""
    first = peer.ask(codes.GET, "large", options=[] if szx is None else [(BLOCK2, block_value(0, False, szx))])
    if first.code == codes.BAD_OPTION:
        raise NotApplicable("the server does not know Block2")
    if first.code != codes.CONTENT:
        raise Inconclusive(f"the resource is answered {codes.code_name(first.code)}")
    block = block_of(first, BLOCK2)
    if block is None or not block.more:
        raise NotApplicable("the resource is not long enough to travel in several blocks")
    content_format, body = fetched(peer, szx)
    other_format, other = fetched(peer, 6 if szx != 6 else 4)
    if body != other:
        again = fetched(peer, 6 if szx != 6 else 4)[1]
        if again != other or fetched(peer, szx)[1] != body:
            raise Inconclusive("the resource changes while it is fetched")
        raise Failure(
            "the blocks of a body, in order, are that body, whatever their size", "RFC 7959 §2.2", peer.frames[-1]
        )
    if content_format != other_format:
        raise Failure("each response has the Content-Format of the whole body", "RFC 7959 §2.3", peer.frames[-1])


@test("TD_COAP_BLOCK_01", section="RFC 7959 §2.2 to §2.4", needs=["large"])
def early_negotiation(peer: Peer) -> None:
    """GET in blocks whose size the client chooses
    GET with Block2: block 0, of 64 bytes. The response has that block, or a smaller one; more follow.
    GET of each block after it, to the last; all are of that size, none is left out, none comes twice.
    """
    large(peer, 2)


@test("TD_COAP_BLOCK_02", section="RFC 7959 §2.2 to §2.4", needs=["large"])
def late_negotiation(peer: Peer) -> None:
    """GET in blocks whose size the server chooses
    GET without Block2. The response has block 0, and says by Block2 that more follow.
    GET of each block after it, in smaller ones, to the last.
    """
    large(peer, None)
    first = peer.ask(codes.GET, "large")
    block = block_of(first, BLOCK2)
    if block is None or not block.more or not block.szx:
        return
    smaller = block.szx - 1
    answer = peer.ask(codes.GET, "large", options=[(BLOCK2, block_value(2, False, smaller))])
    if not codes.is_success(answer.code):
        return
    second = block_of(answer, BLOCK2)
    check(second is not None, "a response to a request for a block says which one it has", "RFC 7959 §2.4", answer)
    assert second is not None
    judge_block2(answer, second, 2, smaller)


@test("TD_COAP_BLOCK_06", section="RFC 7959 §2.2 to §2.4", needs=["large"])
def small_blocks(peer: Peer) -> None:
    """GET in blocks of 16 bytes
    As TD_COAP_BLOCK_01, with the smallest blocks there are.
    """
    large(peer, 0)


def written(peer: Peer, where: tuple[str, ...], body: bytes, szx: int, code: int) -> Answer:
    """Send a body in blocks; return the last response, judged as far as that goes for all methods."""
    answer = put(peer, where, body, szx=szx, code=code, content_format=TEXT)
    if answer.code in (codes.BAD_OPTION, codes.REQUEST_ENTITY_TOO_LARGE):
        raise NotApplicable(f"the server takes no body of {len(body)} bytes in blocks: {codes.code_name(answer.code)}")
    if not codes.is_success(answer.code):
        raise Inconclusive(f"the server refuses: {codes.code_name(answer.code)}")
    block = block_of(answer, BLOCK1)
    if block is not None:
        check(not block.more, "the answer to the last block is the final one: its M bit is 0", "RFC 7959 §2.3", answer)
    return answer


def acknowledged(answer: Answer) -> None:
    """Judge that the answer to the last block says that it is that; no MUST says so, but all examples of the RFC do."""
    check(
        block_of(answer, BLOCK1) is not None,
        "the answer to the last block acknowledges it by Block1",
        "RFC 7959 §2.3, §3.2",
        answer,
        ADVICE,
    )


@test("TD_COAP_BLOCK_03", section="RFC 7959 §2.2, §2.3, §2.5", needs=["large_update"])
def update(peer: Peer) -> None:
    """PUT in blocks
    PUT each block; the answers acknowledge it by its number, 2.31 or 2.04 until the last one.
    GET: the body that was sent, whole and in order.
    """
    path = peer.path("large_update")
    for szx in (2, 5):
        body = peer.token(8).hex().encode() + UPLOAD
        answer = written(peer, path, body, szx, codes.PUT)
        check_success(
            answer, codes.CHANGED, codes.CREATED, rule="a PUT that is carried out is answered 2.01 or 2.04",
            section="RFC 7252 §5.8.3",
        )  # fmt: skip
        compare(peer, path, body, answer)
    acknowledged(answer)


def compare(peer: Peer, path: tuple[str, ...], body: bytes, answer: Answer) -> None:
    """Fail if a resource, which otherwise gives back what it was given, does not give back a body that came in blocks.

    The blocks are what is to blame only if a body in one message comes back as it was.
    """
    code, _, back = fetch(peer, path)
    if code != codes.CONTENT or back == body:
        return
    short = peer.token(4).hex().encode()
    peer.ask(codes.PUT, path, payload=short, content_format=TEXT)
    code, _, faithful = fetch(peer, path)
    if code != codes.CONTENT or faithful != short:
        raise Inconclusive("the resource does not give back what it is given, in one block neither")
    raise Failure(
        "a body that was sent in blocks is the body that the request is carried out with", "RFC 7959 §2.5",
        answer.frame,
    )  # fmt: skip


@test("TD_COAP_BLOCK_04", section="RFC 7959 §2.2, §2.3, §2.5", needs=["large_create"],
      differs="RFC 7959 §2.3 lets a server act on each block; RFC 7252 §5.8.2 lets a POST create nothing")  # fmt: skip
def create(peer: Peer) -> None:
    """POST in blocks that creates a resource
    POST each block; the answers acknowledge it by its number, the last one says 2.01 and where.
    GET of what was created: the body that was sent.
    """
    path = peer.path("large_create")
    body = peer.token(8).hex().encode() + UPLOAD
    answer = written(peer, path, body, 2, codes.POST)
    if answer.code != codes.CREATED:
        raise Inconclusive("nothing was created")
    acknowledged(answer)
    code, back = created(peer, answer)
    if code != codes.CONTENT or back == body:
        return
    short = peer.token(4).hex().encode()
    code, faithful = created(peer, peer.ask(codes.POST, path, payload=short, content_format=TEXT))
    if code != codes.CONTENT or faithful != short:
        raise Inconclusive("what is created is not what was posted, in one message neither; it need not be")
    raise Failure(
        "a body that was sent in blocks is the body that the request is carried out with",
        "RFC 7959 §2.5",
        answer.frame,
    )


def created(peer: Peer, answer: Answer) -> tuple[int, bytes]:
    """GET what a POST says that it created; return code and body."""
    location = answer.message.options.all(LOCATION_PATH)
    if answer.code != codes.CREATED or not location:
        return 0, b""
    code, _, body = fetch(peer, [part.decode(errors="replace") for part in location])
    return code, body


@test("TD_COAP_BLOCK_05", section="RFC 7959 §2.7", needs=["large_post"])
def both_ways(peer: Peer) -> None:
    """POST in blocks, answered in blocks
    POST each block. The answer to the last one has block 0 of the response as well.
    POST without payload for each block after it, to the last.
    """
    path = peer.path("large_post")
    answer = written(peer, path, UPLOAD, 2, codes.POST)
    body, content_format, number = answer.payload, answer.option(CONTENT_FORMAT), 0
    block = block_of(answer, BLOCK2)
    if block is None or not block.more:
        raise Inconclusive("the response is not long enough to travel in several blocks")
    judge_block2(answer, block, 0, None)
    while block.more:
        number = block.number + 1
        answer = peer.ask(
            codes.POST, path, options=[(BLOCK2, block_value(number, False, block.szx))], content_format=TEXT
        )
        if answer.code in (codes.REQUEST_ENTITY_INCOMPLETE, codes.BAD_REQUEST, codes.NOT_FOUND):
            raise Inconclusive(f"the server does not have the response any more: {codes.code_name(answer.code)}")
        check_success(
            answer, codes.CREATED, codes.CHANGED, codes.CONTENT, rule="the blocks of a response have its code",
            section="RFC 7959 §2.7",
        )  # fmt: skip
        size, block = block.szx, block_of(answer, BLOCK2)
        check(block is not None, "each block of a response has the Block2 option", "RFC 7959 §2.4", answer)
        assert block is not None
        judge_block2(answer, block, number, size)
        check(answer.option(CONTENT_FORMAT) == content_format,
              "each response has the Content-Format of the whole body", "RFC 7959 §2.3", answer)  # fmt: skip
        body += answer.payload
        if number > MOST_BLOCKS:
            raise Inconclusive(f"the response has more than {MOST_BLOCKS} blocks")
    if not body:
        raise Inconclusive("the response is empty")
