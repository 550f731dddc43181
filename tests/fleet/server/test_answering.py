"""Whoever asked is answered, whatever happens in what waits for the ledger."""

from __future__ import annotations

import logging

import pytest

from fleet.server.services import Services
from minicoap.codec import codes
from minicoap.codec.codes import DELETE, GET, POST, PUT
from minicoap.codec.contentformats import OCTET_STREAM
from tests.fleet.server.serving import Served

CASES = {
    "a page": (GET, "/nodes", None, "fleet.server.resources.nodes.NodesAnswer"),
    "an outcome": (POST, "/nodes", {"node_id": "n2"}, "fleet.server.resources.nodes.RegistrationAnswer"),
    "a removal": (DELETE, "/nodes/n2", None, "fleet.server.resources.nodes.RemovedAnswer"),
    "a new job": (POST, "/updates", {"name": "a", "version": "1", "package_type": "pip", "target_nodes": ["n1"]},
                  "fleet.server.resources.updates.CreateAnswer"),
    "what waits": (GET, "/updates/{job}?node=n1", None, "fleet.server.resources.updates.NodeJobAnswer"),
    "a status": (GET, "/updates/{job}/status", None, "fleet.server.resources.updates.StatusAnswer"),
    "an upload": (PUT, "/firmware/x", b"content", "fleet.server.resources.firmware.StoredAnswer"),
    "a deletion": (DELETE, "/firmware/x", None, "fleet.server.resources.firmware.DeletedAnswer"),
    "the audit": (GET, "/audit", None, "fleet.server.resources.audit.AuditAnswer"),
}  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "broken"), CASES.values(), ids=CASES)
def test_what_breaks_behind_the_ledger_is_logged_and_answered(method, path, body, broken, monkeypatch, caplog):
    served = Served()
    served.register("n1")
    path, _, query = path.format(job=served.running()).partition("?")
    arguments = {"query": (query,)} if query else {}
    if isinstance(body, bytes):
        arguments["content_format"] = OCTET_STREAM
    monkeypatch.setattr(broken, _breaks)

    with caplog.at_level(logging.ERROR):
        response = served.ask(method, path, body, **arguments)

    assert response.code == codes.INTERNAL_SERVER_ERROR
    assert b"broken" not in response.body
    assert [record.exc_info[1].args for record in caplog.records] == [("broken",)]
    monkeypatch.undo()
    assert served.ask(method, path, body, **arguments).is_success, "something is held for ever"


def _breaks(*_arguments: object, **_fields: object) -> None:
    raise RuntimeError("broken")


def test_what_broke_holds_no_place_for_others(monkeypatch):
    served = Served()
    served.register("n1")
    job = {"name": "a", "version": "1", "package_type": "pip", "target_nodes": ["n1"]}
    with monkeypatch.context() as patched:
        patched.setattr("fleet.server.resources.updates.CreateAnswer", _breaks)
        for _ in range(40):
            assert served.ask(POST, "/updates", job).code == codes.INTERNAL_SERVER_ERROR

    assert served.ask(POST, "/updates", job).code == codes.CREATED


def test_the_blocks_of_a_content_that_was_found_cost_no_query(monkeypatch):
    served = Served()
    served.ask(PUT, "/firmware/x", b"content", content_format=OCTET_STREAM)
    (listed,) = served.told(GET, "/firmware")["firmware"]
    path = f"/firmware/{listed['sha256']}"
    assert served.ask(GET, path).body == b"content"
    with monkeypatch.context() as patched:
        patched.setattr(Services, "query", _breaks)
        assert served.ask(GET, path).body == b"content"

    served.ask(DELETE, "/firmware/x")

    assert served.ask(GET, path).code == codes.NOT_FOUND
