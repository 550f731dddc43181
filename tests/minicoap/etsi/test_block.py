"""The ETSI test descriptions TD_COAP_BLOCK_01 to 06, our client against our server, step by step.

They are of 2014 and follow drafts: where RFC 7959 differs it wins, and the test says so. Each runs with a server that
takes the block size asked for, and with one that wants smaller blocks (ACT_SZX below DES_SZX).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple, Optional

import pytest

from minicoap.codec import codes
from minicoap.codec.message import Message
from minicoap.codec.options import BLOCK1, BLOCK2, CONTENT_FORMAT, LOCATION_PATH
from minicoap.core.body import Block, decode_block
from minicoap.core.endpoint import EndpointCore
from minicoap.core.parameters import Limits
from minicoap.core.request import Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.simulate.pair import Pair

DESCRIPTIONS = Path(__file__).parents[4] / "shared/reference/etsi-td-coap4/block.yml"
LARGE = bytes(range(256)) * 10 + b"the end"  # 2,567 bytes: its last block is a short one, whatever the size
POSTED = LARGE[::-1]


class Step(NamedTuple):
    """A request and its response."""

    request: Message
    response: Message

    def block(self, number: int, *, of_request: bool = False) -> Optional[Block]:
        message = self.request if of_request else self.response
        value = message.options.uint(number)
        return None if value is None else decode_block(value)


class Server:
    """The resources that the descriptions want, by blocks of 16 << szx bytes at most."""

    def __init__(self, szx: int) -> None:
        self.stored: dict[str, bytes] = {}
        site = Site(
            Resource("/large", get=lambda _: Response(payload=LARGE, etag=b"large")),
            Resource("/large-update", put=self.update),
            Resource("/large-create", post=self.create),
            Resource("/large-create/{name}", get=self.get),
            Resource("/large-post", post=self.post),
        )
        self.pair = Pair()
        limits = Limits(block_szx=szx, amplification=0)
        self.pair.server = EndpointCore(self.pair.world.entropy("server"), site=site, limits=limits)
        self.pair.server_host.boot(self.pair.server)

    def update(self, request: Request) -> Response:
        self.stored["large-update"] = request.payload
        return Response(codes.CHANGED)

    def create(self, request: Request) -> Response:
        self.stored["made"] = request.payload
        return Response(codes.CREATED, location_path=("large-create", "made"))

    def get(self, request: Request) -> Response:
        return Response(payload=self.stored[request.args["name"]])

    def post(self, request: Request) -> Response:
        self.stored["large-post"] = request.payload
        return Response(codes.CHANGED, POSTED, 42)

    def ask(self, code: int, *path: str, **arguments: Any) -> tuple[Response, list[Step]]:
        before = len(self.pair.world.trace)
        response = self.pair.request(code, *path, **arguments)
        messages = [message for _, message in self.pair.messages()[before:]]
        return response, [Step(*both) for both in zip(messages[::2], messages[1::2])]


SZX = [(6, 6), (6, 4), (5, 6), (4, 2)]  # what the client desires, and what the server takes


def check_blocks_of_response(steps: list[Step], code: int, body: bytes, actual: int, first: int = 0) -> None:
    """The loops of the Block2 tests: no gap, right order, each request for the block that its response has."""
    got = b""
    for index, step in enumerate(steps):
        block = step.block(BLOCK2)
        assert block is not None
        asked = step.block(BLOCK2, of_request=True)
        assert step.response.code == code
        assert (block.offset, block.szx) == (len(got), actual)
        if index:
            assert asked == Block(block.number, False, actual)
        is_last = index == len(steps) - 1
        assert block.more is not is_last
        assert len(step.response.payload) == block.size or (is_last and len(step.response.payload) < block.size)
        got += step.response.payload
    assert got == body


def check_blocks_of_request(steps: list[Step], body: bytes, desired: int, actual: int) -> None:
    """The loops of the Block1 tests; a server that is atomic continues all blocks but the last (RFC 7959 §2.3)."""
    sent = b""
    for index, step in enumerate(steps):
        block, answered = step.block(BLOCK1, of_request=True), step.block(BLOCK1)
        assert block is not None
        is_last = index == len(steps) - 1
        assert (block.offset, block.szx, block.more) == (len(sent), actual if index else desired, not is_last)
        assert answered == Block(block.number, not is_last, actual)
        assert (step.response.code == codes.CONTINUE) is not is_last
        assert len(step.request.payload) == block.size or (is_last and len(step.request.payload) < block.size)
        sent += step.request.payload
    assert sent == body


@pytest.mark.parametrize(("desired", "limit"), SZX)
def test_td_coap_block_01_get_with_early_negotiation(desired: int, limit: int) -> None:
    response, steps = Server(limit).ask(codes.GET, "large", szx=desired)
    assert steps[0].block(BLOCK2, of_request=True) == Block(0, False, desired)
    check_blocks_of_response(steps, codes.CONTENT, LARGE, min(desired, limit))
    assert response.payload == LARGE


@pytest.mark.parametrize("limit", [6, 4])
def test_td_coap_block_02_get_with_late_negotiation(limit: int) -> None:
    """Step 4 may skip blocks only if the client wants smaller ones than it was sent; ours goes on with those it got."""
    response, steps = Server(limit).ask(codes.GET, "large")
    assert steps[0].block(BLOCK2, of_request=True) is None
    check_blocks_of_response(steps, codes.CONTENT, LARGE, limit)
    assert response.payload == LARGE


@pytest.mark.parametrize(("desired", "limit"), SZX)
def test_td_coap_block_03_put(desired: int, limit: int) -> None:
    """Step 4's scaled number, 2**(ACT_SZX - DES_SZX), has its exponent the wrong way round: RFC 7959 §2.5 goes on
    where the first block ended, which is block 2**(DES_SZX - ACT_SZX)."""
    server = Server(limit)
    response, steps = server.ask(codes.PUT, "large-update", payload=LARGE, szx=desired)
    check_blocks_of_request(steps, LARGE, desired, min(desired, limit))
    assert response.code == codes.CHANGED
    assert server.stored["large-update"] == LARGE


@pytest.mark.parametrize(("desired", "limit"), SZX)
def test_td_coap_block_04_post_that_creates(desired: int, limit: int) -> None:
    server = Server(limit)
    response, steps = server.ask(codes.POST, "large-create", payload=LARGE, szx=desired)
    check_blocks_of_request(steps, LARGE, desired, min(desired, limit))
    assert response.code == codes.CREATED
    assert steps[-1].response.options.all(LOCATION_PATH) == (b"large-create", b"made")
    created, _ = server.ask(codes.GET, "large-create", "made")
    assert created.payload == LARGE


@pytest.mark.parametrize(("desired", "limit"), SZX)
def test_td_coap_block_05_post_both_ways(desired: int, limit: int) -> None:
    server = Server(limit)
    response, steps = server.ask(codes.POST, "large-post", payload=LARGE, szx=desired)
    actual = min(desired, limit)
    turn = next(index for index, step in enumerate(steps) if step.response.code != codes.CONTINUE)
    check_blocks_of_request(steps[: turn + 1], LARGE, desired, actual)
    check_blocks_of_response(steps[turn:], codes.CHANGED, POSTED, actual)
    for step in steps[turn + 1 :]:  # the same options except for Block1, without payload
        assert step.request.code == codes.POST
        assert step.request.payload == b""
        assert step.block(BLOCK1, of_request=True) is None
        assert step.block(BLOCK1) is None
        assert step.request.options.path == ("large-post",)
        assert step.response.options.uint(CONTENT_FORMAT) == 42
    assert response.payload == POSTED
    assert server.stored["large-post"] == LARGE


def test_td_coap_block_06_get_with_blocks_of_16_bytes() -> None:
    response, steps = Server(6).ask(codes.GET, "large", szx=0)
    assert steps[0].block(BLOCK2, of_request=True) == Block(0, False, 0)
    check_blocks_of_response(steps, codes.CONTENT, LARGE, 0)
    assert response.payload == LARGE
    assert len(steps) == len(LARGE) // 16 + 1


def test_every_description_has_its_test() -> None:
    if not DESCRIPTIONS.exists():
        pytest.skip(f"no ETSI descriptions: {DESCRIPTIONS} is missing")
    described = re.findall(r"^TD_COAP_BLOCK_(\d\d):", DESCRIPTIONS.read_text(encoding="utf-8"), re.M)
    tested = re.findall(r"^def test_td_coap_block_(\d\d)_", Path(__file__).read_text(encoding="utf-8"), re.M)
    assert tested == described
