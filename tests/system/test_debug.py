"""Server and agent with `--debug`, as processes: what each of them says is the same conversation."""

from __future__ import annotations

import asyncio
import json

import pytest

from minicoap.asyncio.endpoint import Endpoint
from tests.system.processes import Machine, Operator, wait_until


def test_server_and_agent_show_their_messages(tmp_path):
    asyncio.run(scenario(tmp_path))


async def scenario(directory):
    with Machine(directory) as machine:
        server = await machine.server("--debug")
        machine.agent(server.uri, "n1", "--debug=json")
        async with Endpoint() as endpoint:
            await Operator(endpoint, server.uri).online("n1")
        told_by_server = machine.said("server").splitlines()
        told_by_agent = machine.said("n1").splitlines()
    assert any(" <- " in line and "  POST /nodes | " in line for line in told_by_server)
    assert any(" -> " in line and "  2.01 Created | " in line for line in told_by_server)
    documents = [json.loads(line) for line in told_by_agent if line.startswith("{")]
    targets = [document["message"].get("target") for document in documents if document["event"] == "message"]
    assert targets[0] == "/nodes"
    assert "log" in {document["event"] for document in documents}


def test_enrolment_over_coaps_is_shown_by_both_sides_without_its_token(tmp_path):
    pytest.importorskip("OpenSSL")
    from tests.system.test_secured import Fleet

    async def play():
        with Fleet(tmp_path) as fleet:
            await fleet.begin("--debug")
            token = fleet.pki("token", "--node", "n1").splitlines()[0]
            fingerprint = fleet.pki("fingerprint").splitlines()[-1]
            told = fleet.enroll("n1", "--fingerprint", fingerprint, "--debug", FLEET_TOKEN=token)
            await wait_until(lambda: "not shown: enrolment  (POST" in fleet.said("server"), "the server's answer")
            said = fleet.said("server")
            assert "2.05 Content" in fleet.as_operator("health", "--debug").stderr
            await wait_until(lambda: " alice  CON " in fleet.said("server"), "the operator by name")
        for text in (told, said):
            assert "POST /.well-known/est/sen | Content-Format: application/pkcs10" in text
            assert token not in text
            assert token.encode().hex() not in text

    asyncio.run(play())
