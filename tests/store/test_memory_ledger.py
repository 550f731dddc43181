"""What the memory ledger loses in a crash, and its pretended full disk."""

from msgspec.structs import replace

from fleet.model.jobs import Job
from fleet.server.commands import Advance, InstallJob, RetryJob
from fleet.server.queries import NodeQuery, NodesQuery, Sample
from fleet.server.store.memory import MemoryLedger, MemoryStore
from fleet.server.store.memory_rows import MemoryTx, Tables
from tests.store.series import H, hour_of, means
from tests.store.stores import Driver, a_spec, creating, registering, reporting


def opened(store: MemoryStore) -> Driver:
    return Driver(lambda post: MemoryLedger(store, post))


def test_a_crash_loses_what_was_not_applied_and_keeps_what_was_answered():
    store = MemoryStore()
    driver = opened(store)
    driver.register("n1")
    driver.ledger.record([Sample("n1", 5, b"{}")])
    called = []
    driver.ledger.submit(registering("n2"), called.append)

    driver.ledger.crash()
    while not driver.posted.empty():
        driver.posted.get()()

    assert called == []
    again = opened(store)
    assert [item.node.node_id for item in again.all(NodesQuery)] == ["n1"]
    assert again.one(NodeQuery("n1")).sample.at == 5


def test_what_is_undone_is_due_again():
    tables = Tables()
    tx = MemoryTx(tables)
    job = Job("j1", a_spec(), (), "preparing", 1, 1, work="expand", due_at=5)
    tx.put_job(job)
    mark = tx.mark()

    tx.put_job(replace(job, due_at=None))
    assert tx.due_jobs(9, 1) == []
    tx.roll_back_to(mark)

    assert tx.due_jobs(9, 1) == [job]


def test_a_disk_that_fills_up_at_any_write_leaves_nothing_half_applied():
    """Fail the n-th write, until none fails."""
    script = [
        registering("n1", request_id="r1"),
        creating(),
        InstallJob(11, "j1", request_id="r2"),
        Advance(11),
        reporting(1, "downloading"),
        reporting(2, "failed"),
        RetryJob(30, "j1"),
        reporting(1, "succeeded", attempt=2),
    ]
    reference = opened(MemoryStore())
    expected = [reference.apply(command) for command in script]
    writes = 0
    failures = 0
    while True:
        store = MemoryStore()
        driver = opened(store)
        store.writes_left = writes
        outcomes = []
        for command in script:
            outcome = driver.apply(command)
            if outcome.status == "unavailable":
                failures += 1
                store.writes_left = None
                outcome = driver.apply(command)
            outcomes.append(outcome)
        assert outcomes == expected, writes
        assert driver.changes == reference.changes
        assert store.tables.counts == {"j1": {"succeeded": 1}}
        if failures <= writes:
            break
        writes += 1
    assert writes > 20


def test_a_crash_loses_the_hour_that_was_not_written():
    store = MemoryStore()
    driver = opened(store)
    driver.register("n1")
    driver.ledger.record_series(hour_of(H, ("n1", 0, 10)))
    assert means(driver, last=H + 1) == [(0, 10.0)]
    driver.ledger.record_series(hour_of(H + 1, ("n1", 0, 20)))

    driver.ledger.crash()

    assert means(opened(store), last=H + 2) == [(0, 10.0)]
