"""Q-Block, the server's side (RFC 9177): uploads by Q-Block1, long responses by Q-Block2. Imported when first needed.

An upload is known as one by Block1 is, and by its Request-Tag always (§4.3). What is complete leaves its response
behind for a while: who has not got that sends a block again, and is answered as before. A long response is kept as
long, with what is being sent of it, for requests of blocks that were lost.

Non-confirmable requests for missing blocks keep to PROBING_RATE towards a client that has fallen silent (§7.2).
"""

from __future__ import annotations

from functools import partial
from typing import Callable, Optional, Union

from minicoap.codec import codes
from minicoap.codec.message import Options
from minicoap.codec.missingblocks import encode_missing
from minicoap.codec.options import (
    BLOCK1,
    BLOCK2,
    CONTENT_FORMAT,
    OBSERVE,
    Q_BLOCK1,
    Q_BLOCK2,
    REQUEST_TAG,
    SIZE1,
    encode_uint,
)
from minicoap.core.block_bodies import abort, write_block
from minicoap.core.block_server import FULL_MAX_AGE, PER_BLOCK, BlockServer, validated
from minicoap.core.body import Block, BytesSink, as_source, too_large
from minicoap.core.entropy import Entropy
from minicoap.core.fairness import greediest, host_of
from minicoap.core.parameters import Limits, TransmissionParameters
from minicoap.core.peer import Peers
from minicoap.core.qblock import MISSING_BLOCKS, Bursts, Incoming, Stream, block_count, decode_blocks
from minicoap.core.qblock_bodies import Finished, Kept, QuickRequest, Upload
from minicoap.core.request import SILENCE, Deferred, Path, Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.core.timers import Timer, Timers
from minicoap.core.transmission import Transmission
from minicoap.errors import CoapError

Key = tuple[Path, int, tuple[tuple[int, bytes], ...]]

_PER_BLOCK = PER_BLOCK | {Q_BLOCK1, Q_BLOCK2, OBSERVE}
_BLOCKS = 1 << BLOCK1 | 1 << BLOCK2
_LIST_SIZE = 1024  # bytes of a list of missing blocks, which has to fit into one packet (§5)
_REFUSED_FOR = 1.0  # seconds; weighing takes time, which a flood should not get
_PROBE_SZX = 2  # 64 bytes


class QuickServer:
    """All bodies under way by Q-Block at one endpoint, beside those of `blocks`, whose bounds they share."""

    def __init__(
        self,
        site: Site,
        blocks: BlockServer,
        peers: Peers,
        timers: Timers,
        entropy: Entropy,
        parameters: TransmissionParameters,
        limits: Limits,
        transmission: Transmission,
    ) -> None:
        self._site = site
        self._blocks = blocks
        self._peers = peers
        self._timers = timers
        self._entropy = entropy
        self._parameters = parameters
        self._quick = parameters.quick_blocks
        self._limits = limits
        self._transmission = transmission
        self._szx = limits.block_szx
        self._uploads: dict[Key, Upload] = {}
        self._finished: dict[Key, Finished] = {}
        self._kept: dict[Key, Kept] = {}
        self._held = 0
        self._refused = ("", 0.0)  # the host refused last, and until when that need not be weighed again
        self._sweep: Optional[Timer] = None

    def __len__(self) -> int:
        return len(self._uploads) + len(self._finished) + len(self._kept)

    def request_received(self, request: QuickRequest) -> Union[Response, Deferred]:
        """Answer a request with a Q-Block option."""
        options = request.options
        if options.mask & _BLOCKS:
            return Response.refusal(codes.BAD_OPTION, "Q-Block and Block are not mixed")  # §4.1
        try:
            block1 = decode_blocks(options, Q_BLOCK1)
            wanted = decode_blocks(options, Q_BLOCK2)
        except ValueError:
            return Response.refusal(codes.BAD_REQUEST, "block size exponent 7 is reserved")
        if block1:
            return self._upload(request, block1[0], wanted)
        if any(one.number >= other.number for one, other in zip(wanted, wanted[1:])):
            return Response.refusal(codes.BAD_REQUEST, "missing blocks are asked for in ascending order")  # §4.4
        if any(block.szx != wanted[0].szx for block in wanted):
            return Response.refusal(codes.BAD_REQUEST, "the blocks of a body are of one size")
        key = _key(request)
        kept = self._kept.get(key)
        if kept is not None and kept.is_current and kept.confirmable is request.confirmable:
            if kept.token == request.token and kept.message_id == request.message_id:  # the same datagram once more
                return kept.block(wanted[0].number) if request.confirmable else SILENCE
            if wanted[0].number or len(wanted) > 1 or not wanted[0].more:
                refused = self._site.refusal(request)
                return refused if refused is not None else self._go_on(request, kept, wanted)
        if request.code != codes.GET and (wanted[0].number or len(wanted) > 1):
            # It comes without payload, and must not be carried out as if it were a request of its own (§10.3.3).
            return Response.refusal(codes.REQUEST_ENTITY_INCOMPLETE, "that response is not kept any more")
        self._drop_kept(key)
        resource = self._site.route(request)
        return resource if isinstance(resource, Response) else self._handle(request, resource)

    def path_failed(self, path: Path) -> None:
        """Send nothing more to a client that cannot be reached."""
        for kept in self._kept.values():
            if kept.path == path:
                kept.pace.stop()

    # Q-Block1

    def _upload(self, request: QuickRequest, block: Block, wanted: list[Block]) -> Union[Response, Deferred]:
        options = request.options
        size = options.uint(SIZE1)
        if size is None or options.get(REQUEST_TAG) is None:
            return Response.refusal(codes.BAD_REQUEST, "Q-Block1 needs a Request-Tag and Size1")  # §4.3
        key = _key(request)
        finished = self._finished.get(key)
        if finished is not None:
            kept = self._kept.get(key)
            if kept is not None and kept.is_current:
                if wanted and (wanted[0].number or not wanted[0].more):
                    return self._go_on(request, kept, wanted)  # libcoap repeats Q-Block1 where it goes on
                return kept.block(0)  # enough to ask for the others
            return SILENCE if finished.response is None else self._respond(request, finished.response)
        upload = self._uploads.get(key)
        if upload is None:
            opened = self._open(key, request, block, size)
            if isinstance(opened, Response):
                return opened
            upload = opened
        elif (refused := self._site.refusal(request)) is not None:
            self.drop_upload(upload, "refused")
            return refused
        incoming = upload.incoming
        misfit = incoming.misfit(block, len(request.payload))
        if size != incoming.size:
            misfit = "Size1 is the same for all blocks of a body"
        if request.confirmable is not upload.last.confirmable:
            misfit = "the blocks of a body are all confirmable, or none is"  # §7
        if misfit is not None:
            if incoming.highest < 0:
                self.drop_upload(upload, misfit)
            return Response.refusal(codes.BAD_REQUEST, misfit)
        return self._take(upload, request, block)

    def _open(self, key: Key, request: QuickRequest, block: Block, size: int) -> Union[Upload, Response]:
        """Begin with a body, whichever of its blocks came first."""
        resource = self._site.route(request)
        if isinstance(resource, Response):
            return resource
        if block.szx > self._szx:
            return Response(
                codes.REQUEST_ENTITY_TOO_LARGE, options=((Q_BLOCK1, Block(0, True, self._szx).encode()),)
            )  # RFC 7959 §2.9.3, to which §4.3 refers
        if resource.upload is not None and request.code == codes.PUT:
            reserved = min(size, 2 * self._quick.max_payloads * block.size)
            room = self._make_room(request, reserved)
            opened = resource.upload(request) if room else None
            if isinstance(opened, Response):
                return self._respond(request, opened)
            sink = opened
        else:
            if size > resource.max_body:
                return too_large(resource.max_body)
            reserved = size
            sink = BytesSink(resource.max_body) if self._make_room(request, reserved) else None
        if sink is None:
            return Response(codes.SERVICE_UNAVAILABLE, max_age=FULL_MAX_AGE)
        incoming = Incoming(size, block.szx, self._quick.max_payloads, partial(write_block, sink))
        upload = Upload(self, key, sink, resource, request, incoming)
        upload.reserved = reserved
        self._held += reserved
        self._uploads[key] = upload
        return upload

    def _take(self, upload: Upload, request: QuickRequest, block: Block) -> Union[Response, Deferred]:
        incoming = upload.incoming
        upload.last = request
        upload.heard_at = request.now
        upload.told = 0
        try:
            is_new = incoming.take(block.number, request.payload)
        except Exception:
            self._take_out(upload)
            raise
        if incoming.refusal is not None or incoming.is_complete:
            return self._finish(upload, request)
        if is_new:
            upload.repeats = 0
            upload.touched = request.now
            wait = self._quick.partial_timeout if request.confirmable else self._quick.receive_timeout
            upload.due = request.now + wait
            if upload.timer is None:
                upload.timer = self._timers.at(upload.due, upload.timed_out)
        if request.confirmable:
            return SILENCE  # §4.3: acknowledged, which is enough
        if missing := incoming.overtaken():
            return _missing(missing)
        if incoming.ends_set and (is_new or block.number == incoming.edge - 1):
            value = Block(incoming.edge - 1, True, incoming.szx).encode()
            return Response(codes.CONTINUE, options=Options(((Q_BLOCK1, value),)))
        return SILENCE

    def _finish(self, upload: Upload, request: QuickRequest) -> Union[Response, Deferred]:
        self._take_out(upload)
        self._finished[upload.key] = Finished(request.now)
        self._arm(request.now)
        refusal = upload.incoming.refusal
        if refusal is not None:
            abort(upload.sink, "refused")
            return self.respond(request, refusal)
        request.args = upload.args
        if isinstance(upload.sink, BytesSink):
            request.payload = upload.sink.take()
            return self._handle(request, upload.resource)
        answer = Deferred(request)
        try:
            upload.sink.finish(answer)
        except Exception:
            abort(upload.sink, "its end failed")
            raise
        return answer

    def upload_timed_out(self, upload: Upload, now: float) -> None:
        """Ask for what is missing, or give the body up (§7.2)."""
        upload.timer = None
        if now >= upload.due:
            quick = self._quick
            is_late = now - upload.touched >= quick.partial_timeout or upload.repeats >= quick.max_retransmit
            peer = self._peers.reach(upload.last.path, now)
            if upload.last.confirmable or is_late or peer is None:
                self.drop_upload(upload, "the rest of it did not come")
                return
            response = _missing(upload.incoming.missing())
            assert isinstance(response.payload, bytes)
            upload.told += self._transmission.send_unreliably(
                peer, response.code, upload.last.token, response.options, response.payload, upload.rejected
            )
            upload.repeats += 1
            upload.due = now + quick.receive_timeout * (1 << upload.repeats)
            parameters = self._parameters
            if not parameters.congestion_controlled and upload.repeats < quick.max_retransmit:
                upload.due = max(upload.due, upload.heard_at + upload.told / parameters.probing_rate)
        upload.timer = self._timers.at(upload.due, upload.timed_out)

    def drop_upload(self, upload: Upload, reason: str) -> None:
        """Give a body up."""
        self._take_out(upload)
        abort(upload.sink, reason)

    def _take_out(self, upload: Upload) -> None:
        if self._uploads.pop(upload.key, None) is not None:
            self._held -= upload.reserved
        if upload.timer is not None:
            upload.timer.cancel()
        peer = self._peers.find(upload.last.path)
        if peer is not None:
            self._transmission.ignore_resets(peer, upload.rejected)

    # Q-Block2

    def _handle(self, request: QuickRequest, resource: Resource) -> Union[Response, Deferred]:
        if resource.upload is not None and request.code == codes.PUT:
            return self._blocks.whole_body_received(request, resource)
        response = resource.handlers[request.code](request)
        return response if isinstance(response, Deferred) else self.respond(request, response)

    def respond(self, request: Request, response: Response) -> Response:
        """Return what answers `request` directly, and have the blocks that follow sent."""
        assert isinstance(request, QuickRequest)
        if request.options.mask & 1 << Q_BLOCK1:
            finished = self._finished.get(_key(request))
            if finished is not None and finished.response is None:
                finished.response = response
                finished.held = len(response.payload) if isinstance(response.payload, bytes) else 0
                self._held += finished.held
        return self._respond(request, response)

    def _respond(self, request: QuickRequest, response: Response) -> Response:
        response = validated(request, response)
        wanted = decode_blocks(request.options, Q_BLOCK2)
        payload = response.payload
        size = len(payload) if isinstance(payload, bytes) else payload.size
        if not wanted:
            if isinstance(payload, bytes) and size <= 16 << self._szx:
                return response
            wanted = [Block(0, True, self._szx)]
        elif not size:
            return response
        wanted = self._cut(wanted)
        first = wanted[0]
        if first.offset >= size:
            return Response.refusal(codes.BAD_REQUEST, f"the body has {size} bytes")
        kept = Kept(self, request, response, as_source(payload), first.szx, self._entropy.token(4))
        if size <= first.size or (len(wanted) == 1 and not first.number and not first.more):
            return kept.block(0)  # all of it, or all that is asked for
        key = _key(request)
        self._drop_kept(key)
        if not self._make_room(request, kept.held):
            return Response(codes.SERVICE_UNAVAILABLE, max_age=FULL_MAX_AGE)
        self._kept[key] = kept
        self._held += kept.held
        self._arm(request.now)
        self._set_pace(kept, first.number)
        return self._serve(request, kept, wanted)

    def _cut(self, wanted: list[Block]) -> list[Block]:
        """Have blocks that are too large for us start where they do, in smaller ones (RFC 7959 §2.4)."""
        szx = self._szx
        return [
            block if block.szx <= szx else Block(block.number << (block.szx - szx), block.more, szx) for block in wanted
        ]

    def _set_pace(self, kept: Kept, first: int) -> None:
        count = block_count(kept.size, kept.szx)
        if kept.confirmable:
            kept.pace = Stream(count, self._parameters.nstart, kept.send, self._timers, first)
        else:
            pause = self._entropy.uniform(self._quick.timeout, self._quick.longest_timeout)
            kept.pace = Bursts(count, self._quick, pause, kept.send, self._timers, first)

    def _go_on(self, request: QuickRequest, kept: Kept, wanted: list[Block]) -> Response:
        kept.touched = request.now
        wanted = self._cut(wanted)
        if wanted[0].szx != kept.szx:
            return Response.refusal(codes.BAD_REQUEST, "the blocks of a body are of one size")
        if wanted[-1].offset >= kept.size:
            return Response.refusal(codes.BAD_REQUEST, f"the body has {kept.size} bytes")
        first = wanted[0]
        if len(wanted) == 1 and first.more and first.number % self._quick.max_payloads == 0:
            # §4.4: a 'Continue'. Its payloads bear the token of the request that the body answers (§10.3.2).
            kept.pace.go_on(first.number, request.now)
            return SILENCE
        return self._serve(request, kept, wanted)

    def _serve(self, request: QuickRequest, kept: Kept, wanted: list[Block]) -> Response:
        """Return the first block that is wanted, and have the others sent after it."""
        limit = self._quick.max_payloads
        first = wanted[0]
        if len(wanted) == 1 and first.more and first.number % limit == 0:  # the body, from there on
            kept.pace.next = first.number + 1
            self._timers.at(request.now, kept.pace.start)
            return kept.block(first.number)
        numbers: list[int] = []
        for block in wanted:
            end = block.number + 1
            if block.more:  # §4.4: and those that remain of its set
                end = min(block.number - block.number % limit + limit, block_count(kept.size, kept.szx))
            numbers.extend(range(max(block.number, numbers[-1] + 1 if numbers else 0), end))
        later = numbers[1:limit]  # §7.2: of one set's length at most
        kept.pace.next = max(kept.pace.next, numbers[0] + len(later) + 1) if first.more else kept.pace.next
        self._timers.at(request.now, partial(self._send_others, kept, later, request.token))
        return kept.block(numbers[0])

    def _send_others(self, kept: Kept, numbers: list[int], token: bytes, now: float) -> None:
        for number in numbers:
            self.send_block(kept, number, token, now, kept.repeated)
        kept.pace.rest(now)

    def send_block(
        self,
        kept: Kept,
        number: int,
        token: bytes,
        now: float,
        told: Optional[Callable[[Optional[CoapError], float], None]] = None,
    ) -> bool:
        """Send one block of a response in a message of its own."""
        peer = self._peers.reach(kept.path, now)
        if peer is None or not kept.is_current:  # §4.4: the transmission is terminated
            kept.pace.stop()
            return False
        kept.touched = now
        response = kept.block(number)
        payload = response.payload
        assert isinstance(payload, bytes)
        transmission = self._transmission
        if kept.confirmable:
            outcome = kept.sent if told is None else told
            return transmission.send(peer, response.code, token, response.options, payload, now, outcome) is not None
        transmission.send_unreliably(peer, response.code, token, response.options, payload, kept.rejected)
        return True

    # Bounds

    def _make_room(self, request: Request, wanted: int) -> bool:
        """Whether one more body, of `wanted` bytes, may be held for whoever asks.

        For that those are given up that have been quiet for a while, and what hosts hold more of than this one.
        """
        if self._has_room(wanted):
            return True
        host, now = host_of(request.path), request.now
        refused, until = self._refused
        if wanted > self._limits.open_body_bytes or (host == refused and now < until):
            return False
        self._drop_quiet(now, self._limits.body_grace)
        while not self._has_room(wanted):
            if not self._drop_from_greediest(host, wanted):
                self._refused = (host, now + _REFUSED_FOR)
                return False
        return True

    def _drop_from_greediest(self, host: str, wanted: int) -> bool:
        """Give up one body of the host that holds the most, its longest idle one; False if `host` would hold more."""
        each = self._limits.open_body_bytes // self._limits.open_bodies  # a body counts, whatever it holds
        shares = [(key[0], upload.reserved + each, upload.touched, key) for key, upload in self._uploads.items()]
        shares += [(key[0], kept.held + each, kept.touched, key) for key, kept in self._kept.items()]
        shares += [(key[0], done.held + each, done.touched, key) for key, done in self._finished.items()]
        found = greediest(shares, host, wanted + each)
        if found is None:
            return False
        self._drop_kept(found)
        self._drop_finished(found)
        upload = self._uploads.get(found)
        if upload is not None:
            self.drop_upload(upload, "others need the room")
        return True

    def _has_room(self, wanted: int) -> bool:
        limits = self._limits
        return (
            len(self) + len(self._blocks) < limits.open_bodies
            and self._held + self._blocks.held + wanted <= limits.open_body_bytes
        )

    def _drop_kept(self, key: Key) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._held -= kept.held
            kept.pace.stop()
            peer = self._peers.find(kept.path)
            if peer is not None:
                self._transmission.ignore_resets(peer, kept.rejected)

    def _drop_finished(self, key: Key) -> None:
        finished = self._finished.pop(key, None)
        if finished is not None:
            self._held -= finished.held

    def _drop_quiet(self, now: float, age: float) -> None:
        for key in [key for key, kept in self._kept.items() if kept.touched + age <= now]:
            self._drop_kept(key)
        for key in [key for key, finished in self._finished.items() if finished.touched + age <= now]:
            self._drop_finished(key)
        for upload in [upload for upload in self._uploads.values() if upload.touched + age <= now]:
            self.drop_upload(upload, "the rest of it did not come")

    def _arm(self, now: float) -> None:
        if self._sweep is None:
            self._sweep = self._timers.after(self._quick.partial_timeout, now, self._swept)

    def _swept(self, now: float) -> None:
        self._sweep = None
        self._drop_quiet(now, self._quick.partial_timeout)
        if self._kept or self._finished:
            self._arm(now)


def is_probe(request: QuickRequest) -> bool:
    """Whether a request is for one small block, as one is that asks whether Q-Block is there at all (§4.1)."""
    blocks = request.options.all(Q_BLOCK2)
    if request.options.mask & 1 << Q_BLOCK1 or len(blocks) != 1:
        return False
    value = request.options.uint(Q_BLOCK2) or 0
    return value & 8 == 0 and value & 7 <= _PROBE_SZX


def _key(request: Request) -> Key:
    """What the messages of one body have in common: all options but those of the single block, Request-Tag included."""
    items = request.options.items
    return request.path, request.code, tuple([item for item in items if item[0] not in _PER_BLOCK])


def _missing(numbers: list[int]) -> Response:
    """Return 4.08 with a list of missing blocks (§5)."""
    options = Options(((CONTENT_FORMAT, encode_uint(MISSING_BLOCKS)),))
    return Response(codes.REQUEST_ENTITY_INCOMPLETE, encode_missing(numbers, _LIST_SIZE), options=options)
