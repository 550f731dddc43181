"""What has been received before, and how it was answered (RFC 7252 §4.5).

Kept are answers to requests that must not be carried out twice; a GET repeated is simply a GET. Entries live in two
generations: when the younger is EXCHANGE_LIFETIME old the older is dropped whole, so that no entry needs a timer. They
are packed, for there may be a hundred thousand: a generation is one row of bytes in which a record follows the other,
and a table of places in it. A record is the time at which the message ID may mean another message (EXCHANGE_LIFETIME
later for a confirmable one, NON_LIFETIME for another, §4.4), what tells the message from all others, its key, and the
datagram that was the answer, which carries the token. So an entry costs the bytes of its answer and some thirty
more, and no object that a garbage collector would have to look at; whoever sent it costs nothing else.

Where there is no answer yet a `Pending` stands, in a dict of its own.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Optional, Union

from minicoap.core.entropy import Entropy
from minicoap.core.request import Path
from minicoap.core.timers import Timer, Timers

if TYPE_CHECKING:
    from minicoap.core.late import Pending

_HEAD = Struct("=fHH")  # of a record: until when it counts, since its generation began; the lengths of key and answer
_NOTHING = b"\0"  # stands before the first record, so that no record has the place 0, which means none


def key_of(path: Path, message_id: int) -> bytes:
    """Return what tells a message from all others: where it comes from, and its ID."""
    if len(path) == 2:
        host: str = path[0]
        port: int = path[1]
        return host.encode() + (port << 16 | message_id).to_bytes(4, "big")
    return "\0".join(("", *map(str, path), str(message_id))).encode()


class _Generation:
    """Records, and where they are: open addressing in a table that is never more than half full.

    The table is as large as it may have to be from the start. It costs what of it has been written to: the system gives
    zeroed memory no room before.
    """

    __slots__ = ("begun_at", "count", "places", "records")

    def __init__(self, slots: int, now: float) -> None:
        self.begun_at = now
        self.count = 0
        self.places = memoryview(bytearray(4 * slots)).cast("I")
        self.records = bytearray(_NOTHING)

    def slot_of(self, key: bytes, slot: int) -> int:
        """Return the slot, from `slot` on, in which the place of the record with `key` stands, or would stand."""
        places, records = self.places, self.records
        while True:
            place = places[slot]
            if not place:
                return slot
            if records.startswith(key, place + _HEAD.size) and _HEAD.unpack_from(records, place)[1] == len(key):
                return slot
            slot = slot + 1 if slot + 1 < len(places) else 0

    def answer(self, key: bytes, slot: int, now: float) -> Optional[bytes]:
        """Return the answer with `key`, to be looked for from `slot` on; None if there is none, or its time is over."""
        place = self.places[self.slot_of(key, slot)]
        if not place:
            return None
        records = self.records
        until, key_length, length = _HEAD.unpack_from(records, place)
        start = place + _HEAD.size + key_length
        return bytes(records[start : start + length]) if now - self.begun_at < until else None


class Deduplication:
    """Answers given within the last EXCHANGE_LIFETIME, at most `entries` and `size` bytes in both generations."""

    __slots__ = (
        "_entries", "_entropy", "_factor", "_key", "_lifetime", "_modulus", "_old", "_pending", "_size",
        "_slot", "_slots", "_timer", "_timers", "_young",
    )  # fmt: skip

    def __init__(self, entropy: Entropy, timers: Timers, lifetime: float, entries: int, size: int) -> None:
        self._entropy = entropy
        self._timers = timers
        self._lifetime = lifetime
        self._entries = entries // 2
        self._size = size // 2
        self._slots = 2 * self._entries + 1
        # Drawn with the first entry, so that nobody can choose keys whose slots are the same.
        self._factor = self._modulus = 0
        self._key = b""  # that was looked for last, and the slot that is its first
        self._slot = 0
        self._young: Optional[_Generation] = None
        self._old: Optional[_Generation] = None
        self._pending: dict[bytes, Pending] = {}
        self._timer: Optional[Timer] = None

    def __len__(self) -> int:
        """How many answers are kept, in the older generation also those whose time is over."""
        return sum(generation.count for generation in (self._young, self._old) if generation is not None)

    def recall(self, key: bytes, now: float) -> Union[bytes, Pending, None]:
        """Return what was kept under `key`, if the message ID in it still means the same message."""
        if self._pending and key in self._pending:
            return self._pending[key]
        if not self._modulus:
            return None
        self._key = key
        self._slot = slot = int.from_bytes(key, "little") * self._factor % self._modulus % self._slots
        known = None
        young, old = self._young, self._old
        if young is not None and young.places[slot]:
            known = young.answer(key, slot, now)
        if known is None and old is not None and old.places[slot]:
            known = old.answer(key, slot, now)
        return known

    def remember(self, key: bytes, answer: bytes, lifetime: float, now: float) -> None:
        """Keep `answer` under `key` for `lifetime`; if the table is full the older half is forgotten before its time.

        `lifetime` is at most the one given at construction.
        """
        if self._pending:
            self._pending.pop(key, None)
        young = self._young
        if young is None:
            young = self._young = self._begin(now)
        elif young.count >= self._entries or len(young.records) >= self._size:
            self._old = young
            young = self._young = _Generation(self._slots, now)
        if key == self._key:
            slot = self._slot
        else:
            slot = int.from_bytes(key, "little") * self._factor % self._modulus % self._slots
        if young.places[slot]:
            slot = young.slot_of(key, slot)
        if not young.places[slot]:
            young.count += 1
        records = young.records
        young.places[slot] = len(records)
        records += _HEAD.pack(now - young.begun_at + lifetime, len(key), len(answer))
        records += key
        records += answer

    def wait(self, key: bytes, pending: Pending) -> None:
        """Note that the answer is not there yet."""
        self._pending[key] = pending

    def forget(self, key: bytes) -> None:
        """Nobody waits for the answer any more."""
        self._pending.pop(key, None)

    def _begin(self, now: float) -> _Generation:
        if not self._modulus:
            self._key = b""
            self._factor = self._entropy.integer(62) | 1
            self._modulus = self._entropy.integer(60) | 1 << 60 | 1
        if self._timer is None:
            self._timer = self._timers.after(self._lifetime, now, self._rotate)
        return _Generation(self._slots, now)

    def _rotate(self, now: float) -> None:
        self._old, self._young = self._young, None
        self._timer = None if self._old is None else self._timers.after(self._lifetime, now, self._rotate)
