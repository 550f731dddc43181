"""Many observers of one server on a bad network, from a seed: none sees time go back, each has the last state in the
end, and when they are gone nothing is left. The same through pretended DTLS."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from minicoap.core.endpoint import EndpointCore
from minicoap.core.observe_client import Observation
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
NAMES = ("short", "unconfirmed", "late", "long", "pumping")
BAD = {"loss": 0.2, "duplicate": 0.1, "delay": 0.05, "jitter": 1.0}
BUSY = 150.0  # seconds of changes and churn


class Server:
    """Resources that count; their state outlives a crash of the server."""

    def __init__(self, world: World, secure: bool) -> None:
        self.world = world
        self.secure = secure
        self.chance = world.entropy("server's choices")
        self.host: Host = world.host(SERVER)
        self.values = dict.fromkeys(NAMES, 0)
        self.lives = 0
        self.boot()
        for name in NAMES:
            for _ in range(40):
                world.call_later(self.chance.uniform(0.0, BUSY), self.change, name)

    def boot(self) -> None:
        self.lives += 1
        self.site = Site(
            *(
                Resource(f"/{name}", get=self.get, observable=True, notify_confirmable=name != "unconfirmed")
                for name in NAMES
            )
        )
        name = f"server {self.lives}"
        self.core = EndpointCore(self.world.entropy(name), site=self.site)
        self.machine = secured(self.world, name, self.core, certificate=make_certificate("s", names=["server"]))
        self.host.boot(self.machine if self.secure else self.core)

    def change(self, name: str) -> None:
        self.values[name] += 1
        self.site.changed(f"/{name}")
        self.host.wake()

    def get(self, request: Request) -> Any:
        (name,) = request.uri_path
        value = self.values[name]
        size = {"long": 2500, "pumping": 1500 * (value % 2)}.get(name, 0)
        response = Response(payload=(b"%d;" % value).ljust(size, b"%d" % (value % 10)), max_age=20)
        if name != "late":
            return response
        deferred = request.defer()
        self.host.call_later(self.chance.uniform(0.0, 3.0), self.resolve, deferred, response)
        return deferred

    def resolve(self, deferred: Deferred, response: Response) -> None:
        deferred.resolve(response, self.world.now)


class Observer:
    """One that begins at a random time, and may end at one, or be cut off and begin anew."""

    def __init__(self, world: World, server: Server, index: int) -> None:
        self.world, self.server = world, server
        self.chance = world.entropy(f"observer {index}'s choices")
        self.host = world.host((f"client-{index}", 5683))
        self.index = index
        self.told: dict[str, int] = {}
        self.observations: dict[str, Observation] = {}
        self.failed: dict[str, NetworkError] = {}
        self.lives = 0
        self.count = 0
        self.boot()

    def boot(self) -> None:
        self.lives += 1
        name = f"client {self.index} {self.lives}"
        self.core = EndpointCore(self.world.entropy(name))
        secure = self.server.secure
        self.path: Path = server_path(SERVER, "server") if secure else SERVER
        machine = secured(self.world, name, self.core, certificate=make_certificate(f"client {self.index}"))
        self.host.boot(machine if secure else self.core)
        self.told.clear()
        self.observations.clear()
        self.failed.clear()
        for name in NAMES:
            self.host.call_later(self.chance.uniform(0.0, 30.0), self.start, name)
        if self.chance.integer(1):
            self.host.call_later(
                self.chance.uniform(20.0, 100.0), self.stop, NAMES[self.chance.integer(8) % len(NAMES)]
            )

    def start(self, name: str) -> None:
        lives = self.lives

        def update(outcome: Any) -> None:
            assert lives == self.lives
            if not isinstance(outcome, Response):
                assert isinstance(outcome, NetworkError), outcome
                self.failed[name] = outcome
                return
            assert outcome.is_success
            assert outcome.is_notification
            value = int(outcome.body.split(b";")[0])
            assert not outcome.body.strip(b"%d" % (value % 10)).strip(b"0123456789;")
            assert value >= self.told.get(name, 0), "time went back"
            self.told[name] = value
            self.count += 1

        self.observations[name] = self.core.observe(
            self.path,
            update,
            self.world.now,
            uri_path=(name,),
            confirmable=self.chance.integer(2) != 0,
            patience=10_000.0,
        )

    def stop(self, name: str) -> None:
        observation = self.observations.pop(name, None)
        if observation is not None:
            observation.cancel(self.world.now)
            if self.chance.integer(1):
                self.host.call_later(self.chance.uniform(1.0, 20.0), self.restart, name)

    def restart(self, name: str) -> None:
        self.told.pop(name, None)
        self.start(name)

    def stop_all(self) -> None:
        for name in list(self.observations):
            self.observations.pop(name).cancel(self.world.now)


def check_outstanding(core: EndpointCore) -> None:
    """RFC 7641 §4.5.1, with NSTART = 1."""
    for peer in core._peers._by_path.values():
        assert len(peer.outstanding) <= 1


def run(
    seed: int, crash: Optional[str] = None, *, secure: bool = False, **link: float
) -> tuple[World, Server, list[Observer]]:
    world = World(seed, link=Link(**link))
    server = Server(world, secure)
    observers = [Observer(world, server, index) for index in range(CLIENTS)]
    world.after_event.append(lambda: check_outstanding(server.core))
    if crash == "server":
        world.call_at(70.0, server.boot)
    elif crash == "clients":
        for observer in observers[::2]:
            world.call_at(70.0 + observer.index, observer.boot)
    elif crash == "addresses":
        for observer in observers:
            world.call_at(70.0 + observer.index, observer.host.rebind, (f"client-{observer.index}", 6000))
    world.run_for(BUSY)
    return world, server, observers


@pytest.mark.parametrize(
    ("secure", "crash"),
    [(secure, crash) for secure in (False, True) for crash in (None, "server", "clients")] + [(True, "addresses")],
)
@pytest.mark.parametrize("seed", range(8))
def test_bad_network_lets_every_observer_have_the_last_state_and_leaves_nothing(
    seed: int, crash: Optional[str], secure: bool
) -> None:
    world, server, observers = run(seed, crash, secure=secure, **BAD)
    world.heal()
    world.run_for(400.0)  # a registration that waits for a repetition, one more after Max-Age, the confirming ones
    alive = 0
    for observer in observers:
        for name in observer.observations:
            if name in observer.failed:
                continue
            assert observer.told[name] == server.values[name], (observer.index, name)
            alive += 1
    assert alive > CLIENTS * len(NAMES) // 2
    assert server.core.footprint()["observers"] == alive
    for observer in observers:
        observer.stop_all()
        observer.host.wake()
    world.run_for(60.0)
    assert server.core.footprint()["observers"] <= 2  # whose last registration was overtaken by their farewell
    for name in NAMES:
        server.change(name)
    world.run_for(60.0)
    assert server.core.footprint()["observers"] == 0
    world.run_for(5 * LIFETIME)
    for core in (server.core, *(observer.core for observer in observers)):
        assert not any(core.footprint().values()), core.footprint()


def test_bad_network_that_stays_bad_lets_every_observer_have_the_last_state_all_the_same() -> None:
    world, server, observers = run(11, **BAD)
    world.run_for(600.0)
    for observer in observers:
        for name in observer.observations:
            assert name in observer.failed or observer.told[name] == server.values[name]


def test_observers_that_vanish_leave_nothing() -> None:
    world, server, observers = run(12, **BAD)
    for observer in observers:
        observer.host.crash()
    world.run_for(2 * 24 * 3600.0)
    assert not any(server.core.footprint().values()), server.core.footprint()


def test_good_network_shows_most_states_and_all_of_the_last() -> None:
    world, server, observers = run(13, delay=0.05, jitter=0.05)
    assert sum(observer.count for observer in observers) > 40 * CLIENTS * 3
    world.run_for(30.0)
    for observer in observers:
        assert not observer.failed
        assert {name: server.values[name] for name in observer.observations} == {
            name: observer.told[name] for name in observer.observations
        }


@pytest.mark.parametrize("secure", [False, True], ids=["coap", "coaps"])
def test_same_seed_gives_the_same_run(secure: bool) -> None:
    assert run(7, "server", secure=secure, **BAD)[0].digest == run(7, "server", secure=secure, **BAD)[0].digest
