"""Who is there: for each registered node when it was last heard, from where, and what it said of its health.

What it measures goes into the series, whose row for the node is the node's row here too.

All of it is a sample: in memory, handed over to the ledger at intervals. The server's clock decides who is online.

There may be a hundred thousand nodes, so that nothing here is an object of its own but the last report: columns are
arrays with a row for each node, and a `Presence` is made when somebody looks at one. An IPv4 address is six bytes of
them; any other path, which is an object of many hundred, is kept as it is.
"""

from __future__ import annotations

import socket
from array import array
from collections.abc import Iterable, Iterator
from heapq import nsmallest
from itertools import compress
from operator import and_, gt
from typing import Optional

import msgspec

from fleet.server.queries import Sample
from fleet.server.samples import SampleBlock, is_packed, pack, unpack
from fleet.server.series import Series
from minicoap.core.request import Path

ONLINE = "online"
OFFLINE = "offline"
UNHEALTHY = "unhealthy"
STATUSES = (ONLINE, OFFLINE, UNHEALTHY)

REPORTS_LIMIT = 256 * 1024 * 1024  # bytes of the reports of all nodes that are kept in memory
SMALL_REPORT = 2048  # bytes, which a report may have even then
# Packing costs as much as taking a report does. So it is done a little later, some at a time, and only where many are
# not packed: a busy server is not held up, and one whose nodes report each minute has packed all but the last few
# seconds' reports.
UNPACKED = 2048  # reports that may stay as they came
PACK_INTERVAL = 0.5  # seconds from one packing to the next
PACKED_AT_ONCE = 1024
_LOOKED_AT = 4 * PACKED_AT_ONCE
INTERVALS_TO_OFFLINE = 3  # reports that may be missing before a node counts as offline

_NO_REPORT = b""
_NEVER = -(1 << 62)  # when a row without a node was seen, so that it is offline at any time
_FEW = 100  # of many, that it takes less time to find than to sort all


class Presence:
    """What is known of one node, whose row is `row`; good until the node is removed."""

    __slots__ = ("_presences", "row")

    def __init__(self, presences: Presences, row: int) -> None:
        self._presences = presences
        self.row = row

    @property
    def seen_at(self) -> int:
        """When it was last heard, in UTC ms; 0 for not since the server's data began."""
        return self._presences.seen_at[self.row]

    @seen_at.setter
    def seen_at(self, at: int) -> None:
        self._presences.seen_at[self.row] = at

    @property
    def healthy(self) -> bool:
        """Whether it said that all is well."""
        return self._presences.healthy[self.row] != 0

    @healthy.setter
    def healthy(self, healthy: bool) -> None:
        self._presences.healthy[self.row] = healthy

    @property
    def body(self) -> bytes:
        """Its last report, JSON; empty if there is none."""
        return unpack(self._presences.bodies[self.row])

    @property
    def has_reported(self) -> bool:
        """Whether there is a report."""
        return bool(self._presences.bodies[self.row])

    @property
    def path(self) -> Optional[Path]:
        """Where it is; None if it has yet to show that."""
        return self._presences.paths.get(self.row)

    @path.setter
    def path(self, path: Path) -> None:
        self._presences.paths.put(self.row, path)

    def is_at(self, path: Path) -> bool:
        """Whether `path` is where it is."""
        return self._presences.paths.holds(self.row, path)


class _Healthy(msgspec.Struct):
    overall_healthy: bool = True


class Presences:
    """All registered nodes, each with its row of `series`; `health_interval` in seconds.

    The columns `seen_at`, `healthy`, `bodies` and `paths` are for a `Presence` to look at.
    """

    def __init__(self, health_interval: float, series: Series) -> None:
        self._series = series
        self._patience = int(health_interval * 1000 * INTERVALS_TO_OFFLINE)
        self._rows: dict[str, int] = {}
        self.seen_at = array("q")
        self.healthy = bytearray()
        self.bodies: list[bytes] = []
        self.paths = _Paths()
        self._unsaved = bytearray()  # 1 where the report is another than the ledger has
        self._held = 0  # bytes of all reports
        self._unpacked = 0  # reports
        self._hand = 0  # the row that packing goes on at
        self._healthy = msgspec.json.Decoder(_Healthy)

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, node_id: str) -> Optional[Presence]:
        """Return what is known of a node; None if it is not registered."""
        row = self._rows.get(node_id)
        return None if row is None else Presence(self, row)

    def add(self, node_id: str) -> Presence:
        """A node is registered."""
        row = self._rows.get(node_id)
        if row is None:
            row = self._rows[node_id] = self._series.add(node_id)
            if row == len(self.bodies):
                self.seen_at.append(0)
                self.healthy.append(1)
                self.bodies.append(_NO_REPORT)
                self._unsaved.append(0)
                self.paths.add_row()
            self.seen_at[row] = 0
        return Presence(self, row)

    def remove(self, node_id: str) -> None:
        """A node is not registered any more."""
        row = self._rows.pop(node_id, None)
        if row is not None:
            body = self.bodies[row]
            self._held -= len(body)
            self._unpacked -= not is_packed(body)
            self._series.remove(row)
            self.seen_at[row] = _NEVER
            self._unsaved[row] = 0
            self.healthy[row] = 1
            self.bodies[row] = _NO_REPORT
            self.paths.clear(row)

    def has_room(self, presence: Presence, body: bytes) -> bool:
        """Whether a node's report can be kept in the place of its last one."""
        before = len(self.bodies[presence.row])
        grown = self._held + len(body) - before
        return grown <= REPORTS_LIMIT or len(body) <= max(SMALL_REPORT, before)

    def keep(self, presence: Presence, body: bytes, healthy: bool) -> bool:
        """Keep a node's report in the place of its last one; returns whether its state is another, or it is the first.

        Whether there is room is for `has_room` to say.
        """
        row = presence.row
        before = self.bodies[row]
        has_changed = self.healthy[row] != healthy or not before
        self._held += len(body) - len(before)
        self._unpacked += is_packed(before)
        self.bodies[row] = body
        self.healthy[row] = healthy
        self._unsaved[row] = 1
        return has_changed

    @property
    def is_loose(self) -> bool:
        """Whether there is enough to pack."""
        return self._unpacked > UNPACKED

    def pack(self) -> None:
        """Pack some of the reports."""
        bodies, row, left = self.bodies, self._hand, PACKED_AT_ONCE
        for _ in range(min(_LOOKED_AT, len(bodies))):
            row = row + 1 if row + 1 < len(bodies) else 0
            body = bodies[row]
            if not is_packed(body):
                bodies[row] = packed = pack(body)
                self._held += len(packed) - len(body)
                self._unpacked -= 1
                left -= 1
                if not left:
                    break
        self._hand = row

    def sample(self, node_id: str, presence: Presence) -> Sample:
        """Return what is to be saved of a node at once."""
        self._unsaved[presence.row] = 0
        return Sample(node_id, presence.seen_at, pack(self.bodies[presence.row]))

    def unsaved(self) -> Optional[SampleBlock]:
        """Return what is to be saved of all nodes; None if that is nothing."""
        flags = self._unsaved
        rows = array("I", [row for row, flag in enumerate(flags) if flag])
        if not rows:
            return None
        self._unsaved = bytearray(len(flags))
        return SampleBlock(self._series.node_ids(), rows, self.seen_at[:], self.bodies[:])

    def restore(self, node_id: str, seen_at: int, packed: bytes) -> None:
        """Take up what was saved before a restart."""
        presence = self.add(node_id)
        body = unpack(packed)
        self.keep(presence, body, self._healthy.decode(body).overall_healthy)
        self.bodies[presence.row] = packed = pack(packed)
        self._held += len(packed) - len(body)
        self._unpacked -= 1
        presence.seen_at = seen_at
        self._unsaved[presence.row] = 0

    def status(self, presence: Presence, now: int) -> str:
        """Return a node's status at `now` (UTC ms)."""
        if now - presence.seen_at > self._patience:
            return OFFLINE
        return ONLINE if presence.healthy else UNHEALTHY

    def counts(self, now: int) -> dict[str, int]:
        """Return how many nodes have each status."""
        offline = sum(self._with(OFFLINE, now)) - (len(self.seen_at) - len(self._rows))  # which rows without a node are
        unhealthy = sum(self._with(UNHEALTHY, now))
        return {ONLINE: len(self._rows) - offline - unhealthy, OFFLINE: offline, UNHEALTHY: unhealthy}

    def with_status(self, status: str, after: str, limit: int, now: int) -> list[str]:
        """Return the ids of the first `limit` nodes behind `after` that have a status at `now` (UTC ms), in order."""
        found = compress(self._series.node_ids(), self._with(status, now))
        # Rows without a node have an id that is less than any.
        behind = [node_id for node_id in found if node_id > after]
        return nsmallest(limit, behind) if limit <= _FEW else sorted(behind)[:limit]

    def having(self, status: str, node_ids: Iterable[str], now: int) -> list[str]:
        """Return those of `node_ids` that have a status at `now` (UTC ms)."""
        has_it = bytes(self._with(status, now))
        row_of = self._rows.get
        return [node_id for node_id in node_ids if (row := row_of(node_id)) is not None and has_it[row]]

    def _with(self, status: str, now: int) -> Iterator[int]:
        """Say of each row whether it has a status, without a step in Python for any."""
        since = now - self._patience
        if status == OFFLINE:
            return map(since.__gt__, self.seen_at)
        is_there = map(since.__le__, self.seen_at)
        return map(and_ if status == ONLINE else gt, is_there, self.healthy)


class _Paths:
    """The paths of nodes by row: an IPv4 address in two arrays, any other in a dict."""

    __slots__ = ("_hosts", "_others", "_ports")

    def __init__(self) -> None:
        self._hosts = bytearray()  # four bytes each
        self._ports = array("H")  # 0 where there is no address
        self._others: dict[int, Path] = {}

    def add_row(self) -> None:
        """A further row at the end."""
        self._hosts += b"\0\0\0\0"
        self._ports.append(0)

    def get(self, row: int) -> Optional[Path]:
        """Return the path of a row."""
        port = self._ports[row]
        if not port:
            return self._others.get(row)
        return socket.inet_ntop(socket.AF_INET, bytes(self._hosts[4 * row : 4 * row + 4])), port

    def put(self, row: int, path: Path) -> None:
        """Set the path of a row."""
        self.clear(row)
        host = _ipv4(path)
        if host is None:
            self._others[row] = path
        else:
            self._hosts[4 * row : 4 * row + 4] = host
            self._ports[row] = path[1]

    def clear(self, row: int) -> None:
        """Forget the path of a row."""
        self._ports[row] = 0
        self._others.pop(row, None)

    def holds(self, row: int, path: Path) -> bool:
        """Whether `path` is the path of a row."""
        port = self._ports[row]
        if not port:
            return self._others.get(row) == path
        if path[1] != port or len(path) != 2 or type(path) is not tuple:
            return False
        try:
            return self._hosts.startswith(socket.inet_pton(socket.AF_INET, path[0]), 4 * row)
        except OSError:
            return False


def _ipv4(path: Path) -> Optional[bytes]:
    """Return the address of a plain IPv4 path; None for any other."""
    if type(path) is not tuple or len(path) != 2 or not path[1]:
        return None
    try:
        return socket.inet_pton(socket.AF_INET, path[0])
    except OSError:
        return None
