"""Rows in dicts, and a transaction over them that remembers how to undo what it did."""

import heapq
from typing import Any, Optional, Sequence

from fleet.errors import UsageError
from fleet.model.artifacts import Artifact
from fleet.model.audit import POOLS, AuditEntry
from fleet.model.executions import Execution
from fleet.model.jobs import ArtifactRef, Job
from fleet.model.nodes import Node
from fleet.server.changes import Change
from fleet.server.commands import Outcome
from fleet.server.queries import Sample
from fleet.server.series import RESOLUTIONS

from .interface import AUDIT_KEPT_MS, AUDIT_LIMITS

_ABSENT: Any = object()

Mark = tuple[int, int, int]


class Tables:
    """All rows, by key. The heaps hold when rows are, or once were, due; the rows say which entries still hold."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.samples: dict[str, Sample] = {}
        # By resolution, hour and node id.
        self.series: dict[int, dict[int, dict[str, bytes]]] = {resolution: {} for resolution in RESOLUTIONS}
        self.jobs: dict[str, Job] = {}
        self.executions: dict[str, dict[str, Execution]] = {}
        self.counts: dict[str, dict[str, int]] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.holds: dict[str, tuple[ArtifactRef, ...]] = {}
        self.answers: dict[str, tuple[int, str, Outcome]] = {}
        self.audit: dict[str, dict[int, AuditEntry]] = {pool: {} for pool in POOLS}
        self.audit_dropped: dict[str, int] = {}
        self.audit_last: dict[str, int] = {"number": 0}
        self.changes: list[Change] = []
        self.last_cursor = 0
        self.due_jobs: list[tuple[int, str]] = []
        self.due_executions: list[tuple[int, str, str]] = []

    def next_due_job(self) -> Optional[int]:
        """When the next job is due (UTC ms)."""
        while self.due_jobs:
            due_at, job_id = self.due_jobs[0]
            job = self.jobs.get(job_id)
            if job is not None and job.due_at == due_at:
                return due_at
            heapq.heappop(self.due_jobs)
        return None

    def next_due_execution(self) -> Optional[int]:
        """When the next execution is due (UTC ms)."""
        while self.due_executions:
            due_at, job_id, node_id = self.due_executions[0]
            execution = self.executions.get(job_id, {}).get(node_id)
            if execution is not None and execution.due_at == due_at:
                return due_at
            heapq.heappop(self.due_executions)
        return None

    def is_needed(self, sha256: str) -> bool:
        """Whether an artifact names, or a job holds, this content."""
        return any(artifact.sha256 == sha256 for artifact in self.artifacts.values()) or bool(self.holders(sha256))

    def holders(self, sha256: str) -> list[str]:
        """The ids of jobs that hold a content."""
        return sorted(
            job_id
            for job_id, references in self.holds.items()
            if any(reference.sha256 == sha256 for reference in references)
        )

    def rebuild_heaps(self) -> None:
        """Make the heaps anew from the rows: after an undo, entries taken out may hold again."""
        self.due_jobs = [(job.due_at, job.job_id) for job in self.jobs.values() if job.due_at is not None]
        self.due_executions = [
            (execution.due_at, execution.job_id, execution.node_id)
            for executions in self.executions.values()
            for execution in executions.values()
            if execution.due_at is not None
        ]
        heapq.heapify(self.due_jobs)
        heapq.heapify(self.due_executions)


class MemoryTx:
    """A `Tx` over `Tables`. With `writes_left`, writes beyond it raise OSError, as a full disk does."""

    def __init__(self, tables: Tables, writes_left: Optional[int] = None) -> None:
        self._tables = tables
        self._undo: list[tuple[dict[Any, Any], Any, Any]] = []
        self.writes_left = writes_left
        self.change_count = 0

    def mark(self) -> Mark:
        """A point to roll back to."""
        return len(self._undo), len(self._tables.changes), self._tables.last_cursor

    def roll_back_to(self, mark: Mark) -> None:
        """Undo everything since `mark`."""
        length, change_length, self._tables.last_cursor = mark
        while len(self._undo) > length:
            table, key, value = self._undo.pop()
            if value is _ABSENT:
                del table[key]
            else:
                table[key] = value
        self.change_count -= len(self._tables.changes) - change_length
        del self._tables.changes[change_length:]
        self._tables.rebuild_heaps()
        for pool in self._tables.audit.values():
            # What was taken out is put back at the end.
            rows = sorted(pool.items())
            pool.clear()
            pool.update(rows)

    def node(self, node_id: str) -> Optional[Node]:
        """See Tx."""
        return self._tables.nodes.get(node_id)

    def node_ids(self, after: str, limit: int) -> list[str]:
        """See Tx."""
        return heapq.nsmallest(limit, (node_id for node_id in self._tables.nodes if node_id > after))

    def put_node(self, node: Node) -> None:
        """See Tx."""
        self._set(self._tables.nodes, node.node_id, node)

    def remove_node(self, node_id: str) -> None:
        """See Tx."""
        self._remove(self._tables.nodes, node_id)
        self._remove(self._tables.samples, node_id)

    def job(self, job_id: str) -> Optional[Job]:
        """See Tx."""
        return self._tables.jobs.get(job_id)

    def job_state(self, job_id: str) -> Optional[str]:
        """See Tx."""
        job = self._tables.jobs.get(job_id)
        return None if job is None else job.state

    def job_count(self) -> int:
        """See Tx."""
        return len(self._tables.jobs)

    def put_job(self, job: Job) -> None:
        """See Tx."""
        if job.job_id not in self._tables.jobs:
            self._set(self._tables.executions, job.job_id, {})
            self._set(self._tables.counts, job.job_id, {})
        self._set(self._tables.jobs, job.job_id, job)
        if job.due_at is not None:
            heapq.heappush(self._tables.due_jobs, (job.due_at, job.job_id))

    def remove_job(self, job_id: str) -> None:
        """See Tx."""
        self._remove(self._tables.jobs, job_id)
        self._remove(self._tables.executions, job_id)
        self._remove(self._tables.counts, job_id)

    def due_jobs(self, at: int, limit: int) -> list[Job]:
        """See Tx."""
        found: dict[tuple[int, str], Job] = {}
        while len(found) < limit:
            due_at = self._tables.next_due_job()
            if due_at is None or due_at > at:
                break
            entry = heapq.heappop(self._tables.due_jobs)
            found[entry] = self._tables.jobs[entry[1]]
        for entry in found:
            heapq.heappush(self._tables.due_jobs, entry)
        return list(found.values())

    def execution(self, job_id: str, node_id: str) -> Optional[Execution]:
        """See Tx."""
        return self._tables.executions.get(job_id, {}).get(node_id)

    def executions(self, job_id: str, after: str, limit: int) -> list[Execution]:
        """See Tx."""
        executions = self._tables.executions.get(job_id, {})
        return [executions[key] for key in heapq.nsmallest(limit, (key for key in executions if key > after))]

    def node_executions(self, node_id: str) -> list[Execution]:
        """See Tx."""
        found = [executions.get(node_id) for _job_id, executions in sorted(self._tables.executions.items())]
        return [execution for execution in found if execution is not None and execution.due_at is not None]

    def due_executions(self, at: int, limit: int) -> list[Execution]:
        """See Tx."""
        found: dict[tuple[int, str, str], Execution] = {}
        while len(found) < limit:
            due_at = self._tables.next_due_execution()
            if due_at is None or due_at > at:
                break
            entry = heapq.heappop(self._tables.due_executions)
            found[entry] = self._tables.executions[entry[1]][entry[2]]
        for entry in found:
            heapq.heappush(self._tables.due_executions, entry)
        return list(found.values())

    def add_execution(self, execution: Execution) -> None:
        """See Tx."""
        executions = self._tables.executions[execution.job_id]
        if execution.node_id in executions:
            raise UsageError(f"node {execution.node_id} has an execution of job {execution.job_id} already")
        self._put_execution(execution)
        self._count(execution.job_id, execution.state, 1)

    def move_execution(self, before: Execution, after: Execution) -> None:
        """See Tx."""
        found = self.execution(before.job_id, before.node_id)
        if found is None or (found.state, found.attempt) != (before.state, before.attempt):
            raise UsageError(f"node {before.node_id} is no longer at {before.state} in job {before.job_id}")
        self._put_execution(after, before.due_at)
        if before.state != after.state:
            self._count(before.job_id, before.state, -1)
            self._count(before.job_id, after.state, 1)

    def counts(self, job_id: str) -> dict[str, int]:
        """See Tx."""
        return dict(self._tables.counts.get(job_id, {}))

    def artifact(self, name: str) -> Optional[Artifact]:
        """See Tx."""
        return self._tables.artifacts.get(name)

    def artifact_count(self) -> int:
        """See Tx."""
        return len(self._tables.artifacts)

    def put_artifact(self, artifact: Artifact) -> None:
        """See Tx."""
        self._set(self._tables.artifacts, artifact.name, artifact)

    def remove_artifact(self, name: str) -> None:
        """See Tx."""
        self._remove(self._tables.artifacts, name)

    def hold(self, job_id: str, artifacts: Sequence[ArtifactRef]) -> None:
        """See Tx."""
        if artifacts:
            self._set(self._tables.holds, job_id, tuple(artifacts))

    def release(self, job_id: str) -> None:
        """See Tx."""
        self._remove(self._tables.holds, job_id)

    def holders(self, sha256: str) -> list[str]:
        """See Tx."""
        return self._tables.holders(sha256)

    def is_needed(self, sha256: str) -> bool:
        """See Tx."""
        return self._tables.is_needed(sha256)

    def answer(self, request_id: str) -> Optional[tuple[str, Outcome]]:
        """See Tx."""
        known = self._tables.answers.get(request_id)
        return None if known is None else known[1:]

    def remember(self, request_id: str, at: int, fingerprint: str, outcome: Outcome) -> None:
        """See Tx."""
        self._set(self._tables.answers, request_id, (at, fingerprint, outcome))

    def forget_answers(self, before: int) -> None:
        """See Tx."""
        old = []
        for request_id, (at, _fingerprint, _outcome) in self._tables.answers.items():
            if at > before:
                break
            old.append(request_id)
        for request_id in old:
            self._remove(self._tables.answers, request_id)

    def audit(self, entry: AuditEntry) -> None:
        """See Tx."""
        tables = self._tables
        number = tables.audit_last["number"] + 1
        self._set(tables.audit_last, "number", number)
        self._set(tables.audit[entry.pool], number, entry)
        for name, pool in tables.audit.items():
            dropped = 0
            while pool:
                oldest = next(iter(pool))
                if len(pool) <= AUDIT_LIMITS[name] and pool[oldest].at >= entry.at - AUDIT_KEPT_MS:
                    break
                self._remove(pool, oldest)
                dropped += 1
            if dropped:
                self._set(tables.audit_dropped, name, tables.audit_dropped.get(name, 0) + dropped)

    def emit(
        self,
        at: int,
        kind: str,
        state: str,
        *,
        job_id: Optional[str] = None,
        node_id: Optional[str] = None,
        name: Optional[str] = None,
        sha256: Optional[str] = None,
    ) -> None:
        """See Tx."""
        self._tables.last_cursor += 1
        self.change_count += 1
        change = Change(self._tables.last_cursor, at, kind, state, job_id, node_id, name, sha256)
        self._tables.changes.append(change)

    def _put_execution(self, execution: Execution, due_before: Optional[int] = None) -> None:
        self._set(self._tables.executions[execution.job_id], execution.node_id, execution)
        if execution.due_at is not None and execution.due_at != due_before:
            entry = (execution.due_at, execution.job_id, execution.node_id)
            heapq.heappush(self._tables.due_executions, entry)

    def _count(self, job_id: str, state: str, difference: int) -> None:
        counts = self._tables.counts[job_id]
        number = counts.get(state, 0) + difference
        if number:
            self._set(counts, state, number)
        else:
            self._remove(counts, state)

    def _set(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        if self.writes_left is not None:
            if self.writes_left <= 0:
                raise OSError("database or disk is full")
            self.writes_left -= 1
        self._undo.append((table, key, table.get(key, _ABSENT)))
        table[key] = value

    def _remove(self, table: dict[Any, Any], key: Any) -> None:
        if key in table:
            self._undo.append((table, key, table.pop(key)))
