"""`fleet updates watch`: polls a job's status and prints a line whenever something has changed, until the job ends."""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime
from typing import Optional

from fleet.cli.exitcodes import DONE, REFUSED
from fleet.cli.output import counts_text, merged, print_document, printable, share
from fleet.errors import NetworkError
from fleet.model.api import ExecutionView, StatusAnswer
from fleet.model.executions import DOWNLOADING
from fleet.model.jobs import JOB_ENDS, SUCCEEDED
from fleet.operator.client import Answer, Fleet

POLL_EVERY = 0.5  # seconds
GRACE = 60.0  # seconds without an answer, since the server may be restarting


class Watch:
    """What was seen of a job, so that only what is new is told."""

    def __init__(self) -> None:
        self._job_status = ""
        self._nodes: dict[str, tuple[str, int]] = {}

    def changes(self, job: StatusAnswer, nodes: dict[str, ExecutionView], clock: str) -> list[str]:
        """Return a line for each node that is in another state, or attempt, than before, and for the job.

        `clock` is the time of day to begin them with.
        """
        lines = []
        for node_id, view in nodes.items():
            seen = (view.state, view.attempt)
            if self._nodes.get(node_id) != seen:
                self._nodes[node_id] = seen
                lines.append(f"{clock}  {_node_text(node_id, view)}")
        if job.status != self._job_status:
            self._job_status = job.status
            counts = counts_text(job.counts)
            lines.append(f"{clock}  job {printable(job.status)}{': ' + counts if counts else ''}")
        return lines


async def watch(fleet: Fleet, job_id: str, *, as_json: bool = False) -> int:
    """Follow the job to its end; the exit code says whether it succeeded.

    With `as_json` the server's answer is printed, on a line, each time that something in it has changed.
    """
    seen = Watch()
    shown = b""
    answers = await _status(fleet, job_id)
    while True:
        job = answers[0].value
        if as_json:
            document = merged([answer.payload for answer in answers], "nodes")
            if document != shown:
                shown = document
                print_document(document)
        else:
            nodes = {node_id: view for answer in answers for node_id, view in answer.value.nodes.items()}
            for line in seen.changes(job, nodes, datetime.now().strftime("%H:%M:%S")):
                print(line, flush=True)
        if job.status in JOB_ENDS:
            return DONE if job.status == SUCCEEDED else REFUSED
        await asyncio.sleep(POLL_EVERY)
        answers = await _patient_status(fleet, job_id)


async def _status(fleet: Fleet, job_id: str) -> list[Answer[StatusAnswer]]:
    return [page async for page in fleet.status(job_id)]


async def _patient_status(fleet: Fleet, job_id: str) -> list[Answer[StatusAnswer]]:
    """Return the status once the server answers; raises NetworkError if it does not within GRACE seconds."""
    loop = asyncio.get_running_loop()
    silent_since: Optional[float] = None
    while True:
        try:
            return await _status(fleet, job_id)
        except NetworkError as error:
            now = loop.time()
            if silent_since is None:
                silent_since = now
                print(f"{error}; trying again for {GRACE:.0f} s", file=sys.stderr)
            elif now > silent_since + GRACE:
                raise
        await asyncio.sleep(POLL_EVERY)


def _node_text(node_id: str, view: ExecutionView) -> str:
    parts = [printable(node_id), printable(view.state)]
    if view.attempt > 1:
        parts.append(f"attempt {view.attempt}")
    if view.state == DOWNLOADING:
        parts.append(share(view.bytes_done, view.bytes_total))
    if view.waiting_for:
        parts.append(f"waits for {printable(view.waiting_for)}")
    if view.reason:
        parts.append(printable(view.reason))
    return "  ".join(filter(None, parts))
