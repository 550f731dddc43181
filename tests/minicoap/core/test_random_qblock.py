"""Bodies by Q-Block on a network that loses, doubles and reorders, from a seed: whole or loudly failed, none left."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from minicoap.codec import codes
from minicoap.core.parameters import Limits
from minicoap.core.request import Deferred, Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.errors import NetworkError
from minicoap.simulate.link import Link
from minicoap.simulate.pair import Pair
from tests.minicoap.core.quick import body
from tests.minicoap.core.solo import LIFETIME

SEEDS = range(40)


class Disk:
    """A server's sink, in order."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.data = b""
        self.is_over = False

    def write_at(self, offset: int, data: bytes) -> Optional[Response]:
        assert offset == len(self.data) and not self.is_over
        self.data += data
        return None

    def finish(self, answer: Deferred) -> None:
        assert not self.is_over
        self.is_over = True
        self.server.taken.append(self.data)
        answer.resolve(Response(codes.CHANGED), 0.0)

    def abort(self, reason: str) -> None:
        assert not self.is_over
        self.is_over = True


class Server:
    """Gives, takes and turns bodies round."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.sinks: list[Disk] = []

    def site(self) -> Site:
        return Site(
            Resource("/get/{blocks}", get=lambda request: Response(payload=body(int(request.args["blocks"]), 40))),
            Resource("/put", put=self.put, post=self.put, fetch=self.fetch, max_body=1 << 20),
            Resource("/disk", upload=self.open),
        )

    def put(self, request: Request) -> Response:
        self.taken.append(request.payload)
        return Response(codes.CHANGED)

    def fetch(self, request: Request) -> Response:
        return Response(payload=request.payload[::-1])

    def open(self, _: Request) -> Disk:
        self.sinks.append(Disk(self))
        return self.sinks[-1]


class Sink:
    """A client's sink, in order."""

    def __init__(self) -> None:
        self.data = b""

    def begin(self, response: Response, size: Optional[int]) -> None:
        assert not self.data

    def write_at(self, offset: int, data: bytes) -> None:
        assert offset == len(self.data)
        self.data += data


def run(seed: int) -> tuple[list[Any], int]:
    """Three requests at once; returns what became of them, and the digest of all that happened."""
    server = Server()
    chance = Pair().world.entropy(f"requests {seed}")
    loss = (0.0, 0.02, 0.1, 0.3)[chance.integer(2)]
    link = Link(loss=loss, duplicate=0.1, delay=0.05, jitter=0.2)
    limits = Limits(amplification=3 * chance.integer(1))
    pair = Pair(server.site(), seed=seed, link=link, limits=limits)
    started: list[tuple[str, bytes, Sink, list[Any]]] = []
    for _ in range(3):
        kind = ("get", "put", "fetch", "disk")[chance.integer(2)]
        data = body(1 + chance.integer(5), 40)
        confirmable = chance.integer(1) == 1
        sink = Sink()
        common: dict[str, Any] = {"qblock": True, "confirmable": confirmable}
        if kind == "get":
            outcomes = pair.start(codes.GET, "get", str(len(data) // 1024), sink=sink, **common)
        elif kind == "fetch":
            outcomes = pair.start(codes.FETCH, "put", payload=data, sink=sink, **common)
        else:
            outcomes = pair.start(codes.PUT, kind, payload=data, **common)
        started.append((kind, data, sink, outcomes))
    pair.world.run_for(8 * LIFETIME)
    told = []
    for kind, data, sink, outcomes in started:
        (outcome,) = outcomes
        told.append(type(outcome).__name__)
        if not isinstance(outcome, Response):
            assert isinstance(outcome, NetworkError) and loss >= 0.1, outcome  # a body may be lost, not broken
        elif kind in ("put", "disk"):
            assert outcome.code == codes.CHANGED and data in server.taken
        else:
            assert outcome.code == codes.CONTENT and sink.data == (data if kind == "get" else data[::-1])
    assert all(disk.is_over for disk in server.sinks)
    for core in (pair.client, pair.server):
        assert not any(core.footprint().values()), core.footprint()
    return told, pair.world.digest


@pytest.mark.parametrize("seed", SEEDS)
def test_bodies_arrive_whole_or_fail_loudly_and_nothing_is_left(seed: int) -> None:
    run(seed)


def test_the_same_seed_gives_the_same_world() -> None:
    assert run(7) == run(7)


def test_most_bodies_arrive_even_if_a_tenth_is_lost() -> None:
    told = [name for seed in SEEDS for name in run(seed)[0]]
    assert told.count("Response") >= 0.9 * len(told)


def test_what_a_body_holds_in_memory_does_not_grow_with_it() -> None:
    """A gap that stays while set after set arrives: what waits behind it is bounded."""
    server = Server()
    pair = Pair(server.site(), link=Link(delay=0.01))
    held = 0

    def look() -> None:
        nonlocal held
        exchanges = pair.server._exchanges
        quick = exchanges.quick_server
        if quick is not None:
            for upload in quick._uploads.values():
                held = max(held, sum(map(len, upload.incoming._early.values())))

    pair.world.after_event.append(look)
    pair.there.admits = lambda data: (
        b"\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x02" not in data or pair.world.now > 40
    )
    outcome = pair.outcome(codes.PUT, "disk", payload=body(200), qblock=True, confirmable=False)
    assert isinstance(outcome, Response) and server.taken == [body(200)]
    assert 10 * 1024 < held <= 20 * 1024
