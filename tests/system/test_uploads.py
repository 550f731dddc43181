"""`fleet firmware put` in real processes that are killed, on either side: what came stays, and is gone on with."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
from collections import Counter

import pytest

from fleet.operator.client import WINDOW
from minicoap.asyncio.endpoint import Endpoint
from minicoap.codec import codes
from minicoap.codec.message import decode
from minicoap.codec.options import BLOCK1
from tests.system.certified import Fleet, scenario
from tests.system.processes import PATIENCE, Machine, Operator, wait_until
from tests.system.relay import Relay

CONTENT = os.urandom(2 << 20)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
BLOCKS = len(CONTENT) // 1024


def block_sent(data: bytes):
    """The number of the block of an artifact that is in a datagram, None where there is none."""
    message = decode(data)
    value = message.options.uint(BLOCK1)
    return None if message.code != codes.PUT or value is None else value >> 4


def blocks_sent(relay: Relay, since: int = 0) -> Counter[int]:
    """How often each block was sent to the server, repetitions of a message counted once."""
    seen = {
        (each.client, decode(each.data).message_id): block_sent(each.data)
        for each in relay.passed[since:]
        if each.to_server and block_sent(each.data) is not None
    }
    return Counter(seen.values())


def stop_at(relay: Relay, number: int) -> asyncio.Event:
    """Let no block from `number` on through; the event says that one of them came."""
    reached = asyncio.Event()

    def passes(data: bytes, to_server: bool) -> bool:
        block = block_sent(data) if to_server else None
        if block is None or block < number:
            return True
        reached.set()
        return False

    relay.passes = passes
    return reached


def run(scenario, tmp_path, *arguments):
    async def with_endpoint():
        (tmp_path / "big.bin").write_bytes(CONTENT)
        with Machine(tmp_path) as machine:
            async with Endpoint() as endpoint:
                await scenario(machine, endpoint, *arguments)

    asyncio.run(with_endpoint())


def put(machine: Machine, relay: Relay, *arguments: str):
    return machine.start(
        "put", "firmware", "put", str(machine.directory / "big.bin"), "--server", relay.uri, *arguments
    )  # fmt: skip


async def ended(process) -> int:
    await wait_until(lambda: process.poll() is not None, "the end of the upload", 3 * PATIENCE)
    return process.returncode


async def is_stored(operator: Operator) -> bool:
    (listed,) = (await operator.get("/firmware"))["firmware"]
    whole = await operator.endpoint.get(f"{operator.uri}/firmware/{SHA256}", window=WINDOW)
    return (listed["name"], listed["sha256"], whole.body) == ("big.bin", SHA256, CONTENT)


@pytest.mark.parametrize("arguments", [(), ("--if-none-match",)])
def test_a_put_that_is_killed_goes_on_where_it_stood_when_it_is_run_again(tmp_path, arguments):
    async def scenario(machine, endpoint):
        server = await machine.server()
        operator = Operator(endpoint, server.uri)
        async with Relay(("127.0.0.1", server.port)) as relay:
            reached = stop_at(relay, BLOCKS // 2)
            process = put(machine, relay, *arguments)
            await asyncio.wait_for(reached.wait(), PATIENCE)

            async def first_half_is_there():
                return (await operator.get(f"/firmware?sha256={SHA256}"))["bytes_done"] == len(CONTENT) // 2

            await wait_until(first_half_is_there, "the blocks before the one that was held back")
            process.send_signal(signal.SIGKILL)
            process.wait()
            relay.passes = None
            since = len(relay.passed)

            assert await ended(put(machine, relay, *arguments)) == 0, machine.said("put")
            sent = blocks_sent(relay, since)
            if arguments:
                assert sent.pop(0) == 1  # which the condition is in
            assert sorted(sent) == list(range(BLOCKS // 2, BLOCKS))
        assert await is_stored(operator)

    run(scenario, tmp_path)


def test_a_server_that_is_killed_during_a_put_is_gone_on_with_by_the_same_put(tmp_path):
    async def scenario(machine, endpoint):
        server = await machine.server()
        operator = Operator(endpoint, server.uri)
        async with Relay(("127.0.0.1", server.port)) as relay:
            reached = stop_at(relay, BLOCKS // 2)
            process = put(machine, relay)
            await asyncio.wait_for(reached.wait(), PATIENCE)
            server.kill()
            relay.passes = None
            server = await machine.server(port=server.port)

            assert await ended(process) == 0, machine.said("put")
            sent = blocks_sent(relay)
        assert sorted(sent) == list(range(BLOCKS))
        again = [number for number, times in sent.items() if times > 1]
        assert len(again) <= 2 * WINDOW, "more was sent again than was under way"
        assert await is_stored(operator)

    run(scenario, tmp_path)


def test_both_may_be_killed_and_the_put_be_run_again(tmp_path):
    async def scenario(machine, endpoint):
        server = await machine.server()
        async with Relay(("127.0.0.1", server.port)) as relay:
            reached = stop_at(relay, BLOCKS // 2)
            process = put(machine, relay)
            await asyncio.wait_for(reached.wait(), PATIENCE)
            process.send_signal(signal.SIGKILL)
            process.wait()
            server.kill()
            relay.passes = None
            server = await machine.server(port=server.port)
            since = len(relay.passed)

            assert await ended(put(machine, relay)) == 0, machine.said("put")
            sent = blocks_sent(relay, since)
        assert BLOCKS // 2 - 2 * WINDOW <= min(sent) <= BLOCKS // 2
        assert max(sent) == BLOCKS - 1
        assert await is_stored(Operator(endpoint, server.uri))

    run(scenario, tmp_path)


def test_a_file_that_has_changed_meanwhile_is_another_content(tmp_path):
    async def scenario(machine, endpoint):
        server = await machine.server()
        operator = Operator(endpoint, server.uri)
        async with Relay(("127.0.0.1", server.port)) as relay:
            reached = stop_at(relay, BLOCKS // 2)
            process = put(machine, relay)
            await asyncio.wait_for(reached.wait(), PATIENCE)
            process.send_signal(signal.SIGKILL)
            process.wait()
            relay.passes = None
            since = len(relay.passed)
            changed = CONTENT[::-1]
            (tmp_path / "big.bin").write_bytes(changed)

            assert await ended(put(machine, relay)) == 0, machine.said("put")
            assert min(blocks_sent(relay, since)) == 0
        whole = await operator.endpoint.get(f"{operator.uri}/firmware/big.bin", window=WINDOW)
        assert whole.body == changed

    run(scenario, tmp_path)


def test_a_put_over_coaps_goes_on_in_another_session(tmp_path):
    content = os.urandom(6 << 20)
    sha256 = hashlib.sha256(content).hexdigest()

    async def play(fleet: Fleet) -> None:
        (tmp_path / "big.bin").write_bytes(content)
        command = ("firmware", "put", str(tmp_path / "big.bin"))
        as_alice = ("--server", fleet.uri, "--credentials", str(tmp_path / "alice"))
        process = fleet.start("put", *command, *as_alice)
        part = tmp_path / "server" / "artifacts" / "parts" / sha256
        await wait_until(lambda: part.exists() and part.stat().st_size > 1 << 19, "the first blocks")
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "killed too late"
        async with fleet.endpoint("alice") as alice:  # who is heard behind what the put had sent
            asked = await alice.get(f"{fleet.uri}/firmware?sha256={sha256}")
        there = json.loads(asked.body)["bytes_done"]
        said = fleet.as_operator(*command, "--debug").stderr
        first = next(line for line in said.splitlines() if "Block1" in line)
        assert f"Block1: {there // 1024}," in first
        async with fleet.endpoint("alice") as alice:
            assert (await alice.get(f"{fleet.uri}/firmware/{sha256}", window=WINDOW)).body == content

    scenario(tmp_path, play)
