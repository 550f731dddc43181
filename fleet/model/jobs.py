"""Jobs: what an operator wants done, the states it passes and what may be asked of it in each.

Both tables are the only place where a legal move or action is written down; everything else consults them.
"""

from typing import Optional

import msgspec

CREATED = "created"
PREPARING = "preparing"
RUNNING = "running"
PAUSED = "paused"
CANCELLING = "cancelling"
SUCCEEDED = "succeeded"
FAILED = "failed"
CANCELLED = "cancelled"

STATES = (CREATED, PREPARING, RUNNING, PAUSED, CANCELLING, SUCCEEDED, FAILED, CANCELLED)
JOB_ENDS = frozenset({SUCCEEDED, FAILED, CANCELLED})

# From state to the states it may be followed by.
JOB_MOVES: dict[str, frozenset[str]] = {
    CREATED: frozenset({PREPARING, CANCELLED}),
    PREPARING: frozenset({RUNNING, PAUSED, CANCELLING}),
    RUNNING: frozenset({PAUSED, CANCELLING, SUCCEEDED, FAILED}),
    PAUSED: frozenset({PREPARING, RUNNING, CANCELLING, SUCCEEDED, FAILED}),
    CANCELLING: frozenset({CANCELLED}),
    SUCCEEDED: frozenset(),
    # Only by retry; PREPARING where the targets were not all expanded when the job was cancelled.
    FAILED: frozenset({RUNNING, PREPARING}),
    CANCELLED: frozenset({RUNNING, PREPARING}),
}

INSTALL = "install"
STATUS = "status"
CANCEL = "cancel"
PAUSE = "pause"
RESUME = "resume"
RETRY = "retry"
DELETE = "delete"

# What an operator may ask of a job, in the order in which it is listed to them, and in which states.
ACTIONS: dict[str, frozenset[str]] = {
    INSTALL: frozenset({CREATED}),
    PAUSE: frozenset({PREPARING, RUNNING}),
    RESUME: frozenset({PAUSED}),
    CANCEL: frozenset({CREATED, PREPARING, RUNNING, PAUSED}),
    RETRY: frozenset({RUNNING, FAILED, CANCELLED}),
    DELETE: frozenset({CREATED, SUCCEEDED, FAILED, CANCELLED}),
    STATUS: frozenset(STATES),
}

# Long work of a job goes on in chunks; the row says which and how far it came.
EXPAND = "expand"
WORKS = ("", EXPAND, CANCEL, RETRY)


def can_move(before: str, after: str) -> bool:
    """Whether a job in state `before` may go to state `after`."""
    return after in JOB_MOVES[before]


def legal_actions(state: str) -> tuple[str, ...]:
    """The actions that a job in `state` accepts, `status` left out since it always is."""
    return tuple(action for action, states in ACTIONS.items() if state in states and action != STATUS)


class ArtifactWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An artifact as a job names it: its `name` in the store, for file jobs the destination `path` and octal `mode`."""

    name: str
    path: Optional[str] = None
    mode: Optional[str] = None


class ArtifactRef(msgspec.Struct, frozen=True):
    """An artifact as a job pinned it: `sha256` (hex) fixes the content, whatever the name holds later; `size` bytes."""

    name: str
    size: int
    sha256: str
    path: Optional[str] = None
    mode: Optional[str] = None


class JobSpec(msgspec.Struct, frozen=True):
    """What a job is to do, as it was asked for; checked by `fleet.model.api.parse_create`."""

    name: str
    version: str
    package_type: str
    target_nodes: tuple[str, ...]
    packages: tuple[str, ...] = ()
    artifacts: tuple[ArtifactWish, ...] = ()


class Job(msgspec.Struct, frozen=True):
    """A job's row. Times are UTC ms; `work` is its chunked work, `work_after` the last node id dealt with."""

    job_id: str
    spec: JobSpec
    artifacts: tuple[ArtifactRef, ...]
    state: str
    created_at: int
    updated_at: int
    work: str = ""
    work_after: str = ""
    expanded: bool = False
    due_at: Optional[int] = None
