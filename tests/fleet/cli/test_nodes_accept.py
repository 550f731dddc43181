"""`fleet nodes list --pending`, `accept` and `reject`: what is asked of the server, and what is shown of its answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minicoap.codec import codes
from tests.fleet.operator.fake_fleet import FakeFleet, document

KEY = "ab" * 32
WAITING = {
    "node_id": "pump-7", "key": KEY, "address": "192.0.2.9", "asked_at": "2026-01-01T00:00:00.000Z",
    "seen_at": "2026-01-01T00:00:00.000Z", "replaces": True,
}  # fmt: skip


def test_those_who_wait_are_listed_with_the_fingerprint_of_their_key(fake: FakeFleet, fleet: Any) -> None:
    fake.say("GET", "/enrolments", {"enrolments": [WAITING]})

    lines = fleet("nodes", "list", "--pending").out.splitlines()

    assert lines[0].split() == ["NODE", "ADDRESS", "ASKED", "REPLACES", "KEY"]
    assert lines[1].startswith("pump-7  192.0.2.9")
    assert lines[1].endswith(f"yes       {KEY}")
    assert json.loads(fleet("nodes", "list", "--pending", "--json").out) == {"enrolments": [WAITING]}
    fake.say("GET", "/enrolments", {"enrolments": []})
    assert fleet("nodes", "list", "--pending").out == "nobody waits\n"


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (("accept", "pump-7"), {"action": "accept", "node_id": "pump-7", "replace": False}),
        (
            ("accept", "pump-7", "--key", "ab:cd", "--replace"),
            {"action": "accept", "node_id": "pump-7", "key": "ab:cd", "replace": True},
        ),
        (("reject", "pump-7"), {"action": "reject", "node_id": "pump-7", "replace": False}),
    ],
)
def test_a_decision_is_told_to_the_server(fake: FakeFleet, fleet: Any, arguments: Any, asked: Any) -> None:
    status = arguments[0] + "ed"
    fake.say("POST", "/enrolments", {"node_id": "pump-7", "status": status, "key": KEY, "serial": None})

    ran = fleet("nodes", *arguments)

    assert (ran.code, ran.out) == (0, f"pump-7  {status}\n")
    assert fake.last.body == asked


def test_what_the_server_refuses_is_told(fake: FakeFleet, fleet: Any) -> None:
    error = {"error": "2 devices ask for pump-7: say which by its key's fingerprint", "field": "$.key"}
    fake.say("POST", "/enrolments", document(error, codes.UNPROCESSABLE_ENTITY))

    ran = fleet("nodes", "accept", "pump-7")

    assert (ran.code, "2 devices ask" in ran.err, "$.key" in ran.err) == (1, True, True)
    assert fleet("nodes", "accept", "pump-7", "--server", fake.uri + "/x").code == 2
