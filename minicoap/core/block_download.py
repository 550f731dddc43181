"""The body of a response, block after block by Block2 (RFC 7959 §2.4), one at a time or several at once.

A `Download` knows how far the body has come without a gap, its edge, and which blocks have been asked for. With a
window of one it asks for the block at the edge when the one before it is there. With a larger window several requests
are under way, as many as the congestion window allows (`minicoap.core.congestion`); blocks that come before their turn
are written at their place if the sink takes them in any order, and otherwise wait in memory for those before them.

Nobody need say how long the body is. A server that does (Size2) is asked for nothing beyond it. An error that answers
the request for a block counts once everything before that block is there and no end came: it was meant for a block that
does not exist, else.
"""

from __future__ import annotations

from typing import Callable, Optional, Union

from minicoap.codec import codes
from minicoap.codec.message import Message, Options
from minicoap.codec.options import BLOCK2, ETAG, SIZE2
from minicoap.core.body import MAX_BLOCK_NUMBER, MAX_SZX, BlockOptions, ClientSink
from minicoap.core.exchange import Answer, Exchange
from minicoap.core.flight import Flight
from minicoap.core.request import Response
from minicoap.errors import BodyError, CoapError, NetworkError, StorageError, UsageError

AHEAD = 4  # windows: how far beyond a missing block others are asked for, and how much may wait for it in memory

Ask = Callable[[Options, Callable[[Answer, float], None], float], Union[Exchange, NetworkError]]


class Asked:
    """A block that has been asked for."""

    __slots__ = ("download", "exchange", "offset")

    def __init__(self, download: Download, offset: int) -> None:
        self.download = download
        self.offset = offset
        self.exchange: Optional[Exchange] = None

    def answered(self, answer: Answer, now: float) -> None:
        """The answer to the request for it, or the error."""
        self.download.answered(self, answer, now)

    def cancel(self, now: float) -> None:
        """It is not wanted any more."""
        if self.exchange is not None:
            self.exchange.close(now)


class Download:
    """One response's body into `sink`, from `offset` on.

    `ask(options, on_answer, now)` sends a request for a block, `done` is told the outcome, `progress` that the edge has
    moved. `etag` is what the body has to be named by, if a part of it is there already; if it is another one now, or
    the body is shorter, that is an error, or with `restart` the reason to begin anew.
    """

    def __init__(
        self,
        ask: Ask,
        options: list[tuple[int, bytes]],
        sink: ClientSink,
        done: Callable[[Union[Response, CoapError], float], None],
        *,
        progress: Optional[Callable[[], None]],
        offset: int,
        szx: Optional[int],
        etag: Optional[bytes],
        restart: bool,
        flight: Optional[Flight],
    ) -> None:
        self.edge = offset  # where the body has its first gap
        self.taken = 0  # bytes of all blocks that came, those that were dropped or fetched again too
        self.size: Optional[int] = None  # what the server said, or what it was
        self.etag = etag
        self.szx = MAX_SZX if szx is None else szx
        self._sink = sink
        self._done = done
        self._progress = progress
        self._ask = ask
        self._items = options
        self._options: Optional[BlockOptions] = None
        self._flight = flight
        self._any_order: bool = getattr(sink, "any_order", False)
        self._restart = restart
        self._is_resumed = offset > 0
        self._has_begun = False
        self._is_done = False
        self._next = offset  # to be asked for
        self._asked: dict[int, Asked] = {}
        self._early: dict[int, Union[bytes, int]] = {}  # what came before its turn, or how long it was
        self._end: Optional[int] = None  # where the body ends, once its last block is there
        self._refused: Optional[tuple[int, Response]] = None  # the first block not to be had, and what was said of it

    def close(self, now: float) -> None:
        """Stop; nobody is told."""
        self._is_done = True
        self._cancel(now)

    def first_received(self, message: Message, now: float) -> None:
        """Take the response to the request itself: the whole body, or the block at the offset."""
        self._next = self.edge + (16 << self.szx)
        self._guarded(self.edge, message, now)

    def answered(self, asked: Asked, answer: Answer, now: float) -> None:
        """Take the answer to the request for a block."""
        del self._asked[asked.offset]
        if isinstance(answer, CoapError):
            self._finish(answer, now)
        else:
            self._guarded(asked.offset, answer, now)

    def _guarded(self, offset: int, message: Message, now: float) -> None:
        try:
            self._received(offset, message, now)
        except BodyError as error:
            self._finish(error, now)
        except OSError as error:
            self._finish(StorageError("the sink of the body failed", error), now)
        except Exception as error:  # noqa: BLE001  the boundary to a user's sink: whoever waits has to be told
            self._finish(user_failed(error), now)

    # Taking blocks

    def _received(self, offset: int, message: Message, now: float) -> None:
        options = message.options
        value = options.uint(BLOCK2)
        if message.code >> 5 != 2:
            self._not_to_be_had(offset, Response(message.code, message.payload, options=options), now)
            return
        if message.code == codes.VALID and not self._has_begun:
            # Who asked has the body already, by an ETag of their own: the sink is left alone (RFC 7252 §5.9.1.3).
            self._finish(Response(codes.VALID, options=options), now)
            return
        if value is None:
            self._whole_received(Response(message.code, message.payload, options=options), now)
            return
        szx = value & 7
        more = value & 8
        size = 16 << szx
        at = value >> 4 << (szx + 4)
        payload = message.payload
        length = len(payload)
        self.taken += length
        if szx > MAX_SZX:
            raise BodyError("block size exponent 7 is reserved")
        if at != offset:
            raise BodyError(f"asked for the block at {offset}, got the one at {at}")
        if length > size or (more and length != size):
            raise BodyError(f"a block of {size} bytes came with {length}")
        if not self._has_begun:
            if not self._begins(message, now):
                return
        elif options.get(ETAG) != self.etag:
            raise BodyError("the body has changed while it was fetched (its ETag is another)")  # §2.4
        if self._is_done:  # by the sink
            return
        if szx != self.szx and not self._follows(szx, offset, now):
            return
        end = offset + length
        if not more:
            self._ends(end, now)
        elif self._end is not None and end >= self._end:
            raise BodyError("there are blocks beyond the last one")
        if offset == self.edge:
            self._sink.write_at(offset, payload)
            self.edge = end
            if self._early:
                self._catch_up()
            if self._progress is not None:
                self._progress()
        elif self._any_order:
            self._sink.write_at(offset, payload)
            self._early[offset] = length
        else:
            self._early[offset] = payload
        self._go_on(message, now)

    def _go_on(self, message: Message, now: float) -> None:
        if self._is_done:  # by the sink, or by whoever is told of progress
            return
        if self.edge == self._end:
            self.size = self._end
            self._finish(Response(message.code, options=message.options), now)
        elif self._refused is not None and self._refused[0] <= self.edge:
            self._finish(self._refused[1], now)
        else:
            self._fill(now)

    def _begins(self, message: Message, now: float) -> bool:
        """Take the first block's options; False if the body is to be fetched anew instead."""
        etag = message.options.get(ETAG)
        if self._is_resumed and self.etag is not None and etag != self.etag:
            if not self._restart:
                raise BodyError("the body is another than the one that this download began with (its ETag changed)")
            self._begin_anew(now)
            return False
        self._has_begun = True
        self.etag = etag
        self.size = message.options.uint(SIZE2)
        self._sink.begin(Response(message.code, message.payload, options=message.options), self.size)
        return True

    def _begin_anew(self, now: float) -> None:
        self._is_resumed = False
        self.edge = self._next = 0
        self._fill(now)

    def _follows(self, szx: int, offset: int, now: float) -> bool:
        """The server's blocks are smaller than was asked for: ask for such from here on (§2.4). False to drop this."""
        if szx > self.szx:
            raise BodyError(f"the server sends blocks of {16 << szx} bytes where {16 << self.szx} were asked for")
        self.szx = szx
        # What else is under way would be answered by parts of what was asked for.
        self._cancel(now)
        self._early.clear()
        self._next = self.edge
        if offset == self.edge:
            self._next += 16 << szx
            return True
        self._fill(now)
        return False

    def _ends(self, end: int, now: float) -> None:
        if self._end not in (None, end) or any(offset >= end for offset in self._early):
            raise BodyError("there are blocks beyond the last one")
        self._end = end
        for offset in [offset for offset in self._asked if offset >= end]:
            self._asked.pop(offset).cancel(now)

    def _catch_up(self) -> None:
        """Take what came early, as far as there is no gap any more."""
        early = self._early
        while self.edge in early and not self._is_done:
            data = early.pop(self.edge)
            if isinstance(data, int):
                self.edge += data
            else:
                self._sink.write_at(self.edge, data)
                self.edge += len(data)

    def _not_to_be_had(self, offset: int, response: Response, now: float) -> None:
        """An error response: the outcome, unless it turns out that there is no such block."""
        if not self._has_begun and self._is_resumed and self._restart and response.code >> 5 == 4:
            self._begin_anew(now)  # the body may be shorter than it was
            return
        if offset == self.edge:
            self._finish(response, now)
            return
        if self._end is None and (self._refused is None or offset < self._refused[0]):
            self._refused = (offset, response)
        self._fill(now)

    def _whole_received(self, response: Response, now: float) -> None:
        if self._has_begun:
            raise BodyError("a block was asked for and something else came")
        if self._is_resumed:
            if not self._restart:
                raise BodyError("the server does not serve blocks, so this download cannot be resumed")
            self.edge = 0
        self._has_begun = True
        self.etag = response.etag
        self.size = len(response.body)
        self.taken += self.size
        self._sink.begin(response, self.size)
        if self._is_done:
            return
        self._sink.write_at(0, response.body)
        self.edge = self.size
        if self._progress is not None and self.size:
            self._progress()
        if not self._is_done:
            self._finish(Response(response.code, options=response.options), now)

    # Asking for blocks

    def _fill(self, now: float) -> None:
        """Ask for as many blocks as may be under way."""
        asked = self._asked
        flight = self._flight
        step = 16 << self.szx
        while not self._is_done:
            offset = self._next
            if flight is None:
                if asked:
                    return
            elif len(asked) >= flight.window.size or offset > self.edge + AHEAD * flight.window.limit * step:
                return
            if offset > self.edge and not self._may_exist(offset):
                return
            number = offset >> (self.szx + 4)
            if number > MAX_BLOCK_NUMBER:
                if offset == self.edge:
                    error = BodyError("the body is longer than block numbers can count; ask for larger blocks")
                    self._finish(error, now)
                return
            if self._options is None:
                self._options = BlockOptions(self._items, BLOCK2)
            one = Asked(self, offset)
            exchange = self._ask(self._options.at(number, False, self.szx), one.answered, now)
            if isinstance(exchange, NetworkError):
                if not asked:
                    self._finish(exchange, now)
                return
            one.exchange = exchange
            asked[offset] = one
            self._next = offset + step

    def _may_exist(self, offset: int) -> bool:
        """Whether a block that is not the next may be asked for ahead of its turn."""
        if self._end is not None:
            return offset < self._end
        if self._refused is not None and offset >= self._refused[0]:
            return False
        return self.size is None or offset < self.size

    def _cancel(self, now: float) -> None:
        asked, self._asked = self._asked, {}
        for one in asked.values():
            one.cancel(now)

    def _finish(self, outcome: Union[Response, CoapError], now: float) -> None:
        if not self._is_done:
            self._is_done = True
            self._cancel(now)
            self._done(outcome, now)


def user_failed(error: Exception) -> UsageError:
    """Return what is told to whoever passed a sink or callback that failed."""
    told = UsageError(f"what was passed to take the body, or to be told of it, failed: {error!r}")
    told.__cause__ = error
    return told
