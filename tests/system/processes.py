"""Real processes: a server and agents started as their users start them, watched through the API, and never waited for
by the clock: `wait_until` asks again and again, up to a deadline.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional, TypeVar, Union

from fleet.model.formats import JSON, decode, encode
from minicoap.asyncio.endpoint import Endpoint
from minicoap.codec import codes
from minicoap.core.request import Response
from minicoap.errors import NetworkError

ROOT = Path(__file__).parents[2]  # where `python -m` finds the packages, installed or not
COMMAND = (sys.executable, "-m", "fleet.cli.main")
PATIENCE = 60.0  # seconds that anything may take on a slow machine
PAUSE = 0.02  # seconds between two looks at something

T = TypeVar("T")


async def wait_until(condition: Callable[[], Union[T, Awaitable[T]]], what: str, within: float = PATIENCE) -> T:
    """Return what `condition` returns, as soon as that is true."""
    end = time.monotonic() + within
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        assert time.monotonic() < end, f"{what}: not within {within} s"
        await asyncio.sleep(PAUSE)


class Spoken(NamedTuple):
    """An answer: its code and what it says."""

    code: int
    body: Any


class Operator:
    """Someone who speaks to a server or a node at `uri` in JSON."""

    def __init__(self, endpoint: Endpoint, uri: str) -> None:
        self.uri = uri
        self.endpoint = endpoint

    async def get(self, path: str) -> Any:
        return (await self.ask(codes.GET, path)).body

    async def post(self, path: str, body: Any) -> Any:
        """Post something; it has to succeed."""
        spoken = await self.ask(codes.POST, path, body)
        assert codes.is_success(spoken.code), spoken
        return spoken.body

    async def put(self, name: str, content: bytes) -> Any:
        """Put an artifact into the store; it has to succeed."""
        response = await self.endpoint.put(f"{self.uri}/firmware/{name}", content, content_format=42)
        assert response.is_success, response.text
        return decode(response.body, JSON, dict)

    async def ask(self, code: int, path: str, body: Any = None) -> Spoken:
        payload = b"" if body is None else encode(body)
        number = None if body is None else JSON
        return spoken(await self.endpoint.request(code, self.uri + path, payload, content_format=number, timeout=10))

    async def status(self, job_id: str) -> Any:
        return await self.post("/updates", {"action": "status", "job_id": job_id})

    async def states(self, job_id: str) -> dict[str, str]:
        return {node_id: node["state"] for node_id, node in (await self.status(job_id))["nodes"].items()}

    async def install(self, **fields: Any) -> str:
        """Create a job and trigger it."""
        job = {"name": "app", "version": "1.0", "package_type": "file", "target_nodes": ["all"], **fields}
        job_id: str = (await self.post("/updates", job))["job_id"]
        await self.post("/updates", {"action": "install", "job_id": job_id})
        return job_id

    async def end_of(self, job_id: str, within: float = PATIENCE) -> Any:
        """The job's status once it is over."""

        async def ended() -> Any:
            status = await self.status(job_id)
            return status if status["status"] in ("succeeded", "failed", "cancelled") else None

        return await wait_until(ended, "the end of the job", within)

    async def online(self, *node_ids: str) -> None:
        """Wait until these nodes have reported."""

        async def reported() -> bool:
            nodes = (await self.get("/nodes"))["nodes"]
            return set(node_ids) <= {node["node_id"] for node in nodes if node["health"] is not None}

        await wait_until(reported, f"the first reports of {node_ids}")

    async def answers(self) -> bool:
        """Whether anybody answers there."""
        try:
            return (await self.endpoint.get(f"{self.uri}/test", timeout=1)).is_success
        except NetworkError:
            return False


def spoken(response: Response) -> Spoken:
    return Spoken(response.code, decode(response.body, response.content_format, object) if response.body else None)


class Machine:
    """A directory of processes, all of which end with it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()

    def start(
        self,
        name: str,
        *arguments: str,
        command: Sequence[str] = COMMAND,
        variables: Optional[Mapping[str, str]] = None,
        **options: Any,
    ) -> subprocess.Popen[bytes]:
        """Start `fleet`, or another command, with arguments; what it says goes to `<name>.log`."""
        with open(self.log(name), "ab") as log:
            process = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environment(self.directory), **(variables or {})},
                cwd=ROOT,
                **options,
            )
        self._started.append(process)
        return process

    def log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def said(self, name: str) -> str:
        return self.log(name).read_text(encoding="utf-8")

    async def server(self, *arguments: str, port: int = 0, name: str = "server", **options: Any) -> ServerProcess:
        """Start a server and wait until it listens."""
        lines = self.said(name).count("listening on coap:") if self.log(name).exists() else 0
        process = self.start(
            name, "server", "--port", str(port), "--secure-port", "0", "--data-dir", str(self.directory / name),
            *arguments, **options,
        )  # fmt: skip
        uri = await self.listening(process, name, lines + 1)
        return ServerProcess(process, uri)

    async def listening(self, process: subprocess.Popen[bytes], name: str, times: int = 1, scheme: str = "coap") -> str:
        """Where the server listens, once it has said so for the `times`-th time."""

        def uri() -> Optional[str]:
            found = [line for line in self.said(name).splitlines() if line.startswith(f"listening on {scheme}:")]
            assert process.poll() is None, f"the server ended:\n{self.said(name)}"
            return found[times - 1].rpartition(" ")[2] if len(found) >= times else None

        return await wait_until(uri, "the server listening") or ""

    def agent(self, server: str, node_id: str, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start an agent, on any free port."""
        return self.start(
            node_id, "agent", "--server", server, "--node-id", node_id, "--port", "0", "--health-interval", "1",
            "--data-dir", str(self.directory / node_id), *arguments, **options,
        )  # fmt: skip

    def node_file(self, node_id: str, path: str) -> Path:
        """A file that a file job wrote on a node."""
        return self.directory / node_id / "files" / path


class ServerProcess(NamedTuple):
    """A server that listens."""

    process: subprocess.Popen[bytes]
    uri: str

    @property
    def port(self) -> int:
        return int(self.uri.rpartition(":")[2])

    def kill(self) -> None:
        """As the kernel does it when memory is short."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def environment(home: Path) -> dict[str, str]:
    """No setting of whoever runs the tests reaches a process."""
    foreign = ("FLEET_", "PIP_", "PYTHON", "LISTEN_", "NOTIFY_", "WATCHDOG_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "XDG_CONFIG_HOME": str(home / "no-config"), "PIP_NO_INDEX": "1"}


def make_environment(directory: Path) -> str:
    """Make a virtual environment, without a pip of its own; returns its interpreter."""
    venv.create(directory, with_pip=False, symlinks=True)
    return str(directory / "bin" / "python")


def installed_version(python: str, name: str) -> Optional[str]:
    """Which version of a package an environment holds."""
    code = f"import importlib.metadata as m; print(m.version({name!r}))"
    run = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=False)
    return run.stdout.strip() if run.returncode == 0 else None
