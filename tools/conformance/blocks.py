"""Bodies in blocks, as the tester fetches and sends them, one block at a time (RFC 7959)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from minicoap.codec import codes
from minicoap.codec.options import BLOCK1, BLOCK2, CONTENT_FORMAT, ETAG, encode_uint
from minicoap.core.body import Block, decode_block
from tools.conformance.model import Failure, Inconclusive
from tools.conformance.peer import Answer, Peer, check

MOST_BLOCKS = 20_000


def block_value(number: int, more: bool, szx: int) -> bytes:
    """Return the value of a Block option."""
    return encode_uint(number << 4 | more << 3 | szx)


def block_of(answer: Answer, option: int) -> Optional[Block]:
    """Return the block that a response says it is. Raises Failure for the reserved size."""
    value = answer.uint(option)
    if value is None:
        return None
    block = decode_block(value)
    check(block is not None, "a Block option never has the reserved size exponent 7", "RFC 7959 §2.2", answer)
    return block


def fetch(
    peer: Peer,
    path: Sequence[str],
    *,
    szx: Optional[int] = None,
    code: int = codes.GET,
    query: Sequence[str] = (),
) -> tuple[int, Optional[int], bytes]:
    """Return code, Content-Format and body; in blocks of `szx` from the first on where it is given."""
    body = b""
    number, size = 0, szx
    etag: Optional[bytes] = None
    while True:
        options = [] if size is None else [(BLOCK2, block_value(number, False, size))]
        answer = peer.ask(code, path, options=options, query=query)
        block = block_of(answer, BLOCK2)
        if block is None:
            if number and not codes.is_success(answer.code):
                raise Inconclusive(f"block {number} is answered {codes.code_name(answer.code)}")
            if number:
                raise Failure("each block of a response has the Block2 option", "RFC 7959 §2.4", answer.frame)
            return answer.code, answer.uint(CONTENT_FORMAT), answer.payload
        if not codes.is_success(answer.code):
            raise Inconclusive(f"block {number} is answered {codes.code_name(answer.code)}")
        judge_block2(answer, block, number, size)
        if number and answer.option(ETAG) != etag:
            raise Inconclusive("the resource changed while it was fetched: its ETag is another")
        etag = answer.option(ETAG)
        body += answer.payload
        if not block.more:
            return answer.code, answer.uint(CONTENT_FORMAT), body
        number, size = block.number + 1, block.szx
        if number > MOST_BLOCKS:
            raise Inconclusive(f"the body has more than {MOST_BLOCKS} blocks")


def judge_block2(answer: Answer, block: Block, number: int, szx: Optional[int]) -> None:
    """Fail for a block of a response that is not the one that was asked for."""
    section = "RFC 7959 §2.4"
    check(szx is None or block.szx <= szx, "a server uses the block size asked for, or a smaller one", section, answer)
    wanted = 0 if szx is None else number << 4 + szx
    check(
        block.number << 4 + block.szx == wanted, "the block that comes begins where the one asked for does", section,
        answer,
    )  # fmt: skip
    if block.more:
        check(
            len(answer.payload) == block.size, "a block that others follow is of the size that its option says",
            "RFC 7959 §2.2", answer,
        )  # fmt: skip
    elif szx is not None:  # SZX says nothing of a last block's size; what was asked for does (§2.3, §2.4)
        check(
            len(answer.payload) <= 16 << szx,
            "a server uses the block size asked for, or a smaller one",
            section,
            answer,
        )


def put(
    peer: Peer, path: Sequence[str], body: bytes, *, szx: int, code: int = codes.PUT, content_format: int = 0
) -> Answer:
    """Send a body in blocks; return the response to the last one."""
    offset = 0
    while True:
        size = 16 << szx
        more = offset + size < len(body)
        option = (BLOCK1, block_value(offset // size, more, szx))
        answer = peer.ask(
            code, path, options=[option], payload=body[offset : offset + size], content_format=content_format
        )
        block = block_of(answer, BLOCK1)
        if not more or not codes.is_success(answer.code):
            return answer
        if block is None:
            raise Inconclusive(f"{codes.code_name(answer.code)} without Block1: it may be the answer to a whole body")
        check(
            block.number == offset // size, "the answer to a block says which one it acknowledges", "RFC 7959 §2.3",
            answer,
        )  # fmt: skip
        check(block.szx <= szx, "a server does not ask for larger blocks than are sent", "RFC 7959 §2.3", answer)
        offset += size
        szx = block.szx
