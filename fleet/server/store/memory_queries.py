"""Queries over rows in memory."""

import heapq
from typing import Any, Callable, Iterable, Optional, Union

from fleet.errors import InvalidError
from fleet.model.artifacts import Artifact
from fleet.model.audit import AuditEntry
from fleet.model.executions import Execution, waits_for_node
from fleet.model.jobs import Job
from fleet.model.nodes import Node
from fleet.server import commands
from fleet.server.changes import Change
from fleet.server.commands import Outcome
from fleet.server.engine import answer_again
from fleet.server.queries import (
    AnswerQuery,
    ArtifactQuery,
    ArtifactsQuery,
    ArtifactUseQuery,
    AuditDroppedQuery,
    AuditItem,
    AuditQuery,
    ChangesQuery,
    ContentsQuery,
    ExecutionsQuery,
    Figures,
    FiguresQuery,
    Item,
    JobItem,
    JobQuery,
    JobsQuery,
    NodeIdsQuery,
    NodeItem,
    NodeJobItem,
    NodeJobQuery,
    NodeQuery,
    NodesQuery,
    Page,
    Query,
    SeriesQuery,
    SeriesRow,
    WaitingItem,
    WaitingQuery,
    decode_cursor,
    encode_cursor,
    page_of,
)
from fleet.server.series import HOUR_MS, KEPT_HOURS

from .memory_rows import Tables


def answer(tables: Tables, query: Query[Item]) -> Page[Item]:
    """Answer a query from the rows."""
    try:
        page: Page[Item] = _ANSWERS[type(query)](tables, query)
    except InvalidError as error:
        return Page(status=commands.INVALID, detail=str(error))
    return page


def _after(cursor: Optional[str]) -> str:
    return "" if cursor is None else str(decode_cursor(cursor, str)[0])


def _next_keys(keys: Iterable[str], after: Optional[str], limit: int) -> list[str]:
    start = _after(after)
    return heapq.nsmallest(limit + 1, (key for key in keys if key > start))


def _job_item(tables: Tables, job: Job) -> JobItem:
    return JobItem(job, dict(tables.counts[job.job_id]))


def _job(tables: Tables, query: JobQuery) -> Page[JobItem]:
    job = tables.jobs.get(query.job_id)
    return Page() if job is None else Page((_job_item(tables, job),))


def _answer(tables: Tables, query: AnswerQuery) -> Page[Outcome]:
    known = tables.answers.get(query.command.request_id or "")
    return Page() if known is None else Page((answer_again(query.command, *known[1:]),))


def _jobs(tables: Tables, query: JobsQuery) -> Page[JobItem]:
    keys = [(job.created_at, job.job_id) for job in tables.jobs.values()]
    if query.after is not None:
        start = decode_cursor(query.after, int, str)
        keys = [key for key in keys if key < start]
    newest = heapq.nlargest(query.limit + 1, keys)
    items = tuple(_job_item(tables, tables.jobs[job_id]) for _at, job_id in newest[: query.limit])
    return Page(items, encode_cursor(*newest[query.limit - 1]) if len(newest) > query.limit else None)


def _executions(tables: Tables, query: ExecutionsQuery) -> Page[Execution]:
    rows = tables.executions.get(query.job_id, {})
    return page_of([rows[key] for key in _next_keys(rows, query.after, query.limit)], query.limit, "node_id")


def _node_job(tables: Tables, query: NodeJobQuery) -> Page[NodeJobItem]:
    job = tables.jobs.get(query.job_id)
    execution = tables.executions.get(query.job_id, {}).get(query.node_id)
    return Page() if job is None or execution is None else Page((NodeJobItem(job, execution),))


def _number(row: tuple[int, AuditEntry]) -> int:
    return row[0]


def _audit(tables: Tables, query: AuditQuery) -> Page[AuditItem]:
    start = None if query.after is None else decode_cursor(query.after, int)[0]
    found = []
    for number, entry in sorted(
        (row for pool in tables.audit.values() for row in pool.items()), key=_number, reverse=True
    ):
        if (
            (start is None or number < start)
            and (query.who is None or query.who in (entry.origin.who, entry.origin.who.split(" ", 1)[-1]))
            and (query.what is None or entry.what == query.what or entry.what.startswith(query.what + "."))
            and (query.result is None or entry.result == query.result)
            and (query.since is None or entry.at >= query.since)
        ):
            found.append(AuditItem(number, entry))
            if len(found) > query.limit:
                break
    return page_of(found, query.limit, "number")


def _audit_dropped(tables: Tables, _query: AuditDroppedQuery) -> Page[tuple[str, int]]:
    return Page(tuple(sorted(tables.audit_dropped.items())))


def _waiting(tables: Tables, query: WaitingQuery) -> Page[WaitingItem]:
    start = ("", "") if query.after is None else decode_cursor(query.after, str, str)
    found = []
    for job_id in sorted(tables.jobs):
        job_state = tables.jobs[job_id].state
        rows = tables.executions[job_id]
        node_ids = sorted(rows) if query.node_id is None else [query.node_id] if query.node_id in rows else []
        for node_id in node_ids:
            state = rows[node_id].state
            if (job_id, node_id) > start and waits_for_node(job_state, state):
                found.append(WaitingItem(node_id, job_id, job_state, state))
    return page_of(found, query.limit, "job_id", "node_id")


def _node_item(tables: Tables, node: Node) -> NodeItem:
    return NodeItem(node, tables.samples.get(node.node_id))


def _node(tables: Tables, query: NodeQuery) -> Page[NodeItem]:
    node = tables.nodes.get(query.node_id)
    return Page() if node is None else Page((_node_item(tables, node),))


def _nodes(tables: Tables, query: NodesQuery) -> Page[NodeItem]:
    page = _node_ids(tables, query)
    return Page(tuple(_node_item(tables, tables.nodes[node_id]) for node_id in page.items), page.next)


def _node_ids(tables: Tables, query: Union[NodesQuery, NodeIdsQuery]) -> Page[str]:
    wanted = query.node_ids if isinstance(query, NodesQuery) else None
    text = None if query.text is None else query.text.lower()
    found = (
        node_id
        for node_id in (tables.nodes if wanted is None else dict.fromkeys(wanted))
        if (node := tables.nodes.get(node_id)) is not None
        and (query.group is None or query.group in node.registration.groups)
        and (text is None or text in node.search)
    )
    node_ids = _next_keys(found, query.after, query.limit)
    shown = node_ids[: query.limit]
    return Page(tuple(shown), encode_cursor(shown[-1]) if len(node_ids) > query.limit else None)


def _artifact(tables: Tables, query: ArtifactQuery) -> Page[Artifact]:
    if query.name is not None:
        named = tables.artifacts.get(query.name)
        return Page() if named is None else Page((named,))
    for name in sorted(tables.artifacts):
        if tables.artifacts[name].sha256 == query.sha256:
            return Page((tables.artifacts[name],))
    for job_id in sorted(tables.holds):
        for reference in tables.holds[job_id]:
            if reference.sha256 == query.sha256:
                created_at = tables.jobs[job_id].created_at
                return Page((Artifact(reference.name, reference.size, reference.sha256, created_at),))
    return Page()


def _artifacts(tables: Tables, query: ArtifactsQuery) -> Page[Artifact]:
    names = _next_keys(tables.artifacts, query.after, query.limit)
    return page_of([tables.artifacts[name] for name in names], query.limit, "name")


def _artifact_use(tables: Tables, query: ArtifactUseQuery) -> Page[str]:
    artifact = tables.artifacts.get(query.name)
    return Page() if artifact is None else Page(tuple(tables.holders(artifact.sha256)))


def _contents(tables: Tables, query: ContentsQuery) -> Page[str]:
    needed = {artifact.sha256: None for artifact in tables.artifacts.values()}
    for references in tables.holds.values():
        needed.update((reference.sha256, None) for reference in references)
    found = _next_keys(needed, query.after, query.limit)
    shown = found[: query.limit]
    return Page(tuple(shown), encode_cursor(shown[-1]) if len(found) > query.limit else None)


def _figures(tables: Tables, _query: FiguresQuery) -> Page[Figures]:
    states: dict[str, int] = {}
    for job in tables.jobs.values():
        states[job.state] = states.get(job.state, 0) + 1
    sizes = {artifact.sha256: artifact.size for artifact in tables.artifacts.values()}
    return Page((Figures(len(tables.nodes), states, len(tables.artifacts), sum(sizes.values())),))


def _series(tables: Tables, query: SeriesQuery) -> Page[SeriesRow]:
    node = tables.nodes.get(query.node_id)
    if node is None:
        return Page()
    hours = tables.series[query.resolution]
    first = max(query.first, query.last - KEPT_HOURS[query.resolution], node.created_at // HOUR_MS)
    found = [(hour, hours.get(hour, {}).get(query.node_id)) for hour in range(first, query.last)]
    return Page(tuple(SeriesRow(hour, body) for hour, body in found if body is not None))


def _changes(tables: Tables, query: ChangesQuery) -> Page[Change]:
    start = 0 if query.after is None else decode_cursor(query.after, int)[0]
    found = [change for change in tables.changes if change.cursor > start][: query.limit]
    return Page(tuple(found), encode_cursor(found[-1].cursor if found else start))


_ANSWERS: dict[type, Callable[[Tables, Any], Page[Any]]] = {
    AnswerQuery: _answer,
    JobQuery: _job,
    JobsQuery: _jobs,
    ExecutionsQuery: _executions,
    NodeJobQuery: _node_job,
    WaitingQuery: _waiting,
    NodeQuery: _node,
    NodesQuery: _nodes,
    NodeIdsQuery: _node_ids,
    ArtifactQuery: _artifact,
    ArtifactsQuery: _artifacts,
    ArtifactUseQuery: _artifact_use,
    ContentsQuery: _contents,
    FiguresQuery: _figures,
    SeriesQuery: _series,
    AuditQuery: _audit,
    AuditDroppedQuery: _audit_dropped,
    ChangesQuery: _changes,
}
