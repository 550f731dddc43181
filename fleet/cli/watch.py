"""`fleet updates watch` and `fleet nodes show --watch`: a line whenever something has changed, told by the server."""

from __future__ import annotations

from datetime import datetime
from typing import Optional

from fleet.cli.exitcodes import DONE, REFUSED
from fleet.cli.output import counts_text, merged, print_document, printable, share
from fleet.model.api_answers import ExecutionView, NodeHealthAnswer, StatusAnswer
from fleet.model.executions import DOWNLOADING
from fleet.model.jobs import JOB_ENDS, SUCCEEDED
from fleet.operator.client import Fleet


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
    states = fleet.watch_status(job_id)
    try:
        async for state in states:
            # A notification has the first page of the nodes.
            answers = [state] if state.value.next is None else [page async for page in fleet.status(job_id)]
            job = answers[0].value
            if as_json:
                document = merged([answer.payload for answer in answers], "nodes")
                if document != shown:
                    shown = document
                    print_document(document)
            else:
                nodes = {node_id: view for answer in answers for node_id, view in answer.value.nodes.items()}
                for line in seen.changes(job, nodes, _clock()):
                    print(line, flush=True)
            if job.status in JOB_ENDS:
                return DONE if job.status == SUCCEEDED else REFUSED
    finally:
        await states.aclose()
    return REFUSED


async def watch_node(fleet: Fleet, node_id: str, *, as_json: bool = False) -> int:
    """Print each of a node's health reports as it comes, until interrupted."""
    received: Optional[str] = None
    states = fleet.watch_health(node_id)
    try:
        async for state in states:
            news = state.value
            if news.received_at == received and received is not None:
                continue
            received = news.received_at
            if as_json:
                print_document(state.payload)
            else:
                print(f"{_clock()}  {_health_text(news)}", flush=True)
    finally:
        await states.aclose()
    return DONE


def _clock() -> str:
    return datetime.now().strftime("%H:%M:%S")


def _health_text(news: NodeHealthAnswer) -> str:
    report = news.health if isinstance(news.health, dict) else {}
    parts = [printable(news.node_id), printable(news.status)]
    for name, label, unit in (
        ("cpu_percent", "CPU", "%"), ("memory_percent", "memory", "%"), ("disk_percent", "disk", "%"),
        ("temperature", "temperature", "°C"),
    ):  # fmt: skip
        if isinstance(report.get(name), (int, float)):
            parts.append(f"{label} {report[name]:.0f} {unit}")
    messages = report.get("error_messages")
    if isinstance(messages, list):
        parts.extend(printable(str(message)) for message in messages)
    return "  ".join(parts)


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
