"""Commands: everything that changes the fleet, as data, and the outcome of applying one.

A command carries the time (`at`, UTC ms) and every id that it brings into being, so that applying it twice to the same
store gives the same result. `request_id` is the client's: a repeat gets the first outcome, also after a restart.
`origin` is who gave it, for the audit trail; a repeat leaves no second row there.
"""

from typing import Optional, Union

import msgspec

from fleet.model.artifacts import Artifact
from fleet.model.audit import AuditEntry, Origin
from fleet.model.jobs import ArtifactRef, JobSpec
from fleet.model.nodes import Registration

OK = "ok"
NOT_FOUND = "not_found"
ILLEGAL = "illegal"
INVALID = "invalid"
PRECONDITION = "precondition"
UNAVAILABLE = "unavailable"


class RegisterNode(msgspec.Struct, frozen=True, tag=True):
    """A node registered, or did so again; `host` and `port` are where its message came from."""

    at: int
    registration: Registration
    host: str
    port: int
    request_id: Optional[str] = None
    origin: Optional[Origin] = None


class RemoveNode(msgspec.Struct, frozen=True, tag=True):
    """Forget a node; what it had to do is cancelled, or if begun timed out, with the reason `node_removed`."""

    at: int
    node_id: str
    request_id: Optional[str] = None
    origin: Optional[Origin] = None


class CreateJob(msgspec.Struct, frozen=True, tag=True):
    """Create a job; `artifacts` are the contents that it was pinned to, and holds until its end."""

    at: int
    job_id: str
    spec: JobSpec
    artifacts: tuple[ArtifactRef, ...] = ()
    request_id: Optional[str] = None
    origin: Optional[Origin] = None


class InstallJob(msgspec.Struct, frozen=True, tag=True):
    """Begin a created job."""

    at: int
    job_id: str
    request_id: Optional[str] = None
    origin: Optional[Origin] = None


class CancelJob(msgspec.Struct, frozen=True, tag=True):
    """Stop a job: what has not begun is cancelled now, what has is asked to stop."""

    at: int
    job_id: str
    request_id: Optional[str] = None
    origin: Optional[Origin] = None


class PauseJob(msgspec.Struct, frozen=True, tag=True):
    """Hand out nothing new of a job; what has begun goes on."""

    at: int
    job_id: str
    request_id: Optional[str] = None
    origin: Optional[Origin] = None


class ResumeJob(msgspec.Struct, frozen=True, tag=True):
    """Go on with a paused job."""

    at: int
    job_id: str
    request_id: Optional[str] = None
    origin: Optional[Origin] = None


class RetryJob(msgspec.Struct, frozen=True, tag=True):
    """Begin a new attempt on every node where the last one ended without success."""

    at: int
    job_id: str
    request_id: Optional[str] = None
    origin: Optional[Origin] = None


class DeleteJob(msgspec.Struct, frozen=True, tag=True):
    """Forget a job that is not under way, with its executions."""

    at: int
    job_id: str
    request_id: Optional[str] = None
    origin: Optional[Origin] = None


class Notified(msgspec.Struct, frozen=True, tag=True):
    """A node answered the hint that a job waits for it."""

    at: int
    job_id: str
    node_id: str


class Report(msgspec.Struct, frozen=True, tag=True):
    """A node says how far it is; `sequence` grows with every report of an `attempt`. Sizes in bytes."""

    at: int
    job_id: str
    node_id: str
    attempt: int
    sequence: int
    state: str
    bytes_done: int = 0
    bytes_total: Optional[int] = None
    reason: Optional[str] = None
    waiting_for: Optional[str] = None
    output: Optional[str] = None


class Advance(msgspec.Struct, frozen=True, tag=True):
    """Do what is due at `at`: one chunk of each job's work, deadlines that have passed, answers to be forgotten."""

    at: int


class PutArtifact(msgspec.Struct, frozen=True, tag=True):
    """The content of an artifact is in place; `only_new` and `replaces` are If-None-Match and If-Match (a SHA-256)."""

    at: int
    artifact: Artifact
    only_new: bool = False
    replaces: Optional[str] = None
    request_id: Optional[str] = None
    origin: Optional[Origin] = None


class DeleteArtifact(msgspec.Struct, frozen=True, tag=True):
    """Forget an artifact; illegal while a job that is not at an end needs its content under this name."""

    at: int
    name: str
    replaces: Optional[str] = None
    request_id: Optional[str] = None
    origin: Optional[Origin] = None


class RecordAudit(msgspec.Struct, frozen=True, tag=True):
    """Write rows of the audit trail about what is no command: refusals of access, restarts, certificates."""

    at: int
    entries: tuple[AuditEntry, ...]


Command = Union[
    RegisterNode,
    RemoveNode,
    CreateJob,
    InstallJob,
    CancelJob,
    PauseJob,
    ResumeJob,
    RetryJob,
    DeleteJob,
    Notified,
    Report,
    Advance,
    PutArtifact,
    DeleteArtifact,
    RecordAudit,
]


class Outcome(msgspec.Struct, frozen=True):
    """What became of a command; anything but `ok` changed nothing.

    `detail` is for people and says what to do. `state` is the job's, or for reports the execution's, after the command;
    `legal` what is possible in it: actions on a job, states to report of an execution. `field` names what is invalid,
    as in `$.target_nodes[0]`. `created` tells a first registration or upload from a later one.
    `unavailable`: the store could not do it now (disk full, overload); it may be tried again.
    """

    status: str = OK
    detail: str = ""
    field: Optional[str] = None
    state: Optional[str] = None
    legal: tuple[str, ...] = ()
    created: bool = False
    job_id: Optional[str] = None
    node_id: Optional[str] = None

    @property
    def is_ok(self) -> bool:
        """Whether the command was applied."""
        return self.status == OK
