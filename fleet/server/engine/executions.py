"""Executions under way: what a node's report does, and how an execution moves from state to state."""

from fleet.model import executions, jobs
from fleet.model.executions import CANCELLING, ENDS, NOT_BEGUN, Execution
from fleet.server.commands import ILLEGAL, INVALID, NOT_FOUND, Notified, Outcome, Report
from fleet.server.store.interface import Tx

from .jobs import finish_if_done
from .moves import move

# What a node says before it has heard that it is to stop, or while it stops, leaves its execution at `cancelling`.
_HEARD_OF_CANCEL = ENDS | {executions.ROLLING_BACK}


def notified(tx: Tx, command: Notified) -> Outcome:
    """The node knows that the job waits; an answer that comes late changes nothing."""
    execution = tx.execution(command.job_id, command.node_id)
    if execution is None:
        return _no_execution(command.job_id, command.node_id)
    if execution.state == executions.PENDING:
        execution = move(tx, execution, executions.NOTIFIED, command.at)
    return _ok(execution)


def report(tx: Tx, command: Report) -> Outcome:
    """Take a node's report, once; a repeated or overtaken one is answered and changes nothing."""
    before = tx.execution(command.job_id, command.node_id)
    if before is None:
        return _no_execution(command.job_id, command.node_id)
    if command.state not in executions.NODE_STATES:
        return Outcome(INVALID, f"a node cannot report the state {command.state!r}", "$.state")
    if command.attempt != before.attempt:
        return _illegal(before, f"the report is of attempt {command.attempt}; fetch the job again", legal=False)
    if command.sequence <= before.sequence:
        return _ok(before)
    if before.state in ENDS:
        return _illegal(before, "the execution is at an end")
    if before.state in NOT_BEGUN and tx.job_state(command.job_id) == jobs.CANCELLING:
        # Its turn to be cancelled has not come yet; to its node it is.
        problem = "the job is being cancelled"
        return Outcome(ILLEGAL, problem, None, executions.CANCELLED, (), False, before.job_id, before.node_id)
    state = command.state
    if before.state == CANCELLING and state not in _HEARD_OF_CANCEL:
        state = CANCELLING
    if state != before.state and not executions.can_move(before.state, state):
        return _illegal(before, f"it cannot go on to {state}")
    after = move(
        tx,
        before,
        state,
        command.at,
        sequence=command.sequence,
        bytes_done=command.bytes_done,
        bytes_total=command.bytes_total,
        reason=command.reason,
        waiting_for=command.waiting_for,
        output=command.output,
    )
    if state in ENDS:
        finish_if_done(tx, command.job_id, command.at)
    return _ok(after)


def _ok(execution: Execution) -> Outcome:
    return Outcome(state=execution.state, job_id=execution.job_id, node_id=execution.node_id)


def _no_execution(job_id: str, node_id: str) -> Outcome:
    return Outcome(NOT_FOUND, f"job {job_id!r} is not known, or has nothing to do on node {node_id!r}")


def _illegal(execution: Execution, problem: str, *, legal: bool = True) -> Outcome:
    return Outcome(
        ILLEGAL,
        f"attempt {execution.attempt} is {execution.state}: {problem}",
        state=execution.state,
        legal=executions.legal_reports(execution.state) if legal else (),
        job_id=execution.job_id,
        node_id=execution.node_id,
    )
