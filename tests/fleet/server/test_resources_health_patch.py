"""Reports of what changed: iPATCH of a node's health with If-Match (RFC 8132, RFC 7396)."""

from __future__ import annotations

import json

import cbor2
import pytest

from fleet.model.formats import encode as encode_body
from minicoap.codec import codes
from minicoap.codec.contentformats import CBOR, JSON, JSON_PATCH, MERGE_PATCH, XML
from minicoap.codec.message import CON, Message, Options, decode, encode
from minicoap.codec.options import CONTENT_FORMAT, IF_MATCH, IF_NONE_MATCH, URI_PATH
from minicoap.core.identity import Identity
from minicoap.core.request import SecurePath
from tests.fleet.server.serving import Served, document

GET, PUT, IPATCH = codes.GET, codes.PUT, codes.IPATCH
FULL = {
    "node_id": "n1",
    "overall_healthy": True,
    "cpu_percent": 15.5,
    "memory_percent": 45.2,
    "services_status": {"ssh": True, "docker": True},
    "error_messages": [],
    "of_a_later_version": {"x": [1]},
}


@pytest.fixture
def served():
    served = Served()
    served.register("n1")
    return served


def put(served, report=FULL, **arguments):
    """Report all; returns the report's ETag."""
    response = served.ask(PUT, "/health", report, **arguments)
    assert response.code == codes.CHANGED, response.text
    return response.etag


def patch(served, changes, *tags, content_format=MERGE_PATCH, **arguments):
    return served.ask(
        IPATCH,
        "/health",
        changes,
        content_format=content_format,
        options=[(IF_MATCH, tag) for tag in tags],
        **arguments,
    )


def kept(served, node_id="n1"):
    return served.told(GET, f"/nodes/{node_id}/health")["health"]


def test_what_changed_is_put_in_the_place_of_what_was(served):
    tag = put(served)
    changes = {"node_id": "n1", "cpu_percent": 20.1, "services_status": {"docker": False}, "temperature": 40.5}

    response = patch(served, changes, tag)

    assert response.code == codes.CHANGED
    assert set(document(response)) == {"status", "time", "jobs", "servers"}
    assert kept(served) == {
        **FULL, "cpu_percent": 20.1, "services_status": {"ssh": True, "docker": False}, "temperature": 40.5
    }  # fmt: skip
    assert response.etag not in (tag, None)
    assert patch(served, {"node_id": "n1", "temperature": None}, response.etag).code == codes.CHANGED
    assert "temperature" not in kept(served)


def test_the_same_report_has_the_same_name_and_another_has_another(served):
    tag = put(served)

    assert put(served) == tag
    assert len(tag) <= 8
    assert put(served, {**FULL, "cpu_percent": 15.6}) != tag
    # One that was patched and one that was put name themselves by what the server keeps.
    same = patch(served, {"node_id": "n1"}, b"").etag
    assert patch(served, {"node_id": "n1"}, same).etag == same


def test_in_cbor_it_is_the_same(served):
    tag = put(served)

    response = patch(served, {"node_id": "n1", "cpu_percent": 7.5}, tag, content_format=CBOR)

    assert (response.code, response.content_format) == (codes.CHANGED, CBOR)
    assert cbor2.loads(response.body)["status"] == "ok"
    assert kept(served) == {**FULL, "cpu_percent": 7.5}


def test_a_report_that_the_server_does_not_have_is_asked_for_whole(served):
    assert patch(served, {"node_id": "n1"}, b"\1\2\3\4").code == codes.PRECONDITION_FAILED
    assert patch(served, {"node_id": "n1"}, b"").code == codes.PRECONDITION_FAILED, "there is none at all"
    tag = put(served)
    put(served, {**FULL, "cpu_percent": 1})

    response = patch(served, {"node_id": "n1", "cpu_percent": 99}, tag)

    assert response.code == codes.PRECONDITION_FAILED
    assert "send the whole report" in document(response)["error"]
    assert kept(served)["cpu_percent"] == 1


def test_any_of_several_tags_may_match_and_an_empty_one_matches_whatever_there_is(served):
    tag = put(served)

    assert patch(served, {"node_id": "n1"}, b"other", tag, b"third").code == codes.CHANGED
    assert patch(served, {"node_id": "n1"}, b"other", b"third").code == codes.PRECONDITION_FAILED
    assert patch(served, {"node_id": "n1"}, b"").code == codes.CHANGED
    assert patch(served, {"node_id": "n1"}).code == codes.CHANGED, "nobody has to make a condition"


def test_the_conditions_hold_for_whole_reports_too(served):
    assert served.ask(PUT, "/health", FULL, options=[(IF_MATCH, b"")]).code == codes.PRECONDITION_FAILED
    tag = put(served, options=[(IF_NONE_MATCH, b"")])
    assert served.ask(PUT, "/health", FULL, options=[(IF_NONE_MATCH, b"")]).code == codes.PRECONDITION_FAILED
    put(served, options=[(IF_MATCH, tag)])
    assert served.ask(GET, "/health", options=[(IF_MATCH, tag)]).code == codes.BAD_OPTION


def test_a_node_that_nobody_knows_is_to_register(served):
    response = patch(served, {"node_id": "n2"}, b"\1")

    assert (response.code, document(response)["field"]) == (codes.NOT_FOUND, "$.node_id")


@pytest.mark.parametrize("number", [JSON, XML, JSON_PATCH, 0])
def test_other_formats_are_refused_with_those_that_are_not(served, number):
    tag = put(served)

    response = patch(served, b'{"node_id": "n1"}', tag, content_format=number)

    assert response.code == codes.UNSUPPORTED_CONTENT_FORMAT
    assert "send 52 (application/merge-patch+json) or 60 (application/cbor)" in response.text
    assert patch(served, b'{"node_id": "n1"}', tag, content_format=None).code == codes.UNSUPPORTED_CONTENT_FORMAT
    assert served.ask(PUT, "/health", b"{}", content_format=MERGE_PATCH).code == codes.UNSUPPORTED_CONTENT_FORMAT


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        (b"{", codes.BAD_REQUEST, None),
        (b"", codes.BAD_REQUEST, None),
        ([], codes.UNPROCESSABLE_ENTITY, "$"),
        ({}, codes.UNPROCESSABLE_ENTITY, "$.node_id"),
        ({"node_id": None}, codes.UNPROCESSABLE_ENTITY, "$.node_id"),
        ({"node_id": "../n1"}, codes.UNPROCESSABLE_ENTITY, "$.node_id"),
        ({"node_id": "n1", "cpu_percent": "much"}, codes.UNPROCESSABLE_ENTITY, "$.cpu_percent"),
        ({"node_id": "n1", "services_status": {"ssh": 1}}, codes.UNPROCESSABLE_ENTITY, "$.services_status[...]"),
        ({"node_id": "n1", "error_messages": [1]}, codes.UNPROCESSABLE_ENTITY, "$.error_messages[0]"),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_changes_nothing(served, changes, code, field):
    tag = put(served)

    response = patch(served, changes, tag)

    assert response.code == code
    assert document(response).get("field") == field
    assert kept(served) == FULL
    assert patch(served, {"node_id": "n1"}, tag).code == codes.CHANGED, "the report has not changed"


def test_patches_cannot_make_a_report_grow_without_bound(served):
    tag = put(served)
    for index in range(20):
        response = patch(served, {"node_id": "n1", f"field-{index}": "x" * 9000}, tag)
        if response.code != codes.CHANGED:
            break
        tag = response.etag

    assert response.code == codes.REQUEST_ENTITY_TOO_LARGE
    assert 5 <= index <= 8
    assert patch(served, {"node_id": "n1", "field-0": None}, tag).code == codes.CHANGED


def test_a_patch_that_comes_twice_is_answered_alike_and_once_carried_out(served):
    tag = put(served)
    options = Options(((URI_PATH, b"health"), (IF_MATCH, tag), (CONTENT_FORMAT, bytes((MERGE_PATCH,)))))
    datagram = encode(Message(CON, IPATCH, 77, b"t", options, b'{"node_id":"n1","cpu_percent":3}'))
    answers = []
    for _ in range(2):
        served.server.datagram_received(datagram, ("192.0.2.50", 4000), served.world.now)
        ((data, _path),) = served.server.datagrams_to_send()
        answers.append(decode(data))

    # The first changed the report's name, so the second, taken for another, would be refused.
    assert [answer.code for answer in answers] == [codes.CHANGED] * 2
    assert answers[0].options == answers[1].options
    assert kept(served)["cpu_percent"] == 3


def test_a_change_of_state_is_noticed_and_on_the_disk_at_once(served):
    tag = put(served)
    samples = served.store.tables.samples

    tag = patch(served, {"node_id": "n1", "cpu_percent": 2}, tag).etag
    assert json.loads(samples["n1"].body) == FULL, "written though no state changed"
    tag = patch(served, {"node_id": "n1", "overall_healthy": False}, tag).etag
    assert served.told(GET, "/nodes/n1")["status"] == "unhealthy"
    assert json.loads(samples["n1"].body) == {**FULL, "cpu_percent": 2, "overall_healthy": False}
    # What was written is known by the same name after a restart; what was only in memory is gone.
    served.boot()
    assert patch(served, {"node_id": "n1", "cpu_percent": 3}, tag).code == codes.CHANGED
    lost = patch(served, {"node_id": "n1", "cpu_percent": 4}, b"").etag
    served.boot()
    assert patch(served, {"node_id": "n1", "cpu_percent": 5}, lost).code == codes.PRECONDITION_FAILED


def test_what_did_not_change_is_measured_too(served):
    tag = put(served)
    patch(served, {"node_id": "n1", "cpu_percent": 25.5}, tag)

    records = json.loads(served.ask(GET, "/nodes/n1/metrics").body)

    assert [(record["bn"], record["v"]) for record in records] == [("node:n1:cpu", 0.205), ("node:n1:memory", 0.452)]


def test_the_answer_to_a_patch_names_the_jobs_that_wait(served):
    tag = put(served)
    job_id = served.running()

    assert document(patch(served, {"node_id": "n1"}, tag))["jobs"] == [job_id]


# In few bytes


def brief(served, changes=None, *tags, numbers=None, **arguments):
    payload = b"" if changes is None else encode_body(changes, CBOR, numbers=True)
    number = CBOR if payload else None
    options = [(IF_MATCH, tag) for tag in tags]
    return served.ask(IPATCH, "/h", payload, content_format=number, options=options, **arguments)


def test_a_brief_report_is_answered_with_nothing_but_what_there_is_to_say(served):
    tag = put(served, FULL, content_format=CBOR)

    response = brief(served, {"node_id": "n1", "cpu_percent": 20.25}, tag)

    assert (response.code, response.body, response.options.items) == (codes.CHANGED, b"", ())
    assert kept(served) == {**FULL, "cpu_percent": 20.25}
    assert brief(served, {"node_id": "n1", "cpu_percent": 30.0}, tag).code == codes.PRECONDITION_FAILED
    assert brief(served, {"node_id": "n1"}).code == codes.CHANGED
    assert kept(served) == {**FULL, "cpu_percent": 20.25}
    job_id = served.running()
    assert cbor2.loads(brief(served, {"node_id": "n1"}).body) == {10: [job_id]}


def test_a_brief_report_to_a_server_that_has_none_is_asked_for_whole(served):
    assert brief(served, {"node_id": "n1"}).code == codes.PRECONDITION_FAILED
    assert brief(served, {"node_id": "n2"}).code == codes.NOT_FOUND


def test_a_brief_report_of_nobody_is_refused_where_nothing_says_whose_it_is(served):
    put(served)

    for changes in (None, {"cpu_percent": 1.0}):
        assert brief(served, changes).code == codes.UNPROCESSABLE_ENTITY
    assert kept(served) == FULL


def test_with_a_certificate_a_node_need_not_say_who_it_is_and_is_nobody_else(served):
    put(served)

    def brief_over(certificate, changes):
        path = SecurePath(("192.0.2.9", 5684, "dtls 1"))
        path.identity = Identity("x509", certificate, (certificate,), None)
        arguments = {"payload": encode_body(changes, CBOR, numbers=True), "content_format": CBOR} if changes else {}
        return served.answer(path, IPATCH, ("h",), (), arguments).code

    assert brief_over("urn:fleet:node:n1", None) == codes.CHANGED
    assert brief_over("urn:fleet:node:n1", {"memory_percent": 50.5}) == codes.CHANGED
    assert kept(served) == {**FULL, "memory_percent": 50.5}
    assert brief_over("urn:fleet:node:n1", {"node_id": "n2"}) == codes.FORBIDDEN
    assert brief_over("urn:fleet:node:n2", None) == codes.NOT_FOUND
    assert brief_over("urn:fleet:operator:alice", None) == codes.UNPROCESSABLE_ENTITY


def test_a_whole_report_in_cbor_is_kept_as_it_was_said(served):
    tag = put(served, {**FULL, "of_a_later_version": {"x": [1]}}, content_format=CBOR)

    assert kept(served) == FULL
    assert tag == put(served, json.dumps(FULL, separators=(",", ":")).encode(), content_format=JSON)
