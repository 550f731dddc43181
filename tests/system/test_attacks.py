"""A real server under attack while its nodes work: all of them are served meanwhile, and its memory stays bounded.

Attackers are processes of their own and do not pause. Scaled down, unless FLEET_ATTACK=full says otherwise; `pytest -s`
prints the figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fleet.model.roles import Principal
from fleet.pki.authority import open_authority
from fleet.pki.connection import client_credentials
from minicoap.asyncio.endpoint import Endpoint
from minicoap.codec import codes
from minicoap.codec.contentformats import JSON, OCTET_STREAM
from minicoap.errors import NetworkError
from minicoap.security.credentials import Credentials
from tests.system.certified import Fleet
from tests.system.processes import ROOT, Operator, ServerProcess, environment
from tests.system.test_access_matrix import a_holder

IS_FULL = os.environ.get("FLEET_ATTACK") == "full"
NODES = 100 if IS_FULL else 10
EVERY = 1.0 if IS_FULL else 0.3  # seconds between two reports of a node
PATIENCE = 90.0  # seconds that a node waits for an answer

# What is sent over plain CoAP, how often (scaled down and full), and by how many MiB the server may grow by it.
REQUESTS = {
    "uploads": (1500, 10_000, 64),
    "reports": (1500, 10_000, 64),
    "registrations": (3000, 100_000, 384),
    "jobs": (500, 20_000, 64),
    "observers": (1500, 50_000, 160),
}
# What is sent to the port of CoAPS, for 3 or 30 seconds. 256 handshakes under way are 18 MiB, the records waiting 2.
DATAGRAMS = {
    "hellos": 16,
    "cookies": 16,
    "garbage": 16,
    "replays": 32,
    "half_open": 48,
    "alerts": 48,
    "strangers": 48,
    "renegotiations": 48,
}
SECONDS = 30 if IS_FULL else 3


class Work:
    """Nodes that work, each behind a session of its own, and what became of it; now and then one opens another."""

    def __init__(self, uri: str, credentials: list[Credentials]) -> None:
        self.latencies: list[float] = []
        self.newcomers: list[float] = []
        self.failures: Counter[str] = Counter()
        self._uri = uri
        self._credentials = credentials
        self._is_over = asyncio.Event()

    async def begin(self) -> asyncio.Task[Any]:
        """Have all of them registered; returns what runs until `end`."""
        begun = [asyncio.get_running_loop().create_future() for _ in self._credentials]
        nodes = [self._node(f"good-{number}", self._credentials[number], begun[number]) for number in range(len(begun))]
        task = asyncio.ensure_future(asyncio.gather(*nodes, self._newcomer(self._credentials[0])))
        await asyncio.wait({task, asyncio.gather(*begun)}, return_when=asyncio.FIRST_COMPLETED)
        return task

    def end(self) -> None:
        self._is_over.set()

    async def _pause(self) -> bool:
        """Whether work goes on after a pause."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._is_over.wait(), EVERY)
        return not self._is_over.is_set()

    async def _node(self, node_id: str, credentials: Credentials, begun: asyncio.Future[None]) -> None:
        body = json.dumps({"node_id": node_id}).encode()
        async with Endpoint(credentials=credentials) as endpoint:
            await endpoint.post(f"{self._uri}/nodes", body, content_format=JSON, timeout=PATIENCE)
            begun.set_result(None)
            while await self._pause():
                began = time.monotonic()
                try:
                    response = await endpoint.put(f"{self._uri}/health", body, content_format=JSON, timeout=PATIENCE)
                    assert response.is_success, response.text
                    self.latencies.append(time.monotonic() - began)
                except NetworkError as error:
                    self.failures[str(error)] += 1

    async def _newcomer(self, credentials: Credentials) -> None:
        while await self._pause():
            began = time.monotonic()
            async with Endpoint(credentials=credentials) as endpoint:
                with contextlib.suppress(NetworkError):
                    asked = asyncio.ensure_future(endpoint.get(f"{self._uri}/test", timeout=PATIENCE))
                    over = asyncio.ensure_future(self._is_over.wait())
                    await asyncio.wait({asked, over}, return_when=asyncio.FIRST_COMPLETED)
                    over.cancel()
                    if not asked.done():  # nobody waits for newcomers: in a flood of hellos they take their time
                        asked.cancel()
                        return
                    assert asked.result().is_success
                    self.newcomers.append(time.monotonic() - began)


class Figures(NamedTuple):
    """What an attack did: what the attacker says of it, what good peers noticed, MiB that the server grew."""

    told: dict[str, int]
    work: Work
    operator: list[float]
    grown: float

    def __str__(self) -> str:
        work = self.work
        answered = len(work.latencies)
        share = 100 * answered / (answered + sum(work.failures.values()))
        return (
            f"attacker {self.told}; nodes {share:.2f} % of {answered} answered, {spread(work.latencies)};"
            f" newcomers {len(work.newcomers)} {spread(work.newcomers)}; operator {len(self.operator)}"
            f" {spread(self.operator)}; server grew by {self.grown:.1f} MiB"
        )


def spread(latencies: list[float]) -> str:
    if not latencies:
        return ""
    latencies.sort()
    return f"median {latencies[len(latencies) // 2] * 1000:.0f} ms, worst {latencies[-1] * 1000:.0f} ms"


def memory(server: ServerProcess, line: str) -> float:
    """A figure of the server's memory, in MiB."""
    with open(f"/proc/{server.process.pid}/status", encoding="ascii") as status:
        return next(int(text.split()[1]) / 1024 for text in status if text.startswith(line))


async def good_round(operator: Operator, number: int, latencies: list[float]) -> None:
    """What operators do on any day; each has to succeed."""
    body = bytes(f"upload {number} ", "ascii") * 500
    node = b'{"node_id":"new-%d"}' % (number % 20)
    for ask in (
        lambda: operator.endpoint.request(codes.GET, f"{operator.uri}/test", timeout=60),
        lambda: operator.endpoint.request(
            codes.PUT, f"{operator.uri}/health", b'{"node_id":"good-1"}', content_format=JSON, timeout=60
        ),
        lambda: operator.endpoint.request(codes.GET, f"{operator.uri}/nodes?limit=5", timeout=60),
        lambda: operator.endpoint.request(
            codes.PUT, f"{operator.uri}/firmware/good-{number % 3}", body, content_format=OCTET_STREAM, timeout=60
        ),
        lambda: operator.endpoint.request(codes.POST, f"{operator.uri}/nodes", node, content_format=JSON, timeout=60),
    ):
        begun = time.monotonic()
        response = await ask()
        latencies.append(time.monotonic() - begun)
        assert response.is_success, (codes.code_name(response.code), response.text)


async def under_attack(directory: Path, program: str, kind: str, amount: int) -> Figures:
    with Fleet(directory) as fleet:
        await fleet.begin()
        plain = await fleet.listening(fleet.process, "server")
        authority = open_authority(str(directory / "server" / "pki"), None)
        holders = [a_holder(authority, Principal("node", f"good-{number}")) for number in range(NODES)]
        work = Work(fleet.uri, [client_credentials(holder) for holder in holders])
        server = ServerProcess(fleet.process, plain)
        async with Endpoint() as endpoint:
            operator = Operator(endpoint, plain)
            working = await work.begin()
            await good_round(operator, 0, [])
            before = memory(server, "VmRSS")
            port = (plain if program == "attacker" else fleet.uri).rpartition(":")[2]
            attacker = await asyncio.create_subprocess_exec(
                sys.executable, "-m", f"tests.system.{program}", kind, str(amount), port,
                stdout=asyncio.subprocess.PIPE, cwd=ROOT, env={**environment(directory), "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
            ended = asyncio.ensure_future(attacker.communicate())
            latencies: list[float] = []
            number = 0
            while not ended.done() or number < 3 or len(work.latencies) < NODES:
                number += 1
                await good_round(operator, number, latencies)
                await asyncio.sleep(0)
            told, _ = await ended
            assert attacker.returncode == 0
            work.end()
            await working
        for line in fleet.said("server").splitlines():
            if "a flood of" in line or "more DTLS handshakes" in line:
                print(f"\n  server: {line.partition(': ')[2]}", end="")
        return Figures(json.loads(told), work, latencies, memory(server, "VmHWM") - before)


def attacked(directory: Path, program: str, kind: str, amount: int) -> Figures:
    figures = asyncio.run(asyncio.wait_for(under_attack(directory, program, kind, amount), 1200))
    print(f"\n{kind} {amount}: {figures}")
    answered = len(figures.work.latencies)
    assert answered >= NODES
    assert sum(figures.work.failures.values()) * 20 <= answered, figures.work.failures
    return figures


@pytest.mark.parametrize("kind", REQUESTS)
def test_good_peers_are_served_and_memory_is_bounded_under_a_flood_of_requests(kind: str, tmp_path: Path) -> None:
    small, full, bound = REQUESTS[kind]
    count = full if IS_FULL else small
    figures = attacked(tmp_path, "attacker", kind, count)
    assert sum(figures.told.values()) == count
    assert figures.grown < bound
    assert "5.00" not in figures.told


@pytest.mark.parametrize("kind", DATAGRAMS)
def test_nodes_are_served_and_memory_is_bounded_under_a_flood_of_datagrams(kind: str, tmp_path: Path) -> None:
    figures = attacked(tmp_path, "dtls_attacker", kind, SECONDS)
    assert figures.told
    assert min(figures.told.values()) > 0
    assert figures.grown < DATAGRAMS[kind]
