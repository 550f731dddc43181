"""Bodies longer than a message: where their bytes come from and go to, one block of memory each (RFC 7959)."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Optional, Protocol, Union

from minicoap.codec import codes
from minicoap.codec.message import Options, encode_options
from minicoap.codec.options import BLOCK1, SIZE1, encode_uint
from minicoap.core.request import Deferred, Response
from minicoap.errors import BodyError, UsageError

MAX_SZX = 6  # 1024 bytes, the largest block (RFC 7959 §2.2)
MAX_BLOCK_NUMBER = (1 << 20) - 1
_CHUNK = 64 * 1024  # bytes read at a time for a digest alone
EARLY_BLOCKS = 128  # of an upload: how many that came before their turn may wait for those before them


class Block(NamedTuple):
    """The value of a Block1 or Block2 option (RFC 7959 §2.2): number, whether more follow, size exponent."""

    number: int
    more: bool
    szx: int

    @property
    def size(self) -> int:
        """The block's length in bytes."""
        return 16 << self.szx

    @property
    def offset(self) -> int:
        """Where in the body the block begins, in bytes."""
        return self.number << (self.szx + 4)

    def encode(self) -> bytes:
        """Return the option's value."""
        return encode_uint(self.number << 4 | self.more << 3 | self.szx)


def decode_block(value: int) -> Optional[Block]:
    """Return the block that an option's value names; None for the reserved size exponent 7 (§2.2)."""
    szx = value & 7
    return Block(value >> 4, bool(value & 8), szx) if szx <= MAX_SZX else None


def block1_of(options: Options) -> Optional[Block]:
    """Return the block that a response's Block1 option names; raises BodyError for the reserved size exponent."""
    value = options.uint(BLOCK1)
    if value is None:
        return None
    block = decode_block(value)
    if block is None:
        raise BodyError("block size exponent 7 is reserved")
    return block


def longest_body(szx: int) -> int:
    """Return how many bytes blocks of that size can count."""
    return (MAX_BLOCK_NUMBER + 1) << (szx + 4)


class BlockOptions:
    """The options of messages that differ in one Block option, `number`; all else is encoded once."""

    __slots__ = ("_after", "_before", "_heads", "_mask", "_number", "_tail")

    def __init__(self, items: Iterable[tuple[int, bytes]], number: int) -> None:
        ordered = Options(items).items
        self._number = number
        self._before = tuple(item for item in ordered if item[0] <= number)
        self._after = tuple(item for item in ordered if item[0] > number)
        self._mask = Options((*ordered, (number, b""))).mask
        # What stands before the value, by the value's length; and what stands after it.
        whole = [encode_options((*self._before, (number, bytes(length)))) for length in range(4)]
        self._heads = [raw[: len(raw) - length] for length, raw in enumerate(whole)]
        self._tail = encode_options((*self._before, (number, b""), *self._after))[len(whole[0]) :]

    def at(self, number: int, more: bool, szx: int) -> Options:
        """Return the options with a block's number, whether more follow, and its size exponent."""
        value = encode_uint(number << 4 | more << 3 | szx)
        items = (*self._before, (self._number, value), *self._after)
        return Options.encoded(items, self._mask, self._heads[len(value)] + value + self._tail)


class Source(Protocol):
    """A body to be sent, read at any offset. `etag` names its content: other content, another etag."""

    @property
    def size(self) -> int:
        """Length of the body in bytes."""

    @property
    def etag(self) -> Optional[bytes]:
        """One to eight bytes; None where the receiver is not to be told."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, fewer only at the end; may raise OSError."""


class Sink(Protocol):
    """Takes the body of an upload block by block, in order.

    One with an attribute `offset` has so many bytes already, and gets what follows them (see `Resource.resume`).
    """

    def write_at(self, offset: int, data: bytes) -> Optional[Response]:
        """Take a block; a response returned refuses the rest of the body and is the answer to the request.

        That is for errors. A client that has not sent everything takes a success for 2.31 with an odd code and goes on,
        or for a broken server (RFC 7959 §2.3): what is to be said of a whole body, `finish` says.
        """

    def finish(self, answer: Deferred) -> None:
        """The body is complete; resolve `answer`, now or later."""

    def abort(self, reason: str) -> None:
        """The body will not be completed: let go of what was taken."""


class ClientSink(Protocol):
    """Takes the body of a response block by block.

    In order, unless it has an attribute `any_order` that is true: then what comes before its turn (see `window` of
    `EndpointCore.request`) is written at once where it belongs, and need not wait in memory.
    """

    def begin(self, response: Response, size: Optional[int]) -> None:
        """The first block has come; `response` carries its options, `size` the body's length if the server said it.

        Raise BodyError to stop, for example because the ETag is not the one that a resumed download began with.
        """

    def write_at(self, offset: int, data: bytes) -> None:
        """Take a block; may raise OSError, which ends the request."""


class TransferState(NamedTuple):
    """How far a download or upload has come: all that is needed to go on with it, in this process or in a later one.

    Of a download: `uri` is what is downloaded; `etag` names the very body, None where the server does not; `offset`
    bytes of it are stored without a gap; blocks have 16 << `szx` bytes; `size` is how long it is, where that is known.
    Of an upload: `uri` is where it goes; `etag` names the source's content; `offset` bytes of its `size` are with the
    server; `tag` is its Request-Tag (RFC 9175). `as_dict` and `from_dict` are for JSON and the like.
    """

    uri: str
    etag: Optional[bytes] = None
    offset: int = 0
    szx: int = MAX_SZX
    size: Optional[int] = None
    tag: Optional[bytes] = None

    @property
    def resume_at(self) -> int:
        """Where a download goes on: at the beginning of the last block that is stored, whole or in part.

        One block comes twice, since only a block that exists can tell whether the body is the same, and whether what is
        stored was all of it.
        """
        return max(self.offset - 1, 0) >> (self.szx + 4) << (self.szx + 4)

    def as_dict(self) -> dict[str, Union[str, int, None]]:
        """Return it as text and numbers."""
        etag, tag = (None if each is None else each.hex() for each in (self.etag, self.tag))
        return {"uri": self.uri, "etag": etag, "offset": self.offset, "szx": self.szx, "size": self.size, "tag": tag}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> TransferState:
        """Return what `as_dict` was made of; raises UsageError for anything else."""
        try:
            uri, etag, offset, szx = (fields[name] for name in cls._fields[:4])
            size, tag = fields.get("size"), fields.get("tag")
            etag, tag = (None if each is None else bytes.fromhex(each) for each in (etag, tag))
            state = cls(uri, etag, offset, szx, size, tag)
        except (AttributeError, TypeError, KeyError, ValueError) as error:
            raise UsageError(f"this is no state of a transfer: {error!r}") from error
        numbers = (offset, szx) if size is None else (offset, szx, size)
        if type(uri) is not str or any(type(each) is not int or each < 0 for each in numbers) or szx > MAX_SZX:
            raise UsageError("this is no state of a transfer: a field has a value that it cannot have")
        if tag is not None and len(tag) > 8:
            raise UsageError("this is no state of a transfer: a Request-Tag has at most 8 bytes")
        return state


class Digest(Protocol):
    """What `hashlib` makes: it is fed bytes in order."""

    def update(self, data: bytes, /) -> object:
        """Take more bytes."""


class HashingSink:
    """Hands a body on to `sink`, in order, and feeds it to `digest` on the way.

    For a download that is resumed the caller has fed the digest what is stored already, as far as
    `TransferState.resume_at`.
    """

    def __init__(self, sink: ClientSink, digest: Digest) -> None:
        self._sink = sink
        self._digest = digest

    def begin(self, response: Response, size: Optional[int]) -> None:
        """Hand it on."""
        self._sink.begin(response, size)

    def write_at(self, offset: int, data: bytes) -> None:
        """Hand it on, and digest it."""
        self._sink.write_at(offset, data)
        self._digest.update(data)


class HashingSource:
    """A body that is read from `source`, and fed to `digest` on the way: all of it once, in order, whatever is read.

    What an upload that goes on does not send is read for the digest alone.
    """

    def __init__(self, source: Source, digest: Digest) -> None:
        self._source = source
        self._digest = digest
        self._digested = 0

    @property
    def size(self) -> int:
        """Length of the body in bytes."""
        return self._source.size

    @property
    def etag(self) -> Optional[bytes]:
        """The source's."""
        return self._source.etag

    def read_at(self, offset: int, length: int) -> bytes:
        """Return a part of the body; raises what the source raises."""
        while self._digested < offset:
            self._take(self._source.read_at(self._digested, min(_CHUNK, offset - self._digested)))
        data = self._source.read_at(offset, length)
        if offset <= self._digested < offset + len(data):
            self._take(data[self._digested - offset :])
        return data

    def _take(self, data: bytes) -> None:
        if not data:
            raise OSError("the body is shorter than it was said to be")
        self._digest.update(data)
        self._digested += len(data)


class BytesSource:
    """A body that is in memory."""

    __slots__ = ("_data", "_etag")

    def __init__(self, data: bytes, etag: Optional[bytes] = None) -> None:
        self._data = data
        self._etag = etag

    @property
    def size(self) -> int:
        """Length of the body in bytes."""
        return len(self._data)

    @property
    def etag(self) -> Optional[bytes]:
        """The one given, or a checksum of the content."""
        if self._etag is None:
            self._etag = zlib.crc32(self._data).to_bytes(4, "big")
        return self._etag

    def read_at(self, offset: int, length: int) -> bytes:
        """Return a slice of the body."""
        return self._data[offset : offset + length]


class BytesSink:
    """Assembles an upload in memory, up to `limit` bytes."""

    __slots__ = ("_limit", "data")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.data = bytearray()

    def write_at(self, offset: int, data: bytes) -> Optional[Response]:
        """Append a block; answers 4.13 with Size1 once the body is longer than the limit (RFC 7959 §2.9.3)."""
        if len(self.data) + len(data) > self._limit:
            return too_large(self._limit)
        self.data += data
        return None

    def take(self) -> bytes:
        """Return the body, and keep it no more: it is there once while it is worked on."""
        body = bytes(self.data)
        self.data = bytearray()
        return body

    def finish(self, answer: Deferred) -> None:
        """Assembled bodies are handed to the resource's handler by the block layer itself."""

    def abort(self, reason: str) -> None:
        """Forget the bytes."""
        self.data = bytearray()


def too_large(limit: int) -> Response:
    """Return 4.13 that says how many bytes would be taken (RFC 7959 §2.9.3, §4)."""
    text = f"at most {limit} bytes are taken here"
    return Response.refusal(codes.REQUEST_ENTITY_TOO_LARGE, text, ((SIZE1, encode_uint(limit)),))


def as_source(payload: Union[bytes, Source]) -> Source:
    """Return `payload` as a source."""
    return BytesSource(payload) if isinstance(payload, bytes) else payload
