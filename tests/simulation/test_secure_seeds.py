"""Worlds in which everybody speaks through pretended DTLS, and the server keeps fewer sessions than it has nodes."""

from __future__ import annotations

from collections import Counter

import pytest

from fleet.model.executions import SUCCEEDED
from fleet.simulate.fleet import Figures, SimulatedFleet

SEEDS = range(20)
NODES = 24


def run(seed: int) -> Figures:
    return SimulatedFleet(seed, NODES, secure=True).run()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_secure_world_of_faults_comes_to_rest(seed: int) -> None:
    figures = run(seed)
    assert figures.server_lives > 1
    assert figures.ends


def test_a_secure_world_is_the_same_again() -> None:
    assert run(1) == run(1)


def test_updates_succeed_and_nodes_die_in_the_midst_of_them() -> None:
    ends: Counter[str] = Counter()
    cuts: Counter[str] = Counter()
    for seed in SEEDS[:8]:
        figures = run(seed)
        ends += figures.ends
        cuts += figures.cuts_by_state
    assert ends[SUCCEEDED] > 8 * NODES
    assert len(cuts) > 10
