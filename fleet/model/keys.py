"""The short integer keys that stand for field names in CBOR: one table for all messages of the API.

Whoever reads CBOR takes either, in one map too; who writes integers gets integers back. The first 24 take one byte. A
number is never given another meaning.
"""

NUMBERS = {
    name: number
    for number, name in enumerate(
        (
            # 0 to 23: what nodes report, and are answered, again and again
            "node_id", "overall_healthy", "cpu_percent", "memory_percent", "disk_percent", "temperature",
            "services_status", "error_messages", "status", "time", "jobs", "servers", "job_id", "attempt", "sequence",
            "state", "bytes_done", "bytes_total", "reason", "waiting_for", "output", "action", "request_id",
            "health_interval",
            # from 24 on: registrations, jobs, artifacts, pages, errors
            "hostname", "ip_address", "last_seen", "services", "drivers", "system_info", "groups", "name", "version",
            "package_type", "packages", "artifacts", "target_nodes", "policy", "size", "sha256", "path", "mode",
            "created_at", "updated_at", "counts", "nodes", "updates", "firmware", "next", "error", "field", "legal",
        )
    )
}  # fmt: skip
NAMES = {number: name for name, number in NUMBERS.items()}

_MAP = 5  # CBOR's major type, the first three bits of an item


def has_numbers(payload: bytes) -> bool:
    """Whether the first key of a CBOR map is an integer: its author speaks this way."""
    return len(payload) > 1 and payload[0] >> 5 == _MAP and payload[1] >> 5 == 0
