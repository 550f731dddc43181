"""A fleet over CoAPS in real processes: its authority, its server, and whoever comes to it."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

from fleet.pki.connection import client_credentials
from fleet.pki.keystore import Keystore
from minicoap.asyncio.endpoint import Endpoint
from tests.system.processes import COMMAND, ROOT, Machine, environment


class Fleet(Machine):
    """A server with an authority, and whoever comes to it."""

    uri = ""

    def run(self, *arguments: str, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, which has to be `code`."""
        ran = subprocess.run(
            [*COMMAND, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=ROOT,
            env={**environment(self.directory), **variables}, timeout=120,
        )  # fmt: skip
        assert ran.returncode == code, (arguments, ran.returncode, ran.stdout, ran.stderr)
        return ran

    def pki(self, action: str, *arguments: str) -> str:
        """Run `fleet pki` beside the server."""
        return self.run("pki", action, *arguments, "--data-dir", str(self.directory / "server")).stdout.strip()

    async def begin(self, *arguments: str) -> None:
        """Make the authority and an operator, and start the server."""
        self.pki("init", "--host", "127.0.0.1")
        self.pki("issue", "operator", "alice", "--out", str(self.directory / "alice"))
        server = await self.server(*arguments)
        self.process = server.process
        self.uri = await self.listening(server.process, "server", scheme="coaps")

    def enroll(self, node_id: str, *arguments: str, code: int = 0, **variables: str) -> str:
        """Enrol a node, by a token where nothing else is said."""
        if not arguments:
            variables["FLEET_TOKEN"] = self.pki("token", "--node", node_id).splitlines()[0]
        ran = self.run(
            "enroll", "--server", self.uri, "--node-id", node_id, "--data-dir", str(self.directory / node_id),
            *(() if "--fingerprint" in arguments else ("--fingerprint", self.pki("fingerprint").splitlines()[-1])),
            *arguments, code=code, **variables,
        )  # fmt: skip
        return ran.stdout + ran.stderr

    def as_operator(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command as alice."""
        return self.run(*arguments, "--server", self.uri, "--credentials", str(self.directory / "alice"), code=code)

    def endpoint(self, directory: str) -> Endpoint:
        """Somebody who shows the certificate in a directory."""
        holder = Keystore(str(self.directory / directory)).holder()
        assert holder is not None
        return Endpoint(credentials=client_credentials(holder))


def scenario(tmp_path: Path, play: Callable[[Fleet], Awaitable[None]], *arguments: str) -> None:
    async def played() -> None:
        with Fleet(tmp_path) as fleet:
            await fleet.begin(*arguments)
            await play(fleet)

    asyncio.run(played())
