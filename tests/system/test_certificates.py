"""An authority under a running server: both used as people use them, each in a process of its own."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

from minicoap.asyncio.endpoint import Endpoint
from minicoap.codec import codes
from tests.system.processes import COMMAND, ROOT, Machine, Operator, environment, wait_until


def pki(machine: Machine, *arguments: str, **variables: str) -> str:
    """Run `fleet pki` on the server's data directory; it has to succeed. Returns what it printed."""
    command = [*COMMAND, "pki", *arguments[:1], "--data-dir", str(machine.directory / "server"), *arguments[1:]]
    ran = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**environment(machine.directory), **variables},
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_a_running_server_sees_what_is_revoked_beside_it_and_keeps_no_secret_in_its_log(tmp_path: Path) -> None:
    async def scenario() -> None:
        with Machine(tmp_path) as machine:
            secret = tmp_path / "passphrase"
            secret.write_text("correct horse battery\n")
            pki(machine, "init", "--encrypt", "--passphrase-file", str(secret))
            server = await machine.server("--passphrase-file", str(secret), "--debug")
            command = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
            assert b"correct horse" not in command
            out = str(tmp_path / "pump")
            pki(machine, "issue", "node", "pump-7", "--out", out, FLEET_CA_PASSPHRASE="correct horse battery")
            token = pki(machine, "token").strip()
            pki(machine, "revoke", "node", "pump-7", "--passphrase-file", str(secret))
            await wait_until(lambda: "1 certificates are revoked" in machine.said("server"), "the revocation")

            async with Endpoint() as endpoint:
                operator = Operator(endpoint, server.uri)
                assert await operator.get("/enrolments") == {"enrolments": []}
                refused = await endpoint.get(server.uri + "/.well-known/est/crts")
                assert refused.code == codes.UNAUTHORIZED
                await operator.post("/system", {"action": "restart"})
                await machine.listening(server.process, "server", 2)
                await wait_until(lambda: machine.said("server").count("are revoked") == 2, "the next life's knowledge")
                assert await operator.get("/enrolments") == {"enrolments": []}

            for words in ("correct horse", token, "PRIVATE KEY"):
                assert words not in machine.said("server")

    asyncio.run(scenario())
