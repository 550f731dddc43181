"""Server and agent with `--debug`, as processes: what each of them says is the same conversation."""

from __future__ import annotations

import asyncio
import json

from minicoap.asyncio.endpoint import Endpoint
from tests.system.processes import Machine, Operator


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
