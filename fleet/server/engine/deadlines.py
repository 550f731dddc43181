"""Deadlines and chunks: how long things may take, and what is done when their time has come.

Timers are rows: a `due_at` beside what it is for. An active execution's is only looked at when it comes, and put off
if there was a report in between, so that a report costs no write to an index.
"""

from msgspec.structs import replace

from fleet.model import executions, jobs
from fleet.model.executions import Execution
from fleet.server.commands import Advance, Outcome
from fleet.server.store.interface import Tx

from .jobs import CHUNK, continue_work, finish_if_done
from .moves import ACTIVE_LIMIT_MS, HOUR_MS, PENDING_LIMIT_MS, move

ANSWERS_KEPT_MS = 7 * 24 * HOUR_MS
ANSWERS_GRACE_MS = HOUR_MS
"""Answers are forgotten an hour's worth at a time."""
JOBS_LIMIT = 8
"""Jobs whose chunk one Advance does, so that other commands get their turn."""


def advance(tx: Tx, command: Advance) -> Outcome:
    """Do what is due, within bounds; what is left stays due."""
    at = command.at
    for job in tx.due_jobs(at, JOBS_LIMIT):
        continue_work(tx, job, at)
    ended_jobs: dict[str, None] = {}
    for execution in tx.due_executions(at, CHUNK):
        if _expire(tx, execution, at):
            ended_jobs[execution.job_id] = None
    for job_id in ended_jobs:
        finish_if_done(tx, job_id, at)
    tx.forget_answers(at - ANSWERS_KEPT_MS)
    return Outcome()


def _expire(tx: Tx, execution: Execution, at: int) -> bool:
    """Time the execution out, or put its deadline off; returns whether it ended."""
    if execution.state in executions.NOT_BEGUN:
        if tx.job_state(execution.job_id) == jobs.PAUSED:
            # Time that the operator took does not count against the node.
            _put_off(tx, execution, at + PENDING_LIMIT_MS)
            return False
        move(tx, execution, executions.TIMED_OUT, at, reason="not_fetched")
        return True
    until = execution.updated_at + ACTIVE_LIMIT_MS
    if until > at:
        _put_off(tx, execution, until)
        return False
    move(tx, execution, executions.TIMED_OUT, at, reason="no_report")
    return True


def _put_off(tx: Tx, execution: Execution, due_at: int) -> None:
    tx.move_execution(execution, replace(execution, due_at=due_at))
