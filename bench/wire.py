"""Counts the bytes that a node's health reports cost a day, from the simulated agent and server: the same every time.

    .venv/bin/python bench/wire.py [--json]

A report a minute over plain CoAP, both directions, each datagram with the 28 bytes of its IPv4 and UDP headers, on a
network that loses nothing and in one that loses a tenth. Beside what is sent now stands what a full report in JSON by a
confirmed PUT each minute costs. The spread of the interval makes it some 1,500 reports a day; figures are for 1,440.
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
from fleet.simulate.server import SimulatedServer
from minicoap.codec import codes
from minicoap.codec.message import decode
from minicoap.simulate.link import Link
from minicoap.simulate.world import World

HEADERS = 28  # bytes of IPv4 and UDP
HOUR = 3600.0
DAY = 24 * HOUR
INTERVAL = 60.0  # seconds between reports
REPORTS = DAY / INTERVAL
LOSSES = (0.0, 0.1)


class CalmFacts(SimulatedFacts):
    """A node on which all is well: load and memory are a little different each minute, its service runs."""

    def health(self, services: Sequence[str]) -> HostHealth:
        """See Facts."""
        found = super().health(services)
        memory = 40.0 + found.cpu_percent / 10
        return found._replace(memory_percent=memory, temperature=48.5, services_status=dict.fromkeys(services, True))


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
    figures = {
        name: {f"{loss:.0%} loss": measure(loss, full_interval) for loss in LOSSES}
        for name, full_interval in (("full PUT each minute", 0.0), ("as it is", None))
    }
    if chosen.json:
        print(json.dumps(figures, indent=2))
        return 0
    for name, rows in figures.items():
        for loss, row in rows.items():
            print(
                f"{name:22} {loss:>8}: {row['bytes']:>9,.0f} bytes a day, {row['datagrams']:>6,.0f} datagrams, "
                f"{row['bytes'] / REPORTS:6.1f} bytes a report"
            )
    return 0


def measure(loss: float, full_interval: Optional[float]) -> dict[str, float]:
    """Run a day and return the bytes and datagrams of one, after the hour in which a node joins."""
    known = fleet.agent.membership.FULL_INTERVAL
    fleet.simulate.server.HEALTH_INTERVAL = INTERVAL
    fleet.simulate.node.SimulatedFacts = CalmFacts  # type: ignore[misc]
    fleet.agent.membership.FULL_INTERVAL = known if full_interval is None else full_interval
    try:
        world = World(1, link=Link(loss=loss, delay=0.05), trace=100_000)
        invariants = Invariants()
        server = SimulatedServer(world, invariants, push=True)
        node = SimulatedNode(world, 1, server.host.address, invariants=invariants, observer=Silent())
        server.boot()
        node.boot()
        world.run_for(DAY + HOUR)
    finally:
        fleet.agent.membership.FULL_INTERVAL = known
    sent = [datagram for datagram in world.trace if datagram.sent_at >= HOUR]
    reports = len({datagram.data for datagram in sent if decode(datagram.data).code in (codes.PUT, codes.IPATCH)})
    share = REPORTS / reports
    return {
        "bytes": share * sum(len(datagram.data) + HEADERS for datagram in sent),
        "datagrams": share * len(sent),
    }


if __name__ == "__main__":
    sys.exit(main())
