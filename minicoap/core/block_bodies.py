"""What a server keeps of block-wise transfers under way (RFC 7959): uploads, and long responses."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Optional

from minicoap.codec.message import Options
from minicoap.codec.options import BLOCK2, ETAG, IF_NONE_MATCH, MAX_AGE, encode_uint
from minicoap.core.body import Block, BlockOptions, BytesSink, Sink, Source
from minicoap.core.request import Request, Response
from minicoap.core.resource import Resource

logger = logging.getLogger(__name__)


class Upload:
    """A request body under way; `offset` is where the next block belongs, in bytes, `early` what came before its turn.

    `resource` and `args` are where the first block, `request`, was routed to; `is_conditional` says whether that had
    If-None-Match, which the others do not repeat (§2.10). A sink with an attribute `offset` has so many bytes already.
    """

    __slots__ = ("args", "early", "early_bytes", "is_conditional", "offset", "resource", "sink", "touched")

    def __init__(self, sink: Sink, resource: Resource, request: Request) -> None:
        self.sink = sink
        self.resource = resource
        self.args = request.args
        self.is_conditional = request.options.mask & 1 << IF_NONE_MATCH != 0
        self.offset: int = getattr(sink, "offset", 0)
        self.early: dict[int, bytes] = {}
        self.early_bytes = 0
        self.touched = request.now

    def whole(self, last: Request, body: bytes) -> Request:
        """Return the request that all blocks together are, `last` being the last of them."""
        options = last.options
        if self.is_conditional and not options.mask & 1 << IF_NONE_MATCH:
            options = Options((*options.items, (IF_NONE_MATCH, b"")))
        request = Request(last.code, last.path, options, body, last.now, last.echo)
        request.args = self.args
        return request

    @property
    def held(self) -> int:
        """Bytes of memory that it holds."""
        return self.early_bytes + (self.offset if isinstance(self.sink, BytesSink) else 0)

    def write(self, data: bytes) -> Optional[Response]:
        """Hand the sink the block that is due, and those that have waited for it; returns its refusal."""
        refusal = write_block(self.sink, self.offset, data) if data or not self.offset else None
        self.offset += len(data)
        while refusal is None and self.offset in self.early:
            data = self.early.pop(self.offset)
            self.early_bytes -= len(data)
            refusal = write_block(self.sink, self.offset, data)
            self.offset += len(data)
        return refusal

    def hold(self, offset: int, data: bytes) -> None:
        """Keep a block that came before its turn."""
        self.early_bytes += len(data) - len(self.early.get(offset, b""))
        self.early[offset] = data


class Kept:
    """A long response, made at `made_at`, of which further blocks may be asked for."""

    __slots__ = ("_age", "_options", "etag", "held", "made_at", "response", "size", "source", "touched")

    def __init__(self, response: Response, source: Source, now: float) -> None:
        self.response = response
        self.source = source
        self.size = source.size
        self.etag = source.etag
        self.made_at = self.touched = now
        self._age = 0
        self._options = BlockOptions(named(response, source), BLOCK2)
        self.held = self.size if isinstance(response.payload, bytes) else 0

    @property
    def is_current(self) -> bool:
        """Whether the source still has the body that the first block was of."""
        return self.source.etag == self.etag and self.source.size == self.size

    def block(self, block: Block, now: float) -> Response:
        """Return the block that is asked for, which is not beyond the end; its Max-Age is what is left (§2.10)."""
        more = block.offset + block.size < self.size
        payload = self.source.read_at(block.offset, block.size)
        age = int(now - self.made_at)
        if age != self._age:
            self._age = age
            self._options = BlockOptions(named(self.aged(now), self.source), BLOCK2)
        return Response(self.response.code, payload, options=self._options.at(block.number, more, block.szx))

    def aged(self, now: float) -> Response:
        """Return the response with the Max-Age that is left of it (RFC 7252 §5.10.5)."""
        left = max(0, self.response.max_age - int(now - self.made_at))
        items = [item for item in self.response.options.items if item[0] != MAX_AGE]
        return with_options(self.response, [*items, (MAX_AGE, encode_uint(left))])


def write_block(sink: Sink, offset: int, data: bytes) -> Optional[Response]:
    """Hand a block to a sink, as far as it does not have it; one that fails is told to let go."""
    there = getattr(sink, "offset", 0)
    if there > offset:
        data = data[there - offset :]
        offset = there
        if not data:
            return None
    try:
        return sink.write_at(offset, data)
    except Exception:
        abort(sink, "a block could not be written")
        raise


def abort(sink: Sink, reason: str) -> None:
    """Tell a sink to let go of what it has taken."""
    try:
        sink.abort(reason)
    except Exception:  # the boundary to a user's sinks: one that fails must not keep others from ending
        logger.exception("a sink failed when it was aborted")


def named(response: Response, source: Source) -> tuple[tuple[int, bytes], ...]:
    """Return the response's options with an ETag, which every block of it has to carry (§2.4)."""
    items = response.options.items
    etag = source.etag
    return items if etag is None or response.options.mask & 1 << ETAG else (*items, (ETAG, etag))


def with_options(response: Response, items: Iterable[tuple[int, bytes]]) -> Response:
    """Return the response with other options."""
    return Response.ready(response.code, response.payload, Options(items))
