"""Which jobs wait for which node: what a report is answered with, without asking the store.

Derived from the change feed alone, so it can be lost and made again.
"""

from __future__ import annotations

from fleet.model import executions, jobs
from fleet.server.changes import DELETED, EXECUTION, JOB, NODE, REMOVED, Change
from fleet.server.queries import WaitingItem


class Waiting:
    """Executions that are not at an end, by node, and the states of their jobs."""

    def __init__(self) -> None:
        self._by_node: dict[str, dict[str, str]] = {}  # node id -> job id -> execution state
        self._jobs: dict[str, str] = {}

    def __len__(self) -> int:
        return sum(len(waiting) for waiting in self._by_node.values())

    def add(self, item: WaitingItem) -> None:
        """Take up an execution that the store says is waiting."""
        self._jobs[item.job_id] = item.job_state
        self._by_node.setdefault(item.node_id, {})[item.job_id] = item.state

    def follow(self, change: Change) -> None:
        """Take up a change."""
        if change.kind == JOB and change.job_id is not None:
            if change.state == DELETED or change.state in jobs.JOB_ENDS:
                self._jobs.pop(change.job_id, None)
            else:
                self._jobs[change.job_id] = change.state
        elif change.kind == EXECUTION and change.node_id is not None and change.job_id is not None:
            waiting = self._by_node.setdefault(change.node_id, {})
            if change.state in executions.ENDS or change.state == DELETED:
                waiting.pop(change.job_id, None)
            else:
                waiting[change.job_id] = change.state
            if not waiting:
                del self._by_node[change.node_id]
        elif change.kind == NODE and change.state == REMOVED and change.node_id is not None:
            self._by_node.pop(change.node_id, None)

    def jobs_for(self, node_id: str) -> tuple[str, ...]:
        """Return the ids of the jobs that the node has to act on."""
        waiting = self._by_node.get(node_id)
        if not waiting:
            return ()
        states = self._jobs
        return tuple([job for job, state in waiting.items() if executions.waits_for_node(states.get(job, ""), state)])
