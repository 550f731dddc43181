"""A node renews its certificate by itself: in time, through lost answers, refusals and restarts, without a clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.agent.renewal import LONGEST_WAIT, LOOK, Renewal
from fleet.model.roles import NODE, Principal
from fleet.pki.certificates import DAY, decode_der
from fleet.pki.keystore import Holder, Keystore
from fleet.pki.renewal import KnownTime, renewal_due_at
from fleet.pki.requests import read_request
from minicoap.core.endpoint import EndpointCore
from minicoap.core.identity import Identity
from minicoap.core.machine import DatagramMachine
from minicoap.core.request import Path as Address
from minicoap.core.timers import Timers
from tests.fleet.server.secured import SecuredServed
from tests.fleet.server.serving import EPOCH, SERVER

PUMP = Principal(NODE, "pump-7")
ADDRESS = ("192.0.2.20", 5684)


class Node:
    """A node that does nothing but keep its certificate."""

    def __init__(self, served: SecuredServed, keystore: Keystore, *, has_clock: bool = True) -> None:
        self.world = served.world
        self.has_clock = has_clock
        self.renewed: list[Holder] = []
        holder = keystore.holder()
        assert holder is not None
        served.identities[ADDRESS] = Identity("x509", PUMP.name, (PUMP.uri,))
        self.host = served.world.host(ADDRESS)
        self.endpoint = EndpointCore(served.world.entropy(f"node {served.world.events}"))
        self.timers = Timers()
        self.time = KnownTime(self, holder.not_before)
        self.renewal = Renewal(
            self.endpoint, SERVER, keystore, holder, clock=self, time=self.time, timers=self.timers,
            entropy=served.world.entropy("renewal"), renewed=self.renewed.append,
        )  # fmt: skip
        self.host.boot(self)
        self.renewal.look(self.world.now)
        self.host.wake()

    def monotonic(self) -> float:
        return self.world.now

    def wall(self) -> float:
        return EPOCH + self.world.now if self.has_clock else self.world.now

    def is_wall_trusted(self) -> bool:
        return self.has_clock

    def datagram_received(self, data: bytes, path: Address, now: float) -> None:
        self.endpoint.datagram_received(data, path, now)

    def path_failed(self, path: Address, error: OSError, now: float) -> None:
        self.endpoint.path_failed(path, error, now)

    def datagrams_to_send(self) -> list[tuple[bytes, Address]]:
        return self.endpoint.datagrams_to_send()

    def next_timeout(self) -> float | None:
        due = [when for when in (self.timers.next_deadline(), self.endpoint.next_timeout()) if when is not None]
        return min(due, default=None)

    def handle_timeout(self, now: float) -> None:
        self.endpoint.handle_timeout(now)
        self.timers.run(now)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[SecuredServed]:
    served = SecuredServed(tmp_path / "pki")
    yield served
    served.authority.close()


@pytest.fixture
def keystore(served: SecuredServed, tmp_path: Path) -> Keystore:
    keystore = Keystore(str(tmp_path / "node"))
    underway = keystore.begin(PUMP)
    token, _ = served.authority.make_token(int(EPOCH))
    request = read_request(underway.der)._replace(token=token)
    issued = served.registrar.enrol(request, "192.0.2.20", int(EPOCH))
    keystore.finish(decode_der(issued.der), [served.authority.certificate])  # type: ignore[union-attr]
    return keystore


def test_it_renews_when_two_thirds_are_over_and_again_after_that(served: SecuredServed, keystore: Keystore) -> None:
    first = keystore.holder()
    assert first is not None
    node = Node(served, keystore)

    served.world.run_for(renewal_due_at(first) - EPOCH - 10)
    assert node.renewed == []
    served.world.run_for(20 + LOOK)

    (second,) = node.renewed
    kept = keystore.holder()
    assert kept is not None
    assert kept.certificate == second.certificate
    assert second.key.public_key() != first.key.public_key()
    assert second.not_after > first.not_after
    served.world.run_for(200 * DAY)
    assert len(node.renewed) == 4
    assert all(one.issued_for.startswith("renewal of") for one in served.authority.register.of(PUMP)[:-1])


def test_lost_datagrams_and_restarts_lead_to_one_certificate(served: SecuredServed, keystore: Keystore) -> None:
    first = keystore.holder()
    assert first is not None
    node = Node(served, keystore)
    served.world.link(served.host, node.host).up = False  # requests arrive, answers do not
    served.world.run_for(renewal_due_at(first) - EPOCH + LOOK + 300)
    assert node.renewed == []
    assert len(served.authority.register.of(PUMP)) == 2

    node = Node(served, keystore)
    served.world.run_for(60)
    served.world.link(served.host, node.host).up = True
    served.world.run_for(LONGEST_WAIT)

    assert len(node.renewed) == 1
    assert len(served.authority.register.of(PUMP)) == 2


def test_a_refusal_is_not_repeated_without_end(
    served: SecuredServed, keystore: Keystore, caplog: pytest.LogCaptureFixture
) -> None:
    first = keystore.holder()
    assert first is not None
    node = Node(served, keystore)
    served.authority.revoke(served.authority.register.of(PUMP), int(EPOCH) + 5)

    served.world.run_for(renewal_due_at(first) - EPOCH + DAY)

    assert node.renewed == []
    assert 3 <= sum("refused" in record.message for record in caplog.records) <= 5


def test_a_node_without_clock_renews_once_it_was_told_the_time(served: SecuredServed, keystore: Keystore) -> None:
    first = keystore.holder()
    assert first is not None
    node = Node(served, keystore, has_clock=False)
    served.world.run_for(renewal_due_at(first) - EPOCH + DAY)
    assert node.renewed == []

    node.time.told(EPOCH + served.world.now)
    served.world.run_for(LOOK)

    assert len(node.renewed) == 1
    assert node.time.floor >= node.renewed[0].not_before


def test_the_node_is_a_machine(served: SecuredServed, keystore: Keystore) -> None:
    machine: DatagramMachine = Node(served, keystore)

    assert machine.next_timeout() is not None
