"""A program that attacks a server of CoAPS: `python -m tests.system.dtls_attacker KIND SECONDS PORT`.

It sends as fast as one process can, from ever other ports and addresses of loopback, and prints what it did as JSON.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import select
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Callable, Optional

from OpenSSL import SSL

from minicoap.security.credentials import Credentials
from minicoap.security.dtls import CLOSED, HANDSHAKE, OPEN, Dtls, DtlsSession
from minicoap.shell.entropy import SystemEntropy
from tests.minicoap.security.certificates import Authority
from tests.minicoap.security.pair import with_cookie

SOURCES = 400  # sockets, each with an address of its own
LOOKED = 64  # datagrams between two looks at the clock
KEPT = 800  # sockets behind those, open
TOGETHER = 32  # handshakes that an attacker has under way himself
PATIENCE = 0.2  # seconds that he waits for an answer to any of them
ENTROPY = SystemEntropy()

Address = tuple[str, int]
Attack = Callable[[Address, float], "Counter[str]"]


def source(number: int) -> socket.socket:
    """A socket at an address of loopback, which hears little of what it is answered."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    sock.bind((f"127.66.{number >> 7 & 127}.{1 + (number & 127)}", 0))
    sock.setblocking(False)
    return sock


def flood(server: Address, until: float, datagrams: Sequence[bytes]) -> Counter[str]:
    """Send datagrams without listening to anything."""
    sent = 0
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(source(number)) for number in range(SOURCES)]
        for sock in sockets:
            sock.connect(server)
        sends = itertools.cycle([sock.send for sock in sockets])
        bodies = itertools.cycle(datagrams)
        while time.monotonic() < until:
            for send, body, _ in zip(sends, bodies, range(LOOKED)):
                send(body)
            sent += LOOKED
    return Counter(sent=sent)


def engine(credentials: Optional[Credentials] = None) -> Dtls:
    """What makes a client's sessions: one who believes every server, and is nobody."""
    return Dtls(credentials or Credentials(verify_server=False), time.time)


def prebuilt(count: int) -> list[bytes]:
    """First hellos of clients."""
    dtls = engine()
    return [dtls.connect("127.0.0.1").datagrams()[0] for _ in range(count)]


def hellos(server: Address, until: float) -> Counter[str]:
    """Hellos without a cookie, whose answers nobody hears."""
    return flood(server, until, prebuilt(500))


def cookies(server: Address, until: float) -> Counter[str]:
    """Hellos with cookies that nobody gave."""
    return flood(server, until, [with_cookie(hello, ENTROPY.token(16)) for hello in prebuilt(500)])


def garbage(server: Address, until: float) -> Counter[str]:
    """Records of every kind with bytes of chance in them, in either epoch."""
    datagrams = [
        bytes((kind, 0xFE, 0xFD, 0, epoch)) + bytes(6) + size.to_bytes(2, "big") + ENTROPY.token(size)
        for kind in range(18, 66)
        for epoch in (0, 1)
        for size in (1, 13, 100, 1200)
    ]
    return flood(server, until, [*datagrams, *(ENTROPY.token(size) for size in range(1, 100))])


def replays(server: Address, until: float) -> Counter[str]:
    """A whole handshake and a request, captured, again and again: from the address that it came from, and others."""
    dtls = engine()
    with source(0) as sock:
        sock.connect(server)
        session = dtls.connect("127.0.0.1")
        captured: list[bytes] = []
        while session.state == HANDSHAKE:
            captured += (said := session.datagrams())
            for data in said:
                sock.send(data)
            if not select.select([sock], [], [], PATIENCE)[0]:
                session.repeat()
                continue
            session.receive(sock.recv(4096))
        session.send(b"\x40\x01\x00\x01\xb4test")
        captured += session.datagrams()
        sent = 0
        while time.monotonic() < until:
            for data in captured:
                sock.send(data)
            sent += len(captured)
            if sent % LOOKED < len(captured):
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sock.recv(4096)
            if sent > 20_000:  # then from everywhere
                return Counter(sent=sent) + flood(server, until, captured)
        return Counter(sent=sent)


def waves(server: Address, until: float) -> Iterator[list[socket.socket]]:
    """Sockets for one wave of handshakes after the other.

    They stay open for a while: a closed one would say by ICMP that nobody listens, which ends a handshake.
    """
    numbers = itertools.count()
    kept: deque[socket.socket] = deque()
    with contextlib.ExitStack() as stack:
        while time.monotonic() < until:
            sockets = [stack.enter_context(source(next(numbers))) for _ in range(TOGETHER)]
            for sock in sockets:
                sock.connect(server)
            kept.extend(sockets)
            yield sockets
            while len(kept) > KEPT:
                kept.popleft().close()


def heard(sockets: Sequence[socket.socket]) -> Iterator[tuple[socket.socket, bytes]]:
    """What comes in to any of these, until nothing comes any more."""
    while readable := select.select(sockets, [], [], PATIENCE)[0]:
        for sock in readable:
            with contextlib.suppress(OSError):
                yield sock, sock.recv(4096)


def halfway(server: Address, until: float, last: Callable[[bytes], Sequence[bytes]]) -> Counter[str]:
    """Handshakes that go as far as the server's certificate, at no cost; then `last`, given the hello, is sent."""
    told: Counter[str] = Counter()
    built = prebuilt(500)
    for sockets in waves(server, until):
        waiting = dict(zip(sockets, itertools.islice(itertools.cycle(built), told["begun"] % 500, None)))
        told["begun"] += len(waiting)
        for sock, hello in waiting.items():
            sock.send(hello)
        while waiting:
            readable = select.select(list(waiting), [], [], PATIENCE)[0]
            if not readable:
                break
            for sock in readable:
                answer = sock.recv(4096)
                if answer[13:14] == b"\x03":
                    sock.send(with_cookie(waiting[sock], answer[28 : 28 + answer[27]]))
                    continue
                for data in last(waiting.pop(sock)):
                    sock.send(data)
                told["halfway"] += 1
    return told


def half_open(server: Address, until: float) -> Counter[str]:
    """Handshakes that stop where they have cost the server most."""
    return halfway(server, until, lambda hello: ())


def alerts(server: Address, until: float) -> Counter[str]:
    """Handshakes that are broken off by a fatal alert."""
    return halfway(server, until, lambda hello: (b"\x15\xfe\xfd\0\0\0\0\0\0\0\2\0\2\2\x28",) * 3)


def strangers(server: Address, until: float) -> Counter[str]:
    """Whole handshakes with certificates of an authority that the server does not know."""
    authority = Authority("another authority")
    pair = authority.issue("n1", uris=["urn:fleet:node:n1"])
    credentials = Credentials(certificate=pair.certificate, key=pair.key, verify_server=False)
    return handshakes(server, until, engine(credentials), lambda session: None)


def renegotiations(server: Address, until: float) -> Counter[str]:
    """Sessions of nobody, in which handshakes are asked for."""
    SSL.OP_NO_RENEGOTIATION = 0  # or our own side would not ask for any
    dtls = engine()

    def again(session: DtlsSession) -> None:
        with contextlib.suppress(dtls.ssl.Error):
            session.connection.renegotiate()
            session.connection.do_handshake()

    return handshakes(server, until, dtls, again)


def handshakes(server: Address, until: float, dtls: Dtls, opened: Callable[[DtlsSession], None]) -> Counter[str]:
    """Shake hands, with what `opened` does in a session that is agreed on."""
    told: Counter[str] = Counter()
    for sockets in waves(server, until):
        sessions = {sock: dtls.connect("127.0.0.1") for sock in sockets}
        for sock, session in sessions.items():
            for data in session.datagrams():
                sock.send(data)
        for sock, answer in heard(sockets):
            session = sessions[sock]
            was = session.state
            if was == CLOSED:
                continue
            session.receive(answer)
            if was == HANDSHAKE and session.state == OPEN:
                opened(session)
            for data in session.datagrams():
                sock.send(data)
        told += Counter(session.state for session in sessions.values())
    return told


ATTACKS: tuple[Attack, ...] = (
    hellos, cookies, garbage, replays, half_open, alerts, strangers, renegotiations,
)  # fmt: skip

if __name__ == "__main__":
    kind, seconds, port = sys.argv[1:]
    (attack,) = (attack for attack in ATTACKS if attack.__name__ == kind)
    print(json.dumps(attack(("127.0.0.1", int(port)), time.monotonic() + float(seconds))))
