"""A real server under attack from one host: everybody else is served meanwhile, and its memory stays bounded.

Scaled down, unless FLEET_ATTACK=full says otherwise; `pytest -s` prints the figures.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import NamedTuple

import pytest

from minicoap.asyncio.endpoint import Endpoint
from minicoap.codec import codes
from minicoap.codec.contentformats import OCTET_STREAM
from tests.system.processes import ROOT, Machine, Operator, ServerProcess, environment

IS_FULL = os.environ.get("FLEET_ATTACK") == "full"

# What is sent, how often (scaled down and full), and by how many MiB the server may grow by it.
ATTACKS = {
    "uploads": (1500, 10_000, 64),
    "reports": (1500, 10_000, 64),
    "registrations": (3000, 100_000, 384),
    "jobs": (500, 20_000, 64),
    "observers": (1500, 50_000, 160),
}


class Figures(NamedTuple):
    """What an attack did: codes that the attacker got, seconds that good requests took, MiB that the server grew."""

    told: dict[str, int]
    latencies: list[float]
    grown: float


def memory(server: ServerProcess, line: str) -> float:
    """A figure of the server's memory, in MiB."""
    with open(f"/proc/{server.process.pid}/status", encoding="ascii") as status:
        return next(int(text.split()[1]) / 1024 for text in status if text.startswith(line))


async def good_round(operator: Operator, number: int, latencies: list[float]) -> None:
    """What nodes and operators do on any day; each has to succeed."""
    body = bytes(f"upload {number} ", "ascii") * 500
    for ask in (
        lambda: operator.endpoint.request(codes.GET, f"{operator.uri}/test", timeout=20),
        lambda: operator.endpoint.request(
            codes.PUT, f"{operator.uri}/health", b'{"node_id":"good-1"}', content_format=50, timeout=20
        ),
        lambda: operator.endpoint.request(codes.GET, f"{operator.uri}/nodes?limit=5", timeout=20),
        lambda: operator.endpoint.request(
            codes.PUT, f"{operator.uri}/firmware/good-{number % 3}", body, content_format=OCTET_STREAM, timeout=20
        ),
        lambda: operator.endpoint.request(
            codes.POST, f"{operator.uri}/nodes", b'{"node_id":"new-%d"}' % (number % 20), content_format=50, timeout=20
        ),
    ):
        begun = time.monotonic()
        response = await ask()
        latencies.append(time.monotonic() - begun)
        assert response.is_success, (codes.code_name(response.code), response.text)


async def under_attack(machine: Machine, kind: str, count: int) -> Figures:
    server = await machine.server()
    async with Endpoint() as endpoint:
        operator = Operator(endpoint, server.uri)
        await operator.post("/nodes", {"node_id": "good-1"})
        await good_round(operator, 0, [])
        before = memory(server, "VmRSS")
        attacker = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.system.attacker", kind, str(count), str(server.port),
            stdout=asyncio.subprocess.PIPE, cwd=ROOT, env={**environment(machine.directory), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        ended = asyncio.ensure_future(attacker.communicate())
        latencies: list[float] = []
        number = 0
        while not ended.done() or number < 3:
            number += 1
            await good_round(operator, number, latencies)
            await asyncio.sleep(0)
        told, _ = await ended
        assert attacker.returncode == 0
        return Figures(json.loads(told), sorted(latencies), memory(server, "VmHWM") - before)


@pytest.mark.parametrize("kind", ATTACKS)
def test_good_peers_are_served_and_memory_is_bounded_under_attack(kind, tmp_path):
    small, full, bound = ATTACKS[kind]
    count = full if IS_FULL else small

    with Machine(tmp_path) as machine:
        figures = asyncio.run(asyncio.wait_for(under_attack(machine, kind, count), 900))

    latencies = figures.latencies
    median, high = latencies[len(latencies) // 2], latencies[-1]
    print(
        f"\n{kind} {count}: attacker told {figures.told}; {len(latencies)} good requests,"
        f" median {median * 1000:.1f} ms, worst {high * 1000:.0f} ms; RSS grew by {figures.grown:.0f} MiB"
    )
    assert sum(figures.told.values()) == count
    assert figures.grown < bound
    assert "5.00" not in figures.told
