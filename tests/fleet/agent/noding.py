"""A node in a world of its own, and a server that answers as it is told to and remembers what it was asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple, Optional, Union

from fleet.agent.agent import Agent
from fleet.agent.config import AgentConfig
from fleet.install.interface import Answer
from fleet.model.formats import decode as decode_body
from minicoap.codec import codes, contentformats
from minicoap.codec.message import decode
from minicoap.core.endpoint import EndpointCore
from minicoap.core.parameters import Limits
from minicoap.core.request import Deferred, Path, Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.simulate.world import World
from tests.fleet.pretended import FixedFacts, MemoryFiles, PretendedProcesses

NODE = ("192.0.2.20", 5683)
SERVER = ("192.0.2.1", 5683)
EPOCH = 1_790_000_000.0

Said = Union[dict[str, Any], Response, Callable[[Request], Union[Response, Deferred]]]


class Asked(NamedTuple):
    """A request as the server saw it, and when."""

    method: str
    path: str
    body: Any
    at: float


class ScriptedServer:
    """What a node talks to. `say` queues answers, of which the last is repeated; what was never said is 4.04."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.host = world.host(SERVER)
        self.asked: list[Asked] = []
        self.contents: dict[str, bytes] = {}
        self._answers: dict[tuple[str, str], list[Said]] = {}
        paths = ("/nodes", "/health", "/h", "/updates", "/updates/{id}", "/firmware/{id}")
        get = self._get
        self.site = Site(*(Resource(path, get=get, post=get, put=get, ipatch=get, conditional=True) for path in paths))
        # It believes in addresses, so that all it is asked is what is wanted of it.
        self.core = EndpointCore(world.entropy("server"), site=self.site, limits=Limits(amplification=0))
        self.host.boot(self.core)
        registered = {"node_id": "n1", "status": "", "servers": [], "health_interval": 60, "time": ""}
        self.say("POST", "/nodes", registered)
        self.say("PUT", "/health", {"status": "ok", "time": "", "jobs": [], "servers": []})

    def say(self, method: str, path: str, *answers: Said) -> None:
        self._answers[method, path] = list(answers)

    def waits(self, *job_ids: str) -> None:
        """Jobs wait for the node from now on."""
        self.say("PUT", "/health", {"status": "ok", "time": "", "jobs": list(job_ids), "servers": []})

    def has(self, content: bytes, name: str = "app-1.0-py3-none-any.whl", **fields: Any) -> dict[str, Any]:
        """Put a content into the store; returns how a job names it."""
        digest = hashlib.sha256(content).hexdigest()
        self.contents[digest] = content
        return {"name": name, "size": len(content), "sha256": digest, **fields}

    def of(self, method: str, path: str) -> list[Asked]:
        return [asked for asked in self.asked if (asked.method, asked.path) == (method, path)]

    def reports(self) -> list[Any]:
        return [asked.body for asked in self.of("POST", "/updates")]

    def states(self) -> list[str]:
        """The states reported, each change of them once."""
        states = [report["state"] for report in self.reports()]
        return [state for index, state in enumerate(states) if index == 0 or states[index - 1] != state]

    def _get(self, request: Request) -> Union[Response, Deferred]:
        method, path = codes.code_name(request.code), "/" + "/".join(request.uri_path)
        body = decode_body(request.payload, request.content_format, object) if request.payload else None
        self.asked.append(Asked(method, path, body, self._world.now))
        said = self._answers.get((method, path), [])
        if said:
            following = said.pop(0) if len(said) > 1 else said[0]
            if callable(following):
                return following(request)
            return following if isinstance(following, Response) else told(following)
        content = self.contents.get(path.rpartition("/")[2])
        if content is not None:
            etag = hashlib.sha256(content).digest()[:8]
            return Response(codes.CONTENT, content, contentformats.OCTET_STREAM, etag=etag)
        if path == "/updates" and body:
            return told({"job_id": body["job_id"], "state": body["state"]}, codes.CHANGED)
        return told({"error": f"there is no {path}"}, codes.NOT_FOUND)


def told(body: Any, code: int = codes.CONTENT) -> Response:
    return Response(code, json.dumps(body).encode(), contentformats.JSON)


class Node:
    """An agent on a pretended host, and its server."""

    def __init__(self, files: Optional[MemoryFiles] = None, *, seed: int = 0, **settings: Any) -> None:
        self.world = World(seed, trace=100_000)
        self.server = ScriptedServer(self.world)
        self.files = MemoryFiles() if files is None else files
        self.config = AgentConfig("coap://192.0.2.1", "n1", "data", python="/env/bin/python", **settings)
        self.host = self.world.host(NODE)
        self.processes: PretendedProcesses
        self.agent: Agent
        self.boot_number = 1
        self.path: Path = SERVER

    def boot(self, answers: Optional[dict[str, Answer]] = None) -> Agent:
        """Start the agent, as after the death of an earlier one; `answers` are the installer's, by verb."""
        self.host.crash()
        self.processes = PretendedProcesses(lambda done, answer: self.host.call_later(0.1, done, answer))
        self.processes.answers = dict(answers or {})
        self.agent = Agent(
            self.config,
            self.path,
            clock=self,
            entropy=self.world.entropy(f"node {self.world.events}"),
            files=self.files,
            facts=FixedFacts(),
            processes=self.processes,
            boot=self,
        )
        self.host.boot(self.agent)
        self.agent.start()
        self.host.wake()
        return self.agent

    def until(self, condition: Callable[[], bool], timeout: float = 3600.0) -> None:
        assert self.world.run_until(condition, timeout), f"not within {timeout} s: {self.server.asked[-5:]}"

    def blocks_asked(self) -> list[int]:
        """The numbers of the blocks that the node asked for, repetitions left out."""
        numbers, seen = [], set()
        for each in self.world.trace:
            message = decode(each.data)
            if each.source != NODE or message.code != codes.GET or message.message_id in seen:
                continue
            if message.options.path[:1] == ("firmware",):
                seen.add(message.message_id)
                numbers.append((message.options.uint(23) or 0) >> 4)
        return numbers

    # Clock and boot of the host

    def monotonic(self) -> float:
        return self.world.now

    def wall(self) -> float:
        return EPOCH + self.world.now

    def is_wall_trusted(self) -> bool:
        return True

    def boot_id(self) -> str:
        return f"boot {self.boot_number}"

    def reboot(self) -> None:
        raise AssertionError("nothing here reboots")


def a_job(*artifacts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A job as the server describes it to the node."""
    job = {"job_id": "j1", "attempt": 1, "name": "app", "version": "1.0", "package_type": "pip"}
    return {**job, "packages": ["app==1.0"], "artifacts": list(artifacts), **fields}
