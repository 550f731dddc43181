"""Jobs: what an operator's actions do, the work on many nodes that follows in chunks, and how a job ends.

A job's row says which work is under way (`work`), which node it dealt with last (`work_after`) and that it is due. Each
`Advance` does a chunk, so that no transaction is long, whatever the size of the fleet, and a crash costs nothing.
"""

import heapq
from typing import Any, Callable, Optional

from msgspec.structs import replace

from fleet.model import executions, jobs
from fleet.model.executions import Execution
from fleet.model.jobs import Job, JobSpec
from fleet.model.targets import is_all
from fleet.server import changes
from fleet.server.commands import (
    ILLEGAL,
    INVALID,
    NOT_FOUND,
    UNAVAILABLE,
    CancelJob,
    CreateJob,
    DeleteJob,
    InstallJob,
    Outcome,
    PauseJob,
    ResumeJob,
    RetryJob,
)
from fleet.server.store.interface import Tx

from .moves import PENDING_LIMIT_MS, move

JOBS_LIMIT = 10_000
"""Jobs that are kept at most; who wants more has to delete some."""
CHUNK = 500
"""Executions that one step of a job's work deals with."""


def create(tx: Tx, command: CreateJob) -> Outcome:
    """Take a job in, and hold the contents that it needs."""
    if tx.job(command.job_id) is not None:
        return Outcome(INVALID, f"a job {command.job_id!r} exists already", "$.job_id")
    if tx.job_count() >= JOBS_LIMIT:
        return Outcome(UNAVAILABLE, f"the server has {JOBS_LIMIT} jobs, as many as it keeps; delete some")
    spec = command.spec
    if not is_all(spec.target_nodes):
        for index, node_id in enumerate(spec.target_nodes):
            if tx.node(node_id) is None:
                return Outcome(NOT_FOUND, f"no node {node_id!r} is registered", f"$.target_nodes[{index}]")
    for index, reference in enumerate(command.artifacts):
        artifact = tx.artifact(reference.name)
        if artifact is None or artifact.sha256 != reference.sha256:
            problem = f"artifact {reference.name!r} was replaced or deleted just now; try again"
            return Outcome(INVALID, problem, f"$.artifacts[{index}]")
    job = Job(command.job_id, spec, command.artifacts, jobs.CREATED, command.at, command.at)
    tx.put_job(job)
    tx.hold(job.job_id, job.artifacts)
    tx.emit(command.at, changes.JOB, job.state, job_id=job.job_id)
    return Outcome(created=True, state=job.state, job_id=job.job_id)


def install(tx: Tx, command: InstallJob) -> Outcome:
    """Begin: the targets are expanded from the next `Advance` on."""
    job, refusal = _job_for(tx, command.job_id, jobs.INSTALL)
    if job is None:
        return refusal
    if not _has_target(tx, job.spec):
        return _illegal(job, _no_target(job.spec))
    job = _put(tx, job, command.at, state=jobs.PREPARING, work=jobs.EXPAND, work_after="", due_at=command.at)
    return _ok(job)


def cancel(tx: Tx, command: CancelJob) -> Outcome:
    """Stop: what has not begun ends here, what has is asked to stop and ends with its node's report."""
    job, refusal = _job_for(tx, command.job_id, jobs.CANCEL)
    if job is None:
        return refusal
    if job.state == jobs.CREATED:
        job = _put(tx, job, command.at, state=jobs.CANCELLED)
        _release(tx, job, command.at)
        return _ok(job)
    job = _put(tx, job, command.at, state=jobs.CANCELLING, work=jobs.CANCEL, work_after="", due_at=command.at)
    return _ok(continue_work(tx, job, command.at))


def pause(tx: Tx, command: PauseJob) -> Outcome:
    """Hand out nothing new."""
    job, refusal = _job_for(tx, command.job_id, jobs.PAUSE)
    if job is None:
        return refusal
    return _ok(_put(tx, job, command.at, state=jobs.PAUSED))


def resume(tx: Tx, command: ResumeJob) -> Outcome:
    """Go on where the job was paused."""
    job, refusal = _job_for(tx, command.job_id, jobs.RESUME)
    if job is None:
        return refusal
    return _ok(_put(tx, job, command.at, state=jobs.RUNNING if job.expanded else jobs.PREPARING))


def retry(tx: Tx, command: RetryJob) -> Outcome:
    """Begin a new attempt where the last one did not succeed, and go on with targets that were never expanded."""
    job, refusal = _job_for(tx, command.job_id, jobs.RETRY)
    if job is None:
        return refusal
    if job.work:
        return _illegal(job, "an earlier action on it is still under way; try again in a moment")
    counts = tx.counts(job.job_id)
    if not any(state in executions.RETRYABLE for state in counts) and job.expanded:
        return _illegal(job, "no execution of it has failed, so that there is nothing to retry")
    if not job.expanded and not _has_target(tx, job.spec):
        return _illegal(job, _no_target(job.spec))
    for reference in job.artifacts:
        if not tx.is_needed(reference.sha256):
            return _illegal(job, f"the content of artifact {reference.name!r} is gone; upload it and create a new job")
    if job.state in jobs.JOB_ENDS:
        tx.hold(job.job_id, job.artifacts)
    state = jobs.RUNNING if job.expanded else jobs.PREPARING
    job = _put(tx, job, command.at, state=state, work=jobs.RETRY, work_after="", due_at=command.at)
    return _ok(continue_work(tx, job, command.at))


def delete(tx: Tx, command: DeleteJob) -> Outcome:
    """Forget a job that is not under way."""
    job, refusal = _job_for(tx, command.job_id, jobs.DELETE)
    if job is None:
        return refusal
    _release(tx, job, command.at)
    tx.remove_job(job.job_id)
    tx.emit(command.at, changes.JOB, changes.DELETED, job_id=job.job_id)
    return Outcome(state=changes.DELETED, job_id=job.job_id)


def continue_work(tx: Tx, job: Job, at: int) -> Job:
    """Do one chunk of the job's work and return its row: still due, or with the work completed."""
    after = _CHUNKS[job.work](tx, job, at)
    if after is not None:
        return _put(tx, job, at, work_after=after, due_at=at)
    if job.work == jobs.RETRY and not job.expanded:
        return _put(tx, job, at, work=jobs.EXPAND, work_after="", due_at=at)
    expanded = job.expanded or job.work == jobs.EXPAND
    state = jobs.RUNNING if job.state == jobs.PREPARING else job.state
    job = _put(tx, job, at, state=state, work="", work_after="", due_at=None, expanded=expanded)
    return _finish_if_done(tx, job, at)


def finish_if_done(tx: Tx, job_id: str, at: int) -> None:
    """End the job if each of its executions is at an end."""
    # The counts are a smaller read than the job, and say no for all executions but the last.
    if any(state not in executions.ENDS for state in tx.counts(job_id)):
        return
    job = tx.job(job_id)
    if job is not None:
        _finish_if_done(tx, job, at)


def _finish_if_done(tx: Tx, job: Job, at: int) -> Job:
    counts = tx.counts(job.job_id)
    under_way = job.state in (jobs.RUNNING, jobs.PAUSED, jobs.CANCELLING)
    if job.work or not under_way or any(state not in executions.ENDS for state in counts):
        return job
    if job.state == jobs.CANCELLING:
        state = jobs.CANCELLED
    elif counts and all(state in executions.SUCCESSES for state in counts):
        state = jobs.SUCCEEDED
    else:
        state = jobs.FAILED
    job = _put(tx, job, at, state=state)
    _release(tx, job, at)
    return job


def _release(tx: Tx, job: Job, at: int) -> None:
    """Let go of the contents that the job held, and say which of them nobody needs any more."""
    tx.release(job.job_id)
    for sha256 in dict.fromkeys(reference.sha256 for reference in job.artifacts):
        if not tx.is_needed(sha256):
            tx.emit(at, changes.ARTIFACT, changes.RELEASED, sha256=sha256)


def _expand_chunk(tx: Tx, job: Job, at: int) -> Optional[str]:
    node_ids = _targets_after(tx, job.spec, job.work_after)
    for node_id in node_ids:
        if tx.execution(job.job_id, node_id) is not None:
            continue  # the job was cancelled before all were expanded, and is retried
        # A node that was named and has gone since the job was created must not vanish from the job too.
        is_known = is_all(job.spec.target_nodes) or tx.node(node_id) is not None
        execution = Execution(
            job_id=job.job_id,
            node_id=node_id,
            state=executions.PENDING if is_known else executions.REJECTED,
            attempt=1,
            sequence=0,
            created_at=at,
            updated_at=at,
            due_at=at + PENDING_LIMIT_MS if is_known else None,
            reason=None if is_known else "unknown_node",
        )
        tx.add_execution(execution)
        tx.emit(at, changes.EXECUTION, execution.state, job_id=job.job_id, node_id=node_id)
    return node_ids[-1] if len(node_ids) == CHUNK else None


def _cancel_chunk(tx: Tx, job: Job, at: int) -> Optional[str]:
    chunk = tx.executions(job.job_id, job.work_after, CHUNK)
    for execution in chunk:
        if execution.state in executions.NOT_BEGUN:
            move(tx, execution, executions.CANCELLED, at)
        elif execution.state not in executions.ENDS and execution.state != executions.CANCELLING:
            move(tx, execution, executions.CANCELLING, at)
    return chunk[-1].node_id if len(chunk) == CHUNK else None


def _retry_chunk(tx: Tx, job: Job, at: int) -> Optional[str]:
    chunk = tx.executions(job.job_id, job.work_after, CHUNK)
    for execution in chunk:
        if execution.state in executions.RETRYABLE and tx.node(execution.node_id) is not None:
            move(
                tx,
                execution,
                executions.PENDING,
                at,
                attempt=execution.attempt + 1,
                sequence=0,
                bytes_done=0,
                bytes_total=None,
                reason=None,
                waiting_for=None,
                output=None,
            )
    return chunk[-1].node_id if len(chunk) == CHUNK else None


_CHUNKS: dict[str, Callable[[Tx, Job, int], Optional[str]]] = {
    jobs.EXPAND: _expand_chunk,
    jobs.CANCEL: _cancel_chunk,
    jobs.RETRY: _retry_chunk,
}


def _targets_after(tx: Tx, spec: JobSpec, after: str) -> list[str]:
    if is_all(spec.target_nodes):
        return tx.node_ids(after, CHUNK)
    return heapq.nsmallest(CHUNK, (node_id for node_id in spec.target_nodes if node_id > after))


def _has_target(tx: Tx, spec: JobSpec) -> bool:
    if is_all(spec.target_nodes):
        return bool(tx.node_ids("", 1))
    return any(tx.node(node_id) is not None for node_id in spec.target_nodes)


def _no_target(spec: JobSpec) -> str:
    if is_all(spec.target_nodes):
        return "no node is registered, so that there is nowhere to install it; start an agent first"
    return "none of its target nodes is registered any more; create a job for others"


def _put(tx: Tx, job: Job, at: int, **fields: Any) -> Job:
    after = replace(job, updated_at=at, **fields)
    tx.put_job(after)
    if after.state != job.state:
        tx.emit(at, changes.JOB, after.state, job_id=job.job_id)
    return after


def _job_for(tx: Tx, job_id: str, action: str) -> tuple[Optional[Job], Outcome]:
    """The job if `action` is legal in its state; else None and the outcome that says why not."""
    job = tx.job(job_id)
    if job is None:
        return None, Outcome(NOT_FOUND, f"no job {job_id!r} is known")
    if job.state not in jobs.ACTIONS[action]:
        return None, _illegal(job, f"it cannot {action}")
    return job, Outcome()


def _ok(job: Job) -> Outcome:
    return Outcome(state=job.state, job_id=job.job_id)


def _illegal(job: Job, problem: str) -> Outcome:
    legal = jobs.legal_actions(job.state)
    possible = ", ".join(legal) or "nothing but status"
    detail = f"the job is {job.state}: {problem} (possible now: {possible})"
    return Outcome(ILLEGAL, detail, state=job.state, legal=legal, job_id=job.job_id)
