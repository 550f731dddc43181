"""Registration, the list of nodes, single nodes."""

from __future__ import annotations

import pytest

from fleet.server.resources import nodes
from minicoap.codec import codes
from minicoap.codec.contentformats import CBOR
from minicoap.codec.options import LOCATION_PATH
from tests.fleet.server.serving import Client, Served, document

GET, POST, PUT, DELETE = codes.GET, codes.POST, codes.PUT, codes.DELETE

FOUNDING_REGISTRATION = {
    "node_id": "worker-03",
    "hostname": "worker-03",
    "ip_address": "<NODE_IP>",
    "status": "online",
    "last_seen": "2025-09-17T10:00:00",
    "services": ["docker", "ssh"],
    "drivers": ["gpio", "i2c"],
    "system_info": {"os": "linux", "arch": "arm64"},
}


@pytest.mark.parametrize("number", [None, CBOR], ids=["json", "cbor"])
def test_the_founding_documents_registration_is_taken_to_the_letter(served, number):
    arguments = {} if number is None else {"content_format": number}
    response = served.ask(POST, "/nodes", FOUNDING_REGISTRATION, **arguments)
    told = document(response)

    assert response.code == codes.CREATED
    assert response.options.all(LOCATION_PATH) == (b"nodes", b"worker-03")
    assert set(told) == {"node_id", "status", "servers", "health_interval", "time"}
    assert (told["node_id"], told["health_interval"]) == ("worker-03", 60)
    view = served.told(GET, "/nodes/worker-03")
    for name in ("node_id", "hostname", "ip_address", "services", "drivers", "system_info"):
        assert view[name] == FOUNDING_REGISTRATION[name]


def test_the_address_that_counts_is_the_one_the_message_came_from(served):
    served.told(POST, "/nodes", {**FOUNDING_REGISTRATION, "ip_address": "203.0.113.99"})

    assert served.told(GET, "/nodes/worker-03")["address"] == "192.0.2.9:40000"
    moved = Client(served, ("198.51.100.7", 9))
    assert moved.ask(PUT, "/health", {"node_id": "worker-03"}).is_success
    assert served.told(GET, "/nodes/worker-03")["address"] == "192.0.2.9:40000", "it has not shown that it is there"
    assert moved.ask(PUT, "/health", {"node_id": "worker-03"}).is_success
    assert served.told(GET, "/nodes/worker-03")["address"] == "198.51.100.7:9"


def test_the_servers_clock_decides_who_is_online_not_the_node(served):
    served.told(POST, "/nodes", {**FOUNDING_REGISTRATION, "status": "exploded", "last_seen": "2099-01-01T00:00:00"})

    view = served.told(GET, "/nodes/worker-03")
    assert view["status"] == "online"
    assert view["last_seen"].startswith("2026-09-21T")
    served.world.run_for(181)
    assert served.told(GET, "/nodes/worker-03")["status"] == "offline"


def test_a_second_registration_replaces_what_the_node_said_of_itself(served):
    served.told(POST, "/nodes", FOUNDING_REGISTRATION)
    registered_at = served.told(GET, "/nodes/worker-03")["registered_at"]
    served.world.run_for(10)

    response = served.ask(POST, "/nodes", {**FOUNDING_REGISTRATION, "hostname": "new", "services": []})

    assert response.code == codes.CHANGED
    view = served.told(GET, "/nodes/worker-03")
    assert (view["hostname"], view["services"], view["registered_at"]) == ("new", [], registered_at)


def test_a_field_of_a_later_version_is_ignored(served):
    assert served.ask(POST, "/nodes", {**FOUNDING_REGISTRATION, "slots": ["a", "b"]}).code == codes.CREATED


def test_a_repeated_registration_gets_its_first_answer_also_after_a_restart():
    served = Served()
    body = {"node_id": "n1", "request_id": "r-1"}

    assert served.ask(POST, "/nodes", body).code == codes.CREATED
    assert served.ask(POST, "/nodes", body).code == codes.CREATED
    served.boot()
    assert served.ask(POST, "/nodes", body).code == codes.CREATED
    assert served.ask(POST, "/nodes", {"node_id": "n1", "request_id": "r-2"}).code == codes.CHANGED


@pytest.fixture
def fleet(served):
    served.register(*[f"n-{number:03}" for number in range(250)])
    return served


def test_a_long_list_comes_in_pages_each_node_once(fleet):
    seen, pages, query = [], [], []
    while True:
        told = fleet.told(GET, "/nodes", query=query)
        pages.append(len(told["nodes"]))
        seen += [node["node_id"] for node in told["nodes"]]
        if told["next"] is None:
            break
        query = [f"after={told['next']}"]

    assert pages == [100, 100, 50]
    assert seen == [f"n-{number:03}" for number in range(250)]


@pytest.mark.parametrize(("limit", "sizes"), [(1000, [250]), (250, [250]), (249, [249, 1]), (125, [125, 125])])
def test_a_page_is_as_long_as_asked_for(fleet, limit, sizes):
    pages, query = [], [f"limit={limit}"]
    while True:
        told = fleet.told(GET, "/nodes", query=query)
        pages.append(len(told["nodes"]))
        if told["next"] is None:
            break
        query = [f"limit={limit}", f"after={told['next']}"]

    assert pages == sizes


def test_a_cursor_holds_while_nodes_come_and_go(fleet):
    first = fleet.told(GET, "/nodes", query=["limit=2"])
    fleet.told(DELETE, "/nodes/n-001")
    fleet.register("n-001a")

    following = fleet.told(GET, "/nodes", query=["limit=2", f"after={first['next']}"])

    assert [node["node_id"] for node in following["nodes"]] == ["n-001a", "n-002"]


def test_nodes_can_be_listed_by_status(served):
    served.register("gone")
    served.world.run_for(300)
    served.register("here")

    def listed(status):
        return [node["node_id"] for node in served.told(GET, "/nodes", query=[f"status={status}"])["nodes"]]

    assert (listed("online"), listed("offline"), listed("unhealthy")) == (["here"], ["gone"], [])


FOUND = [
    (["group=lab"], ["a", "c", "e"]),
    (["group=roof"], ["b", "c"]),
    (["group=lab", "q=PUMP"], ["c"]),
    (["q=pump"], ["b", "c"]),
    (["q=E"], ["e"]),
    (["q=%"], []),
    (["group=nobody"], []),
    (["status=offline"], ["a", "b", "c"]),
    (["status=unhealthy"], ["d"]),
    (["status=online"], ["e"]),
    (["status=offline", "group=lab"], ["a", "c"]),
    (["status=offline", "q=pump"], ["b", "c"]),
    (["status=offline", "group=roof", "q=pump-c"], ["c"]),
    (["status=online", "group=roof"], []),
]


@pytest.mark.parametrize(("query", "expected"), FOUND)
@pytest.mark.parametrize("limit", [1, 2, 100])
@pytest.mark.parametrize("few", [0, 2, 100])
def test_nodes_are_found_by_status_group_and_text_page_by_page(monkeypatch, served, query, expected, limit, few):
    monkeypatch.setattr(nodes, "_IDS_AT_ONCE", 1)
    monkeypatch.setattr(nodes, "_FEW", few)
    for node_id, groups in (("a", ["lab"]), ("b", ["roof"]), ("c", ["lab", "roof", "lab"]), ("d", []), ("e", ["lab"])):
        hostname = {"b": "Pump-b", "c": "pump-C"}.get(node_id, "")
        served.told(POST, "/nodes", {"node_id": node_id, "groups": groups, "hostname": hostname})
    served.world.run_for(300)
    served.told(PUT, "/health", {"node_id": "d", "overall_healthy": False})
    served.told(PUT, "/health", {"node_id": "e"})

    found, after, pages = [], None, 0
    while pages == 0 or after is not None:
        more = [] if after is None else [f"after={after}"]
        page = served.told(GET, "/nodes", query=[*query, f"limit={limit}", *more])
        found += [node["node_id"] for node in page["nodes"]]
        after, pages = page["next"], pages + 1

    assert found == expected
    assert pages == max(1, -(-len(expected) // limit)), "as few pages as can be"


def test_a_node_that_is_in_other_groups_by_now_is_found_there(served):
    for groups in (["lab"], ["roof"]):
        served.told(POST, "/nodes", {"node_id": "n1", "groups": groups})

    assert served.told(GET, "/nodes", query=["group=lab"])["nodes"] == []
    assert [node["node_id"] for node in served.told(GET, "/nodes", query=["group=roof"])["nodes"]] == ["n1"]


def test_a_node_that_was_removed_is_gone_and_may_come_back(served):
    served.register("n1", "n2")
    job_id = served.running(target_nodes=["n1"])

    assert served.ask(DELETE, "/nodes/n1").code == codes.DELETED
    assert served.ask(DELETE, "/nodes/n1").code == codes.DELETED

    assert served.ask(GET, "/nodes/n1").code == codes.NOT_FOUND
    assert served.ask(PUT, "/health", {"node_id": "n1"}).code == codes.NOT_FOUND
    assert [node["node_id"] for node in served.told(GET, "/nodes")["nodes"]] == ["n2"]
    assert served.told(GET, "/health")["nodes"]["registered"] == 1
    execution = served.status(job_id)["nodes"]["n1"]
    assert (execution["state"], execution["reason"]) == ("cancelled", "node_removed")
    assert served.ask(POST, "/nodes", {"node_id": "n1"}).code == codes.CREATED
    assert served.told(PUT, "/health", {"node_id": "n1"})["jobs"] == []


def test_nodes_survive_a_restart_and_are_hinted_where_they_were(served):
    served.register("n1")

    served.boot()

    assert served.told(GET, "/nodes")["nodes"][0]["node_id"] == "n1"
    assert served.told(GET, "/nodes/n1")["address"] == "192.0.2.9:40000"
