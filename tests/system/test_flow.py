"""The demo's flow on real sockets in one process: server and agents in their shells, and real environments."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AsyncExitStack
from pathlib import Path

from fleet.agent.agent import Agent
from fleet.agent.config import AgentConfig
from fleet.host.boot import SystemBoot
from fleet.host.clock import SystemClock
from fleet.host.facts import LinuxFacts
from fleet.host.files import SystemFiles
from fleet.host.processes import SystemProcesses
from fleet.operator.client import Fleet
from fleet.server.config import ServerConfig
from fleet.server.server import Server
from fleet.server.store.sqlite import SqliteLedger
from minicoap.asyncio.addresses import resolve_local
from minicoap.asyncio.endpoint import Endpoint
from minicoap.shell.entropy import SystemEntropy
from minicoap.shell.udp import UdpShell, open_socket
from tests.fleet.install.wheels import build_wheel
from tests.system.processes import Operator, installed_version, make_environment, wait_until

NODES = ("worker-01", "worker-02", "worker-03")


class ServerHere:
    """The server in this process, on any free port."""

    def __init__(self, directory: Path, **settings) -> None:
        self.config = ServerConfig(port=0, data_dir=str(directory), health_interval=1.0, **settings)

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        self.files = SystemFiles()
        family, address = await resolve_local("127.0.0.1", 0, loop)
        sock = open_socket(family, address)
        self.uri = f"coap://127.0.0.1:{sock.getsockname()[1]}"
        Path(self.config.data_dir).mkdir(exist_ok=True)
        self.shell = None
        self.ledger = SqliteLedger(
            f"{self.config.data_dir}/fleet.sqlite", lambda done: loop.call_soon_threadsafe(self._complete, done)
        )
        server = Server(
            self.config, ledger=self.ledger, clock=SystemClock(), entropy=SystemEntropy(), files=self.files,
            facts=LinuxFacts(self.config.data_dir), servers=(self.uri,), act=lambda action: None,
        )  # fmt: skip
        ready = asyncio.Event()
        server.start(ready.set)
        await ready.wait()
        self.shell = UdpShell(server, sock, loop)
        return self

    def _complete(self, done):
        done()
        if self.shell is not None:
            self.shell.wake()

    async def __aexit__(self, *_):
        self.shell.close()
        self.ledger.close()
        self.files.close()


class AgentHere:
    """An agent in this process."""

    def __init__(self, server: str, node_id: str, directory: Path, python: str, processes=None) -> None:
        self.processes = processes
        self.config = AgentConfig(server, node_id, str(directory), python=python, file_root=f"{directory}-files")

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        self.files = SystemFiles()
        family, address = await resolve_local("127.0.0.1", 0, loop)
        processes = WakingProcesses(self.processes or SystemProcesses(loop))
        agent = Agent(
            self.config, ("127.0.0.1", int(self.config.server.rpartition(":")[2])), clock=SystemClock(),
            entropy=SystemEntropy(), files=self.files, facts=LinuxFacts("."), processes=processes,
            boot=SystemBoot(processes),
        )  # fmt: skip
        agent.start()
        self.shell = processes.shell = UdpShell(agent, open_socket(family, address), loop)
        return self

    async def __aexit__(self, *_):
        self.shell.close()
        self.files.close()


class WakingProcesses:
    """Children after whose end the agent's shell is woken; all agents here have the same process."""

    shell: UdpShell

    def __init__(self, processes: SystemProcesses) -> None:
        self.processes = processes

    def run(self, arguments, input, timeout, done):
        def ended(result):
            done(result)
            self.shell.wake()

        return self.processes.run(arguments, input, timeout, ended)


def test_a_package_is_rolled_out_to_three_nodes_and_then_its_next_version(tmp_path):
    async def scenario():
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(ServerHere(tmp_path / "server"))
            pythons = {node: make_environment(tmp_path / f"env-{node}") for node in NODES}
            processes = SystemProcesses(asyncio.get_running_loop())
            for node in NODES:
                agent = AgentHere(server.uri, node, tmp_path / node, pythons[node], processes)
                await stack.enter_async_context(agent)
            endpoint = await stack.enter_async_context(Endpoint())
            fleet, operator = Fleet(endpoint, server.uri), Operator(endpoint, server.uri)
            await operator.online(*NODES)
            seen: dict[str, None] = {}
            for version, end in (("1.0", "succeeded"), ("1.1", "succeeded"), ("1.1", "already_installed")):
                wheel = build_wheel(
                    tmp_path, "greeting", version, {"greeting.py": f"VERSION = {version!r}\n", "more": "x" * 50_000}
                )  # fmt: skip
                stored = await fleet.put_artifact(wheel.name, wheel.read_bytes())
                assert stored.value["sha256"] == hashlib.sha256(wheel.read_bytes()).hexdigest()
                job = {"name": "greeting", "version": version, "package_type": "pip", "target_nodes": ["all"]}
                job_id = (await fleet.create(job)).value.job_id
                await fleet.act("install", job_id)

                async def ended(job_id=job_id):
                    pages = [page.value async for page in fleet.status(job_id)]
                    seen.update(dict.fromkeys(node.state for node in pages[0].nodes.values()))
                    return pages[0] if pages[0].status not in ("preparing", "running") else None

                status = await wait_until(ended, "the end of the job")
                assert (status.status, status.counts) == ("succeeded", {end: 3}), status
                assert {node: installed_version(pythons[node], "greeting") for node in NODES} == dict.fromkeys(
                    NODES, version
                )

            assert {"installing", "succeeded", "already_installed"} <= set(seen)
            assert (await fleet.health()).value["jobs"] == {"succeeded": 3}

    asyncio.run(scenario())


def test_files_come_to_their_place_or_not_at_all(tmp_path):
    async def scenario():
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(ServerHere(tmp_path / "server"))
            await stack.enter_async_context(AgentHere(server.uri, "n1", tmp_path / "n1", "/nowhere"))
            operator = Operator(await stack.enter_async_context(Endpoint()), server.uri)
            await operator.online("n1")
            root = tmp_path / "n1-files"
            for name, content in (("a.conf", b"a = 1\n"), ("b.bin", bytes(5000))):
                await operator.put(name, content)
            wishes = [{"name": "a.conf", "path": "etc/app/a.conf", "mode": "0640"}, "b.bin"]

            assert (await operator.end_of(await operator.install(artifacts=wishes)))["status"] == "succeeded"
            assert (root / "etc/app/a.conf").read_bytes() == b"a = 1\n"
            assert (root / "etc/app/a.conf").stat().st_mode & 0o777 == 0o640
            assert (root / "b.bin").read_bytes() == bytes(5000)

            await operator.put("a.conf", b"a = 2\n")
            (root / "in-the-way").mkdir()
            wishes = [{"name": "a.conf", "path": "etc/app/a.conf"}, {"name": "b.bin", "path": "in-the-way"}]
            status = await operator.end_of(await operator.install(artifacts=wishes))
            assert status["status"] == "failed"
            assert status["nodes"]["n1"]["reason"]
            assert (root / "etc/app/a.conf").read_bytes() == b"a = 1\n", "half of a job was applied"

    asyncio.run(scenario())


def test_a_node_without_an_environment_says_that(tmp_path):
    async def scenario():
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(ServerHere(tmp_path / "server"))
            await stack.enter_async_context(AgentHere(server.uri, "n1", tmp_path / "n1", "/nowhere/bin/python"))
            operator = Operator(await stack.enter_async_context(Endpoint()), server.uri)
            await operator.online("n1")

            status = await operator.end_of(await operator.install(package_type="pip"))

            execution = status["nodes"]["n1"]
            assert (status["status"], execution["state"]) == ("failed", "rejected")
            assert execution["reason"] == "environment_missing"
            assert "/nowhere/bin/python" in execution["output"]

    asyncio.run(scenario())


def test_a_job_that_is_cancelled_in_the_middle_of_a_download_leaves_nothing(tmp_path):
    async def scenario():
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(ServerHere(tmp_path / "server"))
            await stack.enter_async_context(AgentHere(server.uri, "n1", tmp_path / "n1", "/nowhere"))
            operator = Operator(await stack.enter_async_context(Endpoint()), server.uri)
            await operator.online("n1")
            await operator.put("big.bin", bytes(4 << 20))
            job_id = await operator.install(artifacts=["big.bin"])

            async def downloads():
                return (await operator.states(job_id)).get("n1") == "downloading"

            await wait_until(downloads, "the download")

            assert (await operator.post("/updates", {"action": "cancel", "job_id": job_id}))["status"] == "cancelling"
            status = await operator.end_of(job_id)

            assert (status["status"], status["counts"]) == ("cancelled", {"cancelled": 1})
            assert not (tmp_path / "n1-files" / "big.bin").exists()
            assert list((tmp_path / "n1" / "downloads").iterdir()) == []

    asyncio.run(scenario())
