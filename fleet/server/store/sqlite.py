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
from itertools import islice
from typing import Any, Callable, Iterator, Optional, Sequence, Union

import msgspec

from fleet.errors import UsageError
from fleet.server.changes import Change
from fleet.server.commands import UNAVAILABLE, Command, Outcome
from fleet.server.engine import apply
from fleet.server.queries import Item, Page, Query, Sample
from fleet.server.samples import SampleBlock
from fleet.server.series import HourBlock

from .delivery import Completion, deliver
from .interface import BATCH_LIMIT, BLOCKS_LIMIT, CLOSED, QUEUE_FULL, QUEUE_LIMIT, Post
from .migrations import migrate
from .sqlite_queries import Reader
from .sqlite_rows import SqliteTx, put_samples
from .sqlite_series import put_series, remove_left_over

RETRY_INTERVAL = 15 * 60.0
"""Seconds between two attempts to write samples and series that could not be written."""
CHUNK = 5000
"""Samples of a block written in one transaction."""
_BUSY_TIMEOUT = 5.0
_READ_CACHE = 512
"""KiB of pages that the reader keeps; the system's own cache has them too."""

_logger = logging.getLogger(__name__)

_Submitted = tuple[Command, Callable[[Outcome], None]]
_Asked = tuple[Query[Any], Callable[[Page[Any]], None]]


class _Write:
    """Asks the writer to write what there is in memory of samples and series."""


class _Close:
    """Asks a thread to end."""


class SqliteLedger:
    """A ledger over a SQLite file, which it creates or migrates; `post` runs callables in the owner's thread.

    Raises sqlite3.Error if the file cannot be opened, UsageError if a newer version wrote it.
    """

    def __init__(self, path: str, post: Post, *, retry_interval: float = RETRY_INTERVAL) -> None:
        self._post = post
        self._retry_interval = retry_interval
        self._watchers: list[Callable[[Sequence[Change]], None]] = []
        self._samples: dict[str, Sample] = {}
        self._writing: dict[str, Sample] = {}
        self._sample_blocks: tuple[SampleBlock, ...] = ()
        self._rows: Optional[Iterator[Sample]] = None  # those of the first block that are not written yet
        self._overtaken: dict[str, None] = {}  # nodes with a sample later than those of the blocks
        self._blocks: tuple[HourBlock, ...] = ()  # hours of series not written yet
        self._tidied_hour: Optional[int] = None  # was written last; what is left over in its place is to be removed
        self._samples_lock = threading.Lock()
        self._writes: queue.SimpleQueue[Union[_Submitted, _Write, _Close]] = queue.SimpleQueue()
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
            self._read_connection.execute(f"PRAGMA cache_size = -{_READ_CACHE}")
        except (sqlite3.Error, UsageError):
            self._connection.close()
            raise
        self._reader = Reader(self._read_connection, self._buffered_sample, self._buffered_series)
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

    def record(self, samples: Sequence[Sample]) -> None:
        """See Ledger."""
        with self._samples_lock:
            for sample in samples:
                self._samples[sample.node_id] = sample
                if self._sample_blocks:
                    self._overtaken[sample.node_id] = None
        self._writes.put(_Write())

    def record_all(self, block: SampleBlock) -> None:
        """See Ledger."""
        with self._samples_lock:
            if len(self._sample_blocks) >= BLOCKS_LIMIT:
                _logger.error("samples could not be written and are lost")
            self._sample_blocks = (*self._sample_blocks[1 - BLOCKS_LIMIT :], block)
        self._writes.put(_Write())

    def record_series(self, block: HourBlock) -> None:
        """See Ledger."""
        with self._samples_lock:
            for lost in self._blocks[: 1 - BLOCKS_LIMIT]:
                _logger.error("the series of hour %d could not be written and are lost", lost.number)
            self._blocks = (*self._blocks[1 - BLOCKS_LIMIT :], block)
        self._writes.put(_Write())

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
        retry_at = time.monotonic() + self._retry_interval
        batch: list[_Submitted] = []
        try:
            is_closing = False
            while not is_closing:
                is_tidying = self._tidied_hour is not None
                wait = 0.0 if is_tidying or self._rows is not None else max(0.0, retry_at - time.monotonic())
                batch, is_asked, is_closing = self._gather(wait)
                if batch:
                    self._commit(batch)
                    batch = []
                if is_asked or is_closing or time.monotonic() >= retry_at:
                    self._write_samples()
                    self._begin_block()
                    self._write_series()
                    retry_at = time.monotonic() + self._retry_interval
                if self._rows is not None:
                    self._write_block()
                elif is_tidying and not is_closing:
                    self._tidy()
            while self._rows is not None:
                self._write_block()
        finally:
            # Reached early only by an error in our own code: nobody is to wait for ever because of it.
            self._is_closed = True
            batch += self._drain()
            self._connection.close()
            if batch:
                refused: list[Completion] = [(done, Outcome(UNAVAILABLE, CLOSED)) for _command, done in batch]
                self._post(partial(deliver, self._post, refused))

    def _gather(self, timeout: float) -> tuple[list[_Submitted], bool, bool]:
        """Wait for the first piece of work, at most `timeout` seconds, and take what else is there already.

        Returns the commands, whether there are samples or series to be written, and whether this is the end.
        """
        batch: list[_Submitted] = []
        is_asked = False
        try:
            work = self._writes.get(timeout=timeout)
            while True:
                if isinstance(work, _Close):
                    return batch, is_asked, True
                if isinstance(work, _Write):
                    is_asked = True
                else:
                    batch.append(work)
                if len(batch) >= BATCH_LIMIT:
                    break
                work = self._writes.get_nowait()
        except queue.Empty:
            pass
        return batch, is_asked, False

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

    def _write_samples(self) -> None:
        """Write the samples in memory in one transaction, sorted; they stay there if that fails."""
        with self._samples_lock:
            self._writing, self._samples = self._samples, {}
        if not self._writing:
            return
        is_written = self._put_samples([self._writing[node_id] for node_id in sorted(self._writing)])
        with self._samples_lock:
            if not is_written:
                self._samples = {**self._writing, **self._samples}
            self._writing = {}

    def _begin_block(self) -> None:
        """Have the first block of samples written, unless one is."""
        if self._rows is None and self._sample_blocks:
            self._rows = self._sample_blocks[0].samples()

    def _write_block(self) -> None:
        """Write a chunk of the first block of samples; all of it is written anew later if that fails."""
        assert self._rows is not None
        block = self._sample_blocks[0]
        some = list(islice(self._rows, CHUNK))
        if some:
            if not self._put_samples([sample for sample in some if sample.node_id not in self._overtaken]):
                self._rows = None
            return
        with self._samples_lock:
            self._sample_blocks = tuple(left for left in self._sample_blocks if left is not block)
            if not self._sample_blocks:
                self._overtaken = {}
        self._rows = None
        self._begin_block()

    def _put_samples(self, samples: Sequence[Sample]) -> bool:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            put_samples(self._connection, samples)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            _logger.error("the samples of %d nodes could not be written: %s", len(samples), error)
            self._roll_back()
            return False
        return True

    def _write_series(self) -> None:
        """Write the hours in memory, each in one transaction; they stay in memory if that fails."""
        for block in self._blocks:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                put_series(self._connection, block)
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                _logger.error("the series of hour %d could not be written: %s", block.number, error)
                self._roll_back()
                return
            with self._samples_lock:
                self._blocks = tuple(left for left in self._blocks if left is not block)
            self._tidied_hour = block.number

    def _tidy(self) -> None:
        """Remove a chunk of the series that are too old."""
        assert self._tidied_hour is not None
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            has_more = remove_left_over(self._connection, self._tidied_hour)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            _logger.error("old series could not be removed: %s", error)
            self._roll_back()
            has_more = False  # tried again when the next hour is written
        if not has_more:
            self._tidied_hour = None

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
            return self._samples.get(node_id) or self._writing.get(node_id)

    def _buffered_series(self, node_id: str, resolution: int) -> list[tuple[int, bytes]]:
        found = [(block.number, block.row(node_id)) for block in self._blocks]
        return [(number, row.body(resolution)) for number, row in found if row is not None]


def _connect(path: str) -> sqlite3.Connection:
    # The connection is made, and its errors raised, in the owner's thread, and then used by one other thread only.
    return sqlite3.connect(
        path, timeout=_BUSY_TIMEOUT, isolation_level=None, check_same_thread=False, cached_statements=256
    )


def _unavailable(error: Exception) -> Outcome:
    return Outcome(UNAVAILABLE, f"the database cannot take it now: {error}")
