"""Many clients and one server on a bad network, from a seed: nothing happens twice or by halves, nothing stays.

The same through pretended DTLS, where clients besides change their addresses in the middle of it all.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Optional

import pytest

from minicoap.codec import codes
from minicoap.core.endpoint import EndpointCore
from minicoap.core.request import Deferred, Path, Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.errors import NetworkError
from minicoap.security.association import server_path
from minicoap.simulate.dtls import make_certificate, secured
from minicoap.simulate.link import Link
from minicoap.simulate.world import Host, World
from tests.minicoap.core.solo import LIFETIME

SERVER = ("server", 5683)
CLIENTS = 8
REQUESTS = 12  # of each client
REBINDINGS = 1  # of each client, where the network is bad


def body_of(name: str, size: int) -> bytes:
    """Bytes that show whose they are and whether any is missing."""
    return (name.encode() * (size // len(name) + 1))[:size]


class Server:
    """Answers at random times and writes down what it was asked to do."""

    def __init__(self, world: World, secure: bool) -> None:
        self.chance = world.entropy("server's choices")
        self.world = world
        self.posted: Counter[str] = Counter()
        self.stored: dict[str, bytes] = {}
        self.sinks: list[Sink] = []
        self.host = world.host(SERVER)
        site = Site(
            Resource("/post/{name}", post=self.post, max_body=100_000),
            Resource("/store/{name}", put=self.put),
            Resource("/stream/{name}", upload=self.open),
            Resource("/page/{name}/{size}", get=self.get),
        )
        self.core = EndpointCore(world.entropy("server"), site=site)
        self.machine = secured(world, "server", self.core, certificate=make_certificate("s", names=["server"]))
        self.host.boot(self.machine if secure else self.core)

    def answer(self, request: Request, response: Response, deferred: Optional[Deferred] = None) -> Any:
        """Answer now, soon or late."""
        delay = (0.0, 0.0, 0.5, 3.0)[self.chance.integer(2)] * self.chance.uniform(0.5, 1.5)
        if not delay and deferred is None:
            return response
        later = deferred or request.defer()
        self.host.call_later(delay, lambda: later.resolve(response, self.world.now))
        return later

    def post(self, request: Request) -> Any:
        name = request.args["name"]
        self.posted[name] += 1
        assert request.payload == body_of(name, len(request.payload))
        return self.answer(request, Response(codes.CHANGED, request.payload[::-1]))

    def put(self, request: Request) -> Any:
        self.stored[request.args["name"]] = request.payload
        return self.answer(request, Response(codes.CHANGED))

    def get(self, request: Request) -> Any:
        return self.answer(request, Response(payload=body_of(request.args["name"], int(request.args["size"]))))

    def open(self, request: Request) -> Sink:
        self.sinks.append(Sink(self, request))
        return self.sinks[-1]


class Sink:
    """Puts a body together; written in order, ended once."""

    def __init__(self, server: Server, request: Request) -> None:
        self.server, self.request = server, request
        self.data = b""
        self.ends: list[str] = []

    def write_at(self, offset: int, data: bytes) -> None:
        assert (offset, self.ends) == (len(self.data), [])
        self.data += data

    def finish(self, answer: Deferred) -> None:
        self.ends.append("finish")
        self.server.stored[self.request.args["name"]] = self.data
        self.server.answer(self.request, Response(codes.CHANGED), answer)

    def abort(self, reason: str) -> None:
        self.ends.append("abort")


class Client:
    """Asks for this and that at random times, and checks what it gets."""

    def __init__(self, world: World, server: Server, index: int, secure: bool) -> None:
        self.world, self.server, self.index = world, server, index
        self.chance = world.entropy(f"client {index}'s choices")
        self.host: Host = world.host((f"client-{index}", 5683))
        self.core = EndpointCore(world.entropy(f"client {index}"))
        self.machine = secured(world, f"client {index}", self.core, certificate=make_certificate(f"client {index}"))
        self.host.boot(self.machine if secure else self.core)
        self.path: Path = server_path(SERVER, "server") if secure else SERVER
        for number in range(REBINDINGS if secure and world.default_link.loss else 0):
            self.host.call_later(self.chance.uniform(0.0, 60.0), self.host.rebind, (f"client-{index}", 6000 + number))
        self.outcomes: dict[str, list[Any]] = {}
        self.cancelled: dict[str, list[Any]] = {}
        self.expected: dict[str, tuple[str, int]] = {}
        for number in range(REQUESTS):
            self.host.call_later(self.chance.uniform(0.0, 60.0), self.start, f"{index}.{number}/")

    def start(self, name: str) -> None:
        kind = ("post", "store", "stream", "page")[self.chance.integer(2)]
        size = (10, 1024, 1500, 6000)[self.chance.integer(2)]
        confirmable = self.chance.integer(3) != 0
        szx = 6 if self.chance.integer(1) else 4
        body = b"" if kind == "page" else body_of(name, size)
        path = (kind, name, str(size)) if kind == "page" else (kind, name)
        code = {"post": codes.POST, "page": codes.GET}.get(kind, codes.PUT)
        outcomes: list[Any] = []
        transfer = self.core.request(
            code,
            self.path,
            outcomes.append,
            self.world.now,
            uri_path=path,
            payload=body,
            confirmable=confirmable,
            szx=szx,
        )
        self.expected[name] = (kind, size)
        if self.chance.integer(3):
            self.outcomes[name] = outcomes
        else:
            self.cancelled[name] = outcomes
            self.host.call_later(self.chance.uniform(0.0, 3.0), self.cancel, transfer, outcomes)

    def cancel(self, transfer: Any, outcomes: list[Any]) -> None:
        transfer.cancel(self.world.now)
        count = len(outcomes)
        self.host.call_later(400.0, lambda: outcomes.append(None) if len(outcomes) != count else None)

    def check(self) -> int:
        """Check all outcomes; return how many requests succeeded."""
        successes = 0
        for name, outcomes in self.outcomes.items():
            kind, size = self.expected[name]
            (outcome,) = outcomes
            if not isinstance(outcome, Response):
                assert isinstance(outcome, NetworkError), outcome
                continue
            successes += 1
            assert outcome.is_success, outcome
            expected = body_of(name, size)
            if kind == "page":
                assert outcome.body == expected
            elif kind == "post":
                assert outcome.body == expected[::-1]
                assert self.server.posted[name] == 1
            else:
                assert self.server.stored[name] == expected
        assert all(len(outcomes) <= 1 for outcomes in self.cancelled.values())
        return successes


def run(seed: int, secure: bool = False, **link: float) -> tuple[World, Server, list[Client]]:
    world = World(seed, link=Link(**link))
    server = Server(world, secure)
    clients = [Client(world, server, index, secure) for index in range(CLIENTS)]
    world.run_for(2000.0)
    return world, server, clients


@pytest.mark.parametrize("secure", [False, True], ids=["coap", "coaps"])
@pytest.mark.parametrize("seed", range(20))
def test_bad_network_makes_nothing_happen_twice_or_by_halves_and_leaves_nothing(seed: int, secure: bool) -> None:
    world, server, clients = run(seed, secure, loss=0.2, duplicate=0.1, delay=0.05, jitter=1.0)
    successes = sum(client.check() for client in clients)
    assert successes > CLIENTS * REQUESTS // 2
    assert max(server.posted.values()) == 1
    for name, body in server.stored.items():
        assert body == body_of(name, len(body))
    assert all(len(sink.ends) == 1 for sink in server.sinks)
    world.run_for(4 * LIFETIME)
    for endpoint in (server.core, *(client.core for client in clients)):
        assert not any(endpoint.footprint().values()), endpoint.footprint()
    for machine in (server.machine, *(client.machine for client in clients)):
        footprint = machine.footprint()
        assert footprint["half_open"] == 0, footprint
        assert footprint["channels"] <= footprint["associations"] <= 2 * CLIENTS, footprint
        assert footprint["timers"] <= 1, footprint  # the next look for what is idle


@pytest.mark.parametrize("secure", [False, True], ids=["coap", "coaps"])
def test_good_network_makes_everything_succeed(secure: bool) -> None:
    _, _, clients = run(99, secure, delay=0.05, jitter=0.1)
    assert sum(client.check() for client in clients) == sum(len(client.outcomes) for client in clients)


@pytest.mark.parametrize("secure", [False, True], ids=["coap", "coaps"])
def test_same_seed_gives_the_same_run(secure: bool) -> None:
    assert run(7, secure, loss=0.2, jitter=1.0)[0].digest == run(7, secure, loss=0.2, jitter=1.0)[0].digest
