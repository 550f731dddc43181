"""Q-Block (RFC 9177): blocks that follow each other without waiting for an answer to each; what both sides share.

A body travels in sets of MAX_PAYLOADS blocks. Who sends it pauses for NON_TIMEOUT after each set, unless the other side
says 'Continue'; who receives it asks for what is missing, at once where a later set has begun, else after a while
(§7.2). Sinks take blocks in order: those behind a gap wait in memory, as far as two sets, since the set that follows a
gap is under way before the gap is known. What lies further ahead is let go and asked for again. So memory is bounded,
however long the body is.
"""

from __future__ import annotations

from typing import Callable, Optional, Protocol

from minicoap.codec.message import Options
from minicoap.codec.options import decode_uint
from minicoap.core.body import Block, decode_block
from minicoap.core.parameters import QuickBlocks
from minicoap.core.request import Response
from minicoap.core.timers import Timer, Timers

MISSING_BLOCKS = 272
"""Content-Format of a list of missing blocks (§12.3)."""

_AHEAD = 2  # sets: how far blocks behind a gap wait in memory
_FAR_AHEAD = 64  # sets: how far they are written to a sink that takes them in any order


def decode_blocks(options: Options, number: int) -> list[Block]:
    """Return the values of the Q-Block option `number`; raises ValueError for the reserved size exponent."""
    blocks = []
    for value in options.all(number):
        block = decode_block(decode_uint(value))
        if block is None:
            raise ValueError("block size exponent 7 is reserved")
        blocks.append(block)
    return blocks


def block_count(size: int, szx: int) -> int:
    """Return how many blocks a body of `size` bytes has: one at least."""
    return max(1, (size + (16 << szx) - 1) >> (szx + 4))


class Incoming:
    """Which blocks of a body have come; `write(offset, data)` gets them in order, or at once if it takes any order.

    `edge` is the number of the first block that is missing, `highest` of the last one that was seen. What `write`
    returns, a refusal, is kept in `refusal`.
    """

    __slots__ = (
        "_ahead",
        "_any_order",
        "_awaited",
        "_begun",
        "_early",
        "_is_behind",
        "_set",
        "_write",
        "count",
        "edge",
        "highest",
        "refusal",
        "size",
        "szx",
    )  # fmt: skip

    def __init__(
        self,
        size: int,
        szx: int,
        max_payloads: int,
        write: Callable[[int, bytes], Optional[Response]],
        *,
        first: int = 0,
        any_order: bool = False,
    ) -> None:
        self.size = size
        self.szx = szx
        self.count = block_count(size, szx)
        self.edge = first
        self.highest = first - 1
        self._begun = 0  # the set whose beginning showed what was missing before it
        self._awaited: set[int] = set()  # what was asked for again and has not come
        self._is_behind = False  # all that was asked for has come: time to ask for more
        self.refusal: Optional[Response] = None
        self._set = max_payloads
        self._ahead = (_FAR_AHEAD if any_order else _AHEAD) * max_payloads
        self._any_order = any_order
        self._write = write
        self._early: dict[int, bytes] = {}  # empty where the block has been written already

    @property
    def is_complete(self) -> bool:
        """Whether no block is missing."""
        return self.edge >= self.count

    @property
    def ends_set(self) -> bool:
        """Whether all blocks seen so far are there, and end a set: the time to say 'Continue' (§7.2)."""
        return self.edge % self._set == 0 and 0 < self.edge < self.count and self.highest < self.edge

    def misfit(self, block: Block, length: int) -> Optional[str]:
        """Return what is wrong with a block of `length` bytes, None if it belongs to this body."""
        if block.szx != self.szx:
            return "the blocks of a body are of one size"
        if block.number >= self.count:
            return f"the body has {self.size} bytes"
        is_last = block.number == self.count - 1
        if block.more is is_last:
            return "whether more blocks follow is told by the size of the body"
        if length != (self.size - block.offset if is_last else block.size):
            return "the block's length is not what its option says"
        return None

    def take(self, number: int, data: bytes) -> bool:
        """Take a block that fits; False if it was there before, or lies too far ahead to wait for its turn."""
        self.highest = max(self.highest, number)
        if number in self._awaited:
            self._awaited.remove(number)
            self._is_behind = not self._awaited
        if number < self.edge or number in self._early or number >= self.edge + self._ahead:
            return False
        if number != self.edge:
            if self._any_order:
                self.refusal = self._write(number << (self.szx + 4), data)
                data = b""
            self._early[number] = data
            return True
        self._hand_on(data)
        early = self._early
        while self.edge in early and self.refusal is None:
            data = early.pop(self.edge)
            if self._any_order:
                self.edge += 1
            else:
                self._hand_on(data)
        return True

    def _hand_on(self, data: bytes) -> None:
        offset = self.edge << (self.szx + 4)
        self.edge += 1
        self.refusal = self._write(offset, data)

    def missing(self) -> list[int]:
        """Return what to ask for once nothing more has come for a while: of one set's length at most (§5, §7.2)."""
        last = max(self.edge, self.highest)
        return self._asked(min(self.count, last - last % self._set + self._set))

    def overtaken(self) -> list[int]:
        """Return what to ask for at once, as a later set has begun without it (§7.2).

        Once for each set; and once more when all that was asked for has come, as long as this lags behind the sender,
        which has paused after each set as well.
        """
        begun = self.highest - self.highest % self._set
        if begun <= self._begun and not self._is_behind:
            return []
        self._begun = begun
        return self._asked(begun)

    def _asked(self, end: int) -> list[int]:
        numbers = self._missing(end)
        self._awaited = set(numbers)
        self._is_behind = False
        return numbers

    def _missing(self, end: int) -> list[int]:
        numbers = []
        for number in range(self.edge, min(end, self.edge + self._ahead)):
            if number not in self._early:
                numbers.append(number)
                if len(numbers) == self._set:
                    break
        return numbers


Emit = Callable[[int, float], bool]
"""Sends the block of that number; False if there is no room for it now, or the body has ended."""


class Pace(Protocol):
    """When which block of a body is sent."""

    next: int

    def start(self, now: float) -> None:
        """Send the first blocks."""

    def go_on(self, number: int, now: float) -> None:
        """All blocks before `number` are there (a 'Continue')."""

    def repeat(self, numbers: list[int], now: float) -> None:
        """These are missing."""

    def stop(self) -> None:
        """Send nothing more."""

    @property
    def has_sent_all(self) -> bool:
        """Whether nothing is left to be sent unless it is asked for again."""


class Bursts:
    """Non-confirmable: a set at once, then a pause of `pause` seconds, unless there is a 'Continue' (§7.2)."""

    __slots__ = ("_again", "_count", "_emit", "_pause", "_set", "_timer", "_timers", "next")

    def __init__(
        self, count: int, quick: QuickBlocks, pause: float, emit: Emit, timers: Timers, first: int = 0
    ) -> None:
        self.next = first
        self._count = count
        self._set = quick.max_payloads
        self._pause = pause
        self._emit = emit
        self._timers = timers
        self._timer: Optional[Timer] = None
        self._again: list[int] = []

    @property
    def has_sent_all(self) -> bool:
        """Whether nothing is left to be sent unless it is asked for again."""
        return self.next >= self._count and not self._again

    def start(self, now: float) -> None:
        """Send the first set, or what is left of it."""
        self._burst(True, now)

    def go_on(self, number: int, now: float) -> None:
        """Send the next set at once; a 'Continue' for one that was sent already changes nothing."""
        if number < self.next or number >= self._count:
            return
        self.next = number
        self._burst(True, now)

    def repeat(self, numbers: list[int], now: float) -> None:
        """Send what is missing, and pause anew before the next set (§7.2)."""
        self._again = sorted({*self._again, *(number for number in numbers if number < min(self.next, self._count))})
        self._burst(False, now)

    def rest(self, now: float) -> None:
        """Begin the pause anew: something else has just been sent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self._timers.at(now + self._pause, self._paused)

    def stop(self) -> None:
        """Send nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._count = 0
        self._again.clear()

    def _paused(self, now: float) -> None:
        self._timer = None
        self._burst(True, now)

    def _burst(self, begins_set: bool, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        left = self._set
        while self._again and left:
            if not self._emit(self._again.pop(0), now):
                return
            left -= 1
        while left and self.next < self._count and (begins_set or self.next % self._set):
            begins_set = False
            self.next += 1
            if not self._emit(self.next - 1, now):
                return
            left -= 1
        if self._again or self.next < self._count:
            self._timer = self._timers.at(now + self._pause, self._paused)


class Stream:
    """Confirmable: as many under way as `nstart`, the next when one is acknowledged (§7.1)."""

    __slots__ = ("_again", "_count", "_emit", "_nstart", "_retry", "_timers", "_under_way", "next")

    def __init__(self, count: int, nstart: int, emit: Emit, timers: Timers, first: int = 0) -> None:
        self.next = first
        self._count = count
        self._nstart = nstart
        self._emit = emit
        self._timers = timers
        self._under_way = 0
        self._again: list[int] = []
        self._retry: Optional[Timer] = None

    @property
    def has_sent_all(self) -> bool:
        """Whether all has been sent and acknowledged."""
        return self.next >= self._count and not self._again and not self._under_way

    def start(self, now: float) -> None:
        """Send the first ones."""
        self._fill(now)

    def go_on(self, number: int, now: float) -> None:
        """Nothing: acknowledgements say when to go on; unless it is a place further on."""
        if self.next < number < self._count:
            self.next = number
            self._fill(now)

    def repeat(self, numbers: list[int], now: float) -> None:
        """Send those again before the others."""
        self._again = sorted({*self._again, *(number for number in numbers if number < min(self.next, self._count))})
        self._fill(now)

    def rest(self, now: float) -> None:
        """Nothing: there are no pauses."""

    def acknowledged(self, now: float) -> None:
        """One has come through."""
        self._under_way -= 1
        self._fill(now)

    def stop(self) -> None:
        """Send nothing more."""
        self._count = 0
        self._again.clear()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _fill(self, now: float) -> None:
        while self._under_way < self._nstart:
            if self._again:
                number = self._again[0]
            elif self.next < self._count:
                number = self.next
            else:
                return
            if not self._emit(number, now):
                if self._count and self._retry is None:
                    self._retry = self._timers.at(now + 1.0, self._try_again)
                return
            self._under_way += 1
            if self._again and number == self._again[0]:
                self._again.pop(0)
            else:
                self.next += 1

    def _try_again(self, now: float) -> None:
        self._retry = None
        self._fill(now)
