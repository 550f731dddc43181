"""The tables of moves: closed, without ways out of an end, and the same whichever way they are asked."""

import pytest

from fleet.model import executions, jobs


def test_each_table_names_states_only_and_each_of_them():
    for states, moves, ends in (
        (executions.STATES, executions.MOVES, executions.ENDS),
        (jobs.STATES, jobs.JOB_MOVES, jobs.JOB_ENDS),
    ):
        assert sorted(moves) == sorted(states)
        assert all(after in states for following in moves.values() for after in following)
        assert ends <= set(states)
    assert all(states <= set(jobs.STATES) for states in jobs.ACTIONS.values())


def test_the_ends_are_those_of_the_api():
    assert sorted(executions.ENDS) == [
        "already_installed",
        "cancelled",
        "failed",
        "rejected",
        "rollback_failed",
        "rolled_back",
        "succeeded",
        "timed_out",
    ]
    assert executions.SUCCESSES < executions.ENDS
    assert executions.RETRYABLE < executions.ENDS - executions.SUCCESSES
    for end in executions.ENDS:
        assert executions.is_end(end)
        assert not any(executions.can_move(end, state) for state in executions.STATES)
        assert executions.legal_reports(end) == ()


def test_from_everywhere_an_end_can_be_reached_and_no_state_is_an_orphan():
    for state in set(executions.STATES) - executions.ENDS:
        assert any(executions.can_move(state, end) for end in executions.ENDS), state
        assert executions.can_move(state, "timed_out"), state
    for state in set(executions.STATES) - {"pending"}:
        assert executions.can_move("pending", state), state


@pytest.mark.parametrize(
    ("before", "after", "is_legal"),
    [
        ("pending", "succeeded", True),
        ("pending", "pending", False),
        ("downloading", "installing", True),
        ("waiting", "downloading", True),
        ("downloading", "waiting", True),
        ("verifying", "downloading", True),
        ("installing", "rolled_back", True),
        ("installing", "downloading", False),
        ("rolling_back", "succeeded", False),
        ("rolling_back", "failed", False),
        ("downloading", "cancelled", False),
        ("downloading", "cancelling", True),
        ("cancelling", "cancelled", True),
        ("cancelling", "succeeded", True),
        ("cancelling", "installing", False),
        ("committing", "rolled_back", True),
    ],
)
def test_an_execution_may_or_may_not_be_found_there_next(before, after, is_legal):
    assert executions.can_move(before, after) is is_legal


def test_every_direct_move_can_be_made():
    for before, following in executions.MOVES.items():
        for after in following:
            assert executions.can_move(before, after)


@pytest.mark.parametrize("job_state", jobs.STATES)
def test_new_work_is_handed_out_by_a_running_job_alone_and_begun_work_by_any(job_state):
    for state in executions.STATES:
        waits = executions.waits_for_node(job_state, state)
        if state in executions.ENDS:
            assert not waits
        elif state in ("pending", "notified"):
            assert waits is (job_state == "running")
        else:
            assert waits


def test_the_legal_actions_are_listed_in_order():
    assert jobs.legal_actions("created") == ("install", "cancel", "delete")
    assert jobs.legal_actions("running") == ("pause", "cancel", "retry")
    assert jobs.legal_actions("cancelling") == ()
    assert jobs.can_move("running", "paused")
    assert not jobs.can_move("succeeded", "running")
