"""The machine answers each event with actions whose order keeps the node safe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import pytest

from fleet.agent import machine as machine_module
from fleet.agent import steps
from fleet.agent.machine import (
    INTERRUPTED,
    OUTPUT_LIMIT,
    REWRITE_AFTER,
    SEQUENCE_STRIDE,
    Accepted,
    Action,
    CancelAsked,
    Entered,
    Finished,
    Machine,
    Perform,
    Progressed,
    Record,
    Report,
    Rewrite,
    Stop,
    Write,
)
from fleet.agent.steps import ROWS, TABLE
from fleet.errors import UsageError
from fleet.install.interface import NEW, OLD, PARTIAL, Answer
from fleet.model.executions import (
    ALREADY_INSTALLED,
    CANCELLED,
    CANCELLING,
    COMMITTING,
    DOWNLOADED,
    DOWNLOADING,
    FAILED,
    INSTALLING,
    REJECTED,
    ROLLBACK_FAILED,
    ROLLED_BACK,
    ROLLING_BACK,
    SUCCEEDED,
    TESTING,
    VERIFYING,
    WAITING,
)

OK = Answer(ok=True)
BAD = Answer(ok=False, reason="broken", output="what it said")
DESCRIPTION = b'{"name":"app","version":"1.2"}'


def started() -> tuple[Machine, list[Action]]:
    machine = Machine()
    assert machine.recover([]) == []
    return machine, machine.start("job", 3, DESCRIPTION)


def ticket(actions: Sequence[Action]) -> int:
    return next(action.ticket for action in actions if isinstance(action, Perform))


def records(actions: Sequence[Action]) -> list[Record]:
    return [action.record for action in actions if isinstance(action, Write)]


def report(actions: Sequence[Action]) -> Report:
    return next(action for action in actions if isinstance(action, Report))


def in_state(state: str, entry: int = 1, others: Sequence[Record] = ()) -> tuple[Machine, list[Action]]:
    """A machine that finds itself in a state after a crash."""
    machine, actions = started()
    accepted = records(actions)[0]
    machine = Machine()
    return machine, machine.recover([accepted, Entered(state, entry, SEQUENCE_STRIDE), *others])


def run(machine: Machine, actions: Sequence[Action], *outcomes: Answer) -> list[Action]:
    """Answer the effects one after the other; the actions of the last answer."""
    for outcome in outcomes:
        actions = machine.completed(ticket(actions), outcome)
    return list(actions)


def test_a_state_is_first_durable_then_reported_then_its_effect_begins() -> None:
    machine, actions = started()
    assert actions == [
        Write(Accepted("job", 3, machine.job.description), False),  # type: ignore[union-attr]
        Write(Entered(WAITING, 1, SEQUENCE_STRIDE), True),
        Report("job", 3, SEQUENCE_STRIDE, WAITING),
        Perform(steps.REQUIREMENTS, 1),
    ]
    assert run(machine, actions, OK) == [
        Write(Entered(DOWNLOADING, 1, 2 * SEQUENCE_STRIDE), True),
        Report("job", 3, 2 * SEQUENCE_STRIDE, DOWNLOADING),
        Perform(steps.DOWNLOAD, 2),
    ]


def test_a_job_that_goes_well_goes_through_every_state_once() -> None:
    machine, actions = started()
    states = [WAITING]
    while not steps.is_end(states[-1]):
        actions = run(machine, actions, OK)
        states.append(machine.state or "")
    assert states == [
        WAITING, DOWNLOADING, DOWNLOADED, VERIFYING, INSTALLING, TESTING, COMMITTING, SUCCEEDED,
    ]  # fmt: skip


def test_an_end_tidies_up_then_is_reported_then_waits_for_the_answer_then_forgets_the_job() -> None:
    machine, actions = started()
    actions = run(machine, actions, BAD)
    assert [type(action) for action in actions] == [Write, Perform]
    assert actions[1] == Perform(steps.CLEAN_UP, 2)
    actions = run(machine, actions, OK)
    end = report(actions)
    assert actions == [Report("job", 3, 2 * SEQUENCE_STRIDE, REJECTED, "broken", "what it said", final=True)]
    assert machine.report_answered(end.sequence - 1) == []
    assert machine.state == REJECTED
    assert machine.report_answered(end.sequence) == [Rewrite(()), Finished("job", 3, REJECTED)]
    assert machine.report_answered(end.sequence) == []
    assert machine.job is None and machine.state is None
    assert isinstance(machine.start("next", 1, b"{}")[0], Write)


def test_an_end_that_cannot_tidy_up_is_reported_all_the_same() -> None:
    machine, actions = started()
    actions = run(machine, actions, BAD, Answer(ok=False, reason="install_failed", output="disk on fire"))
    assert report(actions).reason == "broken"
    assert report(actions).final


def test_an_answer_before_the_end_was_reported_ends_nothing() -> None:
    machine, actions = started()
    run(machine, actions, BAD)
    assert machine.report_answered(2 * SEQUENCE_STRIDE) == []


@pytest.mark.parametrize("row", [row for row in TABLE if row.on_failure], ids=lambda row: row.state)
def test_a_failure_takes_the_row_s_way_and_carries_the_reason(row: steps.Row) -> None:
    machine, actions = in_state(row.state)
    if row.on_crash == steps.ASK:
        actions = run(machine, actions, Answer(ok=True, condition=OLD))
    actions = run(machine, actions, BAD)
    entered = records(actions)[0]
    assert isinstance(entered, Entered)
    assert (entered.state, entered.entry, entered.reason) == (row.on_failure, 1, "broken")


def test_what_is_installed_already_is_not_installed() -> None:
    machine, actions = started()
    run(machine, actions, Answer(ok=True, already_installed=True))
    assert machine.state == ALREADY_INSTALLED


def test_the_first_reason_stays_and_the_last_output_is_kept_up_to_its_end() -> None:
    machine, actions = in_state(TESTING)
    actions = run(machine, actions, Answer(ok=False, reason="verify_failed", output="wrong version"))
    assert report(actions).output == "wrong version"
    long = "x" * OUTPUT_LIMIT + "the end"
    actions = run(machine, actions, Answer(ok=False, reason="rollback_failed", output=long), OK)
    end = report(actions)
    assert (end.state, end.reason) == (ROLLBACK_FAILED, "verify_failed")
    assert end.output.endswith("the end") and len(end.output) == OUTPUT_LIMIT


def test_an_outcome_with_another_ticket_is_ignored() -> None:
    machine, actions = started()
    old = ticket(actions)
    actions = run(machine, actions, OK)
    assert machine.completed(old, BAD) == []
    assert machine.completed(old + 17, BAD) == []
    assert machine.state == DOWNLOADING
    assert Machine().completed(1, OK) == []


def test_a_second_job_has_to_wait() -> None:
    machine, _ = started()
    with pytest.raises(UsageError, match="job other cannot start before job job is finished"):
        machine.start("other", 1, b"{}")


# --- after a crash --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.state)
def test_going_on_after_a_crash_counts_on_the_disk_before_anything_is_done(row: steps.Row) -> None:
    _, actions = in_state(row.state)
    entered = records(actions)[0]
    assert isinstance(actions[0], Write) and actions[0].sync
    assert isinstance(entered, Entered)
    assert (entered.state, entered.entry) == (row.state, 2)
    assert isinstance(actions[-1], Perform)
    assert actions[-1].effect == (steps.INSPECT if row.on_crash == steps.ASK else row.effect)
    # An end is reported under one number; anything else under a new one.
    assert entered.sequence == (SEQUENCE_STRIDE if steps.is_end(row.state) else 2 * SEQUENCE_STRIDE)


@pytest.mark.parametrize("row", [row for row in TABLE if row.on_failure], ids=lambda row: row.state)
def test_a_state_whose_attempts_are_used_up_has_failed(row: steps.Row) -> None:
    _, actions = in_state(row.state, entry=row.attempts)
    entered = records(actions)[0]
    assert isinstance(entered, Entered)
    assert (entered.state, entered.reason) == (row.on_failure, INTERRUPTED)


def test_an_end_whose_attempts_are_used_up_is_reported_at_once() -> None:
    _, actions = in_state(SUCCEEDED, entry=ROWS[SUCCEEDED].attempts)
    assert actions == [Report("job", 3, SEQUENCE_STRIDE, SUCCEEDED, final=True)]


@pytest.mark.parametrize(
    ("found", "then"),
    [
        (Answer(ok=True, condition=OLD), [steps.INSTALL]),
        (Answer(ok=True, condition=PARTIAL), [steps.ROLL_BACK, steps.INSTALL]),
        (Answer(ok=True, condition=NEW), [steps.VERIFY]),
        (Answer(ok=False, reason="installer_crashed"), [steps.ROLL_BACK, steps.INSTALL]),
    ],
)
def test_a_cut_install_goes_on_as_the_device_was_found(found: Answer, then: list[str]) -> None:
    machine, actions = in_state(INSTALLING)
    actions = run(machine, actions, found)
    performed: list[str] = []
    for _ in then:
        performed += [action.effect for action in actions if isinstance(action, Perform)]
        actions = run(machine, actions, OK)
    assert performed == then


def test_a_cut_install_that_cannot_be_undone_on_the_spot_is_rolled_back() -> None:
    machine, actions = in_state(INSTALLING)
    run(machine, actions, Answer(ok=True, condition=PARTIAL), BAD)
    assert machine.state == ROLLING_BACK


def test_a_job_that_was_accepted_and_never_entered_begins() -> None:
    _, actions = started()
    machine = Machine()
    again = machine.recover(records(actions)[:1])
    assert again == actions[1:]
    assert bytes(machine.job.description) == DESCRIPTION  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("progress", "artifact", "boot", "there", "trusted"),
    [
        (None, 0, "b1", 500, 0),
        (Progressed(0, 400, "b1"), 0, "b1", 500, 500),  # only the process died
        (Progressed(0, 400, "b1"), 0, "b2", 500, 400),  # the power was cut
        (Progressed(0, 400, "b1"), 0, "b2", 300, 300),  # and the file is shorter than it was
        (Progressed(0, 400, "b1"), 1, "b1", 500, 0),  # left by something else
        (Progressed(1, 400, "b1"), 1, "b2", 500, 400),
    ],
)
def test_a_download_goes_on_behind_the_bytes_that_can_be_trusted(
    progress: Optional[Progressed], artifact: int, boot: str, there: int, trusted: int
) -> None:
    machine, _ = in_state(DOWNLOADING, others=[] if progress is None else [progress])
    assert machine.resume_offset(artifact, boot, there) == trusted


def test_progress_is_written_down_while_downloading_only() -> None:
    machine, actions = started()
    assert machine.progressed(0, 0, "b1") == []
    actions = run(machine, actions, OK)
    assert machine.progressed(0, 4096, "b1") == [Write(Progressed(0, 4096, "b1"), True)]
    assert machine.resume_offset(0, "b2", 5000) == 4096


# --- cancelling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [WAITING, DOWNLOADING, DOWNLOADED, VERIFYING])
def test_before_the_install_a_cancellation_stops_what_runs_and_ends_the_job(state: str) -> None:
    machine, actions = in_state(state)
    running = ticket(actions)
    actions = machine.cancel()
    assert actions[0] == Stop(running)
    assert isinstance(actions[1], Write) and actions[1].sync
    assert report(actions).state == CANCELLING
    assert actions[-1] == Perform(steps.ROLL_BACK, running + 1)
    assert machine.completed(running, OK) == []  # it came to its end just before it was stopped
    assert machine.cancel() == []
    run(machine, actions, OK)
    assert machine.state == CANCELLED


@pytest.mark.parametrize("outcome", [OK, BAD])
@pytest.mark.parametrize("state", [INSTALLING, TESTING])
def test_from_the_install_on_a_cancellation_waits_for_the_effect_and_undoes_it(state: str, outcome: Answer) -> None:
    machine, actions = in_state(state)
    assert machine.cancel() == [Write(CancelAsked(), True)]
    assert machine.cancel() == []
    assert machine.cancel_asked
    actions = run(machine, actions, outcome)
    assert machine.state == CANCELLING
    assert isinstance(actions[-1], Perform) and actions[-1].effect == steps.ROLL_BACK
    actions = run(machine, actions, OK, OK)
    assert (report(actions).state, report(actions).final) == (CANCELLED, True)


@pytest.mark.parametrize("state", [INSTALLING, TESTING])
def test_a_cancellation_that_waited_when_the_node_died_is_carried_out(state: str) -> None:
    machine, actions = in_state(state, others=[CancelAsked()])
    assert machine.state == CANCELLING
    assert isinstance(actions[-1], Perform) and actions[-1].effect == steps.ROLL_BACK


def test_a_cancellation_whose_way_back_fails_says_so() -> None:
    machine, actions = in_state(TESTING)
    machine.cancel()
    run(machine, actions, OK, BAD)
    assert machine.state == ROLLBACK_FAILED


@pytest.mark.parametrize(
    ("state", "end"), [(COMMITTING, SUCCEEDED), (ROLLING_BACK, ROLLED_BACK), (SUCCEEDED, SUCCEEDED), (FAILED, FAILED)]
)
def test_a_cancellation_that_comes_too_late_changes_nothing(state: str, end: str) -> None:
    machine, actions = in_state(state)
    assert machine.cancel() == []
    run(machine, actions, OK)
    assert machine.state == end


def test_without_a_job_there_is_nothing_to_cancel_or_to_note() -> None:
    machine = Machine()
    assert machine.cancel() == []
    assert machine.note(bytes_done=1) == []
    assert machine.report_answered(0) == []


# --- numbers and records --------------------------------------------------------------------------------------------


def test_progress_counts_on_from_the_number_of_the_state_and_never_reaches_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine_module, "SEQUENCE_STRIDE", 4)
    machine, actions = started()
    actions = run(machine, actions, OK)
    base = report(actions).sequence
    noted = [machine.note(bytes_done=number, bytes_total=10) for number in range(5)]
    assert [report(actions).sequence for actions in noted if actions] == [base + 1, base + 2, base + 3]
    actions = run(machine, actions, OK)
    assert report(actions).sequence == base + 4
    assert (report(actions).bytes_done, report(actions).bytes_total) == (2, 10)


def test_what_a_state_waits_for_is_said_in_that_report_only() -> None:
    machine, actions = started()
    assert report(machine.note(waiting_for="the clock")).waiting_for == "the clock"
    assert report(run(machine, actions, OK)).waiting_for is None


def test_a_later_life_reports_under_higher_numbers_than_any_life_before() -> None:
    machine, actions = started()
    actions = [*actions, *run(machine, actions, OK)]
    last = report(machine.note(bytes_done=1)).sequence
    machine = Machine()
    assert report(machine.recover(records(actions))).sequence > last


def test_the_journal_is_rewritten_to_the_few_records_that_matter_before_it_grows_long() -> None:
    machine, actions = started()
    run(machine, actions, OK)
    rewritten: list[Rewrite] = []
    for number in range(3 * REWRITE_AFTER):
        rewritten += [each for each in machine.progressed(0, number, "b1") if isinstance(each, Rewrite)]
    assert len(rewritten) == 3
    first = rewritten[0].records
    assert [type(record) for record in first] == [Accepted, Entered, Progressed]
    again = Machine()
    again.recover(first)
    assert again.state == DOWNLOADING
    assert again.resume_offset(0, "b2", 10_000) == first[2].offset  # type: ignore[union-attr]


def test_a_cancellation_that_waits_outlasts_a_rewritten_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "REWRITE_AFTER", 3)
    machine, _ = in_state(INSTALLING)
    (rewrite,) = machine.cancel()
    assert isinstance(rewrite, Rewrite)
    again = Machine()
    again.recover(rewrite.records)
    assert again.state == CANCELLING
