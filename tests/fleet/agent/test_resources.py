"""What a node serves: to its server, and to whoever looks at it."""

from __future__ import annotations

import json

import cbor2
import pytest

from fleet.model.answers import FIELD_ENTRY
from minicoap.codec import codes
from minicoap.codec.contentformats import CBOR, JSON, PROBLEM_DETAILS_CBOR, TEXT
from minicoap.codec.options import MAX_AGE
from minicoap.codec.problem import decode_problem
from minicoap.core.endpoint import EndpointCore
from tests.fleet.agent.noding import NODE, Node, a_job
from tests.fleet.server.serving import payload_of, segments

GET, POST, PUT, DELETE = codes.GET, codes.POST, codes.PUT, codes.DELETE


@pytest.fixture
def ask():
    """Ask an idle node something."""
    node = Node(services=("ssh",))
    node.boot()
    node.until(lambda: node.agent.membership.is_registered)
    host = node.world.host(("192.0.2.77", 1))
    client = EndpointCore(node.world.entropy("client"))
    host.boot(client)

    def ask(method, path, body=None, **arguments):
        outcomes = []
        arguments = payload_of(body, arguments)
        client.request(method, NODE, outcomes.append, node.world.now, uri_path=segments(path), **arguments)
        host.wake()
        node.until(lambda: bool(outcomes))
        return outcomes[0]

    ask.node = node
    return ask


@pytest.mark.parametrize("number", [JSON, CBOR], ids=["json", "cbor"])
def test_a_node_says_how_it_is(ask, number):
    response = ask(GET, "/health", accept=number)

    told = json.loads(response.body) if number == JSON else cbor2.loads(response.body)
    assert (response.code, response.content_format) == (codes.CONTENT, number)
    assert response.options.get(MAX_AGE) == b""
    assert told == {
        "node_id": "n1", "overall_healthy": True, "cpu_percent": 15.5, "memory_percent": 45.25, "disk_percent": 30.125,
        "temperature": 42.5, "services_status": {"ssh": True}, "error_messages": [],
    }  # fmt: skip


def test_a_node_says_what_it_is_and_does(ask):
    told = json.loads(ask(GET, "/system").body)
    assert (told["node_id"], told["registered"], told["job"]) == ("n1", True, None)
    assert told["host"]["hostname"] == "host"
    assert told["version"]
    node = ask.node
    node.server.say("GET", "/updates/j1", a_job())

    assert ask(POST, "/updates/available", {"job_id": "j1"}).code == codes.CHANGED
    node.until(lambda: bool(node.processes.children))

    assert json.loads(ask(GET, "/system").body)["job"] == {"job_id": "j1", "attempt": 1, "state": "waiting"}


@pytest.mark.parametrize("number", [JSON, CBOR], ids=["json", "cbor"])
def test_a_hint_is_answered_at_once_and_the_job_is_asked_for(ask, number):
    node = ask.node

    response = ask(POST, "/updates/available", {"job_id": "j1", "of_a_later_version": 1}, content_format=number)

    assert (response.code, response.content_format) == (codes.CHANGED, number)
    told = json.loads(response.body) if number == JSON else cbor2.loads(response.body)
    assert told == {"status": "noted", "job_id": "j1"}
    node.until(lambda: len(node.server.of("GET", "/updates/j1")) == 1)


REFUSED = [
    (b"{", {}, codes.BAD_REQUEST, None),
    (b"", {"content_format": JSON}, codes.BAD_REQUEST, None),
    ({}, {}, codes.UNPROCESSABLE_ENTITY, "$.job_id"),
    ({"job_id": 5}, {}, codes.UNPROCESSABLE_ENTITY, "$.job_id"),
    ({"job_id": ""}, {}, codes.UNPROCESSABLE_ENTITY, "$.job_id"),
    ({"job_id": "x" * 200}, {}, codes.UNPROCESSABLE_ENTITY, "$.job_id"),
    (b"text", {"content_format": TEXT}, codes.UNSUPPORTED_CONTENT_FORMAT, None),
    ({"job_id": "j1"}, {"accept": TEXT}, codes.NOT_ACCEPTABLE, None),
    ({"job_id": "j1" + " " * 5000}, {}, codes.REQUEST_ENTITY_TOO_LARGE, None),
]


@pytest.mark.parametrize(("body", "arguments", "code", "field"), REFUSED)
def test_a_hint_that_is_none_is_refused(ask, body, arguments, code, field):
    response = ask(POST, "/updates/available", body, **arguments)

    assert response.code == code
    if field:
        assert json.loads(response.body)["field"] == field
    assert len(ask.node.server.of("GET", "/updates/j1")) == 0


def test_errors_in_cbor_are_problem_details(ask):
    response = ask(POST, "/updates/available", {}, content_format=CBOR)

    assert response.content_format == PROBLEM_DETAILS_CBOR
    assert decode_problem(response.body).custom[FIELD_ENTRY] == {"field": "$.job_id"}


def test_other_methods_and_paths_are_refused(ask):
    for path, allowed in (("/health", GET), ("/system", GET), ("/updates/available", POST)):
        for method in (GET, POST, PUT, DELETE):
            refused = ask(method, path, {"job_id": "j"}).code == codes.METHOD_NOT_ALLOWED
            assert refused == (method != allowed)
    assert ask(GET, "/nodes").code == codes.NOT_FOUND


def test_a_hint_is_understood_however_its_path_is_spelled(ask):
    for path in ("/updates//available/", "/updates%2Favailable"):
        assert ask(POST, path, {"job_id": "j1"}).is_success
    assert ask(POST, "/updates/../updates/available", {"job_id": "j1"}).code == codes.BAD_REQUEST
