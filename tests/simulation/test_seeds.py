"""A hundred worlds: a server and 50 agents, 20 % loss, duplicates, reordering, deaths of nodes and server from a seed.

Each world is run twice, in processes with different hash seeds, and has to be the same to the last bit. Seeds run in
batches, two processes beside each other; a test that fails names its seed, `tools/simulate SEED` runs it alone.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from fleet.agent.steps import TABLE
from fleet.simulate.main import Result

SEEDS = range(100)
BATCH = 10
ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def results(batch: int) -> tuple[dict[int, Result], ...]:
    """The batch's results by seed, of each of the two processes."""
    seeds = f"{batch * BATCH}-{batch * BATCH + BATCH - 1}"
    command = [sys.executable, "-m", "fleet.simulate.main", "--json", seeds]
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for hash_seed in ("1", "2")
    ]
    found = []
    for process in processes:
        output, errors = process.communicate()
        read = [msgspec.json.decode(line, type=Result) for line in output.splitlines()]
        assert len(read) == BATCH, errors
        found.append({result.seed: result for result in read})
    return tuple(found)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_world_of_faults_comes_to_rest_and_is_the_same_with_another_hash_seed(seed: int) -> None:
    one, other = (found[seed] for found in results(seed // BATCH))
    assert one.error is None
    assert one == other


def test_nodes_died_in_every_row_of_the_table() -> None:
    cuts: Counter[str] = Counter()
    for batch in range(len(SEEDS) // BATCH):
        for result in results(batch)[0].values():
            cuts.update(result.cuts)
    print({row.state: cuts[row.state] for row in TABLE})
    assert [row.state for row in TABLE if not cuts[row.state]] == []


def test_servers_died_and_jobs_came_to_every_end() -> None:
    worlds = [result for batch in range(len(SEEDS) // BATCH) for result in results(batch)[0].values()]
    assert all(result.server_lives > 1 for result in worlds)
    ends: Counter[str] = Counter()
    for result in worlds:
        ends.update(result.ends)
    print(dict(ends))
    assert {row.state for row in TABLE if row.on_success is None} <= set(ends)
