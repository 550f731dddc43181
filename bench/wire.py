"""Counts the bytes that a node's health reports cost a day, from the simulated agent and server: the same every time.

    .venv/bin/python bench/wire.py [--json]

A report a minute over CoAPS and over plain CoAP, both directions, each datagram with the 28 bytes of its IPv4 and UDP
headers, on a network that loses nothing and in one that loses a tenth. DTLS is pretended, with records as long as those
of ChaCha20-Poly1305. On the calm node load and memory are a little different each minute; on the busy one the load is
anything up to 63 %. Beside what is sent now stands what a whole report by a confirmed PUT each minute costs. The spread
of the interval makes it some 1,500 reports a day; figures are for 1,440.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fleet.agent.membership
import fleet.simulate.node
import fleet.simulate.server
from fleet.host.facts import HostHealth
from fleet.simulate.host import SimulatedFacts
from fleet.simulate.invariants import Invariants
from fleet.simulate.node import SimulatedNode
from fleet.simulate.security import Plain, Security
from fleet.simulate.server import SimulatedServer
from minicoap.codec import codes
from minicoap.codec.message import decode
from minicoap.simulate.dtls import message_in
from minicoap.simulate.link import Link
from minicoap.simulate.world import World

HEADERS = 28  # bytes of IPv4 and UDP
HOUR = 3600.0
DAY = 24 * HOUR
INTERVAL = 60.0  # seconds between reports
REPORTS = DAY / INTERVAL
LOSSES = (0.0, 0.1)


class CalmFacts(SimulatedFacts):
    """A node on which all is well, and not much happens: load, memory and temperature move within four percent."""

    def health(self, services: Sequence[str]) -> HostHealth:
        """See Facts."""
        return HostHealth(
            cpu_percent=2.0 + self._entropy.integer(6) / 16,
            memory_percent=40.0 + self._entropy.integer(5) / 16,
            disk_percent=20.0,
            temperature=48.5 + self._entropy.integer(4) / 8,
            services_status=dict.fromkeys(services, True),
        )


class BusyFacts(CalmFacts):
    """A node whose load is another each minute."""

    def health(self, services: Sequence[str]) -> HostHealth:
        """See Facts."""
        return super().health(services)._replace(cpu_percent=float(self._entropy.integer(6)))


WORKS = {"calm": CalmFacts, "busy": BusyFacts}


class Silent:
    """Is told what happens at the node, and does not care."""

    def state_entered(self, node: SimulatedNode, state: str) -> None:
        """A job moved on: there is none."""

    def job_forgotten(self, node: SimulatedNode, job_id: str, attempt: int, state: str) -> None:
        """A job is over: there is none."""


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", action="store_true", help="print the figures as JSON")
    chosen = options.parse_args()
    figures = [
        {
            "scheme": scheme,
            "reports": name,
            "node": work,
            "loss": loss,
            **measure(scheme, WORKS[work], loss, full_interval),
        }
        for scheme in ("coaps", "coap")
        for name, full_interval in (("whole, each minute", 0.0), ("as they are", None))
        for work in WORKS
        for loss in LOSSES
    ]
    if chosen.json:
        print(json.dumps(figures, indent=2))
        return 0
    for row in figures:
        print(
            f"{row['scheme']:5}  {row['reports']:18}  {row['node']}  {row['loss']:4.0%} loss: "
            f"{row['bytes']:9,.0f} bytes a day, {row['datagrams']:6,.0f} datagrams, {row['mean']:6.1f} bytes a report"
        )
    return 0


def measure(scheme: str, facts: type[SimulatedFacts], loss: float, full_interval: Optional[float]) -> dict[str, float]:
    """Run a day and return the bytes and datagrams of one, after the hour in which a node joins."""
    known = fleet.agent.membership.FULL_INTERVAL
    fleet.simulate.server.HEALTH_INTERVAL = INTERVAL
    fleet.simulate.node.SimulatedFacts = facts  # type: ignore[misc]
    fleet.agent.membership.FULL_INTERVAL = known if full_interval is None else full_interval
    try:
        world = World(1, link=Link(loss=loss, delay=0.05), trace=100_000)
        invariants = Invariants()
        security = Security(world, 4) if scheme == "coaps" else Plain()
        server = SimulatedServer(world, invariants, push=True, security=security)
        node = SimulatedNode(world, 1, server.host.address, invariants=invariants, observer=Silent(), security=security)
        server.boot()
        node.boot()
        world.run_for(DAY + HOUR)
    finally:
        fleet.agent.membership.FULL_INTERVAL = known
    sent = [datagram for datagram in world.trace if datagram.sent_at >= HOUR]
    messages = {message_in(datagram.data) if scheme == "coaps" else datagram.data for datagram in sent} - {None}
    reports = len({message for message in messages if decode(message).code in (codes.PUT, codes.IPATCH)})
    share = REPORTS / reports
    total = share * sum(len(datagram.data) + HEADERS for datagram in sent)
    return {"bytes": total, "datagrams": share * len(sent), "mean": total / REPORTS}


if __name__ == "__main__":
    sys.exit(main())
