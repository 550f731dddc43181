"""The table of steps: what a node does for a job, state by state, and what it means if the node dies while doing it.

`fleet.agent.machine` runs this table and knows nothing else about updates; whoever wants to know how an update goes,
or what a crash at some point does, reads it here. A state is entered (written down, fsynced, reported), then its
effect is performed, then the row says where to go:

    waiting -> downloading -> downloaded -> verifying -> installing -> testing -> committing -> succeeded
       |            |             |             |            |            |           |
       v            +------> failed <-----------+            +-----> rolling_back <---+
    rejected or already_installed                              rolled_back or rollback_failed

A cancelled job leaves that way for cancelling -> cancelled, at the moment that the row's `on_cancel` says.

**Crashes.** A node that starts again finds itself in the state it entered last, with no idea how far the effect came.
`on_crash` says what that means. REDO: the effect can simply be performed once more (it is idempotent, or goes on
where it stood). ASK: it must not be performed blindly, the installer is asked which condition the device is in;
`ON_CONDITION` says what the answer means. Going on or starting over costs one of the row's `attempts`, which is
counted on the disk before anything is done: a device that is killed by its own update runs out of attempts and takes
`on_failure`, instead of dying for ever.

A row that leads nowhere is an end. Its effect only tidies up, after which the end is reported until the server has it.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

from fleet.install.interface import NEW, OLD, PARTIAL
from fleet.model.executions import (
    ALREADY_INSTALLED,
    CANCELLED,
    CANCELLING,
    COMMITTING,
    DOWNLOADED,
    DOWNLOADING,
    FAILED,
    INSTALLING,
    REJECTED,
    ROLLBACK_FAILED,
    ROLLED_BACK,
    ROLLING_BACK,
    SUCCEEDED,
    TESTING,
    VERIFYING,
    WAITING,
)

# Effects. All but DOWNLOAD are verbs of the installer's child process, under the same names.
REQUIREMENTS = "requirements"  # can this be done here, is there space for it, or is it done already?
DOWNLOAD = "download"  # fetch the artifacts and fsync them; goes on where it stood
VERIFY_HASHES = "verify_hashes"  # are they the bytes that the job names?
INSTALL = "install"
VERIFY = "verify"  # is the device now what the job asks for?
COMMIT = "commit"  # give up the way back; where it fails, the way back is still there
ROLL_BACK = "roll_back"  # make the device what it was; does nothing where nothing was done
CLEAN_UP = "clean_up"  # remove what the job left on the disk
INSPECT = "inspect"  # after a crash: in which condition is the device, OLD, NEW or PARTIAL?

# What a crash inside an effect means.
REDO = "redo"  # perform it again
DONE = "done"  # it came to its end: on_success
UNDO = "undo"  # roll back what there is of it, then perform it again
ASK = "ask"  # perform INSPECT, and look up its answer here:
ON_CONDITION = {OLD: REDO, NEW: DONE, PARTIAL: UNDO}

# When a row gives way to a cancellation.
AT_ONCE = "at_once"  # its effect can be stopped anywhere
AFTERWARDS = "afterwards"  # its effect must not be stopped half-way, but what it did can be undone
TOO_LATE = "too_late"  # the job ends as if nobody had asked


class Row(NamedTuple):
    """One state of the table.

    `on_success` and `on_failure` name the next state, None in an end; `on_already` the one if there is nothing to do.
    `attempts` is how often the state may be entered, over all lives of the node.
    """

    state: str
    effect: str
    on_success: Optional[str]
    on_failure: Optional[str]
    on_crash: str
    attempts: int
    on_cancel: str
    on_already: Optional[str] = None


# Attempts: what costs only bytes may be interrupted often (a device that is switched off every night), what changes
# the device rarely; giving up on a way back or on a commit is the worst outcome, so these are tried longer.
TABLE = (
    Row(WAITING, REQUIREMENTS, DOWNLOADING, REJECTED, REDO, 20, AT_ONCE, on_already=ALREADY_INSTALLED),
    Row(DOWNLOADING, DOWNLOAD, DOWNLOADED, FAILED, REDO, 50, AT_ONCE),
    # Asked again: the disk may have filled up while the bytes came.
    Row(DOWNLOADED, REQUIREMENTS, VERIFYING, FAILED, REDO, 20, AT_ONCE),
    Row(VERIFYING, VERIFY_HASHES, INSTALLING, FAILED, REDO, 20, AT_ONCE),
    Row(INSTALLING, INSTALL, TESTING, ROLLING_BACK, ASK, 3, AFTERWARDS),
    Row(TESTING, VERIFY, COMMITTING, ROLLING_BACK, REDO, 3, AFTERWARDS),
    Row(COMMITTING, COMMIT, SUCCEEDED, ROLLING_BACK, REDO, 10, TOO_LATE),
    Row(ROLLING_BACK, ROLL_BACK, ROLLED_BACK, ROLLBACK_FAILED, REDO, 10, TOO_LATE),
    Row(CANCELLING, ROLL_BACK, CANCELLED, ROLLBACK_FAILED, REDO, 10, TOO_LATE),
    *(
        Row(end, CLEAN_UP, None, None, REDO, 3, TOO_LATE)
        for end in (SUCCEEDED, ALREADY_INSTALLED, REJECTED, FAILED, ROLLED_BACK, ROLLBACK_FAILED, CANCELLED)
    ),
)

FIRST = WAITING
ROWS = {row.state: row for row in TABLE}


def is_end(state: str) -> bool:
    """Whether a job in this state is over."""
    return ROWS[state].on_success is None
