"""The installer's child process as an effect: a verb and a step in, its answer out.

Python never gives back what it imported, a child does; it also may be killed, block and crash without harm.
"""

from __future__ import annotations

import logging
import sys
from typing import Callable, Optional

import msgspec

from fleet.host.processes import Processes, ProcessResult, RunningProcess
from fleet.install.interface import Answer, Call, Step, last_lines

logger = logging.getLogger(__name__)

TIMEOUT = "timeout"
CRASHED = "installer_crashed"

_MINUTE = 60.0
TIMEOUTS = {  # seconds a verb may take
    "requirements": 10 * _MINUTE,
    "verify_hashes": 30 * _MINUTE,
    "install": 60 * _MINUTE,
    "verify": 15 * _MINUTE,
    "commit": 15 * _MINUTE,
    "roll_back": 30 * _MINUTE,
    "inspect": 15 * _MINUTE,
    "clean_up": 15 * _MINUTE,
}


class Runner:
    """Starts one child at a time."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._child: Optional[RunningProcess] = None
        self._stopped: Optional[Callable[[], None]] = None

    def run(self, verb: str, step: Step, done: Callable[[Answer], None]) -> None:
        """Begin a verb; `done` gets its answer, unless it is stopped before."""

        def ended(result: ProcessResult) -> None:
            self._child = None
            stopped, self._stopped = self._stopped, None
            if stopped is not None:
                stopped()
            else:
                done(_answer(result))

        arguments = [sys.executable, "-m", "fleet.install.worker"]
        question = msgspec.json.encode(Call(verb, step))
        self._child = self._processes.run(arguments, question, TIMEOUTS[verb], ended)

    def stop(self, stopped: Callable[[], None]) -> bool:
        """Kill the child; `stopped` is called once it has ended. False if there is none."""
        if self._child is None:
            return False
        self._stopped = stopped
        self._child.kill()
        return True


def _answer(result: ProcessResult) -> Answer:
    if result.timed_out:
        return Answer(ok=False, reason=TIMEOUT, output="the installer took too long and was ended")
    if result.exit_code == 0:
        try:
            return msgspec.json.decode(result.stdout.strip().rpartition(b"\n")[2], type=Answer)
        except msgspec.DecodeError as error:
            logger.warning("the installer's answer cannot be read: %s", error)
    text = result.stderr.decode(errors="replace") or result.stdout.decode(errors="replace")
    return Answer(ok=False, reason=CRASHED, output=last_lines(f"{text}\n(exit code {result.exit_code})"))
