"""The simulation catches what it is for: each of these faults in the code leads to a broken rule in some world."""

from __future__ import annotations

import importlib
from typing import Any, Callable, Optional, Sequence

import pytest
from msgspec.structs import replace

from fleet.agent import steps
from fleet.agent.agent import Agent
from fleet.agent.journal import Journal
from fleet.agent.machine import Action, Machine, Perform, Record, Rewrite
from fleet.agent.membership import Membership
from fleet.agent.steps import Row
from fleet.install.interface import Answer
from fleet.model.executions import INSTALLING, TESTING
from fleet.server.commands import CancelJob, Command, Outcome, Report
from fleet.server.store.interface import Tx
from fleet.server.store.memory import MemoryLedger
from fleet.simulate.disk import SimulatedFiles
from fleet.simulate.fleet import SimulatedFleet
from fleet.simulate.invariants import InvariantError
from minicoap.core.peer import Peers

engine = importlib.import_module("fleet.server.engine.apply")  # the package exports a function of that name
NODES = 16
SEEDS = range(60)

append, open_journal, fsync = Journal.append, Journal.open, SimulatedFiles.fsync
enter_again, completed, begin = Machine._enter_again, Machine.completed, Agent._begin
submit, report = MemoryLedger.submit, engine._MEANINGS[Report]


def install_redone_blindly(self: Machine, row: Row) -> list[Action]:
    return enter_again(self, row._replace(on_crash=steps.REDO))


def install_redone_though_done(self: Machine, row: Row) -> list[Action]:
    return self._enter(INSTALLING) if row.state == TESTING else enter_again(self, row)


def no_fsync_of_the_journal(self: Journal, record: Record, sync: bool) -> None:
    append(self, record, False)


def no_fsync_of_downloads(self: SimulatedFiles, path: str) -> None:
    if not path.endswith(".part"):
        fsync(self, path)


def torn_tail_kept(self: Journal) -> list[Record]:
    truncate, self._files.truncate = self._files.truncate, lambda path, size: None  # type: ignore[method-assign]
    try:
        records = open_journal(self)
    finally:
        self._files.truncate = truncate  # type: ignore[method-assign]
    self._size = self._files.size(self._path) or 0
    return records


def report_applied_twice(tx: Tx, command: Report) -> Outcome:
    before = tx.execution(command.job_id, command.node_id)
    if before is not None and command.sequence <= before.sequence:
        tx.move_execution(before, replace(before, sequence=command.sequence - 1))
    return report(tx, command)


def any_bytes_trusted(self: Machine, artifact: int, boot_id: str, part_size: int) -> int:
    return part_size


def hashes_not_verified(self: Agent, action: Perform) -> None:
    if action.effect == steps.VERIFY_HASHES:
        self._complete(action.ticket, Answer(ok=True))
    else:
        begin(self, action)


def condition_ignored(self: Machine, ticket: int, outcome: Answer) -> list[Action]:
    return completed(self, ticket, replace(outcome, condition="old") if outcome.condition else outcome)


def journal_emptied_before_the_answer(self: Machine, ticket: int, outcome: Answer) -> list[Action]:
    actions = completed(self, ticket, outcome)
    if self.state is not None and steps.is_end(self.state) and self._end_reported:
        return [Rewrite(()), *actions]
    return actions


def cancel_acknowledged_and_lost(self: MemoryLedger, command: Command, done: Callable[[Outcome], None]) -> None:
    if isinstance(command, CancelJob):
        self._post(lambda: done(Outcome(state="cancelling", job_id=command.job_id)))
    else:
        submit(self, command, done)


def jobs_in_answers_ignored(self: Membership, *told: Any, **also: Any) -> None:
    self._jobs_wait = lambda jobs: None
    reported(self, *told, **also)


def peers_never_forgotten(self: Peers, now: float) -> None:
    self._sweep = None


reported = Membership._reported

MUTANTS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "an install redone blindly": (Machine, "_enter_again", install_redone_blindly),
    "an install redone though it was done": (Machine, "_enter_again", install_redone_though_done),
    "no fsync of the journal": (Journal, "append", no_fsync_of_the_journal),
    "no fsync of downloads": (SimulatedFiles, "fsync", no_fsync_of_downloads),
    "a torn tail kept": (Journal, "open", torn_tail_kept),
    "a report applied twice": (engine._MEANINGS, "", report_applied_twice),
    "any bytes trusted after a power cut": (Machine, "resume_offset", any_bytes_trusted),
    "hashes not verified": (Agent, "_begin", hashes_not_verified),
    "the device's condition ignored": (Machine, "completed", condition_ignored),
    "the journal emptied before the answer": (Machine, "completed", journal_emptied_before_the_answer),
    "a command acknowledged and lost": (MemoryLedger, "submit", cancel_acknowledged_and_lost),
    "the jobs in answers ignored": (Membership, "_reported", jobs_in_answers_ignored),
    "peers never forgotten": (Peers, "_forget_unused", peers_never_forgotten),
}


def first_broken_rule(seeds: Sequence[int]) -> Optional[InvariantError]:
    for seed in seeds:
        try:
            SimulatedFleet(seed, NODES).run()
        except InvariantError as error:
            print(f"seed {seed}: {error}")
            return error
    return None


def test_without_a_mutant_no_rule_is_broken() -> None:
    assert first_broken_rule(SEEDS) is None


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_breaks_a_rule(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, mutant = MUTANTS[name]
    if isinstance(owner, dict):
        monkeypatch.setitem(owner, Report, mutant)
    else:
        monkeypatch.setattr(owner, attribute, mutant)
    assert first_broken_rule(SEEDS) is not None
