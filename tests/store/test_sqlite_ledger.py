"""What only the store in a file has to prove: it survives SIGKILL, a full disk, other versions and its own errors."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from fleet.errors import UsageError
from fleet.model.audit import Origin
from fleet.model.nodes import Registration
from fleet.server.commands import InstallJob, RegisterNode
from fleet.server.queries import AuditQuery, JobQuery, NodeIdsQuery, NodeQuery, NodesQuery, Sample
from fleet.server.samples import SampleBlock
from fleet.server.store import migrations
from fleet.server.store import sqlite as sqlite_module
from fleet.server.store.sqlite import SqliteLedger
from tests.store.stores import Driver, SqliteDisk, an_artifact, creating, putting, registering, reporting

ROOT = Path(__file__).parents[2]

ACKNOWLEDGE = """
import queue, sys
from fleet.model.nodes import Registration
from fleet.server.commands import RegisterNode
from fleet.server.store.sqlite import SqliteLedger

posted = queue.SimpleQueue()
ledger = SqliteLedger(sys.argv[1], posted.put)
number = int(sys.argv[2])

def say(node_id):
    return lambda outcome: print(node_id if outcome.is_ok else "FAILED", flush=True)

while True:
    for _ in range(64):
        node_id = f"n{number}"
        ledger.submit(RegisterNode(number, Registration(node_id), "192.0.2.1", 5683, f"r{number}"), say(node_id))
        number += 1
    posted.get()()
"""


def test_a_server_killed_in_mid_stream_keeps_every_acknowledged_command(tmp_path):
    path = str(tmp_path / "fleet.db")
    acknowledged = []
    for life in range(5):
        arguments = [sys.executable, "-c", ACKNOWLEDGE, path, str(life * 1_000_000)]
        with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
            for _ in range(300 + 77 * life):
                acknowledged.append(child.stdout.readline().strip())
            os.kill(child.pid, signal.SIGKILL)
            # What was acknowledged before the kill but not read yet counts too; the last line may be torn.
            acknowledged += [line.strip() for line in child.stdout if line.endswith("\n")]

    disk = SqliteDisk(path)
    store = disk.open()
    kept = {item.node.node_id for item in store.all(NodesQuery)}
    disk.close()

    assert len(acknowledged) > 1500
    assert "FAILED" not in acknowledged
    assert set(acknowledged) <= kept
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def limit_pages(store: Driver, more: int) -> None:
    """Let the file grow by `more` pages and no further, as on a disk that fills up."""
    connection = store.ledger._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + more}")


def test_a_full_disk_is_unavailable_leaves_nothing_half_applied_and_passes(tmp_path):
    disk = SqliteDisk(str(tmp_path / "fleet.db"))
    store = disk.open()
    store.running_job(nodes=("n1",))
    limit_pages(store, 2)
    big = {"note": "x" * 3000}

    outcomes = store.apply_all(
        [RegisterNode(20, Registration(f"m{index:03}", system_info=big), "192.0.2.1", 5683) for index in range(200)]
    )

    statuses = {outcome.status for outcome in outcomes}
    assert "unavailable" in statuses
    assert all("full" in outcome.detail for outcome in outcomes if not outcome.is_ok)
    kept = {item.node.node_id for item in store.all(NodesQuery)}
    assert kept == {"n1"} | {f"m{index:03}" for index, outcome in enumerate(outcomes) if outcome.is_ok}
    assert {change.node_id for change in store.changes if change.node_id} == kept
    # The thread lives, and with room again everything goes on.
    limit_pages(store, 1_000_000)
    store.ok(reporting(1, "succeeded"))
    store.ok(RegisterNode(21, Registration("m199", system_info=big), "192.0.2.1", 5683))
    disk.close()


def test_a_full_disk_keeps_samples_in_memory_until_they_can_be_written(tmp_path):
    disk = SqliteDisk(str(tmp_path / "fleet.db"))
    store = disk.open()
    nodes = [f"n{index:02}" for index in range(40)]
    store.register(*nodes)
    limit_pages(store, 0)
    samples = [Sample(node, 7, b"x" * 3000) for node in nodes]

    store.ledger.record(samples)
    store.apply(registering("n00"))  # by now the flush was tried
    store.apply(registering("n00"))
    assert [item.sample for item in store.all(NodesQuery)] == samples
    limit_pages(store, 1000)
    store = disk.open()

    assert [item.sample for item in store.all(NodesQuery)] == samples
    disk.close()


def test_a_command_that_fails_alone_is_undone_alone(tmp_path, monkeypatch):
    disk = SqliteDisk(str(tmp_path / "fleet.db"))
    store = disk.open()
    apply = sqlite_module.apply

    def apply_and_fail(tx, command):
        outcome = apply(tx, command)
        if outcome.node_id == "n2":
            raise sqlite3.IntegrityError("on purpose")
        return outcome

    monkeypatch.setattr(sqlite_module, "apply", apply_and_fail)
    outcomes = store.apply_all([registering(f"n{index}", request_id=f"r{index}") for index in range(1, 4)])

    assert [outcome.status for outcome in outcomes] == ["ok", "unavailable", "ok"]
    assert [item.node.node_id for item in store.all(NodesQuery)] == ["n1", "n3"]
    assert [(change.cursor, change.node_id) for change in store.changes] == [(1, "n1"), (2, "n3")]
    monkeypatch.undo()
    assert store.ok(registering("n2", request_id="r2")).created
    disk.close()


def test_an_error_in_our_own_code_leaves_nobody_waiting(tmp_path, monkeypatch):
    disk = SqliteDisk(str(tmp_path / "fleet.db"))
    store = disk.open()
    seen = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    monkeypatch.setattr(sqlite_module, "apply", lambda tx, command: 1 // 0)

    assert store.apply(registering("n1")).status == "unavailable"
    assert store.apply(registering("n2")).status == "unavailable"

    disk.close()
    assert [hook.exc_type for hook in seen] == [ZeroDivisionError]
    monkeypatch.undo()
    assert disk.open().all(NodesQuery) == []
    disk.close()


def test_another_process_that_holds_the_database_is_waited_for_and_then_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_module, "_BUSY_TIMEOUT", 0.01)
    path = str(tmp_path / "fleet.db")
    disk = SqliteDisk(path)
    store = disk.open()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    outcome = store.apply(registering("n1"))
    assert (outcome.status, "locked" in outcome.detail) == ("unavailable", True)
    assert store.ask(NodesQuery()).status == "ok"
    other.execute("ROLLBACK")
    other.close()

    store.ok(registering("n1"))
    disk.close()


def test_a_database_of_a_newer_version_is_refused_and_left_alone(tmp_path):
    path = str(tmp_path / "fleet.db")
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 999")
    connection.close()

    with pytest.raises(UsageError, match="schema 999"):
        SqliteLedger(path, lambda call: None)

    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "fleet.db"
    path.write_bytes(b"no database" * 1000)

    with pytest.raises(sqlite3.DatabaseError):
        SqliteLedger(str(path), lambda call: None)


def test_commits_are_made_to_last(tmp_path):
    disk = SqliteDisk(str(tmp_path / "fleet.db"))
    store = disk.open()

    pragmas = {
        name: store.ledger._connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "user_version")
    }

    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "user_version": 4}
    disk.close()


def test_a_block_of_samples_is_written_some_at_a_time_with_commands_in_between(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_module, "CHUNK", 10)
    written: list = []
    put_samples = sqlite_module.put_samples

    def put(connection, samples):
        written.append([sample.node_id for sample in samples])
        put_samples(connection, samples)

    monkeypatch.setattr(sqlite_module, "put_samples", put)
    disk = SqliteDisk(str(tmp_path / "fleet.db"))
    store = disk.open()
    node_ids = [f"n{number:02}" for number in range(35)]
    store.register(*node_ids)

    store.ledger.record_all(SampleBlock(node_ids[::-1], range(35), [5] * 35, [b"{}"] * 35))
    store = disk.open()

    assert [len(chunk) for chunk in written] == [10, 10, 10, 5]
    assert [node_id for chunk in written for node_id in chunk] == node_ids
    assert [item.sample.at for item in store.all(NodesQuery)] == [5] * 35
    disk.close()


def test_what_could_not_be_written_is_tried_again_after_an_interval(tmp_path, monkeypatch):
    path = str(tmp_path / "fleet.db")
    failures = [sqlite3.OperationalError("database or disk is full")] * 3
    put_samples = sqlite_module.put_samples

    def put(connection, samples):
        if failures:
            raise failures.pop()
        put_samples(connection, samples)

    monkeypatch.setattr(sqlite_module, "put_samples", put)
    store = Driver(lambda post: SqliteLedger(path, post, retry_interval=0.01))
    store.register("n1", "n2")
    store.ledger.record([Sample("n1", 5, b"{}")])
    store.ledger.record_all(SampleBlock(["n2"], [0], [6], [b"{}"]))

    deadline = time.monotonic() + 60
    with closing(sqlite3.connect(path)) as database:
        while database.execute("SELECT node_id, at FROM samples ORDER BY 1").fetchall() != [("n1", 5), ("n2", 6)]:
            assert time.monotonic() < deadline
            store.apply(registering("n1"))
    store.ledger.close()


def test_nodes_of_a_database_from_before_are_found_by_group_and_text(tmp_path):
    path = str(tmp_path / "fleet.db")
    schema = Path(migrations.__file__).parent / "schema"
    with closing(sqlite3.connect(path)) as connection:
        for number in (1, 2, 3):
            (step,) = schema.glob(f"{number:04}_*.sql")
            connection.executescript(step.read_text("utf-8"))
        connection.execute("PRAGMA user_version = 3")
        for node_id, rest in (
            ("n1", b',"hostname":"Pump","groups":["lab","roof"]'),
            ("n2", b""),
            ("n3", b',"groups":[]'),
        ):
            registration = b'{"node_id":"%b"%b}' % (node_id.encode(), rest)
            connection.execute("INSERT INTO nodes VALUES (?, ?, 'host', 1, 1, 1)", (node_id, registration))
        connection.commit()

    store = Driver(lambda post: SqliteLedger(path, post))

    assert store.all(NodeIdsQuery, group="roof") == ["n1"]
    assert store.all(NodeIdsQuery, text="pump") == ["n1"]
    assert store.all(NodeIdsQuery, text="n") == ["n1", "n2", "n3"]
    store.ledger.close()


def test_a_job_with_artifacts_and_a_registration_come_back_from_the_file_as_they_were(tmp_path):
    disk = SqliteDisk(str(tmp_path / "fleet.db"))
    store = disk.open()
    artifact = an_artifact()
    registration = Registration("n1", "host", "<NODE_IP>", services=("ssh",), system_info={"os": "linux", "n": [1]})
    store.ok(RegisterNode(5, registration, "2001:db8::1", 40000))
    store.ok(putting(artifact))
    store.ok(creating(targets=("n1",), artifacts=(artifact,)))
    store.ok(InstallJob(11, "j1"))
    before = (store.one(JobQuery("j1")), store.one(NodeQuery("n1")))

    store = disk.open()

    assert (store.one(JobQuery("j1")), store.one(NodeQuery("n1"))) == before
    assert before[1].node.registration == registration
    disk.close()


def test_a_row_that_cannot_be_read_spoils_nothing_but_what_needs_it(tmp_path):
    disk = SqliteDisk(str(tmp_path / "fleet.db"))
    store = disk.open()
    store.register("n1", "n2")
    with sqlite3.connect(disk.path) as other:
        other.execute("UPDATE nodes SET registration = '{' WHERE node_id = 'n1'")
    other.close()

    outcomes = store.apply_all([registering("n1", 5), registering("n2", 5)])

    assert [outcome.status for outcome in outcomes] == ["unavailable", "ok"]
    assert store.ask(NodeQuery("n1")).status == "unavailable"
    assert store.one(NodeQuery("n2")).node.registered_at == 5
    disk.close()


def test_a_command_whose_row_of_the_audit_trail_cannot_be_written_is_undone_and_has_none(tmp_path):
    disk = SqliteDisk(str(tmp_path / "fleet.db"))
    origin = Origin("operator alice", "192.0.2.5", 40000, "POST", "/updates")
    store = disk.open()
    with closing(sqlite3.connect(disk.path)) as database:
        database.execute("CREATE TRIGGER refuse BEFORE INSERT ON audit_pools BEGIN SELECT RAISE(ABORT, 'no row'); END")
        database.commit()
    refused = store.apply(creating("j1", origin=origin))
    with closing(sqlite3.connect(disk.path)) as database:
        database.execute("DROP TRIGGER refuse")
        database.commit()
    store.ok(creating("j2", origin=origin))
    store = disk.open()

    assert refused.status == "unavailable"
    assert store.state("j1") is None
    assert [item.entry.subject for item in store.all(AuditQuery)] == ["j2"]
    disk.close()


def test_a_database_of_before_the_audit_trail_gets_one(tmp_path):
    path = str(tmp_path / "fleet.db")
    schema = Path(migrations.__file__).parent / "schema"
    with closing(sqlite3.connect(path)) as database:
        for step in sorted(schema.glob("000[12]_*.sql")):
            database.executescript(step.read_text("utf-8"))
        database.execute("PRAGMA user_version = 2")
    disk = SqliteDisk(path)
    store = disk.open()
    store.ok(registering("n1", origin=Origin("node n1", "192.0.2.5", 40000, "POST", "/nodes")))

    assert [item.entry.what for item in store.all(AuditQuery)] == ["node.register"]
    disk.close()
