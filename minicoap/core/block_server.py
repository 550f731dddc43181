"""Block-wise transfer, the server's side (RFC 7959): uploads by Block1, long responses by Block2.

An upload is known by where it comes from, its method and all its options but those that differ from block to block, so
that several bodies may be under way at once (RFC 9175 §3). It is atomic: nothing is done until the last block is there.
Blocks that come before their turn wait in memory for those before them, if a Request-Tag tells them from those of other
bodies and there is room; else, and if it is the last one, they are answered 4.08 (§2.5). A body whose beginning is not
known here is refused likewise, unless the resource has kept it by itself (`Resource.resume`). A resource that writes
each block by itself (`Resource.write_block`) takes them in any order, and nothing is kept of them (§2.3).

A long response is kept for the blocks that follow the first one asked for, and still after the last, which may get lost
on its way; those that were sent whole are the first to give way to others. If one had to be given up, a GET is answered
anew, and its ETag tells the client whether it is still the same.

Bodies are bounded in all, and fair among hosts: where there is no room, the host that holds the most gives up what it
has left alone the longest for one that holds less. While half of the room is taken, a new body is begun only for an
address that is known to be real, so that forged ones cannot take the rest (RFC 9175 §2.3).
"""

from __future__ import annotations

from typing import Optional, Union

from minicoap.codec import codes
from minicoap.codec.message import Options
from minicoap.codec.options import (
    BLOCK1,
    BLOCK2,
    ETAG,
    IF_NONE_MATCH,
    MAX_AGE,
    REQUEST_TAG,
    SIZE1,
    SIZE2,
    encode_uint,
    is_no_cache_key,
)
from minicoap.core.block_bodies import Kept, Upload, abort, named, with_options, write_block
from minicoap.core.body import EARLY_BLOCKS, Block, BytesSink, Sink, Source, as_source, decode_block, too_large
from minicoap.core.echo import is_loopback
from minicoap.core.fairness import greediest, host_of
from minicoap.core.parameters import Limits
from minicoap.core.request import SAFE, Deferred, Path, Request, Response, SecurePath
from minicoap.core.resource import Resource, Site
from minicoap.core.timers import Timer, Timers

Key = tuple[Path, int, tuple[tuple[int, bytes], ...]]

PER_BLOCK = frozenset((BLOCK1, BLOCK2, ETAG, IF_NONE_MATCH, *filter(is_no_cache_key, range(2048))))
_SHARED: Path = ()  # where a response comes from that is kept for more than one
_SMALL_SZX = 2  # 64 bytes
_REFUSED_FOR = 1.0  # seconds; weighing takes time, which a flood should not get
FULL_MAX_AGE = 10  # seconds a client is asked to wait when too many bodies are open


class BlockServer:
    """All bodies under way at one endpoint. A body nobody has touched for `lifetime` seconds is dropped."""

    def __init__(self, site: Site, timers: Timers, limits: Limits, lifetime: float) -> None:
        self._site = site
        self._timers = timers
        self._limits = limits
        self._lifetime = lifetime
        self._szx = limits.block_szx
        self._uploads: dict[Key, Upload] = {}
        self._kept: dict[Key, Kept] = {}
        self._sent: dict[Key, None] = {}  # of those, whose last block has been asked for
        self._held = 0  # bytes of memory in all of them
        self._sweep: Optional[Timer] = None
        self._refused = ("", 0.0)  # the host refused last, and until when that need not be weighed again

    def __len__(self) -> int:
        return len(self._uploads) + len(self._kept)

    @property
    def held(self) -> int:
        """Bytes of memory in all of them."""
        return self._held

    def request_received(self, request: Request) -> Union[Response, Deferred]:
        """Answer a request that carries a block option."""
        mask = request.options.mask
        try:
            block1 = _block(request.options, BLOCK1) if mask & 1 << BLOCK1 else None
            block2 = self._block2(request)
        except ValueError:
            return Response.refusal(codes.BAD_REQUEST, "block size exponent 7 is reserved")  # §2.2
        if block1 is not None:
            return self._upload(request, block1)
        assert block2 is not None
        if block2.number:
            key = _key(request)
            kept = self._kept.get(key) or self._kept.get((_SHARED, *key[1:]))
            if kept is not None and kept.is_current:
                refused = self._site.refusal(request)
                if refused is not None:
                    return refused
                kept.touched = request.now
                if mask & 1 << SIZE2 or block2.offset >= kept.size:
                    return self._slice(request, kept.aged(request.now), kept.source, block2)
                if block2.offset + block2.size >= kept.size and key in self._kept:
                    self._sent[key] = None
                return kept.block(block2, request.now)
            if request.code != codes.GET:  # a FETCH for a further block comes without its payload (§3.3)
                return Response.refusal(codes.REQUEST_ENTITY_INCOMPLETE, "that response is not kept any more")
        resource = self._site.route(request)
        if isinstance(resource, Response):
            return resource
        return self._handle(request, resource)

    def whole_body_received(self, request: Request, resource: Resource) -> Union[Response, Deferred]:
        """Answer a request whose body came in one piece, to a resource that streams bodies."""
        assert resource.upload is not None
        sink = resource.upload(request)
        if isinstance(sink, Response):
            return self.respond(request, sink)
        refusal = write_block(sink, 0, request.payload)
        return self._finished(request, sink, refusal)

    def respond(self, request: Request, response: Response) -> Response:
        """Return the part of `response` that `request` asks for, with the block options that belong to it."""
        response = validated(request, response)
        block1 = _block(request.options, BLOCK1)
        answer = response
        if block1 is not None:  # acknowledged here; the further blocks of a long response do not repeat that (§3.3)
            szx = min(block1.szx, self._szx)
            answer = with_options(
                response, (*response.options.items, (BLOCK1, Block(block1.number, False, szx).encode()))
            )
        if response.code == codes.VALID:
            return answer  # it stands for a representation and has none to be cut
        block2 = self._block2(request)
        payload = response.payload
        size = len(payload) if isinstance(payload, bytes) else payload.size
        if block2 is None:
            if isinstance(payload, bytes) and size <= 16 << self._szx:
                return answer
            block2 = Block(0, False, self._szx)
        source = as_source(payload)
        if size > block2.offset + block2.size and not self._keep(request, response, source):
            return Response(codes.SERVICE_UNAVAILABLE, max_age=FULL_MAX_AGE)
        return self._slice(request, answer, source, block2)

    def reduce(self, request: Request, response: Response) -> Response:
        """Return `response` in blocks so small that even somebody who never asked may be sent one (RFC 7252 §11.3)."""
        block = _block(response.options, BLOCK2)
        payload = response.payload
        assert isinstance(payload, bytes)
        small = 16 << _SMALL_SZX
        if len(payload) <= small:
            return response
        if block is None:
            source = as_source(payload)
            if self._keep(request, response, source):
                return self._slice(request, response, source, Block(0, False, _SMALL_SZX))
            return Response(response.code, options=response.options)  # carried out: of that the client has to be told
        items = [item for item in response.options.items if item[0] != BLOCK2]
        items.append((BLOCK2, Block(block.offset // small, True, _SMALL_SZX).encode()))
        return Response(response.code, payload[:small], options=items)

    def forget(self, request: Request) -> None:
        """Let go of the long response that may be kept for `request`."""
        self._drop_kept(_key(request))

    # Block1

    def _upload(self, request: Request, block: Block) -> Union[Response, Deferred]:
        key = _key(request)
        size = len(request.payload)
        if size > block.size or (block.more and size != block.size):
            return Response.refusal(codes.BAD_REQUEST, "the block's length is not what its option says")  # §2.2
        upload = self._uploads.get(key)
        if upload is None or block.number == 0:
            resource = self._site.route(request)
            if isinstance(resource, Response):
                return resource
            if resource.write_block is not None and request.code == codes.PUT:
                answer = resource.write_block(request, block.offset, block.more)
                return answer if isinstance(answer, Deferred) else self.respond(request, answer)
            self._drop_upload(key)
            opened = self._open(request, resource) if block.number == 0 else self._resume(request, resource, block)
            if isinstance(opened, Response):
                return opened
            upload = opened
        elif (refused := self._site.refusal(request)) is not None:
            self._drop_upload(key)
            return refused
        upload.touched = request.now
        end = block.offset + size
        if block.offset > upload.offset:
            if block.more and self._hold(upload, request, block.offset):
                return self._continue(block)
            return _incomplete(f"the next block begins at {upload.offset}")
        if end < upload.offset and not block.more:
            return _incomplete(f"there are {upload.offset} bytes already, and these are not the last of them")
        held = upload.held if key in self._uploads else 0
        try:
            # Of what is there already nothing is taken twice.
            refusal = upload.write(request.payload[upload.offset - block.offset :])
        except Exception:
            self._held -= held
            self._uploads.pop(key, None)
            raise
        self._held += upload.held - held
        self._uploads[key] = upload
        if block.more and refusal is None:
            self._arm(request.now)
            if not self._make_room(request, bodies=0):
                self._drop_upload(key)
                return Response(codes.SERVICE_UNAVAILABLE, max_age=FULL_MAX_AGE)
            return self._continue(block)
        self._take_out(key)
        if isinstance(upload.sink, BytesSink) and refusal is None:
            return self._handle(upload.whole(request, upload.sink.take()), upload.resource)
        return self._finished(request, upload.sink, refusal)

    def _hold(self, upload: Upload, request: Request, offset: int) -> bool:
        """Whether a block that came before its turn can wait for those before it.

        Only one with a Request-Tag: without, it may have been under way since the body before this one (RFC 9175 §3.1).
        """
        data = request.payload
        if request.options.get(REQUEST_TAG) is None or not self._has_room(len(data), 0):
            return False
        if offset - upload.offset >= EARLY_BLOCKS * (16 << self._szx) or len(upload.early) >= EARLY_BLOCKS:
            return False
        held = upload.held
        upload.hold(offset, data)
        self._held += upload.held - held
        return True

    def _continue(self, block: Block) -> Response:
        """Ask for more, in smaller blocks if these are too large for us (§2.5)."""
        szx = min(block.szx, self._szx)
        return Response(codes.CONTINUE, options=Options(((BLOCK1, Block(block.number, True, szx).encode()),)))

    def _open(self, request: Request, resource: Resource) -> Union[Upload, Response]:
        if 2 * (len(self) - len(self._sent)) >= self._limits.open_bodies and self._may_be_forged(request):
            return request.challenge()
        if not self._make_room(request):
            return Response(codes.SERVICE_UNAVAILABLE, max_age=FULL_MAX_AGE)
        if resource.upload is not None and request.code == codes.PUT:
            sink = resource.upload(request)
            if isinstance(sink, Response):
                return self.respond(request, sink)
            return Upload(sink, resource, request)
        announced = request.options.uint(SIZE1)
        if announced is not None and announced > resource.max_body:
            return too_large(resource.max_body)
        return Upload(BytesSink(resource.max_body), resource, request)

    def _resume(self, request: Request, resource: Resource, block: Block) -> Union[Upload, Response]:
        """Go on with a body whose beginning came in another life of ours, or of the client's."""
        if resource.resume is None or request.code != codes.PUT:
            return _incomplete("the blocks before this one are missing")
        if not self._make_room(request):
            return Response(codes.SERVICE_UNAVAILABLE, max_age=FULL_MAX_AGE)
        sink = resource.resume(request)
        if isinstance(sink, Response):
            return self.respond(request, sink)
        if sink is None:
            return _incomplete("the blocks before this one are missing")
        upload = Upload(sink, resource, request)
        if block.offset > upload.offset:
            abort(sink, "the blocks between are missing")
            return _incomplete(f"the next block begins at {upload.offset}")
        return upload

    def _finished(self, request: Request, sink: Sink, refusal: Optional[Response]) -> Union[Response, Deferred]:
        if refusal is not None:
            abort(sink, "refused")
            return self.respond(request, refusal)
        answer = Deferred(request)
        try:
            sink.finish(answer)
        except Exception:
            abort(sink, "its end failed")
            raise
        return answer

    def _take_out(self, key: Key) -> None:
        """End an upload whose sink has been told already, or is about to be."""
        upload = self._uploads.pop(key, None)
        if upload is not None:
            self._held -= upload.held

    # Block2

    def _handle(self, request: Request, resource: Resource) -> Union[Response, Deferred]:
        if resource.upload is not None and request.code == codes.PUT:
            return self.whole_body_received(request, resource)
        response = resource.handlers[request.code](request)
        return response if isinstance(response, Deferred) else self.respond(request, response)

    def _block2(self, request: Request) -> Optional[Block]:
        """Return the block that is asked for; in smaller blocks, from the same offset on, if it is too large (§2.4)."""
        block = _block(request.options, BLOCK2) if request.options.mask & 1 << BLOCK2 else None
        if block is None or block.szx <= self._szx:
            return block
        return Block(block.offset >> (self._szx + 4), False, self._szx)

    def _keep(self, request: Request, response: Response, source: Source) -> bool:
        """Keep a long response for its further blocks; False if there is no room and it cannot be made again."""
        key = _key(request)
        self._drop_kept(key)
        kept = Kept(response, source, request.now)
        if self._make_room(request, kept.held):
            self._kept[key] = kept
            self._held += kept.held
            self._arm(request.now)
            return True
        return request.code == codes.GET

    def _slice(self, request: Request, response: Response, source: Source, block: Block) -> Response:
        offset = block.offset
        size = source.size
        if offset >= size and offset:
            return Response.refusal(codes.BAD_REQUEST, f"the body has {size} bytes")
        more = offset + block.size < size
        added = [*named(response, source), (BLOCK2, Block(block.number, more, block.szx).encode())]
        if block.number == 0 or request.options.mask & 1 << SIZE2:
            added.append((SIZE2, encode_uint(size)))  # §4: known here, and of use to whoever stores the body
        return Response(response.code, source.read_at(offset, block.size), options=Options(added))

    # Bounds

    def _make_room(self, request: Request, wanted: int = 0, bodies: int = 1) -> bool:
        """Whether so many more bodies, of `wanted` bytes, may be held for whoever asks.

        For that those are given up that were sent whole or have been quiet for a while, and what hosts hold more of
        than this one.
        """
        if wanted > self._limits.open_body_bytes:
            return False
        while self._sent and not self._has_room(wanted, bodies):
            self._drop_kept(next(iter(self._sent)))  # the one sent the longest ago
        if self._has_room(wanted, bodies):
            return True
        host, now = host_of(request.path), request.now
        refused, until = self._refused
        if host == refused and now < until:
            return False
        self._drop_quiet(now, self._limits.body_grace)
        while not self._has_room(wanted, bodies):
            if not self._drop_from_greediest(host, wanted, bodies):
                self._refused = (host, now + _REFUSED_FOR)
                return False
        return True

    def _has_room(self, wanted: int, bodies: int) -> bool:
        limits = self._limits
        return len(self) + bodies <= limits.open_bodies and self._held + wanted <= limits.open_body_bytes

    def _drop_from_greediest(self, host: str, wanted: int, bodies: int) -> bool:
        """Give up one body of the host that holds the most, its longest idle one; False if `host` would hold more."""
        each = self._limits.open_body_bytes // self._limits.open_bodies  # a body counts, whatever it holds
        own = wanted + bodies * each
        uploads = [(key[0], upload.held + each, upload.touched, key) for key, upload in self._uploads.items()]
        kept = [(key[0], body.held + each, body.touched, key) for key, body in self._kept.items()]
        found = greediest([*uploads, *kept], host, own)
        if found is None:
            return False
        self._drop_upload(found)
        self._drop_kept(found)
        return True

    def _may_be_forged(self, request: Request) -> bool:
        """Whether the address of a request may be anybody's: nothing shows it, and it is not this machine's."""
        path = request.path
        if not self._limits.amplification or request.echo is None or isinstance(path, SecurePath):
            return False
        return request.age is None and not is_loopback(path)

    def _drop_upload(self, key: Key) -> None:
        upload = self._uploads.pop(key, None)
        if upload is not None:
            self._held -= upload.held
            abort(upload.sink, "the upload was not completed")

    def _drop_kept(self, key: Key) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._held -= kept.held
            self._sent.pop(key, None)

    def _drop_quiet(self, now: float, age: float) -> None:
        for key in [key for key, upload in self._uploads.items() if upload.touched + age <= now]:
            self._drop_upload(key)
        for key in [key for key, kept in self._kept.items() if kept.touched + age <= now]:
            self._drop_kept(key)

    def _arm(self, now: float) -> None:
        if self._sweep is None:
            self._sweep = self._timers.after(self._lifetime, now, self._swept)

    def _swept(self, now: float) -> None:
        self._sweep = None
        self._drop_quiet(now, self._lifetime)
        if len(self):
            self._arm(now)


def _incomplete(text: str) -> Response:
    """Return 4.08 (§2.9.2)."""
    return Response.refusal(codes.REQUEST_ENTITY_INCOMPLETE, text)


def _key(request: Request) -> Key:
    """What the blocks of one operation have in common: all options but Block and NoCacheKey (RFC 9175 §3.3).

    Nor do requests for further blocks repeat the ETags that the first one asked to have validated, and further blocks
    of a body never have If-None-Match (§2.10).
    """
    items = request.options.items
    return request.path, request.code, tuple([item for item in items if item[0] not in PER_BLOCK])


def validated(request: Request, response: Response) -> Response:
    """Return 2.03 in place of a representation that the client has already (RFC 7252 §5.10.6.2)."""
    etag = response.etag
    if response.code != codes.CONTENT or request.code not in SAFE or not request.options.mask & 1 << ETAG:
        return response
    if etag is None and not isinstance(response.payload, bytes):
        etag = response.payload.etag
    block2 = _block(request.options, BLOCK2)
    if etag is None or etag not in request.etags or (block2 is not None and block2.number):
        return response
    items = [(ETAG, etag)]
    items.extend((MAX_AGE, value) for value in response.options.all(MAX_AGE))
    return Response(codes.VALID, options=items)


def _block(options: Options, number: int) -> Optional[Block]:
    """Return a Block option's value; raises ValueError for the reserved size exponent."""
    value = options.uint(number)
    if value is None:
        return None
    block = decode_block(value)
    if block is None:
        raise ValueError("block size exponent 7 is reserved")
    return block
