"""The founding document's flow and its payloads, to the letter, by other people's clients against our processes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os

import cbor2
import pytest

from tests.fleet.install.wheels import build_wheel
from tests.interop.foreign_clients import CBOR, CLIENTS, JSON, OCTET_STREAM
from tests.system.processes import Machine, installed_version, make_environment, wait_until

CREATE = b"""{
  "name": "python-packages-update",
  "version": "2025.09.16",
  "package_type": "pip",
  "target_nodes": ["all"],
  "packages": ["aiocoap==0.4.7", "aiohttp==3.9.1"]
}"""
CREATE_SHORT = b'{"name": "update", "version": "1.0", "package_type": "pip", "target_nodes": ["all"]}'
TRIGGER = b"""{
  "action": "install",
  "job_id": "abc123-def456-ghi789"
}"""
STATUS = b'{"action": "status", "job_id": "abc123-def456-ghi789"}'
HEALTH = b"""{
  "node_id": "node-123",
  "overall_healthy": true,
  "cpu_percent": 15.5,
  "memory_percent": 45.2,
  "disk_percent": 30.1,
  "temperature": 42.5,
  "services_status": {
    "systemd": true,
    "network": true,
    "ssh": true,
    "docker": false
  },
  "error_messages": ["Service docker is not running"]
}"""
REGISTRATION = b"""{
  "node_id": "worker-03",
  "hostname": "worker-03",
  "ip_address": "<NODE_IP>",
  "status": "online",
  "last_seen": "2025-09-17T10:00:00",
  "services": ["docker", "ssh"],
  "drivers": ["gpio", "i2c"],
  "system_info": {
    "os": "linux",
    "arch": "arm64"
  }
}"""
JOB_ID = b"abc123-def456-ghi789"


def run(scenario, client, tmp_path):
    async def talk():
        with Machine(tmp_path) as machine:
            server = await machine.server()
            async with client.talking_to(server.uri) as foreign:
                await scenario(machine, server, foreign)

    asyncio.run(talk())


async def post(foreign, path, payload):
    heard = await foreign.ask("post", path, payload, content_format=JSON)
    assert heard.is_success, heard
    return json.loads(heard.payload)


async def get(foreign, *path):
    heard = await foreign.ask("get", path)
    assert heard.is_success, heard
    return json.loads(heard.payload)


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_real_package_comes_to_a_real_node(client, tmp_path):
    async def scenario(machine, server, foreign):
        python = make_environment(tmp_path / "env")
        machine.agent(server.uri, "worker-03", "--python", python)

        async def is_there():
            nodes = (await get(foreign, "nodes"))["nodes"]
            return [node for node in nodes if node["health"] is not None]

        (node,) = await wait_until(is_there, "the node's first report")
        wheel = build_wheel(
            tmp_path, "update", "1.0", {"update.py": "x = 1\n", "data.txt": os.urandom(100_000).hex()}
        )  # fmt: skip
        put = await foreign.ask("put", ("firmware", wheel.name), wheel.read_bytes(), content_format=OCTET_STREAM)
        assert json.loads(put.payload)["sha256"] == hashlib.sha256(wheel.read_bytes()).hexdigest()

        created = await post(foreign, ("updates",), CREATE_SHORT)
        job_id = created["job_id"].encode()
        await post(foreign, ("updates",), TRIGGER.replace(JOB_ID, job_id))

        async def ended():
            status = await post(foreign, ("updates",), STATUS.replace(JOB_ID, job_id))
            return status if status["status"] not in ("preparing", "running") else None

        status = await wait_until(ended, "the end of the job")
        assert (status["status"], status["nodes"]["worker-03"]["state"]) == ("succeeded", "succeeded")
        assert installed_version(python, "update") == "1.0"
        assert (await get(foreign, "updates"))["updates"][0]["status"] == "succeeded"
        assert (await foreign.ask("get", ("firmware", wheel.name))).payload == wheel.read_bytes()

        # The node answers them too.
        async with client.talking_to("coap://" + node["address"]) as nodes_client:
            assert (await get(nodes_client, "health"))["node_id"] == "worker-03"
            assert (await get(nodes_client, "system"))["registered"] is True
            hint = json.dumps({"job_id": created["job_id"]}).encode()
            assert (await post(nodes_client, ("updates", "available"), hint))["status"] == "noted"

    run(scenario, client, tmp_path)


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_every_payload_of_the_founding_document_is_taken_as_it_stands(client, tmp_path):
    async def scenario(machine, server, foreign):
        unknown = HEALTH  # its node has not registered yet
        assert (await foreign.ask("put", ("health",), unknown, content_format=JSON)).code == "4.04"
        registered = await post(foreign, ("nodes",), REGISTRATION)
        assert registered["node_id"] == "worker-03"
        await post(foreign, ("nodes",), REGISTRATION.replace(b"worker-03", b"node-123"))
        assert (await foreign.ask("put", ("health",), HEALTH, content_format=JSON)).is_success
        nodes = {node["node_id"]: node for node in (await get(foreign, "nodes"))["nodes"]}
        assert nodes["node-123"]["health"] == json.loads(HEALTH)
        assert nodes["worker-03"]["ip_address"] == "<NODE_IP>"
        assert nodes["worker-03"]["system_info"] == {"os": "linux", "arch": "arm64"}
        assert (await get(foreign, "health"))["nodes"]["registered"] == 2

        assert (await foreign.ask("post", ("updates",), TRIGGER, content_format=JSON)).code == "4.04"
        assert (await foreign.ask("post", ("updates",), STATUS, content_format=JSON)).code == "4.04"
        for payload in (CREATE, CREATE_SHORT):
            job_id = (await post(foreign, ("updates",), payload))["job_id"].encode()
            await post(foreign, ("updates",), TRIGGER.replace(JOB_ID, job_id))
            status = await post(foreign, ("updates",), STATUS.replace(JOB_ID, job_id))
            assert status["name"] == json.loads(payload)["name"]
        assert len((await get(foreign, "updates"))["updates"]) == 2

        assert (await get(foreign, "system"))["status"] == "running"
        assert (await post(foreign, ("system",), b'{"action": "status"}'))["status"] == "running"
        assert (await get(foreign, "test"))["status"] == "ok"
        assert b"</updates>" in (await foreign.ask("get", (".well-known", "core"))).payload
        await post(foreign, ("system",), b'{"action": "restart"}')
        await machine.listening(server.process, "server", 2)
        assert len((await get(foreign, "updates"))["updates"]) == 2
        await post(foreign, ("system",), b'{"action": "shutdown"}')
        await wait_until(lambda: server.process.poll() is not None, "the end of the server")
        assert server.process.returncode == 0

    run(scenario, client, tmp_path)


SPELLINGS = (
    ("nodes", "worker-03", "health"), ("nodes/worker-03/health",), ("/nodes/worker-03/health",),
    ("nodes", "worker-03", "health", ""), ("nodes", "", "worker-03", "", "health"), ("nodes//worker-03", "health/"),
    ("nodes", "worker%2D03", "h%65alth"), ("nodes%2Fworker-03%2Fhealth",),
)  # fmt: skip
UPWARDS = (("nodes", ".."), ("nodes/../nodes",), ("nodes", "%2e%2E"), ("firmware", "..%2f..%2fpasswd"))


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_paths_formats_and_errors_are_as_the_api_says(client, tmp_path):
    async def scenario(machine, server, foreign):
        await post(foreign, ("nodes",), REGISTRATION)
        for spelling in SPELLINGS:
            assert (await get(foreign, *spelling))["node_id"] == "worker-03", spelling
        for spelling in UPWARDS:
            assert (await foreign.ask("get", spelling)).code == "4.00", spelling

        in_cbor = await foreign.ask(
            "post", ("updates",), cbor2.dumps(json.loads(CREATE)), content_format=CBOR, accept=CBOR
        )  # fmt: skip
        assert set(cbor2.loads(in_cbor.payload)) == {"job_id", "status"}
        listed = await foreign.ask("get", ("updates",), accept=CBOR)
        assert cbor2.loads(listed.payload)["updates"][0]["version"] == "2025.09.16"

        wrong = CREATE_SHORT.replace(b'"pip"', b'"deb"')
        refused = await foreign.ask("post", ("updates",), wrong, content_format=JSON)
        assert (refused.code, json.loads(refused.payload)["field"]) == ("4.22", "$.package_type")
        for code, method, path, payload, options in (
            ("4.00", "post", ("nodes",), b"{", {"content_format": JSON}),
            ("4.04", "get", ("nodes", "nobody"), b"", {}),
            ("4.05", "delete", ("test",), b"", {}),
            ("4.06", "get", ("test",), b"", {"accept": 41}),
            ("4.15", "post", ("nodes",), b"<xml/>", {"content_format": 41}),
        ):
            assert (await foreign.ask(method, path, payload, **options)).code == code, (method, path)
        assert (await foreign.ask("delete", ("firmware", "nothing.bin"))).is_success

    run(scenario, client, tmp_path)


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
@pytest.mark.parametrize("size", [1, 1024, 300_001])
def test_a_body_of_any_size_goes_there_and_comes_back(client, size, tmp_path):
    content = os.urandom(size)

    async def scenario(machine, server, foreign):
        put = await foreign.ask("put", ("firmware", "f.bin"), content, content_format=OCTET_STREAM)
        digest = json.loads(put.payload)["sha256"]
        assert digest == hashlib.sha256(content).hexdigest()
        for name in ("f.bin", digest):
            assert (await foreign.ask("get", ("firmware", name))).payload == content

    run(scenario, client, tmp_path)
