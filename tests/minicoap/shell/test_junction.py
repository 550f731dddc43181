"""One machine on two sockets: each datagram leaves through its own, also when both have some at once."""

from __future__ import annotations

from typing import Optional

from minicoap.core.request import Path
from minicoap.shell.junction import Junction


class Outbox:
    """A machine that has these datagrams to send."""

    def __init__(self) -> None:
        self.datagrams: list[tuple[bytes, Path]] = []

    def datagram_received(self, data: bytes, path: Path, now: float) -> None: ...
    def path_failed(self, path: Path, error: OSError, now: float) -> None: ...
    def handle_timeout(self, now: float) -> None: ...

    def next_timeout(self) -> Optional[float]:
        return None

    def datagrams_to_send(self) -> list[tuple[bytes, Path]]:
        datagrams, self.datagrams = self.datagrams, []
        return datagrams


def test_what_is_for_both_sockets_at_once_leaves_through_each_once() -> None:
    machine = Outbox()
    junction = Junction(machine, machine.datagram_received)
    sent: dict[str, list[bytes]] = {"first": [], "second": []}

    def drain_first() -> None:
        while datagrams := junction.first.datagrams_to_send():
            sent["first"] += [data for data, _ in datagrams]

    def drain_second() -> None:
        while datagrams := junction.second.datagrams_to_send():
            sent["second"] += [data for data, _ in datagrams]

    junction.wake_first, junction.wake_second = drain_first, drain_second
    address = ("192.0.2.1", 5683)
    for drain in (drain_first, drain_second):
        machine.datagrams = [(b"one", address), (b"two", junction.path(address)), (b"three", address)]
        drain()

    assert sent == {"first": [b"one", b"three"] * 2, "second": [b"two"] * 2}
