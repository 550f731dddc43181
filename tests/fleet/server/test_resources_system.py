"""The server about itself: what it is and uses, restart and shutdown."""

from __future__ import annotations

import pytest

from minicoap.codec import codes
from minicoap.codec.contentformats import CBOR
from tests.fleet.server.serving import Served, document

GET, POST = codes.GET, codes.POST


def test_the_server_says_what_it_is_and_uses(served):
    served.told(codes.PUT, "/firmware/f", b"12345")

    told = served.told(GET, "/system")

    assert (told["status"], told["host"]["arch"], told["process"]["threads"]) == ("running", "aarch64", 3)
    assert told["store"] == {"artifact_bytes": 5, "artifact_quota": 65536}
    assert told["uptime"] > 0
    assert told["version"]


def test_a_status_by_post_is_the_same(served):
    by_get, by_post = served.told(GET, "/system"), served.ask(POST, "/system", {"action": "status"})

    assert by_post.code == codes.CHANGED
    assert document(by_post).keys() == by_get.keys()
    assert served.actions == []


@pytest.mark.parametrize("number", [None, CBOR], ids=["json", "cbor"])
@pytest.mark.parametrize(("action", "status"), [("restart", "restarting"), ("shutdown", "shutting down")])
def test_the_founding_documents_actions_are_answered_and_carried_out(served, action, status, number):
    arguments = {} if number is None else {"content_format": number}

    response = served.ask(POST, "/system", {"action": action}, **arguments)

    assert (response.code, document(response)) == (codes.CHANGED, {"status": status})
    assert served.actions == [action]


def test_a_repeated_restart_is_carried_out_once_also_after_it():
    served = Served()
    restart = {"action": "restart", "request_id": "r-1"}

    for _ in range(2):
        assert served.told(POST, "/system", restart) == {"status": "restarting"}
        assert served.told(POST, "/system", restart) == {"status": "restarting"}
        served.boot()
    assert served.actions == ["restart"]

    assert served.told(POST, "/system", {**restart, "request_id": "r-2"}) == {"status": "restarting"}
    assert served.actions == ["restart", "restart"]


def test_a_request_id_of_another_action_is_refused(served):
    served.told(POST, "/system", {"action": "restart", "request_id": "r"})

    response = served.ask(POST, "/system", {"action": "shutdown", "request_id": "r"})

    assert (response.code, document(response)["field"]) == (codes.UNPROCESSABLE_ENTITY, "$.request_id")
    assert served.actions == ["restart"]


def test_a_full_disk_keeps_nobody_from_restarting(served):
    served.files.is_full = lambda operation, path: True

    assert served.told(POST, "/system", {"action": "restart", "request_id": "r"}) == {"status": "restarting"}
    assert served.actions == ["restart"]
