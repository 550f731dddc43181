"""A server of CoAPS under attack over real sockets, while its nodes work: it serves them, and its memory stays.

`DTLS_ATTACK_NODES=100 DTLS_ATTACK_SECONDS=10` is the full size. Server, nodes and attacker share one interpreter, so
the attacker pauses now and then, for what a full queue of the system loses is not in our hands.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from minicoap import Endpoint, Resource, Site
from minicoap.security.dtls import Dtls
from minicoap.security.sessions import SecurityLimits
from minicoap.shell.entropy import SystemEntropy
from tests.minicoap.security.pair import HOST, client_credentials, server_credentials, whoami

NODES = int(os.environ.get("DTLS_ATTACK_NODES", "20"))
SECONDS = float(os.environ.get("DTLS_ATTACK_SECONDS", "2"))
MIB = 1 << 20
HALF_OPEN = 64
PAUSE = 0.01  # seconds, after each source's share
LIMITS = SecurityLimits(half_open=HALF_OPEN)

Attack = Callable[[tuple[str, int], threading.Event], int]


def resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sources() -> Iterator[socket.socket]:
    """Sockets at ever new addresses of loopback."""
    for number in itertools.count():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(0.2)
        sock.bind((f"127.66.{number >> 7 & 127}.{1 + (number & 127)}", 0))
        yield sock
        time.sleep(PAUSE)


def spoofed_hellos(server: tuple[str, int], stop: threading.Event) -> int:
    """Hellos as fast as they leave, with answers that nobody hears."""
    dtls = Dtls(client_credentials(), SystemEntropy(), time.time)
    hellos = [dtls.connect(HOST).datagrams()[0] for _ in range(50)]
    sent = 0
    for sock in sources():
        with sock:
            for hello in hellos:
                sock.sendto(hello, server)
                sent += 1
        if stop.is_set():
            return sent
    return sent


def half_open_handshakes(server: tuple[str, int], stop: threading.Event) -> int:
    """Handshakes with a cookie that are left where they have cost the server most."""
    dtls = Dtls(client_credentials(), SystemEntropy(), time.time)
    begun = 0
    for sock in sources():
        with sock:
            session = dtls.connect(HOST)
            for data in session.datagrams():
                sock.sendto(data, server)
            try:
                session.receive(sock.recv(2048))
            except socket.timeout:
                pass
            for data in session.datagrams():
                sock.sendto(data, server)
            begun += 1
        if stop.is_set():
            return begun
    return begun


def garbage(server: tuple[str, int], stop: threading.Event) -> int:
    """Records of every kind with bytes of chance in them."""
    entropy = SystemEntropy()
    bodies = [entropy.token(size) for size in (1, 13, 100, 1200)]
    sent = 0
    for sock in sources():
        with sock:
            for first in range(18, 66):
                for body in bodies:
                    header = bytes((first, 0xFE, 0xFD, 0, first & 1)) + bytes(6) + len(body).to_bytes(2, "big")
                    sock.sendto(header + body, server)
                    sent += 1
        if stop.is_set():
            return sent
    return sent


def replayed_handshakes(server: tuple[str, int], stop: threading.Event) -> int:
    """A handshake captured in full, again and again: from its own address, and from others."""
    captured: list[bytes] = []
    dtls = Dtls(client_credentials(), SystemEntropy(), time.time)
    own = next(sources())
    sent = 0
    with own:
        session = dtls.connect(HOST)
        while session.state == "handshake":
            for data in session.datagrams():
                captured.append(data)
                own.sendto(data, server)
            session.receive(own.recv(4096))
        session.send(b"\x40\x01\x00\x01\xb6whoami")
        captured += session.datagrams()
        own.sendto(captured[-1], server)
        for sock in sources():
            with sock:
                for data in captured:
                    own.sendto(data, server)
                    sock.sendto(data, server)
                    sent += 2
            if stop.is_set():
                return sent
    return sent


@pytest.mark.parametrize("attack", [spoofed_hellos, half_open_handshakes, garbage, replayed_handshakes])
def test_nodes_are_served_and_memory_is_bounded_under(attack: Attack) -> None:
    async def node(uri: str, until: float, answers: list[float]) -> None:
        async with Endpoint(credentials=client_credentials(server="urn:fleet:server:main")) as client:
            while time.monotonic() < until:
                began = time.monotonic()
                assert (await client.get(f"{uri}/whoami", timeout=40)).text == "x509 n1 urn:fleet:node:n1"
                answers.append(time.monotonic() - began)
                await asyncio.sleep(0.2)

    async def scenario() -> Any:
        site = Site(Resource("/whoami", get=whoami))
        async with Endpoint(site, credentials=server_credentials(), security_limits=LIMITS) as server:
            await server.serve("coaps://127.0.0.1:0")
            uri = server.local_uri
            address = ("127.0.0.1", int(uri.rpartition(":")[2]))
            warm: list[float] = []
            await asyncio.gather(*(node(uri, time.monotonic() + 0.5, warm) for _ in range(NODES)))
            gc.collect()
            before, stop = resident(), threading.Event()
            assert server._secure is not None
            machine = server._secure.machine
            working = machine.footprint()["associations"]
            attacking = asyncio.get_running_loop().run_in_executor(None, attack, address, stop)
            answers: list[float] = []
            nodes = [asyncio.ensure_future(node(uri, time.monotonic() + SECONDS, answers)) for _ in range(NODES)]
            try:
                await asyncio.gather(*nodes)
            finally:
                stop.set()
                sent = await attacking
            return before, resident(), working, machine.footprint(), answers, sent

    before, after, working, footprint, answers, sent = asyncio.run(asyncio.wait_for(scenario(), 60 + 5 * SECONDS))
    answers.sort()
    print(
        f"{attack.__name__}: {sent:,} in {SECONDS:g} s; {NODES} nodes had {len(answers):,} answers, the slowest after "
        f"{answers[-1]:.2f} s; resident {before / MIB:.1f} -> {after / MIB:.1f} MiB; {footprint}"
    )
    assert sent > 50
    assert len(answers) >= NODES
    assert footprint["half_open"] <= HALF_OPEN
    assert footprint["associations"] <= working + NODES + 2
    assert after - before < 24 * MIB + NODES * 256 * 1024  # the nodes' own sessions, and the half-open ones
