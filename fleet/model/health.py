"""Health: a node's report of itself, `PUT /health` to the server and `GET /health` on the node."""

import zlib
from typing import Optional

import msgspec


class HealthReport(msgspec.Struct, frozen=True):
    """A node's health; only `node_id` is required. Percentages are 0 to 100, `temperature` is in degrees Celsius."""

    node_id: str
    overall_healthy: bool = True
    cpu_percent: Optional[float] = None
    memory_percent: Optional[float] = None
    disk_percent: Optional[float] = None
    temperature: Optional[float] = None
    services_status: dict[str, bool] = {}
    error_messages: tuple[str, ...] = ()


def report_etag(body: bytes) -> bytes:
    """The ETag of a report as the server keeps it, JSON.

    A node is the only author of its report, so that this only has to tell its last few from each other; two bytes
    travel with a report. A node can work it out by itself, and so go on from a report of which no answer came.
    """
    return (zlib.crc32(body) & 0xFFFF).to_bytes(2, "big")
