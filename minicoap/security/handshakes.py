"""Handshakes under way: how many there may be, whose, and for how long (RFC 6347 §4.2.4).

Who has shown to be where he says may begin a handshake; it costs a hundred times as much as a message of a session. So
a few are begun at a time, between which the datagrams of sessions have their turn, and the others wait. Both are
bounded, so that no host takes the room of the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Callable, NamedTuple, Optional

from minicoap.core.fairness import host_of
from minicoap.core.request import Path
from minicoap.core.timers import Timer, Timers
from minicoap.security.engine import Session

_FIRST_LOOK = 1.0  # seconds after which a handshake is looked at that waits for nothing
_ANEW = 20.0  # seconds without progress after which a client begins its handshake anew: its address may have changed
_AT_ONCE = 4  # handshakes that are begun in one turn of the loop
_PAUSE = 0.001  # seconds until the next ones, of those that wait
_WAITING = 256  # hellos that may wait, some 200 bytes each; others are lost, and repeated by their clients
_WAITING_OF_HOST = 128  # of those, from one host


class Channel:
    """A session at an address; `association` is whoever it was found to belong to."""

    __slots__ = ("address", "association", "disturbances", "has_carried", "heard_at", "session", "timer")

    def __init__(self, address: Path, session: Session, association: Any) -> None:
        self.address = address
        self.session = session
        self.association = association  # a server's only when the handshake is complete
        self.disturbances = 0  # so often its handshake made no sense
        self.has_carried = False  # whether a message has come through it
        self.heard_at: Optional[float] = None  # when its handshake went on, or was looked at for the first time
        self.timer: Optional[Timer] = None


class Calls(NamedTuple):
    """What `Handshakes` has its owner do."""

    accept: Callable[[bytes, Path, float], None]  # begin with the client of a hello
    make_room: Callable[[Channel, float], None]  # give this one up, for another
    begin_anew: Callable[[Channel, float], None]  # begin a client's from the start
    go_on: Callable[[Channel, float], bool]  # send what it has to say; whether it is still under way


class Handshakes:
    """At most `limit` channels without an open session, each for `lifetime` seconds."""

    def __init__(self, limit: int, lifetime: float, timers: Timers, calls: Calls) -> None:
        self.dropped = 0  # hellos for which there was no room
        self.pushed_out = 0  # handshakes that had to make room
        self._limit = limit
        self._lifetime = lifetime
        self._timers = timers
        self._calls = calls
        self._by_host: dict[str, dict[Channel, None]] = {}  # in the order of their start
        self._count = 0
        self._waiting: dict[Path, bytes] = {}  # hellos by address, in the order in which they came
        self._waiting_of: dict[str, int] = {}
        self._next: Optional[Timer] = None
        self._turn = -1.0
        self._begun = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, channel: Channel) -> bool:
        return channel in self._by_host.get(host_of(channel.address), ())

    def __iter__(self) -> Iterator[Channel]:
        return iter([channel for channels in self._by_host.values() for channel in channels])

    def receive(self, hello: bytes, address: Path, now: float) -> None:
        """Take a hello from an address that is proven: begin its handshake, or have it wait for its turn."""
        if now != self._turn:
            self._turn, self._begun = now, 0
        if self._begun < _AT_ONCE and not self._waiting:
            self._begun += 1
            self._calls.accept(hello, address, now)
            return
        if address not in self._waiting:
            host = host_of(address)
            held = self._waiting_of.get(host, 0)
            if len(self._waiting) >= _WAITING or held >= _WAITING_OF_HOST:
                self.dropped += 1
                return
            self._waiting_of[host] = held + 1
        self._waiting[address] = hello
        if self._next is None:
            self._next = self._timers.at(now + _PAUSE, self._begin_waiting)

    def _begin_waiting(self, now: float) -> None:
        self._next = None
        for address in list(self._waiting)[:_AT_ONCE]:
            host = host_of(address)
            self._waiting_of[host] -= 1
            if not self._waiting_of[host]:
                del self._waiting_of[host]
            self._calls.accept(self._waiting.pop(address), address, now)
        if self._waiting:
            self._next = self._timers.at(now + _PAUSE, self._begin_waiting)

    def begin(self, channel: Channel, now: float) -> None:
        """Watch over the handshake of `channel`. If there are too many, the host with most of them loses its oldest."""
        if self._count >= self._limit:
            self.pushed_out += 1
            fullest = max(self._by_host, key=lambda host: len(self._by_host[host]))
            self._calls.make_room(next(iter(self._by_host[fullest])), now)
        self._by_host.setdefault(host_of(channel.address), {})[channel] = None
        self._count += 1
        self._arm(channel, None, now)

    def end(self, channel: Channel) -> None:
        """Forget `channel`: its session is open, or came to nothing. Nothing happens if that was done before."""
        if channel.timer is not None:
            channel.timer.cancel()
            channel.timer = None  # whose callback knows the channel
        host = host_of(channel.address)
        channels = self._by_host.get(host)
        if channels is not None and channel in channels:
            del channels[channel]
            self._count -= 1
            if not channels:
                del self._by_host[host]

    def _arm(self, channel: Channel, deadline: Optional[float], now: float) -> None:
        """Have `channel` repeat what it sent when that is due, and give up at `deadline`.

        That is not known before the timer has run: what is sent from outside comes without the time.
        """
        wait = channel.session.timeout()
        when = now + (_FIRST_LOOK if wait is None else wait)

        def due(when: float) -> None:
            nonlocal deadline
            if deadline is None:
                deadline = when + self._lifetime
            if channel.heard_at is None:
                channel.heard_at = when
            if when >= deadline:
                channel.session.drop()
                channel.session.reason = f"no agreement within {self._lifetime:g} s"
            elif channel.association is not None and when >= channel.heard_at + _ANEW:
                channel.heard_at = when
                self._calls.begin_anew(channel, when)
            else:
                channel.session.repeat()
            if self._calls.go_on(channel, when):
                self._arm(channel, deadline, when)

        if deadline is not None:
            when = min(when, deadline)
        if channel.association is not None and channel.heard_at is not None:
            when = min(when, channel.heard_at + _ANEW)
        channel.timer = self._timers.at(when, due)
