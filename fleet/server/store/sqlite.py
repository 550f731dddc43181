"""The ledger in SQLite: one thread that writes, one that reads, and the owner's, which never waits for either.

The writer takes what has gathered while it was busy, up to BATCH_LIMIT commands, applies each inside a savepoint, and
commits them together (WAL, `synchronous=FULL`: on disk when COMMIT returns). It never waits for more to gather. A
command that the database cannot take, or that meets a row it cannot read, is undone alone; if the transaction itself
fails, all of it is. Either way its outcome is `unavailable`, and the thread goes on.
"""

import logging
import queue
import sqlite3
import threading
import time
from functools import partial
from typing import Any, Callable, Optional, Sequence, Union

import msgspec

from fleet.errors import UsageError
from fleet.server.changes import Change
from fleet.server.commands import UNAVAILABLE, Command, Outcome
from fleet.server.engine import apply
from fleet.server.queries import Item, Page, Query, Sample

from .delivery import Completion, deliver
from .interface import BATCH_LIMIT, CLOSED, QUEUE_FULL, QUEUE_LIMIT, Post
from .migrations import migrate
from .sqlite_queries import Reader
from .sqlite_rows import SqliteTx, put_samples

FLUSH_INTERVAL = 15 * 60.0
"""Seconds between two flushes of the samples."""
_BUSY_TIMEOUT = 5.0

_logger = logging.getLogger(__name__)

_Submitted = tuple[Command, Callable[[Outcome], None]]
_Asked = tuple[Query[Any], Callable[[Page[Any]], None]]


class _Flush:
    """Asks the writer to flush the samples of some nodes, or of all."""

    def __init__(self, node_ids: Optional[tuple[str, ...]] = None) -> None:
        self.node_ids = node_ids


class _Close:
    """Asks a thread to end."""


class SqliteLedger:
    """A ledger over a SQLite file, which it creates or migrates; `post` runs callables in the owner's thread.

    Raises sqlite3.Error if the file cannot be opened, UsageError if a newer version wrote it.
    """

    def __init__(self, path: str, post: Post, *, flush_interval: float = FLUSH_INTERVAL) -> None:
        self._post = post
        self._flush_interval = flush_interval
        self._watchers: list[Callable[[Sequence[Change]], None]] = []
        self._samples: dict[str, Sample] = {}
        self._flushing: dict[str, Sample] = {}
        self._samples_lock = threading.Lock()
        self._writes: queue.SimpleQueue[Union[_Submitted, _Flush, _Close]] = queue.SimpleQueue()
        self._reads: queue.SimpleQueue[Union[_Asked, _Close]] = queue.SimpleQueue()
        self._is_closed = False
        self._connection = _connect(path)
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            migrate(self._connection)
            self._next_due_at = SqliteTx(self._connection).finish()
            self._read_connection = _connect(path)
            self._read_connection.execute("PRAGMA query_only = ON")
        except (sqlite3.Error, UsageError):
            self._connection.close()
            raise
        self._reader = Reader(self._read_connection, self._buffered_sample)
        self._write_thread = threading.Thread(target=self._write, name="ledger-writer", daemon=True)
        self._read_thread = threading.Thread(target=self._read, name="ledger-reader", daemon=True)
        self._write_thread.start()
        self._read_thread.start()

    def submit(self, command: Command, done: Callable[[Outcome], None]) -> None:
        """See Ledger."""
        if self._is_closed or self._writes.qsize() >= QUEUE_LIMIT:
            detail = CLOSED if self._is_closed else QUEUE_FULL
            self._post(partial(done, Outcome(UNAVAILABLE, detail)))
            return
        self._writes.put((command, done))

    def query(self, query: Query[Item], done: Callable[[Page[Item]], None]) -> None:
        """See Ledger."""
        if self._is_closed or self._reads.qsize() >= QUEUE_LIMIT:
            detail = CLOSED if self._is_closed else QUEUE_FULL
            self._post(partial(done, Page(status=UNAVAILABLE, detail=detail)))
            return
        self._reads.put((query, done))

    def record(self, samples: Sequence[Sample], flush: bool = False) -> None:
        """See Ledger."""
        with self._samples_lock:
            for sample in samples:
                self._samples[sample.node_id] = sample
        if flush:
            self._writes.put(_Flush(tuple(sample.node_id for sample in samples)))

    def flush(self) -> None:
        """See Ledger."""
        self._writes.put(_Flush())

    def watch(self, on_changes: Callable[[Sequence[Change]], None]) -> None:
        """See Ledger."""
        self._watchers.append(on_changes)

    def next_due_at(self) -> Optional[float]:
        """See Ledger."""
        return self._next_due_at

    def close(self) -> None:
        """See Ledger. Waits for the threads; what they completed is posted by then."""
        self._is_closed = True
        self._writes.put(_Close())
        self._write_thread.join()
        self._reads.put(_Close())
        self._read_thread.join()

    # --- the writer's thread ---

    def _write(self) -> None:
        flush_at = time.monotonic() + self._flush_interval
        batch: list[_Submitted] = []
        try:
            is_closing = False
            while not is_closing:
                batch, flushes, is_closing = self._gather(max(0.0, flush_at - time.monotonic()))
                if batch:
                    self._commit(batch)
                    batch = []
                if is_closing or time.monotonic() >= flush_at or any(flush.node_ids is None for flush in flushes):
                    self._flush_samples(None)
                    flush_at = time.monotonic() + self._flush_interval
                elif flushes:
                    self._flush_samples([node_id for flush in flushes for node_id in flush.node_ids or ()])
        finally:
            # Reached early only by an error in our own code: nobody is to wait for ever because of it.
            self._is_closed = True
            batch += self._drain()
            self._connection.close()
            if batch:
                refused: list[Completion] = [(done, Outcome(UNAVAILABLE, CLOSED)) for _command, done in batch]
                self._post(partial(deliver, self._post, refused))

    def _gather(self, timeout: float) -> tuple[list[_Submitted], list[_Flush], bool]:
        """Wait for the first piece of work, at most `timeout` seconds, and take what else is there already."""
        batch: list[_Submitted] = []
        flushes: list[_Flush] = []
        try:
            work = self._writes.get(timeout=timeout)
            while True:
                if isinstance(work, _Close):
                    return batch, flushes, True
                if isinstance(work, _Flush):
                    flushes.append(work)
                else:
                    batch.append(work)
                if len(batch) >= BATCH_LIMIT:
                    break
                work = self._writes.get_nowait()
        except queue.Empty:
            pass
        return batch, flushes, False

    def _drain(self) -> list[_Submitted]:
        left: list[_Submitted] = []
        while not self._writes.empty():
            work = self._writes.get_nowait()
            if isinstance(work, tuple):
                left.append(work)
        return left

    def _commit(self, batch: list[_Submitted]) -> None:
        outcomes, changed = self._apply([command for command, _done in batch])
        completions: list[Completion] = [(done, outcome) for (_command, done), outcome in zip(batch, outcomes)]
        if changed:
            completions += [(watcher, changed) for watcher in self._watchers]
        self._post(partial(deliver, self._post, completions))

    def _apply(self, commands: list[Command]) -> tuple[list[Outcome], list[Change]]:
        """Apply commands in one transaction; returns their outcomes and what changed."""
        execute = self._connection.execute
        try:
            execute("BEGIN IMMEDIATE")
            tx = SqliteTx(self._connection)
            outcomes = [self._apply_one(tx, command) for command in commands]
            next_due_at = tx.finish()
            execute("COMMIT")
        except sqlite3.Error as error:
            _logger.error("a transaction of %d commands failed: %s", len(commands), error)
            self._roll_back()
            return [_unavailable(error)] * len(commands), []
        self._next_due_at = next_due_at
        return outcomes, tx.changes

    def _apply_one(self, tx: SqliteTx, command: Command) -> Outcome:
        execute = self._connection.execute
        execute("SAVEPOINT command")
        mark = tx.mark()
        try:
            outcome = apply(tx, command)
        except (sqlite3.Error, msgspec.MsgspecError) as error:
            if not self._connection.in_transaction:
                raise  # SQLite has undone the whole transaction, as it may when the disk is full
            execute("ROLLBACK TO command")
            tx.roll_back_to(mark)
            _logger.error("%s failed: %s", type(command).__name__, error)
            outcome = _unavailable(error)
        execute("RELEASE command")
        return outcome

    def _roll_back(self) -> None:
        try:
            self._connection.rollback()
        except sqlite3.Error as error:
            # The next BEGIN fails too then, and says so to whoever submitted something.
            _logger.error("the rollback failed: %s", error)

    def _flush_samples(self, node_ids: Optional[Sequence[str]]) -> None:
        """Write the samples of these nodes, or all, in one transaction, sorted; they stay in memory if that fails."""
        with self._samples_lock:
            chosen = self._samples if node_ids is None else node_ids
            self._flushing = {node_id: self._samples[node_id] for node_id in sorted(chosen) if node_id in self._samples}
            for node_id in self._flushing:
                del self._samples[node_id]
        if not self._flushing:
            return
        is_written = False
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            put_samples(self._connection, list(self._flushing.values()))
            self._connection.execute("COMMIT")
            is_written = True
        except sqlite3.Error as error:
            _logger.error("the samples of %d nodes could not be written: %s", len(self._flushing), error)
            self._roll_back()
        with self._samples_lock:
            if not is_written:
                self._samples = {**self._flushing, **self._samples}
            self._flushing = {}

    # --- the reader's thread ---

    def _read(self) -> None:
        is_closing = False
        try:
            while not is_closing:
                completions: list[Completion] = []
                work = self._reads.get()
                while True:
                    if isinstance(work, _Close):
                        is_closing = True
                        break
                    query, done = work
                    completions.append((done, self._reader.answer(query)))
                    if len(completions) >= BATCH_LIMIT or self._reads.empty():
                        break
                    work = self._reads.get()
                if completions:
                    self._post(partial(deliver, self._post, completions))
        finally:
            self._is_closed = True
            self._read_connection.close()

    def _buffered_sample(self, node_id: str) -> Optional[Sample]:
        with self._samples_lock:
            return self._samples.get(node_id) or self._flushing.get(node_id)


def _connect(path: str) -> sqlite3.Connection:
    # The connection is made, and its errors raised, in the owner's thread, and then used by one other thread only.
    return sqlite3.connect(
        path, timeout=_BUSY_TIMEOUT, isolation_level=None, check_same_thread=False, cached_statements=256
    )


def _unavailable(error: Exception) -> Outcome:
    return Outcome(UNAVAILABLE, f"the database cannot take it now: {error}")
