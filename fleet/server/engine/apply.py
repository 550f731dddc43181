"""The one door: `apply` finds what a command means, and gives the repeat of a request its first answer."""

from typing import Any, Callable

from fleet.server.commands import (
    INVALID,
    Advance,
    CancelJob,
    Command,
    CreateJob,
    DeleteArtifact,
    DeleteJob,
    InstallJob,
    Notified,
    Outcome,
    PauseJob,
    PutArtifact,
    RecordAudit,
    RegisterNode,
    RemoveNode,
    Report,
    ResumeJob,
    RetryJob,
)
from fleet.server.store.interface import Tx

from . import artifacts, audit, deadlines, executions, jobs, nodes

_MEANINGS: dict[type, Callable[[Tx, Any], Outcome]] = {
    RegisterNode: nodes.register,
    RemoveNode: nodes.remove,
    CreateJob: jobs.create,
    InstallJob: jobs.install,
    CancelJob: jobs.cancel,
    PauseJob: jobs.pause,
    ResumeJob: jobs.resume,
    RetryJob: jobs.retry,
    DeleteJob: jobs.delete,
    Notified: executions.notified,
    Report: executions.report,
    Advance: deadlines.advance,
    PutArtifact: artifacts.put,
    DeleteArtifact: artifacts.delete,
    RecordAudit: audit.record,
}


def apply(tx: Tx, command: Command) -> Outcome:
    """Apply a command to the rows of `tx`.

    Total: every command has an outcome, and one that is not `ok` has written nothing but the answer to its request id
    and its row of the audit trail.
    Deterministic: the same rows and command give the same rows and outcome. Only the store's own errors pass through.
    """
    meaning = _MEANINGS[type(command)]
    if isinstance(command, (Report, Notified, Advance, RecordAudit)):
        return meaning(tx, command)
    if command.request_id is None:
        outcome = meaning(tx, command)
        audit.audit(tx, command, outcome)
        return outcome
    known = tx.answer(command.request_id)
    if known is not None:
        outcome = answer_again(command, *known)
        if outcome is not known[1]:
            audit.audit(tx, command, outcome)
        return outcome
    outcome = meaning(tx, command)
    audit.audit(tx, command, outcome)
    tx.remember(command.request_id, command.at, _fingerprint(command), outcome)
    return outcome


def answer_again(command: Command, fingerprint: str, outcome: Outcome) -> Outcome:
    """Answer a command whose request id had this `outcome` before: by that, if it is a repeat."""
    if fingerprint == _fingerprint(command):
        return outcome
    problem = "this request_id was used for another request; give each request one of its own"
    return Outcome(INVALID, problem, "$.request_id")


def _fingerprint(command: Command) -> str:
    """What a repeat of a command has in common with it; the time, and the id made up for a new job, are not."""
    name = type(command).__name__
    if isinstance(command, CreateJob):
        return f"{name} {command.spec.name} {command.spec.version}"
    if isinstance(command, RegisterNode):
        return f"{name} {command.registration.node_id}"
    if isinstance(command, PutArtifact):
        return f"{name} {command.artifact.name} {command.artifact.sha256}"
    if isinstance(command, DeleteArtifact):
        return f"{name} {command.name}"
    if isinstance(command, RemoveNode):
        return f"{name} {command.node_id}"
    if isinstance(command, (Advance, RecordAudit)):
        return name
    return f"{name} {command.job_id}"
