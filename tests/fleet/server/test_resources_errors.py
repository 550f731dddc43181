"""The error table of the API row by row, the formats of every resource, and the spellings of paths."""

from __future__ import annotations

import json

import cbor2
import pytest

from fleet.model.answers import FIELD_ENTRY
from minicoap.codec import codes, contentformats
from minicoap.codec.contentformats import CBOR, JSON, OCTET_STREAM, PROBLEM_DETAILS_CBOR, TEXT
from minicoap.codec.options import (
    BLOCK1,
    BLOCK2,
    IF_MATCH,
    IF_NONE_MATCH,
    MAX_AGE,
    PROXY_SCHEME,
    PROXY_URI,
    SIZE1,
    decode_uint,
    encode_uint,
)
from minicoap.codec.problem import decode_problem
from tests.fleet.server.serving import QUOTA, a_report, document

GET, POST, PUT, DELETE = codes.GET, codes.POST, codes.PUT, codes.DELETE

A_JOB = {"name": "app", "version": "1.0", "package_type": "pip", "target_nodes": ["all"]}
A_REPORT = a_report("job", "n1", 1, "waiting")
CREATE_PACKAGES = {**A_JOB, "packages": ["aiocoap==0.4.7", "../evil"]}


def line(*rows):
    return [pytest.param(*row[1:], id=row[0]) for row in rows]


MALFORMED = (b"", b"{", b"[1", b"{}x", b"\xff\xfe", b'{"a": NaN}', b"[" * 8_000, b'{"a":' * 17 + b"1" + b"}" * 17)


@pytest.mark.parametrize("payload", MALFORMED, ids=lambda payload: repr(payload[:12]))
@pytest.mark.parametrize(
    ("method", "path"), [(POST, "/updates"), (POST, "/nodes"), (PUT, "/health"), (POST, "/system")]
)
def test_what_is_no_json_is_a_bad_request(served, method, path, payload):
    response = served.ask(method, path, payload, content_format=JSON)

    assert response.code == codes.BAD_REQUEST
    assert document(response)["error"]
    assert served.actions == []


MALFORMED_CBOR = {
    "nothing": b"",
    "cut off": b"\xa1\x64name",
    "trailing bytes": cbor2.dumps(A_JOB) + b"\x00",
    "a tag": b"\xa1\x64name\xc1\x00",
    "a shared reference": b"\xd8\x1c\x81\xd8\x1d\x00",
    "duplicate keys": b"\xa2\x64name\x61a\x64name\x61b",
    "too deep": b"\x81" * 17 + b"\x00",
    "no text as key": b"\xa1\xf5\x02",
    "a reserved length": b"\x1c",
    "no UTF-8": b"\xa1\x64name\x62\xff\xfe",
}


@pytest.mark.parametrize("what", MALFORMED_CBOR)
@pytest.mark.parametrize(
    ("method", "path"), [(POST, "/updates"), (POST, "/nodes"), (PUT, "/health"), (POST, "/system")]
)
def test_what_is_no_cbor_is_a_bad_request_told_as_problem_details(served, method, path, what):
    response = served.ask(method, path, MALFORMED_CBOR[what], content_format=CBOR)

    assert response.code == codes.BAD_REQUEST
    assert response.content_format == PROBLEM_DETAILS_CBOR
    assert decode_problem(response.body).title == "4.00 Bad Request"
    assert decode_problem(response.body).detail


INVALID = line(
    ("no object", POST, "/updates", [1], "$"),
    ("text", POST, "/updates", "install", "$"),
    ("nothing in it", POST, "/updates", {}, "$.name"),
    ("wrong type", POST, "/updates", {**A_JOB, "version": 1.0}, "$.version"),
    ("wrong type of a list", POST, "/updates", {**A_JOB, "packages": "a==1"}, "$.packages"),
    ("wrong type in a list", POST, "/updates", {**A_JOB, "packages": ["a==1", 2]}, "$.packages[1]"),
    ("empty name", POST, "/updates", {**A_JOB, "name": " "}, "$.name"),
    ("no targets", POST, "/updates", {**A_JOB, "target_nodes": []}, "$.target_nodes"),
    ("unknown package type", POST, "/updates", {**A_JOB, "package_type": "deb"}, "$.package_type"),
    ("no requirement", POST, "/updates", CREATE_PACKAGES, "$.packages[1]"),
    ("an option of pip", POST, "/updates", {**A_JOB, "packages": ["--pre"]}, "$.packages[0]"),
    ("a policy", POST, "/updates", {**A_JOB, "policy": {}}, "$.policy"),
    ("groups", POST, "/updates", {**A_JOB, "target_nodes": {"groups": ["a"]}}, "$.target_nodes"),
    ("a field of a later version", POST, "/updates", {**A_JOB, "priority": 1}, "$.priority"),
    ("an artifact upwards", POST, "/updates", {**A_JOB, "artifacts": ["../a.whl"]}, "$.artifacts[0]"),
    ("an artifact by path", POST, "/updates", {**A_JOB, "artifacts": ["a/b.whl"]}, "$.artifacts[0]"),
    (
        "a destination upwards", POST, "/updates",
        {**A_JOB, "package_type": "file", "artifacts": [{"name": "a", "path": "../../etc/passwd"}]},
        "$.artifacts[0].path",
    ),
    (
        "an absolute destination", POST, "/updates",
        {**A_JOB, "package_type": "file", "artifacts": [{"name": "a", "path": "/etc/passwd"}]},
        "$.artifacts[0].path",
    ),
    (
        "a set-id mode", POST, "/updates",
        {**A_JOB, "package_type": "file", "artifacts": [{"name": "a", "mode": "4755"}]}, "$.artifacts[0].mode",
    ),
    ("a path as target", POST, "/updates", {**A_JOB, "target_nodes": ["../n1"]}, "$.target_nodes[0]"),
    ("unknown action", POST, "/updates", {"action": "explode", "job_id": "x"}, "$.action"),
    ("action of a wrong type", POST, "/updates", {"action": 1, "job_id": "x"}, "$.action"),
    ("action without a job", POST, "/updates", {"action": "install"}, "$.job_id"),
    ("field of an action", POST, "/updates", {"action": "install", "job_id": "x", "force": True}, "$.force"),
    ("status by hundreds", POST, "/updates", {"action": "status", "job_id": "x", "limit": 9999}, "$.limit"),
    ("empty request_id", POST, "/updates", {**A_JOB, "request_id": ""}, "$.request_id"),
    ("report of the server's state", POST, "/updates", {**A_REPORT, "state": "timed_out"}, "$.state"),
    ("report of no state", POST, "/updates", {**A_REPORT, "state": "great"}, "$.state"),
    ("report of attempt 0", POST, "/updates", {**A_REPORT, "attempt": 0}, "$.attempt"),
    ("report beyond 64 bits", POST, "/updates", {**A_REPORT, "bytes_done": 1 << 63}, "$.bytes_done"),
    ("report of less than nothing", POST, "/updates", {**A_REPORT, "bytes_done": -1}, "$.bytes_done"),
    ("registration without id", POST, "/nodes", {"hostname": "x"}, "$.node_id"),
    ("registration with a path as id", POST, "/nodes", {"node_id": "../n1"}, "$.node_id"),
    ("registration, wrong type", POST, "/nodes", {"node_id": "n1", "services": {"ssh": True}}, "$.services"),
    ("health, wrong type", PUT, "/health", {"node_id": "n1", "cpu_percent": "high"}, "$.cpu_percent"),
    (
        "health, wrong type below", PUT, "/health", {"node_id": "n1", "services_status": {"a": 2}},
        "$.services_status[...]",
    ),
    ("system, unknown action", POST, "/system", {"action": "format"}, "$.action"),
    ("system, unknown field", POST, "/system", {"action": "status", "delay": 5}, "$.delay"),
    ("limit of no number", GET, "/nodes?limit=many", None, "limit"),
    ("limit of nothing", GET, "/updates?limit=0", None, "limit"),
    ("limit above the most", GET, "/firmware?limit=1001", None, "limit"),
    ("cursor of another", GET, "/nodes?after=xyz", None, "after"),
    ("unknown status", GET, "/nodes?status=happy", None, "status"),
    ("a filter of a later version", GET, "/nodes?group=lab", None, "group"),
    ("an argument nobody knows", GET, "/health?verbose=1", None, "verbose"),
    ("an argument twice", GET, "/nodes?limit=1&limit=2", None, "limit"),
    ("a node's id that is none", GET, "/updates/x?node=a/b", None, "node"),
)  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "field"), INVALID)
@pytest.mark.parametrize("number", [JSON, CBOR], ids=["json", "cbor"])
def test_what_is_well_formed_and_wrong_is_refused_by_naming_the_field(served, method, path, body, field, number):
    before = served.told(GET, "/health")["jobs"], served.store.tables.nodes.copy()
    path, _, query = path.partition("?")
    arguments = {"query": query.split("&")} if query else {"content_format": number}

    response = served.ask(method, path, body, accept=number, **arguments)

    assert response.code == codes.UNPROCESSABLE_ENTITY, response.text
    if number == JSON:
        told = document(response)
        assert (told["field"], bool(told["error"])) == (field, True)
    else:
        assert response.content_format == PROBLEM_DETAILS_CBOR
        problem = decode_problem(response.body)
        assert problem.title == "4.22 Unprocessable Entity"
        assert (problem.custom[FIELD_ENTRY]["field"], bool(problem.detail)) == (field, True)
    assert (served.told(GET, "/health")["jobs"], served.store.tables.nodes) == before, "something was applied"


def test_a_key_twice_in_a_command_is_a_bad_request(served):
    response = served.ask(POST, "/system", b'{"action": "status", "action": "shutdown"}', content_format=JSON)

    assert response.code == codes.BAD_REQUEST
    assert served.actions == []


NOT_THERE = line(
    ("job", GET, "/updates/nothing", None),
    ("job's status", GET, "/updates/nothing/status", None),
    ("node's job", GET, "/updates/nothing?node=n1", None),
    ("status", POST, "/updates", {"action": "status", "job_id": "nothing"}),
    ("install", POST, "/updates", {"action": "install", "job_id": "nothing"}),
    ("cancel", POST, "/updates", {"action": "cancel", "job_id": "nothing"}),
    ("delete", POST, "/updates", {"action": "delete", "job_id": "nothing"}),
    ("report", POST, "/updates", a_report("nothing", "n1", 1, "waiting")),
    ("artifact of a job", POST, "/updates", {**A_JOB, "artifacts": ["app-1.0-py3-none-any.whl"]}),
    ("target of a job", POST, "/updates", {**A_JOB, "target_nodes": ["nobody"]}),
    ("node", GET, "/nodes/nobody", None),
    ("node's health", GET, "/nodes/nobody/health", None),
    ("report of an unknown node", PUT, "/health", {"node_id": "nobody"}),
    ("artifact", GET, "/firmware/nothing.bin", None),
    ("content", GET, "/firmware/" + "0" * 64, None),
)  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body"), NOT_THERE)
def test_what_is_not_known_is_not_found_and_the_answer_says_so(served, method, path, body):
    path, _, query = path.partition("?")

    response = served.ask(method, path, body, query=[query] if query else [])

    assert response.code == codes.NOT_FOUND
    assert document(response)["error"]


def test_a_path_that_nothing_has_is_not_found(served):
    for path in ("/", "/nowhere", "/nodes/n1/elsewhere", "/firmware/a/b", "/updates/a/b/c"):
        assert served.ask(GET, path).code == codes.NOT_FOUND, path


@pytest.mark.parametrize("path", ["/nodes/nobody", "/firmware/nothing.bin"])
def test_deleting_what_is_not_there_is_a_success(served, path):
    assert served.ask(DELETE, path).code == codes.DELETED


METHODS = {
    "/test": (GET,), "/health": (GET, PUT, codes.IPATCH), "/nodes": (GET, POST), "/nodes/n1": (GET, DELETE),
    "/nodes/n1/health": (GET,), "/nodes/n1/metrics": (GET,), "/updates": (GET, POST), "/updates/j": (GET,),
    "/updates/j/status": (GET,),
    "/firmware": (GET,), "/firmware/f": (GET, PUT, DELETE), "/system": (GET, POST), "/.well-known/core": (GET,),
}  # fmt: skip


@pytest.mark.parametrize("path", METHODS)
def test_other_methods_are_not_allowed(served, path):
    for method in (GET, POST, PUT, DELETE, codes.FETCH, codes.PATCH, codes.IPATCH):
        allowed = served.ask(method, path, {}).code != codes.METHOD_NOT_ALLOWED
        assert allowed == (method in METHODS[path]), codes.code_name(method)


LIVE = (
    (GET, "/test", None), (GET, "/health", None), (PUT, "/health", {"node_id": "n1"}), (GET, "/nodes", None),
    (POST, "/nodes", {"node_id": "n1"}), (GET, "/nodes/n1", None), (GET, "/nodes/n1/health", None),
    (GET, "/updates", None), (POST, "/updates", A_JOB), (GET, "/updates/JOB", None),
    (GET, "/updates/JOB/status", None), (POST, "/updates", {"action": "status", "job_id": "JOB"}),
    (POST, "/updates", {"action": "install", "job_id": "JOB"}),
    (POST, "/updates", a_report("JOB", "n1", 1, "succeeded")),
    (POST, "/updates", {"action": "delete", "job_id": "JOB"}), (GET, "/firmware", None),
    (PUT, "/firmware/f.bin", b"content"), (DELETE, "/firmware/f.bin", None), (GET, "/system", None),
    (POST, "/system", {"action": "status"}), (POST, "/system", {"action": "restart"}), (DELETE, "/nodes/n1", None),
)  # fmt: skip


def with_job(path, body, job_id):
    body = {**body, "job_id": job_id} if isinstance(body, dict) and body.get("job_id") else body
    return path.replace("JOB", job_id), body


@pytest.mark.parametrize("number", [JSON, CBOR], ids=["json", "cbor"])
def test_every_resource_answers_in_the_format_that_is_asked_for_and_says_how_long_it_lasts(served, number):
    served.register("n1")
    job_id = served.created()

    for method, path, body in LIVE:
        path, body = with_job(path, body, job_id)
        json_body = {} if isinstance(body, bytes) or body is None else {"content_format": number}
        response = served.ask(method, path, body, accept=number, **json_body)
        served.world.run_for(1)

        assert response.is_success, (path, body, response.text)
        assert response.content_format == number, path
        assert isinstance(document(response), dict)
        assert response.options.get(MAX_AGE) == b"", f"{path}: Max-Age is not explicitly 0"


def test_the_format_of_the_answer_is_that_of_the_question_where_none_is_asked_for(served):
    for number in (JSON, CBOR):
        assert served.ask(POST, "/nodes", {"node_id": "n1"}, content_format=number).content_format == number
    assert served.ask(POST, "/nodes", {"node_id": "n1"}, content_format=CBOR, accept=JSON).content_format == JSON
    assert served.ask(POST, "/nodes", b'{"node_id": "n1"}').content_format == JSON


@pytest.mark.parametrize(("method", "path", "body"), LIVE)
def test_an_accept_that_is_not_served_is_refused_without_payload_and_nothing_is_done(served, method, path, body):
    served.register("n1")
    path, body = with_job(path, body, served.created())
    job_counts, nodes = served.told(GET, "/health")["jobs"], served.told(GET, "/nodes")

    for number in (TEXT, 30_000):
        response = served.ask(method, path, body, accept=number)
        assert (response.code, response.body) == (codes.NOT_ACCEPTABLE, b""), path

    assert served.told(GET, "/health")["jobs"] == job_counts
    assert served.told(GET, "/nodes") == nodes
    assert served.told(GET, "/firmware")["firmware"] == []
    assert served.actions == []


def test_an_artifact_is_bytes_and_nothing_else(served):
    served.told(PUT, "/firmware/f.bin", b"content")

    assert served.ask(GET, "/firmware/f.bin", accept=OCTET_STREAM).body == b"content"
    for number in (JSON, CBOR, TEXT):
        assert served.ask(GET, "/firmware/f.bin", accept=number).code == codes.NOT_ACCEPTABLE


@pytest.mark.parametrize("payload", [b"<xml/>", b""], ids=["with payload", "without"])
@pytest.mark.parametrize(
    ("method", "path"), [(POST, "/updates"), (POST, "/nodes"), (PUT, "/health"), (POST, "/system")]
)
def test_a_content_format_that_is_not_served_is_refused(served, method, path, payload):
    for number in (41, TEXT, OCTET_STREAM, 30_000):
        assert served.ask(method, path, payload, content_format=number).code == codes.UNSUPPORTED_CONTENT_FORMAT


def test_diagnostic_text_is_for_clients_that_speak_neither_format(served):
    response = served.ask(POST, "/updates", b"<xml/>", content_format=41)

    assert response.content_format is None
    assert "41 (application/xml)" in response.text


def test_an_error_is_not_to_be_remembered_by_caches(served):
    for path in ("/updates/x", "/nodes/x", "/firmware/x"):
        assert served.ask(GET, path).options.get(MAX_AGE) == b""


OPTIONS = line(
    ("a critical option nobody knows", codes.BAD_OPTION, ((65001, b"x"),)),
    ("If-Match where it is not served", codes.BAD_OPTION, ((IF_MATCH, b"x"),)),
    ("If-None-Match where it is not served", codes.BAD_OPTION, ((IF_NONE_MATCH, b""),)),
    ("Proxy-Uri", codes.PROXYING_NOT_SUPPORTED, ((PROXY_URI, b"coap://192.0.2.3/x"),)),
    ("Proxy-Scheme", codes.PROXYING_NOT_SUPPORTED, ((PROXY_SCHEME, b"coap"),)),
    ("a block of reserved size", codes.BAD_REQUEST, ((BLOCK2, b"\x07"),)),
)  # fmt: skip


@pytest.mark.parametrize(("code", "options"), OPTIONS)
def test_options_that_cannot_be_honoured_are_refused(served, code, options):
    assert served.ask(GET, "/nodes", options=options).code == code


def test_a_block_without_those_before_it_is_incomplete(served):
    options = ((BLOCK1, encode_uint(3 << 4 | 6)),)

    assert served.ask(POST, "/updates", b"x", options=options).code == codes.REQUEST_ENTITY_INCOMPLETE
    assert served.ask(PUT, "/firmware/f", b"x", options=options).code == codes.REQUEST_ENTITY_INCOMPLETE


def test_a_command_that_is_too_long_is_refused_with_what_would_be_taken(served):
    for path, most in (("/updates", 65_536), ("/nodes", 8_192)):
        response = served.ask(POST, path, b" " * 70_000)
        assert response.code == codes.REQUEST_ENTITY_TOO_LARGE
        assert decode_uint(response.options.get(SIZE1)) == most


def test_a_document_that_takes_several_blocks_is_understood(served):
    nodes = [f"node-{number:03}" for number in range(200)]
    served.register(*nodes)

    job_id = served.created(target_nodes=nodes)

    assert served.told(GET, f"/updates/{job_id}")["target_nodes"] == nodes


def test_what_a_job_cannot_do_is_refused_with_its_state_and_what_it_can(served):
    served.register("n1")
    job_id = served.running()

    response = served.ask(POST, "/updates", {"action": "install", "job_id": job_id})
    told = document(response)
    problem = served.ask(POST, "/updates", {"action": "delete", "job_id": job_id}, content_format=CBOR)

    assert response.code == codes.CONFLICT
    assert (told["state"], told["legal"]) == ("running", ["pause", "cancel", "retry"])
    assert problem.code == codes.CONFLICT
    assert decode_problem(problem.body).custom[FIELD_ENTRY] == {
        "state": "running", "legal": ["pause", "cancel", "retry"],
    }  # fmt: skip


def test_what_an_execution_cannot_do_is_refused_with_its_state_and_what_it_can(served):
    served.register("n1")
    job_id = served.running()
    assert served.report(job_id, "n1", 5, "testing").is_success

    response = served.report(job_id, "n1", 6, "downloading")

    assert response.code == codes.CONFLICT
    assert document(response)["state"] == "testing"
    assert "committing" in document(response)["legal"]
    assert "downloading" not in document(response)["legal"]


def test_a_store_that_cannot_write_is_unavailable_for_a_while_and_nothing_is_half_applied(served):
    served.store.writes_left = 0

    for method, path, body in (
        (POST, "/nodes", {"node_id": "n1"}), (POST, "/updates", A_JOB), (PUT, "/firmware/f.bin", b"content"),
    ):  # fmt: skip
        response = served.ask(method, path, body)
        assert response.code == codes.SERVICE_UNAVAILABLE
        assert response.options.get(MAX_AGE) == b"\x05"
    served.store.writes_left = None

    assert served.told(GET, "/nodes")["nodes"] == []
    assert served.told(GET, "/updates")["updates"] == []
    assert served.told(GET, "/firmware")["firmware"] == []
    assert served.server.services.artifacts.digests() == []


def test_a_server_that_is_stopping_is_unavailable(served):
    served.register("n1")
    served.server.services.ledger.close()

    for method, path, body in (
        (GET, "/nodes", None), (GET, "/updates/x/status", None), (GET, "/firmware/f", None), (POST, "/updates", A_JOB),
        (DELETE, "/nodes/n1", None), (DELETE, "/firmware/f", None), (PUT, "/firmware/f", b"content"),
    ):  # fmt: skip
        assert served.ask(method, path, body).code == codes.SERVICE_UNAVAILABLE, (method, path)


SPELLINGS = {
    "one segment an option": ("nodes", "n1", "health"),
    "slashes within one option": ("nodes/n1/health",),
    "a leading slash": ("/nodes/n1/health",),
    "a trailing slash": ("nodes", "n1", "health", ""),
    "empty segments": ("nodes", "", "n1", "", "health"),
    "both": ("nodes//n1/", "health"),
    "percent-encoding": ("nodes", "%6E1", "h%65alth"),
    "an encoded slash": ("nodes%2Fn1%2fhealth",),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_path_is_understood_however_it_is_spelled(served, spelling):
    served.register("n1")

    response = served.client.outcome(served.client.send(GET, *SPELLINGS[spelling]))

    assert json.loads(response.body)["node_id"] == "n1"


@pytest.mark.parametrize(
    "spelling", [("nodes", "..", "health"), ("nodes/../health",), ("nodes", "%2e%2E", "health"), ("firmware", "..%2Fx")]
)
@pytest.mark.parametrize("method", [GET, PUT, DELETE])
def test_a_path_that_leads_upwards_is_refused(served, spelling, method):
    response = served.client.outcome(served.client.send(method, *spelling, payload=b"{}"))

    assert response.code == codes.BAD_REQUEST


def test_everything_is_listed_and_can_be_filtered(served):
    listed = served.ask(GET, "/.well-known/core")

    assert listed.content_format == contentformats.LINK_FORMAT
    for path in ("/test", "/health", "/nodes", "/updates", "/firmware", "/system"):
        assert f"<{path}>;" in listed.text
    assert served.ask(GET, "/.well-known/core", query=["rt=fleet.nodes"]).text.count("<") == 1


def test_nothing_is_kept_of_requests_that_were_answered(served):
    served.register("n1")
    for _ in range(3):
        served.ask(GET, "/nodes")
        served.ask(PUT, "/firmware/big", bytes(QUOTA + 1))
        served.ask(POST, "/updates", b"{")
    served.world.run_for(600)

    kept = served.server.endpoint.footprint()
    assert {name: kept[name] for name in ("remembered", "pending", "bodies")} == {
        "remembered": 0, "pending": 0, "bodies": 0,
    }  # fmt: skip
