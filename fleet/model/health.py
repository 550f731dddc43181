"""Health: a node's report of itself, `PUT /health` to the server and `GET /health` on the node."""

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
