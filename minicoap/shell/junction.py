"""One machine on two sockets: what came through the second is answered through it.

Each socket has a `UdpShell` of its own. The first sees the machine's own paths; those of the second have a further
member, so that the machine tells them apart without knowing why.
"""

from __future__ import annotations

from typing import Callable, Optional

from minicoap.core.machine import DatagramMachine
from minicoap.core.request import Path


class _Second(str):
    """The further member of paths that lead through the second socket."""

    __slots__ = ()


_MARK = _Second("second socket")
Wake = Callable[[], None]


class Junction:
    """`first` and `second` are the machines for the two shells; `wake_first` and `wake_second` their `wake`.

    `received` takes what comes through the second socket. Set the wakes as soon as the shells are there.
    """

    def __init__(self, machine: DatagramMachine, received: Callable[[bytes, Path, float], None]) -> None:
        self._machine = machine
        self._received = received
        self._to_first: list[tuple[bytes, Path]] = []
        self._to_second: list[tuple[bytes, Path]] = []
        self.wake_first: Optional[Wake] = None
        self.wake_second: Optional[Wake] = None
        self.first: DatagramMachine = _First(self, machine)
        self.second: DatagramMachine = _SecondPort(self, machine)

    def path(self, address: Path) -> Path:
        """Return the path to `address` through the second socket."""
        return (*address, _MARK)

    def received_second(self, data: bytes, path: Path, now: float) -> None:
        """Take what came through the second socket."""
        self._received(data, (*path, _MARK), now)

    def to_first(self) -> list[tuple[bytes, Path]]:
        """Return what is to be sent through the first socket."""
        self._sort()
        # Taken before the other is woken, which looks here again.
        datagrams, self._to_first = self._to_first, []
        if self._to_second and self.wake_second is not None:
            self.wake_second()
        return datagrams

    def to_second(self) -> list[tuple[bytes, Path]]:
        """Return what is to be sent through the second socket."""
        self._sort()
        datagrams, self._to_second = self._to_second, []
        if self._to_first and self.wake_first is not None:
            self.wake_first()
        return datagrams

    def _sort(self) -> None:
        for datagram in self._machine.datagrams_to_send():
            data, path = datagram
            if path[-1] is _MARK:
                self._to_second.append((data, path[:-1]))
            else:
                self._to_first.append(datagram)


class _First:
    """The machine as the first shell sees it."""

    def __init__(self, junction: Junction, machine: DatagramMachine) -> None:
        self.datagram_received = machine.datagram_received
        self.path_failed = machine.path_failed
        self.next_timeout = machine.next_timeout
        self.handle_timeout = machine.handle_timeout
        self.datagrams_to_send = junction.to_first


class _SecondPort:
    """The machine as the second shell sees it."""

    def __init__(self, junction: Junction, machine: DatagramMachine) -> None:
        self._junction = junction
        self._machine = machine
        self.datagram_received = junction.received_second
        self.next_timeout = machine.next_timeout
        self.handle_timeout = machine.handle_timeout
        self.datagrams_to_send = junction.to_second

    def path_failed(self, path: Path, error: OSError, now: float) -> None:
        """Pass on what the operating system reported."""
        self._machine.path_failed(self._junction.path(path), error, now)
