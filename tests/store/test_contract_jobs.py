"""What becomes of jobs: their life, what an operator may ask when, and work on many nodes in chunks."""

import pytest

from fleet.model import executions, jobs
from fleet.server.commands import (
    Advance,
    CancelJob,
    DeleteJob,
    InstallJob,
    Notified,
    PauseJob,
    RemoveNode,
    ResumeJob,
    RetryJob,
)
from fleet.server.engine.moves import ACTIVE_LIMIT_MS, PENDING_LIMIT_MS
from fleet.server.queries import NodeJobQuery, WaitingQuery
from tests.store.stores import an_artifact, creating, putting, registering, reporting

ACTIONS = {
    "install": InstallJob,
    "pause": PauseJob,
    "resume": ResumeJob,
    "cancel": CancelJob,
    "retry": RetryJob,
    "delete": DeleteJob,
}


def test_a_job_lives_from_created_to_succeeded(store):
    store.register("n1", "n2")

    assert store.ok(creating()).state == "created"
    assert store.ok(InstallJob(11, "j1")).state == "preparing"
    assert store.ledger.next_due_at() == 11
    store.advance(11)
    assert store.state("j1") == "running"
    assert store.states("j1") == {"n1": "pending", "n2": "pending"}
    assert store.ok(Notified(12, "j1", "n1")).state == "notified"
    for sequence, state in enumerate(("downloading", "verifying", "installing", "testing", "succeeded"), 1):
        assert store.ok(reporting(sequence, state)).state == state
    assert store.state("j1") == "running"
    store.ok(reporting(1, "already_installed", node="n2"))

    assert store.state("j1") == "succeeded"
    assert store.counts("j1") == {"succeeded": 1, "already_installed": 1}
    # What remains due is nothing of the job's.
    assert store.ledger.next_due_at() is None


def test_a_job_of_which_one_node_fails_has_failed(store):
    store.running_job(nodes=("n1", "n2"))

    store.ok(reporting(1, "succeeded"))
    store.ok(reporting(1, "failed", node="n2", reason="no_space", output="last line"))

    assert store.state("j1") == "failed"
    failed = store.executions("j1")["n2"]
    assert (failed.reason, failed.output) == ("no_space", "last line")


def test_the_feed_tells_each_change_in_commit_order(store):
    store.register("n1")
    store.ok(creating())
    store.ok(InstallJob(11, "j1"))
    store.ok(Advance(11))
    store.ok(reporting(1, "succeeded"))

    assert [(change.kind, change.state) for change in store.changes] == [
        ("node", "registered"),
        ("job", "created"),
        ("job", "preparing"),
        ("execution", "pending"),
        ("job", "running"),
        ("execution", "succeeded"),
        ("job", "succeeded"),
    ]
    cursors = [change.cursor for change in store.changes]
    assert cursors == sorted(set(cursors))


def test_installing_where_no_node_is_registered_is_refused_and_says_so(store):
    store.ok(creating())

    outcome = store.apply(InstallJob(11, "j1"))

    assert (outcome.status, outcome.state) == ("illegal", "created")
    assert "no node is registered" in outcome.detail
    assert store.state("j1") == "created"


def test_a_job_for_a_node_that_is_not_registered_is_refused_naming_the_entry(store):
    store.register("n1")

    outcome = store.apply(creating(targets=("n1", "n2")))

    assert (outcome.status, outcome.field) == ("not_found", "$.target_nodes[1]")
    assert store.state("j1") is None


def test_a_named_node_that_goes_before_the_job_begins_is_rejected_in_it_and_not_forgotten(store):
    store.register("n1", "n2")
    store.ok(creating(targets=("n2", "n1")))
    store.ok(RemoveNode(10, "n2"))
    store.ok(InstallJob(11, "j1"))
    store.advance(11)

    assert store.states("j1") == {"n1": "pending", "n2": "rejected"}
    assert store.executions("j1")["n2"].reason == "unknown_node"


def bring_to(store, state):
    """A job j1 in the state wanted, by the shortest way."""
    store.register("n1")
    store.ok(creating())
    if state == "created":
        return
    store.ok(InstallJob(11, "j1"))
    if state == "preparing":
        return
    store.advance(11)
    if state in ("succeeded", "failed"):
        store.ok(reporting(1, state))
    if state == "paused":
        store.ok(PauseJob(12, "j1"))
    if state == "cancelling":
        store.ok(reporting(1, "downloading"))
    if state in ("cancelling", "cancelled"):
        store.ok(CancelJob(12, "j1"))


@pytest.mark.parametrize("state", jobs.STATES)
def test_in_each_state_exactly_the_actions_of_the_table_are_legal_and_named(disk, state):
    for name, command in ACTIONS.items():
        store = disk.open()
        job_id = "j1"
        bring_to(store, state)
        assert store.state(job_id) == state

        outcome = store.apply(command(13, job_id))

        if state in jobs.ACTIONS[name] and not (name == "retry" and state == "running"):
            assert outcome.is_ok, (name, outcome)
        else:
            assert outcome.status == "illegal", (name, outcome)
            assert outcome.state == state
            assert outcome.legal == jobs.legal_actions(state)
        after = store.state(job_id)
        assert after in (None, state) or jobs.can_move(state, after) or jobs.can_move("cancelling", after), after
        # Away with it, for the next action.
        store.apply(CancelJob(14, job_id))
        store.apply(RemoveNode(15, "n1"))
        store.apply(DeleteJob(16, job_id))


@pytest.mark.parametrize("command", ACTIONS.values(), ids=ACTIONS)
def test_an_unknown_job_is_not_found(store, command):
    assert store.apply(command(1, "nobody")).status == "not_found"


def test_cancelling_ends_what_has_not_begun_and_asks_what_has(store):
    store.running_job(nodes=("n1", "n2", "n3"))
    store.ok(reporting(1, "downloading"))
    store.ok(Notified(12, "j1", "n2"))

    assert store.ok(CancelJob(21, "j1")).state == "cancelling"

    assert store.states("j1") == {"n1": "cancelling", "n2": "cancelled", "n3": "cancelled"}
    # Until the node has heard of it, what it says leaves it there, and the answer tells it.
    assert store.ok(reporting(2, "verifying", at=22, bytes_done=7)).state == "cancelling"
    assert store.executions("j1")["n1"].bytes_done == 7
    assert store.ok(reporting(3, "cancelled", at=23)).state == "cancelled"
    assert store.state("j1") == "cancelled"


@pytest.mark.parametrize("end", sorted(executions.ENDS - {"timed_out"}))
def test_a_node_that_was_too_far_to_stop_ends_a_cancelled_job_as_well(store, end):
    store.running_job()
    store.ok(reporting(1, "installing"))
    store.ok(CancelJob(21, "j1"))

    assert store.ok(reporting(2, end)).state == end
    assert store.state("j1") == "cancelled"


def test_a_job_is_cancelled_at_once_where_nothing_has_begun(store):
    store.running_job()

    assert store.ok(CancelJob(21, "j1")).state == "cancelled"
    outcome = store.apply(reporting(1, "downloading"))
    assert (outcome.status, outcome.state, outcome.legal) == ("illegal", "cancelled", ())


def test_a_paused_job_hands_out_nothing_new_and_what_has_begun_goes_on(store):
    store.running_job(nodes=("n1", "n2"))
    store.ok(reporting(1, "downloading"))

    store.ok(PauseJob(21, "j1"))

    assert [(item.node_id, item.state) for item in store.all(WaitingQuery)] == [("n1", "downloading")]
    store.ok(reporting(2, "succeeded"))
    assert store.state("j1") == "paused"
    assert store.ok(ResumeJob(22, "j1")).state == "running"
    assert [item.node_id for item in store.all(WaitingQuery)] == ["n2"]


def test_a_job_paused_while_its_targets_are_expanded_goes_on_to_be_paused(store):
    store.register("n1")
    store.ok(creating())
    store.ok(InstallJob(11, "j1"))
    store.ok(PauseJob(11, "j1"))
    store.advance(11)

    assert (store.state("j1"), store.states("j1")) == ("paused", {"n1": "pending"})
    assert store.ok(ResumeJob(12, "j1")).state == "running"


def test_a_job_resumed_before_its_targets_are_expanded_is_preparing(store):
    store.register("n1")
    store.ok(creating())
    store.ok(InstallJob(11, "j1"))
    store.ok(PauseJob(11, "j1"))

    assert store.ok(ResumeJob(12, "j1")).state == "preparing"
    store.advance(12)
    assert store.state("j1") == "running"


def test_a_retry_begins_a_new_attempt_where_the_last_had_no_success(store):
    ends = ("succeeded", "failed", "rolled_back", "rollback_failed", "rejected")
    store.running_job(nodes=tuple(f"n{index}" for index in range(len(ends))))
    for index, end in enumerate(ends):
        store.ok(reporting(9, end, node=f"n{index}", bytes_done=5, reason="why", output="text"))
    assert store.state("j1") == "failed"

    assert store.ok(RetryJob(30, "j1")).state == "running"

    assert list(store.states("j1").values()) == ["succeeded", "pending", "pending", "rollback_failed", "pending"]
    renewed = store.executions("j1")["n1"]
    assert (renewed.attempt, renewed.sequence, renewed.bytes_done, renewed.reason, renewed.output) == (
        2,
        0,
        0,
        None,
        None,
    )
    assert renewed.due_at == 30 + PENDING_LIMIT_MS
    late = store.apply(reporting(10, "succeeded", node="n1"))
    assert (late.status, late.state) == ("illegal", "pending")
    for node_id in ("n1", "n2", "n4"):
        store.ok(reporting(1, "succeeded", node=node_id, attempt=2))
    assert store.state("j1") == "failed"  # n3 is still what it was


def test_a_retry_while_the_job_runs_takes_up_what_has_failed_so_far(store):
    store.running_job(nodes=("n1", "n2"))
    store.ok(reporting(1, "failed"))

    store.ok(RetryJob(30, "j1"))

    assert {key: value.attempt for key, value in store.executions("j1").items()} == {"n1": 2, "n2": 1}


def test_there_is_nothing_to_retry_where_nothing_has_failed(store):
    store.running_job()

    outcome = store.apply(RetryJob(30, "j1"))

    assert outcome.status == "illegal"
    assert "nothing to retry" in outcome.detail


def test_a_retry_whose_content_is_gone_is_refused(store):
    from fleet.server.commands import DeleteArtifact

    artifact = an_artifact()
    store.ok(putting(artifact))
    store.running_job(artifacts=(artifact,))
    store.ok(reporting(1, "failed"))
    store.ok(DeleteArtifact(25, artifact.name))

    outcome = store.apply(RetryJob(30, "j1"))

    assert outcome.status == "illegal"
    assert artifact.name in outcome.detail


def test_a_deleted_job_is_gone_with_its_executions(store):
    store.running_job()
    store.ok(reporting(1, "succeeded"))

    store.ok(DeleteJob(30, "j1"))

    assert store.state("j1") is None
    assert store.executions("j1") == {}
    assert store.one(NodeJobQuery("j1", "n1")) is None
    assert store.apply(reporting(2, "succeeded")).status == "not_found"


def test_removing_a_node_ends_what_it_had_to_do_and_so_the_job(store):
    store.running_job(nodes=("n1", "n2", "n3"))
    store.ok(reporting(1, "succeeded", node="n2"))
    store.ok(reporting(1, "installing", node="n3"))

    store.ok(RemoveNode(30, "n3"))
    store.ok(RemoveNode(30, "n1"))

    assert store.states("j1") == {"n1": "cancelled", "n2": "succeeded", "n3": "timed_out"}
    assert {store.executions("j1")[node].reason for node in ("n1", "n3")} == {"node_removed"}
    assert store.state("j1") == "failed"
    assert store.apply(RemoveNode(31, "n1")).status == "not_found"
    # A retry leaves out what nobody would begin.
    store.ok(RetryJob(32, "j1"))
    assert (store.state("j1"), store.executions("j1")["n1"].attempt) == ("failed", 1)


MANY = tuple(f"n{index:04}" for index in range(1200))


def test_targets_are_expanded_in_chunks_and_a_restart_between_them_goes_on(disk):
    store = disk.open()
    store.register(*MANY)
    store.ok(creating())
    store.ok(InstallJob(11, "j1"))

    store.ok(Advance(11))
    assert (store.state("j1"), store.counts("j1")) == ("preparing", {"pending": 500})
    store = disk.open()
    assert store.ledger.next_due_at() == 11
    store.ok(Advance(11))
    assert (store.state("j1"), store.counts("j1")) == ("preparing", {"pending": 1000})
    assert store.all(WaitingQuery) == []
    store.ok(Advance(11))

    assert (store.state("j1"), store.counts("j1")) == ("running", {"pending": 1200})
    assert store.ledger.next_due_at() == 11 + PENDING_LIMIT_MS
    assert [item.node_id for item in store.all(WaitingQuery)] == list(MANY)


@pytest.mark.parametrize("targets", [("all",), tuple(reversed(MANY))], ids=["all", "by id"])
def test_a_large_job_is_cancelled_and_retried_in_chunks_from_where_it_was(store, targets):
    store.register(*MANY)
    store.ok(creating(targets=targets))
    store.ok(InstallJob(11, "j1"))
    store.ok(Advance(11))
    store.ok(Advance(11))

    assert store.ok(CancelJob(12, "j1")).state == "cancelling"
    assert store.counts("j1") == {"cancelled": 500, "pending": 500}
    # One whose turn has not come is not to begin any more.
    outcome = store.apply(reporting(1, "downloading", node=MANY[700], at=12))
    assert (outcome.status, outcome.state) == ("illegal", "cancelled")
    assert store.apply(RetryJob(12, "j1")).status == "illegal"
    store.advance(12)
    assert (store.state("j1"), store.counts("j1")) == ("cancelled", {"cancelled": 1000})

    assert store.ok(RetryJob(13, "j1")).state == "preparing"
    store.advance(13)
    assert (store.state("j1"), store.counts("j1")) == ("running", {"pending": 1200})
    attempts = [execution.attempt for execution in store.executions("j1").values()]
    assert attempts == [2] * 1000 + [1] * 200


def test_a_job_does_not_end_while_a_retry_has_yet_to_reach_its_later_nodes(store):
    nodes = MANY[:501]
    store.running_job(nodes=nodes)
    store.apply_all([reporting(1, "failed", node=node) for node in nodes])
    assert store.state("j1") == "failed"

    store.ok(RetryJob(30, "j1"))
    store.apply_all([reporting(1, "succeeded", node=node, attempt=2) for node in nodes[:500]])
    assert (store.state("j1"), store.counts("j1")) == ("running", {"succeeded": 500, "failed": 1})
    store.advance(30)
    store.ok(reporting(1, "succeeded", node=nodes[500], attempt=2))

    assert store.state("j1") == "succeeded"


def test_an_execution_that_its_node_never_fetches_times_out(store):
    store.running_job(at=10)
    due = 10 + PENDING_LIMIT_MS

    store.advance(due - 1)
    assert store.states("j1") == {"n1": "pending"}
    store.advance(due)

    assert (store.states("j1"), store.state("j1")) == ({"n1": "timed_out"}, "failed")
    assert store.executions("j1")["n1"].reason == "not_fetched"


def test_a_node_that_falls_silent_times_out_a_day_after_its_last_report(store):
    store.running_job()
    store.ok(reporting(1, "downloading", at=100))
    store.ok(reporting(2, "downloading", at=5000, bytes_done=5))

    store.advance(4999 + ACTIVE_LIMIT_MS)
    assert store.states("j1") == {"n1": "downloading"}
    assert store.ledger.next_due_at() == 5000 + ACTIVE_LIMIT_MS
    store.advance(5000 + ACTIVE_LIMIT_MS)

    assert (store.states("j1"), store.state("j1")) == ({"n1": "timed_out"}, "failed")
    assert store.executions("j1")["n1"].reason == "no_report"


def test_a_job_being_cancelled_ends_even_if_its_node_never_answers(store):
    store.running_job()
    store.ok(reporting(1, "downloading", at=100))
    store.ok(CancelJob(200, "j1"))

    store.advance(200 + ACTIVE_LIMIT_MS)

    assert (store.states("j1"), store.state("j1")) == ({"n1": "timed_out"}, "cancelled")


def test_a_pause_does_not_count_against_those_who_have_not_begun(store):
    store.running_job(at=10)
    store.ok(PauseJob(20, "j1"))

    store.advance(10 + PENDING_LIMIT_MS)

    assert store.states("j1") == {"n1": "pending"}
    assert store.ledger.next_due_at() == 10 + 2 * PENDING_LIMIT_MS


def test_a_node_registers_first_and_then_again(store):
    assert store.ok(registering("n1", 5)).created
    again = store.ok(registering("n1", 6))

    assert not again.created
    assert store.take_changes() == [("node", "registered", "n1")] * 2
