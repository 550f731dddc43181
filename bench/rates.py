"""Measures `fleet server` as a user starts it, beside others in the same run: CPU a request, rates, memory, a download.

    .venv/bin/python bench/rates.py [--runs N] [--seconds S] [--nodes N] [--json]

The server has its default limits. Load comes from `bench/load.c`, compiled here with `cc`. Beside it stand a bare echo
in Python, libcoap's C server (`coap-server-notls`, from Debian's libcoap3-bin) and aiocoap, each where it is installed.
Runs alternate, and medians are printed. On a noisy machine trust the ratios, which are of the servers' CPU time a
request. A run in which the server idled more than a tenth of the time measured the generator, as far as its rate goes:
it is marked.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Optional

HERE = Path(__file__).resolve().parent
COMMAND = (sys.executable, "-m", "fleet.cli.main")
LARGE = 1024 * 1024  # bytes
TICKS = os.sysconf("SC_CLK_TCK")
JSON = 50
# As in the founding document.
HEALTH = {
    "node_id": "node-{}",
    "status": "healthy",
    "metrics": {"cpu_usage": 15.5, "memory_usage": 42.3, "disk_usage": 67.8, "temperature": 45.2, "uptime": 86400},
    "services": {"nginx": "running", "ssh": "running"},
}
REPORT = {
    "action": "report", "job_id": "", "node_id": "node-{}", "attempt": 1, "sequence": "{+}", "state": "downloading",
    "bytes_done": "{+}",
}  # fmt: skip


class Load(NamedTuple):
    """What a server is asked, `numbers` of them in turn in the places of `path` and `payload` (see `bench/load.c`)."""

    name: str
    server: str
    method: int
    path: str
    outstanding: int = 64
    payload: str = ""
    numbers: int = 0


class Goal(NamedTuple):
    """Something to be reached: `value(medians)` is to be `least` at least, None where something is not installed."""

    text: str
    least: float
    value: Callable[[dict[str, dict[str, float]]], Optional[float]]


FLEET, ECHO, LIBCOAP, AIOCOAP = "fleet", "bare echo", "libcoap", "aiocoap"
TEST = "GET /test"
GOALS = (
    Goal("GET /test, times aiocoap", 28, lambda found: times(found, AIOCOAP, TEST)),
    Goal("GET /test, times libcoap", 0.8, lambda found: times(found, LIBCOAP, TEST)),
    Goal("GET /test, times a bare echo", 0.48, lambda found: times(found, ECHO, TEST)),
    Goal("GET /nodes/ID/health, times libcoap", 0.4, lambda found: times(found, LIBCOAP, "GET /nodes/ID/health")),
    Goal("PUT /health, times GET /test", 0.5, lambda found: times(found, TEST, "PUT /health")),
    Goal("durable reports a second, 64 outstanding", 20_000, lambda found: found["report, 64 outstanding"]["rate"]),
    Goal("durable reports a second, 512 outstanding", 30_000, lambda found: found["report, 512 outstanding"]["rate"]),
)


def times(found: dict[str, dict[str, float]], than: str, what: str) -> Optional[float]:
    """How many times less CPU a request `what` takes than `than`."""
    return found[than]["cpu_us"] / found[what]["cpu_us"] if than in found else None


def loads(nodes: int, job_id: str) -> list[Load]:
    """All that is measured."""
    report = json.dumps({**REPORT, "job_id": job_id}).replace('"{+}"', "{+}")
    return [
        Load(ECHO, ECHO, 1, "/test"),
        Load(LIBCOAP, LIBCOAP, 1, "/"),
        Load(AIOCOAP, AIOCOAP, 1, "/test"),
        Load(TEST, FLEET, 1, "/test"),
        Load("GET /nodes/ID/health", FLEET, 1, "/nodes/node-{}/health", numbers=nodes),
        Load("PUT /health", FLEET, 3, "/health", payload=json.dumps(HEALTH), numbers=nodes),
        Load("report, 64 outstanding", FLEET, 2, "/updates", payload=report, numbers=nodes),
        Load("report, 512 outstanding", FLEET, 2, "/updates", 512, payload=report, numbers=nodes),
    ]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=5, help="alternating runs of each server (default 5)")
    options.add_argument("--seconds", type=float, default=2.0, help="seconds a run (default 2)")
    options.add_argument("--nodes", type=int, default=1000, help="registered nodes (default 1000)")
    options.add_argument("--json", action="store_true", help="print the figures as JSON")
    chosen = options.parse_args()
    if shutil.which("cc") is None:
        print("bench/rates.py needs a C compiler as `cc` for its load generator", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as directory:
        figures = measure(Path(directory), chosen.runs, chosen.seconds, chosen.nodes)
    if chosen.json:
        print(json.dumps(figures, indent=2))
    else:
        show(figures)
    return 0


def measure(directory: Path, runs: int, seconds: float, nodes: int) -> dict[str, Any]:
    """Start all servers and take all figures."""
    load = directory / "load"
    subprocess.run(["cc", "-O2", "-o", str(load), str(HERE / "load.c")], check=True)
    with contextlib.ExitStack() as stack:
        servers = {FLEET: stack.enter_context(fleet_server(directory / "data"))}
        for name, start in ((ECHO, echo_server), (AIOCOAP, aiocoap_server), (LIBCOAP, libcoap_server)):
            started = start()
            if started is not None:
                servers[name] = stack.enter_context(started)
        fleet, fleet_port = servers[FLEET]
        asyncio.run(register_nodes(fleet_port, nodes))
        job_id = asyncio.run(begin_job(fleet_port, nodes))
        rates: dict[str, list[dict[str, float]]] = {}
        for run in range(runs):
            for each in loads(nodes, job_id):
                if each.server not in servers:
                    continue
                if each.payload and "bytes_done" in each.payload:
                    # Of a report that came before nothing is written: each run goes on with the count of the last.
                    earlier = f"{run + 1}{each.outstanding:04}"
                    each = each._replace(payload=each.payload.replace("{+}", earlier + "{+}"))
                rates.setdefault(each.name, []).append(run_load(load, each, *servers[each.server], seconds))
        large = directory / "large.bin"
        large.write_bytes(bytes(range(256)) * (LARGE // 256))
        asyncio.run(put_large(fleet_port, large))
        downloads: dict[str, list[float]] = {"minicoap from fleet server": [], "aiocoap from aiocoap": []}
        for _ in range(runs):
            downloads["minicoap from fleet server"].append(asyncio.run(get_large_minicoap(fleet_port)))
            if AIOCOAP in servers:
                downloads["aiocoap from aiocoap"].append(asyncio.run(get_large_aiocoap(servers[AIOCOAP][1])))
        with agent(directory / "agent", fleet_port) as node:
            memory = {"server": resident(fleet), "idle agent": resident(node)}
    found = {who: {key: statistics.median(run[key] for run in of) for key in of[0]} for who, of in rates.items()}
    return {
        "nodes": nodes,
        "rates": found,
        "goals": {goal.text: {"found": goal.value(found), "goal": goal.least} for goal in GOALS},
        "fsync_us": fsync_time(directory) * 1e6,
        "downloads": {who: statistics.median(of) for who, of in downloads.items() if of},
        "memory": memory,
    }


def show(figures: dict[str, Any]) -> None:
    """Print the figures for people."""
    print(f"confirmable requests, 64 outstanding if not said, {figures['nodes']} registered nodes; medians")
    for who, of in figures["rates"].items():
        mark = "" if of["busy"] > 0.9 else f"  (busy {of['busy']:.0%}: the rate is the generator's)"
        print(f"  {who:<28} {of['rate']:>9.0f}/s   {of['cpu_us']:>7.2f} µs CPU a request   p99 {of['p99']:.4f} s{mark}")
    print("ratios of CPU time a request, and rates")
    for text, goal in figures["goals"].items():
        found = "not installed" if goal["found"] is None else f"{goal['found']:.4g}"
        print(f"  {text:<44} {found:>13}   goal {goal['goal']:g}")
    print(f"an fsync of 4 KiB appended to a file there takes {figures['fsync_us']:.0f} µs")
    print("1 MiB by Block2, 1024 B, window 1; medians")
    for who, seconds in figures["downloads"].items():
        print(f"  {who:<28} {seconds:>9.2f} s")
    print("resident memory")
    for who, size in figures["memory"].items():
        print(f"  {who:<28} {size / 1e6:>9.1f} MB")


def fsync_time(directory: Path) -> float:
    """Return the median of what an fsync takes behind a write of a page, in seconds."""
    found = []
    with open(directory / "fsync", "wb", buffering=0) as file:
        for _ in range(50):
            file.write(bytes(4096))
            began = time.monotonic()
            os.fdatasync(file.fileno())
            found.append(time.monotonic() - began)
    return statistics.median(found)


@contextlib.contextmanager
def fleet_server(data: Path) -> Iterator[tuple[int, int]]:
    """A `fleet server` process: its pid and port."""
    command = [*COMMAND, "server", "--port", "0", "--data-dir", str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        match = re.search(r"coap://127\.0\.0\.1:(\d+)", process.stdout.readline())
        assert match is not None, "the server did not start"
        try:
            yield process.pid, int(match[1])
        finally:
            process.terminate()


Server = contextlib.AbstractContextManager[tuple[int, int]]  # its pid and port


def echo_server() -> Optional[Server]:
    """A bare echo in Python."""
    return _printing_its_port("echo_server.py")


def aiocoap_server() -> Optional[Server]:
    """An aiocoap server, if there is one."""
    return None if find_spec("aiocoap") is None else _printing_its_port("aiocoap_server.py")


def libcoap_server() -> Optional[Server]:
    """libcoap's C server, if it is installed."""
    return None if shutil.which("coap-server-notls") is None else _libcoap_server()


@contextlib.contextmanager
def _printing_its_port(script: str) -> Iterator[tuple[int, int]]:
    with subprocess.Popen([sys.executable, str(HERE / script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.pid, int(process.stdout.readline())
        finally:
            process.terminate()


@contextlib.contextmanager
def _libcoap_server() -> Iterator[tuple[int, int]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["coap-server-notls", "-A", "127.0.0.1", "-p", str(port), "-v", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            asyncio.run(answers(port))
            yield process.pid, port
        finally:
            process.terminate()


async def answers(port: int) -> None:
    """Return once there is an answer at the port."""
    from minicoap import Endpoint, NetworkError

    async with Endpoint() as endpoint:
        for _ in range(60):
            try:
                await endpoint.get(f"coap://127.0.0.1:{port}/", timeout=1)
                return
            except NetworkError:
                await asyncio.sleep(0.1)
    raise RuntimeError("libcoap's server did not start")


@contextlib.contextmanager
def agent(data: Path, port: int) -> Iterator[int]:
    """An agent that has registered and is idle: its pid."""
    command = [
        *COMMAND, "agent", "--server", f"coap://127.0.0.1:{port}", "--node-id",
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


def run_load(load: Path, wanted: Load, pid: int, port: int, seconds: float) -> dict[str, float]:
    """Load one server and return its figures; `busy` is the part of the time that it used a core."""
    command = [str(load), "127.0.0.1", str(port), str(seconds), str(wanted.outstanding), str(wanted.method)]
    command += [wanted.path, str(JSON), wanted.payload, str(wanted.numbers)]
    before = cpu_seconds(pid)
    began = time.monotonic()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    used, took = cpu_seconds(pid) - before, time.monotonic() - began
    figures = json.loads(done.stdout)
    if figures["wrong"]:
        raise RuntimeError(f"{wanted.name}: {figures['wrong']} wrong answers, as {figures['wrong_code']}")
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


async def register_nodes(port: int, nodes: int) -> None:
    """Register nodes, 64 at a time, and have each report once."""
    from minicoap import Endpoint

    async with Endpoint() as endpoint:

        async def register(number: int) -> None:
            node_id = f"node-{number}"
            facts = {"node_id": node_id, "hostname": node_id, "services": ["ssh"]}
            uri = f"coap://127.0.0.1:{port}"
            registered = await endpoint.post(f"{uri}/nodes", json.dumps(facts).encode(), content_format=JSON)
            health = json.dumps({**HEALTH, "node_id": node_id}).encode()
            reported = await endpoint.put(f"{uri}/health", health, content_format=JSON)
            assert registered.is_success and reported.is_success, (registered, reported)

        for first in range(0, nodes, 64):
            await asyncio.gather(*(register(number) for number in range(first, min(first + 64, nodes))))


async def begin_job(port: int, nodes: int) -> str:
    """Have a job wait for all nodes, and return its id."""
    from minicoap import Endpoint

    async with Endpoint() as endpoint:
        uri = f"coap://127.0.0.1:{port}/updates"
        job = {"name": "bench", "version": "1", "package_type": "pip", "target_nodes": ["all"], "packages": ["x==1"]}
        created = await endpoint.post(uri, json.dumps(job).encode(), content_format=JSON)
        assert created.is_success, created.text
        job_id: str = json.loads(created.text)["job_id"]
        begin = {"action": "install", "job_id": job_id}
        begun = await endpoint.post(uri, json.dumps(begin).encode(), content_format=JSON)
        assert begun.is_success, begun.text
        while True:
            told = await endpoint.get(f"{uri}/{job_id}/status")
            if sum(json.loads(told.text)["counts"].values()) == nodes:
                break
    return job_id


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
