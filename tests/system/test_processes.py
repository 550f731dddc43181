"""Real processes that are killed, told to stop, and full: nothing is lost, nothing half-applied."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3

import pytest

from fleet.agent.download import WINDOW
from minicoap.asyncio.endpoint import Endpoint
from minicoap.codec import codes
from minicoap.codec.message import decode
from tests.fleet.install.wheels import build_wheel
from tests.system.processes import Machine, Operator, installed_version, make_environment, wait_until
from tests.system.relay import Relay, block_asked

CONTENT = os.urandom(4 << 20)
BLOCKS = len(CONTENT) // 1024
NODES = ("n1", "n2", "n3")


def run(scenario, tmp_path, *arguments):
    """Run a scenario with a machine of its own and an endpoint to speak from."""

    async def with_endpoint():
        with Machine(tmp_path) as machine:
            async with Endpoint() as endpoint:
                await scenario(machine, endpoint, *arguments)

    asyncio.run(with_endpoint())


def test_a_server_that_is_killed_while_nodes_download_goes_on_with_the_job(tmp_path):
    async def scenario(machine, endpoint):
        server = await machine.server()
        operator = Operator(endpoint, server.uri)
        for node_id in NODES:
            machine.agent(server.uri, node_id)
        await operator.online(*NODES)
        await operator.put("big.bin", CONTENT)
        job_id = await operator.install(artifacts=["big.bin"])

        async def all_download():
            return set((await operator.states(job_id)).values()) == {"downloading"}

        await wait_until(all_download, "three downloads")
        server.kill()
        server = await machine.server(port=server.port)
        before = await operator.status(job_id)
        after = await operator.end_of(job_id)

        assert (before["status"], set(before["counts"])) == ("running", {"downloading"}), "killed too late"
        assert (after["status"], after["counts"]) == ("succeeded", {"succeeded": 3})
        for node_id in NODES:
            assert machine.node_file(node_id, "big.bin").read_bytes() == CONTENT

    run(scenario, tmp_path)


def test_an_agent_that_is_killed_at_half_of_a_download_goes_on_at_the_block_where_it_stood(tmp_path):
    async def scenario(machine, endpoint):
        server = await machine.server()
        operator = Operator(endpoint, server.uri)
        async with Relay(("127.0.0.1", server.port)) as relay:
            agent = machine.agent(relay.uri, "n1")
            await operator.online("n1")
            await operator.put("big.bin", CONTENT)
            reached = asyncio.Event()

            def up_to_the_middle(data, to_server):
                if to_server and (block_asked(decode(data)) or 0) >= BLOCKS // 2:
                    reached.set()
                return not reached.is_set()

            relay.passes = up_to_the_middle
            job_id = await operator.install(artifacts=["big.bin"])
            await asyncio.wait_for(reached.wait(), 60)
            agent.send_signal(signal.SIGKILL)
            agent.wait()
            before = relay.blocks_asked()
            relay.passes = None
            machine.agent(relay.uri, "n1")
            after = await operator.end_of(job_id)

            asked = relay.blocks_asked()
            again = {number: count for number, count in asked.items() if count > 1}
            assert 0 <= max(before) - BLOCKS // 2 < WINDOW, "killed somewhere else"
            under_way = range(BLOCKS // 2 - WINDOW, BLOCKS // 2 + WINDOW)
            assert set(again) <= set(under_way), "blocks that were there were asked for again"
            assert sorted(asked) == list(range(BLOCKS))
        assert after["status"] == "succeeded"
        assert machine.node_file("n1", "big.bin").read_bytes() == CONTENT

    run(scenario, tmp_path)


def test_a_restart_that_is_asked_for_happens_by_itself_on_the_same_port_with_everything_kept(tmp_path):
    async def scenario(machine, endpoint):
        server = await machine.server()
        operator = Operator(endpoint, server.uri)
        await operator.post("/nodes", {"node_id": "n1"})
        stored = await operator.put("f.bin", b"content")
        job = {"name": "app", "version": "1.0", "package_type": "file", "target_nodes": ["all"], "artifacts": ["f.bin"]}
        create = {**job, "request_id": "create-1"}
        created = await operator.post("/updates", create)
        installed = {"action": "install", "job_id": created["job_id"], "request_id": "install-1"}
        first = await operator.post("/updates", installed)

        for times in (2, 3):
            restart = {"action": "restart", "request_id": f"restart-{times}"}
            assert await operator.post("/system", restart) == {"status": "restarting"}
            assert await machine.listening(server.process, "server", times) == server.uri
            await wait_until(operator.answers, "the restarted server")
            assert await operator.post("/system", restart) == {"status": "restarting"}
            assert await operator.post("/updates", create) == created
            assert await operator.post("/updates", installed) == first
            assert (await operator.status(created["job_id"]))["status"] == "running"
            assert [node["node_id"] for node in (await operator.get("/nodes"))["nodes"]] == ["n1"]
            assert (await endpoint.get(f"{server.uri}/firmware/{stored['sha256']}")).body == b"content"

        await operator.post("/system", {"action": "shutdown"})
        await wait_until(lambda: server.process.poll() is not None, "the end of the server")
        assert machine.said("server").count("listening on") == 3, "a repeat restarted it again"

    run(scenario, tmp_path)


def test_the_founding_documents_restart_and_shutdown(tmp_path):
    async def scenario(machine, endpoint):
        server = await machine.server()
        operator = Operator(endpoint, server.uri)
        assert await operator.post("/system", {"action": "restart"}) == {"status": "restarting"}
        await machine.listening(server.process, "server", 2)
        assert (await operator.post("/system", {"action": "status"}))["status"] == "running"

        assert await operator.post("/system", {"action": "shutdown"}) == {"status": "shutting down"}
        assert await wait_until(lambda: server.process.poll() is not None, "the end of the server")
        assert server.process.returncode == 0

    run(scenario, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_server_and_an_agent_that_are_told_to_stop_do_so_at_once_and_lose_nothing(tmp_path, number):
    async def scenario(machine, endpoint):
        server = await machine.server()
        operator = Operator(endpoint, server.uri)
        agent = machine.agent(server.uri, "n1")
        await operator.online("n1")
        for process in (agent, server.process):
            process.send_signal(number)
            await wait_until(lambda process=process: process.poll() is not None, "its end", within=10)
            assert process.returncode == 0

        await machine.server(port=server.port)
        (node,) = (await operator.get("/nodes"))["nodes"]
        assert node["health"]["node_id"] == "n1", "the last report was not flushed"
        assert "Traceback" not in machine.said("server") + machine.said("n1")

    run(scenario, tmp_path)


def test_a_second_server_or_agent_on_the_same_data_is_refused(tmp_path):
    async def scenario(machine, endpoint):
        server = await machine.server()
        machine.agent(server.uri, "n1")
        await Operator(endpoint, server.uri).online("n1")

        second_server = machine.start("second", "server", "--port", "0", "--data-dir", str(tmp_path / "server"))
        second_agent = machine.start(
            "other", "agent", "--server", server.uri, "--node-id", "n2", "--port", "0",
            "--data-dir", str(tmp_path / "n1"),
        )  # fmt: skip
        for process, name in ((second_server, "second"), (second_agent, "other")):
            await wait_until(lambda process=process: process.poll() is not None, "its end")
            assert process.returncode == 2
            assert "another" in machine.said(name) and "--data-dir" in machine.said(name)
        assert await Operator(endpoint, server.uri).answers()

    run(scenario, tmp_path)


def test_without_push_a_job_is_done_by_the_nodes_reports(tmp_path):
    async def scenario(machine, endpoint):
        server = await machine.server("--no-push")
        operator = Operator(endpoint, server.uri)
        async with Relay(("127.0.0.1", server.port)) as relay:
            machine.agent(relay.uri, "n1")
            await operator.online("n1")
            await operator.put("f.bin", b"content")
            job_id = await operator.install(artifacts=["f.bin"])
            after = await operator.end_of(job_id)
            pushed = [each for each in relay.passed if not each.to_server and codes.is_request(decode(each.data).code)]

        assert (after["status"], pushed) == ("succeeded", [])
        assert machine.node_file("n1", "f.bin").read_bytes() == b"content"

    run(scenario, tmp_path)


def test_an_agent_that_finds_no_server_can_be_stopped_and_finds_it_when_it_comes(tmp_path):
    async def scenario(machine, endpoint):
        first = await machine.server()
        first.kill()
        lost = machine.agent("coap://nowhere.invalid", "lost", "--insecure")
        await wait_until(lambda: "nowhere.invalid" in machine.said("lost"), "the failed look-up")
        lost.send_signal(signal.SIGTERM)
        await wait_until(lambda: lost.poll() is not None, "the end of the agent", within=5)
        assert lost.returncode == 0

        machine.agent(first.uri, "n1")
        await wait_until(lambda: "no success" in machine.said("n1"), "the failed registration")
        await machine.server(port=first.port)
        await Operator(endpoint, first.uri).online("n1")

    run(scenario, tmp_path)


def test_servers_and_agents_speak_ipv6_too(tmp_path):
    async def scenario(machine, endpoint):
        server = await machine.server("--host", "::1")
        assert server.uri.startswith("coap://[::1]:")
        operator = Operator(endpoint, server.uri)
        machine.agent(server.uri, "n1")
        await operator.online("n1")
        await operator.put("f.bin", b"content")

        assert (await operator.end_of(await operator.install(artifacts=["f.bin"])))["status"] == "succeeded"
        (node,) = (await operator.get("/nodes"))["nodes"]
        assert node["address"].startswith("[::1]:")

    try:
        asyncio.run(_bind_ipv6())
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    run(scenario, tmp_path)


async def _bind_ipv6():
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("::1", 0)
    )
    transport.close()


WRONG_STARTS = {
    "plain CoAP for all": (("server", "--host", "0.0.0.0", "--port", "0"), "--insecure"),
    "an address of another machine": (("server", "--host", "192.0.2.1", "--insecure"), "192.0.2.1"),
    "a server far away": (("agent", "--server", "coap://192.0.2.1", "--node-id", "n"), "--insecure"),
    "a server's path": (("agent", "--server", "coap://127.0.0.1/x", "--node-id", "n"), "--server"),
    "another scheme": (("agent", "--server", "http://127.0.0.1", "--node-id", "n"), "--server"),
    "an id that is a path": (("agent", "--server", "coap://127.0.0.1", "--node-id", "../n"), "node"),
}


@pytest.mark.parametrize("what", WRONG_STARTS)
def test_what_cannot_work_is_said_at_the_start(tmp_path, what):
    async def scenario(machine, endpoint):
        arguments, text = WRONG_STARTS[what]
        process = machine.start("wrong", *arguments, "--data-dir", str(tmp_path / "data"))
        await wait_until(lambda: process.poll() is not None, "its end")

        assert process.returncode == 2
        assert text in machine.said("wrong")
        assert "Traceback" not in machine.said("wrong")

    run(scenario, tmp_path)


def test_a_database_that_is_none_is_said_to_be(tmp_path):
    async def scenario(machine, endpoint):
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "fleet.sqlite").write_bytes(b"this is no database " * 500)
        process = machine.start("wrong", "server", "--port", "0", "--data-dir", str(tmp_path / "data"))
        await wait_until(lambda: process.poll() is not None, "its end")

        assert process.returncode == 2
        assert "fleet.sqlite" in machine.said("wrong")
        assert "Traceback" not in machine.said("wrong")

    run(scenario, tmp_path)


def test_the_database_is_whole_after_all_that(tmp_path):
    async def scenario(machine, endpoint):
        server = await machine.server()
        operator = Operator(endpoint, server.uri)
        for number in range(50):
            await operator.post("/nodes", {"node_id": f"n{number}"})
        server.kill()
        with sqlite3.connect(tmp_path / "server" / "fleet.sqlite") as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        database.close()
        await machine.server(port=server.port)
        assert len((await operator.get("/nodes"))["nodes"]) == 50

    run(scenario, tmp_path)


def test_a_wheel_whose_bytes_are_not_those_of_its_hash_is_never_installed(tmp_path):
    async def scenario(machine, endpoint):
        server = await machine.server()
        operator = Operator(endpoint, server.uri)
        python = make_environment(tmp_path / "env")
        # No report of health wakes this agent in the meantime: the hint and its own work have to.
        machine.agent(server.uri, "n1", "--python", python, "--health-interval", "3600")
        await operator.online("n1")
        wheel = build_wheel(tmp_path, "app", "1.1", {"app.py": "x = 1\n"})
        stored = await operator.put(wheel.name, wheel.read_bytes())
        job = {"name": "app", "version": "1.1", "package_type": "pip", "target_nodes": ["all"]}
        created = await operator.post("/updates", job)
        content = tmp_path / "server" / "artifacts" / "contents" / stored["sha256"]
        content.write_bytes(wheel.read_bytes().replace(b"x = 1", b"x = 2"))
        await operator.post("/updates", {"action": "install", "job_id": created["job_id"]})

        status = await operator.end_of(created["job_id"])
        execution = status["nodes"]["n1"]
        assert (status["status"], execution["state"], execution["reason"]) == ("failed", "failed", "hash_mismatch")
        assert stored["sha256"] in execution["output"]
        assert installed_version(python, "app") is None

        await operator.put(wheel.name, wheel.read_bytes())
        await operator.post("/updates", {"action": "retry", "job_id": created["job_id"]})
        status = await operator.end_of(created["job_id"])
        assert (status["status"], status["nodes"]["n1"]["attempt"]) == ("succeeded", 2)
        assert installed_version(python, "app") == "1.1"

    run(scenario, tmp_path)


def test_a_version_that_does_not_exist_fails_with_that_reason_and_leaves_the_environment_as_it_was(tmp_path):
    async def scenario(machine, endpoint):
        server = await machine.server()
        operator = Operator(endpoint, server.uri)
        python = make_environment(tmp_path / "env")
        before = sorted(path.relative_to(tmp_path) for path in (tmp_path / "env").rglob("*"))
        machine.agent(server.uri, "n1", "--python", python)
        await operator.online("n1")
        wheel = build_wheel(tmp_path, "app", "1.0", {"app.py": ""})
        await operator.put(wheel.name, wheel.read_bytes())
        fields = {"name": "app", "version": "9.9", "package_type": "pip", "packages": ["app==9.9"]}

        status = await operator.end_of(await operator.install(**fields))

        execution = status["nodes"]["n1"]
        assert (status["status"], execution["state"]) == ("failed", "rolled_back")
        assert execution["reason"] == "version_not_found"
        assert "app==9.9" in execution["output"]
        assert sorted(path.relative_to(tmp_path) for path in (tmp_path / "env").rglob("*")) == before

    run(scenario, tmp_path)
