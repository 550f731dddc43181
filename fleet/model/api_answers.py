"""What each answer of the API holds. Times are ISO 8601 text, sizes bytes, `next` the cursor of the next page."""

from typing import Any, Optional

import msgspec

from . import executions
from .jobs import ArtifactRef


class ErrorAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of an error: what is wrong and what to do; for 4.09 the `state` and what is `legal` in it."""

    error: str
    field: Optional[str] = None
    state: Optional[str] = None
    legal: tuple[str, ...] = ()


class RegistrationAnswer(msgspec.Struct, frozen=True):
    """To `POST /nodes`. `health_interval` in seconds, `time` ISO 8601, `servers` ordered by preference."""

    node_id: str
    status: str
    servers: tuple[str, ...]
    health_interval: float
    time: str


class HealthAnswer(msgspec.Struct, frozen=True):
    """To `PUT /health`; `jobs` are the ids of jobs that wait for this node."""

    status: str
    time: str
    jobs: tuple[str, ...]
    servers: tuple[str, ...]


class BriefAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """To `iPATCH /h`, where there is something to say: the jobs that wait."""

    jobs: tuple[str, ...] = ()


class NodeView(msgspec.Struct, frozen=True):
    """A node as the server sees it: `status`, `last_seen` by the server's clock, `address` as last heard."""

    node_id: str
    status: str
    last_seen: Optional[str]
    registered_at: str
    address: str
    hostname: str
    ip_address: str
    services: tuple[str, ...]
    drivers: tuple[str, ...]
    system_info: dict[str, Any]
    groups: tuple[str, ...] = ()
    health: Optional[dict[str, Any]] = None


class NodeHealthAnswer(msgspec.Struct, frozen=True):
    """To `GET /nodes/{id}/health`: the last report, and when it came by the server's clock."""

    node_id: str
    status: str
    received_at: Optional[str]
    health: Any


class NodesAnswer(msgspec.Struct, frozen=True):
    """To `GET /nodes`; `next` is the cursor to give as `after`, or null at the end."""

    nodes: tuple[NodeView, ...]
    next: Optional[str]


class CreateAnswer(msgspec.Struct, frozen=True):
    """To a job's creation."""

    job_id: str
    status: str


class ActionAnswer(msgspec.Struct, frozen=True):
    """To an action on a job: the state that it brought the job to."""

    job_id: str
    status: str


class JobView(msgspec.Struct, frozen=True):
    """A job in a list; `counts` are executions by state."""

    job_id: str
    name: str
    version: str
    package_type: str
    status: str
    counts: dict[str, int]
    created_at: str
    updated_at: str


class JobDetail(msgspec.Struct, frozen=True):
    """To `GET /updates/{id}`: the job as it was asked for and pinned."""

    job_id: str
    name: str
    version: str
    package_type: str
    status: str
    counts: dict[str, int]
    target_nodes: tuple[str, ...]
    packages: tuple[str, ...]
    artifacts: tuple[ArtifactRef, ...]
    created_at: str
    updated_at: str


class UpdatesAnswer(msgspec.Struct, frozen=True):
    """To `GET /updates`, newest first."""

    updates: tuple[JobView, ...]
    next: Optional[str]


class ExecutionView(msgspec.Struct, frozen=True):
    """One node's part in a job's status."""

    state: str
    attempt: int
    bytes_done: int
    bytes_total: Optional[int]
    reason: Optional[str]
    waiting_for: Optional[str]
    output: Optional[str]
    updated_at: str


class StatusAnswer(msgspec.Struct, frozen=True):
    """A job's status; `nodes` is one page of its executions by node id."""

    job_id: str
    name: str
    version: str
    package_type: str
    status: str
    counts: dict[str, int]
    nodes: dict[str, ExecutionView]
    next: Optional[str]


class NodeJobAnswer(msgspec.Struct, frozen=True):
    """What a node is to do: `GET /updates/{job_id}?node={node_id}`; `state` cancelling asks it to stop.

    `sequence` is the last report seen in this attempt: a node that lost its data goes on behind it.
    """

    job_id: str
    attempt: int
    name: str
    version: str
    package_type: str
    packages: tuple[str, ...] = ()
    artifacts: tuple[ArtifactRef, ...] = ()
    state: str = executions.PENDING
    sequence: int = 0


class ReportAnswer(msgspec.Struct, frozen=True):
    """To a report: the state the execution is in now; `cancelling` asks the node to stop."""

    job_id: str
    state: str


class ArtifactView(msgspec.Struct, frozen=True):
    """An artifact in a list."""

    name: str
    size: int
    sha256: str
    created_at: str


class FirmwareAnswer(msgspec.Struct, frozen=True):
    """To `GET /firmware`."""

    firmware: tuple[ArtifactView, ...]
    next: Optional[str]


class PartAnswer(msgspec.Struct, frozen=True):
    """To `GET /firmware?sha256=`: how much of that content unfinished uploads have left."""

    sha256: str
    bytes_done: int


class HintAnswer(msgspec.Struct, frozen=True):
    """A node's answer to a hint."""

    status: str
    job_id: str


def execution_view(execution: executions.Execution, updated_at: str) -> ExecutionView:
    """An execution's row as a status shows it; `updated_at` as ISO 8601."""
    return ExecutionView(
        execution.state,
        execution.attempt,
        execution.bytes_done,
        execution.bytes_total,
        execution.reason,
        execution.waiting_for,
        execution.output,
        updated_at,
    )
