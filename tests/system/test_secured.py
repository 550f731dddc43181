"""A fleet over CoAPS, in real processes: secured by three commands, and staying so."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fleet.pki.connection import client_credentials, stranger_credentials
from fleet.pki.keystore import Keystore
from minicoap.asyncio.endpoint import Endpoint
from minicoap.codec import codes
from minicoap.errors import CoapError, NetworkError
from tests.system.certified import Fleet, scenario
from tests.system.processes import COMMAND, ROOT, Operator, environment, wait_until


def test_a_fleet_is_secured_by_three_commands_and_installs_over_coaps(tmp_path: Path) -> None:
    async def play(fleet: Fleet) -> None:
        assert "is enrolled until" in fleet.enroll("n1")
        fleet.agent(fleet.uri, "n1")
        async with fleet.endpoint("alice") as endpoint:
            operator = Operator(endpoint, fleet.uri)
            await operator.online("n1")
            content = os.urandom(100_000)
            await operator.put("app.bin", content)
            job = await operator.install(artifacts=[{"name": "app.bin", "path": "app.bin"}])
            assert (await operator.end_of(job))["status"] == "succeeded"
            assert fleet.node_file("n1", "app.bin").read_bytes() == content
            who = {(entry["who"], entry["what"]) for entry in (await operator.get("/audit"))["entries"]}
            assert ("operator alice", "job.create") in who
            assert ("node n1", "node.register") in who
        for log in ("server", "n1"):
            assert "PRIVATE KEY" not in fleet.said(log)

    scenario(tmp_path, play)


def test_a_node_shows_itself_to_its_server_and_to_who_may_look_and_to_nobody_else(tmp_path: Path) -> None:
    async def play(fleet: Fleet) -> None:
        fleet.enroll("n1")
        fleet.enroll("n2")
        fleet.agent(fleet.uri, "n1")
        async with fleet.endpoint("alice") as alice:
            operator = Operator(alice, fleet.uri)
            await operator.online("n1")
            (node,) = (await operator.get("/nodes"))["nodes"]
        plain, secure = "coap://" + node["address"], "coaps://" + node["address"]
        async with Endpoint() as stranger:
            with pytest.raises(NetworkError):  # a node that speaks CoAPS serves no plain CoAP
                await stranger.get(plain + "/health", timeout=2)
        holder = Keystore(str(tmp_path / "n2" / "credentials")).holder()
        assert holder is not None
        credentials = client_credentials(holder)
        credentials.server = "urn:fleet:node:"
        async with Endpoint(credentials=credentials) as other:
            assert (await other.get(secure + "/health")).code == codes.FORBIDDEN
            hint = await other.post(secure + "/updates/available", b'{"job_id": "x"}', content_format=50)
            assert hint.code == codes.FORBIDDEN
        holder = Keystore(str(tmp_path / "alice")).holder()
        assert holder is not None
        credentials = client_credentials(holder)
        credentials.server = "urn:fleet:node:"
        async with Endpoint(credentials=credentials) as alice:
            assert (await alice.get(secure + "/health")).code == codes.CONTENT
            hint = await alice.post(secure + "/updates/available", b'{"job_id": "x"}', content_format=50)
            assert hint.code == codes.FORBIDDEN

    scenario(tmp_path, play)


def test_a_device_without_a_token_waits_until_an_operator_has_compared_its_key(tmp_path: Path) -> None:
    async def play(fleet: Fleet) -> None:
        fingerprint = fleet.pki("fingerprint").splitlines()[-1]
        place = ["--node-id", "n1", "--data-dir", str(tmp_path / "n1"), "--fingerprint", fingerprint]
        process = fleet.start("enroll", "enroll", "--server", fleet.uri, *place, "--wait")

        async def waits() -> bool:
            return "n1" in fleet.as_operator("nodes", "list", "--pending").stdout

        await wait_until(waits, "the request that waits")
        assert "fingerprint of this device's key" in fleet.said("enroll")
        fleet.as_operator("nodes", "accept", "n1")
        await wait_until(lambda: process.poll() is not None, "the certificate")
        assert process.returncode == 0, fleet.said("enroll")
        assert Keystore(str(tmp_path / "n1" / "credentials")).holder() is not None

    scenario(tmp_path, play)


def test_a_node_tells_a_server_of_another_fleet_nothing(tmp_path: Path) -> None:
    async def play(fleet: Fleet) -> None:
        said = fleet.enroll("n1", "--fingerprint", "00" * 32, code=1, FLEET_TOKEN="a-token-that-nobody-gets")

        assert "this is not the fleet that was meant" in said
        assert not (tmp_path / "n1" / "credentials").exists()

    scenario(tmp_path, play)


def test_a_revocation_takes_effect_at_once(tmp_path: Path) -> None:
    async def play(fleet: Fleet) -> None:
        fleet.enroll("n1")
        async with fleet.endpoint("n1/credentials") as node:
            assert (await node.get(fleet.uri + "/test")).code == codes.CONTENT
            fleet.pki("revoke", "node", "n1")

            async def is_shut_out() -> bool:
                try:
                    return not (await node.get(fleet.uri + "/test", timeout=2)).is_success
                except NetworkError:
                    return True

            await wait_until(is_shut_out, "the end of the session", within=5)
            with pytest.raises(CoapError, match=r"(?i)revoked|refused|alert"):
                await node.get(fleet.uri + "/test", timeout=30)

    scenario(tmp_path, play)


def test_a_server_that_restarts_gets_its_nodes_back_and_jobs_go_on(tmp_path: Path) -> None:
    async def play(fleet: Fleet) -> None:
        fleet.enroll("n1")
        fleet.agent(fleet.uri, "n1")
        async with fleet.endpoint("alice") as endpoint:
            operator = Operator(endpoint, fleet.uri)
            await operator.online("n1")
            await operator.put("app.bin", b"content")
            await operator.post("/system", {"action": "restart"})
            again = await fleet.listening(fleet.process, "server", 2, "coaps")
            assert again == fleet.uri, "the sockets were handed over"

            async def answers() -> bool:
                try:  # the repetition of what is not answered resumes the session
                    return (await endpoint.get(fleet.uri + "/test", timeout=30)).is_success
                except NetworkError:
                    return False

            await wait_until(answers, "the server's answer to somebody whose session it has lost")
            job = await operator.install(artifacts=[{"name": "app.bin", "path": "app.bin"}])
            assert (await operator.end_of(job))["status"] == "succeeded"

    scenario(tmp_path, play)


WRONG: list[tuple[Sequence[str], int, str]] = [
    (["--credentials", "nowhere"], 2, "no certificate in nowhere: have `fleet pki issue operator NAME --out DIR` run"),
    ([], 2, "no certificate in "),
]


def test_what_an_operator_does_wrong_is_told_with_the_remedy(tmp_path: Path) -> None:
    async def play(fleet: Fleet) -> None:
        for arguments, code, said in WRONG:
            ran = fleet.run("health", "--server", fleet.uri, *arguments, code=code)
            assert said in ran.stderr
        (tmp_path / "other").mkdir()
        fleet.run("pki", "init", "--data-dir", str(tmp_path / "other" / "server"))
        stray = str(tmp_path / "stray")
        fleet.run("pki", "issue", "operator", "eve", "--data-dir", str(tmp_path / "other" / "server"), "--out", stray)
        ran = fleet.run("health", "--server", fleet.uri, "--credentials", stray, code=1)
        assert "is no server of the fleet that the certificate in use is from" in ran.stderr
        # With the right authority beside it, so that it is the server who refuses.
        (tmp_path / "stray" / "trust.pem").write_bytes((tmp_path / "alice" / "trust.pem").read_bytes())
        refused = "refuses the certificate in use: it was revoked, or another fleet's authority issued it"
        assert refused in fleet.run("health", "--server", fleet.uri, "--credentials", stray, code=1).stderr
        fleet.pki("issue", "operator", "bob", "--out", str(tmp_path / "bob"))
        fleet.pki("revoke", "operator", "bob")

        async def is_refused() -> bool:
            ran = subprocess.run(
                [*COMMAND, "health", "--server", fleet.uri, "--credentials", str(tmp_path / "bob")],
                capture_output=True, text=True, check=False, cwd=ROOT, env=environment(tmp_path),
            )  # fmt: skip
            return ran.returncode == 1 and refused in ran.stderr

        await wait_until(is_refused, "the refusal of who was revoked", within=10)
        fleet.pki("issue", "viewer", "wall", "--out", str(tmp_path / "wall"))
        wall = ["--server", fleet.uri, "--credentials", str(tmp_path / "wall")]
        assert "status" in fleet.run("health", *wall).stdout
        ran = fleet.run("system", "restart", *wall, code=1)
        assert "this certificate's holder may not do this" in ran.stderr

    scenario(tmp_path, play)


def test_foreign_client_with_a_certificate_is_who_that_says(tmp_path: Path) -> None:
    client = shutil.which("coap-client-openssl")
    if client is None:
        pytest.skip("no coap-client-openssl is installed here (Debian: libcoap3-bin)")

    async def play(fleet: Fleet) -> None:
        fleet.enroll("n1")
        credentials = tmp_path / "n1" / "credentials"

        def ask(*arguments: str) -> str:
            command = [
                client, "-B", "5", "-v", "6", "-c", str(credentials / "identity.pem"), "-j",
                str(credentials / "identity.pem"), "-C", str(credentials / "trust.pem"), *arguments,
            ]  # fmt: skip
            ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
            return ran.stdout + ran.stderr

        assert '"status":"ok"' in ask(fleet.uri + "/test")
        assert "4.03" in ask(fleet.uri + "/nodes")
        assert "4.03" in ask("-m", "delete", fleet.uri + "/nodes/n1")

    scenario(tmp_path, play)


def test_who_has_no_certificate_gets_nothing_but_enrolment(tmp_path: Path) -> None:
    async def play(fleet: Fleet) -> None:
        answers: dict[str, Any] = {}
        async with Endpoint(credentials=stranger_credentials(None)) as stranger:
            for path in ("/test", "/nodes", "/.well-known/core", "/no/such", "/.well-known/est/crts"):
                answers[path] = (await stranger.get(fleet.uri + path)).code
        assert answers.pop("/.well-known/est/crts") == codes.CONTENT
        assert set(answers.values()) == {codes.UNAUTHORIZED}

    scenario(tmp_path, play)
