"""What a node's reports do, however often and in whatever order they come, and repeats of an operator's requests."""

import pytest

from fleet.model import executions
from fleet.server.commands import CancelJob, InstallJob, Notified, RetryJob
from fleet.server.engine.deadlines import ANSWERS_GRACE_MS, ANSWERS_KEPT_MS
from tests.store.stores import creating, registering, reporting

WAY = ("downloading", "downloaded", "verifying", "installing", "testing", "committing", "succeeded")


def test_a_report_repeated_gets_the_same_answer_and_changes_nothing(store):
    store.running_job()
    for sequence, state in enumerate(WAY, 1):
        first = store.ok(reporting(sequence, state, at=100 + sequence))
        before = store.executions("j1")
        store.take_changes()

        again = store.apply(reporting(sequence, state, at=500))

        assert again == first
        assert store.executions("j1") == before
        assert store.take_changes() == []


def test_a_report_that_was_overtaken_is_answered_with_the_state_of_now(store):
    store.running_job()
    store.ok(reporting(5, "installing", bytes_done=9))

    outcome = store.apply(reporting(2, "downloading", bytes_done=1))

    assert (outcome.status, outcome.state) == ("ok", "installing")
    assert store.executions("j1")["n1"].bytes_done == 9


def test_lost_reports_leave_no_gap_that_matters(store):
    store.running_job()

    assert store.ok(reporting(7, "succeeded")).state == "succeeded"
    assert store.state("j1") == "succeeded"


def test_a_report_within_a_state_brings_its_progress(store):
    store.running_job()
    store.ok(reporting(1, "waiting", waiting_for="window"))
    assert store.executions("j1")["n1"].waiting_for == "window"
    store.ok(reporting(2, "downloading", bytes_done=0, bytes_total=10))

    store.ok(reporting(3, "downloading", bytes_done=5, bytes_total=10, at=77))

    now = store.executions("j1")["n1"]
    assert (now.bytes_done, now.bytes_total, now.waiting_for, now.updated_at) == (5, 10, None, 77)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("installing", "downloading"),
        ("testing", "installing"),
        ("rolling_back", "succeeded"),
        ("committing", "waiting"),
    ],
)
def test_a_move_backwards_is_illegal_and_the_answer_says_what_is_not(store, before, after):
    store.running_job()
    store.ok(reporting(1, before))

    outcome = store.apply(reporting(2, after))

    assert (outcome.status, outcome.state) == ("illegal", before)
    assert outcome.legal == executions.legal_reports(before)
    assert after not in outcome.legal
    assert store.states("j1") == {"n1": before}
    assert store.executions("j1")["n1"].sequence == 1


@pytest.mark.parametrize("end", sorted(executions.ENDS - {"timed_out"}))
def test_nothing_leads_out_of_an_end(store, end):
    store.running_job(nodes=("n1", "n2"))
    store.ok(reporting(1, end))

    outcome = store.apply(reporting(2, "downloading"))

    assert (outcome.status, outcome.state, outcome.legal) == ("illegal", end, ())


@pytest.mark.parametrize("state", ["pending", "notified", "timed_out", "nonsense"])
def test_what_is_the_servers_to_say_a_node_cannot_report(store, state):
    store.running_job()

    outcome = store.apply(reporting(1, state))

    assert (outcome.status, outcome.field) == ("invalid", "$.state")


@pytest.mark.parametrize("attempt", [1, 3])
def test_a_report_of_another_attempt_is_refused(store, attempt):
    store.running_job(nodes=("n1", "n2"))
    store.ok(reporting(1, "failed"))
    store.ok(RetryJob(30, "j1"))

    outcome = store.apply(reporting(9, "succeeded", attempt=attempt))

    assert (outcome.status, outcome.state) == ("illegal", "pending")
    assert store.ok(reporting(1, "downloading", attempt=2)).state == "downloading"


def test_reports_of_what_is_not_there_are_not_found(store):
    store.running_job()

    assert store.apply(reporting(1, "downloading", job="j2")).status == "not_found"
    assert store.apply(reporting(1, "downloading", node="n2")).status == "not_found"
    assert store.apply(Notified(1, "j1", "n2")).status == "not_found"


def test_the_answer_to_a_hint_that_comes_late_changes_nothing(store):
    store.running_job()
    store.ok(reporting(1, "downloading"))

    assert store.ok(Notified(30, "j1", "n1")).state == "downloading"


def test_a_repeated_request_gets_the_first_answer_also_after_a_restart(disk):
    store = disk.open()
    store.register("n1")
    requests = [
        lambda at: registering("n2", at, request_id="r1"),
        lambda at: creating(f"made-up-at-{at}", at, request_id="r2"),
        lambda at: InstallJob(at, "made-up-at-100", request_id="r3"),
        lambda at: InstallJob(at, "made-up-at-100", request_id="r4"),
        lambda at: CancelJob(at, "nobody", request_id="r5"),
    ]
    first = [store.apply(make(100)) for make in requests]
    assert [outcome.status for outcome in first] == ["ok", "ok", "ok", "illegal", "not_found"]
    assert first[0].created

    again = [store.apply(make(200)) for make in requests]
    store = disk.open()
    later = [store.apply(make(300)) for make in requests]

    assert again == first
    assert later == first
    assert store.state("made-up-at-200") is None


def test_a_request_id_used_for_something_else_is_refused_naming_it(store):
    store.running_job()
    store.ok(CancelJob(20, "j1", request_id="r1"))

    for other in (RetryJob(21, "j1", request_id="r1"), CancelJob(21, "j2", request_id="r1")):
        outcome = store.apply(other)
        assert (outcome.status, outcome.field) == ("invalid", "$.request_id")


def test_answers_are_forgotten_when_their_time_is_over(store):
    store.ok(registering("n1", 1000, request_id="r1"))
    store.ok(registering("n2", 2000, request_id="r2"))
    due = 1000 + ANSWERS_KEPT_MS + ANSWERS_GRACE_MS

    assert store.ledger.next_due_at() == due
    store.advance(due - 1)
    assert store.ok(registering("n1", due, request_id="r1")).created
    store.advance(due)

    assert not store.ok(registering("n1", due, request_id="r1")).created
    assert store.ledger.next_due_at() == due + ANSWERS_KEPT_MS + ANSWERS_GRACE_MS
