"""Queries over rows in SQLite, on a connection of their own that only reads."""

import sqlite3
from typing import Any, Callable, Optional, Sequence

import msgspec

from fleet.errors import InvalidError
from fleet.model import executions
from fleet.model.artifacts import Artifact
from fleet.model.executions import Execution
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
    Sample,
    SeriesQuery,
    SeriesRow,
    WaitingItem,
    WaitingQuery,
    decode_cursor,
    encode_cursor,
    page_of,
)

from .sqlite_rows import (
    ANSWER,
    ARTIFACT_COLUMNS,
    AUDIT_COLUMNS,
    CHANGE_COLUMNS,
    COUNTS,
    EXECUTION,
    EXECUTIONS,
    HOLDERS,
    JOB,
    JOB_COLUMNS,
    NODE_COLUMNS,
    audit_of,
    job_of,
    node_of,
    outcome_of,
)
from .sqlite_series import read_series

BufferedSample = Callable[[str], Optional[Sample]]
BufferedSeries = Callable[[str, int], Sequence[tuple[int, bytes]]]

_LAST_KEY = 9223372036854775807
_NODES = f"""
    SELECT {", ".join("nodes." + column for column in NODE_COLUMNS.split(", "))}, samples.at, samples.body
    FROM nodes LEFT JOIN samples ON samples.node_id = nodes.node_id
"""
_HAS_TEXT = "instr(nodes.search, :text)"
# What fleet.model.executions.waits_for_node says, for rows.
_WAITING = f"""
    SELECT executions.node_id, executions.job_id, jobs.state, executions.state
    FROM executions JOIN jobs ON jobs.job_id = executions.job_id
    WHERE executions.due_at IS NOT NULL AND (executions.job_id, executions.node_id) > (?, ?)
    AND (jobs.state = 'running' OR executions.state NOT IN ('{executions.PENDING}', '{executions.NOTIFIED}'))
"""
_AUDIT = f"""
    SELECT {AUDIT_COLUMNS} FROM audit WHERE number < :start
    AND (:who IS NULL OR who = :who OR substr(who, instr(who, ' ') + 1) = :who)
    AND (:what IS NULL OR what = :what OR substr(what, 1, length(:what) + 1) = :what || '.')
    AND (:result IS NULL OR result = :result) AND (:since IS NULL OR at >= :since)
    ORDER BY number DESC LIMIT :limit
"""
_CONTENTS = """
    SELECT sha256 FROM artifacts WHERE sha256 > :after UNION SELECT sha256 FROM holds WHERE sha256 > :after
    ORDER BY sha256 LIMIT :limit
"""


class Reader:
    """Answers queries, each from one state of the database.

    `buffered` finds the sample of a node that is not flushed yet, `buffered_series` the hours that are not.
    """

    def __init__(
        self, connection: sqlite3.Connection, buffered: BufferedSample, buffered_series: BufferedSeries
    ) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._buffered = buffered
        self._buffered_series = buffered_series
        self._answers: dict[type, Callable[[Any], Page[Any]]] = {
            AnswerQuery: self._answer,
            JobQuery: self._job,
            JobsQuery: self._jobs,
            ExecutionsQuery: self._executions,
            NodeJobQuery: self._node_job,
            WaitingQuery: self._waiting,
            NodeQuery: self._node,
            NodesQuery: self._nodes,
            NodeIdsQuery: self._node_ids,
            ArtifactQuery: self._artifact,
            ArtifactsQuery: self._artifacts,
            ArtifactUseQuery: self._artifact_use,
            ContentsQuery: self._contents,
            FiguresQuery: self._figures,
            SeriesQuery: self._series,
            AuditQuery: self._audit,
            AuditDroppedQuery: self._audit_dropped,
            ChangesQuery: self._changes,
        }

    def answer(self, query: Query[Item]) -> Page[Item]:
        """Answer a query; a database that cannot be read is an `unavailable` page."""
        try:
            self._execute("BEGIN")
            try:
                page: Page[Item] = self._answers[type(query)](query)
            finally:
                self._connection.rollback()
        except InvalidError as error:
            return Page(status=commands.INVALID, detail=str(error))
        except (sqlite3.Error, msgspec.MsgspecError) as error:
            return Page(status=commands.UNAVAILABLE, detail=f"the database cannot be read: {error}")
        return page

    def _job(self, query: JobQuery) -> Page[JobItem]:
        row = self._execute(JOB, (query.job_id,)).fetchone()
        return Page() if row is None else Page((self._job_item(row),))

    def _job_item(self, row: Any) -> JobItem:
        return JobItem(job_of(row), dict(self._execute(COUNTS, (row[0],)).fetchall()))

    def _jobs(self, query: JobsQuery) -> Page[JobItem]:
        start = (_LAST_KEY, "") if query.after is None else decode_cursor(query.after, int, str)
        rows = self._execute(
            f"SELECT {JOB_COLUMNS} FROM jobs WHERE (created_at, job_id) < (?, ?)"
            " ORDER BY created_at DESC, job_id DESC LIMIT ?",
            (*start, query.limit + 1),
        ).fetchall()
        items = tuple(self._job_item(row) for row in rows[: query.limit])
        last = items[-1].job if items else None
        has_more = last is not None and len(rows) > query.limit
        return Page(items, encode_cursor(last.created_at, last.job_id) if last is not None and has_more else None)

    def _executions(self, query: ExecutionsQuery) -> Page[Execution]:
        rows = self._execute(EXECUTIONS, (query.job_id, _after(query.after), query.limit + 1)).fetchall()
        return page_of([Execution(*row) for row in rows], query.limit, "node_id")

    def _node_job(self, query: NodeJobQuery) -> Page[NodeJobItem]:
        job_row = self._execute(JOB, (query.job_id,)).fetchone()
        row = self._execute(EXECUTION, (query.job_id, query.node_id)).fetchone()
        if job_row is None or row is None:
            return Page()
        return Page((NodeJobItem(job_of(job_row), Execution(*row)),))

    def _waiting(self, query: WaitingQuery) -> Page[WaitingItem]:
        start = ("", "") if query.after is None else decode_cursor(query.after, str, str)
        of_node = "" if query.node_id is None else "AND executions.node_id = ?"
        node = () if query.node_id is None else (query.node_id,)
        rows = self._execute(
            f"{_WAITING} {of_node} ORDER BY executions.job_id, executions.node_id LIMIT ?",
            (*start, *node, query.limit + 1),
        ).fetchall()
        return page_of([WaitingItem(*row) for row in rows], query.limit, "job_id", "node_id")

    def _node_item(self, row: Any) -> NodeItem:
        sample = self._buffered(row[0])
        if sample is None and row[6] is not None:
            sample = Sample(row[0], row[6], row[7])
        return NodeItem(node_of(row), sample)

    def _node(self, query: NodeQuery) -> Page[NodeItem]:
        row = self._execute(f"{_NODES} WHERE nodes.node_id = ?", (query.node_id,)).fetchone()
        return Page() if row is None else Page((self._node_item(row),))

    def _nodes(self, query: NodesQuery) -> Page[NodeItem]:
        after, group, text, node_ids, following = query.after, query.group, query.text, query.node_ids, None
        if node_ids is None and (group is not None or text is not None):
            # The indexes lead to ids in their order, of which few are needed.
            page = self._node_ids(NodeIdsQuery(after, query.limit, group, text))
            after, group, text, node_ids, following = None, None, None, page.items, page.next
        where = ["nodes.node_id > :after"]
        if group is not None:
            where.append("EXISTS (SELECT 1 FROM node_groups WHERE name = :group AND node_id = nodes.node_id)")
        if text is not None:
            where.append(_HAS_TEXT)
        if node_ids is not None:
            where.append("nodes.node_id IN (SELECT value FROM json_each(:node_ids))")
        values = {
            "after": _after(after),
            "limit": query.limit + 1,
            "group": group,
            "text": None if text is None else text.lower(),
            "node_ids": msgspec.json.encode(node_ids or ()).decode(),
        }
        statement = f"{_NODES} WHERE {' AND '.join(where)} ORDER BY nodes.node_id LIMIT :limit"
        rows = self._execute(statement, values).fetchall()
        items = tuple(self._node_item(row) for row in rows[: query.limit])
        if len(rows) > query.limit:
            following = encode_cursor(items[-1].node.node_id)
        return Page(items, following)

    def _node_ids(self, query: NodeIdsQuery) -> Page[str]:
        values = {
            "after": _after(query.after),
            "limit": query.limit + 1,
            "group": query.group,
            "text": None if query.text is None else query.text.lower(),
        }
        if query.group is None:
            statement = f"SELECT node_id FROM nodes INDEXED BY nodes_by_search WHERE node_id > :after AND {_HAS_TEXT}"
            if query.text is None:
                statement = "SELECT node_id FROM nodes WHERE node_id > :after"
        else:
            statement = "SELECT node_id FROM node_groups WHERE name = :group AND node_id > :after"
            if query.text is not None:
                statement = (
                    "SELECT node_groups.node_id FROM node_groups JOIN nodes ON nodes.node_id = node_groups.node_id"
                    f" WHERE name = :group AND node_groups.node_id > :after AND {_HAS_TEXT}"
                )
        found = [row[0] for row in self._execute(f"{statement} ORDER BY 1 LIMIT :limit", values)]
        shown = found[: query.limit]
        return Page(tuple(shown), encode_cursor(shown[-1]) if len(found) > query.limit else None)

    def _artifact(self, query: ArtifactQuery) -> Page[Artifact]:
        if query.name is not None:
            row = self._execute(f"SELECT {ARTIFACT_COLUMNS} FROM artifacts WHERE name = ?", (query.name,)).fetchone()
        else:
            row = self._execute(
                f"SELECT {ARTIFACT_COLUMNS} FROM artifacts WHERE sha256 = ? ORDER BY name LIMIT 1", (query.sha256,)
            ).fetchone()
            row = (
                row
                or self._execute(
                    "SELECT holds.name, holds.size, holds.sha256, jobs.created_at FROM holds"
                    " JOIN jobs ON jobs.job_id = holds.job_id WHERE holds.sha256 = ? ORDER BY holds.job_id LIMIT 1",
                    (query.sha256,),
                ).fetchone()
            )
        return Page() if row is None else Page((Artifact(*row),))

    def _artifacts(self, query: ArtifactsQuery) -> Page[Artifact]:
        rows = self._execute(
            f"SELECT {ARTIFACT_COLUMNS} FROM artifacts WHERE name > ? ORDER BY name LIMIT ?",
            (_after(query.after), query.limit + 1),
        ).fetchall()
        return page_of([Artifact(*row) for row in rows], query.limit, "name")

    def _artifact_use(self, query: ArtifactUseQuery) -> Page[str]:
        row = self._execute("SELECT sha256 FROM artifacts WHERE name = ?", (query.name,)).fetchone()
        return Page() if row is None else Page(tuple(found[0] for found in self._execute(HOLDERS, row)))

    def _contents(self, query: ContentsQuery) -> Page[str]:
        values = {"after": _after(query.after), "limit": query.limit + 1}
        found = [row[0] for row in self._execute(_CONTENTS, values)]
        shown = found[: query.limit]
        return Page(tuple(shown), encode_cursor(shown[-1]) if len(found) > query.limit else None)

    def _figures(self, _query: FiguresQuery) -> Page[Figures]:
        nodes, artifacts, size = self._execute(
            "SELECT (SELECT count(*) FROM nodes), (SELECT count(*) FROM artifacts),"
            " (SELECT coalesce(sum(size), 0) FROM (SELECT DISTINCT sha256, size FROM artifacts))"
        ).fetchone()
        states = dict(self._execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall())
        return Page((Figures(nodes, states, artifacts, size),))

    def _series(self, query: SeriesQuery) -> Page[SeriesRow]:
        # Those in memory first: what is written in between is then found at both places, and not at neither.
        buffered = self._buffered_series(query.node_id, query.resolution)
        bodies = read_series(self._connection, query.node_id, query.resolution, query.first, query.last)
        for hour, body in buffered:
            if query.first <= hour < query.last:
                bodies[hour] = body
        return Page(tuple(SeriesRow(hour, bodies[hour]) for hour in sorted(bodies)))

    def _audit(self, query: AuditQuery) -> Page[AuditItem]:
        start = _LAST_KEY if query.after is None else decode_cursor(query.after, int)[0]
        values = {"start": start, "who": query.who, "what": query.what, "result": query.result, "since": query.since}
        rows = self._execute(_AUDIT, {**values, "limit": query.limit + 1}).fetchall()
        return page_of([AuditItem(row[0], audit_of(row)) for row in rows], query.limit, "number")

    def _audit_dropped(self, _query: AuditDroppedQuery) -> Page[tuple[str, int]]:
        return Page(tuple(self._execute("SELECT pool, dropped FROM audit_pools WHERE dropped > 0 ORDER BY pool")))

    def _answer(self, query: AnswerQuery) -> Page[Outcome]:
        known = self._execute(ANSWER, (query.command.request_id,)).fetchone()
        return Page() if known is None else Page((answer_again(query.command, known[0], outcome_of(known[1])),))

    def _changes(self, query: ChangesQuery) -> Page[Change]:
        start = 0 if query.after is None else decode_cursor(query.after, int)[0]
        rows = self._execute(
            f"SELECT {CHANGE_COLUMNS} FROM changes WHERE cursor > ? ORDER BY cursor LIMIT ?", (start, query.limit)
        ).fetchall()
        return Page(tuple(Change(*row) for row in rows), encode_cursor(rows[-1][0] if rows else start))


def _after(cursor: Optional[str]) -> str:
    return "" if cursor is None else str(decode_cursor(cursor, str)[0])
