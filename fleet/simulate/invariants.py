"""What must never happen, checked as it happens: at each commit of the store, each verb of a device, each end of a job.

Whatever breaks a rule raises InvariantError with what was seen. Rules of the end, when the faults have ceased and time
was granted, are in `fleet.simulate.rest`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Optional

from fleet.host.files import Files
from fleet.install.interface import NEW, OLD, Call, Step
from fleet.model import executions, jobs
from fleet.model.executions import Execution
from fleet.server import changes
from fleet.server.changes import Change
from fleet.server.commands import Command, Outcome, Report
from fleet.server.store.memory import MemoryStore

WORKER = ["-m", "fleet.install.worker"]


class InvariantError(AssertionError):
    """A rule of the fleet is broken."""


class JobTruth(NamedTuple):
    """What the operator meant by a job: its `targets` (None for all nodes) and the artifacts' SHA-256 by name."""

    name: str
    targets: Optional[tuple[str, ...]]
    hashes: dict[str, str]


Attempt = tuple[str, str, int]  # node, job, attempt


class Invariants:
    """The rules, and what they need to know of the past."""

    def __init__(self) -> None:
        self.jobs: dict[str, JobTruth] = {}
        self.installs: Counter[Attempt] = Counter()  # completed
        self._verified: dict[Attempt, None] = {}

    # Devices

    def verb_begins(self, call: Call, running: str, arguments: Sequence[str]) -> None:
        """A child starts: it is the worker, and the only one."""
        require(list(arguments[1:]) == WORKER, "{} was started, not the worker", arguments)
        require(not running, "{} begins while {} is running", call.verb, running)

    def hashes_verified(self, node_id: str, step: Step, files: Files) -> None:
        """The artifacts were read through, and are what the operator put into the store."""
        self._check_bytes(node_id, step, files)
        self._verified[node_id, step.job_id, step.attempt] = None

    def install_begins(self, node_id: str, step: Step, files: Files, condition: str) -> None:
        """No install without verified hashes, of a job for others, on a half-changed device, or once more."""
        attempt = (node_id, step.job_id, step.attempt)
        require(attempt in self._verified, "{} is installed without verified hashes", attempt)
        require(condition == OLD, "{} is installed on a device that is {}", attempt, condition)
        require(not self.installs[attempt], "{} is installed again", attempt)
        truth = self._truth(step)
        require(truth.targets is None or node_id in truth.targets, "{} is not for this node", attempt)
        self._check_bytes(node_id, step, files)

    def install_completed(self, node_id: str, step: Step) -> None:
        """At most one completed install an attempt."""
        attempt = (node_id, step.job_id, step.attempt)
        self.installs[attempt] += 1
        require(self.installs[attempt] == 1, "{} was installed twice", attempt)

    def commit_begins(self, node_id: str, step: Step, condition: str) -> None:
        """Only what is installed is committed."""
        require(condition == NEW, "{} commits job {} while the device is {}", node_id, step.job_id, condition)

    def _check_bytes(self, node_id: str, step: Step, files: Files) -> None:
        hashes = self._truth(step).hashes
        names = [artifact.name for artifact in step.artifacts]
        require(sorted(hashes) == sorted(names), "job {} names {}, not {}", step.job_id, names, hashes)
        for artifact in step.artifacts:
            data = files.read(artifact.file) if files.size(artifact.file) is not None else b""
            digest = hashlib.sha256(data).hexdigest()
            require(digest == hashes[artifact.name], "{}: the bytes of {} are wrong", node_id, artifact.name)

    def _truth(self, step: Step) -> JobTruth:
        truth = self.jobs.get(step.job_id)
        if truth is None:
            raise InvariantError(f"nobody has asked for job {step.job_id}")
        return truth


class CheckedStore(MemoryStore):
    """The store, with the rules on what a commit may change."""

    def __init__(self, invariants: Invariants) -> None:
        super().__init__()
        self._invariants = invariants
        self._job_states: dict[str, str] = {}
        self._executions: dict[tuple[str, str], Execution] = {}

    def commit(self, commands: Sequence[Command]) -> tuple[list[Outcome], list[Change]]:
        """Apply commands, one by one so that each can be held against what was before."""
        outcomes: list[Outcome] = []
        changed: list[Change] = []
        for command in commands:
            (outcome,), new = super().commit((command,))
            self._check(command, outcome, new)
            outcomes.append(outcome)
            changed.extend(new)
        return outcomes, changed

    def _check(self, command: Command, outcome: Outcome, changed: Sequence[Change]) -> None:
        if not changed:
            return
        require(outcome.is_ok, "{} was refused, and changed {}", command, changed)
        touched: dict[str, None] = {}
        for change in changed:
            if change.job_id is None:
                continue
            touched[change.job_id] = None
            if change.kind == changes.JOB:
                self._check_job(change.job_id, change.state)
            elif change.node_id is not None:
                self._check_execution(command, change.job_id, change.node_id, change.state)
        for job_id in touched:
            self._check_counts(job_id)

    def _check_job(self, job_id: str, state: str) -> None:
        before = self._job_states.get(job_id)
        if state == changes.DELETED:
            del self._job_states[job_id]
            for key in [key for key in self._executions if key[0] == job_id]:
                del self._executions[key]
            return
        is_legal = state == jobs.CREATED if before is None else jobs.can_move(before, state)
        require(is_legal, "job {} went from {} to {}", job_id, before, state)
        self._job_states[job_id] = state

    def _check_execution(self, command: Command, job_id: str, node_id: str, state: str) -> None:
        before = self._executions.get((job_id, node_id))
        after = self.tables.executions[job_id][node_id]
        self._executions[job_id, node_id] = after
        where = (node_id, job_id, after.attempt)
        if before is None:
            require(state in (executions.PENDING, executions.REJECTED), "{} begins as {}", where, state)
            return
        if after.attempt != before.attempt:
            is_legal = before.state in executions.RETRYABLE and state == executions.PENDING
            require(is_legal and after.attempt == before.attempt + 1, "{} follows on {}", after, before)
            return
        is_legal = state == before.state or executions.can_move(before.state, state)
        require(is_legal, "{} went from {} to {}", where, before.state, state)
        if isinstance(command, Report):
            require(before.state not in executions.ENDS, "{} was reported on after its end", where)
            require(command.attempt == before.attempt, "{} took a report of another attempt", where)
            require(command.sequence > before.sequence, "{} took report {} twice", where, command.sequence)
        require(after.sequence >= before.sequence, "{} counts backwards", where)

    def _check_counts(self, job_id: str) -> None:
        job = self.tables.jobs.get(job_id)
        if job is None:
            return
        rows = self.tables.executions[job_id]
        counted = Counter(row.state for row in rows.values())
        require(counted == self.tables.counts[job_id], "job {} counts {}, not {}", job_id, counted, self.tables.counts)
        truth = self._invariants.jobs.get(job_id)
        if truth is not None and truth.targets is not None:
            require(len(rows) <= len(truth.targets), "job {} runs on more nodes than it may", job_id)
        if job.state == jobs.CREATED:
            require(not rows, "job {} runs before it was asked to", job_id)
        if job.state in jobs.JOB_ENDS:
            require(all(state in executions.ENDS for state in counted), "job {} ended before its nodes", job_id)


def require(holds: bool, rule: str, *seen: object) -> None:
    """Raise InvariantError, `rule` formatted with what was `seen`, unless it holds."""
    if not holds:
        raise InvariantError(rule.format(*seen))
