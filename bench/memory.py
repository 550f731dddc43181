"""Measures what the server keeps, and what it writes: resident memory, bytes an entry, bytes to disk a day.

    .venv/bin/python bench/memory.py [--nodes N] [--rounds R] [--interval S] [--put] [--objects | --disk]

Three parts, each alone if its option is given. Prints lines of a Markdown table.

The process: `fleet server` as a user starts it, N nodes (default 100,000) at N addresses of this machine's loopback
network, which register and then send R reports each (default 3), spread over S seconds (default 60): as agents do,
changes by iPATCH, of five four non-confirmable without an answer; with `--put` the founding document's JSON each time,
confirmable.

Objects (`--objects`): bytes an entry of the endpoint's tables, by tracemalloc, in this process.

Disk (`--disk`): the server over its real store under a clock of this script's: three hours in which each node reports
every quarter of an hour and one in a hundred changes its state; what the kernel was told to write in the last two, as a
day. More reports write no more: an hour of a node has the same size, however many there are in it.
Give `--directory` on a real disk: a file system in memory writes nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import queue
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fleet.host.facts import LinuxFacts
from fleet.host.files import SystemFiles
from fleet.model.formats import JSON
from fleet.model.formats import encode as encode_body
from fleet.model.health import report_etag
from fleet.server.config import ServerConfig
from fleet.server.server import Server
from fleet.server.store.sqlite import SqliteLedger
from minicoap.codec import codes
from minicoap.codec.contentformats import MERGE_PATCH
from minicoap.codec.message import ACK, CON, NON, Message, Options, decode, encode
from minicoap.codec.options import CONTENT_FORMAT, IF_MATCH, NO_RESPONSE, OBSERVE, URI_PATH, encode_uint
from minicoap.core.endpoint import EndpointCore
from minicoap.core.request import Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.shell.entropy import SystemEntropy

OUTSTANDING = 128
IP_PKTINFO = 8  # Linux; a name for it came with Python 3.14
PATIENCE = 5.0  # seconds until a request without an answer is sent again
CONFIRMED = 5  # each fifth report is
HOURS = 3
REPORTS = 4  # an hour
OBSERVERS = 30_000
ENTRIES = 100_000
ANSWER = b'{"status":"ok","time":"2026-01-01T00:00:00.000Z","jobs":[],"servers":["coap://192.0.2.1:5683"]}'


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--nodes", type=int, default=100_000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--interval", type=float, default=60.0)
    options.add_argument("--put", action="store_true")
    options.add_argument("--objects", action="store_true")
    options.add_argument("--disk", action="store_true")
    options.add_argument("--directory", help="where the server's data goes (default: a temporary directory)")
    chosen = options.parse_args()
    print("| what | measured |\n|---|---|")
    everything = not (chosen.objects or chosen.disk)
    with tempfile.TemporaryDirectory(dir=chosen.directory) as directory:
        if everything:
            process(Path(directory) / "process", chosen.nodes, chosen.rounds, chosen.interval, chosen.put)
        if everything or chosen.objects:
            objects()
        if everything or chosen.disk:
            disk(Path(directory) / "disk", chosen.nodes)
    return 0


def told(what: str, measured: str) -> None:
    print(f"| {what} | {measured} |", flush=True)


# The process


def process(data: Path, count: int, rounds: int, interval: float, put: bool) -> None:
    """Start the server, let the nodes live, and tell its memory."""
    with fleet_server(data) as (pid, port):
        idle = resident(pid)
        told("RSS, idle", f"{idle / 1e6:.1f} MB")
        fleet = Fleet(port, count)
        began = time.monotonic()
        fleet.register()
        told(f"{count:,} registrations", f"{time.monotonic() - began:.1f} s, RSS {resident(pid) / 1e6:.1f} MB")
        before, used = written(pid), cpu_seconds(pid)
        for number in range(rounds):
            fleet.report(number, interval, put)
            kind = "PUT, JSON" if put else "as agents do" if number else "PUT, JSON, the first"
            size = resident(pid)
            told(
                f"RSS after {number + 1} reports each ({kind})",
                f"{size / 1e6:.1f} MB, {(size - idle) / count:.0f} bytes a node; at most {peak(pid) / 1e6:.1f} MB",
            )
        seconds = rounds * interval
        told("its CPU meanwhile", f"{(cpu_seconds(pid) - used) / seconds:.1%} of a core")
        told(f"written to disk in these {seconds:.0f} s", f"{(written(pid) - before) / 1e6:.1f} MB")


@contextlib.contextmanager
def fleet_server(data: Path) -> Iterator[tuple[int, int]]:
    """A `fleet server` process: its pid and port."""
    command = [sys.executable, "-m", "fleet.cli.main", "server", "--port", "0", "--data-dir", str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
        assert running.stdout is not None
        match = re.search(r"coap://127\.0\.0\.1:(\d+)", running.stdout.readline())
        assert match is not None, "the server did not start"
        try:
            yield running.pid, int(match[1])
        finally:
            running.terminate()


class Fleet:
    """Nodes on one socket, each with an address of its own: 127/8 is all this machine's."""

    def __init__(self, port: int, count: int) -> None:
        self._count = count
        self._server = ("127.0.0.1", port)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.bind(("0.0.0.0", 0))
        self._message_ids = [0] * count
        self.reports = [full_report(number) for number in range(count)]
        self._waiting: dict[int, tuple[float, bytes]] = {}

    def register(self, more: Callable[[int], dict[str, Any]] = lambda number: {}) -> None:
        """Register all of them, with what `more` says of each."""
        for number in range(self._count):
            name = node_id(number)
            body: dict[str, Any] = {
                "node_id": name,
                "hostname": name,
                "ip_address": "<NODE_IP>",
                "services": ["ssh", "docker"],
            }
            body.update(more(number))
            self._ask(number, CON, codes.POST, "nodes", json.dumps(body).encode(), ())
            self._take(OUTSTANDING)
        self._take(0)

    def report(self, turn: int, interval: float, put: bool, which: Callable[[int], bool] = lambda number: True) -> None:
        """Send one report of each within `interval` seconds, or of those alone that `which` chooses."""
        began = time.monotonic()
        for number in range(self._count):
            report = self.reports[number]
            before = encode_body(report)
            change = {"cpu_percent": value(100), "memory_percent": value(100), "temperature": value(80)}
            report.update(change)
            if put or not turn:
                body = json.dumps(report).encode() if put else encode_body(report)
                self._ask(number, CON, codes.PUT, "health", body, ())
            else:
                body = encode_body({"node_id": report["node_id"], **change})
                options = [(IF_MATCH, report_etag(before)), (CONTENT_FORMAT, encode_uint(MERGE_PATCH))]
                if (turn + number) % CONFIRMED:
                    options.append((NO_RESPONSE, encode_uint(2)))
                    self._ask(number, NON, codes.IPATCH, "health", body, options)
                else:
                    self._ask(number, CON, codes.IPATCH, "health", body, options)
            self._take(OUTSTANDING)
            if not number % 64:
                ahead = began + interval * number / self._count - time.monotonic()
                if ahead > 0:
                    time.sleep(ahead)
        self._take(0)
        time.sleep(max(0.0, began + interval - time.monotonic()))

    def _ask(self, number: int, type: int, code: int, path: str, body: bytes, options: Any) -> None:
        self._message_ids[number] += 1
        token = number.to_bytes(3, "big")
        items = [(URI_PATH, path.encode()), *(options or [(CONTENT_FORMAT, encode_uint(JSON))])]
        data = encode(Message(type, code, self._message_ids[number], token, Options(items), body))
        if type == CON:
            self._waiting[number] = (time.monotonic(), data)
        self._send(number, data)

    def _send(self, number: int, data: bytes) -> None:
        source = struct.pack("=I4s4s", 0, bytes((127, 1 + (number >> 16), number >> 8 & 255, number & 255)), bytes(4))
        self._socket.sendmsg([data], [(socket.IPPROTO_IP, IP_PKTINFO, source)], 0, self._server)

    def _take(self, most: int) -> None:
        """Take answers until at most so many are outstanding."""
        self._socket.settimeout(0.2)
        while len(self._waiting) > most:
            try:
                answer = decode(self._socket.recv(2048))
            except TimeoutError:
                self._repeat()
                continue
            except socket.timeout:
                self._repeat()
                continue
            if answer.code == codes.EMPTY:
                continue
            if answer.type == CON:
                self._send(int.from_bytes(answer.token, "big"), encode(Message(ACK, codes.EMPTY, answer.message_id)))
            if not codes.is_success(answer.code):
                raise RuntimeError(f"{codes.code_name(answer.code)}: {answer.payload!r}")
            self._waiting.pop(int.from_bytes(answer.token, "big"), None)

    def _repeat(self) -> None:
        now = time.monotonic()
        for number, (sent_at, data) in list(self._waiting.items()):
            if now - sent_at > PATIENCE:
                self._waiting[number] = (now, data)
                self._send(number, data)


def node_id(number: int) -> str:
    return f"node-{number:06}"


def value(limit: int) -> float:
    return round(random.uniform(5, limit), 1)


def full_report(number: int) -> dict[str, Any]:
    """The founding document's report."""
    return {
        "node_id": node_id(number),
        "overall_healthy": True,
        "cpu_percent": value(100),
        "memory_percent": value(100),
        "disk_percent": value(100),
        "temperature": value(80),
        "services_status": {"systemd": True, "network": True, "ssh": True, "docker": False},
        "error_messages": ["Service docker is not running"],
    }


def status(pid: int, field: str) -> int:
    match = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def resident(pid: int) -> int:
    return status(pid, "VmRSS")


def peak(pid: int) -> int:
    return status(pid, "VmHWM")


def written(pid: Any) -> int:
    match = re.search(r"^write_bytes: (\d+)", Path(f"/proc/{pid}/io").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1])


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


# Objects


def objects() -> None:
    """Tell what an entry of each of the endpoint's tables costs, its share of the table included."""

    def changed(request: Request) -> Response:
        return Response(codes.CHANGED, ANSWER, JSON)

    def state(request: Request) -> Response:
        return Response(codes.CONTENT, b"{}", JSON)

    size, core = grown(Resource("/x", post=changed), lambda number: (codes.POST, ()))
    told(
        f"an answer of {len(ANSWER) + 4 + 3 + 3} bytes that is remembered, everything kept of its client included",
        f"{size:.0f} bytes",
    )
    core.handle_timeout(1000.0)
    core.handle_timeout(2000.0)
    assert not any(core.footprint().values()), core.footprint()
    observed = Resource("/x", get=state, observable=True)
    size, core = grown(observed, lambda number: (codes.GET, ((OBSERVE, b""),)), OBSERVERS)
    told("an observer, its peer and its address included", f"{size:.0f} bytes")
    size, core = grown(Resource("/x", get=state), lambda number: (codes.GET, ()))
    told("who asked and was answered", f"{size:.0f} bytes, {core.footprint()['peers']} peers")


def grown(
    resource: Resource, ask: Callable[[int], tuple[int, Any]], entries: int = ENTRIES
) -> tuple[float, EndpointCore]:
    """Return the bytes by which an endpoint has grown for each of many requests, and the endpoint."""
    core = EndpointCore(SystemEntropy(), site=Site(resource))
    gc.collect()
    tracemalloc.start()
    for number in range(entries):
        code, options = ask(number)
        data = encode(
            Message(CON, code, number & 0xFFFF, number.to_bytes(3, "big"), Options([*options, (URI_PATH, b"x")]))
        )
        core.datagram_received(data, (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 5683), 0.0)
        core.datagrams_to_send()
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / entries, core


# Disk


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """See fleet.host.clock."""
        return self.now

    def wall(self) -> float:
        """See fleet.host.clock."""
        return 1_790_006_400.0 + self.now

    def is_wall_trusted(self) -> bool:
        """See fleet.host.clock."""
        return True


def disk(data: Path, count: int) -> None:
    """Let hours pass and tell what was written."""
    data.mkdir()
    clock, posts = Clock(), queue.SimpleQueue[Callable[[], None]]()
    ledger = SqliteLedger(str(data / "fleet.sqlite"), posts.put)
    server = Server(
        ServerConfig(data_dir=str(data)), ledger=ledger, clock=clock, entropy=SystemEntropy(), files=SystemFiles(),
        facts=LinuxFacts(str(data)), servers=("coap://192.0.2.1",), act=print,
    )  # fmt: skip
    started: list[bool] = []
    server.start(lambda: started.append(True))
    while not started:
        posts.get()()

    def settle() -> None:
        answered: list[bool] = []
        server.check(lambda: answered.append(True))
        while not answered:
            posts.get()()
        server.datagrams_to_send()

    def send(number: int, code: int, path: bytes, body: bytes) -> None:
        message = Message(NON, code, number & 0xFFFF, b"", Options([(URI_PATH, path), (CONTENT_FORMAT, b"\x32")]), body)
        server.datagram_received(encode(message), ("127.0.0.1", 5683), clock.now)

    for number in range(count):
        send(number, codes.POST, b"nodes", json.dumps({"node_id": node_id(number)}).encode())
        if not number % 200:
            settle()
    settle()
    hourly: list[int] = []
    for _ in range(HOURS):
        before = written("self")
        for _ in range(REPORTS):
            for number in range(count):
                report = full_report(number)
                report["overall_healthy"] = random.random() > 0.01 / REPORTS
                send(number, codes.PUT, b"health", json.dumps(report).encode())
                if not number % 1000:
                    settle()
            clock.now += 3600 / REPORTS
            due: Optional[float] = server.next_timeout()
            if due is not None and due <= clock.now:
                server.handle_timeout(clock.now)
        for _ in range(3 + count // 5000):  # chunks are written between commands
            settle()
        hourly.append(written("self") - before)
    server.stop()
    ledger.close()
    rate = sum(hourly[1:]) / (HOURS - 1) * 24
    told(
        f"written to disk a day by {count:,} nodes",
        f"{rate / 1e9:.2f} GB ({', '.join(f'{h / 1e6:.0f}' for h in hourly)} MB an hour)",
    )


if __name__ == "__main__":
    sys.exit(main())
