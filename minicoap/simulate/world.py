"""A virtual clock, an event heap and hosts that run machines: the shell of the simulator.

Events run in the order of their time, those of the same time in the order in which they were asked for. All chance
comes from streams derived from one seed, and what happens goes into a digest: the same seed gives the same digest on
any Python and with any hash seed, or something decided by what it should not have (a set's order, an id, the clock).

A host does for a machine what the UDP shell does: it feeds datagrams, drains the outbox and keeps one timer. It dies
as a device does when power is cut: the machine is dropped, and nothing it asked for happens any more.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from struct import Struct
from typing import Any, NamedTuple, Optional, Union
from zlib import crc32

from minicoap.core.machine import DatagramMachine
from minicoap.core.request import Path
from minicoap.simulate.entropy import SeededEntropy
from minicoap.simulate.link import Link

# More events than this without time moving on: a machine whose next timeout stays in the past.
EVENTS_AT_ONCE = 1_000_000

_TIMES = Struct("<dd")

_Event = tuple[float, int, Callable[..., None], tuple[Any, ...]]  # when, order, what


class Datagram(NamedTuple):
    """A datagram in the trace: when and between whom it was sent, and when it arrives (never, once, twice)."""

    sent_at: float
    source: Path
    destination: Path
    data: bytes
    arrivals: tuple[float, ...]


class World:
    """Hosts, the links between them and the clock they share.

    `seed` decides all chance; `link` is what every direction of every connection starts as; the last `trace` datagrams
    are kept for tests to look at. Hooks in `after_event` run after every event: the place for invariants.
    """

    def __init__(self, seed: int = 0, *, link: Optional[Link] = None, trace: int = 0) -> None:
        self.seed = seed
        self.now = 0.0  # seconds
        self.events = 0  # run so far
        self.digest = 0
        self.default_link = Link() if link is None else link.copy()
        self.trace: deque[Datagram] = deque(maxlen=trace)
        self.after_event: list[Callable[[], None]] = []
        self._heap: list[_Event] = []
        self._sequence = 0
        self._at_once = 0
        self._hosts: dict[Path, Host] = {}
        self._links: dict[tuple[Host, Host], Link] = {}
        self._chance = Random(f"{seed}/network").random

    def entropy(self, name: str) -> SeededEntropy:
        """Return the stream of randomness that belongs to `name`; asking twice starts it anew."""
        return SeededEntropy(self.seed, name)

    def host(self, address: Path) -> Host:
        """Return the host at `address`, such as ("server", 5683), made if there is none."""
        found = self._hosts.get(address)
        if found is None:
            found = self._hosts[address] = Host(self, address)
        return found

    def link(self, source: Host, target: Host) -> Link:
        """Return the link from `source` to `target`, for one's parameters; the way back is another."""
        found = self._links.get((source, target))
        if found is None:
            found = self._links[source, target] = self.default_link.copy()
        return found

    def partition(self, one: Host, other: Host) -> None:
        """Lose all between two hosts, in both directions, until `heal`."""
        self.link(one, other).up = self.link(other, one).up = False

    def heal(self) -> None:
        """Bring up every link and let none lose or repeat anything any more; delays and limits stay."""
        for link in (self.default_link, *self._links.values()):
            link.up = True
            link.loss = link.duplicate = 0.0
            link.admits = None

    def call_at(self, when: float, callback: Callable[..., None], *arguments: Any) -> None:
        """Run `callback(*arguments)` at `when`; at once, in its turn, if that is past."""
        self._sequence += 1
        heappush(self._heap, (when if when > self.now else self.now, self._sequence, callback, arguments))

    def call_later(self, delay: float, callback: Callable[..., None], *arguments: Any) -> None:
        """Run `callback(*arguments)` in `delay` seconds."""
        self.call_at(self.now + delay, callback, *arguments)

    def step(self) -> bool:
        """Run the next event; False if there is none."""
        if not self._heap:
            return False
        when, _, callback, arguments = heappop(self._heap)
        if when > self.now:
            self.now = when
            self._at_once = 0
        else:
            self._at_once += 1
            if self._at_once > EVENTS_AT_ONCE:
                raise RuntimeError(f"time stands still at {self.now}: a machine's next timeout stays in the past")
        self.events += 1
        callback(*arguments)
        for hook in self.after_event:
            hook()
        return True

    def run_for(self, seconds: float) -> None:
        """Run all events of the next `seconds` and leave the clock at their end."""
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.step()
        self.now = end

    def run_until(self, goal: Union[float, Callable[[], bool]], timeout: float = 86400.0) -> bool:
        """Run to the time `goal`, or until the condition `goal` holds; False if it did not within `timeout` seconds.

        A condition is looked at after each event, and False also means that nothing is left to happen.
        """
        if not callable(goal):
            self.run_for(goal - self.now)
            return True
        end = self.now + timeout
        while not goal():
            if not self._heap or self._heap[0][0] > end:
                return False
            self.step()
        return True

    def record(self, what: bytes) -> None:
        """Add something that happened to the digest."""
        self.digest = crc32(what, self.digest)

    def _move(self, host: Host, address: Path) -> None:
        del self._hosts[host.address]
        self._hosts[address] = host

    def _send(self, source: Host, data: bytes, destination: Path) -> bool:
        """Put a datagram on its way; False if the link does not take one of that size."""
        target = self._hosts.get(destination)
        arrivals: tuple[float, ...] = ()
        if target is not None:
            link = self._links.get((source, target)) or self.link(source, target)
            if len(data) > link.mtu:
                return False
            arrivals = link.arrivals(data, self.now, self._chance)
        digest = crc32(data, self.digest)
        digest = crc32(source.label, digest)
        for when in arrivals:
            digest = crc32(_TIMES.pack(self.now, when), digest)
            self._sequence += 1
            event: _Event = (when, self._sequence, self._deliver, (data, source.address, destination))
            heappush(self._heap, event)
        self.digest = digest
        if self.trace.maxlen:
            self.trace.append(Datagram(self.now, source.address, destination, data, arrivals))
        return True

    def _deliver(self, data: bytes, source: Path, destination: Path) -> None:
        host = self._hosts.get(destination)
        if host is not None:
            host.receive(data, source)


class Host:
    """A place in the world at which a machine can run. Made by `World.host`."""

    __slots__ = ("_armed_at", "_life", "_world", "address", "label", "machine")

    def __init__(self, world: World, address: Path) -> None:
        self.address = address
        self.label = repr(address).encode()
        self.machine: Optional[DatagramMachine] = None
        self._world = world
        self._life = 0
        self._armed_at: Optional[float] = None

    def boot(self, machine: DatagramMachine) -> None:
        """Run `machine`; one that ran before is dropped as by `crash`."""
        self.crash()
        self._world.record(b"boot" + self.label)
        self.machine = machine
        self.wake()

    def crash(self) -> None:
        """Cut the power: no timer and no callback of this life runs any more, datagrams to the host are lost."""
        self._world.record(b"crash" + self.label)
        self.machine = None
        self._life += 1
        self._armed_at = None

    def rebind(self, address: Path) -> None:
        """Be at another address, as behind a router that forgot; what is under way to the old one is lost."""
        self._world._move(self, address)
        self.address = address
        self.label = repr(address).encode()

    def call_at(self, when: float, callback: Callable[..., None], *arguments: Any) -> None:
        """Run `callback(*arguments)` at `when` and wake the machine, unless the host dies before."""
        self._world.call_at(when, self._call, self._life, callback, arguments)

    def call_later(self, delay: float, callback: Callable[..., None], *arguments: Any) -> None:
        """Run `callback(*arguments)` in `delay` seconds and wake the machine, unless the host dies before."""
        self.call_at(self._world.now + delay, callback, *arguments)

    def receive(self, data: bytes, source: Path) -> None:
        """Give the machine a datagram; lost if none runs."""
        machine = self.machine
        if machine is not None:
            machine.datagram_received(data, source, self._world.now)
            self.wake()

    def wake(self) -> None:
        """Send what the machine has to send and arm its timer: due after each call to it from outside."""
        machine = self.machine
        if machine is None:
            return
        world = self._world
        while datagrams := machine.datagrams_to_send():
            for data, destination in datagrams:
                if not world._send(self, data, destination):
                    machine.path_failed(destination, OSError(errno.EMSGSIZE, "Message too long"), world.now)
        when = machine.next_timeout()
        if when is None:
            self._armed_at = None
        elif self._armed_at is None or when < self._armed_at:
            self._armed_at = when
            world.call_at(when, self._expire, when)
        # A timeout that moved back is found out when the earlier event runs.

    def _expire(self, armed_at: float) -> None:
        machine = self.machine
        if machine is None or armed_at != self._armed_at:  # of an earlier life, or armed anew since
            return
        self._armed_at = None
        when = machine.next_timeout()
        if when is not None and when <= self._world.now:
            machine.handle_timeout(self._world.now)
        self.wake()

    def _call(self, life: int, callback: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if life == self._life:
            callback(*arguments)
            self.wake()
