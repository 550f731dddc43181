"""The store in memory, for tests and simulation: rows as a disk would hold them, and a ledger that may die over them.

`MemoryStore` is what survives: simulation keeps it as it keeps a device's disk. `MemoryLedger` is the running process's
part: commands not yet applied are lost with it.
"""

from collections import deque
from functools import partial
from typing import Any, Callable, Optional, Sequence

from fleet.server.changes import Change
from fleet.server.commands import UNAVAILABLE, Command, Outcome
from fleet.server.engine import apply
from fleet.server.engine.deadlines import ANSWERS_GRACE_MS, ANSWERS_KEPT_MS
from fleet.server.queries import Item, Page, Query, Sample
from fleet.server.samples import SampleBlock
from fleet.server.series import KEPT_HOURS, HourBlock, merge

from .delivery import Completion, deliver
from .interface import ANSWERS_LIMIT, BATCH_LIMIT, CHANGES_LIMIT, CLOSED, QUEUE_FULL, QUEUE_LIMIT, Post
from .memory_queries import answer
from .memory_rows import MemoryTx, Tables


class MemoryStore:
    """Rows that are durable as soon as a command's transaction is over.

    `writes_left` makes it fail like a full disk: after that many more writes of a row each command is `unavailable`,
    until it is None again.
    """

    def __init__(self) -> None:
        self.tables = Tables()
        self.writes_left: Optional[int] = None

    def commit(self, commands: Sequence[Command]) -> tuple[list[Outcome], list[Change]]:
        """Apply commands in order, each whole or not at all; returns their outcomes and what changed."""
        tx = MemoryTx(self.tables, self.writes_left)
        outcomes = []
        for command in commands:
            mark = tx.mark()
            try:
                outcomes.append(apply(tx, command))
            except OSError as error:
                tx.roll_back_to(mark)
                outcomes.append(Outcome(UNAVAILABLE, f"the store cannot write: {error}"))
        if self.writes_left is not None:
            self.writes_left = tx.writes_left
        first_new = len(self.tables.changes) - tx.change_count
        changed = self.tables.changes[first_new:]
        del self.tables.changes[:-CHANGES_LIMIT]
        while len(self.tables.answers) > ANSWERS_LIMIT:
            del self.tables.answers[next(iter(self.tables.answers))]
        return outcomes, changed

    def next_due_at(self) -> Optional[float]:
        """When (UTC ms) the next row is due."""
        due = [at for at in (self.tables.next_due_job(), self.tables.next_due_execution()) if at is not None]
        for remembered_at, _fingerprint, _outcome in self.tables.answers.values():
            due.append(remembered_at + ANSWERS_KEPT_MS + ANSWERS_GRACE_MS)
            break
        return min(due) if due else None

    def write_samples(self, samples: Sequence[Sample]) -> None:
        """Keep the last samples of nodes that are registered."""
        for sample in samples:
            if sample.node_id in self.tables.nodes:
                self.tables.samples[sample.node_id] = sample

    def write_series(self, block: HourBlock) -> None:
        """Keep an hour of all nodes, and no hour that is older than are kept."""
        for node_id, row in block.rows():
            for resolution, hours in self.tables.series.items():
                rows = hours.setdefault(block.number, {})
                known, body = rows.get(node_id), row.body(resolution)
                rows[node_id] = body if known is None else merge(resolution, known, body)
        for resolution, hours in self.tables.series.items():
            for hour in [hour for hour in hours if hour <= block.number - KEPT_HOURS[resolution]]:
                del hours[hour]


class MemoryLedger:
    """A ledger over a MemoryStore; everything happens in posted callables, in order, never inside a call."""

    def __init__(self, store: MemoryStore, post: Post) -> None:
        self.store = store
        self._post = post
        self._commands: deque[tuple[Command, Callable[[Outcome], None]]] = deque()
        self._queries: deque[tuple[Query[Any], Callable[[Page[Any]], None]]] = deque()
        self._blocks: list[HourBlock] = []
        self._watchers: list[Callable[[Sequence[Change]], None]] = []
        self._is_posted = False
        self._is_closed = False
        self._next_due_at = store.next_due_at()

    def submit(self, command: Command, done: Callable[[Outcome], None]) -> None:
        """See Ledger."""
        if self._is_closed or len(self._commands) >= QUEUE_LIMIT:
            self._post(partial(done, Outcome(UNAVAILABLE, CLOSED if self._is_closed else QUEUE_FULL)))
            return
        self._commands.append((command, done))
        self._wake()

    def query(self, query: Query[Item], done: Callable[[Page[Item]], None]) -> None:
        """See Ledger."""
        if self._is_closed or len(self._queries) >= QUEUE_LIMIT:
            detail = CLOSED if self._is_closed else QUEUE_FULL
            self._post(partial(done, Page(status=UNAVAILABLE, detail=detail)))
            return
        self._queries.append((query, done))
        self._wake()

    def record(self, samples: Sequence[Sample]) -> None:
        """See Ledger; here at once."""
        self.store.write_samples(samples)

    def record_all(self, block: SampleBlock) -> None:
        """See Ledger; here at once."""
        self.store.write_samples(list(block.samples()))

    def record_series(self, block: HourBlock) -> None:
        """See Ledger."""
        self._blocks.append(block)
        self._wake()

    def watch(self, on_changes: Callable[[Sequence[Change]], None]) -> None:
        """See Ledger."""
        self._watchers.append(on_changes)

    def next_due_at(self) -> Optional[float]:
        """See Ledger."""
        return self._next_due_at

    def close(self) -> None:
        """See Ledger."""
        if self._is_closed:
            return
        while self._commands or self._queries or self._blocks:
            self._post(partial(deliver, self._post, self._work()))
        self._is_closed = True

    def crash(self) -> None:
        """Die as with the power gone: what was submitted and not applied is lost."""
        self._is_closed = True
        self._commands.clear()
        self._queries.clear()
        self._blocks.clear()

    def _wake(self) -> None:
        if not self._is_posted:
            self._is_posted = True
            self._post(self._run)

    def _run(self) -> None:
        self._is_posted = False
        if self._is_closed:
            return
        completions = self._work()
        if self._commands or self._queries:
            self._wake()
        deliver(self._post, completions)

    def _work(self) -> list[Completion]:
        """Commit a batch, write the series, then answer the queries that wait; returns whom to tell what."""
        batch = [self._commands.popleft() for _ in range(min(len(self._commands), BATCH_LIMIT))]
        completions: list[Completion] = []
        if batch:
            outcomes, changed = self.store.commit([command for command, _done in batch])
            self._next_due_at = self.store.next_due_at()
            completions += [(done, outcome) for (_command, done), outcome in zip(batch, outcomes)]
            if changed:
                completions += [(watcher, changed) for watcher in self._watchers]
        while self._blocks:
            self.store.write_series(self._blocks.pop(0))
        while self._queries and not self._commands:
            query, done = self._queries.popleft()
            completions.append((done, answer(self.store.tables, query)))
        return completions
