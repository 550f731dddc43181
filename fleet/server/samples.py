"""Samples, the last reports of health, packed: compressed against what all of them have in common.

Two thirds of a report are the names of its fields, and those of a hundred thousand nodes are kept in memory and written
again and again; bytes written are what wears an eMMC out. Each is packed for itself, so that one node's can be written,
and read, alone. What was written before there was this, JSON as it is, unpacks to itself: no JSON begins as what is
packed does.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

from fleet.server.queries import Sample

_PACKED = b"\x01"  # with the dictionary below, which is on disks and must not change; another one gets another mark
# What is met most stands last.
_SPACED = (
    b'{"node_id": "node-", "overall_healthy": false, "cpu_percent": 0.0, "memory_percent": 0.0, "disk_percent": 0.0, '
    b'"temperature": null, "services_status": {"chronyd": false, "cron": true, "containerd": true, "nginx": true, '
    b'"sshd": true, "systemd": true, "network": true, "ssh": true, "docker": false}, "error_messages": '
    b'["Service docker is not running"]}{"node_id": "node-", "overall_healthy": true, "services_status": {}, '
    b'"error_messages": []}'
)
_DICTIONARY = _SPACED + _SPACED.replace(b": ", b":").replace(b", ", b",")
_LEVEL = 6
_WINDOW = -10  # bits of it, negative for no header: reports are short
_MEMORY = 2  # 1 to 9


def pack(body: bytes) -> bytes:
    """Pack a report, which is JSON; one that is packed stays as it is."""
    if body.startswith(_PACKED):
        return body
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW, _MEMORY, zlib.Z_DEFAULT_STRATEGY, _DICTIONARY)
    return _PACKED + compressor.compress(body) + compressor.flush()


def is_packed(body: bytes) -> bool:
    """Whether a report is packed, or there is nothing to pack."""
    return not body or body.startswith(_PACKED)


def unpack(packed: bytes) -> bytes:
    """Return a report as it was; raises zlib.error for what was damaged."""
    if not packed.startswith(_PACKED):
        return packed
    decompressor = zlib.decompressobj(_WINDOW, _DICTIONARY)
    return decompressor.decompress(packed[1:]) + decompressor.flush()


class SampleBlock:
    """The last reports of many nodes at one time: what the ledger is handed. It does not change."""

    def __init__(self, node_ids: Sequence[str], rows: Sequence[int], seen_at: Sequence[int], bodies: list[bytes]):
        self._node_ids = node_ids
        self._rows = rows
        self._seen_at = seen_at
        self._bodies = bodies

    def samples(self) -> Iterator[Sample]:
        """The samples, by node id."""
        for row in sorted(self._rows, key=self._node_ids.__getitem__):
            yield Sample(self._node_ids[row], self._seen_at[row], pack(self._bodies[row]))
