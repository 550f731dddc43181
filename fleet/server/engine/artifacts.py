"""Artifacts: which content a name stands for. The bytes lie elsewhere, and may go when a `released` change says so."""

from fleet.server import changes
from fleet.server.commands import ILLEGAL, NOT_FOUND, PRECONDITION, UNAVAILABLE, DeleteArtifact, Outcome, PutArtifact
from fleet.server.store.interface import Tx

ARTIFACTS_LIMIT = 10_000
"""Names in the store at most: each new job looks through all of them."""
_SHOWN_JOBS = 5


def put(tx: Tx, command: PutArtifact) -> Outcome:
    """Let the name stand for this content; jobs keep the one that they were created with."""
    artifact, at = command.artifact, command.at
    known = tx.artifact(artifact.name)
    if command.only_new and known is not None:
        return Outcome(PRECONDITION, f"artifact {artifact.name!r} exists already")
    if command.replaces is not None and (known is None or known.sha256 != command.replaces):
        return Outcome(PRECONDITION, f"artifact {artifact.name!r} is not what it was to be; look at it again")
    if known is None and tx.artifact_count() >= ARTIFACTS_LIMIT:
        return Outcome(UNAVAILABLE, f"the store has {ARTIFACTS_LIMIT} artifacts, as many as it takes; delete some")
    tx.put_artifact(artifact)
    tx.emit(at, changes.ARTIFACT, changes.STORED, name=artifact.name, sha256=artifact.sha256)
    if known is not None and not tx.is_needed(known.sha256):
        tx.emit(at, changes.ARTIFACT, changes.RELEASED, sha256=known.sha256)
    return Outcome(created=known is None)


def delete(tx: Tx, command: DeleteArtifact) -> Outcome:
    """Forget the name, unless a job that is not at an end needs it."""
    known = tx.artifact(command.name)
    if known is None:
        return Outcome(NOT_FOUND, f"no artifact {command.name!r} is known")
    if command.replaces is not None and known.sha256 != command.replaces:
        return Outcome(PRECONDITION, f"artifact {command.name!r} is not what it was to be; look at it again")
    holders = tx.holders(known.sha256)
    if holders:
        shown = ", ".join(holders[:_SHOWN_JOBS]) + (", …" if len(holders) > _SHOWN_JOBS else "")
        return Outcome(ILLEGAL, f"artifact {command.name!r} is needed by {shown}; cancel or delete these jobs first")
    tx.remove_artifact(command.name)
    tx.emit(command.at, changes.ARTIFACT, changes.DELETED, name=command.name, sha256=known.sha256)
    if not tx.is_needed(known.sha256):
        tx.emit(command.at, changes.ARTIFACT, changes.RELEASED, sha256=known.sha256)
    return Outcome()
