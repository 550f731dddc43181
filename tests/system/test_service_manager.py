"""Real processes under a pretended service manager: what they tell it, when they fall silent, how they stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import sys

import pytest

from minicoap.asyncio.endpoint import Endpoint
from minicoap.codec import codes
from tests.system.manager import Manager
from tests.system.processes import Machine, Operator, wait_until

# Runs `fleet`; on SIGUSR1 the event loop stands still.
LOOP_STICKS = """
import signal, sys, time
def stick(*_):
    while True:
        time.sleep(1)
signal.signal(signal.SIGUSR1, stick)
from fleet.cli.main import main
sys.exit(main(sys.argv[1:]))
"""

# Runs `fleet`; on SIGUSR1 the thread that writes stands still, and the loop goes on.
LEDGER_STICKS = """
import signal, sys, threading
from fleet.server.store.sqlite import SqliteLedger
def stick(*_):
    SqliteLedger._commit = lambda self, batch: threading.Event().wait()
signal.signal(signal.SIGUSR1, stick)
from fleet.cli.main import main
sys.exit(main(sys.argv[1:]))
"""

# Runs `fleet server` with each commit taking a second.
SLOW_LEDGER = """
import sys, time
from fleet.server.store.sqlite import SqliteLedger
commit = SqliteLedger._commit
def slow(self, batch):
    time.sleep(float(sys.argv[1]))
    commit(self, batch)
SqliteLedger._commit = slow
from fleet.cli.main import main
sys.exit(main(sys.argv[2:]))
"""

# Runs `fleet agent` with its first argument in the place of the interpreter that installers run in.
OTHER_INSTALLER = """
import sys
sys.executable = sys.argv[1]
from fleet.cli.main import main
sys.exit(main(sys.argv[2:]))
"""

# Becomes `fleet` with the descriptor that is its first argument as the socket that systemd passes on.
ACTIVATED = """
import os, sys
os.dup2(int(sys.argv[1]), 3, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=sys.argv[2], LISTEN_FDNAMES="fleet-server.socket")
os.execv(sys.executable, [sys.executable, "-m", "fleet.cli.main", *sys.argv[3:]])
"""


def run(scenario, tmp_path, *arguments):
    async def with_endpoint():
        with Machine(tmp_path) as machine:
            async with Endpoint() as endpoint:
                await scenario(machine, endpoint, *arguments)

    asyncio.run(with_endpoint())


def is_ready(words):
    return "READY" in words


def beats(words):
    return "WATCHDOG" in words


def python(code):
    return (sys.executable, "-c", code)


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_a_server_and_an_agent_tell_when_they_are_ready_how_they_are_and_that_they_stop(tmp_path, abstract):
    async def scenario(machine, endpoint):
        with Manager(abstract=abstract) as of_server, Manager(abstract=abstract) as of_agent:
            server = await machine.server(variables=of_server.variables)
            ready = await of_server.hears(is_ready)
            assert ready["STATUS"] == f"serving on {server.uri}; nodes: none yet"
            assert await Operator(endpoint, server.uri).answers(), "ready, and serves nobody"

            agent = machine.agent(server.uri, "n1", variables=of_agent.variables)
            assert (await of_agent.hears(is_ready))["STATUS"] == f"looking for {server.uri}"
            told = f"node n1, registered with {server.uri}; no job"
            await of_agent.hears(lambda words: beats(words) and words.get("STATUS") == told)
            await of_server.hears(lambda words: words.get("STATUS", "").endswith("nodes: 1 online"))

            for process, manager in ((agent, of_agent), (server.process, of_server)):
                for _ in range(3):
                    await manager.hears(beats)
                process.send_signal(signal.SIGTERM)
                await manager.hears(lambda words: "STOPPING" in words)
                await wait_until(lambda process=process: process.poll() is not None, "its end")
                assert process.returncode == 0

    run(scenario, tmp_path)


@pytest.mark.parametrize("code", [LOOP_STICKS, LEDGER_STICKS], ids=["loop", "ledger"])
def test_a_server_that_is_stuck_falls_silent(tmp_path, code):
    async def scenario(machine, endpoint):
        with Manager() as manager:
            server = await machine.server(command=python(code), variables=manager.variables)
            for _ in range(2):
                await manager.hears(beats)
            server.process.send_signal(signal.SIGUSR1)

            await manager.falls_silent()

            assert server.process.poll() is None

    run(scenario, tmp_path)


def test_an_agent_that_is_stuck_falls_silent(tmp_path):
    async def scenario(machine, endpoint):
        with Manager() as manager:
            agent = machine.agent("coap://127.0.0.1:9", "n1", command=python(LOOP_STICKS), variables=manager.variables)
            await manager.hears(beats)
            agent.send_signal(signal.SIGUSR1)

            await manager.falls_silent()

            assert agent.poll() is None

    run(scenario, tmp_path)


def test_an_agent_that_cannot_find_its_server_is_ready_and_alive(tmp_path):
    async def scenario(machine, endpoint):
        with Manager() as manager:
            agent = machine.agent("coap://fleet.invalid", "n1", "--insecure", variables=manager.variables)

            assert (await manager.hears(is_ready))["STATUS"] == "looking for coap://fleet.invalid"
            for _ in range(3):
                await manager.hears(beats)
            agent.send_signal(signal.SIGTERM)
            await wait_until(lambda: agent.poll() is not None, "its end")
            assert agent.returncode == 0

    run(scenario, tmp_path)


def test_a_restart_is_a_reload_of_the_same_process(tmp_path):
    async def scenario(machine, endpoint):
        with Manager() as manager:
            server = await machine.server(variables=manager.variables)
            operator = Operator(endpoint, server.uri)
            await manager.hears(is_ready)

            await operator.post("/system", {"action": "restart"})

            reloading = await manager.hears(lambda words: "RELOADING" in words)
            assert int(reloading["MONOTONIC_USEC"]) > 0
            await manager.hears(is_ready)
            assert await machine.listening(server.process, "server", 2) == server.uri
            await manager.hears(beats)
            assert server.process.poll() is None
            assert await operator.answers()
            assert not [words for words in manager.heard if "STOPPING" in words]

    run(scenario, tmp_path)


def activated(machine, sock, *arguments, count=1, manager=None):
    command = (*python(ACTIVATED), str(sock.fileno()), str(count))
    variables = manager.variables if manager else None
    flags = ("server", "--data-dir", str(machine.directory / "server"), *arguments)
    return machine.start("server", *flags, command=command, variables=variables, pass_fds=[sock.fileno()])


def test_a_server_serves_on_the_socket_that_it_is_born_with_and_so_does_its_successor(tmp_path):
    async def scenario(machine, endpoint):
        with Manager() as manager, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            uri = f"coap://127.0.0.1:{sock.getsockname()[1]}"
            operator = Operator(endpoint, uri)
            early = asyncio.ensure_future(operator.get("/nodes"))  # waits in the socket until there is a server
            process = activated(machine, sock, manager=manager)

            assert (await early)["nodes"] == []
            assert await machine.listening(process, "server", 1) == uri
            for times in (2, 3):
                await operator.post("/system", {"action": "restart"})
                assert await machine.listening(process, "server", times) == uri
                await wait_until(operator.answers, "the restarted server")
            assert os.path.realpath(f"/proc/{process.pid}/exe") == os.path.realpath(sys.executable)
            process.send_signal(signal.SIGTERM)
            await wait_until(lambda: process.poll() is not None, "its end")
            assert process.returncode == 0

    run(scenario, tmp_path)


@pytest.mark.parametrize(
    ("kind", "address", "count", "said"),
    [
        (socket.SOCK_DGRAM, "0.0.0.0", 1, "plain CoAP on 0.0.0.0 can be read and forged"),
        (socket.SOCK_STREAM, "127.0.0.1", 1, "not for UDP"),
        (socket.SOCK_DGRAM, "127.0.0.1", 3, "LISTEN_FDS=3: give a socket for CoAP, one for CoAPS, or both"),
    ],
)
def test_a_socket_that_will_not_do_is_refused(tmp_path, kind, address, count, said):
    with Machine(tmp_path) as machine, socket.socket(socket.AF_INET, kind) as sock:
        sock.bind((address, 0))
        process = activated(machine, sock, count=count)

        assert process.wait(60) == 2
        assert said in machine.said("server")


def test_an_answer_that_the_disk_delays_still_leaves_before_the_end(tmp_path):
    async def scenario(machine, endpoint):
        server = await machine.server(command=(*python(SLOW_LEDGER), "1.5"))
        operator = Operator(endpoint, server.uri)
        asked = asyncio.ensure_future(operator.ask(codes.POST, "/nodes", {"node_id": "n1"}))
        await asyncio.wait_for(operator.get("/test"), 60)  # answered at once, and after the other was taken in
        server.process.send_signal(signal.SIGTERM)

        assert (await asked).code == codes.CREATED
        await wait_until(lambda: server.process.poll() is not None, "its end")
        assert server.process.returncode == 0

    run(scenario, tmp_path)


def test_a_second_signal_ends_the_waiting_and_loses_nothing_that_was_committed(tmp_path):
    async def scenario(machine, endpoint):
        with Manager() as manager:
            server = await machine.server(command=(*python(SLOW_LEDGER), "4"), variables=manager.variables)
            operator = Operator(endpoint, server.uri)
            asked = asyncio.ensure_future(operator.ask(codes.POST, "/nodes", {"node_id": "n1"}))
            await asyncio.wait_for(operator.get("/test"), 60)
            server.process.send_signal(signal.SIGTERM)
            await manager.hears(lambda words: "STOPPING" in words)
            server.process.send_signal(signal.SIGTERM)
            await wait_until(lambda: server.process.poll() is not None, "its end")
            asked.cancel()

            assert server.process.returncode == 0
            assert "Traceback" not in machine.said("server")
            with sqlite3.connect(tmp_path / "server" / "fleet.sqlite") as database:
                assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            database.close()

    run(scenario, tmp_path)


def test_an_agent_that_is_stopped_in_an_installation_ends_it_and_goes_on_at_the_next_start(tmp_path):
    installer, noted = tmp_path / "installer", tmp_path / "pid"
    installer.write_text(f"#!/bin/sh\necho $$ > {noted}.new && mv {noted}.new {noted}\nexec sleep 1000\n")
    installer.chmod(0o755)

    async def scenario(machine, endpoint):
        server = await machine.server()
        operator = Operator(endpoint, server.uri)
        agent = machine.agent(server.uri, "n1", command=(*python(OTHER_INSTALLER), str(installer)))
        await operator.online("n1")
        await operator.put("f.bin", b"content")
        job_id = await operator.install(artifacts=["f.bin"])
        await wait_until(noted.exists, "the installer")
        child = int(noted.read_text())
        agent.send_signal(signal.SIGTERM)
        agent.send_signal(signal.SIGTERM)
        await wait_until(lambda: agent.poll() is not None, "its end", within=30)
        assert agent.returncode == 0
        assert not os.path.exists(f"/proc/{child}"), "the installer outlives the agent"
        assert (await operator.status(job_id))["status"] == "running"

        machine.agent(server.uri, "n1")
        assert (await operator.end_of(job_id))["status"] == "succeeded"
        assert machine.node_file("n1", "f.bin").read_bytes() == b"content"

    run(scenario, tmp_path)
