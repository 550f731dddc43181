"""TD_COAP_BLOCK of ETSI CoAP#4 in captures (RFC 7959): the exchanges of a transfer, put together again and judged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable, Optional

from minicoap.codec import codes
from minicoap.codec.options import BLOCK1, BLOCK2, ETAG, LOCATION_PATH, OBSERVE
from minicoap.core.body import Block, decode_block
from tools.conformance.grading.core import grade
from tools.conformance.grading.exchanges import Exchange, Seen
from tools.conformance.grading.model import CASES, Grade, Scene, Side

RESERVED = "a Block option never has the reserved size exponent 7"


def block_in(seen: Optional[Seen], option: int, side: Side) -> Optional[Block]:
    """Return the block that a message names; the reserved size is held against its sender."""
    if seen is None or seen.message is None:
        return None
    value = seen.message.options.uint(option)
    if value is None:
        return None
    block = decode_block(value)
    if block is None:
        side.fault(RESERVED, "RFC 7959 §2.2", seen)
    return block


class _Body:
    """A body as it comes by Block2: how much of it there is, and the block size agreed on."""

    def __init__(self, found: Grade) -> None:
        self.found = found
        self.offset = 0
        self.agreed: Optional[int] = None  # the size exponent that the server used, once the client said what it wants
        self.is_asked = False  # whether the client has said so
        self.is_oversized = False  # whether the server went beyond it
        self.etag: Optional[bytes] = None
        self.is_whole = False

    def take(self, exchange: Exchange) -> None:
        """Judge a request for a block, and the block."""
        client, server = self.found.client, self.found.server
        wanted = block_in(exchange.request, BLOCK2, client)
        response = exchange.response
        if wanted is not None:
            self._judge_request(exchange.request, wanted)
        if response is None or response.message is None:
            return
        if response.code not in (codes.CONTENT, codes.CHANGED, codes.CREATED):
            server.doubt(f"the transfer ends with {codes.code_name(response.code)} in frame {response.number}")
            return
        block = block_in(response, BLOCK2, server)
        if block is None:
            if wanted is not None and wanted.number:
                server.fault("each block of a response has the Block2 option", "RFC 7959 §2.4", response)
            self.is_whole = self.is_whole or wanted is None
            return
        self._judge_response(response, block, wanted)
        if not block.more:
            self.is_whole = True

    def _judge_request(self, request: Seen, wanted: Block) -> None:
        client = self.found.client
        if wanted.more:
            client.fault("a request for a block has the M bit unset", "RFC 7959 §2.4", request)
        if self.agreed is not None and wanted.szx > self.agreed:
            client.fault("a client goes on with the block size that the server used", "RFC 7959 §2.4", request)
        elif self.agreed is not None and self.is_asked and wanted.szx < self.agreed and not self.is_oversized:
            client.fault(
                "a client that said which block size it wants goes on with the one that the server used",
                "RFC 7959 §2.4", request,
            )  # fmt: skip
        if wanted.number and wanted.offset != self.offset:
            client.doubt(
                f"frame {request.number} asks for byte {wanted.offset}, and byte {self.offset} is the next: another "
                "order is allowed"
            )
        self.is_asked = True

    def _judge_response(self, response: Seen, block: Block, wanted: Optional[Block]) -> None:
        server, message = self.found.server, response.message
        assert message is not None
        if wanted is not None and block.szx > wanted.szx:
            self.is_oversized = True
            server.fault("a server uses the block size asked for, or a smaller one", "RFC 7959 §2.4", response)
        if block.offset != (0 if wanted is None else wanted.offset):
            server.fault("the block that comes begins where the one asked for does", "RFC 7959 §2.4", response)
        if block.more and len(message.payload) != block.size:
            server.fault("a block that others follow is of the size that its option says", "RFC 7959 §2.3", response)
        elif len(message.payload) > block.size:
            server.fault("no block is larger than its option says", "RFC 7959 §2.2", response)
        etag = message.options.get(ETAG)
        if block.number and etag != self.etag:
            server.doubt(f"frame {response.number} has another ETag: the body changed on its way")
        self.etag = etag
        self.agreed = block.szx
        self.offset = block.offset + len(message.payload)


class _Upload:
    """A body as it goes by Block1."""

    def __init__(self, found: Grade, final: tuple[int, ...]) -> None:
        self.found = found
        self.offset = 0
        self.agreed: Optional[int] = None
        self.final = final
        self.is_whole = False

    def take(self, exchange: Exchange) -> None:
        """Judge a block and the answer to it."""
        client, server = self.found.client, self.found.server
        message = exchange.message
        block = block_in(exchange.request, BLOCK1, client)
        if block is None:
            return
        if block.more and len(message.payload) != block.size:
            client.fault(
                "a block that others follow is of the size that its option says", "RFC 7959 §2.3", exchange.request
            )
        elif len(message.payload) > block.size:
            client.fault("no block is larger than its option says", "RFC 7959 §2.2", exchange.request)
        if self.agreed is not None and block.szx > self.agreed:
            client.fault(
                "a client heeds the smaller block size that the server prefers", "RFC 7959 §2.5", exchange.request,
                "should",
            )  # fmt: skip
        if block.offset != self.offset:
            client.fault("blocks are sent in order", "RFC 7959 §2.5", exchange.request, "should")
        self.offset = block.offset + len(message.payload)
        response = exchange.response
        if response is None or response.message is None:
            return
        if not codes.is_success(response.code):
            server.doubt(f"frame {response.number} refuses: {codes.code_name(response.code)}")
            return
        answer = block_in(response, BLOCK1, server)
        if answer is None:
            server.fault("the answer to a block acknowledges it by Block1", "RFC 7959 §2.3", response)
        else:
            if answer.number != block.number:
                server.fault("the answer to a block says which one it acknowledges", "RFC 7959 §2.3", response)
            if answer.szx > block.szx:
                server.fault("a server does not ask for larger blocks than are sent", "RFC 7959 §2.3", response)
            if block.more and answer.more != (response.code == codes.CONTINUE):
                server.fault("2.31 and the M bit say that more blocks are to come", "RFC 7959 §2.9.1", response)
            self.agreed = answer.szx if self.agreed is None else min(self.agreed, answer.szx)
        if not block.more:
            self.is_whole = True
            if response.code == codes.CONTINUE:
                server.fault("2.31 does not answer the last block", "RFC 7959 §2.9.1", response)
            elif response.code not in self.final:
                names = " or ".join(codes.code_name(code) for code in self.final)
                server.doubt(f"frame {response.number} is {codes.code_name(response.code)}; {names} was expected")


def transfers(scene: Scene, role: str, code: int) -> Iterator[list[Exchange]]:
    """Return the exchanges of each transfer, by client; a block 0, or a request without, begins another."""
    under_way: dict[tuple[object, ...], list[Exchange]] = {}
    for exchange in scene.at(role, code=code):
        if exchange.message.options.uint(OBSERVE) is not None:
            continue
        blocks = [exchange.message.options.uint(option) for option in (BLOCK1, BLOCK2)]
        begins = all(not value or not value >> 4 for value in blocks)
        transfer = under_way.get(exchange.client)
        if begins or transfer is None:
            if transfer is not None:
                yield transfer
            under_way[exchange.client] = [exchange]
        else:
            transfer.append(exchange)
    yield from under_way.values()


def _download(test: str, title: str, role: str, chosen: Callable[[Optional[int]], bool]) -> None:
    def find(scene: Scene) -> Iterator[Grade]:
        for exchanges in transfers(scene, role, codes.GET):
            if not chosen(exchanges[0].message.options.uint(BLOCK2)):
                continue
            found = grade(test, *exchanges)
            body = _Body(found)
            for exchange in exchanges:
                body.take(exchange)
            _judge_end(found, body.is_whole, body.agreed is not None)
            yield found

    CASES.case(test, title)(find)


def _judge_end(found: Grade, is_whole: bool, is_in_blocks: bool) -> None:
    if not is_in_blocks:
        found.server.doubt("the body is not sent in blocks")
    elif not is_whole:
        found.client.doubt("the capture ends, or the client stops, before the last block")


_download(
    "TD_COAP_BLOCK_01", "GET in blocks of a size that the client chooses", "large",
    lambda value: value is not None and not value >> 4,
)  # fmt: skip
_download("TD_COAP_BLOCK_02", "GET in blocks that the server begins with", "large", lambda value: value is None)


def _send(test: str, title: str, role: str, code: int, final: tuple[int, ...]) -> None:
    def find(scene: Scene) -> Iterator[Grade]:
        for exchanges in transfers(scene, role, code):
            if exchanges[0].message.options.uint(BLOCK1) is None:
                continue
            found = grade(test, *exchanges)
            upload, body = _Upload(found, final), _Body(found)
            for exchange in exchanges:
                upload.take(exchange)
                response = exchange.response
                is_answered_in_blocks = (
                    response is not None and response.message is not None
                    and response.message.options.uint(BLOCK2) is not None
                )  # fmt: skip
                if is_answered_in_blocks:
                    body.take(exchange)
            if not upload.is_whole:
                found.client.doubt("the capture ends, or the client stops, before the last block")
            if test == "TD_COAP_BLOCK_05":
                _judge_end(found, body.is_whole, body.agreed is not None)
            if test == "TD_COAP_BLOCK_04":
                _judge_location(found, exchanges[-1].response)
            yield found

    CASES.case(test, title)(find)


def _judge_location(found: Grade, response: Optional[Seen]) -> None:
    if response is None or response.message is None or response.code != codes.CREATED:
        return
    for value in response.message.options.all(LOCATION_PATH):
        if b"/" in value:
            found.server.remark(f"frame {response.number}: {value!r} is one segment with a slash in it")


_send("TD_COAP_BLOCK_03", "PUT in blocks", "large_update", codes.PUT, (codes.CHANGED, codes.CREATED))
_send("TD_COAP_BLOCK_04", "POST in blocks that creates", "large_create", codes.POST, (codes.CREATED,))
_send("TD_COAP_BLOCK_05", "POST in blocks, answered in blocks", "large_post", codes.POST,
      (codes.CHANGED, codes.CREATED, codes.CONTENT))  # fmt: skip
_download("TD_COAP_BLOCK_06", "GET in blocks of 16 bytes", "large", lambda value: value == 0)
