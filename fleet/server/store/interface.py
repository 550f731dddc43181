"""What a store is to the rest of the server: rows for the engine inside a transaction, a ledger for everyone else.

Any store gives the same outcomes for the same commands: `tests/store` holds them to it. What a new one must not need:
anything changed above this file.
"""

from typing import Callable, Optional, Protocol, Sequence

from fleet.model.artifacts import Artifact
from fleet.model.audit import NODES, OPERATORS, REFUSALS, AuditEntry
from fleet.model.executions import Execution
from fleet.model.jobs import ArtifactRef, Job
from fleet.model.nodes import Node
from fleet.server.changes import Change
from fleet.server.commands import Command, Outcome
from fleet.server.queries import Item, Page, Query, Sample
from fleet.server.samples import SampleBlock
from fleet.server.series import HourBlock

Post = Callable[[Callable[[], None]], None]
"""Has a callable run in the owner's thread, later: `loop.call_soon_threadsafe`, or the simulation's heap."""

BATCH_LIMIT = 256
"""Commands in one transaction at most."""
QUEUE_LIMIT = 20_000
"""Commands, or queries, waiting at most; more are answered `unavailable` at once."""
ANSWERS_LIMIT = 100_000
"""Outcomes remembered by request id at most; the oldest go first."""
BLOCKS_LIMIT = 2
"""Hours of series, and blocks of samples, kept in memory at most while they cannot be written; the oldest go first."""
CHANGES_LIMIT = 10_000
"""Changes kept for readers of the feed."""
AUDIT_LIMITS = {OPERATORS: 100_000, NODES: 50_000, REFUSALS: 10_000}
"""Rows of the audit trail kept at most, of each pool for itself; the oldest go first."""
AUDIT_KEPT_MS = 365 * 86_400_000
"""How long a row of the audit trail is kept; it goes when the next one is written after that."""
QUEUE_FULL = "the server has more to do than it can take in; try again in a few seconds"
CLOSED = "the server is stopping; try again when it is back"


class Tx(Protocol):
    """The rows, inside the transaction of one command. Reads see what this command has written before.

    Rows come and go whole. Lists are in key order. The counts of executions by state follow every write.
    """

    def node(self, node_id: str) -> Optional[Node]:
        """The node, or None."""

    def node_ids(self, after: str, limit: int) -> list[str]:
        """Up to `limit` ids of nodes greater than `after`."""

    def put_node(self, node: Node) -> None:
        """Insert or replace a node."""

    def remove_node(self, node_id: str) -> None:
        """Remove a node and its sample; its executions stay."""

    def job(self, job_id: str) -> Optional[Job]:
        """The job, or None."""

    def job_state(self, job_id: str) -> Optional[str]:
        """The job's state alone, or None: a job that names many nodes is a large row."""

    def job_count(self) -> int:
        """How many jobs there are."""

    def put_job(self, job: Job) -> None:
        """Insert or replace a job."""

    def remove_job(self, job_id: str) -> None:
        """Remove a job with its executions and counts."""

    def due_jobs(self, at: int, limit: int) -> list[Job]:
        """Jobs whose `due_at` has come, the longest due first."""

    def execution(self, job_id: str, node_id: str) -> Optional[Execution]:
        """The execution, or None."""

    def executions(self, job_id: str, after: str, limit: int) -> list[Execution]:
        """Up to `limit` executions of a job with node ids greater than `after`."""

    def node_executions(self, node_id: str) -> list[Execution]:
        """A node's executions that are not at an end, by job id."""

    def due_executions(self, at: int, limit: int) -> list[Execution]:
        """Executions whose `due_at` has come, the longest due first."""

    def add_execution(self, execution: Execution) -> None:
        """Insert an execution, which must not be there."""

    def move_execution(self, before: Execution, after: Execution) -> None:
        """Replace `before` by `after`: compare-and-set on state and attempt."""

    def counts(self, job_id: str) -> dict[str, int]:
        """The executions of a job by state; states without any are left out."""

    def artifact(self, name: str) -> Optional[Artifact]:
        """The artifact, or None."""

    def artifact_count(self) -> int:
        """How many artifacts there are."""

    def put_artifact(self, artifact: Artifact) -> None:
        """Insert or replace an artifact."""

    def remove_artifact(self, name: str) -> None:
        """Remove an artifact; what jobs hold of its content stays held."""

    def hold(self, job_id: str, artifacts: Sequence[ArtifactRef]) -> None:
        """Keep these contents for a job."""

    def release(self, job_id: str) -> None:
        """Keep nothing for the job any more."""

    def holders(self, sha256: str) -> list[str]:
        """The ids of jobs that hold a content."""

    def is_needed(self, sha256: str) -> bool:
        """Whether an artifact names, or a job holds, this content."""

    def answer(self, request_id: str) -> Optional[tuple[str, Outcome]]:
        """What was remembered under a request id: the fingerprint of its command, and the outcome."""

    def remember(self, request_id: str, at: int, fingerprint: str, outcome: Outcome) -> None:
        """Remember the outcome of a command with a request id."""

    def forget_answers(self, before: int) -> None:
        """Forget the answers remembered at a time (UTC ms) or before."""

    def audit(self, entry: AuditEntry) -> None:
        """Add a row to the audit trail; in its pool and the others what is too many or too old goes, and is counted."""

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
        """Add to the feed of changes, which watchers see after the commit."""


class Ledger(Protocol):
    """Durable commands in order, consistent answers, and samples, which are durable some time later.

    `done` and watchers are called in the owner's thread through the `Post` given at construction, never inside
    `submit` or `query`; one post serves all that one commit completed. An outcome that was delivered is durable.
    """

    def submit(self, command: Command, done: Callable[[Outcome], None]) -> None:
        """Apply a command in a transaction; `done` gets its outcome after the commit."""

    def query(self, query: Query[Item], done: Callable[[Page[Item]], None]) -> None:
        """Answer a query; it sees every command whose outcome was delivered before."""

    def record(self, samples: Sequence[Sample]) -> None:
        """Take the last samples of nodes into memory, where queries find them, and write them to disk soon."""

    def record_all(self, block: SampleBlock) -> None:
        """Write the last samples of many nodes to disk, sorted, some at a time, so that commands need not wait long.

        A sample that is recorded later takes the place of the one in the block, whichever is written first.
        """

    def record_series(self, block: HourBlock) -> None:
        """Take an hour of all nodes' series into memory, where queries find it, and write it to disk soon.

        It is written sorted, in one transaction, and joined with what is there of that hour; hours older than are kept
        are removed afterwards, some at a time.
        """

    def watch(self, on_changes: Callable[[Sequence[Change]], None]) -> None:
        """Call `on_changes` with what each commit changed, after the `done`s of its commands."""

    def next_due_at(self) -> Optional[float]:
        """When (UTC ms) an `Advance` has something to do; None while nothing is planned. Current before any `done`."""

    def close(self) -> None:
        """Complete what was submitted, write samples and series, and let go of the store."""
