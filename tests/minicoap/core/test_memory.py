"""What a hundred thousand requests leave behind: nothing. REQUESTS=1000000 asks for more, by hand."""

from __future__ import annotations

import gc
import os
import sys
from typing import Callable, Optional

import pytest

from minicoap.codec import codes
from minicoap.codec.message import CON, Message, Options, decode, encode
from minicoap.codec.options import BLOCK1, ECHO, NO_RESPONSE, OBSERVE
from minicoap.core.request import Deferred, Path, Request, Response
from minicoap.core.resource import Resource, Site
from tests.minicoap.core.solo import LIFETIME, Solo, ack, con, empty_ack, non

REQUESTS = int(os.environ.get("REQUESTS", "100000"))
PEERS = [("127.0.0.1", port) for port in range(1, 101)]


class Server:
    """Answers at once or a second later, streams, is observed."""

    def __init__(self) -> None:
        self.waiting: list[Deferred] = []
        handle = self.handle
        self.site = Site(
            Resource("/x", get=handle, post=handle, put=handle, observable=True, group=True),
            Resource("/later", get=self.later, post=self.later),
        )
        self.solo = Solo(self.site)

    def handle(self, request: Request) -> Response:
        return Response(payload=b"some", content_format=0)

    def later(self, request: Request) -> Deferred:
        self.waiting.append(request.defer())
        return self.waiting[-1]

    def ask(self, number: int, request: Message, path: Optional[Path] = None) -> list[Message]:
        """Hand in a request; a second passes every thousand."""
        if number % 1000 == 999:
            self.resolve_all()
        return self.solo.put(request, path or PEERS[number % len(PEERS)])

    def resolve_all(self) -> None:
        """Let a second pass and give the answers that were put off."""
        self.solo.pass_time(1.0)
        for deferred in self.waiting:
            deferred.resolve(Response(codes.CHANGED), self.solo.now)
        self.waiting.clear()
        core = self.solo.core
        while datagrams := core.datagrams_to_send():
            for data, path in datagrams:
                if decode(data).type == CON:
                    core.datagram_received(encode(empty_ack(decode(data))), path, self.solo.now)


def gets(server: Server, number: int) -> None:
    server.ask(number, con(codes.GET, number & 0xFFFF, number.to_bytes(4, "big"), "x"))


def posts(server: Server, number: int) -> None:
    make = non if number % 3 == 0 else con
    server.ask(number, make(codes.POST, number & 0xFFFF, number.to_bytes(4, "big"), "x", payload=b"body"))


def late_answers(server: Server, number: int) -> None:
    server.ask(
        number, con(codes.POST if number % 2 else codes.GET, number & 0xFFFF, number.to_bytes(4, "big"), "later")
    )


def abandoned_uploads(server: Server, number: int) -> None:
    options = ((BLOCK1, b"\x08"), (292, number.to_bytes(4, "big")))
    server.ask(number, con(codes.PUT, number & 0xFFFF, b"t", "x", options=options, payload=bytes(16)))


def observers_come_and_go(server: Server, number: int) -> None:
    options = ((OBSERVE, b"\x01" if number % 2 else b""),)
    path = PEERS[number // 2 % len(PEERS)]
    server.ask(0, con(codes.GET, number & 0xFFFF, (number // 2).to_bytes(4, "big"), "x", options=options), path)
    assert server.solo.core.footprint()["observers"] == 1 - number % 2


def odd_ones(server: Server, number: int) -> None:
    odd = ((NO_RESPONSE, b"\x1a"),) if number % 3 == 0 else ((ECHO, number.to_bytes(8, "big")),)
    request = encode(con(codes.POST, number & 0xFFFF, b"t" * (number % 300), "x", options=odd))
    if number % 7 == 0:
        server.solo.core.multicast_received(request, PEERS[number % len(PEERS)], server.solo.now)
    server.solo.core.datagram_received(request[: len(request) - number % 5], PEERS[0], server.solo.now)
    if number % 1000 == 0:
        server.solo.pass_time(1.0)
    server.solo.core.datagrams_to_send()


def requests_of_ours(server: Server, number: int) -> None:
    solo = server.solo
    outcomes = solo.request(codes.GET, "x", path=PEERS[number % len(PEERS)], confirmable=number % 2 == 0)
    for sent in solo.sent():
        answer = ack(codes.CONTENT, sent) if sent.type == 0 else non(codes.CONTENT, number & 0xFFFF, sent.token)
        solo.put(answer, PEERS[number % len(PEERS)])
    assert len(outcomes) == 1
    if number % 1000 == 0:
        solo.pass_time(1.0)


KINDS = (
    gets, posts, late_answers, abandoned_uploads, observers_come_and_go, odd_ones, requests_of_ours,
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_requests_leave_nothing_behind(kind: Callable[[Server, int], None]) -> None:
    server = Server()

    def rounds(first: int, count: int) -> int:
        for number in range(first, first + count):
            kind(server, number)
        server.resolve_all()
        server.solo.sent()
        server.solo.pass_time(4 * LIFETIME)
        server.solo.core._decoded.clear()  # a cache: how full it happens to be says nothing
        gc.collect()
        assert server.solo.is_empty(), server.solo.core.footprint()
        return sys.getallocatedblocks()

    count = REQUESTS // len(KINDS)
    some = count // 20 * 2
    rounds(0, some)  # what is kept for good is there by now: caches, tables at their size
    before = rounds(some, some)
    after = rounds(2 * some, 10 * some)
    assert after - before < 200, "memory blocks stay allocated"


def test_resident_memory_is_flat() -> None:
    """In kB, as Linux tells it; the first tenth may grow it."""
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("the system does not tell it")

    def resident() -> int:
        gc.collect()
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * 4

    server = Server()
    options = Options([(11, b"x")])
    token = b"t"
    for number in range(REQUESTS // 5):
        server.solo.core.datagram_received(
            encode(Message(0, codes.POST, number & 0xFFFF, token, options)), PEERS[0], 0.0
        )
        server.solo.core.datagrams_to_send()
        if number == REQUESTS // 50:
            server.solo.pass_time(4 * LIFETIME)
            before = resident()
        server.solo.now += 0.01
    server.solo.pass_time(4 * LIFETIME)
    assert resident() - before < 8000
