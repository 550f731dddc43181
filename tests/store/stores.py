"""Both stores behind one driver: commands and queries are put, and what is posted is run, one call after the other."""

import queue
import threading
from typing import Any, Callable, Optional

from fleet.model.artifacts import Artifact
from fleet.model.jobs import ArtifactRef, ArtifactWish, JobSpec
from fleet.model.nodes import Registration
from fleet.server.commands import (
    Advance,
    Command,
    CreateJob,
    InstallJob,
    Outcome,
    PutArtifact,
    RegisterNode,
    Report,
)
from fleet.server.queries import ExecutionsQuery, JobQuery
from fleet.server.store.memory import MemoryLedger, MemoryStore
from fleet.server.store.sqlite import SqliteLedger

PATIENCE = 60.0


class Driver:
    """A ledger, opened, in a thread that does nothing but run what it posts."""

    def __init__(self, make: Callable[[Callable], Any]) -> None:
        self.posted: queue.SimpleQueue = queue.SimpleQueue()
        self.owner = threading.get_ident()
        self.changes: list = []
        self.ledger = make(self.posted.put)
        self.ledger.watch(self.changes.extend)

    def apply_all(self, commands: list) -> list:
        outcomes: list[Optional[Outcome]] = [None] * len(commands)
        left = len(commands)

        def taker(index: int) -> Callable[[Outcome], None]:
            def take(outcome: Outcome) -> None:
                nonlocal left
                assert threading.get_ident() == self.owner, "done was called in another thread"
                assert outcomes[index] is None, "done was called twice"
                outcomes[index] = outcome
                left -= 1

            return take

        for index, command in enumerate(commands):
            self.ledger.submit(command, taker(index))
        while left:
            self.posted.get(timeout=PATIENCE)()
        return outcomes

    def apply(self, command: Command) -> Outcome:
        return self.apply_all([command])[0]

    def ok(self, command: Command) -> Outcome:
        outcome = self.apply(command)
        assert outcome.is_ok, outcome
        return outcome

    def ask(self, query: Any) -> Any:
        pages: list = []
        self.ledger.query(query, pages.append)
        while not pages:
            self.posted.get(timeout=PATIENCE)()
        return pages[0]

    def one(self, query: Any) -> Any:
        items = self.ask(query).items
        return items[0] if items else None

    def all(self, kind: type, *args: Any, limit: int = 1000, **kwargs: Any) -> list:
        found: list = []
        after = None
        while True:
            page = self.ask(kind(*args, after=after, limit=limit, **kwargs))
            assert page.status == "ok", page
            found += page.items
            after = page.next
            if after is None:
                return found

    # What tests need again and again.

    def register(self, *node_ids: str, at: int = 1) -> None:
        for outcome in self.apply_all([registering(node_id, at) for node_id in node_ids]):
            assert outcome.is_ok, outcome

    def running_job(self, job_id: str = "j1", *, nodes: tuple = ("n1",), at: int = 10, **kwargs: Any) -> None:
        self.register(*nodes, at=at)
        self.ok(creating(job_id, at=at, **kwargs))
        self.ok(InstallJob(at, job_id))
        self.advance(at)
        assert self.state(job_id) == "running"

    def advance(self, at: int) -> None:
        rounds = 0
        while (self.ledger.next_due_at() or at + 1) <= at:
            self.ok(Advance(at))
            rounds += 1
            assert rounds < 10_000, "what is due never gets done"

    def state(self, job_id: str) -> Optional[str]:
        item = self.one(JobQuery(job_id))
        return item and item.job.state

    def counts(self, job_id: str) -> dict:
        return self.one(JobQuery(job_id)).counts

    def executions(self, job_id: str) -> dict:
        return {execution.node_id: execution for execution in self.all(ExecutionsQuery, job_id)}

    def states(self, job_id: str) -> dict:
        return {node_id: execution.state for node_id, execution in self.executions(job_id).items()}

    def take_changes(self) -> list:
        taken = [(change.kind, change.state, change.job_id or change.node_id or change.name) for change in self.changes]
        self.changes.clear()
        return taken


class MemoryDisk:
    """A store in memory that can be opened, closed and opened again."""

    kind = "memory"

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.driver: Optional[Driver] = None

    def open(self) -> Driver:
        self.close()
        self.driver = Driver(lambda post: MemoryLedger(self.store, post))
        return self.driver

    def close(self) -> None:
        if self.driver is not None:
            self.driver.ledger.close()
            self.driver = None


class SqliteDisk:
    """The same in a file."""

    kind = "sqlite"

    def __init__(self, path: str) -> None:
        self.path = path
        self.driver: Optional[Driver] = None

    def open(self) -> Driver:
        self.close()
        self.driver = Driver(lambda post: SqliteLedger(self.path, post))
        return self.driver

    def close(self) -> None:
        if self.driver is not None:
            self.driver.ledger.close()
            self.driver = None


def registering(node_id: str, at: int = 1, **kwargs: Any) -> RegisterNode:
    return RegisterNode(at, Registration(node_id, hostname=node_id), "192.0.2.1", 5683, **kwargs)


def a_spec(targets: tuple = ("all",), artifacts: tuple = ()) -> JobSpec:
    return JobSpec("update", "1.0", "pip", targets, (), tuple(ArtifactWish(name) for name in artifacts))


def creating(job_id: str = "j1", at: int = 10, *, targets: tuple = ("all",), artifacts: tuple = (), **kwargs: Any):
    references = tuple(ArtifactRef(artifact.name, artifact.size, artifact.sha256) for artifact in artifacts)
    spec = a_spec(targets, tuple(artifact.name for artifact in artifacts))
    return CreateJob(at, job_id, spec, references, **kwargs)


def reporting(
    sequence: int, state: str, *, node: str = "n1", job: str = "j1", attempt: int = 1, at: int = 20, **kwargs
):
    return Report(at, job, node, attempt, sequence, state, **kwargs)


def an_artifact(name: str = "a.whl", content: str = "a", size: int = 100) -> Artifact:
    return Artifact(name, size, content * 64, 5)


def putting(artifact: Artifact, at: int = 5, **kwargs: Any) -> PutArtifact:
    return PutArtifact(at, artifact, **kwargs)
