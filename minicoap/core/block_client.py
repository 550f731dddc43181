"""Block-wise transfer, the client's side (RFC 7959): one request of any size in either direction.

A `Transfer` sends its body by Block1 if it is longer than a block, then takes the response, by Block2 if it is. It
holds one block of memory: the body is read from a `Source` and written to a `ClientSink`, or assembled up to a limit.

An upload has one block under way at a time. RFC 7959 has no window for Block1: a server may take blocks in order only
(§2.9.2), and learns of a changed block size from the answer to the one before (§2.5). It cannot be resumed either: what
a server holds of a broken upload is known to nobody else, and may be gone.
"""

from __future__ import annotations

from typing import Callable, NamedTuple, Optional, Union

from minicoap.codec import codes
from minicoap.codec.message import Message, Options
from minicoap.codec.options import BLOCK1, BLOCK2, IF_NONE_MATCH, REQUEST_TAG, SIZE1, SIZE2, encode_uint
from minicoap.core.block_download import Download, user_failed
from minicoap.core.body import MAX_BLOCK_NUMBER, MAX_SZX, Block, ClientSink, Source, as_source, decode_block
from minicoap.core.congestion import CongestionWindow
from minicoap.core.exchange import TOKEN_LENGTH, Answer, Exchange, Exchanges
from minicoap.core.flight import Flight
from minicoap.core.parameters import TransmissionParameters
from minicoap.core.request import SAFE, Path, Response
from minicoap.core.request_tag import Operation
from minicoap.errors import BodyError, CoapError, NetworkError, StorageError, UsageError

Done = Callable[[Union[Response, CoapError]], None]


class BodyOptions(NamedTuple):
    """How the bodies of a request are to travel.

    `sink` takes the response's body, from `offset` bytes on, a multiple of the block size; `etag` is what that body has
    to be named by, if some of it is there already; with `restart` it is fetched anew if it is another one now. `szx`
    is the block size to begin with, 16 << szx bytes; None leaves it to the server as far as possible. `window` is how
    many blocks of the response may be asked for at once. `tagged` uploads carry a Request-Tag (RFC 9175 §3) even if no
    other one is under way. `progress` is told whenever more of either body has arrived.
    """

    sink: Optional[ClientSink] = None
    offset: int = 0
    etag: Optional[bytes] = None
    restart: bool = False
    szx: Optional[int] = None
    window: int = 1
    tagged: bool = False
    progress: Optional[Callable[[Transfer], None]] = None


class BytesClientSink:
    """Assembles a response body in memory, up to `limit` bytes."""

    __slots__ = ("data", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.data = bytearray()

    def take(self) -> bytes:
        """Return the body, and keep it no more."""
        body = bytes(self.data)
        self.data = bytearray()
        return body

    def begin(self, response: Response, size: Optional[int]) -> None:
        """Refuse a body that is announced as too long."""
        if size is not None and size > self.limit:
            raise BodyError(f"the body has {size} bytes; {self.limit} are kept in memory, more need a sink")

    def write_at(self, offset: int, data: bytes) -> None:
        """Append a block."""
        if len(self.data) + len(data) > self.limit:
            raise BodyError(f"the body is longer than {self.limit} bytes; give a sink to receive it")
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
        body: BodyOptions,
        *,
        confirmable: bool,
        timeout: Optional[float],
        assembled_limit: int,
        parameters: Optional[TransmissionParameters] = None,
        token_length: int = TOKEN_LENGTH,
    ) -> None:
        szx = MAX_SZX if body.szx is None else body.szx
        if not 0 <= szx <= MAX_SZX or body.offset < 0 or body.offset % (16 << szx):
            raise UsageError(
                f"offset {body.offset} has to be a multiple of the block size, szx {szx} from 0 to {MAX_SZX}"
            )
        if body.window > 1 and (code != codes.GET or not confirmable):
            raise UsageError("only what is fetched by confirmable GETs can be asked for ahead of its turn (window)")
        self._exchanges = exchanges
        self._path = path
        self._code = code
        self._source = as_source(payload)
        if self._source.size > _longest_body(szx):
            raise UsageError(f"a body of {self._source.size} bytes is longer than block numbers can count; raise szx")
        self._done: Optional[Done] = done
        self._confirmable = confirmable
        self._timeout = timeout
        self._parameters = parameters
        self._token_length = token_length
        self._progress = body.progress
        self._szx1 = szx
        self._sent = 0  # bytes of the request body that the server has taken
        self._is_sending = self._source.size > 16 << szx
        self._exchange: Optional[Exchange] = None
        self._tags = exchanges.request_tags
        self._operation: Optional[Operation] = None
        self._tag: Optional[bytes] = None
        self._has_condition = False  # If-None-Match, on a body that is sent in blocks
        self._tagged = body.tagged
        self._options = options
        self._first_options: list[tuple[int, bytes]] = []  # of the request that the response's first block answers
        if body.offset or body.szx is not None or body.window > 1:
            self._first_options.append((BLOCK2, Block(body.offset >> (szx + 4), False, szx).encode()))
        if body.window > 1:
            self._first_options.append((SIZE2, b""))  # §4: how long is it?
        self._flight = Flight(CongestionWindow(body.window)) if body.window != 1 else None
        self._assembled = BytesClientSink(assembled_limit) if body.sink is None else None
        self._download = Download(
            self._ask,
            self._options,
            body.sink if body.sink is not None else self._assembled,  # type: ignore[arg-type]
            self._finish,
            progress=self._tell if body.progress is not None else None,
            offset=body.offset,
            szx=body.szx,
            etag=body.etag,
            restart=body.restart,
            flight=self._flight,
        )

    def _take_tag(self) -> None:
        options = sorted(self._options, key=_number)
        if self._is_sending and any(number == IF_NONE_MATCH for number, _ in options):
            self._has_condition = True
            options = [item for item in options if item[0] != IF_NONE_MATCH]
        self._operation = (self._path, self._code, tuple(options))
        self._tag = self._tags.take(self._operation, always=self._tagged)
        if self._tag is not None:
            self._options.append((REQUEST_TAG, self._tag))

    @property
    def is_done(self) -> bool:
        """Whether the outcome has been told, or the request was cancelled."""
        return self._done is None

    @property
    def sent(self) -> int:
        """Bytes of the request's body that the server has taken."""
        return self._sent

    @property
    def sent_size(self) -> int:
        """Length of the request's body."""
        return self._source.size

    @property
    def received(self) -> int:
        """How far the response's body is there without a gap: the offset to resume at."""
        return self._download.edge

    @property
    def taken(self) -> int:
        """Bytes of the response's body that came, counting those that came twice or could not be used."""
        return self._download.taken

    @property
    def received_size(self) -> Optional[int]:
        """Length of the response's body, as far as it is known."""
        return self._download.size

    @property
    def etag(self) -> Optional[bytes]:
        """What names the response's body, once its first block is there."""
        return self._download.etag

    @property
    def szx(self) -> int:
        """The size exponent of the blocks by which the response's body comes."""
        return self._download.szx

    @property
    def window(self) -> int:
        """How many blocks of the response may be under way at the moment."""
        return 1 if self._flight is None else self._flight.window.size

    def start(self, now: float) -> None:
        """Send the first message; raises NetworkError if the endpoint has no room for it."""
        if self._is_sending or self._code in SAFE:
            # Of two responses to one question a server keeps but one, for whoever asks for further blocks.
            self._take_tag()
        error = self._send(now)
        if error is not None:
            self._close(now)
            raise error

    def go_on_from(self, message: Message, now: float) -> None:
        """Take the first response from elsewhere, a notification, and ask for what is missing, instead of `start`.

        That response belongs to a request without a tag, and so do its further blocks (RFC 9175 §3.3).
        """
        self._answered(message, now)

    def cancel(self, now: float) -> None:
        """Stop; `done` will not be called. More than once is fine."""
        if self._done is not None:
            self._close(now)

    def _close(self, now: float) -> Optional[Done]:
        """End it; return whom to tell."""
        done, self._done = self._done, None
        if self._operation is not None:
            self._tags.give_back(self._operation, self._tag)
            self._operation = None
        if self._exchange is not None:
            self._exchange.close(now)
            self._exchange = None
        self._download.close(now)
        return done

    # Sending

    def _ask(
        self, options: Options, on_answer: Callable[[Answer, float], None], now: float
    ) -> Union[Exchange, NetworkError]:
        """Send a request for a block of the response; it has no payload (§3.3)."""
        return self._exchanges.request(
            self._path,
            self._code,
            options,
            b"",
            confirmable=self._confirmable,
            timeout=self._timeout,
            on_answer=on_answer,
            now=now,
            flight=self._flight,
            parameters=self._parameters,
            token_length=self._token_length,
        )

    def _send(self, now: float) -> Union[StorageError, NetworkError, None]:
        items = list(self._options)
        is_last = True
        try:
            payload = self._source.read_at(self._sent, 16 << self._szx1 if self._is_sending else self._source.size)
        except OSError as error:
            return StorageError("the source of the body failed", error)
        if self._is_sending:
            is_last = self._sent + len(payload) >= self._source.size
            items.append((BLOCK1, Block(self._sent >> (self._szx1 + 4), not is_last, self._szx1).encode()))
            if self._sent == 0:
                items.append((SIZE1, encode_uint(self._source.size)))
            elif self._has_condition:  # §2.10: only the first block has it
                items = [item for item in items if item[0] != IF_NONE_MATCH]
        if is_last:
            items += self._first_options
        exchange = self._exchanges.request(
            self._path,
            self._code,
            Options(items),
            payload,
            confirmable=self._confirmable,
            timeout=self._timeout,
            on_answer=self._answered,
            now=now,
            flight=self._flight,
            parameters=self._parameters,
            token_length=self._token_length,
        )
        if isinstance(exchange, NetworkError):
            return exchange
        self._exchange = exchange
        return None

    def _answered(self, answer: Answer, now: float) -> None:
        self._exchange = None
        if isinstance(answer, CoapError):
            self._finish(answer, now)
            return
        proceeds = False
        if self._is_sending or answer.code == codes.REQUEST_ENTITY_TOO_LARGE:
            sent = self._sent
            try:
                proceeds = self._upload_proceeds(answer)
            except BodyError as error:
                self._finish(error, now)
                return
            self._taken(sent, now)
        elif self._source.size and answer.code >> 5 == 2:
            self._sent = self._source.size
            self._taken(0, now)
        if self._done is None:  # whoever is told of progress may have cancelled it
            return
        if not proceeds:
            if self._is_all(answer):
                done = self._close(now)
                if done is not None:
                    payload = answer.payload if answer.code != codes.VALID else b""  # RFC 7252 §5.5, §5.9.1.3
                    done(Response(answer.code, payload, options=answer.options))
            else:
                self._download.first_received(answer, now)
            return
        error_ = self._send(now)
        if error_ is not None:
            self._finish(error_, now)

    def _is_all(self, answer: Message) -> bool:
        """Whether that is the whole response, as most are: in one message, and nobody is told of progress."""
        assembled = self._assembled
        return (
            assembled is not None
            and not answer.options.mask & 1 << BLOCK2
            and len(answer.payload) <= assembled.limit
            and self._progress is None
            and not self._download.edge
        )

    def _upload_proceeds(self, message: Message) -> bool:
        """Take the answer to a block of the request body; True if there is more to send (§2.5)."""
        block = _block1(message.options)
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
                if self._operation is None:
                    self._take_tag()
                return True
        self._is_sending = False
        if message.code >> 5 == 2:
            self._sent = self._source.size
        return False

    def _taken(self, before: int, now: float) -> None:
        """Tell of progress if there is any."""
        if self._sent > before:
            try:
                self._tell()
            except Exception as error:  # noqa: BLE001  the boundary to a user's callback: whoever waits has to be told
                self._finish(user_failed(error), now)

    # Its end

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self)

    def _finish(self, outcome: Union[Response, CoapError], now: float) -> None:
        done = self._close(now)
        if done is None:
            return
        if isinstance(outcome, Response) and outcome.is_success and self._assembled is not None:
            outcome = Response(outcome.code, self._assembled.take(), options=outcome.options)
        done(outcome)


def _number(item: tuple[int, bytes]) -> int:
    return item[0]


def _longest_body(szx: int) -> int:
    return (MAX_BLOCK_NUMBER + 1) << (szx + 4)


def _block1(options: Options) -> Optional[Block]:
    value = options.uint(BLOCK1)
    if value is None:
        return None
    block = decode_block(value)
    if block is None:
        raise BodyError("block size exponent 7 is reserved")
    return block
