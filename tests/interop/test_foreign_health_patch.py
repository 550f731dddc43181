"""Reports of what changed, as another's client makes them: iPATCH, If-Match and ETag of aiocoap."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.system.processes import Machine

JSON, MERGE_PATCH = 50, 52


def test_aiocoap_patches_a_report_and_is_told_when_it_was_another(tmp_path):
    aiocoap = pytest.importorskip("aiocoap")

    async def talk():
        with Machine(tmp_path) as machine:
            server = await machine.server()
            context = await aiocoap.Context.create_client_context()

            async def ask(code, path, body=None, number=JSON, if_match=()):
                message = aiocoap.Message(code=code, uri=server.uri + path)
                if body is not None:
                    message.payload, message.opt.content_format = json.dumps(body).encode(), number
                message.opt.if_match = if_match
                return await asyncio.wait_for(context.request(message).response, 30)

            try:
                await ask(aiocoap.POST, "/nodes", {"node_id": "n1"})
                put = await ask(aiocoap.PUT, "/health", {"node_id": "n1", "cpu_percent": 1.5, "disk_percent": 2.5})
                changes = {"node_id": "n1", "cpu_percent": 7.5, "disk_percent": None}
                patched = await ask(aiocoap.iPATCH, "/health", changes, MERGE_PATCH, (put.opt.etag,))
                assert patched.code == aiocoap.CHANGED
                assert patched.opt.etag not in (None, put.opt.etag)
                told = await ask(aiocoap.GET, "/nodes/n1/health")
                assert json.loads(told.payload)["health"] == {"node_id": "n1", "cpu_percent": 7.5}
                late = await ask(aiocoap.iPATCH, "/health", changes, MERGE_PATCH, (put.opt.etag,))
                assert late.code == aiocoap.PRECONDITION_FAILED
                other = await ask(aiocoap.iPATCH, "/health", changes, JSON, (patched.opt.etag,))
                assert other.code == aiocoap.UNSUPPORTED_CONTENT_FORMAT
                unknown = await ask(aiocoap.iPATCH, "/health", {"node_id": "n2"}, MERGE_PATCH, (b"1",))
                assert unknown.code == aiocoap.NOT_FOUND
            finally:
                await context.shutdown()

    asyncio.run(talk())
