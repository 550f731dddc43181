"""Measures `fleet server` as a user starts it, beside aiocoap in the same run: rates, CPU, memory, a download.

    .venv/bin/python bench/rates.py [--runs N] [--seconds S] [--json]

The server has its default limits and 1,000 registered nodes. Load comes from `bench/load.c`, compiled here with `cc`.
Runs alternate between the two servers, and medians are printed. On a noisy machine trust the ratios, and the CPU time a
request before the rate. A run in which the server idled more than a tenth of the time measured the generator: it is
marked.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

HERE = Path(__file__).resolve().parent
NODES = 1000
OUTSTANDING = 64
LARGE = 1024 * 1024  # bytes
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=5, help="alternating runs of each server (default 5)")
    options.add_argument("--seconds", type=float, default=2.0, help="seconds a run (default 2)")
    options.add_argument("--json", action="store_true", help="print the figures as JSON")
    chosen = options.parse_args()
    if shutil.which("cc") is None:
        print("bench/rates.py needs a C compiler as `cc` for its load generator", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as directory:
        figures = measure(Path(directory), chosen.runs, chosen.seconds)
    if chosen.json:
        print(json.dumps(figures, indent=2))
    else:
        show(figures)
    return 0


def measure(directory: Path, runs: int, seconds: float) -> dict[str, Any]:
    """Start both servers and take all figures."""
    load = directory / "load"
    subprocess.run(["cc", "-O2", "-o", str(load), str(HERE / "load.c")], check=True)
    with fleet_server(directory / "data") as (fleet, fleet_port), aiocoap_server() as (peer, peer_port):
        asyncio.run(register_nodes(fleet_port))
        rates: dict[str, list[dict[str, float]]] = {"fleet server": [], "aiocoap": []}
        for _ in range(runs):
            rates["fleet server"].append(run_load(load, fleet, fleet_port, seconds))
            rates["aiocoap"].append(run_load(load, peer, peer_port, seconds))
        large = directory / "large.bin"
        large.write_bytes(bytes(range(256)) * (LARGE // 256))
        asyncio.run(put_large(fleet_port, large))
        downloads: dict[str, list[float]] = {"minicoap from fleet server": [], "aiocoap from aiocoap": []}
        for _ in range(runs):
            downloads["minicoap from fleet server"].append(asyncio.run(get_large_minicoap(fleet_port)))
            downloads["aiocoap from aiocoap"].append(asyncio.run(get_large_aiocoap(peer_port)))
        with agent(directory / "agent", fleet_port) as node:
            memory = {"server": resident(fleet), "idle agent": resident(node)}
    return {
        "rates": {who: {key: statistics.median(run[key] for run in of) for key in of[0]} for who, of in rates.items()},
        "downloads": {who: statistics.median(of) for who, of in downloads.items()},
        "memory": memory,
    }


def show(figures: dict[str, Any]) -> None:
    """Print the figures for people."""
    rates, downloads = figures["rates"], figures["downloads"]
    print(f"GET /test, CON, {OUTSTANDING} outstanding, {NODES} registered nodes; medians")
    for who, of in rates.items():
        mark = "" if of["busy"] > 0.9 else "  (the server idled: this measured the generator)"
        print(f"  {who:<28} {of['rate']:>9.0f}/s   {of['cpu_us']:>7.1f} µs CPU a request   p99 {of['p99']:.4f} s{mark}")
    print(f"  by CPU time a request: {rates['aiocoap']['cpu_us'] / rates['fleet server']['cpu_us']:.1f} times aiocoap")
    print("1 MiB by Block2, 1024 B, window 1; medians")
    for who, seconds in downloads.items():
        print(f"  {who:<28} {seconds:>9.2f} s")
    fast, slow = downloads.values()
    print(f"  {slow / fast:.1f} times as fast")
    print("resident memory")
    for who, size in figures["memory"].items():
        print(f"  {who:<28} {size / 1e6:>9.1f} MB")


@contextlib.contextmanager
def fleet_server(data: Path) -> Iterator[tuple[int, int]]:
    """A `fleet server` process: its pid and port."""
    command = [str(Path(sys.executable).parent / "fleet"), "server", "--port", "0", "--data-dir", str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        match = re.search(r"coap://127\.0\.0\.1:(\d+)", process.stdout.readline())
        assert match is not None, "the server did not start"
        try:
            yield process.pid, int(match[1])
        finally:
            process.terminate()


@contextlib.contextmanager
def aiocoap_server() -> Iterator[tuple[int, int]]:
    """An aiocoap server process: its pid and port."""
    with subprocess.Popen(
        [sys.executable, str(HERE / "aiocoap_server.py")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.pid, int(process.stdout.readline())
        finally:
            process.terminate()


@contextlib.contextmanager
def agent(data: Path, port: int) -> Iterator[int]:
    """An agent that has registered and is idle: its pid."""
    command = [
        str(Path(sys.executable).parent / "fleet"), "agent", "--server", f"coap://127.0.0.1:{port}", "--node-id",
        "bench", "--data-dir", str(data), "--port", "0",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        while "registered" not in process.stderr.readline():
            if process.poll() is not None:
                raise RuntimeError("the agent did not start")
        asyncio.run(health_reported(port, "bench"))
        try:
            yield process.pid
        finally:
            process.terminate()


async def health_reported(port: int, node_id: str) -> None:
    """Return once the node has reported its health."""
    from minicoap import Endpoint

    async with Endpoint() as endpoint:
        while True:
            response = await endpoint.get(f"coap://127.0.0.1:{port}/nodes/{node_id}/health")
            if response.is_success and json.loads(response.text)["health"]:
                return


def run_load(load: Path, pid: int, port: int, seconds: float) -> dict[str, float]:
    """Load one server and return its figures; `busy` is the part of the time that it used a core."""
    before = cpu_seconds(pid)
    began = time.monotonic()
    done = subprocess.run(
        [str(load), "127.0.0.1", str(port), str(seconds), str(OUTSTANDING), "1", "/test"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    used, took = cpu_seconds(pid) - before, time.monotonic() - began
    figures = json.loads(done.stdout)
    if figures["wrong"]:
        raise RuntimeError(f"{figures['wrong']} wrong answers")
    return {
        "rate": figures["rate"], "cpu_us": used / figures["answered"] * 1e6, "p99": figures["p99"],
        "lost": figures["lost"], "busy": used / took,
    }  # fmt: skip


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident(pid: int) -> int:
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


async def register_nodes(port: int) -> None:
    from minicoap import Endpoint

    async with Endpoint() as endpoint:
        for number in range(NODES):
            node_id = f"node-{number}"
            payload = json.dumps({"node_id": node_id, "hostname": node_id, "services": ["ssh"]}).encode()
            response = await endpoint.post(f"coap://127.0.0.1:{port}/nodes", payload, content_format=50)
            assert response.is_success, response


async def put_large(port: int, file: Path) -> None:
    from minicoap import Endpoint

    async with Endpoint() as endpoint:
        response = await endpoint.put(f"coap://127.0.0.1:{port}/firmware/large.bin", file.read_bytes())
        assert response.is_success, response


async def get_large_minicoap(port: int) -> float:
    from minicoap import Endpoint
    from minicoap.core.request import Response

    class Count:
        received = 0

        def begin(self, response: Response, size: Optional[int]) -> None:
            assert size == LARGE

        def write_at(self, offset: int, data: bytes) -> None:
            self.received += len(data)

    async with Endpoint() as endpoint:
        sink = Count()
        began = time.monotonic()
        response = await endpoint.download(f"coap://127.0.0.1:{port}/firmware/large.bin", sink)
        took = time.monotonic() - began
    assert response.is_success and sink.received == LARGE
    return took


async def get_large_aiocoap(port: int) -> float:
    import aiocoap

    context = await aiocoap.Context.create_client_context()
    try:
        began = time.monotonic()
        request = aiocoap.Message(code=aiocoap.GET, uri=f"coap://127.0.0.1:{port}/large")
        response = await context.request(request).response
        took = time.monotonic() - began
    finally:
        await context.shutdown()
    assert len(response.payload) == LARGE
    return took


if __name__ == "__main__":
    sys.exit(main())
