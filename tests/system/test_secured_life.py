"""What comes to pass in the life of a secured fleet: certificates end, servers die, devices are shut out."""

from __future__ import annotations

import os
import time
from pathlib import Path

from fleet.pki.keystore import Keystore
from minicoap.asyncio.endpoint import Endpoint
from minicoap.codec import codes
from tests.system.certified import Fleet, scenario
from tests.system.processes import Operator, wait_until

LIFETIME = 5  # seconds of a short-lived certificate


def test_a_node_renews_its_certificate_before_it_ends_and_nobody_notices(tmp_path: Path) -> None:
    async def play(fleet: Fleet) -> None:
        directory = str(tmp_path / "n1" / "credentials")
        fleet.pki("issue", "node", "n1", "--lifetime", f"{LIFETIME}s", "--out", directory)
        keystore = Keystore(directory)
        first = keystore.holder()
        assert first is not None
        fleet.agent(fleet.uri, "n1")
        async with fleet.endpoint("alice") as endpoint:
            operator = Operator(endpoint, fleet.uri)
            await operator.online("n1")

            def is_renewed() -> bool:
                holder = keystore.holder()
                return holder is not None and holder.not_after > first.not_after + 86_400

            await wait_until(is_renewed, "the next certificate", within=LIFETIME)
            await wait_until(lambda: time.time() > first.not_after + 2, "the end of the first one")
            # A job goes both ways, and needs the server to know the node by its new certificate.
            await operator.put("app.bin", b"content")
            job = await operator.install(artifacts=["app.bin"])
            assert (await operator.end_of(job))["status"] == "succeeded"
            rows = (await operator.get("/audit?what=certificate"))["entries"]
            assert ("node n1", "certificate.renew", "ok") in {(row["who"], row["what"], row["result"]) for row in rows}
            assert (await operator.get("/audit?what=access"))["entries"] == [], "nothing was refused"
        assert "no success" not in fleet.said("n1")

    scenario(tmp_path, play)


def test_a_server_that_is_killed_in_mid_download_gets_its_nodes_back_and_the_job_goes_on(tmp_path: Path) -> None:
    async def play(fleet: Fleet) -> None:
        fleet.enroll("n1")
        fleet.agent(fleet.uri, "n1")
        content = os.urandom(6_000_000)
        async with fleet.endpoint("alice") as endpoint:
            operator = Operator(endpoint, fleet.uri)
            await operator.online("n1")
            await operator.put("app.bin", content)
            job = await operator.install(artifacts=["app.bin"])

            async def is_under_way() -> bool:
                return (await operator.states(job)).get("n1") == "downloading"

            await wait_until(is_under_way, "the download")
        fleet.process.kill()
        fleet.process.wait()
        port = fleet.uri.rpartition(":")[2]
        server = await fleet.server("--secure-port", port)
        assert await fleet.listening(server.process, "server", 2, "coaps") == fleet.uri
        async with fleet.endpoint("alice") as endpoint:
            operator = Operator(endpoint, fleet.uri)
            assert (await operator.end_of(job))["status"] == "succeeded"
            (attempt,) = {node["attempt"] for node in (await operator.status(job))["nodes"].values()}
            assert attempt == 1
        assert fleet.node_file("n1", "app.bin").read_bytes() == content

    scenario(tmp_path, play)


def test_a_node_at_work_that_is_revoked_is_shut_out_within_seconds(tmp_path: Path) -> None:
    async def play(fleet: Fleet) -> None:
        fleet.enroll("n1")
        fleet.agent(fleet.uri, "n1")
        async with fleet.endpoint("alice") as endpoint:
            operator = Operator(endpoint, fleet.uri)
            await operator.online("n1")
            fleet.pki("revoke", "node", "n1", "--reason", "key-compromise")

            await wait_until(lambda: "refuses our certificate" in fleet.said("n1"), "the refusal", within=5)

            job = await operator.install(artifacts=[await put(operator)])
            seen = (await operator.get("/nodes/n1"))["last_seen"]
            refused = fleet.said("server").count("certificate is revoked")
            await wait_until(
                lambda: fleet.said("server").count("certificate is revoked") > refused + 1, "its further attempts"
            )
            assert (await operator.states(job))["n1"] == "pending"
            assert (await operator.get("/nodes/n1"))["last_seen"] == seen
            (row,) = (await operator.get("/audit?what=certificate.revoke"))["entries"]
            assert (row["who"], row["result"]) == ("this machine", "ok")

    scenario(tmp_path, play)


async def put(operator: Operator) -> str:
    await operator.put("app.bin", b"content")
    return "app.bin"


def test_a_device_that_is_rejected_is_told_and_gets_nothing(tmp_path: Path) -> None:
    async def play(fleet: Fleet) -> None:
        fingerprint = fleet.pki("fingerprint").splitlines()[-1]
        place = ["--node-id", "n1", "--data-dir", str(tmp_path / "n1"), "--fingerprint", fingerprint]
        process = fleet.start("enroll", "enroll", "--server", fleet.uri, *place, "--wait")

        async def waits() -> bool:
            return "n1" in fleet.as_operator("nodes", "list", "--pending").stdout

        await wait_until(waits, "the request that waits")
        fleet.as_operator("nodes", "reject", "n1")
        await wait_until(lambda: process.poll() is not None, "its end")

        assert process.returncode == 1
        assert "rejected" in fleet.said("enroll")
        assert Keystore(str(tmp_path / "n1" / "credentials")).holder() is None

    scenario(tmp_path, play)


def test_coaps_is_served_on_all_addresses_and_plain_coap_on_loopback_only(tmp_path: Path) -> None:
    async def play(fleet: Fleet) -> None:
        plain = await fleet.listening(fleet.process, "server")
        async with fleet.endpoint("alice") as alice, Endpoint() as anybody:
            for host in ("127.0.0.1", "127.0.0.2", "[::1]"):
                uri = fleet.uri.replace("127.0.0.1", host)
                assert (await alice.get(uri + "/nodes")).code == codes.CONTENT
                with_scheme = uri.replace("coaps:", "coap:")
                assert not await Operator(anybody, with_scheme).answers(), "no plain CoAP on the port of CoAPS"
            assert await Operator(anybody, plain).answers()
            assert not await Operator(anybody, plain.replace("127.0.0.1", "127.0.0.2")).answers()
            await Operator(alice, fleet.uri.replace("127.0.0.1", "127.0.0.2")).put("app.bin", b"content")
            rows = (await Operator(alice, fleet.uri).get("/audit?limit=1000"))["entries"]
            assert "firmware.put" in {row["what"] for row in rows}
            assert {row["host"] for row in rows} <= {"", "127.0.0.1", "127.0.0.2", "::1"}, "as a person writes them"
        assert "plain CoAP on loopback: everyone on this machine is an operator" in fleet.said("server")

    scenario(tmp_path, play)
