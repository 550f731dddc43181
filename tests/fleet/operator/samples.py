"""Answers of a server, as the API has them, for the tests of those who ask."""

from __future__ import annotations

NODE = {
    "node_id": "worker-03", "status": "online", "last_seen": "2025-09-17T10:00:00.000Z",
    "registered_at": "2025-09-17T09:00:00.000Z", "address": "192.0.2.7:5683", "hostname": "worker-03",
    "ip_address": "<NODE_IP>", "services": ["ssh"], "groups": [], "drivers": [],
    "system_info": {"os": "linux"}, "health": None,
}  # fmt: skip
JOB = {
    "job_id": "abc123", "name": "demo", "version": "1.1", "package_type": "pip", "status": "running",
    "counts": {"pending": 1}, "created_at": "2025-09-17T10:00:00.000Z", "updated_at": "2025-09-17T10:00:00.000Z",
}  # fmt: skip
DETAIL = {**JOB, "target_nodes": ["all"], "packages": ["demo==1.1"], "artifacts": []}
EXECUTION = {
    "state": "pending", "attempt": 1, "bytes_done": 0, "bytes_total": None, "reason": None, "waiting_for": None,
    "output": None, "updated_at": "2025-09-17T10:00:00.000Z",
}  # fmt: skip
STATUS = {
    "job_id": "abc123", "name": "demo", "version": "1.1", "package_type": "pip", "status": "running",
    "counts": {"pending": 1}, "nodes": {"worker-03": EXECUTION}, "next": None,
}  # fmt: skip
ARTIFACT = {"name": "demo.whl", "size": 7, "sha256": "ab" * 32, "created_at": "2025-09-17T10:00:00.000Z"}
