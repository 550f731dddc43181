"""The runner of the table of steps, for one job at a time: it decides, and does nothing itself.

It is given what the journal holds, a job, the outcome of an effect or a wish to cancel, and answers each with a list
of actions. **Whoever performs them keeps their order, and begins none before the one before it is done.** That order
is the whole safety of an update: the journal has on its disk that a state was entered, and for which time, before
the state is reported and before its effect begins. A Write or Rewrite that fails, because the disk is full, stops
the list there; it and all behind it are tried again later, and actions that come in the meantime queue up behind.

What a life of the node knows of a job is in four records: the job, the state entered last, how far its download is
known to be on the disk, whether a cancellation waits. The next life is given them by `recover` and goes on.

**Reports** carry (attempt, sequence). A state takes its number when it is entered, in steps of SEQUENCE_STRIDE, and
reports of progress count on from there; the number is in the journal before the report goes out, so no later life
gives it to something else. An end is reported under one number until the server has acknowledged it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Optional, Union

import msgspec

from fleet.agent import steps
from fleet.agent.steps import ROWS, Row
from fleet.errors import UsageError
from fleet.install.interface import Answer
from fleet.model.executions import CANCELLING, DOWNLOADING

SEQUENCE_STRIDE = 1 << 16
"""Numbers that one entry of a state may use up for reports of progress."""

OUTPUT_LIMIT = 2048
"""Characters of an effect's output that are kept, the last ones."""

REWRITE_AFTER = 256
"""Records after which the journal is rewritten to the few that still matter."""

# Reason codes that are the machine's own; the others are the installer's.
INTERRUPTED = "interrupted"  # the state's attempts are used up, the node died in each


# --- what is written down -------------------------------------------------------------------------------------------


class Accepted(msgspec.Struct, frozen=True, tag="accepted"):
    """The node took on this attempt of a job; `description` is the JSON of what the server said of it.

    `sequence` is the last number that the server has seen in this attempt, from a node that lost its data since.
    """

    job_id: str
    attempt: int
    description: msgspec.Raw
    sequence: int = 0


class Entered(msgspec.Struct, frozen=True, tag="entered", omit_defaults=True):
    """A state was entered, for the `entry`-th time (from 1); everything before it is done."""

    state: str
    entry: int
    sequence: int
    reason: str = ""
    output: str = ""


class Progressed(msgspec.Struct, frozen=True, tag="progressed"):
    """Artifact number `artifact` (from 0) is being downloaded in this boot, `offset` bytes of it are fsynced."""

    artifact: int
    offset: int
    boot_id: str


class CancelAsked(msgspec.Struct, frozen=True, tag="cancel_asked"):
    """The job is to be cancelled as soon as the running effect has come to its end."""


Record = Union[Accepted, Entered, Progressed, CancelAsked]


# --- what is to be done ---------------------------------------------------------------------------------------------


class Write(NamedTuple):
    """Append the record to the journal; with `sync` it is on the disk before the next action."""

    record: Record
    sync: bool


class Rewrite(NamedTuple):
    """Put these records in place of the whole journal, durably."""

    records: tuple[Record, ...]


class Perform(NamedTuple):
    """Begin an effect of `fleet.agent.steps`; its outcome goes to `Machine.completed` with the ticket."""

    effect: str
    ticket: int


class Stop(NamedTuple):
    """Stop the running effect; done when nothing of it runs any more. It has no outcome."""

    ticket: int


class Report(NamedTuple):
    """Tell the server. A later report makes an earlier one superfluous, but a `final` one must arrive.

    A final report is repeated until `Machine.report_answered` is called with its sequence.
    """

    job_id: str
    attempt: int
    sequence: int
    state: str
    reason: str = ""
    output: str = ""
    bytes_done: Optional[int] = None
    bytes_total: Optional[int] = None
    waiting_for: Optional[str] = None
    final: bool = False


class Finished(NamedTuple):
    """The job is over, the server knows, the journal is empty: the next one may start."""

    job_id: str
    attempt: int
    state: str


Action = Union[Write, Rewrite, Perform, Stop, Report, Finished]


class Machine:
    """One node's work on one job; see the module for how its actions are to be performed."""

    def __init__(self) -> None:
        self._forget_job()
        self._ticket = 0  # of the effect performed last; never used twice in a life
        self._running: Optional[str] = None  # its effect while it runs

    def _forget_job(self) -> None:
        self._job: Optional[Accepted] = None
        self._entered: Optional[Entered] = None
        self._progress: Optional[Progressed] = None
        self._cancel_asked = False
        self._journaled = 0
        self._sequence = 0
        self._end_reported = False
        self._bytes_done: Optional[int] = None
        self._bytes_total: Optional[int] = None

    # What is known

    @property
    def job(self) -> Optional[Accepted]:
        """The job at hand, None if there is none."""
        return self._job

    @property
    def state(self) -> Optional[str]:
        """The state entered last, None if there is no job."""
        return None if self._entered is None else self._entered.state

    @property
    def cancel_asked(self) -> bool:
        """Whether the job will be cancelled once the running effect has come to its end."""
        return self._cancel_asked

    def resume_offset(self, artifact: int, boot_id: str, part_size: int) -> int:
        """Return how many bytes of an unfinished artifact can be trusted, of the `part_size` that are there.

        After a mere death of the process all of them: the system kept what was written. After a power cut, told by
        another `boot_id`, only what was fsynced and journaled before it. The rest has to be cut off.
        """
        progress = self._progress
        if progress is None or progress.artifact != artifact:
            return 0
        return part_size if progress.boot_id == boot_id else min(part_size, progress.offset)

    # What happens

    def recover(self, records: Sequence[Record]) -> list[Action]:
        """Take up what an earlier life left in the journal. Called once, first, in each life."""
        for record in records:
            self._apply(record)
        self._journaled = len(records)
        if self._job is None:
            return []
        if self._entered is None:
            return self._enter(steps.FIRST)
        row = ROWS[self._entered.state]
        if self._cancel_asked and row.on_cancel != steps.TOO_LATE:
            return self._enter(CANCELLING)
        if self._entered.entry >= row.attempts:
            return self._give_up(row)
        return self._enter_again(row)

    def start(self, job_id: str, attempt: int, description: bytes, sequence: int = 0) -> list[Action]:
        """Take on a job. `description` (JSON) comes back as `job.description` in every life; the machine ignores it.

        `sequence` is the last number that the server has seen in this attempt; ours begin behind it.

        Raises UsageError while another job is at hand.
        """
        if self._job is not None:
            raise UsageError(f"job {job_id} cannot start before job {self._job.job_id} is finished")
        accepted = Accepted(job_id, attempt, msgspec.Raw(description), sequence)
        return [self._write(accepted, sync=False), *self._enter(steps.FIRST)]

    def completed(self, ticket: int, outcome: Answer) -> list[Action]:
        """Take the outcome of the effect that was begun with this ticket; one that was stopped since is ignored.

        What the agent does itself, downloads, is answered like what its child does.
        """
        if self._entered is None or self._running is None or ticket != self._ticket:
            return []
        effect, self._running = self._running, None
        row = ROWS[self._entered.state]
        if row.on_success is None or row.on_failure is None:
            return [self._report()]  # an end: it has tidied up, as well as it could
        if self._cancel_asked and row.on_cancel == steps.AFTERWARDS:
            return self._enter(CANCELLING, outcome)
        if effect == row.effect:
            if not outcome.ok:
                return self._enter(row.on_failure, outcome)
            if outcome.already_installed and row.on_already is not None:
                return self._enter(row.on_already, outcome)
            return self._enter(row.on_success, outcome)
        if effect == steps.INSPECT:
            # A device of which nobody can say in which condition it is counts as half-way.
            meaning = steps.ON_CONDITION.get(outcome.condition, steps.UNDO)
            if meaning == steps.DONE:
                return self._enter(row.on_success, outcome)
            return [self._perform(steps.ROLL_BACK if meaning == steps.UNDO else row.effect)]
        if not outcome.ok:  # what a crash left could not be undone here
            return self._enter(row.on_failure, outcome)
        return [self._perform(row.effect)]

    def cancel(self) -> list[Action]:
        """Give the job up as early as that is safe; called again, or too late, it changes nothing."""
        if self._entered is None or self._cancel_asked:
            return []
        on_cancel = ROWS[self._entered.state].on_cancel
        if on_cancel == steps.TOO_LATE:
            return []
        if on_cancel == steps.AFTERWARDS:
            return [self._write(CancelAsked(), sync=True)]
        self._running = None
        return [Stop(self._ticket), *self._enter(CANCELLING)]

    def progressed(self, artifact: int, offset: int, boot_id: str) -> list[Action]:
        """Take down how far the download of an artifact is, after so many bytes of it were fsynced.

        The first call comes before the first byte is written, with what `resume_offset` said: it names the boot. An
        artifact that is complete is fsynced and gets its final name; what is known here is of the unfinished one only.
        """
        if self.state != DOWNLOADING:
            return []
        return [self._write(Progressed(artifact, offset, boot_id), sync=True)]

    def note(
        self, *, bytes_done: Optional[int] = None, bytes_total: Optional[int] = None, waiting_for: Optional[str] = None
    ) -> list[Action]:
        """Report progress inside a state, or what it waits for; the caller decides how often that is worth it."""
        if self._entered is None or steps.is_end(self._entered.state):
            return []
        if self._sequence + 1 >= self._entered.sequence + SEQUENCE_STRIDE:
            return []  # the next number is the next state's
        self._sequence += 1
        self._bytes_done = self._bytes_done if bytes_done is None else bytes_done
        self._bytes_total = self._bytes_total if bytes_total is None else bytes_total
        return [self._report()._replace(waiting_for=waiting_for)]

    def report_answered(self, sequence: int) -> list[Action]:
        """The server has taken the report, or refuses it for good, since it no longer knows the job or the attempt.

        Ends a job whose end this reports; of other reports nobody needs to know.
        """
        if self._job is None or self._entered is None or not self._end_reported or sequence != self._entered.sequence:
            return []
        finished = Finished(self._job.job_id, self._job.attempt, self._entered.state)
        self._forget_job()
        return [Rewrite(()), finished]

    # How it goes on

    def _enter(self, state: str, outcome: Optional[Answer] = None) -> list[Action]:
        """Go to another state. The first reason on the way stays, as the cause; the last output is the most useful."""
        before = self._entered
        reason = "" if before is None else before.reason
        output = "" if before is None else before.output
        if outcome is not None:
            reason = reason or outcome.reason
            output = outcome.output[-OUTPUT_LIMIT:] or output
        assert self._job is not None
        sequence = (self._job.sequence if before is None else before.sequence) + SEQUENCE_STRIDE
        return self._begin(Entered(state, 1, sequence, reason, output), ROWS[state].effect)

    def _enter_again(self, row: Row) -> list[Action]:
        """Go on in a state in which the node died; an end keeps its number, since it is reported under one only."""
        before = self._entered
        assert before is not None
        sequence = before.sequence if steps.is_end(row.state) else before.sequence + SEQUENCE_STRIDE
        entered = Entered(row.state, before.entry + 1, sequence, before.reason, before.output)
        return self._begin(entered, steps.INSPECT if row.on_crash == steps.ASK else row.effect)

    def _begin(self, entered: Entered, effect: str) -> list[Action]:
        """Write down, tell, act, in this order; an end is told when it has tidied up."""
        actions: list[Action] = [self._write(entered, sync=True)]
        if not steps.is_end(entered.state):
            actions.append(self._report())
        actions.append(self._perform(effect))
        return actions

    def _give_up(self, row: Row) -> list[Action]:
        if row.on_failure is None:
            return [self._report()]  # an end that cannot tidy up is an end all the same
        return self._enter(row.on_failure, Answer(ok=False, reason=INTERRUPTED))

    def _perform(self, effect: str) -> Perform:
        self._ticket += 1
        self._running = effect
        return Perform(effect, self._ticket)

    def _report(self) -> Report:
        assert self._job is not None and self._entered is not None
        self._end_reported = steps.is_end(self._entered.state)
        return Report(
            self._job.job_id,
            self._job.attempt,
            self._sequence,
            self._entered.state,
            self._entered.reason,
            self._entered.output,
            self._bytes_done,
            self._bytes_total,
            final=self._end_reported,
        )

    # What is remembered

    def _write(self, record: Record, *, sync: bool) -> Action:
        self._apply(record)
        self._journaled += 1
        if self._journaled <= REWRITE_AFTER:
            return Write(record, sync)
        records = self._records()
        self._journaled = len(records)
        return Rewrite(records)

    def _apply(self, record: Record) -> None:
        if isinstance(record, Accepted):
            self._job = record
        elif isinstance(record, Entered):
            self._entered = record
            self._sequence = record.sequence
        elif isinstance(record, Progressed):
            self._progress = record
        else:
            self._cancel_asked = True

    def _records(self) -> tuple[Record, ...]:
        cancel = CancelAsked() if self._cancel_asked else None
        return tuple(record for record in (self._job, self._entered, self._progress, cancel) if record is not None)
