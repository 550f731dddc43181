"""A fleet server in a world of its own, and clients that ask it one thing after the other: no socket, no clock."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Union

import cbor2

from fleet.server.config import ServerConfig
from fleet.server.server import Server
from fleet.server.store.memory import MemoryLedger, MemoryStore
from minicoap.codec import codes
from minicoap.codec.contentformats import CBOR, JSON
from minicoap.codec.message import CON, Message, Options
from minicoap.codec.options import CONTENT_FORMAT, URI_PATH, URI_QUERY, encode_uint
from minicoap.core.endpoint import EndpointCore
from minicoap.core.request import Path, Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.errors import CoapError
from minicoap.simulate.world import Host, World
from tests.fleet.pretended import FixedFacts, MemoryFiles

DATA = "data"
SERVER = ("192.0.2.1", 5683)
EPOCH = 1_790_000_000.0  # UTC seconds, when the world's clock stands at 0
QUOTA = 64 * 1024


class Served:
    """A server; `boot` starts it anew over the same store and files, as a restart does."""

    registrar: Any = None

    def __init__(self, **settings: Any) -> None:
        self.world = World(0, trace=10_000)
        self.store = MemoryStore()
        self.files = MemoryFiles()
        self.config = ServerConfig(*SERVER, DATA, **{"artifact_quota": QUOTA, "insecure": True, **settings})
        self.host = self.world.host(SERVER)
        self.actions: list[str] = []
        self.server: Server
        self.boot()
        self.client = Client(self, ("192.0.2.9", 40000))

    def boot(self) -> None:
        ledger = MemoryLedger(self.store, lambda done: self.host.call_later(0, done))
        self.server = Server(
            self.config,
            ledger=ledger,
            clock=self,
            entropy=self.world.entropy(f"server {self.world.events}"),
            files=self.files,
            facts=FixedFacts(),
            servers=("coap://192.0.2.1:5683",),
            act=self.actions.append,
            registrar=self.registrar,
        )
        self.host.boot(self.server)
        ready: list[bool] = []
        self.server.start(lambda: ready.append(True))
        assert self.world.run_until(lambda: bool(ready))

    # The server's clock

    def monotonic(self) -> float:
        return self.world.now

    def wall(self) -> float:
        return EPOCH + self.world.now

    def is_wall_trusted(self) -> bool:
        return True

    # What tests need again and again

    def answer(
        self, path: Path, code: int, uri_path: Sequence[str], query: Sequence[str], arguments: dict[str, Any]
    ) -> Response:
        """What the server answers to a request that came over `path`, whatever lies below that."""
        items = [(URI_PATH, segment.encode()) for segment in uri_path]
        items += [(URI_QUERY, argument.encode()) for argument in query]
        if "content_format" in arguments:
            items.append((CONTENT_FORMAT, encode_uint(arguments["content_format"])))
        message = Message(CON, code, 1, b"t", Options(items), arguments.get("payload", b""))
        answer = self.server.endpoint._exchanges.request_received(message, path, self.world.now)
        if isinstance(answer, Response):
            return answer
        assert self.world.run_until(lambda: answer.response is not None)
        assert answer.response is not None
        return answer.response

    def ask(self, method: int, path: str, body: Any = None, **arguments: Any) -> Response:
        return self.client.ask(method, path, body, **arguments)

    def told(self, method: int, path: str, body: Any = None, **arguments: Any) -> Any:
        """The answer's document; the answer has to be a success."""
        response = self.ask(method, path, body, **arguments)
        assert response.is_success, (codes.code_name(response.code), response.text)
        return document(response)

    def register(self, *node_ids: str) -> None:
        for node_id in node_ids:
            self.told(codes.POST, "/nodes", {"node_id": node_id})

    def created(self, **fields: Any) -> str:
        job = {"name": "app", "version": "1.0", "package_type": "pip", "target_nodes": ["all"], **fields}
        return self.told(codes.POST, "/updates", job)["job_id"]

    def act(self, action: str, job_id: str) -> Any:
        return self.told(codes.POST, "/updates", {"action": action, "job_id": job_id})

    def running(self, **fields: Any) -> str:
        job_id = self.created(**fields)
        self.act("install", job_id)
        assert self.world.run_until(lambda: self.status(job_id)["status"] == "running")
        return job_id

    def status(self, job_id: str) -> Any:
        return self.told(codes.GET, f"/updates/{job_id}/status")

    def report(self, job_id: str, node_id: str, sequence: int, state: str, **fields: Any) -> Response:
        return self.ask(codes.POST, "/updates", a_report(job_id, node_id, sequence, state, **fields))


class Client:
    """Someone who asks the server, and serves `resources`, from `address`."""

    def __init__(self, served: Served, address: tuple[str, int], *resources: Resource) -> None:
        self._world = served.world
        self.host: Host = served.world.host(address)
        self.core = EndpointCore(served.world.entropy(repr(address)), site=Site(*resources))
        self.host.boot(self.core)

    def start(self, method: int, path: str, body: Any = None, **arguments: Any) -> list[Union[Response, CoapError]]:
        """Send a request; returns the list that its outcome will be put into."""
        return self.send(method, *segments(path), **payload_of(body, arguments))

    def send(self, method: int, *uri_path: str, query: Sequence[str] = (), **arguments: Any) -> list[Any]:
        outcomes: list[Any] = []
        self.core.request(method, SERVER, outcomes.append, self._world.now, uri_path=uri_path, query=query, **arguments)
        self.host.wake()
        return outcomes

    def outcome(self, outcomes: list[Any]) -> Response:
        assert self._world.run_until(lambda: bool(outcomes)), "never answered"
        assert isinstance(outcomes[0], Response), outcomes[0]
        return outcomes[0]

    def ask(self, method: int, path: str, body: Any = None, **arguments: Any) -> Response:
        return self.outcome(self.start(method, path, body, **arguments))


def segments(path: str) -> tuple[str, ...]:
    return tuple(path.split("/")[1:])


def payload_of(body: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with the payload: bytes as they are, anything else as the Content-Format says, JSON by default."""
    if body is None or "payload" in arguments:
        return arguments
    if isinstance(body, bytes):
        return {**arguments, "payload": body}
    number = arguments.get("content_format", JSON)
    payload = cbor2.dumps(body) if number == CBOR else json.dumps(body).encode()
    return {**arguments, "payload": payload, "content_format": number}


def document(response: Response) -> Any:
    """What an answer holds, whatever its format."""
    return cbor2.loads(response.body) if response.content_format == CBOR else json.loads(response.body)


def a_report(job_id: str, node_id: str, sequence: int, state: str, **fields: Any) -> dict[str, Any]:
    report = {"action": "report", "job_id": job_id, "node_id": node_id, "attempt": 1, "sequence": sequence}
    return {**report, "state": state, **fields}


def a_listener(heard: list[bytes], code: int = codes.CHANGED) -> Resource:
    """What a node has for hints."""

    def hear(request: Request) -> Response:
        heard.append(request.payload)
        return Response(code)

    return Resource("/updates/available", post=hear)
