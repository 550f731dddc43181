"""A job that is cut at every point, and then at every second point, always ends with the device as its end says."""

from __future__ import annotations

import functools
from collections import Counter
from itertools import count
from typing import Callable, Optional

import pytest

from fleet.agent import machine as machine_module
from fleet.agent import steps
from fleet.agent.journal import Journal
from fleet.agent.machine import Action, Entered, Machine, Record, Rewrite, Write
from fleet.agent.steps import ROWS, Row
from fleet.install.interface import NEW, OLD, Answer
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
    SUCCESSES,
    TESTING,
    VERIFYING,
    WAITING,
)
from tests.fleet.agent.lives import JOURNAL, SEVERAL, Figures, Life, RuleBroken, Scenario, World, explore

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("all goes well", SUCCEEDED, artifacts=SEVERAL),
        Scenario("nothing is to be downloaded", SUCCEEDED, artifacts=()),
        Scenario("it is installed already", ALREADY_INSTALLED, device=NEW),
        Scenario("the node cannot do it", REJECTED, fails=(steps.REQUIREMENTS,)),
        Scenario("the download fails", FAILED, fails=(steps.DOWNLOAD,)),
        Scenario("the bytes are wrong", FAILED, wrong_bytes=True),
        Scenario("the install fails", ROLLED_BACK, fails=(steps.INSTALL,)),
        Scenario("the new version does not work", ROLLED_BACK, fails=(steps.VERIFY,)),
        Scenario("nor is there a way back", ROLLBACK_FAILED, fails=(steps.VERIFY, steps.ROLL_BACK)),
        Scenario("the commit fails", ROLLED_BACK, fails=(steps.COMMIT,)),
        Scenario("cancelled while it waits", CANCELLED, cancel_in=WAITING),
        Scenario("cancelled while it downloads", CANCELLED, cancel_in=DOWNLOADING, artifacts=SEVERAL),
        Scenario("cancelled with the bytes there", CANCELLED, cancel_in=DOWNLOADED),
        Scenario("cancelled while hashes are checked", CANCELLED, cancel_in=VERIFYING),
        Scenario("cancelled while it installs", CANCELLED, cancel_in=INSTALLING),
        Scenario("cancelled while an install fails", CANCELLED, fails=(steps.INSTALL,), cancel_in=INSTALLING),
        Scenario("cancelled while it is tried", CANCELLED, cancel_in=TESTING),
        Scenario("cancelled too late", SUCCEEDED, cancel_in=COMMITTING),
        Scenario("cancelled while it rolls back", ROLLED_BACK, fails=(steps.VERIFY,), cancel_in=ROLLING_BACK),
    )
}

explored: Callable[[Scenario], Figures] = functools.lru_cache(maxsize=None)(explore)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_job_cut_at_every_point_and_then_at_every_second_point_ends_as_it_should(name: str) -> None:
    figures = explored(SCENARIOS[name])
    assert figures.lives[2] > 0


def test_there_were_deaths_in_every_row_of_the_table() -> None:
    figures = [explored(scenario) for scenario in SCENARIOS.values()]
    deaths: Counter[str] = sum((each.deaths for each in figures), Counter())
    lives: Counter[int] = sum((each.lives for each in figures), Counter())
    assert [row.state for row in steps.TABLE if not deaths[row.state]] == []
    assert deaths[""] > 0  # before the job was in the journal
    assert sum(lives.values()) > 2_475
    print(f"lives by deaths before them: {dict(lives)}; deaths by state: {dict(deaths)}")


def test_a_journal_rewritten_under_way_survives_the_same_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "REWRITE_AFTER", 4)
    explore(SCENARIOS["all goes well"])
    explore(SCENARIOS["cancelled while it installs"])


DEADLY = (  # in this state, of this scenario, the node dies each time; it gives up and ends like this
    (WAITING, "all goes well", REJECTED),
    (DOWNLOADING, "all goes well", FAILED),
    (DOWNLOADED, "all goes well", FAILED),
    (VERIFYING, "all goes well", FAILED),
    (INSTALLING, "all goes well", ROLLED_BACK),
    (TESTING, "all goes well", ROLLED_BACK),
    (COMMITTING, "all goes well", ROLLED_BACK),
    (ROLLING_BACK, "the install fails", ROLLBACK_FAILED),
    (CANCELLING, "cancelled while it installs", ROLLBACK_FAILED),
    *(
        (end, name, end)
        for end, name in (
            (SUCCEEDED, "all goes well"),
            (ALREADY_INSTALLED, "it is installed already"),
            (REJECTED, "the node cannot do it"),
            (FAILED, "the bytes are wrong"),
            (ROLLED_BACK, "the install fails"),
            (ROLLBACK_FAILED, "nor is there a way back"),
            (CANCELLED, "cancelled while it downloads"),
        )
    ),
)


@pytest.mark.parametrize(("state", "name", "end"), DEADLY)
def test_a_node_that_dies_in_a_state_each_time_gives_up_after_the_attempts_of_its_row(
    state: str, name: str, end: str
) -> None:
    world = World(SCENARIOS[name])
    deaths = 0
    while not Life(world, deadly=state).run():
        deaths += 1
        assert deaths <= ROWS[state].attempts
        world = world.after_death()[0]
    assert deaths == ROWS[state].attempts
    assert (world.end, world.finished) == (end, True)
    if end != ROLLBACK_FAILED:
        assert world.device == (NEW if end in SUCCESSES else OLD)


def test_every_row_was_deadly_once() -> None:
    assert {state for state, _, _ in DEADLY} == set(ROWS)


def test_a_disk_that_is_full_for_one_write_of_the_journal_delays_a_job_and_changes_nothing_else() -> None:
    for number in count(1):
        world = World(SCENARIOS["cancelled while it installs"])
        world.disk.failing, world.disk.failing_path = number, JOURNAL
        assert Life(world).run()
        world.check_end()
        assert world.end == CANCELLED
        if world.disk.failing > 0:
            break
    assert number > 20


# --- The rules must be able to be broken: the same exploration, with the machine or the journal spoilt ---------------

append, enter_again, begin = Journal.append, Machine._enter_again, Machine._begin
completed, open_journal = Machine.completed, Journal.open


def without_fsync_of_enter(self: Journal, record: Record, sync: bool) -> None:
    append(self, record, sync and not isinstance(record, Entered))


def with_torn_tail_kept(self: Journal) -> list[Record]:
    truncate, self._files.truncate = self._files.truncate, lambda path, size: None  # type: ignore[method-assign]
    size = self._files.size(self._path) or 0
    try:
        return open_journal(self)
    finally:
        self._files.truncate = truncate  # type: ignore[method-assign]
        self._size = size


def without_counting(self: Machine, row: Row) -> list[Action]:
    assert self._entered is not None
    entered = self._entered
    actions = enter_again(self, row)
    again = Entered(entered.state, entered.entry, entered.sequence + 1, entered.reason, entered.output)
    self._entered = again
    return [Write(again, True), *actions[1:]]


def with_install_redone_after_it_was_done(self: Machine, row: Row) -> list[Action]:
    return self._enter(INSTALLING) if row.state == TESTING else enter_again(self, row)


def with_install_redone_blindly(self: Machine, row: Row) -> list[Action]:
    return enter_again(self, row._replace(on_crash=steps.REDO))


def with_crash_taken_for_success(self: Machine, row: Row) -> list[Action]:
    return (
        self._enter(row.on_success) if row.on_success and row.effect == steps.VERIFY_HASHES else enter_again(self, row)
    )


def with_effect_before_enter(self: Machine, entered: Entered, effect: str) -> list[Action]:
    actions = begin(self, entered, effect)
    return [actions[-1], *actions[:-1]] if effect == steps.INSTALL else actions


def with_report_before_enter(self: Machine, entered: Entered, effect: str) -> list[Action]:
    actions = begin(self, entered, effect)
    return [*actions[1:2], actions[0], *actions[2:]] if len(actions) == 3 else actions


def with_same_numbers_in_each_life(self: Machine, row: Row) -> list[Action]:
    assert self._entered is not None
    self._entered = Entered(row.state, self._entered.entry, 1)
    return enter_again(self, row)


def with_journal_emptied_before_the_answer(self: Machine, ticket: int, outcome: Answer) -> list[Action]:
    actions = completed(self, ticket, outcome)
    if self.state is not None and steps.is_end(self.state) and self._end_reported:
        return [Rewrite(()), *actions]
    return actions


def with_condition_ignored(self: Machine, ticket: int, outcome: Answer) -> list[Action]:
    return completed(self, ticket, Answer(ok=True, condition=OLD) if outcome.condition else outcome)


def with_any_bytes_trusted(self: Machine, artifact: int, boot_id: str, part_size: int) -> int:
    return part_size


MUTANTS: dict[str, tuple[type, str, Callable[..., object]]] = {
    "fsync of enter left out": (Journal, "append", without_fsync_of_enter),
    "torn tail kept": (Journal, "open", with_torn_tail_kept),
    "attempts not counted": (Machine, "_enter_again", without_counting),
    "install redone although journaled as done": (Machine, "_enter_again", with_install_redone_after_it_was_done),
    "install redone blindly": (Machine, "_enter_again", with_install_redone_blindly),
    "hashes taken for verified after a crash": (Machine, "_enter_again", with_crash_taken_for_success),
    "effect before enter": (Machine, "_begin", with_effect_before_enter),
    "report before enter": (Machine, "_begin", with_report_before_enter),
    "numbers of reports used again": (Machine, "_enter_again", with_same_numbers_in_each_life),
    "journal emptied before the answer": (Machine, "completed", with_journal_emptied_before_the_answer),
    "condition of the device ignored": (Machine, "completed", with_condition_ignored),
    "bytes trusted after a power cut": (Machine, "resume_offset", with_any_bytes_trusted),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_exploration_catches_a_spoilt_machine(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*MUTANTS[mutant])
    broken: Optional[RuleBroken] = None
    for scenario in SCENARIOS.values():
        try:
            explore(scenario)
        except RuleBroken as error:
            broken = error
            break
    assert broken is not None
    print(f"{mutant}: {broken}")
