"""The servers that the conformance tests are shown: ours, and those of others where they are installed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from minicoap.errors import CoapError
from minicoap.simulate.link import Link
from tools.conformance import tests
from tools.conformance.frames import Address
from tools.conformance.model import CATALOGUE, Inconclusive, Test
from tools.conformance.peer import Peer
from tools.conformance.resources import find, load_map
from tools.impair import proxy

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PEERS = ("aiocoap", "libcoap", "node-coap")
LIBCOAP = ("coap-server-notls", "coap-server")
START = 60.0  # seconds that a server may take to start, on a slow machine

Roles = dict[str, tuple[str, ...]]


def catalogue() -> list[Test]:
    """Return all tests."""
    tests.load()
    return list(CATALOGUE)


@contextlib.contextmanager
def process(
    arguments: Sequence[str], environment: dict[str, str], directory: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that says something on standard output once it is ready."""
    with subprocess.Popen(
        list(arguments), cwd=directory, env={**os.environ, **environment}, stdout=subprocess.PIPE
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def said(running: subprocess.Popen[bytes]) -> str:
    """Return the first line that a program says."""
    assert running.stdout is not None
    ready = select.select([running.stdout], [], [], START)[0]
    return running.stdout.readline().decode().strip() if ready else ""


@contextlib.contextmanager
def reference(root: Path = ROOT, *, host: str = "127.0.0.1", more: Sequence[str] = ()) -> Iterator[Address]:
    """Run the reference server of a tree, quick at repeating and at changing."""
    command = [sys.executable, "-m", "tools.reference_server", "--host", host, "--port", "0", "--quick"]
    command += ["--period", "0.7", "--delay", "1.2", *more]
    with process(command, {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}, root) as running:
        line = said(running)
        assert line.startswith("listening on coap://"), line
        yield host, int(line.rpartition(":")[2])


@contextlib.contextmanager
def aiocoap() -> Iterator[Address]:
    """Run a server made of aiocoap."""
    pytest.importorskip("aiocoap")
    port = free_port()
    with process([sys.executable, str(HERE / "peers" / "aiocoap_server.py"), str(port)], {}, ROOT) as running:
        assert said(running) == "ready"
        yield "127.0.0.1", port


@contextlib.contextmanager
def libcoap() -> Iterator[Address]:
    """Run libcoap's sample server, which may create resources."""
    command = next((found for found in map(shutil.which, LIBCOAP) if found is not None), None)
    if command is None:
        pytest.skip("no coap-server of libcoap is installed here (Debian: libcoap3-bin)")
    port = free_port()
    with process([command, "-A", "127.0.0.1", "-p", str(port), "-d", "100", "-v", "0"], {}, ROOT):
        wait_for(("127.0.0.1", port))
        yield "127.0.0.1", port


@contextlib.contextmanager
def node_coap() -> Iterator[Address]:
    """Run a server made of node-coap, which `require` has to find: NODE_PATH says where."""
    node = shutil.which("node")
    if node is None or subprocess.run([node, "-e", "require('coap')"], capture_output=True, check=False).returncode:
        pytest.skip("node has no coap here: npm install coap@1.5, and NODE_PATH to where it is")
    port = free_port()
    with process([node, str(HERE / "peers" / "node_server.js"), str(port)], {}, ROOT) as running:
        assert said(running) == "ready"
        yield "127.0.0.1", port


RUN = {"aiocoap": aiocoap, "libcoap": libcoap, "node-coap": node_coap}


@contextlib.contextmanager
def impaired(target: Address, link: Link, seed: int) -> Iterator[Address]:
    """Run a proxy to a server, over a bad link."""
    ready = threading.Event()
    found: list[Any] = []

    async def run() -> None:
        over = asyncio.Event()
        async with proxy(target, link, seed=seed) as address:
            found.extend((address, asyncio.get_running_loop(), over))
            ready.set()
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert ready.wait(START)
    address, loop, over = found
    try:
        yield address
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(START)


def roles(address: Address, given: str = "") -> Roles:
    """Return what a server has, by the file of its roles or by asking."""
    path = HERE / "peers" / f"{given}.resources"
    with contextlib.closing(Peer(address, {}, patience=START, grace=0.2)) as scout:
        return find(scout, load_map(str(path)) if path.exists() else {})


def wait_for(address: Address) -> None:
    """Return once a server answers."""
    until = time.monotonic() + START
    while True:
        with contextlib.closing(Peer(address, {}, patience=1.0, grace=0.2)) as scout:
            try:
                scout.ping()
                return
            except (Inconclusive, CoapError):
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)


def free_port() -> int:
    """Return a port that nobody has right now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
