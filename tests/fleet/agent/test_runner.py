"""The installer's child as an effect."""

from __future__ import annotations

import sys

import pytest

from fleet.agent.runner import CRASHED, TIMEOUT, TIMEOUTS, Runner
from fleet.agent.steps import ROWS
from fleet.install.interface import OUTPUT_BYTES, Answer, Step
from tests.fleet.pretended import PretendedProcesses

STEP = Step("j1", 1, "pip", "/data/work/j1", packages=("app==1.0",))


class Running:
    def __init__(self):
        self.processes = PretendedProcesses(lambda *_: None)
        self.runner = Runner(self.processes)
        self.answers = []

    def run(self, verb="install"):
        self.runner.run(verb, STEP, self.answers.append)
        return self.processes.children[-1]


def test_a_child_is_asked_a_verb_about_a_step():
    child = Running().run("verify")

    assert list(child.arguments) == [sys.executable, "-m", "fleet.install.worker"]
    assert (child.call.verb, child.call.step) == ("verify", STEP)
    assert child.timeout == TIMEOUTS["verify"]


def test_every_effect_of_the_table_has_its_time():
    assert {row.effect for row in ROWS.values()} | {"inspect"} == TIMEOUTS.keys() | {"download"}


@pytest.mark.parametrize("answer", [Answer(ok=True), Answer(ok=False, reason="no_space", output="full")])
def test_its_last_line_is_the_answer(answer):
    running = Running()

    running.run().end(answer)

    assert running.answers == [answer]


ENDS = {
    "killed": ((-9, b"", b"", False), CRASHED, "exit code -9"),
    "crashed": ((1, b"", b"Traceback\nValueError: x\n", False), CRASHED, "ValueError: x"),
    "crashed after its answer": ((1, b'{"ok":true}\n', b"", False), CRASHED, "exit code 1"),
    "said nothing": ((0, b"", b"", False), CRASHED, "exit code 0"),
    "said something else": ((0, b"hello\n", b"", False), CRASHED, "hello"),
    "said half of it": ((0, b'{"ok":tr', b"", False), CRASHED, "exit code 0"),
    "said the wrong thing": ((0, b'{"ok":"yes"}\n', b"", False), CRASHED, "exit code 0"),
    "could not be started": ((None, b"", b"No such file", False), CRASHED, "No such file"),
    "took too long": ((-9, b"", b"", True), TIMEOUT, "too long"),
    "answered, and then took too long": ((-9, b'{"ok":true}\n', b"", True), TIMEOUT, "too long"),
}


@pytest.mark.parametrize("end", ENDS)
def test_any_other_end_is_a_failure_that_says_what_is_known(end):
    arguments, reason, output = ENDS[end]
    running = Running()

    running.run().exit(*arguments)

    (answer,) = running.answers
    assert (answer.ok, answer.reason) == (False, reason)
    assert output in answer.output


def test_output_without_end_is_cut():
    running = Running()

    running.run().exit(1, b"", b"x\n" * 100_000)

    assert len(running.answers[0].output) <= OUTPUT_BYTES


def test_a_child_that_is_stopped_is_killed_and_its_end_awaited():
    running = Running()
    child = running.run()
    stopped = []

    assert running.runner.stop(lambda: stopped.append(True))
    assert (child.was_killed, stopped) == (True, [])
    child.exit(-9)

    assert (stopped, running.answers) == ([True], [])
    running.run("roll_back").end(Answer(ok=True))
    assert running.answers == [Answer(ok=True)]


def test_there_may_be_nothing_to_stop():
    running = Running()

    assert not running.runner.stop(lambda: None)
    running.run().end(Answer(ok=True))
    assert not running.runner.stop(lambda: None)
