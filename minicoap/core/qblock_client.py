"""Q-Block, the client's side (RFC 9177): one request whose bodies travel by it both ways. Imported when first needed.

Whether a server has Q-Block is found out by a confirmable request, once (§4.1); one that has not is served by Block1
and Block2 instead. The blocks of a body are all confirmable or none is (§7). Each request has a token of its own; the
first one's is kept for the whole of the response, whose payloads bear it even after a 'Continue' (§10.3.2).

What is not answered is repeated as missing blocks are asked for, after NON_RECEIVE_TIMEOUT and then twice as long each
time, NON_MAX_RETRANSMIT times: a GET or FETCH of which nothing has come, and the last block of a request body, which
the server has to answer as it did (§4.3). A body that nobody answered at all holds the next one back for as long as
PROBING_RATE has it, but not longer than NON_PROBING_WAIT (§7.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Optional, Union

from minicoap.codec import codes
from minicoap.codec.message import Message, Options
from minicoap.codec.missingblocks import decode_missing
from minicoap.codec.options import (
    BLOCK2,
    CONTENT_FORMAT,
    ECHO,
    ETAG,
    Q_BLOCK1,
    Q_BLOCK2,
    REQUEST_TAG,
    SIZE1,
    SIZE2,
    URI_HOST,
    URI_PATH,
    encode_uint,
)
from minicoap.core.block_client import BodyOptions, BytesClientSink, Done, Transfer
from minicoap.core.block_download import user_failed
from minicoap.core.body import MAX_BLOCK_NUMBER, MAX_SZX, Block, BlockOptions, ClientSink, Source, as_source
from minicoap.core.exchange import Answer, Exchange, Exchanges
from minicoap.core.parameters import TransmissionParameters
from minicoap.core.qblock import MISSING_BLOCKS, Bursts, Incoming, Pace, Stream, block_count, decode_blocks
from minicoap.core.qblock_peers import Probe, QuickExchange, QuickPeers
from minicoap.core.request import SAFE, Path, Response
from minicoap.core.timers import Timer
from minicoap.errors import BodyError, CoapError, NetworkError, PeerError, RequestTimeout, StorageError, UsageError

_TOKENS = 4  # sets of blocks whose tokens are listened for; who is answered by then has been
_CHALLENGES = 5  # by Echo, that one request answers


class QuickTransfer:
    """One request under way, as a `Transfer` is, whose arguments it has, but by Q-Block where the server has it."""

    def __init__(
        self,
        exchanges: Exchanges,
        peers: QuickPeers,
        path: Path,
        code: int,
        options: list[tuple[int, bytes]],
        payload: Union[bytes, Source],
        done: Done,
        body: BodyOptions,
        *,
        confirmable: bool,
        timeout: Optional[float],
        assembled_limit: int,
        parameters: TransmissionParameters,
    ) -> None:
        szx = MAX_SZX if body.szx is None else body.szx
        if not 0 <= szx <= MAX_SZX or body.offset < 0 or body.offset % (16 << szx):
            raise UsageError(
                f"offset {body.offset} has to be a multiple of the block size, szx {szx} from 0 to {MAX_SZX}"
            )
        if body.window > 1:
            raise UsageError("a window is of Block2; with Q-Block the server sends on by itself (qblock)")
        self._exchanges = exchanges
        self._peers = peers
        self._timers = peers.timers
        self._path = path
        self._code = code
        self._items = list(options)
        self._source = as_source(payload)
        self._szx = szx
        if block_count(self._source.size, szx) > MAX_BLOCK_NUMBER + 1:
            raise UsageError(f"a body of {self._source.size} bytes is longer than block numbers can count; raise szx")
        self._done: Optional[Done] = done
        self._body = body
        self._confirmable = confirmable
        self._timeout = timeout
        self._assembled_limit = assembled_limit
        self._parameters = parameters
        self._quick = parameters.quick_blocks
        self._plain: Optional[Transfer] = None  # what is done instead if the server has no Q-Block
        self._exchange: Optional[Exchange] = None
        self._is_sending = self._source.size > 16 << szx
        self._tag = peers.tag() if self._is_sending or code not in (codes.GET, codes.DELETE) else None
        if self._tag is not None:
            self._items.append((REQUEST_TAG, self._tag))
        self._block_options: Optional[BlockOptions] = None
        self._pace: Union[Bursts, Stream, None] = None
        self._sent = 0
        self._assembled = BytesClientSink(assembled_limit) if body.sink is None else None
        self._sink: ClientSink = body.sink if body.sink is not None else self._assembled  # type: ignore[assignment]
        self._incoming: Optional[Incoming] = None
        self._first: Optional[Response] = None  # what the body that comes is of
        self._etag = body.etag
        self._edge = body.offset
        self._challenged = 0
        self._timer: Optional[Timer] = None
        self._due = 0.0
        self._repeats = 0
        self._heard_at: Optional[float] = None
        self._unheard = 0  # bytes sent since
        self._started_at = 0.0

    @property
    def is_done(self) -> bool:
        """Whether the outcome has been told, or the request was cancelled."""
        return self._done is None

    @property
    def sent(self) -> int:
        """Bytes of the request's body that the server has taken."""
        return self._sent if self._plain is None else self._plain.sent

    @property
    def sent_size(self) -> int:
        """Length of the request's body."""
        return self._source.size

    @property
    def sent_szx(self) -> int:
        """The size exponent of the blocks by which the request's body goes."""
        return self._szx if self._plain is None else self._plain.sent_szx

    @property
    def received(self) -> int:
        """How far the response's body is there without a gap: the offset to resume at."""
        return self._edge if self._plain is None else self._plain.received

    @property
    def received_size(self) -> Optional[int]:
        """Length of the response's body, as far as it is known."""
        if self._plain is not None:
            return self._plain.received_size
        return None if self._incoming is None else self._incoming.size

    @property
    def etag(self) -> Optional[bytes]:
        """What names the response's body, once its first block is there."""
        return self._etag if self._plain is None else self._plain.etag

    @property
    def szx(self) -> int:
        """The size exponent of the blocks by which the response's body comes."""
        return self._szx if self._plain is None else self._plain.szx

    def start(self, now: float) -> None:
        """Send the first message; raises NetworkError if the endpoint has no room for it."""
        has_quick = self._peers.has_quick(self._path)
        error = self._probe(now) if has_quick is None else self._begin_or_fall_back(has_quick, now)
        if error is not None:
            self._close(now)
            raise error

    def cancel(self, now: float) -> None:
        """Stop; `done` will not be called. More than once is fine."""
        if self._done is not None:
            self._close(now)

    def _close(self, now: float) -> Optional[Done]:
        """End it; return whom to tell."""
        done, self._done = self._done, None
        if self._plain is not None:
            self._plain.cancel(now)
        if self._pace is not None:
            self._pace.stop()
        if self._timer is not None:
            self._timer.cancel()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.close(now)
            self._exchanges.transmission.ignore_resets(exchange.peer, self._rejected)
        return done

    # Finding out (§4.1)

    def _probe(self, now: float) -> Optional[NetworkError]:
        exchange = self._exchanges.prepare(Probe, self._path, self._probed, now)
        if isinstance(exchange, NetworkError):
            return exchange
        self._exchange = exchange
        items = [item for item in self._items if item[0] == URI_HOST]
        items += [(URI_PATH, b".well-known"), (URI_PATH, b"core"), (Q_BLOCK2, b"")]
        return self._exchanges.send(
            exchange,
            codes.GET,
            Options(items),
            b"",
            confirmable=True,
            timeout=self._timeout,
            now=now,
            parameters=self._parameters,
        )

    def _probed(self, answer: Answer, now: float) -> None:
        self._exchange = None
        if isinstance(answer, CoapError):
            self._finish(answer, now)
            return
        # One that overlooks critical options answers as if there was none.
        has_quick = answer.code != codes.BAD_OPTION and (
            answer.code != codes.CONTENT or bool(answer.options.mask & 1 << Q_BLOCK2) or not answer.payload
        )
        self._peers.note(self._path, has_quick)
        error = self._begin_or_fall_back(has_quick, now)
        if error is not None:
            self._finish(error, now)

    def _begin_or_fall_back(self, has_quick: bool, now: float) -> Union[NetworkError, StorageError, None]:
        if not has_quick:
            self._fall_back(now).start(now)
            return None
        wait = self._peers.silent_until(self._path)
        if wait > now and not self._parameters.congestion_controlled:
            self._timer = self._timers.at(wait, self._begin_late)
            return None
        return self._begin(now)

    def _fall_back(self, now: float) -> Transfer:
        """Have it done by Block1 and Block2."""
        if self._exchange is not None:
            self._exchange.close(now)
            self._exchange = None
        if self._timer is not None:
            self._timer.cancel()
        progress = self._body.progress
        self._plain = Transfer(
            self._exchanges,
            self._path,
            self._code,
            [item for item in self._items if item[0] != REQUEST_TAG],
            self._source,
            self._plain_finished,
            # What is told of progress looks the same.
            self._body._replace(progress=None if progress is None else lambda _: progress(self)),  # type: ignore[arg-type]
            confirmable=self._confirmable,
            timeout=self._timeout,
            assembled_limit=self._assembled_limit,
            parameters=self._parameters,
        )
        return self._plain

    def _plain_finished(self, outcome: Union[Response, CoapError]) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(outcome)

    # Sending

    def _begin_late(self, now: float) -> None:
        error = self._begin(now)
        if error is not None:
            self._finish(error, now)

    def _begin(self, now: float) -> Optional[NetworkError]:
        """Send the request, or begin to send its body."""
        exchange = self._exchanges.prepare(QuickExchange, self._path, self._failed, now)
        if isinstance(exchange, NetworkError):
            return exchange
        exchange.on_message = self._received
        exchange.code = self._code
        exchange.options = Options(self._items)
        self._exchange = exchange
        self._take_echo(exchange)
        self._started_at = now
        self._repeats = 0
        if self._is_sending:
            items = [*self._items, (SIZE1, encode_uint(self._source.size))]
            if self._body.szx is not None:  # §4.7: the blocks of the response are to be no larger
                items.append((Q_BLOCK2, Block(0, True, self._szx).encode()))
            self._block_options = BlockOptions(items, Q_BLOCK1)
            count = block_count(self._source.size, self._szx)
            if self._confirmable:
                self._pace = Stream(count, self._parameters.nstart, self._send_block, self._timers)
            else:
                pause = self._peers.pause(self._quick.timeout, self._quick.longest_timeout)
                self._pace = Bursts(count, self._quick, pause, self._send_block, self._timers)
            self._pace.start(now)
        else:
            self._send_first(now)
        if self._done is not None:
            self._wait(now)
        return None

    def _take_echo(self, exchange: QuickExchange) -> None:
        """Bring an Echo value back with the next request to the server (RFC 9175 §2.3)."""
        echo, exchange.peer.echo = exchange.peer.echo, None
        if echo is not None:
            self._items = [item for item in self._items if item[0] != ECHO]
            self._items.append((ECHO, echo))

    def _send_block(self, number: int, now: float) -> bool:
        """Send a block of the request's body."""
        offset = number << (self._szx + 4)
        try:
            payload = self._source.read_at(offset, 16 << self._szx)
        except OSError as error:
            self._finish(StorageError("the source of the body failed", error), now)
            return False
        assert self._block_options is not None
        options = self._block_options.at(number, offset + len(payload) < self._source.size, self._szx)
        return self._send(options, payload, number, now)

    def _send_first(self, now: float) -> None:
        """Send the request, whose body is short, with the wish to get the response by Q-Block2."""
        try:
            payload = self._source.read_at(0, self._source.size)
        except OSError as error:
            self._finish(StorageError("the source of the body failed", error), now)
            return
        first = Block(self._edge >> (self._szx + 4), True, self._szx)
        if not self._send(Options([*self._items, (Q_BLOCK2, first.encode())]), payload, -1, now):
            self._finish(NetworkError("too many messages wait for this peer; see Limits.queued_messages"), now)

    def _ask(self, blocks: Sequence[Block], now: float) -> None:
        """Ask for blocks of the response: again, or by a 'Continue' for the next set. Without payload (§10.3.3)."""
        items = [item for item in self._items if item[0] != ETAG]  # §4.4: it might be answered 2.03
        if self._code not in SAFE and len(blocks) == 1 and not blocks[0].number and not blocks[0].more:
            # One block 0 alone could be taken for a request of its own by a server that has let go of the response.
            blocks = [*blocks, Block(1, False, blocks[0].szx)]
        items += [(Q_BLOCK2, block.encode()) for block in blocks]
        self._send(Options(items), b"", -1, now)

    def _send(self, options: Options, payload: bytes, number: int, now: float) -> bool:
        exchange = self._exchange
        assert isinstance(exchange, QuickExchange)
        peer = exchange.peer
        token = exchange.token
        if token in peer.exchanges:
            token = self._exchanges.new_token(peer.exchanges)
        exchange.listen(token, number, _TOKENS * self._quick.max_payloads)
        transmission = self._exchanges.transmission
        if not self._confirmable:
            self._unheard += transmission.send_unreliably(peer, self._code, token, options, payload, self._rejected)
            return True
        outcome = self._acknowledged if number < 0 else partial(self._block_acknowledged, self._pace)
        outgoing = transmission.send(
            peer, self._code, token, options, payload, now, outcome, parameters=self._parameters
        )
        return outgoing is not None

    def _acknowledged(self, error: Optional[CoapError], now: float) -> None:
        if error is not None and self._done is not None:
            self._failed(error, now)

    def _block_acknowledged(self, pace: Optional[Pace], error: Optional[CoapError], now: float) -> None:
        if self._done is None or pace is not self._pace:
            return  # one sent before a challenge had the body begun anew
        if error is not None:
            self._failed(error, now)
        elif isinstance(pace, Stream):
            self._wait(now)
            pace.acknowledged(now)

    def _rejected(self, now: float) -> None:
        if self._done is not None:
            self._failed(PeerError("the peer rejected the message with a reset"), now)

    def _failed(self, answer: Answer, now: float) -> None:
        assert isinstance(answer, CoapError)
        self._finish(answer, now)

    # Waiting

    def _wait(self, now: float) -> None:
        """Wait for what is to come next, from here on."""
        if self._timeout is not None:
            wait = self._timeout
        elif self._confirmable:
            wait = self._parameters.max_transmit_span if self._incoming else self._parameters.exchange_lifetime
        elif self._is_sending and self._incoming is None:
            wait = 2 * self._quick.receive_timeout  # the server's turn comes first
        else:
            wait = self._quick.receive_timeout
        self._due = now + wait * (1 << self._repeats)
        if not self._confirmable and not self._parameters.congestion_controlled and self._incoming is not None:
            # §7.2: a request for missing blocks is subject to PROBING_RATE
            since = self._started_at if self._heard_at is None else self._heard_at
            self._due = max(self._due, since + self._unheard / self._parameters.probing_rate)
        if self._timer is None or self._timer.callback is None or self._timer.deadline > self._due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._timers.at(self._due, self._timed_out)

    def _timed_out(self, now: float) -> None:
        if now < self._due:
            self._timer = self._timers.at(self._due, self._timed_out)
            return
        if self._is_sending and self._pace is not None and not self._pace.has_sent_all and self._incoming is None:
            self._wait(now)  # the pauses go on by themselves
            return
        incoming = self._incoming
        may_repeat = incoming is not None or (not self._confirmable and (self._is_sending or self._code in SAFE))
        if not may_repeat or self._timeout is not None or self._repeats >= self._quick.max_retransmit:
            self._finish(RequestTimeout("no response in time"), now)
            return
        self._repeats += 1
        if incoming is not None:
            self._ask(_tersely(incoming.missing(), incoming, self._quick.max_payloads), now)
        elif self._is_sending:
            self._send_block(block_count(self._source.size, self._szx) - 1, now)
        else:
            self._send_first(now)
        if self._done is not None:
            self._wait(now)

    # Receiving

    def _received(self, message: Message, now: float) -> bool:
        self._heard_at = now
        self._unheard = 0
        try:
            if not self._is_repeated_or_goes_on(message, now):
                self._response_received(message, now)
        except BodyError as error:
            self._finish(error, now)
        except OSError as error:
            self._finish(StorageError("the sink of the body failed", error), now)
        except Exception as error:  # noqa: BLE001  the boundary to a user's sink: whoever waits has to be told
            self._finish(user_failed(error), now)
        return True

    def _is_repeated_or_goes_on(self, message: Message, now: float) -> bool:
        """Take what is not the response: a challenge, a 'Continue', a list of missing blocks."""
        exchange = self._exchange
        assert isinstance(exchange, QuickExchange)
        if message.code == codes.UNAUTHORIZED and exchange.peer.echo is not None:
            if self._challenged >= _CHALLENGES:
                return False
            self._challenged += 1
            incoming = self._incoming
            if incoming is not None and self._code != codes.GET:
                self._take_echo(exchange)  # it has been carried out: what is asked for is the rest of the response
                self._ask(_tersely(incoming.missing(), incoming, self._quick.max_payloads), now)
                if self._done is not None:
                    self._wait(now)
                return True
            if self._pace is not None:
                self._pace.stop()
            exchange.close(now)  # what comes for its tokens answers requests without Echo
            error = self._begin(now)
            if error is not None:
                self._finish(error, now)
            return True
        if not self._is_sending or self._pace is None:
            return False
        if message.code == codes.CONTINUE:
            if self._incoming is None:
                self._continues(message, exchange, now)
            return True
        options = message.options
        if message.code == codes.REQUEST_ENTITY_INCOMPLETE and options.uint(CONTENT_FORMAT) == MISSING_BLOCKS:
            try:
                numbers = decode_missing(message.payload, self._quick.max_payloads)
            except PeerError:
                return True  # §5: dropped in silence
            if self._incoming is not None:
                return True  # overtaken by the response
            self._repeats = 0
            self._pace.repeat(numbers, now)
            if self._done is not None:
                self._wait(now)
            return True
        return False

    def _continues(self, message: Message, exchange: QuickExchange, now: float) -> None:
        """All blocks up to the one that 2.31 names have been taken (§4.3)."""
        assert self._pace is not None
        named = message.options.uint(Q_BLOCK1)
        number = exchange.tokens.get(message.token, -1) if named is None else named >> 4
        for token in [token for token, other in exchange.tokens.items() if other <= number]:
            exchange.release(token)
        taken = min((number + 1) << (self._szx + 4), self._source.size)
        self._repeats = 0
        if taken > self._sent:
            self._sent = taken
            self._tell()
        if self._done is not None:
            self._pace.go_on(number + 1, now)
        if self._done is not None:
            self._wait(now)

    def _response_received(self, message: Message, now: float) -> None:
        if self._pace is not None:
            self._pace.stop()
        if message.code >> 5 != 2:
            self._finish(Response(message.code, message.payload, options=message.options), now)
            return
        if message.code == codes.VALID and self._incoming is None:  # who asked has the body; see `Download`
            self._finish(Response(codes.VALID, options=message.options), now)
            return
        if self._source.size and self._sent < self._source.size:
            self._sent = self._source.size
            self._tell()
        if self._done is None:
            return
        mask = message.options.mask
        if mask & 1 << Q_BLOCK2:
            self._block_received(message, now)
        elif self._incoming is not None:
            raise BodyError("a block was asked for and something else came")
        elif mask & 1 << BLOCK2:
            if self._is_sending:
                raise BodyError("the server answers Q-Block1 by Block2")
            self._fall_back(now).go_on_from(message, now)
        else:
            self._whole_received(message, now)

    def _whole_received(self, message: Message, now: float) -> None:
        if self._body.offset and not self._body.restart:
            raise BodyError("the server does not serve blocks, so this download cannot be resumed")
        response = Response(message.code, message.payload, options=message.options)
        self._etag = response.etag
        self._sink.begin(response, len(message.payload))
        if message.payload and self._done is not None:
            self._sink.write_at(0, message.payload)
            self._edge = len(message.payload)
            self._tell()
        self._finish(Response(message.code, options=message.options), now)

    def _block_received(self, message: Message, now: float) -> None:
        options = message.options
        try:
            (block,) = decode_blocks(options, Q_BLOCK2)
        except ValueError as error:
            raise BodyError("a response has one Q-Block2 option, with a block size from 16 to 1024") from error
        etag = options.get(ETAG)
        size = options.uint(SIZE2)
        if size is None:
            raise BodyError("a block came without the size of its body")  # §4.6
        incoming = self._incoming
        if incoming is None or (etag != self._etag and self._body.restart):
            incoming = self._first_received(message, block, etag, size, now)
            if incoming is None:
                return
        elif etag != self._etag or size != incoming.size:
            raise BodyError("the body has changed while it was fetched (its ETag is another)")  # §4.4
        misfit = incoming.misfit(block, len(message.payload))
        if misfit is not None:
            raise BodyError(misfit)
        if self._done is None:  # by the sink
            return
        edge = incoming.edge
        is_new = incoming.take(block.number, message.payload)
        if incoming.edge > edge:
            self._edge = min(incoming.edge << (incoming.szx + 4), size)
            self._tell()
        if self._done is None:
            return
        if incoming.is_complete:
            assert self._first is not None
            self._finish(self._first, now)
        elif is_new:
            self._repeats = 0
            self._react(incoming, now)
            self._wait(now)

    def _first_received(
        self, message: Message, block: Block, etag: Optional[bytes], size: int, now: float
    ) -> Optional[Incoming]:
        """Begin with the body whose first block this is, whichever number it has."""
        is_another = self._etag is not None and etag != self._etag
        if is_another and not self._body.restart:
            raise BodyError("the body is another than the one that this download began with (its ETag changed)")
        if block.szx > self._szx:
            raise BodyError(f"blocks of {16 << self._szx} bytes were asked for, and larger ones came")
        if is_another:
            self._edge = 0
        if self._edge > size:
            raise BodyError("the body has become shorter than what there is of it already")
        self._etag = etag
        self._szx = block.szx
        first = self._edge >> (block.szx + 4)
        incoming = Incoming(
            size, block.szx, self._quick.max_payloads, self._write, first=first,
            any_order=getattr(self._sink, "any_order", False),
        )  # fmt: skip
        self._incoming = incoming
        self._first = Response(message.code, options=message.options)
        # Whichever block came first, the body begins, or goes on, with this one.
        items = [item for item in message.options.items if item[0] != Q_BLOCK2]
        items.append((Q_BLOCK2, Block(first, first < incoming.count - 1, block.szx).encode()))
        self._sink.begin(Response(message.code, message.payload, options=items), size)
        if is_another and block.number and self._done is not None:
            self._ask([Block(0, True, block.szx)], now)
        return incoming if self._done is not None else None

    def _write(self, offset: int, data: bytes) -> None:
        if self._done is not None:
            self._sink.write_at(offset, data)

    def _react(self, incoming: Incoming, now: float) -> None:
        """Say 'Continue', or ask for what was overtaken (§7.2)."""
        if self._confirmable:
            return  # the server learns by acknowledgements what has come
        if missing := incoming.overtaken():
            self._ask(_tersely(missing, incoming, self._quick.max_payloads), now)
        elif incoming.ends_set:
            self._ask([Block(incoming.edge, True, incoming.szx)], now)

    # Its end

    def _tell(self) -> None:
        if self._body.progress is not None and self._done is not None:
            self._body.progress(self)  # type: ignore[arg-type]

    def _finish(self, outcome: Union[Response, CoapError], now: float) -> None:
        if self._done is None:
            return
        if not self._confirmable:
            until = None
            if self._heard_at is None and isinstance(outcome, RequestTimeout):
                wait = min(self._unheard / self._parameters.probing_rate, self._quick.probing_wait)
                until = self._started_at + wait
            self._peers.note_silence(self._path, until, now)
        done = self._close(now)
        if done is None:
            return
        if isinstance(outcome, Response) and outcome.is_success and self._assembled is not None:
            outcome = Response(outcome.code, bytes(self._assembled.data), options=outcome.options)
        done(outcome)


def _tersely(numbers: list[int], incoming: Incoming, limit: int) -> list[Block]:
    """Return what asks for missing blocks; for all from one to the end of its set, that is one option (§10.2.4)."""
    first = numbers[0]
    end = min(incoming.count, first - first % limit + limit)
    if first % limit and len(numbers) > 1 and numbers == list(range(first, end)):
        return [Block(first, True, incoming.szx)]
    return [Block(number, False, incoming.szx) for number in numbers]
