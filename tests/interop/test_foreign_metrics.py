"""Metrics as other people's clients fetch them from our process: SenML by its media types, also block by block."""

from __future__ import annotations

import asyncio
import json

import cbor2
import pytest

from tests.interop.foreign_clients import CLIENTS, JSON
from tests.system.processes import Machine

SENML_JSON, SENML_CBOR = 110, 112


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_senml_is_fetched_in_json_and_cbor(client, tmp_path):
    async def scenario(foreign):
        for path, message in (
            (("nodes",), {"node_id": "n1"}),
            (("health",), {"node_id": "n1", "cpu_percent": 15.5, "temperature": 42.5}),
        ):
            method = "post" if path == ("nodes",) else "put"
            heard = await foreign.ask(method, path, json.dumps(message).encode(), content_format=JSON)
            assert heard.is_success, heard

        heard = await foreign.ask("get", ("nodes", "n1", "metrics"), accept=SENML_JSON)
        cpu, temperature = json.loads(heard.payload)
        assert (cpu["bn"], cpu["bu"], cpu["v"]) == ("node:n1:cpu", "/", 0.155)
        assert (temperature["bn"], temperature["bu"], temperature["v"]) == ("node:n1:temperature", "Cel", 42.5)
        assert cpu["bt"] % 300 == 0
        heard = await foreign.ask("get", ("nodes", "n1", "metrics"), accept=SENML_CBOR)
        assert [(entry[-2], entry[2]) for entry in cbor2.loads(heard.payload)] == [
            ("node:n1:cpu", 0.155), ("node:n1:temperature", 42.5)
        ]  # fmt: skip
        refused = await foreign.ask("get", ("nodes", "n1", "metrics"), accept=0)
        assert (refused.code, refused.payload) == ("4.06", b"")

    async def talk():
        with Machine(tmp_path) as machine:
            server = await machine.server()
            async with client.talking_to(server.uri) as foreign:
                await scenario(foreign)

    asyncio.run(talk())
