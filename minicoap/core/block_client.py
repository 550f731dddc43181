"""Block-wise transfer, the client's side (RFC 7959): one request of any size in either direction.

A `Transfer` sends its body by Block1 if it is longer than a block (`minicoap.core.block_upload`), then takes the
response, by Block2 if it is (`minicoap.core.block_download`). It holds one block of memory for each that is under way:
the body is read from a `Source` and written to a `ClientSink`, or assembled up to a limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, NamedTuple, Optional, Union

from minicoap.codec import codes
from minicoap.codec.message import Message, Options
from minicoap.codec.options import BLOCK2, IF_NONE_MATCH, REQUEST_TAG, SIZE2
from minicoap.core.block_download import Download, user_failed
from minicoap.core.body import MAX_SZX, Block, ClientSink, Source, as_source, block1_of, longest_body
from minicoap.core.congestion import CongestionWindow
from minicoap.core.exchange import TOKEN_LENGTH, Answer, Exchange, Exchanges
from minicoap.core.flight import Flight
from minicoap.core.parameters import TransmissionParameters
from minicoap.core.request import IDEMPOTENT, SAFE, Path, Response
from minicoap.core.request_tag import Operation
from minicoap.errors import BodyError, CoapError, NetworkError, StorageError, UsageError

if TYPE_CHECKING:
    from minicoap.core.block_upload import Upload

Done = Callable[[Union[Response, CoapError]], None]


class BodyOptions(NamedTuple):
    """How the bodies of a request are to travel.

    `sink` takes the response's body, from `offset` bytes on, a multiple of the block size; `etag` is what that body has
    to be named by, if some of it is there already; with `restart` it is fetched anew if it is another one now. `szx` is
    the block size to begin with, 16 << szx bytes; None leaves it to the server as far as possible. `window` is how many
    blocks of a GET's response may be asked for at once, or of a request's body be under way to a server that takes them
    in any order; `any_order` says that it does. `sent` bytes of that body, a multiple of the block size, the server may
    have already. `tag` is its Request-Tag (RFC 9175 §3); `tagged` uploads carry one even if no other one is under way,
    and so do those with a window. `progress` is told whenever more of either body has arrived, and when an upload
    begins anew.
    """

    sink: Optional[ClientSink] = None
    offset: int = 0
    etag: Optional[bytes] = None
    restart: bool = False
    szx: Optional[int] = None
    window: int = 1
    tagged: bool = False
    sent: int = 0
    tag: Optional[bytes] = None
    any_order: bool = False
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
        self._source = as_source(payload)
        size = self._source.size
        if body.window > 1 and not (confirmable and (code == codes.GET or size)):
            raise UsageError("a window is for confirmable messages: for the response to a GET, or a body that is sent")
        if size > longest_body(szx):
            raise UsageError(f"a body of {size} bytes is longer than block numbers can count; raise szx")
        if body.sent and (body.sent % (16 << szx) or not 0 < body.sent < size):
            raise UsageError(f"sent {body.sent} has to be a multiple of the block size, below the body's size {size}")
        self._exchanges = exchanges
        self._path = path
        self._code = code
        self._done: Optional[Done] = done
        self._confirmable = confirmable
        self._timeout = timeout
        self._parameters = parameters
        self._token_length = token_length
        self._progress = body.progress
        self._szx1 = szx
        self._sent = 0  # bytes of the request body that the server has taken, if it is not sent in blocks
        self._is_sending = size > 16 << szx
        self._upload: Optional[Upload] = None
        self._goes_on_at = body.sent
        self._any_order = body.any_order
        self._exchange: Optional[Exchange] = None
        self._tags = exchanges.request_tags
        self._operation: Optional[Operation] = None
        self._tag = body.tag
        self._tagged = body.tagged
        self._options = options
        self._first_options: list[tuple[int, bytes]] = []  # of the request that the response's first block answers
        is_ahead = body.window > 1 and not size
        if body.offset or body.szx is not None or is_ahead:
            self._first_options.append((BLOCK2, Block(body.offset >> (szx + 4), False, szx).encode()))
        if is_ahead:
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
            flight=self._flight if is_ahead else None,  # §2.7: what answers a body in blocks comes in order
        )

    def _take_tag(self) -> None:
        options = [item for item in sorted(self._options, key=_number) if item[0] != IF_NONE_MATCH]
        operation = (self._path, self._code, tuple(options))
        if self._tag is None and self._is_sending and self._flight is not None:
            # Blocks that come before their turn have to be told from those of the body before (§3.1).
            self._tag = self._exchanges.new_tag()
        if self._tag is None:
            self._tag = self._tags.take(operation, always=self._tagged)
        else:
            self._tags.reserve(operation, self._tag)
        self._operation = operation
        if self._tag is not None:
            self._options.append((REQUEST_TAG, self._tag))

    @property
    def is_done(self) -> bool:
        """Whether the outcome has been told, or the request was cancelled."""
        return self._done is None

    @property
    def sent(self) -> int:
        """Bytes of the request's body that the server has taken; less than before where the upload begins anew."""
        return self._sent if self._upload is None else self._upload.edge

    @property
    def sent_size(self) -> int:
        """Length of the request's body."""
        return self._source.size

    @property
    def sent_szx(self) -> int:
        """The size exponent of the blocks by which the request's body goes."""
        return self._szx1 if self._upload is None else self._upload.szx

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
        """How many blocks may be under way at the moment."""
        return 1 if self._flight is None else self._flight.window.size

    def start(self, now: float) -> None:
        """Send the first message; raises NetworkError if the endpoint has no room for it."""
        if self._is_sending or self._code in SAFE:
            # Of two responses to one question a server keeps but one, for whoever asks for further blocks.
            self._take_tag()
        error = self._begin_upload(now) if self._is_sending else self._send(now)
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
        if self._upload is not None:
            self._upload.close(now)
        self._download.close(now)
        return done

    # Sending

    def _exchange_for(
        self, options: Options, payload: bytes, on_answer: Callable[[Answer, float], None], now: float
    ) -> Union[Exchange, NetworkError]:
        return self._exchanges.request(
            self._path,
            self._code,
            options,
            payload,
            confirmable=self._confirmable,
            timeout=self._timeout,
            on_answer=on_answer,
            now=now,
            flight=self._flight,
            parameters=self._parameters,
            token_length=self._token_length,
        )

    def _ask(
        self, options: Options, on_answer: Callable[[Answer, float], None], now: float
    ) -> Union[Exchange, NetworkError]:
        """Send a request for a block of the response; it has no payload (§3.3)."""
        return self._exchange_for(options, b"", on_answer, now)

    def _begin_upload(self, now: float) -> Union[StorageError, NetworkError, None]:
        """Send the body in blocks."""
        from minicoap.core.block_upload import Upload

        self._upload = Upload(
            self._exchange_for,
            self._options,
            self._source,
            self._responded,
            self._finish,
            last_options=self._first_options,
            progress=self._tell,
            may_repeat=self._code in IDEMPOTENT,
            any_order=self._any_order,
            offset=self._goes_on_at,
            szx=self._szx1,
            flight=self._flight,
        )
        return self._upload.start(now)

    def _send(self, now: float) -> Union[StorageError, NetworkError, None]:
        """Send the request in one message."""
        try:
            payload = self._source.read_at(0, self._source.size)
        except OSError as error:
            return StorageError("the source of the body failed", error)
        options = Options([*self._options, *self._first_options])
        exchange = self._exchange_for(options, payload, self._answered, now)
        if isinstance(exchange, NetworkError):
            return exchange
        self._exchange = exchange
        return None

    def _answered(self, answer: Answer, now: float) -> None:
        """Take what answers a request in one message."""
        self._exchange = None
        if isinstance(answer, CoapError):
            self._finish(answer, now)
            return
        if answer.code == codes.REQUEST_ENTITY_TOO_LARGE:
            try:
                is_for_blocks = self._is_for_blocks(answer)
            except BodyError as error:
                self._finish(error, now)
                return
            if is_for_blocks:
                if self._operation is None:
                    self._take_tag()
                error_ = self._begin_upload(now)
                if error_ is not None:
                    self._finish(error_, now)
                return
        elif self._source.size and answer.code >> 5 == 2:
            self._sent = self._source.size
            try:
                self._tell()
            except Exception as error:  # noqa: BLE001  the boundary to a user's callback: whoever waits has to be told
                self._finish(user_failed(error), now)
        self._responded(answer, now)

    def _is_for_blocks(self, answer: Message) -> bool:
        """Whether the body is too large for one message, and not for the server (§2.9.3)."""
        block = block1_of(answer.options)
        if block is None or block.szx >= self._szx1 or self._source.size <= 16 << block.szx:
            return False
        self._szx1 = block.szx
        return True

    def _responded(self, answer: Message, now: float) -> None:
        """Take the response, or the first block of it."""
        if self._done is None:  # whoever is told of progress may have cancelled it
            return
        if not self._is_all(answer):
            self._download.first_received(answer, now)
            return
        done = self._close(now)
        if done is not None:
            payload = answer.payload if answer.code != codes.VALID else b""  # RFC 7252 §5.5, §5.9.1.3
            done(Response(answer.code, payload, options=answer.options))

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
