"""What the server's observers are told (RFC 7641), and when."""

from __future__ import annotations

from typing import Any

from minicoap.codec import codes
from tests.fleet.server.serving import SERVER, Served, document, segments


def observed(served: Served, path: str) -> list[Any]:
    """Observe a resource; returns the list that its states will be put into."""
    states: list[Any] = []
    served.client.core.observe(
        SERVER, lambda update: states.append(document(update)), served.world.now, uri_path=segments(path)
    )
    served.client.host.wake()
    assert served.world.run_until(lambda: bool(states)), "never answered"
    return states


def test_a_jobs_observers_are_told_of_each_step_that_its_nodes_report(served):
    served.register("n1")
    job_id = served.running()
    states = observed(served, f"/updates/{job_id}/status")

    served.report(job_id, "n1", 1, "downloading", bytes_done=1, bytes_total=2)
    assert served.world.run_until(lambda: states[-1]["nodes"]["n1"]["state"] == "downloading", timeout=4.5)
    served.report(job_id, "n1", 2, "succeeded")

    assert served.world.run_until(lambda: states[-1]["status"] == "succeeded", timeout=4.5)
    assert states[0]["status"] == "running"


def test_a_nodes_observers_are_told_of_each_report_of_its_health(served):
    served.register("n1", "n2")
    states = observed(served, "/nodes/n1/health")

    served.told(codes.PUT, "/health", {"node_id": "n2", "cpu_percent": 1.0})
    served.told(codes.PUT, "/health", {"node_id": "n1", "cpu_percent": 7.0})

    assert served.world.run_until(lambda: (states[-1]["health"] or {}).get("cpu_percent") == 7.0, timeout=4)
    assert states[0]["health"] is None


def test_the_fleets_observers_are_told_when_a_node_comes_falls_ill_and_goes(served):
    lists, page = observed(served, "/nodes"), observed(served, "/health")

    served.register("n1")
    assert served.world.run_until(lambda: [node["node_id"] for node in lists[-1]["nodes"]] == ["n1"], timeout=4)
    served.told(codes.PUT, "/health", {"node_id": "n1", "overall_healthy": False})
    assert served.world.run_until(lambda: page[-1]["nodes"]["unhealthy"] == 1, timeout=4)
    served.told(codes.DELETE, "/nodes/n1")

    assert served.world.run_until(lambda: lists[-1]["nodes"] == [], timeout=4)
