"""Without hints a node still hears of its jobs: the answer to a confirmed report tells it, and every fifth is one."""

from __future__ import annotations

import pytest

from fleet.agent.membership import UNCONFIRMED
from fleet.simulate.faults import Plan
from fleet.simulate.fleet import SimulatedFleet
from fleet.simulate.node import SimulatedNode
from fleet.simulate.operator import JobPlan
from fleet.simulate.server import HEALTH_INTERVAL

CREATED_AT = 20 * HEALTH_INTERVAL  # when reports have long been unconfirmed most of the time


class TimedFleet(SimulatedFleet):
    """A fleet in which it is noted when each node first has a job."""

    known_at: dict[int, float]

    def state_entered(self, node: SimulatedNode, state: str) -> None:
        self.known_at.setdefault(node.index, self.world.now)
        super().state_entered(node, state)


@pytest.mark.parametrize("push", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_job_is_known_everywhere_within_five_intervals(seed: int, push: bool) -> None:
    job = JobPlan("configuration", "1", "file", (("file", b"content"),), at=CREATED_AT)
    fleet = TimedFleet(seed, 20, plan=Plan(push=push, heal_at=1.0), jobs=[job])
    fleet.known_at = {}

    fleet.run()

    waits = [at - CREATED_AT for at in fleet.known_at.values()]
    assert len(waits) == 20
    assert min(waits) >= 0
    if push:
        assert max(waits) < 60.0
    else:
        # A margin of a minute for the operator's own requests, and for the messages.
        assert HEALTH_INTERVAL < max(waits) < (UNCONFIRMED + 1) * HEALTH_INTERVAL + 60.0
