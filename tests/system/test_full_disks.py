"""Real processes on real file systems that are full: each side says so, and goes on when there is room again."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess

import pytest

from minicoap.asyncio.endpoint import Endpoint
from minicoap.codec import codes
from minicoap.codec.options import SIZE1, decode_uint
from tests.fleet.install.wheels import build_wheel
from tests.system.processes import Machine, Operator, installed_version, make_environment, wait_until

SMALL = 4 << 20  # bytes of the file systems


@pytest.fixture
def small_disk(tmp_path):
    """Make file systems of a few megabytes, below `tmp_path`."""
    mounted = []

    def make(name):
        directory = tmp_path / name
        directory.mkdir()
        try:
            run = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(directory)],
                capture_output=True,
                check=False,
            )
        except FileNotFoundError:
            pytest.skip("there is no mount command")
        if run.returncode:
            pytest.skip(f"no file system can be mounted here: {run.stderr.decode().strip()}")
        mounted.append(directory)
        return directory

    yield make
    for directory in mounted:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def fill(directory):
    """Take all the room that is left; returns the file that does."""
    ballast = directory / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return ballast


def run(scenario, tmp_path):
    async def with_endpoint():
        with Machine(tmp_path) as machine:
            async with Endpoint() as endpoint:
                await scenario(machine, endpoint)

    asyncio.run(with_endpoint())


def test_a_server_without_room_says_so_and_works_again_when_there_is_some(tmp_path, small_disk):
    async def scenario(machine, endpoint):
        disk = small_disk("server")
        server = await machine.server()
        operator = Operator(endpoint, server.uri)
        await operator.post("/nodes", {"node_id": "n1"})
        await operator.put("first.bin", b"first")

        refused = await endpoint.put(f"{server.uri}/firmware/large.bin", bytes(SMALL + 1))
        assert refused.code == codes.REQUEST_ENTITY_TOO_LARGE
        assert 0 < decode_uint(refused.options.get(SIZE1)) < SMALL

        ballast = fill(disk)
        assert (await endpoint.put(f"{server.uri}/firmware/small.bin", b"x" * 5000)).code in (
            codes.SERVICE_UNAVAILABLE, codes.REQUEST_ENTITY_TOO_LARGE,
        )  # fmt: skip
        codes_while_full = []
        for number in range(200):  # the database has some room of its own left
            spoken = await operator.ask(codes.POST, "/nodes", {"node_id": f"more-{number}", "hostname": "x" * 3000})
            codes_while_full.append(spoken.code)
            if spoken.code == codes.SERVICE_UNAVAILABLE:
                break
        assert codes_while_full[-1] == codes.SERVICE_UNAVAILABLE
        assert "disk" in spoken.body["error"]
        assert (await operator.get("/test"))["status"] == "ok"
        assert len((await operator.get("/nodes"))["nodes"]) == len(codes_while_full)

        ballast.unlink()
        await operator.post("/nodes", {"node_id": "after"})
        await operator.put("small.bin", b"x" * 5000)
        server.kill()
        await machine.server(port=server.port)
        names = [item["name"] for item in (await operator.get("/firmware"))["firmware"]]
        assert names == ["first.bin", "small.bin"]
        assert "Traceback" not in machine.said("server")

    run(scenario, tmp_path)


def test_a_node_without_room_for_a_download_says_so_in_the_jobs_status(tmp_path, small_disk):
    async def scenario(machine, endpoint):
        disk = small_disk("n1")
        (tmp_path / "root").mkdir()
        server = await machine.server()
        operator = Operator(endpoint, server.uri)
        machine.agent(server.uri, "n1", "--file-root", str(tmp_path / "root"))
        await operator.online("n1")
        content = os.urandom(SMALL - (1 << 20))
        await operator.put("f.bin", content)
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(2 << 20))

        job_id = await operator.install(artifacts=["f.bin"])
        status = await operator.end_of(job_id)
        execution = status["nodes"]["n1"]
        assert (status["status"], execution["reason"]) == ("failed", "no_space")
        assert execution["output"]
        assert list((tmp_path / "root").iterdir()) == []
        assert sorted(path.name for path in (disk / "downloads").iterdir()) == []

        ballast.unlink()
        await operator.post("/updates", {"action": "retry", "job_id": job_id})
        assert (await operator.end_of(job_id))["status"] == "succeeded"
        assert (tmp_path / "root" / "f.bin").read_bytes() == content
        assert "Traceback" not in machine.said("n1")

    run(scenario, tmp_path)


def test_a_node_whose_environment_has_no_room_keeps_it_as_it_was(tmp_path, small_disk):
    async def scenario(machine, endpoint):
        disk = small_disk("disk")
        python = make_environment(disk / "env")
        server = await machine.server()
        operator = Operator(endpoint, server.uri)
        machine.agent(server.uri, "n1", "--python", python)
        await operator.online("n1")
        wheel = build_wheel(tmp_path, "app", "1.0", {"app.py": "x = 1\n", "data.txt": "x" * SMALL})
        await operator.put(wheel.name, wheel.read_bytes())

        status = await operator.end_of(await operator.install(package_type="pip"))

        assert status["status"] == "failed"
        assert status["nodes"]["n1"]["reason"] == "no_space"
        assert installed_version(python, "app") is None
        assert sorted(path.name for path in disk.iterdir()) == ["env"]

    run(scenario, tmp_path)


def test_an_agent_with_no_room_at_all_stays_a_member_of_its_fleet(tmp_path, small_disk):
    async def scenario(machine, endpoint):
        disk = small_disk("n1")
        server = await machine.server()
        operator = Operator(endpoint, server.uri)
        agent = machine.agent(server.uri, "n1")
        await operator.online("n1")
        agent.kill()
        agent.wait()
        ballast = fill(disk)

        machine.agent(server.uri, "n1")
        await wait_until(lambda: machine.said("n1").count("registered as n1") == 2, "the registration on a full disk")
        await operator.put("f.bin", bytes(500_000))
        status = await operator.end_of(await operator.install(artifacts=["f.bin"]))
        assert (status["status"], status["nodes"]["n1"]["reason"]) == ("failed", "no_space")

        ballast.unlink()
        await operator.post("/updates", {"action": "retry", "job_id": status["job_id"]})
        assert (await operator.end_of(status["job_id"]))["status"] == "succeeded"

    run(scenario, tmp_path)
