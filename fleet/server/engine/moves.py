"""How an execution moves: its deadline, its row and its place in the feed of changes, always together."""

from typing import Any, Optional

from msgspec.structs import replace

from fleet.model.executions import ENDS, NOT_BEGUN, Execution
from fleet.server import changes
from fleet.server.store.interface import Tx

HOUR_MS = 3_600_000
PENDING_LIMIT_MS = 7 * 24 * HOUR_MS
"""How long an execution may wait for its node to begin."""
ACTIVE_LIMIT_MS = 24 * HOUR_MS
"""How long a node that has begun may stay silent."""


def move(tx: Tx, before: Execution, state: str, at: int, **fields: Any) -> Execution:
    """Bring an execution to `state`, setting other `fields` with it, and return its new row."""
    after = replace(before, state=state, updated_at=at, due_at=_due_at(before, state, at), **fields)
    tx.move_execution(before, after)
    tx.emit(at, changes.EXECUTION, state, job_id=before.job_id, node_id=before.node_id)
    return after


def _due_at(before: Execution, state: str, at: int) -> Optional[int]:
    if state in ENDS:
        return None
    if state in NOT_BEGUN:
        return before.due_at if before.state in NOT_BEGUN else at + PENDING_LIMIT_MS
    if before.state in ENDS or before.state in NOT_BEGUN:
        return at + ACTIVE_LIMIT_MS
    # Looked at, and put off, when it comes: see deadlines.
    return before.due_at
