"""Measures downloads by Block2 and uploads by Block1: 16 MiB in process, downloads through loopback sockets too, and
1 MiB over a link that loses.

    .venv/bin/python bench/blocks.py [--runs N] [--size MIB] [--seeds N] [--json]

Bodies are hashed as they arrive. In process, two endpoints hand each other datagrams and no system call is made: the
time is that of both. Through sockets the server is a process of its own. The simulated link has 1 Mbit/s, 100 ms a
round trip, and loses one datagram of a hundred in each direction; what is printed is the part of its rate that was
body. There the clock is virtual, so those figures are the same everywhere. On a noisy machine trust the ratios.
Uploads over it go to a server that keeps what comes early, as ours does, and to one that wants blocks in order.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import statistics
import sys
import time
import tracemalloc
from multiprocessing.connection import Connection
from typing import Any, Optional

from minicoap import Deferred, Endpoint, EndpointCore, Resource, Response, Site
from minicoap.codec import codes
from minicoap.core import block_server
from minicoap.core.body import HashingSink, HashingSource
from minicoap.simulate.entropy import SeededEntropy
from minicoap.simulate.link import Link
from minicoap.simulate.pair import Pair

GET, PUT = codes.GET, codes.PUT
WINDOWS = (1, 4, 16, 32)
CHUNK = bytes(range(256)) * 4
LINK_RATE = 125_000.0  # bytes/s
LINK_BODY = 1024 * 1024  # bytes


class Body:
    """A body that is nowhere as a whole."""

    etag = b"bench"

    def __init__(self, size: int) -> None:
        self.size = size

    def read_at(self, offset: int, length: int) -> bytes:
        return CHUNK[: min(length, self.size - offset)]


class Count:
    """Takes blocks in any order."""

    any_order = True

    def __init__(self) -> None:
        self.count = 0

    def begin(self, response: Response, size: Optional[int]) -> None:
        pass

    def write_at(self, offset: int, data: bytes) -> None:
        self.count += len(data)


class Store:
    """Takes an upload, in order."""

    def __init__(self) -> None:
        self.count = 0

    def write_at(self, offset: int, data: bytes) -> None:
        assert offset == self.count
        self.count += len(data)

    def finish(self, answer: Deferred) -> None:
        answer.resolve(Response(codes.CHANGED), answer.request.now)

    def abort(self, reason: str) -> None:
        pass


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=5, help="runs of each (default 5)")
    options.add_argument("--size", type=int, default=16, metavar="MIB", help="length of the body (default 16)")
    options.add_argument("--seeds", type=int, default=20, help="runs over the simulated link (default 20)")
    options.add_argument("--json", action="store_true", help="print the figures as JSON")
    chosen = options.parse_args()
    size = chosen.size << 20
    figures = {
        "in_process": {window: [in_process(size, window) for _ in range(chosen.runs)] for window in WINDOWS},
        "loopback": asyncio.run(loopback(size, chosen.runs)),
        "link": {window: [over_link(seed, window) for seed in range(chosen.seeds)] for window in WINDOWS},
        "memory": {window: memory(size, window) for window in (1, 32)},
        "upload_in_process": {
            window: [in_process(size, window, PUT) for _ in range(chosen.runs)] for window in WINDOWS
        },
        "upload_link": {window: [over_link(seed, window, PUT) for seed in range(chosen.seeds)] for window in WINDOWS},
        "upload_memory": {window: memory(size, window, PUT) for window in (1, 32)},
    }
    block_server.EARLY_BLOCKS = 0
    figures["upload_link_in_order"] = {
        window: [over_link(seed, window, PUT) for seed in range(chosen.seeds)] for window in WINDOWS
    }
    if chosen.json:
        print(json.dumps(figures, indent=2))
    else:
        show(figures, chosen.size)
    return 0


def show(figures: dict[str, Any], mib: int) -> None:
    """Print the figures for people."""
    print(f"{mib} MiB by Block2, 1024 B, MB/s" + "".join(f"{f'window {window}':>12}" for window in WINDOWS))
    for name, title in (("in_process", "in process, client and server"), ("loopback", "loopback, two processes")):
        cells = "".join(f"{statistics.median(figures[name][window]) / 1e6:>12.1f}" for window in WINDOWS)
        print(f"  {title:<31}{cells}")
    print("1 MiB, 1 Mbit/s, 100 ms, 1 % lost each way: part of the link's rate")
    for title, of in (("median", statistics.median), ("worst", min), ("best", max)):
        cells = "".join(f"{of(figures['link'][window]) * 100:>10.1f} %" for window in WINDOWS)
        print(f"  {title:<31}{cells}")
    print("memory of client and server, peak, beyond that at the start")
    for window, peak in figures["memory"].items():
        print(f"  window {window:<24}{peak / 1024:>12.0f} KiB")
    cells = "".join(f"{statistics.median(figures['upload_in_process'][window]) / 1e6:>12.1f}" for window in WINDOWS)
    print(f"{mib} MiB by Block1, MB/s\n  {'in process, client and server':<31}{cells}")
    for key, title in (("upload_link", "ours"), ("upload_link_in_order", "one that wants order")):
        print(f"1 MiB to a server over the same link: {title}")
        for name, of in (("median", statistics.median), ("worst", min), ("best", max)):
            cells = "".join(f"{of(figures[key][window]) * 100:>10.1f} %" for window in WINDOWS)
            print(f"  {name:<31}{cells}")
    for window, peak in figures["upload_memory"].items():
        print(f"  memory, window {window:<16}{peak / 1024:>12.0f} KiB")


def site(size: int) -> Site:
    return Site(Resource("/body", get=lambda _: Response(payload=Body(size)), upload=lambda _: Store()))


def in_process(size: int, window: int, code: int = GET) -> float:
    """Bytes/s between two endpoints in this process."""
    server, client = EndpointCore(SeededEntropy(1, "server"), site=site(size)), EndpointCore(SeededEntropy(1, "client"))
    digest, began = hashlib.sha256(), time.perf_counter()
    carry(server, client, HashingSink(Count(), digest), window, code, size)
    return size / (time.perf_counter() - began)


def carry(server: EndpointCore, client: EndpointCore, sink: Any, window: int, code: int, size: int) -> None:
    outcomes: list[Any] = []
    address = ("there", 1)
    payload: Any = b"" if code == GET else HashingSource(Body(size), hashlib.sha256())
    client.request(
        code, address, outcomes.append, 0.0,
        uri_path=["body"], payload=payload, sink=sink, window=window, any_order=True,
    )  # fmt: skip
    now = 0.0
    while not outcomes:
        now += 0.0001
        for data, _ in client.datagrams_to_send():
            server.datagram_received(data, address, now)
        for data, _ in server.datagrams_to_send():
            client.datagram_received(data, address, now)
    assert outcomes[0].is_success, outcomes


def memory(size: int, window: int, code: int = GET) -> int:
    """Bytes that were allocated at most by both endpoints."""
    server, client = EndpointCore(SeededEntropy(1, "server"), site=site(size)), EndpointCore(SeededEntropy(1, "client"))
    tracemalloc.start()
    carry(server, client, HashingSink(Count(), hashlib.sha256()), window, code, size)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


async def loopback(size: int, runs: int) -> dict[int, list[float]]:
    """Bytes/s from a server in a process of its own."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, size), daemon=True)
    process.start()
    uri = ours.recv()
    figures: dict[int, list[float]] = {window: [] for window in WINDOWS}
    expected = hashlib.sha256(CHUNK * (size // len(CHUNK))).digest()
    async with Endpoint() as endpoint:
        for _ in range(runs):
            for window in WINDOWS:
                sink, digest, began = Count(), hashlib.sha256(), time.perf_counter()
                response = await endpoint.download(f"{uri}/body", sink, window=window, digest=digest)
                figures[window].append(size / (time.perf_counter() - began))
                assert response.is_success
                assert digest.digest() == expected
    process.terminate()
    process.join()
    return figures


def serve(ready: Connection, size: int) -> None:
    async def run() -> None:
        async with Endpoint(site(size)) as endpoint:
            await endpoint.serve("coap://127.0.0.1:0")
            ready.send(endpoint.local_uri)
            await asyncio.Event().wait()

    asyncio.run(run())


def over_link(seed: int, window: int, code: int = GET) -> float:
    """The part of a bad link's rate that a transfer makes use of."""
    link = Link(delay=0.05, loss=0.01, rate=LINK_RATE)
    pair = Pair(site(LINK_BODY), seed=seed, link=link)
    sink = Count()
    payload: Any = b"" if code == GET else Body(LINK_BODY)
    response = pair.request(code, "body", payload=payload, sink=sink, window=window, any_order=True)
    assert response.is_success
    assert code != GET or sink.count >= LINK_BODY
    return LINK_BODY / pair.world.now / LINK_RATE


if __name__ == "__main__":
    sys.exit(main())
