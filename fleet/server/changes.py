"""Changes: the feed of what commands did, in commit order; whatever happens after a commit derives from it."""

from typing import Optional

import msgspec

JOB = "job"
EXECUTION = "execution"
NODE = "node"
ARTIFACT = "artifact"

# States that are not a job's or an execution's own.
REGISTERED = "registered"
REMOVED = "removed"
DELETED = "deleted"
STORED = "stored"
RELEASED = "released"


class Change(msgspec.Struct, frozen=True):
    """One change: the `state` that a job, execution, node or artifact came to at `at` (UTC ms).

    `cursor` grows with each and is otherwise without meaning. Of a node: `registered`, `removed`. Of a job, also
    `deleted`. Of an artifact: `stored`, `deleted` (its `name`), `released` (its `sha256`: neither a name nor a job that
    is under way needs this content any more, its bytes may go).
    """

    cursor: int
    at: int
    kind: str
    state: str
    job_id: Optional[str] = None
    node_id: Optional[str] = None
    name: Optional[str] = None
    sha256: Optional[str] = None
