"""The table of steps holds together, and says nothing that the model of executions forbids."""

from __future__ import annotations

from fleet.agent import steps
from fleet.agent.steps import ROWS, TABLE, Row
from fleet.install.interface import NEW, OLD, PARTIAL
from fleet.model.executions import CANCELLED, CANCELLING, ENDS, MOVES, PENDING, SUCCEEDED, TIMED_OUT


def ways_out(row: Row) -> list[str]:
    ways = [row.on_success, row.on_failure, row.on_already]
    if row.on_cancel != steps.TOO_LATE:
        ways.append(CANCELLING)
    return [state for state in ways if state is not None]


def reachable_from(state: str) -> set[str]:
    found = {state}
    while True:
        more = {way for row in TABLE if row.state in found for way in ways_out(row)} - found
        if not more:
            return found
        found |= more


def test_each_state_has_one_row() -> None:
    assert len(ROWS) == len(TABLE)


def test_every_row_can_be_reached_and_names_only_rows() -> None:
    assert reachable_from(steps.FIRST) == set(ROWS)


def test_every_way_leads_to_an_end_since_no_state_comes_twice() -> None:
    for row in TABLE:
        for way in ways_out(row):
            assert row.state not in reachable_from(way), row.state
    for row in TABLE:
        assert ways_out(row) or row.state in ENDS, row.state


def test_the_ends_are_the_models_ends_and_only_tidy_up() -> None:
    ends = {row.state for row in TABLE if not ways_out(row)}
    assert ends == ENDS - {TIMED_OUT}  # that one is the server's verdict
    assert all(steps.is_end(state) == (state in ends) for state in ROWS)
    assert {ROWS[state].effect for state in ends} == {steps.CLEAN_UP}


def test_every_other_row_leads_somewhere_whatever_happens() -> None:
    for row in TABLE:
        assert (row.on_success is None) == (row.on_failure is None) == steps.is_end(row.state), row.state


def test_every_move_is_legal_in_the_model() -> None:
    assert steps.FIRST in MOVES[PENDING]
    for row in TABLE:
        for way in ways_out(row):
            assert way in MOVES[row.state], f"{row.state} -> {way}"


def test_a_crash_inside_any_effect_has_a_meaning_and_a_bound() -> None:
    for row in TABLE:
        assert row.on_crash in (steps.REDO, steps.ASK), row.state
        assert row.attempts >= 1, row.state
    assert sorted(steps.ON_CONDITION) == sorted([OLD, NEW, PARTIAL])


def test_what_changes_the_device_is_never_redone_blindly_and_never_stopped_half_way() -> None:
    for row in TABLE:
        if row.effect == steps.INSTALL:
            assert row.on_crash == steps.ASK
        if row.effect in (steps.INSTALL, steps.COMMIT, steps.ROLL_BACK):
            assert row.on_cancel != steps.AT_ONCE


def test_a_cancelled_job_ends_cancelled_and_a_committed_one_succeeded() -> None:
    assert ROWS[CANCELLING].on_success == CANCELLED
    assert [row.on_success for row in TABLE if row.effect == steps.COMMIT] == [SUCCEEDED]
    assert [row.on_cancel for row in TABLE if row.effect == steps.COMMIT] == [steps.TOO_LATE]
