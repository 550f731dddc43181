"""The series in SQLite: an hour of all nodes written at once, one node's hours read.

A table is a ring of as many hours as are kept: the row of a node takes the place of the one that is too old, on the
same page. Rows that come at the end and go at the beginning would be written twice, since a page that is emptied is
written too. What is left over in an hour's place, of nodes that did not report any more, is removed behind it.
"""

import sqlite3
from itertools import islice

from fleet.server.series import FIVE_MINUTES, HOUR, HOUR_MS, KEPT_HOURS, RESOLUTIONS, HourBlock, merge

CHUNK = 5000
"""Rows made at a time, and rows removed in one transaction, so that commands need not wait long."""

_TABLES = {FIVE_MINUTES: "five_minute_series", HOUR: "hourly_series"}
_NODE = "SELECT created_at FROM nodes WHERE node_id = ?"
_EXISTS = {
    resolution: f"SELECT EXISTS (SELECT 1 FROM {table} WHERE place = ? AND hour = ?)"
    for resolution, table in _TABLES.items()
}
_PUT = {
    resolution: f"INSERT OR REPLACE INTO {table} (place, node_id, hour, body) VALUES (?, ?, ?, ?)"
    for resolution, table in _TABLES.items()
}
_BODY = {
    resolution: f"SELECT body FROM {table} WHERE place = ? AND node_id = ? AND hour = ?"
    for resolution, table in _TABLES.items()
}
# Looked up hour by hour: the rows of one node stand far apart.
_BODIES = {
    resolution: (
        "WITH RECURSIVE hours (number) AS (VALUES (?) UNION ALL SELECT number + 1 FROM hours WHERE number + 1 < ?)"
        f" SELECT number, body FROM hours CROSS JOIN {table}"
        f" ON place = number % {KEPT_HOURS[resolution]} AND node_id = ? AND hour = number"
    )
    for resolution, table in _TABLES.items()
}
_REMOVE = {
    resolution: (
        f"DELETE FROM {table} WHERE (place, node_id) IN"
        f" (SELECT place, node_id FROM {table} WHERE place = ? AND hour <> ? LIMIT {CHUNK})"
    )
    for resolution, table in _TABLES.items()
}


def put_series(connection: sqlite3.Connection, block: HourBlock) -> None:
    """Write an hour of all nodes, joined with what is there of it."""
    hour = block.number
    places = {resolution: hour % KEPT_HOURS[resolution] for resolution in RESOLUTIONS}
    is_there = {
        resolution: connection.execute(_EXISTS[resolution], (place, hour)).fetchone()[0]
        for resolution, place in places.items()
    }
    rows = block.rows()
    while True:
        some = list(islice(rows, CHUNK))
        if not some:
            return
        for resolution, place in places.items():
            written = [(place, node_id, hour, row.body(resolution)) for node_id, row in some]
            if is_there[resolution]:
                written = [_joined(connection, resolution, *row) for row in written]
            connection.executemany(_PUT[resolution], written)


def _joined(
    connection: sqlite3.Connection, resolution: int, place: int, node_id: str, hour: int, body: bytes
) -> tuple[int, str, int, bytes]:
    known = connection.execute(_BODY[resolution], (place, node_id, hour)).fetchone()
    return place, node_id, hour, body if known is None else merge(resolution, known[0], body)


def remove_left_over(connection: sqlite3.Connection, hour: int) -> bool:
    """Remove a chunk of what is left in the place of `hour`, which is written; returns whether there may be more."""
    removed = [
        connection.execute(_REMOVE[resolution], (hour % KEPT_HOURS[resolution], hour)).rowcount
        for resolution in RESOLUTIONS
    ]
    return max(removed) == CHUNK


def read_series(
    connection: sqlite3.Connection, node_id: str, resolution: int, first: int, last: int
) -> dict[int, bytes]:
    """A node's bodies by hour, from `first` up to `last`, as `SeriesQuery` has it."""
    node = connection.execute(_NODE, (node_id,)).fetchone()
    if node is None:
        return {}
    first = max(first, last - KEPT_HOURS[resolution], node[0] // HOUR_MS)
    if first >= last:
        return {}
    return dict(connection.execute(_BODIES[resolution], (first, last, node_id)).fetchall())
