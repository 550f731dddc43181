"""The node as a member: it registers, reports, and comes back by itself."""

from __future__ import annotations

import pytest

from minicoap.codec import codes
from minicoap.core.request import Response
from tests.fleet.agent.noding import EPOCH, Node, told


def interval(node, path="/health", method="PUT"):
    times = [asked.at for asked in node.server.of(method, path)]
    return [later - earlier for earlier, later in zip(times, times[1:])]


def registered(**fields):
    return {"node_id": "n1", "status": "", "servers": [], "health_interval": 60, "time": "", **fields}


def test_a_node_registers_at_once_and_then_reports():
    node = Node(services=("ssh", "docker"), groups=("lab",))

    node.boot()
    node.until(lambda: len(node.server.of("PUT", "/health")) == 1)

    (registration,) = node.server.of("POST", "/nodes")
    assert registration.at < 0.1
    assert registration.body["node_id"] == "n1"
    assert (registration.body["services"], registration.body["groups"]) == (["ssh", "docker"], ["lab"])
    assert registration.body["system_info"]["arch"] == "aarch64"
    assert registration.body["last_seen"] == "2026-09-21T14:13:20.000Z"
    assert int(EPOCH) == 1_790_000_000
    assert registration.body["request_id"]
    assert node.agent.membership.is_registered


def test_a_report_says_how_the_node_is():
    node = Node(services=("ssh", "docker"))
    node.boot()
    node.until(lambda: len(node.server.of("PUT", "/health")) == 1)

    assert node.server.of("PUT", "/health")[0].body == {
        "node_id": "n1", "overall_healthy": False, "cpu_percent": 15.5, "memory_percent": 45.2, "disk_percent": 30.1,
        "temperature": 42.5, "services_status": {"ssh": True, "docker": False},
        "error_messages": ["Service docker is not running"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "configured", "expected"), [(60, None, 60), (7, None, 7), (60, 5, 5), (0.001, None, 1), (1e9, None, 86400)]
)
def test_reports_come_in_the_servers_interval_or_the_configured_one_a_little_spread(said, configured, expected):
    node = Node(health_interval=configured)
    node.server.say("POST", "/nodes", registered(health_interval=said))

    node.boot()
    node.until(lambda: len(node.server.of("PUT", "/health")) == 30, timeout=1e9)

    waits = interval(node)
    assert all(0.9 * expected <= wait <= expected + 0.1 for wait in waits)
    assert max(waits) - min(waits) > 0.02 * expected, "all nodes would report in step"


def test_a_server_that_does_not_answer_is_asked_again_ever_less_often_and_found_when_it_is_back():
    node = Node()
    node.server.host.crash()
    node.boot()
    node.world.run_for(3600)
    assert not node.agent.membership.is_registered

    node.server.host.boot(node.server.core)
    node.until(lambda: node.agent.membership.is_registered, timeout=250)


def test_a_server_that_refuses_for_now_is_asked_again():
    node = Node()
    sorry = Response(codes.SERVICE_UNAVAILABLE)
    node.server.say("POST", "/nodes", sorry, sorry, registered())
    node.server.say("PUT", "/health", sorry, sorry, {"status": "ok", "time": "", "jobs": [], "servers": []})

    node.boot()
    node.until(lambda: len(node.server.of("PUT", "/health")) == 3)

    for waits in (interval(node, "/nodes", "POST"), interval(node)):
        for wait, longest in zip(waits, (2, 4)):
            assert longest / 2 <= wait <= longest + 0.1


def test_a_node_that_was_forgotten_registers_anew_and_not_all_at_the_same_moment():
    waits = []
    for seed in range(8):
        node = Node(seed=seed)
        known = {"status": "ok", "time": "", "jobs": [], "servers": []}
        node.server.say("PUT", "/health", told({"error": "unknown"}, codes.NOT_FOUND), known)
        node.boot()
        node.until(lambda node=node: len(node.server.of("PUT", "/health")) == 2)
        waits.append(node.server.of("POST", "/nodes")[1].at - node.server.of("PUT", "/health")[0].at)

    assert all(wait <= 2.1 for wait in waits)
    assert max(waits) - min(waits) > 0.5


def test_answers_that_cannot_be_read_are_answers_all_the_same():
    node = Node()
    node.server.say("POST", "/nodes", Response(codes.CREATED, b"\xff"))
    node.server.say("PUT", "/health", Response(codes.CHANGED, b"[]"))

    node.boot()
    node.until(lambda: len(node.server.of("PUT", "/health")) == 3)

    assert all(54 <= wait <= 60.1 for wait in interval(node))


def test_what_a_later_server_adds_is_ignored():
    node = Node()
    node.server.say("POST", "/nodes", registered(of_a_later_version=[1]))
    node.server.say("PUT", "/health", {"status": "ok", "time": "", "jobs": [], "servers": [], "later": {}})

    node.boot()
    node.until(lambda: len(node.server.of("PUT", "/health")) == 2)


def test_the_server_restarting_is_survived():
    node = Node()
    node.boot()
    node.until(lambda: len(node.server.of("PUT", "/health")) == 1)
    node.server.host.crash()
    node.world.run_for(300)
    node.server.host.boot(node.server.core)

    node.until(lambda: len(node.server.of("PUT", "/health")) == 3, timeout=600)

    assert len(node.server.of("POST", "/nodes")) == 1, "registered anew though the server knew it"
