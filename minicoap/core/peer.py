"""All that an endpoint keeps of one other party, so that bounding and forgetting it is one operation."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Callable, Optional

from minicoap.core.entropy import Entropy
from minicoap.core.request import Path
from minicoap.core.rto import RoundTrips
from minicoap.core.timers import Timer, Timers

if TYPE_CHECKING:
    from minicoap.core.exchange import Exchange
    from minicoap.core.observer import Observer
    from minicoap.core.outgoing import Outgoing

# What a peer has that nothing is under way with: shared, and never written to, since a dict of its own costs memory.
_NONE_OUTSTANDING: Mapping[int, Outgoing] = MappingProxyType({})
_NO_EXCHANGES: Mapping[bytes, Exchange] = MappingProxyType({})

_OLDEST_TRIED = 16  # peers looked at for an idle one when the table is full


class Peer:
    """One party.

    `outstanding` are its unacknowledged confirmable messages by message ID, `in_flights` how many of them belong to
    a transfer with a window, `waiting` are those that NSTART holds back, `exchanges` our open requests to it by token.
    `round_trips` is there if they are measured. `observers` are its entries in our lists, `owed` those of them that
    wait for room, `unconfirmed` the non-confirmable notification that may still be rejected, `rejectable` who else
    wants to know of a reset, by message ID. `echo` is an Echo value of its that our next request is to bring back;
    `verified` says that it has shown to be where it says, `answered_at` when it last answered a request of ours.
    """

    __slots__ = (
        "_message_id", "answered_at", "echo", "exchanges", "in_flights", "observers", "outstanding", "owed",
        "path", "rejectable", "round_trips", "touched", "unconfirmed", "verified", "waiting",
    )  # fmt: skip

    def __init__(self, path: Path, message_id: int, now: float) -> None:
        self.path = path
        self.touched = now
        self._message_id = message_id
        self.outstanding: Mapping[int, Outgoing] = _NONE_OUTSTANDING
        self.in_flights = 0
        self.round_trips: Optional[RoundTrips] = None
        self.waiting: Optional[deque[Outgoing]] = None
        self.exchanges: Mapping[bytes, Exchange] = _NO_EXCHANGES
        self.observers: tuple[Observer, ...] = ()
        self.owed: Optional[dict[Observer, None]] = None
        self.unconfirmed: Optional[Outgoing] = None
        self.rejectable: Optional[dict[int, Callable[[float], None]]] = None
        self.echo: Optional[bytes] = None
        self.verified = False
        self.answered_at: Optional[float] = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way with it."""
        return not (self.outstanding or self.waiting or self.exchanges or self.observers or self.unconfirmed)

    @property
    def upcoming_message_id(self) -> int:
        """What `next_message_id` begins to look at."""
        return self._message_id

    def awaits(self, message_id: int) -> bool:
        """Whether an acknowledgement or a reset with this ID would mean something."""
        unconfirmed = self.unconfirmed
        return message_id in self.outstanding or (unconfirmed is not None and unconfirmed.message_id == message_id)

    def sent(self, outgoing: Outgoing) -> None:
        """Note that a message is outstanding."""
        outstanding = self.outstanding
        if isinstance(outstanding, dict):
            outstanding[outgoing.message_id] = outgoing
        else:
            self.outstanding = {outgoing.message_id: outgoing}

    def settled(self, message_id: int) -> None:
        """Note that a message is outstanding no more."""
        outstanding = self.outstanding
        if len(outstanding) == 1 and message_id in outstanding:
            self.outstanding = _NONE_OUTSTANDING
        elif isinstance(outstanding, dict):
            del outstanding[message_id]

    def opened(self, token: bytes, exchange: Exchange) -> None:
        """Note that a response with `token` is for `exchange`."""
        exchanges = self.exchanges
        if isinstance(exchanges, dict):
            exchanges[token] = exchange
        else:
            self.exchanges = {token: exchange}

    def closed(self, token: bytes) -> None:
        """Note that nobody waits for a response with `token` any more, if anybody did."""
        exchanges = self.exchanges
        if token in exchanges:
            if len(exchanges) == 1:
                self.exchanges = _NO_EXCHANGES
            elif isinstance(exchanges, dict):
                del exchanges[token]

    def next_message_id(self) -> int:
        """Return a message ID that has not been used towards this peer for the longest time (RFC 7252 §4.4)."""
        message_id = self._message_id
        while message_id in self.outstanding:
            message_id = (message_id + 1) & 0xFFFF
        self._message_id = (message_id + 1) & 0xFFFF
        return message_id


class Peers:
    """The peers of an endpoint by path, at most `limit`.

    A peer is forgotten once nothing is under way with it and `lifetime` seconds, EXCHANGE_LIFETIME, have passed since
    it was last used: until then its message IDs must not be used again (RFC 7252 §4.4).
    """

    __slots__ = ("_by_path", "_entropy", "_lifetime", "_limit", "_sweep", "_timers")

    def __init__(self, entropy: Entropy, timers: Timers, limit: int, lifetime: float) -> None:
        self._entropy = entropy
        self._timers = timers
        self._limit = limit
        self._lifetime = lifetime
        self._sweep: Optional[Timer] = None
        self._by_path: dict[Path, Peer] = {}  # in the order of last use

    def __len__(self) -> int:
        return len(self._by_path)

    def find(self, path: Path) -> Optional[Peer]:
        """Return the peer at `path` if it is known."""
        return self._by_path.get(path)

    def reach(self, path: Path, now: float) -> Optional[Peer]:
        """Return the peer at `path`, a new one if need be; None if the table is full of peers that are busy."""
        by_path = self._by_path
        peer = by_path.pop(path, None)
        if peer is None:
            if len(by_path) >= self._limit and not self._forget_oldest_idle(now):
                return None
            peer = Peer(path, self._entropy.integer(16), now)
            if self._sweep is None:
                self._sweep = self._timers.after(self._lifetime, now, self._forget_unused)
        peer.touched = now
        by_path[path] = peer
        return peer

    def avoid_confusion(self, peer: Peer) -> None:
        """Have the next message to `peer`, a group, bear an ID that no message to anybody bears which is under way.

        A reset that a member sends all the same would else be taken for one from whoever that is (RFC 7252 §8.1).
        """
        others = list(self._by_path.values())
        while any(other.awaits(peer.upcoming_message_id) for other in others):
            peer.next_message_id()

    def _forget_oldest_idle(self, now: float) -> bool:
        by_path = self._by_path
        for path in _first(by_path, _OLDEST_TRIED):
            peer = by_path.pop(path)
            if peer.is_idle:
                return True
            # In use, though silent, as observers are: not to stand in the way of those behind it.
            peer.touched = now
            by_path[path] = peer
        return False

    def _forget_unused(self, now: float) -> None:
        self._sweep = None
        by_path = self._by_path
        expired = []
        for path, peer in by_path.items():
            if peer.touched + self._lifetime > now:
                break
            expired.append(path)
        for path in expired:
            peer = by_path.pop(path)
            if not peer.is_idle:
                peer.touched = now
                by_path[path] = peer
        if by_path:
            self._sweep = self._timers.after(self._lifetime, now, self._forget_unused)


def _first(by_path: dict[Path, Peer], count: int) -> list[Path]:
    return [path for path, _ in zip(by_path, range(count))]
