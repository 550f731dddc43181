"""Queries: what can be asked of the store, as data, each with the type of the items that answer it.

Lists are paged by key: `after` is the `next` of the page before, opaque to whoever carries it, `limit` the most items.
A query for one thing is answered by a page of one item or none.
"""

import base64
import binascii
from typing import Any, Generic, Optional, TypeVar

import msgspec

from fleet.errors import InvalidError
from fleet.model.artifacts import Artifact
from fleet.model.audit import AuditEntry
from fleet.model.executions import Execution
from fleet.model.jobs import Job
from fleet.model.nodes import Node

from . import commands
from .changes import Change

Item = TypeVar("Item")

PAGE_DEFAULT = 100
PAGE_LIMIT = 1000


class Page(msgspec.Struct, Generic[Item], frozen=True):
    """Items in key order and the cursor of the `next` page, None at the end.

    `status` is `ok`, `invalid` (the cursor is none of ours) or `unavailable` (the store could not answer); `detail`
    then says why.
    """

    items: tuple[Item, ...] = ()
    next: Optional[str] = None
    status: str = commands.OK
    detail: str = ""


class Sample(msgspec.Struct, frozen=True):
    """The last health of a node: its report as JSON `body`, received at `at` (UTC ms)."""

    node_id: str
    at: int
    body: bytes


class SeriesRow(msgspec.Struct, frozen=True):
    """An hour of a node's series, counted since 1970, as `fleet.server.series` packs it."""

    hour: int
    body: bytes


class JobItem(msgspec.Struct, frozen=True):
    """A job and its executions counted by state; states without any are left out."""

    job: Job
    counts: dict[str, int]


class NodeJobItem(msgspec.Struct, frozen=True):
    """A job and one node's execution of it."""

    job: Job
    execution: Execution


class WaitingItem(msgspec.Struct, frozen=True):
    """An execution that waits for its node (`fleet.model.executions.waits_for_node`)."""

    node_id: str
    job_id: str
    job_state: str
    state: str


class NodeItem(msgspec.Struct, frozen=True):
    """A node and its last sample, where there is one."""

    node: Node
    sample: Optional[Sample]


class AuditItem(msgspec.Struct, frozen=True):
    """A row of the audit trail; `number` grows with each."""

    number: int
    entry: AuditEntry


class Figures(msgspec.Struct, frozen=True):
    """How much there is; `artifact_bytes` is the sum over the contents that artifacts name, each counted once."""

    nodes: int
    jobs: dict[str, int]
    artifacts: int
    artifact_bytes: int


class Query(msgspec.Struct, Generic[Item], frozen=True):
    """A question to the store that `Item`s answer."""


class JobQuery(Query[JobItem], frozen=True):
    """One job."""

    job_id: str


class AnswerQuery(Query[commands.Outcome], frozen=True):
    """What a repeat of a command is answered; none where there was none with its `request_id` yet."""

    command: commands.CreateJob


class JobsQuery(Query[JobItem], frozen=True):
    """All jobs, newest first."""

    after: Optional[str] = None
    limit: int = PAGE_DEFAULT


class ExecutionsQuery(Query[Execution], frozen=True):
    """The executions of a job by node id."""

    job_id: str
    after: Optional[str] = None
    limit: int = PAGE_DEFAULT


class NodeJobQuery(Query[NodeJobItem], frozen=True):
    """A job and one node's execution of it; none where either is not there."""

    job_id: str
    node_id: str


class WaitingQuery(Query[WaitingItem], frozen=True):
    """All executions that wait for their nodes, or for the one with `node_id`."""

    after: Optional[str] = None
    limit: int = PAGE_LIMIT
    node_id: Optional[str] = None


class NodeQuery(Query[NodeItem], frozen=True):
    """One node."""

    node_id: str


class NodesQuery(Query[NodeItem], frozen=True):
    """All nodes by id; those of a `group`, those with a `text` in their id or hostname, of these `node_ids`.

    Upper and lower case make no difference to the text.
    """

    after: Optional[str] = None
    limit: int = PAGE_DEFAULT
    group: Optional[str] = None
    text: Optional[str] = None
    node_ids: Optional[tuple[str, ...]] = None


class NodeIdsQuery(Query[str], frozen=True):
    """The ids alone of what a NodesQuery finds."""

    after: Optional[str] = None
    limit: int = PAGE_LIMIT
    group: Optional[str] = None
    text: Optional[str] = None


class ArtifactQuery(Query[Artifact], frozen=True):
    """The artifact of that `name`, or with that content, also where only a job holds it: `sha256` in hex."""

    name: Optional[str] = None
    sha256: Optional[str] = None


class ArtifactsQuery(Query[Artifact], frozen=True):
    """All artifacts by name."""

    after: Optional[str] = None
    limit: int = PAGE_DEFAULT


class ArtifactUseQuery(Query[str], frozen=True):
    """The ids of jobs, not yet at an end, that need the artifact of that name."""

    name: str


class ContentsQuery(Query[str], frozen=True):
    """The SHA-256 of every content that is still needed, by an artifact or a job; for clearing up at start."""

    after: Optional[str] = None
    limit: int = PAGE_LIMIT


class FiguresQuery(Query[Figures], frozen=True):
    """How much there is of everything."""


class SeriesQuery(Query[SeriesRow], frozen=True):
    """A node's hours from `first` up to, but not including, `last` (counted since 1970), by hour.

    `resolution` is one of `fleet.server.series.RESOLUTIONS`. Of a longer time than is kept, the last part; nothing from
    before the node was registered, and nothing at all of a node that is not.
    """

    node_id: str
    resolution: int
    first: int
    last: int


class AuditQuery(Query[AuditItem], frozen=True):
    """The audit trail, newest first.

    Of `who` either role and name or the name alone, of `what` either all (`job.install`) or its first part (`job`),
    `result` as it is; `since` is UTC ms.
    """

    after: Optional[str] = None
    limit: int = PAGE_DEFAULT
    who: Optional[str] = None
    what: Optional[str] = None
    result: Optional[str] = None
    since: Optional[int] = None


class AuditDroppedQuery(Query[tuple[str, int]], frozen=True):
    """How many rows of the audit trail are kept no more, by pool; pools that lost none are left out."""


class ChangesQuery(Query[Change], frozen=True):
    """The changes after a cursor, oldest first; `next` always leads on to what is yet to come.

    Only the newest are kept: whoever stayed away longer finds that the first cursor does not follow on and starts anew.
    """

    after: Optional[str] = None
    limit: int = PAGE_LIMIT


def encode_cursor(*key: Any) -> str:
    """An opaque cursor for the key of the last item on a page."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).rstrip(b"=").decode()


def decode_cursor(cursor: str, *kinds: type) -> tuple[Any, ...]:
    """The key in a cursor, whose parts have the types `kinds`; raises InvalidError for what is no cursor of ours."""
    try:
        key = msgspec.json.decode(base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)))
    except (msgspec.DecodeError, binascii.Error, UnicodeError, RecursionError):
        key = None
    is_ours = isinstance(key, list) and len(key) == len(kinds) and all(map(isinstance, key, kinds))
    if not is_ours or any(isinstance(part, int) and abs(part) >= 1 << 63 for part in key):
        raise InvalidError(f"{cursor[:80]!r} is no cursor; give the `next` of the page before", "after")
    return tuple(key)


def page_of(items: "list[Item]", limit: int, *keys: str) -> "Page[Item]":
    """A page of at most `limit` of `items`, of which one more was fetched; `keys` are the attributes of the cursor."""
    if len(items) <= limit:
        return Page(tuple(items))
    shown = items[:limit]
    return Page(tuple(shown), encode_cursor(*(getattr(shown[-1], key) for key in keys)))
