"""Block-wise transfer, the client's side (RFC 7959): one request of any size in either direction.

A `Transfer` sends its body by Block1 if it is longer than a block, then takes the response, by Block2 if it is. It
holds one block of memory: the body is read from a `Source` and written to a `ClientSink`, or assembled up to a limit.
"""

from __future__ import annotations

from typing import Callable, Optional, Union

from minicoap.codec import codes
from minicoap.codec.message import Message, Options
from minicoap.codec.options import BLOCK1, BLOCK2, ETAG, SIZE1, SIZE2, encode_uint
from minicoap.core.body import MAX_BLOCK_NUMBER, MAX_SZX, Block, ClientSink, Source, as_source, decode_block
from minicoap.core.exchange import Answer, Exchange, Exchanges
from minicoap.core.parameters import TransmissionParameters
from minicoap.core.request import Path, Response
from minicoap.errors import BodyError, CoapError, NetworkError, StorageError, UsageError

Done = Callable[[Union[Response, CoapError]], None]


class BytesClientSink:
    """Assembles a response body in memory, up to `limit` bytes."""

    __slots__ = ("_limit", "data")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.data = bytearray()

    def begin(self, response: Response, size: Optional[int]) -> None:
        """Refuse a body that is announced as too long."""
        if size is not None and size > self._limit:
            raise BodyError(f"the body has {size} bytes; {self._limit} are kept in memory, more need a sink")

    def write_at(self, offset: int, data: bytes) -> None:
        """Append a block."""
        if len(self.data) + len(data) > self._limit:
            raise BodyError(f"the body is longer than {self._limit} bytes; give a sink to receive it")
        self.data += data


class Transfer:
    """One request under way, in as many exchanges as its bodies take."""

    def __init__(
        self,
        exchanges: Exchanges,
        path: Path,
        code: int,
        options: list[tuple[int, bytes]],
        payload: Union[bytes, Source],
        done: Done,
        *,
        confirmable: bool,
        timeout: Optional[float],
        sink: Optional[ClientSink],
        offset: int,
        szx: int,
        assembled_limit: int,
        parameters: Optional[TransmissionParameters] = None,
    ) -> None:
        if not 0 <= szx <= MAX_SZX or offset < 0 or offset % (16 << szx):
            raise UsageError(f"offset {offset} has to be a multiple of the block size, szx {szx} from 0 to {MAX_SZX}")
        self._exchanges = exchanges
        self._path = path
        self._code = code
        self._options = options
        self._source = as_source(payload)
        if self._source.size > _longest_body(szx):
            raise UsageError(f"a body of {self._source.size} bytes is longer than block numbers can count; raise szx")
        self._done: Optional[Done] = done
        self._confirmable = confirmable
        self._timeout = timeout
        self._parameters = parameters
        self._assembled = BytesClientSink(assembled_limit) if sink is None else None
        self._sink: ClientSink = sink if sink is not None else self._assembled  # type: ignore[assignment]
        self._szx1 = szx
        self._szx2 = szx
        self._sent = 0  # bytes of the request body that the server has taken
        self._is_sending = self._source.size > 16 << szx
        self._received = offset  # where the next block of the response body belongs
        self._resumed = offset > 0
        self._etag: Optional[bytes] = None
        self._has_begun = False
        self._exchange: Optional[Exchange] = None

    @property
    def is_done(self) -> bool:
        """Whether the outcome has been told, or the request was cancelled."""
        return self._done is None

    def start(self, now: float) -> None:
        """Send the first message; raises NetworkError if the endpoint has no room for it."""
        error = self._send(now)
        if error is not None:
            self._done = None
            raise error

    def go_on_from(self, message: Message, now: float) -> None:
        """Take the first response from elsewhere, a notification, and ask for what is missing, instead of `start`."""
        self._answered(message, now)

    def cancel(self, now: float) -> None:
        """Stop; `done` will not be called. More than once is fine."""
        self._done = None
        if self._exchange is not None:
            self._exchange.close(now)
            self._exchange = None

    def _send(self, now: float) -> Union[StorageError, NetworkError, None]:
        items = list(self._options)
        is_last = True
        try:
            payload = self._next_payload()
        except OSError as error:
            return StorageError("the source of the body failed", error)
        if self._is_sending:
            is_last = self._sent + len(payload) >= self._source.size
            items.append((BLOCK1, Block(self._sent >> (self._szx1 + 4), not is_last, self._szx1).encode()))
            if self._sent == 0:
                items.append((SIZE1, encode_uint(self._source.size)))
        if is_last and (self._received or self._szx2 != MAX_SZX):
            items.append((BLOCK2, Block(self._received >> (self._szx2 + 4), False, self._szx2).encode()))
        exchange = self._exchanges.request(
            self._path,
            self._code,
            Options(items),
            payload,
            confirmable=self._confirmable,
            timeout=self._timeout,
            on_answer=self._answered,
            now=now,
            parameters=self._parameters,
        )
        if isinstance(exchange, NetworkError):
            return exchange
        self._exchange = exchange
        return None

    def _next_payload(self) -> bytes:
        if self._is_sending:
            return self._source.read_at(self._sent, 16 << self._szx1)
        if self._sent or self._has_begun:
            return b""  # §3.3: requests for further blocks of the response have none
        return self._source.read_at(0, self._source.size)

    def _answered(self, answer: Answer, now: float) -> None:
        self._exchange = None
        if isinstance(answer, CoapError):
            self._finish(answer)
            return
        try:
            if self._is_sending or (answer.code == codes.REQUEST_ENTITY_TOO_LARGE and not self._has_begun):
                proceeds = self._upload_proceeds(answer)
            else:
                proceeds = self._download_proceeds(answer)
        except BodyError as error:
            self._finish(error)
            return
        except OSError as error:
            self._finish(StorageError("the sink of the body failed", error))
            return
        if proceeds and self._done is not None:  # a sink may have cancelled it
            error_ = self._send(now)
            if error_ is not None:
                self._finish(error_)

    def _upload_proceeds(self, message: Message) -> bool:
        """Take the answer to a block of the request body; True if there is more to send (§2.5)."""
        block = _block(message.options, BLOCK1)
        szx = self._szx1
        sent = self._sent + (16 << szx)
        is_whole = sent >= self._source.size
        if message.code == codes.CONTINUE and is_whole:
            raise BodyError("the server asks for more than the whole body")
        if message.code >> 5 == 2 and not is_whole:
            # §2.3: 2.31, or from a server that acts on each block by itself the response to that block
            if block is None:
                raise BodyError("the server answered before it had the whole body")
            self._sent = sent
            # §2.5: the server may ask for smaller blocks from here on
            self._szx1 = min(szx, block.szx)
            if self._source.size > _longest_body(self._szx1):
                raise BodyError("the body is longer than block numbers of the size that the server wants can count")
            return True
        if message.code == codes.REQUEST_ENTITY_TOO_LARGE and block is not None and block.szx < szx and not self._sent:
            # §2.9.3: too large for one message, not for the server
            self._szx1 = block.szx
            self._is_sending = self._source.size > 16 << block.szx
            if self._is_sending:
                return True
        self._is_sending = False
        self._sent = self._source.size
        return self._download_proceeds(message)

    def _download_proceeds(self, message: Message) -> bool:
        """Take a response or a block of it; True if another block is to be asked for (§2.4)."""
        options = message.options
        block = _block(options, BLOCK2)
        response = Response(message.code, message.payload, options=options)
        if block is None or message.code >> 5 != 2:
            self._take_whole(response)
            return False
        if block.offset != self._received:
            raise BodyError(f"asked for the block at {self._received}, got the one at {block.offset}")
        if block.more and len(message.payload) != block.size:
            raise BodyError(f"a block of {block.size} bytes came with {len(message.payload)}")
        etag = options.get(ETAG)
        if not self._has_begun:
            self._has_begun = True
            self._etag = etag
            self._sink.begin(response, options.uint(SIZE2))
        elif etag != self._etag:
            raise BodyError("the body has changed while it was fetched (its ETag is another)")  # §2.4
        self._sink.write_at(block.offset, message.payload)
        self._received += len(message.payload)
        if not block.more:
            self._finish(self._complete(response))
            return False
        self._szx2 = block.szx
        if self._received >> (block.szx + 4) > MAX_BLOCK_NUMBER:
            raise BodyError("the body is longer than block numbers can count; ask for larger blocks")
        return True

    def _take_whole(self, response: Response) -> None:
        if self._has_begun or not response.is_success:
            if self._has_begun and response.is_success:
                raise BodyError("a block was asked for and something else came")
            self._finish(response)
            return
        if self._resumed:
            raise BodyError("the server does not serve blocks, so this download cannot be resumed")
        self._has_begun = True
        self._sink.begin(response, len(response.body))
        self._sink.write_at(0, response.body)
        self._finish(self._complete(response))

    def _complete(self, last: Response) -> Response:
        if self._assembled is None:
            return Response(last.code, options=last.options)
        return Response(last.code, bytes(self._assembled.data), options=last.options)

    def _finish(self, outcome: Union[Response, CoapError]) -> None:
        done = self._done
        self._done = None
        if done is not None:
            done(outcome)


def _longest_body(szx: int) -> int:
    return (MAX_BLOCK_NUMBER + 1) << (szx + 4)


def _block(options: Options, number: int) -> Optional[Block]:
    value = options.uint(number)
    if value is None:
        return None
    block = decode_block(value)
    if block is None:
        raise BodyError("block size exponent 7 is reserved")
    return block
