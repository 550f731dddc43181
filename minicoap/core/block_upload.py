"""The body of a request, block after block by Block1 (RFC 7959 §2.5), one at a time or several at once.

An `Upload` knows how far the server has taken the body without a gap, its edge, and which blocks are under way. With a
window of one it sends the block at the edge when the one before it was taken.

With a larger window as many are under way as the congestion window allows (`minicoap.core.congestion`), if the server
is known to take blocks in any order. RFC 7959 has no way to ask: a server that is sent a block before its turn may keep
it, act on it by itself (§2.3) or answer 4.08 (§2.5), and there are some that do neither: libcoap 4.3.1 acknowledges it
and puts it in the wrong place, aiocoap 0.4 answers 5.00. So either the caller knows (`any_order`), or the server shows
that it acts on each block by itself, by a final answer to one of them. Then blocks are sent in order, the first one
alone, since its answer may ask for smaller ones; the last one when all others have been taken, since with it the server
acts on the body or fails; and a server that answers 4.08 to one that came early after all, having no room for it
perhaps, is sent one at a time from then on.

A 4.08 to a block whose turn it was means that the server has let go of the body, or never had its beginning: an upload
that goes on where an earlier one stood has to expect that, and whatever else a server makes of such a block. The upload
begins anew then, with the same Request-Tag: it is the same operation on the same body, and whatever is still under way
of the first attempt is what the second one sends too (RFC 9175 §3.3, §3.4). If blocks had been sent early, it goes on
in order. If it is the last block that is answered so, the server may have lost its memory after it acted; then that is
done for methods only that may be repeated.
"""

from __future__ import annotations

from typing import Callable, Optional, Union

from minicoap.codec import codes
from minicoap.codec.message import Message, Options
from minicoap.codec.options import BLOCK1, IF_NONE_MATCH, SIZE1, encode_uint
from minicoap.core.block_download import user_failed
from minicoap.core.body import EARLY_BLOCKS, Block, BlockOptions, Source, block1_of, longest_body
from minicoap.core.exchange import Answer, Exchange
from minicoap.core.flight import Flight
from minicoap.errors import BodyError, CoapError, NetworkError, StorageError

BEGINNINGS = 4  # of one upload; a server that lets go of it more often gets no more of it

Ask = Callable[[Options, bytes, Callable[[Answer, float], None], float], Union[Exchange, NetworkError]]


class Sent:
    """A block that is under way."""

    __slots__ = ("end", "exchange", "is_early", "offset", "upload")

    def __init__(self, upload: Upload, offset: int, end: int) -> None:
        self.upload = upload
        self.offset = offset
        self.end = end
        self.is_early = offset > upload.edge  # when it was sent
        self.exchange: Optional[Exchange] = None

    def answered(self, answer: Answer, now: float) -> None:
        """The answer to it, or the error."""
        self.exchange = None  # which has its payload, and refers to this
        self.upload.answered(self, answer, now)

    def cancel(self, now: float) -> None:
        """Its answer is not wanted any more."""
        if self.exchange is not None:
            self.exchange.close(now)
            self.exchange = None


class Upload:
    """One request's body, from `offset` on.

    `ask(options, payload, on_answer, now)` sends a block; `options` are the request's, `last_options` those that only
    the last block has. `answered` is told the response to the request, `failed` the error that ended it, `progress`
    that the edge has moved. `may_repeat` says whether the request may be carried out twice, `any_order` that the server
    takes blocks in any order.
    """

    def __init__(
        self,
        ask: Ask,
        options: list[tuple[int, bytes]],
        source: Source,
        answered: Callable[[Message, float], None],
        failed: Callable[[CoapError, float], None],
        *,
        last_options: list[tuple[int, bytes]],
        progress: Callable[[], None],
        may_repeat: bool,
        any_order: bool,
        offset: int,
        szx: int,
        flight: Optional[Flight],
    ) -> None:
        self.edge = 0  # what the server has without a gap
        self._ask = ask
        self._source = source
        self._size = source.size
        self._answered = answered
        self._failed = failed
        self._progress = progress
        self._last_options = last_options
        self._may_repeat = may_repeat
        self.szx = szx
        self._flight = flight
        self._first = options
        # §2.10: only the first block has If-None-Match; so what goes on elsewhere begins with that one, too.
        self._others = [item for item in options if item[0] != IF_NONE_MATCH]
        self._goes_on_at = offset if len(self._others) < len(options) else 0
        if not self._goes_on_at:
            self.edge = offset
        self._middle = BlockOptions(self._others, BLOCK1)
        self._beginnings = 1
        self._is_begun = False  # the server has taken a block
        self._in_order = not any_order
        self._wants_order = False  # it has shown that it does
        self._is_done = False
        self._next = self.edge  # to be sent
        self._sent: dict[int, Sent] = {}
        self._early: dict[int, int] = {}  # what was taken before its turn, and where that ends
        self._refused: list[tuple[int, int]] = []  # what was not taken before its turn

    def start(self, now: float) -> Union[NetworkError, StorageError, None]:
        """Send the first block; returns the error if that cannot be."""
        return self._send(now)

    def close(self, now: float) -> None:
        """Stop; nobody is told."""
        self._is_done = True
        self._cancel(now)

    def answered(self, sent: Sent, answer: Answer, now: float) -> None:
        """Take the answer to a block."""
        del self._sent[sent.offset]
        if isinstance(answer, CoapError):
            self._fail(answer, now)
            return
        try:
            self._take(sent, answer, now)
        except BodyError as error:
            self._fail(error, now)

    # Taking answers

    def _take(self, sent: Sent, answer: Message, now: float) -> None:
        code = answer.code
        is_last = sent.end >= self._size
        if code >> 5 == 2:
            if is_last:
                if code == codes.CONTINUE:
                    raise BodyError("the server asks for more than the whole body")
                self.edge = self._size
                self._tell(now)
                self._finish(answer, now)
                return
            self._taken(sent, answer, now)
        elif code == codes.REQUEST_ENTITY_INCOMPLETE and sent.is_early:
            self._in_order = self._wants_order = True
            self._refused.append((sent.offset, sent.end))
            self._refused.sort()
        elif code == codes.REQUEST_ENTITY_TOO_LARGE and not self._is_begun and self._wants_smaller(answer):
            self._next = sent.offset
        elif self._has_let_go(code) and self._may_begin_anew(sent, is_last):
            self._begin_anew(now)
        else:
            self._finish(answer, now)
            return
        if not self._is_done:
            self._fill(now)

    def _taken(self, sent: Sent, answer: Message, now: float) -> None:
        """A block that is not the last has been taken."""
        block = block1_of(answer.options)
        if block is None:
            # §2.3: 2.31, or from a server that acts on each block by itself the response to that block
            raise BodyError("the server answered before it had the whole body")
        if block.szx < self.szx:  # §2.5: the server may ask for smaller blocks from here on
            self.szx = block.szx
            if self._size > longest_body(block.szx):
                raise BodyError("the body is longer than block numbers of the size that the server wants can count")
        self._is_begun = True
        if not block.more and answer.code != codes.CONTINUE and not self._wants_order:
            self._in_order = False  # §2.3: it acts on each block by itself
        if sent.offset != self.edge:
            self._early[sent.offset] = sent.end
            return
        self.edge = sent.end
        while self.edge in self._early:
            self.edge = self._early.pop(self.edge)
        if self._goes_on_at:
            self.edge = self._next = max(self.edge, self._goes_on_at)
            self._goes_on_at = 0
        self._tell(now)

    def _wants_smaller(self, answer: Message) -> bool:
        """Whether the block, and not the body, is too large (§2.9.3)."""
        block = block1_of(answer.options)
        if block is None or block.szx >= self.szx or self._size > longest_body(block.szx):
            return False
        self.szx = block.szx
        return True

    def _has_let_go(self, code: int) -> bool:
        """Whether the answer to a block whose turn it was means that the server does not have those before it."""
        if code == codes.REQUEST_ENTITY_INCOMPLETE:
            return True
        # Servers need not know what to make of a body that begins in its middle.
        return not self._is_begun and code not in (codes.TOO_MANY_REQUESTS, codes.SERVICE_UNAVAILABLE)

    def _may_begin_anew(self, sent: Sent, is_last: bool) -> bool:
        return sent.offset > 0 and self._beginnings < BEGINNINGS and (self._may_repeat or not is_last)

    def _begin_anew(self, now: float) -> None:
        if self._early or self._refused or any(sent.is_early for sent in self._sent.values()):
            self._in_order = self._wants_order = True
        self._cancel(now)
        self._early.clear()
        self._refused.clear()
        self._beginnings += 1
        self._is_begun = False
        self.edge = self._next = 0
        self._tell(now)

    # Sending

    def _fill(self, now: float) -> None:
        """Send as many blocks as may be under way."""
        while not self._is_done and self._may_send():
            error = self._send(now)
            if error is not None:
                if not self._sent or isinstance(error, StorageError):
                    self._fail(error, now)
                return

    def _may_send(self) -> bool:
        sent = self._sent
        if not sent:
            return True
        flight = self._flight
        if self._in_order or not self._is_begun or flight is None or len(sent) >= flight.window.size:
            return False
        step = 16 << self.szx
        return self._next + step < self._size and self._next <= self.edge + (EARLY_BLOCKS - 1) * step

    def _send(self, now: float) -> Union[NetworkError, StorageError, None]:
        """Send the block that is due."""
        offset, end = self._refused[0] if self._refused else (self._next, self._size)
        szx = self.szx
        end = min(end, offset + (16 << szx))
        try:
            payload = self._source.read_at(offset, end - offset)
        except OSError as error:
            return StorageError("the source of the body failed", error)
        number = offset >> (szx + 4)
        is_last = end >= self._size
        if self._is_begun and not is_last:
            options = self._middle.at(number, True, szx)
        else:
            items = [*(self._others if offset else self._first), (BLOCK1, Block(number, not is_last, szx).encode())]
            if not self._is_begun:
                items.append((SIZE1, encode_uint(self._size)))
            options = Options([*items, *self._last_options] if is_last else items)
        sent = Sent(self, offset, end)
        exchange = self._ask(options, payload, sent.answered, now)
        if isinstance(exchange, NetworkError):
            return exchange
        sent.exchange = exchange
        self._sent[offset] = sent
        if self._refused:
            _, refused_end = self._refused.pop(0)
            if end < refused_end:
                self._refused.insert(0, (end, refused_end))
        else:
            self._next = end
        return None

    # Its end

    def _tell(self, now: float) -> None:
        try:
            self._progress()
        except OSError as error:
            self._fail(StorageError("what is told of the progress failed", error), now)
        except Exception as error:  # noqa: BLE001  the boundary to a user's callback: whoever waits has to be told
            self._fail(user_failed(error), now)

    def _cancel(self, now: float) -> None:
        sent, self._sent = self._sent, {}
        for one in sent.values():
            one.cancel(now)

    def _finish(self, answer: Message, now: float) -> None:
        if not self._is_done:
            self.close(now)
            self._answered(answer, now)

    def _fail(self, error: CoapError, now: float) -> None:
        if not self._is_done:
            self.close(now)
            self._failed(error, now)
