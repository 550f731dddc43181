"""The seam between machines and shells: datagrams and time go in, datagrams and the next time to wake come out."""

from __future__ import annotations

from typing import Optional, Protocol

from minicoap.core.request import Path


class DatagramMachine(Protocol):
    """What shells run. A shell takes `now` once a wake-up, feeds what arrived, drains the outbox, re-arms one timer."""

    def datagram_received(self, data: bytes, path: Path, now: float) -> None:
        """Take in a datagram from `path`."""

    def path_failed(self, path: Path, error: OSError, now: float) -> None:
        """Learn that the operating system reported an error for `path`: ICMP, EMSGSIZE."""

    def datagrams_to_send(self) -> list[tuple[bytes, Path]]:
        """Return what is to be sent, and forget it."""

    def next_timeout(self) -> Optional[float]:
        """Return when `handle_timeout` is due; None for never."""

    def handle_timeout(self, now: float) -> None:
        """Do what is due at `now`."""
