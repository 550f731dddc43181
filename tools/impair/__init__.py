"""A UDP proxy that loses, delays, repeats and reorders what passes, by a seed: a bad network on one's own machine.

    async with proxy(("127.0.0.1", 5683), Link(loss=0.05, delay=0.05), seed=7) as address:
        ...  # whoever sends to `address` speaks with the server, over that link

The link is the one of `minicoap.simulate`, here with real sockets and real time: the same seed makes the same decisions
about the same sequence of datagrams of a direction. Each client has a socket of its own towards the server, which may
be another after a while (`rebind`), as behind a router that forgets.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Optional

from minicoap.simulate.link import LARGEST_DATAGRAM, Link

Address = tuple[Any, ...]

MOST_CLIENTS = 1024
MOST_UNDER_WAY = 65_536  # datagrams held back at once
THERE, BACK = "to the server", "to the client"


class _Direction:
    """A link, the chance that decides on it, and what came of the datagrams."""

    def __init__(self, link: Link, seed: int, name: str) -> None:
        self.link = link
        self.chance = Random(f"{seed}/{name}").random
        self.counts: Counter[str] = Counter()


class Impairment:
    """The proxy, from `open` to `close`; `address` is where clients find it.

    `there` and `back` are the links of the two directions; they may be changed while it runs. With `rebind`, in
    seconds, a client has a new port towards the server after that long, and answers to the old one are lost. A datagram
    larger than a link's MTU is lost; nobody tells its sender, as on a path whose routers are silent. Clients that are
    too many displace the one that was silent longest.
    """

    def __init__(
        self,
        target: tuple[str, int],
        link: Link,
        *,
        back: Optional[Link] = None,
        seed: int = 0,
        rebind: Optional[float] = None,
    ) -> None:
        self.target = target
        self._there = _Direction(link.copy(), seed, THERE)
        self._back = _Direction((link if back is None else back).copy(), seed, BACK)
        self._rebind = rebind
        self._clients: dict[Address, _Client] = {}
        self._under_way = 0
        self._server: Address = ()
        self._family = socket.AF_INET
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._socket: Optional[socket.socket] = None
        self.address: tuple[str, int] = ("", 0)
        self.rebound = 0

    @property
    def there(self) -> Link:
        """The link towards the server."""
        return self._there.link

    @property
    def back(self) -> Link:
        """The link towards the clients."""
        return self._back.link

    @property
    def counts(self) -> dict[str, Counter[str]]:
        """What was done, by direction: arrived, lost, repeated, overtaken, too large, refused for want of room."""
        return {THERE: self._there.counts, BACK: self._back.counts}

    async def open(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen on a host and port, 0 for any that is free. Raises OSError."""
        self._loop = loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(*self.target, type=socket.SOCK_DGRAM)
        self._family, _, _, _, self._server = found[0]
        local = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        self._socket = socket.socket(local[0][0], socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.bind(local[0][4])
        except OSError:
            self._socket.close()
            raise
        self.address = self._socket.getsockname()[:2]
        loop.add_reader(self._socket, self._from_clients)

    def close(self) -> None:
        """Stop; what is under way is lost."""
        if self._socket is None or self._socket.fileno() < 0:
            return
        assert self._loop is not None
        self._loop.remove_reader(self._socket)
        self._socket.close()
        for client in list(self._clients.values()):
            self._forget(client)

    def report(self) -> str:
        """Return what was done, as lines for people."""
        lines = []
        for name, direction in ((THERE, self._there), (BACK, self._back)):
            counts = direction.counts
            parts = [f"{counts['came']} datagrams", f"{counts['arrived']} arrived"]
            parts += [f"{counts[what]} {what}" for what in _TOLD if counts[what]]
            lines.append(f"{name}: {', '.join(parts)}")
        if self.rebound:
            lines.append(f"{self.rebound} changes of port")
        return "\n".join(lines)

    def _from_clients(self) -> None:
        assert self._socket is not None
        for address, data in _received(self._socket):
            client = self._client(address)
            if client is not None:
                self._pass(self._there, data, client.to_server)

    def _from_server(self, client: _Client) -> None:
        for _, data in _received(client.socket):
            self._pass(self._back, data, client.to_client)

    def _client(self, address: Address) -> Optional[_Client]:
        assert self._loop is not None
        now = self._loop.time()
        client = self._clients.pop(address, None)
        if client is not None and self._rebind is not None and now - client.opened_at >= self._rebind:
            self._forget(client)
            self.rebound += 1
            client = None
        if client is None:
            if len(self._clients) >= MOST_CLIENTS:
                self._forget(next(iter(self._clients.values())))
            try:
                client = _Client(self, address, now)
            except OSError:  # no socket to be had: lost, as by a router that is full
                self._there.counts["refused"] += 1
                return None
            self._loop.add_reader(client.socket, self._from_server, client)
        self._clients[address] = client  # the last one is who spoke last
        return client

    def _forget(self, client: _Client) -> None:
        assert self._loop is not None
        self._clients.pop(client.address, None)
        self._loop.remove_reader(client.socket)
        client.socket.close()

    def _pass(self, direction: _Direction, data: bytes, send: Callable[[bytes], None]) -> None:
        assert self._loop is not None
        counts, link, now = direction.counts, direction.link, self._loop.time()
        counts["came"] += 1
        if len(data) > link.mtu:
            counts["too large"] += 1
            return
        if self._under_way >= MOST_UNDER_WAY:
            counts["refused"] += 1
            return
        queued = link.free_at
        arrivals = link.arrivals(data, now, direction.chance)
        if not arrivals:
            counts["lost"] += 1
        if len(arrivals) > 1:
            counts["repeated"] += 1
        if link.rate is not None and queued > now:
            counts["queued"] += 1
        number = counts["came"]
        for when in arrivals:
            self._under_way += 1
            self._loop.call_at(when, self._arrive, direction, number, data, send)

    def _arrive(self, direction: _Direction, number: int, data: bytes, send: Callable[[bytes], None]) -> None:
        self._under_way -= 1
        counts = direction.counts
        if number < counts["latest"]:
            counts["overtaken"] += 1
        counts["latest"] = max(number, counts["latest"])
        try:
            send(data)
        except OSError:  # the other side is away, or the client was forgotten
            counts["unreachable"] += 1
            return
        counts["arrived"] += 1

    def _send_to_client(self, data: bytes, address: Address) -> None:
        assert self._socket is not None
        self._socket.sendto(data, address)


_TOLD = ("lost", "repeated", "overtaken", "queued", "too large", "refused", "unreachable")


class _Client:
    """A client: its address, and the socket by which the server knows it."""

    def __init__(self, proxy: Impairment, address: Address, now: float) -> None:
        self.address = address
        self.opened_at = now
        self._proxy = proxy
        self.socket = socket.socket(proxy._family, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        try:
            self.socket.connect(proxy._server)
        except OSError:
            self.socket.close()
            raise

    def to_server(self, data: bytes) -> None:
        self.socket.send(data)

    def to_client(self, data: bytes) -> None:
        self._proxy._send_to_client(data, self.address)


def _received(sock: socket.socket) -> list[tuple[Address, bytes]]:
    """Return what came, 64 datagrams at most."""
    found: list[tuple[Address, bytes]] = []
    for _ in range(64):
        try:
            data, address = sock.recvfrom(LARGEST_DATAGRAM + 28)
        except BlockingIOError:
            break
        except OSError:  # an ICMP error of something sent earlier
            continue
        found.append((address, data))
    return found


@asynccontextmanager
async def proxy(
    target: tuple[str, int],
    link: Link,
    *,
    back: Optional[Link] = None,
    seed: int = 0,
    rebind: Optional[float] = None,
) -> AsyncIterator[tuple[str, int]]:
    """Run a proxy to `target` and yield its address; `back` is the link to the clients, where it is another."""
    running = Impairment(target, link, back=back, seed=seed, rebind=rebind)
    await running.open()
    try:
        yield running.address
    finally:
        running.close()
