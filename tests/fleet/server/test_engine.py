"""The engine by itself: a refusal writes nothing, every move is in the tables, and it is the same every time."""

import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fleet.model import executions, jobs
from fleet.model.audit import REFUSALS, AuditEntry, Origin
from fleet.model.jobs import JobSpec
from fleet.model.nodes import Registration
from fleet.server import commands, queries
from fleet.server.engine import apply
from fleet.server.store.interface import Tx
from fleet.server.store.memory_rows import MemoryTx, Tables
from tests.store.test_contract_ledger import a_command

ROOT = Path(__file__).parents[3]


class WatchedTx(MemoryTx):
    """Fails on a move that no table has."""

    def put_job(self, job):
        before = self.job(job.job_id)
        if before is not None and before.state != job.state:
            assert jobs.can_move(before.state, job.state), (before.state, job.state)
        super().put_job(job)

    def move_execution(self, before, after):
        if after.attempt != before.attempt:
            assert (after.attempt, after.state) == (before.attempt + 1, "pending")
            assert before.state in executions.RETRYABLE
        elif after.state != before.state:
            assert executions.can_move(before.state, after.state), (before.state, after.state)
        super().move_execution(before, after)


@pytest.mark.parametrize("seed", range(10))
def test_every_command_has_an_outcome_moves_by_the_tables_and_writes_nothing_if_refused(seed):
    rng = random.Random(seed)
    tables = Tables()
    at = 1
    seen = {}
    for _ in range(1500):
        at += rng.choice((0, 1, 1_000, 1_800_000))
        command = a_command(rng, at)
        tx = WatchedTx(tables)

        outcome = apply(tx, command)

        seen.setdefault(type(command).__name__, {}).setdefault(outcome.status, 0)
        assert outcome.status == "ok" or outcome.detail, command
        if outcome.status != "ok":
            written = [table for table, _key, _value in tx._undo if table is not tables.answers]
            assert written == [], command
            assert tx.change_count == 0, command
    for name in ("Report", "InstallJob", "CancelJob", "RetryJob", "PauseJob", "ResumeJob", "DeleteJob"):
        assert {"ok", "illegal"} <= set(seen[name]), name


def test_each_command_is_known_to_the_engine_and_can_be_written_down_and_read_back():
    rng = random.Random(1)
    kinds = {}
    origin = Origin("operator alice", "192.0.2.5", 40000, "POST", "/updates")
    entry = AuditEntry(1, REFUSALS, origin, "access", "", "4.03", 2)
    for number in range(3000):
        command = a_command(rng, 1) if number else commands.RecordAudit(1, (entry,))
        kinds[type(command)] = command
        assert msgspec.json.decode(msgspec.json.encode(command), type=commands.Command) == command
    assert set(kinds) == set(commands.Command.__args__)


TRACE = """
import random, zlib
from fleet.server.engine import apply
from fleet.server.store.interface import Tx
from fleet.server.store.memory_rows import MemoryTx, Tables
from tests.store.test_contract_ledger import a_command

rng, tables, digest = random.Random(7), Tables(), 0
for at in range(1, 1500):
    outcome = apply(MemoryTx(tables), a_command(rng, at * 100_000))
    digest = zlib.crc32(repr(outcome).encode(), digest)
print(zlib.crc32(repr((tables.executions, tables.changes)).encode(), digest))
"""


def test_the_same_commands_give_the_same_on_any_hash_seed():
    digests = {
        subprocess.run(
            [sys.executable, "-c", TRACE],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }

    assert len(digests) == 1


def test_a_report_costs_few_reads_and_writes():
    """At 20,000 a second each call counts."""
    tables = Tables()
    for command in (
        commands.RegisterNode(1, Registration("n1"), "192.0.2.1", 1),
        commands.CreateJob(1, "j1", JobSpec("update", "1.0", "pip", ("all",))),
        commands.InstallJob(1, "j1"),
        commands.Advance(1),
        commands.Report(2, "j1", "n1", 1, 1, "downloading"),
    ):
        assert apply(MemoryTx(tables), command).is_ok
    calls = []

    class CountingTx(MemoryTx):
        def __getattribute__(self, name):
            if hasattr(Tx, name) and not name.startswith("_"):
                calls.append(name)
            return super().__getattribute__(name)

    apply(CountingTx(tables), commands.Report(3, "j1", "n1", 1, 2, "downloading", 5, 10))
    # The second look at the execution is the memory store's own.
    assert calls == ["execution", "move_execution", "execution", "emit"]
    calls.clear()
    apply(CountingTx(tables), commands.Report(4, "j1", "n1", 1, 3, "succeeded"))
    assert calls[4:] == ["counts", "job", "counts", "put_job", "emit", "release"]


@pytest.mark.parametrize("key", [(1, "a"), ("a",), ("ü", "", "x" * 300)])
def test_a_cursor_comes_back_as_it_was(key):
    cursor = queries.encode_cursor(*key)

    assert queries.decode_cursor(cursor, *map(type, key)) == key
    assert cursor.isascii()
    assert not set(cursor) & set("/+=&?")
