"""Executions: one node's run of a job, its states and the moves between them, for server and agent alike.

MOVES has the steps as they happen. Reports get lost, so the server learns of some steps only by what follows them: a
report may name any state that some way through MOVES leads to, and `can_move` answers for that; only past `cancelling`
there is no unseen way. Nothing leads out of an end; a retry is a new attempt and starts at `pending`.
"""

from typing import Optional

import msgspec

PENDING = "pending"
NOTIFIED = "notified"
WAITING = "waiting"
DOWNLOADING = "downloading"
DOWNLOADED = "downloaded"
VERIFYING = "verifying"
INSTALLING = "installing"
REBOOTING = "rebooting"
TESTING = "testing"
COMMITTING = "committing"
SUCCEEDED = "succeeded"
ROLLING_BACK = "rolling_back"
ROLLED_BACK = "rolled_back"
ROLLBACK_FAILED = "rollback_failed"
CANCELLING = "cancelling"
CANCELLED = "cancelled"
FAILED = "failed"
REJECTED = "rejected"
ALREADY_INSTALLED = "already_installed"
TIMED_OUT = "timed_out"

STATES = (
    PENDING, NOTIFIED, WAITING, DOWNLOADING, DOWNLOADED, VERIFYING, INSTALLING, REBOOTING, TESTING, COMMITTING,
    SUCCEEDED, ROLLING_BACK, ROLLED_BACK, ROLLBACK_FAILED, CANCELLING, CANCELLED, FAILED, REJECTED, ALREADY_INSTALLED,
    TIMED_OUT,
)  # fmt: skip

# A node may begin with any of these: without push it was never notified, and it need not wait or download.
_BEGIN = (WAITING, DOWNLOADING, DOWNLOADED, VERIFYING, INSTALLING, REJECTED, ALREADY_INSTALLED, FAILED)
_BROKEN_OFF = (FAILED, CANCELLING, TIMED_OUT)

MOVES: dict[str, tuple[str, ...]] = {
    PENDING: (NOTIFIED, *_BEGIN, CANCELLED, TIMED_OUT),
    NOTIFIED: (*_BEGIN, CANCELLED, TIMED_OUT),
    # Until it installs, a node may have to wait, or to download once more, at any time.
    WAITING: (DOWNLOADING, DOWNLOADED, VERIFYING, INSTALLING, REJECTED, ALREADY_INSTALLED, *_BROKEN_OFF),
    DOWNLOADING: (WAITING, DOWNLOADED, REJECTED, *_BROKEN_OFF),
    DOWNLOADED: (WAITING, DOWNLOADING, VERIFYING, REJECTED, *_BROKEN_OFF),
    VERIFYING: (WAITING, DOWNLOADING, INSTALLING, REJECTED, ALREADY_INSTALLED, *_BROKEN_OFF),
    INSTALLING: (REBOOTING, TESTING, ROLLING_BACK, *_BROKEN_OFF),
    REBOOTING: (TESTING, ROLLING_BACK, *_BROKEN_OFF),
    TESTING: (COMMITTING, ROLLING_BACK, *_BROKEN_OFF),
    COMMITTING: (SUCCEEDED, ROLLING_BACK, *_BROKEN_OFF),
    ROLLING_BACK: (ROLLED_BACK, ROLLBACK_FAILED, CANCELLING, TIMED_OUT),
    # The node may have been too far to stop: it then ends as it would have.
    CANCELLING: (
        CANCELLED, ROLLING_BACK, ROLLED_BACK, ROLLBACK_FAILED, SUCCEEDED, FAILED, REJECTED, ALREADY_INSTALLED,
        TIMED_OUT,
    ),
    SUCCEEDED: (),
    ROLLED_BACK: (),
    ROLLBACK_FAILED: (),
    CANCELLED: (),
    FAILED: (),
    REJECTED: (),
    ALREADY_INSTALLED: (),
    TIMED_OUT: (),
}  # fmt: skip

ENDS = frozenset(state for state, following in MOVES.items() if not following)
SUCCESSES = frozenset({SUCCEEDED, ALREADY_INSTALLED})
RETRYABLE = frozenset({FAILED, TIMED_OUT, ROLLED_BACK, REJECTED, CANCELLED})
# The node has not begun: these can be cancelled without asking it.
NOT_BEGUN = frozenset({PENDING, NOTIFIED})
# What a node may say of itself; the others are the server's to decide.
NODE_STATES = frozenset(STATES) - {PENDING, NOTIFIED, TIMED_OUT}


def _reachable(start: str) -> frozenset[str]:
    found: list[str] = []
    open_states = list(MOVES[start])
    while open_states:
        state = open_states.pop()
        if state not in found:
            found.append(state)
            # That an execution is to be cancelled is the server's decision and never missed: no way leads on unseen.
            if state != CANCELLING:
                open_states.extend(MOVES[state])
    return frozenset(found)


_REACHABLE: dict[str, frozenset[str]] = {state: _reachable(state) for state in STATES}


def can_move(before: str, after: str) -> bool:
    """Whether an execution in state `before` may be found in state `after`, steps between them unseen."""
    return after in _REACHABLE[before]


def legal_reports(state: str) -> tuple[str, ...]:
    """The states that a node may report of an execution in `state`, in table order."""
    return tuple(after for after in STATES if after in _REACHABLE[state] and after in NODE_STATES)


def is_end(state: str) -> bool:
    """Whether nothing more happens in this attempt."""
    return state in ENDS


def is_success(state: str) -> bool:
    """Whether the node now has what the job wanted."""
    return state in SUCCESSES


def waits_for_node(job_state: str, state: str) -> bool:
    """Whether the node has to act on this execution: what it is told of, and given when it fetches its job.

    A paused job, and one that is not prepared or is being cancelled, hands out nothing new; what has begun goes on.
    """
    return state not in ENDS and (job_state == "running" or state not in NOT_BEGUN)


class Execution(msgspec.Struct, frozen=True):
    """An execution's row. `sequence` is the last report seen in this attempt; times are UTC ms, sizes bytes.

    `due_at` is set exactly while the execution is not at an end.
    """

    job_id: str
    node_id: str
    state: str
    attempt: int
    sequence: int
    created_at: int
    updated_at: int
    due_at: Optional[int]
    bytes_done: int = 0
    bytes_total: Optional[int] = None
    reason: Optional[str] = None
    waiting_for: Optional[str] = None
    output: Optional[str] = None
