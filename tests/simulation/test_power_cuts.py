"""The agent that the command starts, its power cut at every change of its disk, and then at every second one."""

from __future__ import annotations

import errno
from collections import Counter
from itertools import count

import pytest

import fleet.agent.download
from fleet.agent import steps
from fleet.model.executions import ALREADY_INSTALLED, CANCELLED, CANCELLING, SUCCEEDED
from fleet.simulate.faults import DiskFault, Plan
from fleet.simulate.fleet import Figures, SimulatedFleet
from fleet.simulate.operator import JobPlan

SEED = 6  # one in which the node meets no trouble of its own
FILES = (("one", bytes(range(250)) * 9), ("other", b"x"))  # three blocks, and one
HEAL_AT = 240.0  # seconds; by then all cuts have come
WAY_OF_A_JOB = [steps.ROWS[steps.FIRST]]
while WAY_OF_A_JOB[-1].on_success is not None:
    WAY_OF_A_JOB.append(steps.ROWS[WAY_OF_A_JOB[-1].on_success])


@pytest.fixture(autouse=True)
def sync_after_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet.agent.download, "SYNC_STEP", 1024)


def world(*points: int, call: int = 0, error: int = errno.EIO, cancel_after: float = 0.0) -> SimulatedFleet:
    """One node with one job on a perfect network; its disk cuts the power at `points`, or fails at one `call`."""
    plan = Plan(heal_at=HEAL_AT, disk_faults=(DiskFault(0, points, call, error),))
    job = JobPlan("job", "1", "file", FILES, at=5.0, cancel_after=cancel_after)
    return SimulatedFleet(SEED, 1, plan=plan, jobs=[job])


def run(*points: int, cancel_after: float = 0.0) -> Figures:
    return world(*points, cancel_after=cancel_after).run()


def test_a_job_cut_at_every_point_of_the_disk_ends_well() -> None:
    states: Counter[str] = Counter()
    for point in count(1):
        figures = run(point)
        if not figures.cuts:
            break
        assert (figures.lives, figures.ends) == (2, {SUCCEEDED: 1})
        states += figures.cuts_by_state
    assert point > 80
    assert set(states) == {"", *(row.state for row in WAY_OF_A_JOB)}
    print(f"{point - 1} points, {dict(states)}")


def test_a_job_cut_at_every_call_and_then_at_every_second_call_ends_well() -> None:
    # The moment after a call leaves the disk as the moment before the next: every other point is enough here.
    lives: Counter[int] = Counter()
    for first in count(1, 2):
        for second in count(1, 2):
            figures = run(first, second)
            lives[figures.lives] += 1
            assert figures.ends == {SUCCEEDED: 1}
            if figures.lives < 3:
                break
        if figures.lives < 2:
            break
    assert lives[3] > 1000
    print(f"worlds by lives: {dict(lives)}")


# Seconds after the install at which the operator cancels: the node then downloads, or installs.
@pytest.mark.parametrize("cancel_after", [4.0, 14.0])
def test_a_cancelled_job_cut_at_every_call_ends_well(cancel_after: float) -> None:
    states: Counter[str] = Counter()
    for point in count(1, 2):
        figures = run(point, cancel_after=cancel_after)
        if not figures.cuts:
            break
        states += figures.cuts_by_state
        # The operator tries again, and the node may have been too far to stop.
        assert set(figures.ends) <= {SUCCEEDED, ALREADY_INSTALLED}
    assert states[CANCELLING] and states[CANCELLED]
    print(f"{point // 2} points, {dict(states)}")


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_disk_that_fails_once_at_any_call_delays_a_job_and_no_more(error: str) -> None:
    undisturbed = world()
    undisturbed.run()
    calls = undisturbed.nodes[0].disk.calls
    assert calls > 40
    for call in range(1, calls + 1):
        assert world(call=call, error=getattr(errno, error)).run().ends == {SUCCEEDED: 1}
