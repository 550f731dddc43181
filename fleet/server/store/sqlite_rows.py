"""Rows in SQLite: the statements, the conversion of rows, and the engine's transaction over them."""

import sqlite3
from typing import Any, Optional, Sequence

import msgspec

from fleet.errors import UsageError
from fleet.model.artifacts import Artifact
from fleet.model.audit import POOLS, AuditEntry, Origin
from fleet.model.executions import Execution
from fleet.model.jobs import ArtifactRef, Job, JobSpec
from fleet.model.nodes import Node, Registration
from fleet.server.changes import Change
from fleet.server.commands import Outcome
from fleet.server.engine.deadlines import ANSWERS_GRACE_MS, ANSWERS_KEPT_MS
from fleet.server.queries import Sample

from .interface import ANSWERS_LIMIT, AUDIT_KEPT_MS, AUDIT_LIMITS, CHANGES_LIMIT

Row = Sequence[Any]
Mark = tuple[int, int]

NODE_COLUMNS = "node_id, registration, host, port, created_at, registered_at"
JOB_COLUMNS = "job_id, spec, artifacts, state, created_at, updated_at, work, work_after, expanded, due_at"
EXECUTION_COLUMNS = (
    "job_id, node_id, state, attempt, sequence, created_at, updated_at, due_at, bytes_done, bytes_total, reason,"
    " waiting_for, output"
)
ARTIFACT_COLUMNS = "name, size, sha256, created_at"
AUDIT_COLUMNS = "number, at, pool, who, host, port, method, path, what, subject, result, count"
CHANGE_COLUMNS = "cursor, at, kind, state, job_id, node_id, name, sha256"

IS_NEEDED = (
    "SELECT EXISTS (SELECT 1 FROM artifacts WHERE sha256 = :sha256)"
    " OR EXISTS (SELECT 1 FROM holds WHERE sha256 = :sha256)"
)
HOLDERS = "SELECT DISTINCT job_id FROM holds WHERE sha256 = ? ORDER BY job_id"
COUNTS = "SELECT state, number FROM counts WHERE job_id = ? AND number > 0"
JOB = f"SELECT {JOB_COLUMNS} FROM jobs WHERE job_id = ?"
EXECUTION = f"SELECT {EXECUTION_COLUMNS} FROM executions WHERE job_id = ? AND node_id = ?"
EXECUTIONS = f"SELECT {EXECUTION_COLUMNS} FROM executions WHERE job_id = ? AND node_id > ? ORDER BY node_id LIMIT ?"

_PUT_NODE = (
    f"INSERT INTO nodes ({NODE_COLUMNS}, search) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (node_id) DO UPDATE SET"
    " registration = excluded.registration, host = excluded.host, port = excluded.port,"
    " registered_at = excluded.registered_at, search = excluded.search"
)
_GROUPS = "SELECT name FROM node_groups WHERE node_id = ?"
_LEAVE_GROUPS = "DELETE FROM node_groups WHERE node_id = ?"
_JOIN_GROUP = "INSERT INTO node_groups (name, node_id) VALUES (?, ?)"
_PUT_JOB = (
    f"INSERT INTO jobs ({JOB_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (job_id) DO UPDATE SET"
    " state = excluded.state, updated_at = excluded.updated_at, work = excluded.work,"
    " work_after = excluded.work_after, expanded = excluded.expanded, due_at = excluded.due_at"
)
_DUE_JOBS = f"SELECT {JOB_COLUMNS} FROM jobs WHERE due_at <= ? ORDER BY due_at, job_id LIMIT ?"
_NODE_EXECUTIONS = (
    f"SELECT {EXECUTION_COLUMNS} FROM executions WHERE node_id = ? AND due_at IS NOT NULL ORDER BY job_id"
)
_DUE_EXECUTIONS = (
    f"SELECT {EXECUTION_COLUMNS} FROM executions WHERE due_at <= ? ORDER BY due_at, job_id, node_id LIMIT ?"
)
_ADD_EXECUTION = f"INSERT INTO executions ({EXECUTION_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_MOVE_EXECUTION = (
    "UPDATE executions SET state = ?, attempt = ?, sequence = ?, updated_at = ?, due_at = ?, bytes_done = ?,"
    " bytes_total = ?, reason = ?, waiting_for = ?, output = ?"
    " WHERE job_id = ? AND node_id = ? AND state = ? AND attempt = ?"
)
_COUNT_UP = (
    "INSERT INTO counts (job_id, state, number) VALUES (?, ?, 1)"
    " ON CONFLICT (job_id, state) DO UPDATE SET number = number + 1"
)
_COUNT_DOWN = "UPDATE counts SET number = number - 1 WHERE job_id = ? AND state = ?"
ANSWER = "SELECT fingerprint, outcome FROM answers WHERE request_id = ?"
_FORGET_ANSWERS = (
    "DELETE FROM answers WHERE number <"
    " coalesce((SELECT number FROM answers WHERE at > ? ORDER BY number LIMIT 1), 9223372036854775807)"
)
_COUNT_AUDIT = (
    "INSERT INTO audit_pools (pool, kept, dropped) VALUES (?, 1, 0) ON CONFLICT (pool) DO UPDATE SET kept = kept + 1"
)
# Oldest first: up to the first row that is young enough, and as many as are too many.
_DROP_OLD_AUDIT = (
    "DELETE FROM audit WHERE pool = :pool AND number <"
    " coalesce((SELECT number FROM audit WHERE pool = :pool AND at >= :before ORDER BY number LIMIT 1),"
    " 9223372036854775807)"
)
_DROP_MUCH_AUDIT = (
    "DELETE FROM audit WHERE number IN (SELECT number FROM audit WHERE pool = ? ORDER BY number LIMIT"
    " max(0, (SELECT kept FROM audit_pools WHERE pool = ?) - ?))"
)
_COUNT_DROPPED = "UPDATE audit_pools SET kept = kept - :rows, dropped = dropped + :rows WHERE pool = :pool"
_PUT_SAMPLE = (
    "INSERT INTO samples (node_id, at, body) SELECT :node_id, :at, :body"
    " WHERE EXISTS (SELECT 1 FROM nodes WHERE node_id = :node_id)"
    " ON CONFLICT (node_id) DO UPDATE SET at = excluded.at, body = excluded.body"
)

_encode = msgspec.json.Encoder().encode
_registration = msgspec.json.Decoder(Registration).decode
_spec = msgspec.json.Decoder(JobSpec).decode
_references = msgspec.json.Decoder(tuple[ArtifactRef, ...]).decode
outcome_of = msgspec.json.Decoder(Outcome).decode


def node_of(row: Row) -> Node:
    """A node from its NODE_COLUMNS."""
    return Node(row[0], _registration(row[1]), row[2], row[3], row[4], row[5])


def job_of(row: Row) -> Job:
    """A job from its JOB_COLUMNS."""
    return Job(row[0], _spec(row[1]), _references(row[2]), row[3], row[4], row[5], row[6], row[7], bool(row[8]), row[9])


def audit_of(row: Row) -> AuditEntry:
    """A row of the audit trail from its AUDIT_COLUMNS."""
    return AuditEntry(row[1], row[2], Origin(*row[3:8]), *row[8:12])


def put_samples(connection: sqlite3.Connection, samples: Sequence[Sample]) -> None:
    """Write the last samples of nodes that are registered, in the order given."""
    connection.executemany(
        _PUT_SAMPLE, ({"node_id": sample.node_id, "at": sample.at, "body": sample.body} for sample in samples)
    )


class SqliteTx:
    """A `Tx` over a connection whose owner begins and ends transactions and savepoints."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute
        self._executemany = connection.executemany
        self._last_cursor = int(self._execute("SELECT coalesce(max(cursor), 0) FROM changes").fetchone()[0])
        self.changes: list[Change] = []

    def mark(self) -> Mark:
        """How far the feed of changes is, to roll back to with a savepoint."""
        return len(self.changes), self._last_cursor

    def roll_back_to(self, mark: Mark) -> None:
        """Forget the changes since `mark`."""
        length, self._last_cursor = mark
        del self.changes[length:]

    def finish(self) -> Optional[int]:
        """Write the changes, forget what is too old, and return when (UTC ms) the next row is due."""
        if self.changes:
            self._executemany(
                f"INSERT INTO changes ({CHANGE_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [msgspec.structs.astuple(change) for change in self.changes],
            )
            self._execute("DELETE FROM changes WHERE cursor <= ?", (self._last_cursor - CHANGES_LIMIT,))
        self._execute("DELETE FROM answers WHERE number <= (SELECT max(number) FROM answers) - ?", (ANSWERS_LIMIT,))
        due = self._execute(
            "SELECT (SELECT min(due_at) FROM jobs WHERE due_at IS NOT NULL),"
            " (SELECT min(due_at) FROM executions WHERE due_at IS NOT NULL),"
            " (SELECT at FROM answers ORDER BY number LIMIT 1) + ?",
            (ANSWERS_KEPT_MS + ANSWERS_GRACE_MS,),
        ).fetchone()
        return min((at for at in due if at is not None), default=None)

    def node(self, node_id: str) -> Optional[Node]:
        """See Tx."""
        row = self._execute(f"SELECT {NODE_COLUMNS} FROM nodes WHERE node_id = ?", (node_id,)).fetchone()
        return None if row is None else node_of(row)

    def node_ids(self, after: str, limit: int) -> list[str]:
        """See Tx."""
        rows = self._execute("SELECT node_id FROM nodes WHERE node_id > ? ORDER BY node_id LIMIT ?", (after, limit))
        return [row[0] for row in rows]

    def put_node(self, node: Node) -> None:
        """See Tx."""
        registration = _encode(node.registration)
        row = (node.node_id, registration, node.host, node.port, node.created_at, node.registered_at, node.search)
        self._execute(_PUT_NODE, row)
        known = {name for (name,) in self._execute(_GROUPS, (node.node_id,))}
        groups = dict.fromkeys(node.registration.groups)
        if known != groups.keys():
            self._execute(_LEAVE_GROUPS, (node.node_id,))
            self._executemany(_JOIN_GROUP, [(name, node.node_id) for name in groups])

    def remove_node(self, node_id: str) -> None:
        """See Tx."""
        self._execute("DELETE FROM nodes WHERE node_id = ?", (node_id,))
        self._execute(_LEAVE_GROUPS, (node_id,))
        self._execute("DELETE FROM samples WHERE node_id = ?", (node_id,))

    def job(self, job_id: str) -> Optional[Job]:
        """See Tx."""
        row = self._execute(JOB, (job_id,)).fetchone()
        return None if row is None else job_of(row)

    def job_state(self, job_id: str) -> Optional[str]:
        """See Tx."""
        row = self._execute("SELECT state FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
        return None if row is None else str(row[0])

    def job_count(self) -> int:
        """See Tx."""
        return int(self._execute("SELECT COUNT(*) FROM jobs").fetchone()[0])

    def put_job(self, job: Job) -> None:
        """See Tx."""
        self._execute(
            _PUT_JOB,
            (
                job.job_id,
                _encode(job.spec),
                _encode(job.artifacts),
                job.state,
                job.created_at,
                job.updated_at,
                job.work,
                job.work_after,
                job.expanded,
                job.due_at,
            ),
        )

    def remove_job(self, job_id: str) -> None:
        """See Tx."""
        self._execute("DELETE FROM executions WHERE job_id = ?", (job_id,))
        self._execute("DELETE FROM counts WHERE job_id = ?", (job_id,))
        self._execute("DELETE FROM jobs WHERE job_id = ?", (job_id,))

    def due_jobs(self, at: int, limit: int) -> list[Job]:
        """See Tx."""
        return [job_of(row) for row in self._execute(_DUE_JOBS, (at, limit)).fetchall()]

    def execution(self, job_id: str, node_id: str) -> Optional[Execution]:
        """See Tx."""
        row = self._execute(EXECUTION, (job_id, node_id)).fetchone()
        return None if row is None else Execution(*row)

    def executions(self, job_id: str, after: str, limit: int) -> list[Execution]:
        """See Tx."""
        return [Execution(*row) for row in self._execute(EXECUTIONS, (job_id, after, limit)).fetchall()]

    def node_executions(self, node_id: str) -> list[Execution]:
        """See Tx."""
        return [Execution(*row) for row in self._execute(_NODE_EXECUTIONS, (node_id,)).fetchall()]

    def due_executions(self, at: int, limit: int) -> list[Execution]:
        """See Tx."""
        return [Execution(*row) for row in self._execute(_DUE_EXECUTIONS, (at, limit)).fetchall()]

    def add_execution(self, execution: Execution) -> None:
        """See Tx."""
        self._execute(_ADD_EXECUTION, msgspec.structs.astuple(execution))
        self._execute(_COUNT_UP, (execution.job_id, execution.state))

    def move_execution(self, before: Execution, after: Execution) -> None:
        """See Tx."""
        moved = self._execute(
            _MOVE_EXECUTION,
            (
                after.state,
                after.attempt,
                after.sequence,
                after.updated_at,
                after.due_at,
                after.bytes_done,
                after.bytes_total,
                after.reason,
                after.waiting_for,
                after.output,
                before.job_id,
                before.node_id,
                before.state,
                before.attempt,
            ),
        ).rowcount
        if moved != 1:
            raise UsageError(f"node {before.node_id} is no longer at {before.state} in job {before.job_id}")
        if before.state != after.state:
            self._execute(_COUNT_DOWN, (before.job_id, before.state))
            self._execute(_COUNT_UP, (before.job_id, after.state))

    def counts(self, job_id: str) -> dict[str, int]:
        """See Tx."""
        return dict(self._execute(COUNTS, (job_id,)).fetchall())

    def artifact(self, name: str) -> Optional[Artifact]:
        """See Tx."""
        row = self._execute(f"SELECT {ARTIFACT_COLUMNS} FROM artifacts WHERE name = ?", (name,)).fetchone()
        return None if row is None else Artifact(*row)

    def artifact_count(self) -> int:
        """See Tx."""
        return int(self._execute("SELECT COUNT(*) FROM artifacts").fetchone()[0])

    def put_artifact(self, artifact: Artifact) -> None:
        """See Tx."""
        self._execute(
            f"INSERT OR REPLACE INTO artifacts ({ARTIFACT_COLUMNS}) VALUES (?, ?, ?, ?)",
            msgspec.structs.astuple(artifact),
        )

    def remove_artifact(self, name: str) -> None:
        """See Tx."""
        self._execute("DELETE FROM artifacts WHERE name = ?", (name,))

    def hold(self, job_id: str, artifacts: Sequence[ArtifactRef]) -> None:
        """See Tx."""
        self._executemany(
            "INSERT OR IGNORE INTO holds (sha256, job_id, name, size) VALUES (?, ?, ?, ?)",
            [(reference.sha256, job_id, reference.name, reference.size) for reference in artifacts],
        )

    def release(self, job_id: str) -> None:
        """See Tx."""
        self._execute("DELETE FROM holds WHERE job_id = ?", (job_id,))

    def holders(self, sha256: str) -> list[str]:
        """See Tx."""
        return [row[0] for row in self._execute(HOLDERS, (sha256,))]

    def is_needed(self, sha256: str) -> bool:
        """See Tx."""
        return bool(self._execute(IS_NEEDED, {"sha256": sha256}).fetchone()[0])

    def answer(self, request_id: str) -> Optional[tuple[str, Outcome]]:
        """See Tx."""
        row = self._execute(ANSWER, (request_id,)).fetchone()
        return None if row is None else (row[0], outcome_of(row[1]))

    def remember(self, request_id: str, at: int, fingerprint: str, outcome: Outcome) -> None:
        """See Tx."""
        self._execute(
            "INSERT INTO answers (request_id, at, fingerprint, outcome) VALUES (?, ?, ?, ?)",
            (request_id, at, fingerprint, _encode(outcome)),
        )

    def forget_answers(self, before: int) -> None:
        """See Tx."""
        self._execute(_FORGET_ANSWERS, (before,))

    def audit(self, entry: AuditEntry) -> None:
        """See Tx."""
        row = (entry.at, entry.pool, *msgspec.structs.astuple(entry.origin))
        self._execute(
            f"INSERT INTO audit ({AUDIT_COLUMNS}) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*row, entry.what, entry.subject, entry.result, entry.count),
        )
        self._execute(_COUNT_AUDIT, (entry.pool,))
        for pool in POOLS:
            values = {"pool": pool, "before": entry.at - AUDIT_KEPT_MS}
            self._count_dropped(pool, self._execute(_DROP_OLD_AUDIT, values).rowcount)
        limit = AUDIT_LIMITS[entry.pool]
        self._count_dropped(entry.pool, self._execute(_DROP_MUCH_AUDIT, (entry.pool, entry.pool, limit)).rowcount)

    def _count_dropped(self, pool: str, rows: int) -> None:
        if rows:
            self._execute(_COUNT_DROPPED, {"pool": pool, "rows": rows})

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
        self._last_cursor += 1
        self.changes.append(Change(self._last_cursor, at, kind, state, job_id, node_id, name, sha256))
