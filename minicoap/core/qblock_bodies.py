"""The bodies that a server has under way by Q-Block (RFC 9177): what is kept of each, and whom its events go to."""

from __future__ import annotations

from typing import Callable, Optional, Protocol, Union

from minicoap.codec.message import CON, Message
from minicoap.codec.options import ETAG, Q_BLOCK2, SIZE2, encode_uint
from minicoap.core.block_bodies import named
from minicoap.core.body import BlockOptions, Sink, Source
from minicoap.core.echo import Echo
from minicoap.core.qblock import Bursts, Incoming, Stream
from minicoap.core.request import Path, Request, Response
from minicoap.core.resource import Resource
from minicoap.core.timers import Timer
from minicoap.errors import CoapError, ResetError

Key = tuple[Path, int, tuple[tuple[int, bytes], ...]]
Told = Callable[[Optional[CoapError], float], None]


class BodyKeeper(Protocol):
    """Whoever has the bodies, and acts for them."""

    def upload_timed_out(self, upload: Upload, now: float) -> None:
        """Nothing has come for a while."""

    def drop_upload(self, upload: Upload, reason: str) -> None:
        """Give a body up."""

    def send_block(self, kept: Kept, number: int, token: bytes, now: float, told: Optional[Told] = None) -> bool:
        """Send one block of a response in a message of its own; `told` learns how a confirmable one fared."""


class QuickRequest(Request):
    """A request with Q-Block, and what answers that follow the first one need: token and type."""

    __slots__ = ("confirmable", "message_id", "token")

    def __init__(self, message: Message, path: Path, now: float, echo: Optional[Echo]) -> None:
        super().__init__(message.code, path, message.options, message.payload, now, echo)
        self.token = message.token
        self.confirmable = message.type == CON
        self.message_id = message.message_id


class Upload:
    """A request body under way; `last` is the request that came last, whose token answers bear."""

    __slots__ = ("args", "due", "heard_at", "incoming", "key", "last", "repeats", "reserved", "resource", "server",
        "sink", "tag", "timer", "told", "touched",
    )  # fmt: skip

    def __init__(
        self, server: BodyKeeper, key: Key, sink: Sink, resource: Resource, request: QuickRequest, incoming: Incoming
    ) -> None:
        self.server = server
        self.key = key
        self.sink = sink
        self.resource = resource
        self.args = request.args
        self.incoming = incoming
        self.last = request
        self.touched = self.heard_at = request.now
        self.due = request.now
        self.repeats = 0  # how often missing blocks were asked for in vain
        self.told = 0  # bytes sent since it was heard of
        self.timer: Optional[Timer] = None
        self.reserved = 0

    def timed_out(self, now: float) -> None:
        """Nothing has come for a while."""
        self.server.upload_timed_out(self, now)

    def rejected(self, now: float) -> None:
        """The client knows nothing of this body any more (§4.3)."""
        self.server.drop_upload(self, "the client has given it up")


class Finished:
    """What was answered to a body that is complete, for blocks that come again; None while it is not answered yet."""

    __slots__ = ("held", "response", "touched")

    def __init__(self, now: float) -> None:
        self.response: Optional[Response] = None
        self.held = 0
        self.touched = now


class Kept:
    """A long response, and how far it has been sent."""

    __slots__ = (
        "confirmable",
        "etag",
        "held",
        "message_id",
        "options",
        "pace",
        "path",
        "response",
        "server",
        "size",
        "source",
        "szx",
        "token",
        "touched",
    )  # fmt: skip

    def __init__(
        self, server: BodyKeeper, request: QuickRequest, response: Response, source: Source, szx: int, tag: bytes
    ) -> None:
        self.server = server
        self.path = request.path
        self.token = request.token
        self.message_id = request.message_id
        self.confirmable = request.confirmable
        self.response = response
        self.source = source
        self.size = source.size
        self.etag = source.etag
        self.szx = szx
        items = list(named(response, source))
        if not any(number == ETAG for number, _ in items):
            items.append((ETAG, tag))  # §4.4: every block has one
        items.append((SIZE2, encode_uint(self.size)))  # §4.6: every block tells the size
        self.options = BlockOptions(items, Q_BLOCK2)
        self.held = self.size if isinstance(response.payload, bytes) else 0
        self.touched = request.now
        self.pace: Union[Bursts, Stream]

    @property
    def is_current(self) -> bool:
        """Whether the source still has the body that the first block was of."""
        return self.source.etag == self.etag and self.source.size == self.size

    def block(self, number: int) -> Response:
        """Return the block of that number, which there is."""
        offset = number << (self.szx + 4)
        length = 16 << self.szx
        payload = self.source.read_at(offset, length)
        return Response(
            self.response.code, payload, options=self.options.at(number, offset + length < self.size, self.szx)
        )

    def send(self, number: int, now: float) -> bool:
        """Send a block in its turn."""
        return self.server.send_block(self, number, self.token, now)

    def sent(self, error: Optional[CoapError], now: float) -> None:
        """A confirmable block was acknowledged, or was not."""
        if error is None and isinstance(self.pace, Stream):
            self.pace.acknowledged(now)
        elif error is not None:
            self.pace.stop()  # §4.4: the transfer is ended; the client may ask for what it misses

    def repeated(self, error: Optional[CoapError], now: float) -> None:
        """Whether a block that was asked for again came through is up to who asked."""
        if isinstance(error, ResetError):
            self.pace.stop()

    def rejected(self, now: float) -> None:
        """The client does not want it any more."""
        self.pace.stop()
