"""The client's side of TD_COAP_BLOCK of ETSI CoAP#4 (RFC 7959)."""

from __future__ import annotations

from typing import Optional

from minicoap.codec import codes
from minicoap.codec.contentformats import TEXT
from minicoap.codec.options import BLOCK1, BLOCK2, ETAG, LOCATION_PATH, SIZE1, encode_uint
from minicoap.core.body import Block, decode_block
from tools.conformance.model import SHOULD, Failure, Inconclusive
from tools.conformance.serving.client import Client, Request, check
from tools.conformance.serving.core import quiet
from tools.conformance.serving.model import CLIENT_TESTS

test = CLIENT_TESTS.test
BODY = b"".join(b"%07d\n" % number for number in range(60))  # 480 bytes
SMALL = 2  # the size exponent of 64 bytes
ETAG_ITEM = (ETAG, b"\x01")


def block_of(request: Request, option: int) -> Optional[Block]:
    """Return the block that a request names. Raises Failure for the reserved size."""
    value = request.uint(option)
    if value is None:
        return None
    block = decode_block(value)
    check(block is not None, "a Block option never has the reserved size exponent 7", "RFC 7959 §2.2", request)
    return block


def item(option: int, number: int, more: bool, szx: int) -> tuple[int, bytes]:
    """Return a Block option."""
    return option, encode_uint(number << 4 | more << 3 | szx)


def serve_body(client: Client, request: Request, body: bytes, szx: int) -> None:
    """Send `body` in blocks of `szx` at most, as the client asks for them, and judge how it asks."""
    offset = 0
    agreed: Optional[int] = None  # the size that we used once the client said what it wants
    is_asked = False
    while True:
        asked = block_of(request, BLOCK2)
        if asked is not None:
            check(not asked.more, "a request for a block has the M bit unset", "RFC 7959 §2.4", request)
            if agreed is not None:
                check(asked.szx <= agreed, "a client goes on with the block size that the server used",
                      "RFC 7959 §2.4", request)  # fmt: skip
                if is_asked:
                    check(asked.szx == agreed, "a client that said which size it wants goes on with the one used",
                          "RFC 7959 §2.4", request)  # fmt: skip
            is_asked = True
        elif offset:
            raise Failure("a further block is asked for by Block2", "RFC 7959 §2.4", request.frame)
        use = szx if asked is None else min(szx, asked.szx)
        begin = 0 if asked is None else asked.offset
        if begin != offset:
            rule = "a client that goes on asks for what comes after the block that it got"
            raise Failure(f"{rule} (byte {offset}, not {begin})", "RFC 7959 §2.4", request.frame)
        size = 16 << use
        more = begin + size < len(body)
        options = [ETAG_ITEM, item(BLOCK2, begin // size, more, use)]
        client.reply(request, codes.CONTENT, options=options, payload=body[begin : begin + size], content_format=TEXT)
        offset, agreed = begin + size, use
        if not more:
            quiet(client, request)
            return
        request = client.request(codes.GET, request.path)


def take_body(
    client: Client, request: Request, szx: int, final: int, *, options: tuple[tuple[int, bytes], ...] = (),
    answer: bool = True,
) -> tuple[bytes, Request]:  # fmt: skip
    """Take a body in blocks, prefer those of `szx`, and judge how they come; return it with the last request."""
    body = b""
    agreed: Optional[int] = None
    while True:
        block = block_of(request, BLOCK1)
        if block is None:
            raise Inconclusive("the client does not send its body in blocks")
        payload = request.message.payload
        if block.more:
            check(len(payload) == block.size, "a block that others follow is of the size that its option says",
                  "RFC 7959 §2.3", request)  # fmt: skip
        check(len(payload) <= block.size, "no block is larger than its option says", "RFC 7959 §2.2", request)
        check(block.offset == len(body), "blocks come in order, each where the one before ends", "RFC 7959 §2.5",
              request)  # fmt: skip
        if agreed is not None and block.szx > agreed:
            raise Failure("a client heeds the smaller block size that the server prefers", "RFC 7959 §2.5",
                          request.frame)  # fmt: skip
        body += payload
        agreed = min(szx, block.szx)
        if not block.more:
            if answer:
                client.reply(request, final, options=[*options, item(BLOCK1, block.number, False, agreed)])
                quiet(client, request)
            return body, request
        client.reply(request, codes.CONTINUE, options=[item(BLOCK1, block.number, True, agreed)])
        request = client.request(request.message.code, request.path)


@test("TD_COAP_BLOCK_01", section="RFC 7959 §2.4")
def early(client: Client) -> None:
    """GET in blocks of a size that the client chooses, and the server lessens
    The client goes on with the smaller size, from the byte behind the first block.
    """
    client.ask("get", "/large", block=256)
    request = client.request(codes.GET, ["large"])
    if block_of(request, BLOCK2) is None:
        serve_body(client, request, BODY, SMALL)
        raise Inconclusive("the client's first request has no Block2 option")
    serve_body(client, request, BODY, SMALL)


@test("TD_COAP_BLOCK_02", section="RFC 7959 §2.4")
def late(client: Client) -> None:
    """GET in blocks that the server begins with"""
    client.ask("get", "/large")
    request = client.request(codes.GET, ["large"])
    serve_body(client, request, BODY, SMALL)
    if block_of(request, BLOCK2) is not None:
        raise Inconclusive("the client's first request has a Block2 option")


@test("TD_COAP_BLOCK_06", section="RFC 7959 §2.4")
def smallest(client: Client) -> None:
    """GET in blocks of 16 bytes"""
    client.ask("get", "/large", block=16)
    request = client.request(codes.GET, ["large"])
    serve_body(client, request, BODY[:100], 0)
    if request.uint(BLOCK2) != 0:
        raise Inconclusive("the client did not ask for blocks of 16 bytes")


@test("TD_COAP_BLOCK_03", section="RFC 7959 §2.5, §2.3", level=SHOULD)
def put(client: Client) -> None:
    """PUT in blocks, which the server prefers to be smaller
    After the first answer the client sends blocks of the smaller size, from the byte behind its first block.
    """
    client.ask("put", "/large-update", size=3000)
    body, request = take_body(client, client.request(codes.PUT, ["large-update"]), SMALL, codes.CHANGED)
    size = request.uint(SIZE1)
    if size is not None:
        check(size == len(body), "Size1 is the size of the body", "RFC 7959 §4", request)


@test("TD_COAP_BLOCK_04", section="RFC 7959 §2.5, §2.3")
def post(client: Client) -> None:
    """POST in blocks that creates"""
    client.ask("post", "/large-create", size=3000)
    request = client.request(codes.POST, ["large-create"])
    take_body(client, request, 6, codes.CREATED, options=((LOCATION_PATH, b"large-create"), (LOCATION_PATH, b"1")))


@test("TD_COAP_BLOCK_05", section="RFC 7959 §2.5, §2.4")
def both(client: Client) -> None:
    """POST in blocks, answered in blocks
    The client fetches the rest of the answer by the same method, without Block1.
    """
    client.ask("post", "/large-post", size=3000)
    request = client.request(codes.POST, ["large-post"])
    _, last = take_body(client, request, 6, codes.CHANGED, answer=False)
    block = block_of(last, BLOCK1)
    assert block is not None
    size = 16 << SMALL
    options = [item(BLOCK1, block.number, False, block.szx), item(BLOCK2, 0, True, SMALL)]
    client.reply(last, codes.CHANGED, options=options, payload=BODY[:size], content_format=TEXT)
    offset = size
    while True:
        request = client.request(codes.POST, ["large-post"])
        asked = block_of(request, BLOCK2)
        if asked is None:
            raise Failure("a further block of a response is asked for by Block2", "RFC 7959 §2.4", request.frame)
        check(not asked.more, "a request for a block has the M bit unset", "RFC 7959 §2.4", request)
        check(asked.szx <= SMALL, "a client goes on with the block size that the server used", "RFC 7959 §2.4", request)
        check(asked.offset == offset, "a client that goes on asks for what comes next", "RFC 7959 §2.4", request)
        check(request.uint(BLOCK1) is None, "a request for a further block of a response has no Block1 option",
              "RFC 7959 §2.7", request)  # fmt: skip
        more = offset + asked.size < len(BODY)
        client.reply(request, codes.CHANGED, options=[item(BLOCK2, asked.number, more, asked.szx)],
                     payload=BODY[offset : offset + asked.size], content_format=TEXT)  # fmt: skip
        offset += asked.size
        if not more:
            quiet(client, request)
            return
