"""Blocks that nobody waits for each of: RFC 9177. The options are critical: a server without them has to say so."""

from __future__ import annotations

from typing import Optional

from minicoap.codec import codes
from minicoap.codec.contentformats import TEXT
from minicoap.codec.message import CON, NON
from minicoap.codec.options import BLOCK2, ETAG, Q_BLOCK1, Q_BLOCK2, REQUEST_TAG, SIZE1, SIZE2, encode_uint
from minicoap.core.body import Block, decode_block
from tools.conformance.blocks import block_value, fetch
from tools.conformance.frames import Frame
from tools.conformance.model import CATALOGUE, SHOULD, Failure, Inconclusive, NotApplicable
from tools.conformance.peer import Answer, Peer, Rejected, check, check_code
from tools.conformance.tests.messages import acknowledged

test = CATALOGUE.test
SZX = 4
SIZE = 16 << SZX


def asked(peer: Peer) -> Answer:
    """GET one block of what is large by Q-Block2, confirmable. Raises NotApplicable if the server does not have it."""
    peer.control("large")
    rule = "a server without Q-Block answers a confirmable request with it 4.02"
    try:
        answer = peer.ask(codes.GET, "large", options=[(Q_BLOCK2, block_value(0, False, SZX))])
    except Rejected as error:
        raise Failure(f"{rule} (a reset came)", "RFC 9177 §4.3", error.frame) from error
    if answer.code == codes.BAD_OPTION:
        raise NotApplicable("the server does not have Q-Block; it need not")
    check_code(answer, codes.CONTENT, rule=rule, section="RFC 9177 §4.3")
    return answer


def needed(peer: Peer) -> None:
    """Raise NotApplicable if the server does not have Q-Block, or takes no notice of it: that is for Q_BLOCK_01."""
    if q_block2(asked(peer)) is None:
        raise NotApplicable("the server takes no notice of Q-Block2")


def q_block2(answer: Answer) -> Optional[Block]:
    """Return the block that a response says it is."""
    value = answer.uint(Q_BLOCK2)
    return None if value is None else decode_block(value)


@test("Q_BLOCK_01", section="RFC 9177 §4.1", needs=["large"])
def one_block(peer: Peer) -> None:
    """A request with Q-Block2, confirmable
    GET with Q-Block2 of block 0: 2.05 with Q-Block2, Size2 and ETag; or 4.02, from a server without.
    """
    answer = asked(peer)
    block = q_block2(answer)
    if block is None:
        if len(answer.payload) > SIZE or answer.option(BLOCK2) is not None:
            raise Failure(
                "a request with Q-Block2, which is critical, is processed by it, or rejected",
                "RFC 9177 §4.1, RFC 7252 §5.4.1",
                answer.frame,
            )
        raise NotApplicable("the resource is not long enough")
    check(answer.option(BLOCK2) is None, "a response has either Q-Block2 or Block2", "RFC 9177 §4.1", answer)
    check(block.number == 0, "the block that comes is the one that was asked for", "RFC 9177 §4.4", answer)
    check(block.szx <= SZX, "a server uses the block size asked for, or a smaller one", "RFC 9177 §4.4", answer)
    check(answer.option(SIZE2) is not None, "a response with Q-Block2 has Size2", "RFC 9177 §4.6", answer)
    check(answer.option(ETAG) is not None, "a response with Q-Block2 has an ETag", "RFC 9177 §4.4", answer)


@test("Q_BLOCK_02", section="RFC 9177 §4.4, §4.6", needs=["large"])
def whole_body(peer: Peer) -> None:
    """A body by Q-Block2, non-confirmable
    GET, non-confirmable, with Q-Block2 of block 0 and M: all blocks of a set come by themselves.
    All have one token, one ETag, one Size2; each has a message ID of its own, and its bytes of the body.
    """
    needed(peer)
    code, _, body = fetch(peer, peer.path("large"))
    if code != codes.CONTENT or len(body) <= 2 * SIZE:
        raise NotApplicable("the resource is not long enough")
    sent = peer.request(codes.GET, "large", type=NON, options=[(Q_BLOCK2, block_value(0, True, SZX))])
    seen: dict[int, Answer] = {}
    message_ids: dict[int, int] = {}
    while True:
        frame = peer.receive(
            lambda frame: frame.message is not None and frame.message.token == sent.token, max(2.0, peer.grace)
        )
        if frame is None or frame.message is None:
            break
        answer = Answer(frame, frame.message, False)
        if answer.code != codes.CONTENT:
            raise Inconclusive(f"the server answers {codes.code_name(answer.code)}")
        block = q_block2(answer)
        if block is None:
            raise Inconclusive("the server answers without Q-Block2")
        first = next(iter(seen.values()), answer)
        same = message_ids.setdefault(answer.message.message_id, block.number)
        check(same == block.number, "each block has a message ID of its own", "RFC 9177 §4.4, RFC 7252 §4.4", answer)
        check(
            answer.option(ETAG) == first.option(ETAG),
            "all blocks of a body have the same ETag",
            "RFC 9177 §4.4",
            answer,
        )
        check(
            answer.uint(SIZE2) == first.uint(SIZE2) and answer.option(SIZE2) is not None,
            "all blocks of a body have the same Size2", "RFC 9177 §4.6", answer,
        )  # fmt: skip
        offset = block.number << block.szx + 4
        if answer.payload != body[offset : offset + block.size]:
            if fetch(peer, peer.path("large"))[2] != body:
                raise Inconclusive("the resource changes while it is fetched")
            raise Failure("a block has the bytes of the body at its place", "RFC 9177 §4.4", answer.frame)
        seen[block.number] = answer
        if not block.more:
            break
    if len(seen) < 2:
        raise Inconclusive(f"{len(seen)} blocks came; more may have been lost")


@test("Q_BLOCK_03", section="RFC 9177 §4.1", needs=["large"])
def mixed(peer: Peer) -> None:
    """Q-Block2 and Block2 in one request
    GET with both: 4.02.
    """
    needed(peer)
    options = [(Q_BLOCK2, block_value(0, False, SZX)), (BLOCK2, block_value(0, False, SZX))]
    answer = peer.ask(codes.GET, "large", options=options)
    check_code(
        answer, codes.BAD_OPTION, rule="a request with Q-Block and Block options is answered 4.02",
        section="RFC 9177 §4.1",
    )  # fmt: skip


@test("Q_BLOCK_04", section="RFC 9177 §4.4", level=SHOULD, needs=["large"])
def duplicates(peer: Peer) -> None:
    """The same block asked for twice in one request
    GET with Q-Block2 of block 1 twice: 4.00, or that block once.
    """
    needed(peer)
    option = (Q_BLOCK2, block_value(1, False, SZX))
    sent = peer.request(codes.GET, "large", type=NON, options=[option, option])
    came: list[int] = []
    while True:
        frame = peer.receive(
            lambda frame: frame.message is not None and frame.message.token == sent.token, max(1.0, peer.grace)
        )
        if frame is None or frame.message is None:
            break
        if not codes.is_success(frame.message.code):
            return
        if frame.message.message_id in came:
            continue
        came.append(frame.message.message_id)
        if len(came) > 1:
            raise Failure("a block that is asked for twice in one request is sent once", "RFC 9177 §4.4", frame,
                          level="must")  # fmt: skip


@test("Q_BLOCK_05", section="RFC 9177 §4.3", needs=["large", "large_update"])
def needs_tag(peer: Peer) -> None:
    """Q-Block1 without Request-Tag, and without Size1
    PUT with Q-Block1 and Size1 but no Request-Tag: 4.00. With Request-Tag but no Size1: 4.00.
    """
    needed(peer)
    for options, what in (
        ([(SIZE1, encode_uint(256))], "Request-Tag"), ([(REQUEST_TAG, b"conftest")], "Size1"),
    ):  # fmt: skip
        answer = peer.ask(
            codes.PUT, "large_update", options=[(Q_BLOCK1, block_value(0, False, SZX)), *options], payload=b"x" * 256,
            content_format=TEXT,
        )  # fmt: skip
        check_code(
            answer, codes.BAD_REQUEST, rule=f"a request with Q-Block1 and without {what} is answered 4.00",
            section="RFC 9177 §4.3",
        )  # fmt: skip


@test("Q_BLOCK_06", section="RFC 9177 §4.3", needs=["large", "large_update"])
def upload(peer: Peer) -> None:
    """A body by Q-Block1, confirmable
    PUT of two blocks by Q-Block1: 2.04 in the end, and the resource has the body.
    """
    needed(peer)
    body = peer.token(8).hex().encode() * 30
    tag = peer.token(8)
    tokens: list[bytes] = []
    response: Optional[Frame] = None

    def is_response(frame: Frame) -> bool:
        message = frame.message
        return message is not None and codes.is_response(message.code) and message.token in tokens

    for number in range(-(-len(body) // SIZE)):
        more = (number + 1) * SIZE < len(body)
        options = [
            (Q_BLOCK1, block_value(number, more, SZX)), (REQUEST_TAG, tag), (SIZE1, encode_uint(len(body))),
        ]  # fmt: skip
        sent = peer.request(
            codes.PUT, "large_update", options=options, payload=body[number * SIZE : (number + 1) * SIZE],
            content_format=TEXT,
        )  # fmt: skip
        tokens.append(sent.token)
        frame = acknowledged(peer, sent)
        if is_response(frame):
            response = frame
    response = response or peer.receive(is_response, peer.patience)
    if response is None or response.message is None:
        raise Inconclusive("the response to the whole body did not come")
    answer = Answer(response, response.message, False)
    if answer.message.type == CON:
        peer.acknowledge(answer.message)
    if not codes.is_success(answer.code):
        raise Inconclusive(f"the server refuses: {codes.code_name(answer.code)}")
    check(
        answer.code in (codes.CHANGED, codes.CREATED), "the answer to a whole body says what came of it",
        "RFC 9177 §4.3", answer,
    )  # fmt: skip
    code, _, back = fetch(peer, peer.path("large_update"))
    if code == codes.CONTENT and back != body:
        plain = peer.ask(codes.PUT, "large_update", payload=b"plain", content_format=TEXT)
        if not codes.is_success(plain.code) or fetch(peer, peer.path("large_update"))[2] != b"plain":
            raise Inconclusive("the resource does not give back what it is given")
        raise Failure(
            "a body that was sent in blocks is the body that the request is carried out with", "RFC 9177 §4.3",
            answer.frame,
        )  # fmt: skip
