"""What has been received before, and how it was answered (RFC 7252 §4.5).

Kept are answers to requests that must not be carried out twice; a GET repeated is simply a GET. Entries live in two
generations: when the younger is EXCHANGE_LIFETIME old the older is dropped whole, so that no entry needs a timer and no
dict grows without end. A key is one integer made of peer and message ID; the value is the datagram that was the answer,
which carries the token, behind the time at which the message ID may mean another message: EXCHANGE_LIFETIME later for a
confirmable one, NON_LIFETIME for another (§4.4). A `Pending` stands there while there is no answer yet.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Optional, Union

from minicoap.core.timers import Timer, Timers

if TYPE_CHECKING:
    from minicoap.core.late import Pending

_EXPIRY = Struct("=d")


class Deduplication:
    """Answers given within the last EXCHANGE_LIFETIME, at most `entries` and `size` bytes in both generations."""

    __slots__ = ("_bytes", "_entries", "_lifetime", "_old", "_size", "_timer", "_timers", "_young")

    def __init__(self, timers: Timers, lifetime: float, entries: int, size: int) -> None:
        self._timers = timers
        self._lifetime = lifetime
        self._entries = entries // 2
        self._size = size // 2
        self._bytes = 0
        self._young: dict[int, Union[bytes, Pending]] = {}
        self._old: dict[int, Union[bytes, Pending]] = {}
        self._timer: Optional[Timer] = None

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def recall(self, key: int, now: float) -> Union[bytes, Pending, None]:
        """Return what was kept under `key`, if the message ID in it still means the same message."""
        known = self._young.get(key)
        if known is None:
            known = self._old.get(key)
        if not isinstance(known, bytes):
            return known
        return known[_EXPIRY.size :] if now < _EXPIRY.unpack_from(known)[0] else None

    def remember(self, key: int, answer: Union[bytes, Pending], lifetime: float, now: float) -> None:
        """Keep `answer` under `key` for `lifetime`; if the table is full the older half is forgotten before its time.

        `lifetime` is at most the one given at construction. A Pending is kept until it is forgotten.
        """
        if self._timer is None:
            self._timer = self._timers.after(self._lifetime, now, self._rotate)
        if len(self._young) >= self._entries or self._bytes >= self._size:
            self._old = self._young
            self._young = {}
            self._bytes = 0
        if isinstance(answer, bytes):
            answer = _EXPIRY.pack(now + lifetime) + answer
            self._bytes += len(answer)
        self._young[key] = answer

    def forget(self, key: int) -> None:
        """Drop what was kept under `key`."""
        self._young.pop(key, None)
        self._old.pop(key, None)

    def _rotate(self, now: float) -> None:
        self._old = self._young
        self._young = {}
        self._bytes = 0
        self._timer = self._timers.after(self._lifetime, now, self._rotate) if self._old else None
