"""How a ledger calls back, and that the stores agree whatever comes."""

import random

import pytest

from fleet.model import executions, jobs
from fleet.server.commands import (
    Advance,
    CancelJob,
    DeleteArtifact,
    DeleteJob,
    InstallJob,
    Notified,
    PauseJob,
    RemoveNode,
    ResumeJob,
    RetryJob,
)
from fleet.server.queries import (
    ArtifactsQuery,
    ChangesQuery,
    ContentsQuery,
    ExecutionsQuery,
    JobsQuery,
    NodesQuery,
    WaitingQuery,
)
from tests.store.stores import (
    Driver,
    MemoryDisk,
    SqliteDisk,
    an_artifact,
    creating,
    putting,
    registering,
    reporting,
)


def test_nothing_is_called_inside_submit_or_query_and_a_batch_is_one_post(store):
    called = []

    for index in range(100):
        store.ledger.submit(registering(f"n{index}"), called.append)
    store.ledger.query(NodesQuery(), called.append)

    # What a writer of its own may have posted by now, nobody has run.
    assert called == []
    posts = 0
    while len(called) < 101:
        store.posted.get(timeout=60)()
        posts += 1
    assert posts < 50


def test_an_error_in_one_callback_keeps_no_other_from_its_outcome(store):
    called = []

    def fail(outcome):
        raise ZeroDivisionError

    for index in range(20):
        store.ledger.submit(registering(f"n{index}"), fail if index % 3 == 0 else called.append)
    errors = 0
    while len(called) < 13 or errors < 7:
        try:
            store.posted.get(timeout=60)()
        except ZeroDivisionError:
            errors += 1

    assert (len(called), errors) == (13, 7)


def test_closing_completes_what_was_submitted(disk):
    store = disk.open()
    called = []
    for index in range(300):
        store.ledger.submit(registering(f"n{index:03}"), called.append)
    disk.close()
    while not store.posted.empty():
        store.posted.get()()

    assert len(called) == 300
    assert all(outcome.is_ok for outcome in called)
    assert len(disk.open().all(NodesQuery)) == 300


def test_after_closing_everything_is_unavailable(disk):
    store = disk.open()
    disk.close()

    assert store.apply(registering("n1")).status == "unavailable"
    assert store.ask(NodesQuery()).status == "unavailable"


def test_more_than_can_wait_is_answered_unavailable(disk, monkeypatch):
    monkeypatch.setattr(f"fleet.server.store.{disk.kind}.QUEUE_LIMIT", 0)
    store = disk.open()

    outcome = store.apply(registering("n1"))

    assert outcome.status == "unavailable"
    assert "try again" in outcome.detail
    assert store.ask(NodesQuery()).status == "unavailable"


@pytest.mark.parametrize("limit", ["ANSWERS_LIMIT", "CHANGES_LIMIT"])
def test_answers_and_changes_are_bounded(disk, monkeypatch, limit):
    for module in ("memory", "sqlite_rows"):
        monkeypatch.setattr(f"fleet.server.store.{module}.{limit}", 10)
    store = disk.open()

    for index in range(30):
        store.ok(registering(f"n{index}", 1, request_id=f"r{index}"))

    if limit == "CHANGES_LIMIT":
        kept = store.ask(ChangesQuery()).items
        assert list(kept) == store.changes[-10:]
    else:
        # The oldest went: its repeat is a registration like any other; the newest is still known.
        assert store.ok(registering("n29", 2, request_id="r29")).created
        assert not store.ok(registering("n0", 2, request_id="r0")).created


def a_command(rng, at):
    job = f"j{rng.randrange(4)}"
    node = f"n{rng.randrange(5)}"
    request_id = f"r{rng.randrange(300)}" if rng.random() < 0.3 else None
    artifact = an_artifact(f"a{rng.randrange(3)}", rng.choice("abc"))
    kinds = (
        (4, lambda: registering(node, at, request_id=request_id)),
        (1, lambda: RemoveNode(at, node, request_id)),
        (4, lambda: creating(job, at, targets=rng.choice((("all",), (node,), (node, "n0"))), request_id=request_id)),
        (2, lambda: creating(job, at, artifacts=(artifact,), request_id=request_id)),
        (6, lambda: InstallJob(at, job, request_id)),
        (2, lambda: PauseJob(at, job, request_id)),
        (3, lambda: ResumeJob(at, job, request_id)),
        (2, lambda: CancelJob(at, job, request_id)),
        (4, lambda: RetryJob(at, job, request_id)),
        (1, lambda: DeleteJob(at, job, request_id)),
        (4, lambda: Notified(at, job, node)),
        (
            40,
            lambda: reporting(
                rng.randrange(1, 9),
                rng.choice(executions.STATES),
                node=node,
                job=job,
                attempt=rng.randrange(1, 4),
                at=at,
                bytes_done=rng.randrange(9),
            ),
        ),
        (8, lambda: Advance(at)),
        (3, lambda: putting(artifact, at, only_new=rng.random() < 0.2, request_id=request_id)),
        (1, lambda: DeleteArtifact(at, artifact.name, request_id=request_id)),
    )
    return rng.choices([make for _weight, make in kinds], [weight for weight, _make in kinds])[0]()


def everything(driver: Driver) -> list:
    lists = [driver.all(kind) for kind in (NodesQuery, JobsQuery, WaitingQuery, ArtifactsQuery, ContentsQuery)]
    rows = [driver.all(ExecutionsQuery, item.job.job_id) for item in lists[1]]
    return [*lists, rows, driver.ask(ChangesQuery()), driver.ledger.next_due_at()]


def check_rows(driver: Driver) -> None:
    """What holds whatever happens."""
    held = set()
    for item in driver.all(JobsQuery):
        job = item.job
        rows = driver.all(ExecutionsQuery, job.job_id)
        counted: dict = {}
        for execution in rows:
            counted[execution.state] = counted.get(execution.state, 0) + 1
            assert (execution.due_at is None) == (execution.state in executions.ENDS), execution
        assert item.counts == counted, job
        assert (job.due_at is not None) == (job.work != ""), job
        if job.state in jobs.JOB_ENDS:
            assert not [execution for execution in rows if execution.state not in executions.ENDS], job
        else:
            held.update(reference.sha256 for reference in job.artifacts)
        if job.state in ("running", "cancelling") and not job.work:
            assert [execution for execution in rows if execution.state not in executions.ENDS], job
    named = {artifact.sha256 for artifact in driver.all(ArtifactsQuery)}
    assert driver.all(ContentsQuery) == sorted(held | named)


@pytest.mark.parametrize("seed", range(20))
def test_both_stores_give_the_same_outcomes_rows_and_changes_for_the_same_commands(tmp_path, seed):
    rng = random.Random(seed)
    disks = (MemoryDisk(), SqliteDisk(str(tmp_path / "fleet.db")))
    drivers = [disk.open() for disk in disks]
    at = 1_000
    statuses = set()
    for _round in range(12):
        commands = []
        for _ in range(50):
            at += rng.choice((0, 1, 1000, 3_600_000 if rng.random() < 0.3 else 5))
            commands.append(a_command(rng, at))
        first, second = (driver.apply_all(commands) for driver in drivers)
        for command, one, other in zip(commands, first, second):
            assert one == other, command
            statuses.add(one.status)
        assert everything(drivers[0]) == everything(drivers[1])
        check_rows(drivers[0])
        if rng.random() < 0.2:
            drivers = [disk.open() for disk in disks]
    assert drivers[0].changes == drivers[1].changes
    assert statuses >= {"ok", "not_found", "illegal", "invalid"}
    # Left alone, each job comes to an end, or waits for an operator.
    for driver in drivers:
        while driver.ledger.next_due_at() is not None and [
            item for item in driver.all(JobsQuery) if item.job.state not in ("created", "paused", *jobs.JOB_ENDS)
        ]:
            at = max(at + 1, int(driver.ledger.next_due_at()))
            driver.ok(Advance(at))
        check_rows(driver)
        assert {item.job.state for item in driver.all(JobsQuery)} <= {"created", "paused", *jobs.JOB_ENDS}
    for disk in disks:
        disk.close()


def test_every_way_through_the_table_is_taken_by_a_report_or_refused(store):
    nodes = tuple(f"n{index:03}" for index in range(len(executions.STATES)))
    store.register(*nodes)
    refused = taken = 0
    for before in executions.STATES:
        if before in ("pending", "notified", "timed_out") or before in executions.ENDS:
            continue
        job = f"job-{before}"
        store.ok(creating(job))
        store.ok(InstallJob(11, job))
        store.advance(11)
        store.apply_all([reporting(1, before, node=node, job=job) for node in nodes])
        for node, after in zip(nodes, executions.STATES):
            outcome = store.apply(reporting(2, after, node=node, job=job))
            if after in executions.legal_reports(before) or after == before:
                assert outcome.is_ok, (before, after, outcome)
                taken += 1
            elif before == "cancelling" and after in executions.NODE_STATES:
                assert (outcome.status, outcome.state) == ("ok", "cancelling")
            else:
                assert not outcome.is_ok, (before, after)
                refused += 1
    assert taken > 50
    assert refused > 50
