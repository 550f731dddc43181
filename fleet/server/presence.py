"""Who is there: for each registered node when it was last heard, from where, and what it said of its health.

What it measures goes into the series, whose row for the node is found here.

All of it is a sample: in memory, flushed by the ledger at intervals. The server's clock decides who is online.
"""

from __future__ import annotations

from typing import Optional

import msgspec

from fleet.server.series import Series
from minicoap.core.request import Path

ONLINE = "online"
OFFLINE = "offline"
UNHEALTHY = "unhealthy"
STATUSES = (ONLINE, OFFLINE, UNHEALTHY)

REPORTS_LIMIT = 256 * 1024 * 1024  # bytes of the reports of all nodes that are kept in memory
SMALL_REPORT = 2048  # bytes, which a report may have even then
INTERVALS_TO_OFFLINE = 3  # reports that may be missing before a node counts as offline


class Presence:
    """What is known of one node; `seen_at` in UTC ms, 0 for not since the server's data began; `body` JSON.

    `row` is the node's in the series.
    """

    __slots__ = ("body", "healthy", "path", "row", "seen_at")

    def __init__(self, row: int) -> None:
        self.row = row
        self.path: Optional[Path] = None
        self.seen_at = 0
        self.healthy = True
        self.body = b""


class _Healthy(msgspec.Struct):
    overall_healthy: bool = True


class Presences:
    """All registered nodes, each with its row of `series`; `health_interval` in seconds."""

    def __init__(self, health_interval: float, series: Series) -> None:
        self._series = series
        self._patience = int(health_interval * 1000 * INTERVALS_TO_OFFLINE)
        self._nodes: dict[str, Presence] = {}
        self._held = 0  # bytes of all reports
        self._healthy = msgspec.json.Decoder(_Healthy)

    def __len__(self) -> int:
        return len(self._nodes)

    def find(self, node_id: str) -> Optional[Presence]:
        """Return what is known of a node; None if it is not registered."""
        return self._nodes.get(node_id)

    def add(self, node_id: str) -> Presence:
        """A node is registered."""
        presence = self._nodes.get(node_id)
        if presence is None:
            presence = self._nodes[node_id] = Presence(self._series.add(node_id))
        return presence

    def remove(self, node_id: str) -> None:
        """A node is not registered any more."""
        presence = self._nodes.pop(node_id, None)
        if presence is not None:
            self._held -= len(presence.body)
            self._series.remove(presence.row)

    def has_room(self, presence: Presence, body: bytes) -> bool:
        """Whether a node's report can be kept in the place of its last one."""
        grown = self._held + len(body) - len(presence.body)
        return grown <= REPORTS_LIMIT or len(body) <= max(SMALL_REPORT, len(presence.body))

    def keep(self, presence: Presence, body: bytes) -> None:
        """Keep a node's report in the place of its last one."""
        self._held += len(body) - len(presence.body)
        presence.body = body

    def restore(self, node_id: str, seen_at: int, body: bytes) -> None:
        """Take up what was flushed before a restart."""
        presence = self.add(node_id)
        presence.seen_at = seen_at
        self.keep(presence, body)
        presence.healthy = self._healthy.decode(body).overall_healthy

    def status(self, presence: Presence, now: int) -> str:
        """Return a node's status at `now` (UTC ms)."""
        if now - presence.seen_at > self._patience:
            return OFFLINE
        return ONLINE if presence.healthy else UNHEALTHY

    def counts(self, now: int) -> dict[str, int]:
        """Return how many nodes have each status."""
        counts = dict.fromkeys(STATUSES, 0)
        for presence in self._nodes.values():
            counts[self.status(presence, now)] += 1
        return counts
