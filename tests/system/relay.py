"""A relay between nodes and a server that counts, records and holds back what passes: the network of a test."""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Optional

from minicoap.codec import codes
from minicoap.codec.message import CON, Message, decode
from minicoap.codec.options import BLOCK2

Address = tuple[str, int]

_PCAP_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)  # 101: packets begin with their IP header
_SERVER_PORT = 5683  # as which the server's port is recorded, so that whoever reads it takes it for CoAP


class Passed(NamedTuple):
    """A datagram that came to the relay: when, whose it was, and whether it goes to the server."""

    at: float
    client: Address
    to_server: bool
    data: bytes


class Relay:
    """Stands at `uri` for the server at `server`; each client gets a port of its own towards it.

    `passes(data, to_server)`, where set, decides what is let through. Everything that came is in `passed`.
    """

    def __init__(self, server: Address) -> None:
        self.passed: list[Passed] = []
        self.passes: Optional[Callable[[bytes, bool], bool]] = None
        self.uri = ""
        self._server = server
        self._ways: dict[Address, asyncio.Task[asyncio.DatagramTransport]] = {}
        self._front: Optional[asyncio.DatagramTransport] = None

    async def __aenter__(self) -> Relay:
        self._front = await self._open(("127.0.0.1", 0), None, self._from_client)
        self.uri = f"coap://127.0.0.1:{self._front.get_extra_info('sockname')[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._front is not None
        self._front.close()
        for way in self._ways.values():
            (await way).close()

    def blocks_asked(self) -> Counter[int]:
        """How often each block of an artifact was asked for, a message that was repeated counted once."""
        counted: Counter[int] = Counter()
        seen = set()
        for each in self.passed:
            message = decode(each.data)
            key = each.client, message.message_id, message.token
            if each.to_server and block_asked(message) is not None and key not in seen:
                seen.add(key)
                counted[block_asked(message) or 0] += 1
        return counted

    def write_pcap(self, path: Path) -> None:
        """Write what passed as a capture."""
        with open(path, "wb") as file:
            file.write(_PCAP_HEADER)
            for each in self.passed:
                packet = _packet(each)
                seconds = int(each.at)
                header = seconds, int((each.at - seconds) * 1e6), len(packet), len(packet)
                file.write(struct.pack("<IIII", *header) + packet)

    async def _open(
        self, local: Optional[Address], remote: Optional[Address], received: Callable[[bytes, Address], None]
    ) -> asyncio.DatagramTransport:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Protocol(received), local_addr=local, remote_addr=remote
        )
        return transport

    def _from_client(self, data: bytes, client: Address) -> None:
        if not self._lets_through(data, client, True):
            return
        way = self._ways.get(client)
        if way is None:
            way = self._ways[client] = asyncio.get_running_loop().create_task(
                self._open(None, self._server, lambda data, _server: self._from_server(data, client))
            )
        way.add_done_callback(lambda way: way.result().sendto(data))

    def _from_server(self, data: bytes, client: Address) -> None:
        if self._lets_through(data, client, False):
            assert self._front is not None
            self._front.sendto(data, client)

    def _lets_through(self, data: bytes, client: Address, to_server: bool) -> bool:
        self.passed.append(Passed(asyncio.get_running_loop().time(), client, to_server, data))
        return self.passes is None or self.passes(data, to_server)


class _Protocol(asyncio.DatagramProtocol):
    def __init__(self, received: Callable[[bytes, Address], None]) -> None:
        self._received = received

    def datagram_received(self, data: bytes, address: Address) -> None:
        self._received(data, address)

    def error_received(self, error: Exception) -> None:
        """A server that is away is what a datagram lost on its way looks like from here."""


def block_asked(message: Message) -> Optional[int]:
    """The number of the artifact's block that a message asks for; None if it is something else."""
    is_asking = message.code == codes.GET and message.type == CON and message.options.path[:1] == ("firmware",)
    return (message.options.uint(BLOCK2) or 0) >> 4 if is_asking else None


def _packet(passed: Passed) -> bytes:
    """The datagram with headers of IPv4 and UDP."""
    server, client = ("127.0.0.1", _SERVER_PORT), passed.client
    source, target = (client, server) if passed.to_server else (server, client)
    length = 8 + len(passed.data)
    addresses = [bytes(map(int, host.split("."))) for host, _port in (source, target)]
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + length, 0, 0, 64, 17, 0, *addresses)
    return head + struct.pack("!HHHH", source[1], target[1], length, 0) + passed.data
