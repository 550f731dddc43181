"""Measures CoAPS beside plain CoAP in the same run: memory a session, CPU a handshake, full and resumed, and a request.

    .venv/bin/python bench/dtls.py [--sessions N] [--runs N] [--json]
    .venv/bin/python bench/dtls.py --nodes 10000      # each reports, and again; the server keeps 1,024 sessions

The server is an `Endpoint` in a process of its own, on loopback, whose CPU time and resident memory are read from
/proc. Clients are one after the other, each with a certificate. Runs of plain and secure requests alternate, and
medians are printed: trust the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from OpenSSL import SSL  # noqa: E402

from minicoap import Endpoint, Resource, Response, Site  # noqa: E402
from minicoap.codec.message import CON, Message, Options, encode  # noqa: E402
from minicoap.security.credentials import Credentials  # noqa: E402
from minicoap.security.dtls import OPEN, Dtls, DtlsSession  # noqa: E402
from tests.minicoap.security.certificates import Authority, Pair  # noqa: E402

HANDSHAKES = 200
REQUESTS = 8000
OUTSTANDING = 16
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sessions", type=int, default=1000, help="sessions whose memory is measured (default 1000)")
    options.add_argument("--runs", type=int, default=3, help="alternating runs of requests (default 3)")
    options.add_argument("--nodes", type=int, default=0, help="instead: so many nodes report, twice")
    options.add_argument("--json", action="store_true", help="print the figures as JSON")
    options.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.serve:
        certificate, key, trust = json.loads(sys.stdin.readline())
        asyncio.run(serve(certificate.encode(), key.encode(), trust.encode()))
        return 0
    figures = measure_nodes(chosen.nodes) if chosen.nodes else measure(chosen.sessions, chosen.runs)
    if chosen.json:
        print(json.dumps(figures, indent=2))
    elif chosen.nodes:
        show_nodes(figures)
    else:
        show(figures)
    return 0


async def serve(certificate: bytes, key: bytes, trust: bytes) -> None:
    """The server's process."""
    site = Site(Resource("/report", get=lambda request: Response(payload=b"ok")))
    credentials = Credentials(certificate=certificate, key=key, trust=trust)
    async with Endpoint(site, credentials=credentials) as endpoint:
        await endpoint.serve("coap://127.0.0.1:0")
        await endpoint.serve("coaps://127.0.0.1:0")
        print(*(uri.rpartition(":")[2] for uri in endpoint.local_uris), flush=True)
        await asyncio.Event().wait()


class Server:
    """The server as seen from outside; `port` is that of plain CoAP, `secure_port` that of CoAPS."""

    def __init__(self, pid: int, port: int, secure_port: int) -> None:
        self.pid, self.port, self.secure_port = pid, port, secure_port

    @property
    def cpu(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    @property
    def resident(self) -> int:
        return self._status("VmRSS")

    @property
    def highest(self) -> int:
        return self._status("VmHWM")

    def _status(self, name: str) -> int:
        match = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert match is not None
        return int(match[1]) * 1024


@contextlib.contextmanager
def server(authority: Authority) -> Iterator[Server]:
    pair = authority.issue("server", hosts=["127.0.0.1"])
    command = [sys.executable, str(Path(__file__).resolve()), "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        texts = [part.decode() for part in (pair.certificate, pair.key, authority.certificate)]
        process.stdin.write(json.dumps(texts) + "\n")
        process.stdin.flush()
        try:
            port, secure_port = (int(text) for text in process.stdout.readline().split())
            yield Server(process.pid, port, secure_port)
        finally:
            process.terminate()


class Client:
    """One session, or with `dtls` None none, from a socket of its own."""

    def __init__(self, port: int, dtls: Optional[Dtls], resume: Any = None) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(5.0)
        self.socket.connect(("127.0.0.1", port))
        self.session: Optional[DtlsSession] = None if dtls is None else dtls.connect("127.0.0.1", resume)
        while self.session is not None and self.session.state != OPEN:
            for data in self.session.datagrams():
                self.socket.send(data)
            self.session.receive(self.socket.recv(4096))
            assert self.session.state != "closed", self.session.reason
        if self.session is not None:
            assert is_resumed(self.session) == (resume is not None)

    def send(self, message: bytes) -> None:
        if self.session is None:
            self.socket.send(message)
            return
        self.session.send(message)
        for data in self.session.datagrams():
            self.socket.send(data)

    def receive(self) -> int:
        """Wait for answers and return how many came."""
        data = self.socket.recv(4096)
        return 1 if self.session is None else len(self.session.receive(data))

    def ask(self) -> None:
        """Send one request and wait for its answer."""
        self.send(request(1))
        while not self.receive():
            pass

    def close(self) -> None:
        """Leave without a word, as a device does that sleeps."""
        if self.session is not None:
            self.session.drop()
        self.socket.close()


def is_resumed(session: DtlsSession) -> bool:
    """What OpenSSL says of it; pyOpenSSL has no method for that."""
    return bool(SSL._lib.SSL_session_reused(session.connection._ssl))


def request(number: int) -> bytes:
    return encode(Message(CON, 1, number & 0xFFFF, number.to_bytes(4, "big"), Options([(11, b"report")]), b""))


def measure(sessions: int, runs: int) -> dict[str, Any]:
    authority = Authority()
    dtls = client_engine(authority, authority.issue("node"))
    with server(authority) as running:
        handshakes = {"full": [], "resumed": []}
        resumes = []
        for _ in range(20):  # to be warm
            visit(running, dtls)
        before = running.resident
        for _ in range(sessions):
            visit(running, dtls)
        memory = (running.resident - before) / sessions
        for _ in range(runs):
            began = running.cpu
            resumes = [visit(running, dtls) for _ in range(HANDSHAKES)]
            handshakes["full"].append((running.cpu - began) / HANDSHAKES)
            began = running.cpu
            for resume in resumes:
                visit(running, dtls, resume)
            handshakes["resumed"].append((running.cpu - began) / HANDSHAKES)
        cpu = {"coap": [], "coaps": []}
        for _ in range(runs):
            cpu["coap"].append(load(running, Client(running.port, None)))
            cpu["coaps"].append(load(running, Client(running.secure_port, dtls)))
    return {
        "sessions": sessions,
        "memory_a_session": memory,
        "resident_before": before,
        "handshake_cpu": {kind: statistics.median(of) for kind, of in handshakes.items()},
        "request_cpu": {kind: statistics.median(of) for kind, of in cpu.items()},
    }


def client_engine(authority: Authority, pair: Pair) -> Dtls:
    credentials = Credentials(certificate=pair.certificate, key=pair.key, trust=authority.certificate)
    return Dtls(credentials, time.time)


def visit(running: Server, dtls: Dtls, resume: Any = None) -> Any:
    """Shake hands, ask once, and go; returns what resumes the session."""
    client = Client(running.secure_port, dtls, resume)
    client.ask()
    client.close()
    assert client.session is not None
    return client.session.resumable()


def load(running: Server, client: Client) -> float:
    """Ask with many requests outstanding; return the server's CPU seconds a request."""
    client.ask()
    began = running.cpu
    sent = answered = 0
    while answered < REQUESTS:
        while sent < REQUESTS and sent - answered < OUTSTANDING:
            sent += 1
            client.send(request(sent + 1))
        answered += client.receive()
    used = running.cpu - began
    client.close()
    return used / REQUESTS


def show(figures: dict[str, Any]) -> None:
    print(f"memory of a session, at {figures['sessions']:,}     {figures['memory_a_session'] / 1024:8.1f} KiB")
    full, resumed = figures["handshake_cpu"]["full"], figures["handshake_cpu"]["resumed"]
    print(f"CPU of a full handshake with a request {full * 1e3:8.2f} ms   {1 / full:8.0f}/s of a core")
    print(f"CPU of a resumed one                   {resumed * 1e3:8.2f} ms   {1 / resumed:8.0f}/s of a core")
    print(f"  full costs {full / resumed:.1f} times as much")
    plain, secure = figures["request_cpu"]["coap"], figures["request_cpu"]["coaps"]
    print(f"CPU of a request over CoAP             {plain * 1e6:8.1f} µs   {1 / plain:8.0f}/s of a core")
    print(f"CPU of a request over CoAPS            {secure * 1e6:8.1f} µs   {1 / secure:8.0f}/s of a core")
    print(f"  CoAPS costs {secure / plain:.2f} times as much")


def measure_nodes(nodes: int) -> dict[str, Any]:
    """Have each node report, and then each again: by that time most of their sessions had to make room."""
    authority = Authority()
    dtls = client_engine(authority, authority.issue("node"))
    with server(authority) as running:
        for _ in range(20):
            visit(running, dtls)
        steps = [running.resident]
        figures: dict[str, Any] = {"nodes": nodes, "resident": steps, "cpu": {}, "seconds": {}}
        resumes: list[Any] = [None] * nodes
        for kind in ("full", "resumed"):
            began, used = time.monotonic(), running.cpu
            for number, resume in enumerate(resumes):
                resumes[number] = visit(running, dtls, resume)
                if (number + 1) % max(1, nodes // 5) == 0:
                    steps.append(running.resident)
            figures["cpu"][kind] = running.cpu - used
            figures["seconds"][kind] = time.monotonic() - began
        figures["highest"] = running.highest
        return figures


def show_nodes(figures: dict[str, Any]) -> None:
    nodes = figures["nodes"]
    for kind, what in (("full", "shook hands and reported"), ("resumed", "resumed their sessions and reported")):
        cpu, seconds = figures["cpu"][kind], figures["seconds"][kind]
        print(f"{nodes:,} nodes {what} in {seconds:.0f} s, {cpu:.1f} s of CPU: {nodes / cpu:.0f}/s of a core")
    share = figures["cpu"]["resumed"] / 60
    print(f"  one report of each a minute, all of them resumed, takes {share:.0%} of a core")
    print("resident memory of the server, MB: " + "  ".join(f"{size / 1e6:.0f}" for size in figures["resident"]))
    print(f"  at most {figures['highest'] / 1e6:.0f} MB")


if __name__ == "__main__":
    sys.exit(main())
