"""Measures how long it takes to find some of 100,000 nodes.

    .venv/bin/python bench/nodes.py [--nodes N]

`fleet server` as a user starts it. Its nodes register and report through its socket; one in a hundred is in the group
`few`, one in a hundred is unhealthy. Queries are asked by CoAP on loopback one after the other, for an answer of one
datagram, and once for a page of 100 nodes with their reports, which is 45 blocks. Medians, as lines of a Markdown
table. What requests cost is for `bench/rates.py` to say, with `--nodes 100000` too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.memory import Fleet, fleet_server, told
from minicoap import Endpoint

ASKED = 15  # times
QUERIES = (
    ("a page of 100", "/nodes"),
    ("by id, for comparison", "/nodes/node-000001"),
    ("of a group of one in a hundred", "/nodes?limit=2&group=few"),
    ("of those with a text in id or hostname: an index is looked through", "/nodes?limit=2&q=node-0099"),
    ("nobody has that text", "/nodes?limit=2&q=nothing"),
    ("of the unhealthy, one in a hundred: in memory", "/nodes?limit=2&status=unhealthy"),
    ("nobody is offline: all are looked at", "/nodes?limit=2&status=offline"),
    ("most are online: all are looked at", "/nodes?limit=2&status=online"),
    ("nobody of a group of all is offline: all are looked at", "/nodes?limit=2&status=offline&group=all"),
)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--nodes", type=int, default=100_000)
    chosen = options.parse_args()
    print("| what | measured |\n|---|---|")
    with tempfile.TemporaryDirectory() as directory, fleet_server(Path(directory) / "data") as (_, port):
        fleet = Fleet(port, chosen.nodes)
        fleet.register(lambda number: {"groups": ["all", "few"] if number % 100 == 0 else ["all"]})
        for number in range(1, chosen.nodes, 100):
            fleet.reports[number]["overall_healthy"] = False
        fleet.report(0, 0.0, put=True)
        asyncio.run(ask_all(port))
    return 0


async def ask_all(port: int) -> None:
    """Ask each query some times."""
    async with Endpoint() as endpoint:
        for what, path in QUERIES:
            took = []
            for _ in range(ASKED):
                began = time.perf_counter()
                response = await endpoint.get(f"coap://127.0.0.1:{port}{path}")
                took.append(time.perf_counter() - began)
                assert response.is_success, response
            found = len(json.loads(response.body).get("nodes", [None]))
            told(f"`GET {path}`: {what}", f"{statistics.median(took) * 1e3:.1f} ms, {found} nodes")


if __name__ == "__main__":
    sys.exit(main())
