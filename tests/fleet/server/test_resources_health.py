"""Health of nodes in, health of the fleet out."""

from __future__ import annotations

import cbor2

from fleet.server.samples import unpack
from minicoap.codec import codes
from minicoap.codec.contentformats import CBOR
from tests.fleet.server.serving import EPOCH, Served, document

GET, POST, PUT = codes.GET, codes.POST, codes.PUT

FOUNDING_REPORT = {
    "node_id": "node-123",
    "overall_healthy": True,
    "cpu_percent": 15.5,
    "memory_percent": 45.2,
    "disk_percent": 30.1,
    "temperature": 42.5,
    "services_status": {"systemd": True, "network": True, "ssh": True, "docker": False},
    "error_messages": ["Service docker is not running"],
}


def test_the_founding_documents_report_is_taken_and_kept_to_the_letter(served):
    served.register("node-123")

    told = served.told(PUT, "/health", FOUNDING_REPORT)

    assert set(told) == {"status", "time", "jobs", "servers"}
    assert (told["status"], told["jobs"], told["servers"]) == ("ok", [], ["coap://192.0.2.1:5683"])
    assert served.told(GET, "/nodes/node-123/health")["health"] == FOUNDING_REPORT
    assert served.told(GET, "/nodes/node-123")["health"] == FOUNDING_REPORT


def test_a_report_in_cbor_is_the_same_report(served):
    served.register("node-123")

    served.told(PUT, "/health", FOUNDING_REPORT, content_format=CBOR)

    assert served.told(GET, "/nodes/node-123/health")["health"] == FOUNDING_REPORT
    assert cbor2.loads(served.ask(GET, "/nodes/node-123/health", accept=CBOR).body)["health"] == FOUNDING_REPORT


def test_only_the_nodes_id_is_required_and_what_a_later_version_adds_is_ignored(served):
    served.register("n1")

    assert served.ask(PUT, "/health", {"node_id": "n1"}).code == codes.CHANGED
    assert served.ask(PUT, "/health", {"node_id": "n1", "of_a_later_version": {"x": [1]}}).code == codes.CHANGED


def test_the_times_are_the_servers_and_end_in_z(served):
    served.register("n1")
    served.told(PUT, "/health", {"node_id": "n1"})

    told = served.told(GET, "/nodes/n1/health")

    assert told["received_at"].startswith("2026-09-21T14:13:20.")
    assert told["received_at"].endswith("Z")
    assert int(EPOCH) == 1_790_000_000


def test_the_fleet_is_counted_by_how_its_nodes_are(served):
    served.register("well", "ill", "gone")
    served.world.run_for(200)  # more than three of the intervals that nodes are told
    served.told(PUT, "/health", {"node_id": "well"})
    served.told(PUT, "/health", {"node_id": "ill", "overall_healthy": False})
    served.running(target_nodes=["well"])

    told = served.told(GET, "/health")

    assert told["status"] == "degraded"
    assert told["nodes"] == {"registered": 3, "online": 1, "offline": 1, "unhealthy": 1}
    assert told["jobs"] == {"running": 1}
    assert told["server"]["executions_under_way"] == 1


def test_a_fleet_that_is_well_says_so(served):
    served.register("n1")
    served.told(PUT, "/health", {"node_id": "n1"})

    assert served.told(GET, "/health")["status"] == "ok"


def test_a_report_of_an_unknown_node_tells_it_to_register(served):
    response = served.ask(PUT, "/health", {"node_id": "n1"})

    assert response.code == codes.NOT_FOUND
    assert document(response)["field"] == "$.node_id"


def test_the_answer_to_a_report_names_the_jobs_that_wait(served):
    served.register("n1", "n2")
    job_id = served.running(target_nodes=["n1"])

    assert served.told(PUT, "/health", {"node_id": "n1"})["jobs"] == [job_id]
    assert served.told(PUT, "/health", {"node_id": "n2"})["jobs"] == []


def test_the_answer_names_jobs_while_they_wait_and_no_longer(served):
    served.register("n1")
    job_id = served.running()

    def waits():
        return served.told(PUT, "/health", {"node_id": "n1"})["jobs"] == [job_id]

    assert waits()
    served.act("pause", job_id)
    assert not waits(), "a paused job hands out nothing new"
    served.act("resume", job_id)
    served.world.run_for(1)
    assert waits()
    assert served.report(job_id, "n1", 1, "downloading").is_success
    served.act("pause", job_id)
    assert waits(), "what has begun goes on"
    served.act("cancel", job_id)
    assert waits(), "the node has to hear of it"
    assert served.report(job_id, "n1", 2, "cancelled").is_success
    assert not waits()


def test_a_change_of_state_is_on_the_disk_at_once_and_the_rest_within_an_hour(served):
    served.register("n1")
    samples = served.store.tables.samples

    served.told(PUT, "/health", {"node_id": "n1", "cpu_percent": 1})
    first = samples["n1"].at
    served.told(PUT, "/health", {"node_id": "n1", "cpu_percent": 2})
    assert samples["n1"].at == first, "written though nothing changed"
    served.told(PUT, "/health", {"node_id": "n1", "overall_healthy": False})
    assert b"false" in unpack(samples["n1"].body)
    served.told(PUT, "/health", {"node_id": "n1", "overall_healthy": False, "cpu_percent": 3})
    served.world.run_for(3700)
    assert b'"cpu_percent": 3' in unpack(samples["n1"].body)


def test_what_was_reported_survives_a_restart():
    served = Served()
    served.register("n1")
    served.told(PUT, "/health", {"node_id": "n1", "overall_healthy": False})

    served.boot()

    assert served.told(GET, "/nodes/n1")["status"] == "unhealthy"
    assert served.told(GET, "/nodes/n1/health")["health"]["overall_healthy"] is False


def test_the_connectivity_test_has_no_side_effect(served):
    before = served.server.endpoint.footprint()["remembered"]

    assert served.told(GET, "/test") == {"status": "ok"}
    assert served.server.endpoint.footprint()["remembered"] == before
