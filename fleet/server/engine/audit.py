"""Which commands leave a row in the audit trail, and what it says."""

from typing import Any, Callable, Optional

from fleet.model.audit import NODES, OPERATORS, AuditEntry, Origin, cut
from fleet.server.commands import (
    CancelJob,
    Command,
    CreateJob,
    DeleteArtifact,
    DeleteJob,
    InstallJob,
    Outcome,
    PauseJob,
    PutArtifact,
    RecordAudit,
    RegisterNode,
    RemoveNode,
    ResumeJob,
    RetryJob,
)
from fleet.server.store.interface import Tx

_JOB: Callable[[Any], str] = lambda command: str(command.job_id)  # noqa: E731
_ACTIONS: dict[type, tuple[str, Callable[[Any], str]]] = {
    RegisterNode: ("node.register", lambda command: str(command.registration.node_id)),
    RemoveNode: ("node.remove", lambda command: str(command.node_id)),
    CreateJob: ("job.create", _JOB),
    InstallJob: ("job.install", _JOB),
    CancelJob: ("job.cancel", _JOB),
    PauseJob: ("job.pause", _JOB),
    ResumeJob: ("job.resume", _JOB),
    RetryJob: ("job.retry", _JOB),
    DeleteJob: ("job.delete", _JOB),
    PutArtifact: ("firmware.put", lambda command: str(command.artifact.name)),
    DeleteArtifact: ("firmware.delete", lambda command: str(command.name)),
}


def record(tx: Tx, command: RecordAudit) -> Outcome:
    """Write what was no command of the ledger."""
    for entry in command.entries:
        tx.audit(entry)
    return Outcome()


def audit(tx: Tx, command: Command, outcome: Outcome) -> None:
    """Write who gave `command`, and what became of it; commands without an origin are not anybody's.

    A node that registers again, as it does at each start, leaves no row.
    """
    origin: Optional[Origin] = getattr(command, "origin", None)
    if origin is None:
        return
    is_registration = isinstance(command, RegisterNode)
    if is_registration and outcome.is_ok and not outcome.created:
        return
    what, subject_of = _ACTIONS[type(command)]
    pool = NODES if is_registration else OPERATORS
    tx.audit(AuditEntry(command.at, pool, origin, what, cut(subject_of(command)), outcome.status))
