"""A world in which clients do at once all that an endpoint can, from a seed; each part knows what must not happen."""

from __future__ import annotations

from collections import Counter
from typing import Any, Optional, Union

from minicoap.codec import codes
from minicoap.codec.options import IF_MATCH
from minicoap.core.body import BytesSource
from minicoap.core.cache import Cache
from minicoap.core.endpoint import EndpointCore
from minicoap.core.observe_client import Observation
from minicoap.core.request import Deferred, Path, Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.errors import BodyError, CoapError, NetworkError, PeerError
from minicoap.simulate.link import Link
from minicoap.simulate.world import Host, World

SERVER: Path = ("server", 5683)
GROUP: Path = ("group", 5683)
MEMBERS = 3  # of the group, the server among them
OBSERVED = ("short", "unconfirmed", "late", "long", "pumping")
MAX_AGE = 10  # seconds, of what may be cached
BUSY = 120.0  # seconds in which things are begun

KINDS = (
    "post", "put", "stream", "blocks", "image", "window", "moving", "resumed", "fetch", "cached", "group", "group post",
    "patch", "tagged", "cached", "image", "quick image", "quick post", "quick fetch", "quick moving",
)  # fmt: skip


def body_of(name: str, size: int) -> bytes:
    """Bytes that show whose they are and whether any is missing."""
    return (name.encode() * (size // len(name) + 1))[:size]


class Group:
    """What a network does for a group: each member gets what is sent there, if it is not lost on its way."""

    def __init__(self, world: World, members: list[Host]) -> None:
        self.world, self.members = world, members
        self.chance = world.entropy("the group's network")
        world.host(GROUP).boot(self)

    def datagram_received(self, data: bytes, path: Path, now: float) -> None:
        for host in self.members:
            if self.chance.uniform(0.0, 1.0) > self.world.default_link.loss:
                self.world.call_later(self.chance.uniform(0.0, 0.5), self.deliver, host, data, path)

    def deliver(self, host: Host, data: bytes, path: Path) -> None:
        assert isinstance(host.machine, EndpointCore)
        host.machine.multicast_received(data, path, self.world.now)
        host.wake()

    def path_failed(self, path: Path, error: OSError, now: float) -> None:
        """Nobody is told."""

    def datagrams_to_send(self) -> list[tuple[bytes, Path]]:
        return []

    def next_timeout(self) -> Optional[float]:
        return None

    def handle_timeout(self, now: float) -> None:
        """It has no timers."""


class Member:
    """One that only the group leads to."""

    def __init__(self, world: World, name: str) -> None:
        self.posted: Counter[str] = Counter()
        self.name = name
        self.host = world.host((name, 5683))
        self.core = EndpointCore(world.entropy(name), site=Site(*self.resources()))
        self.host.boot(self.core)

    def resources(self) -> list[Resource]:
        return [
            Resource("/name", get=lambda _: Response(payload=body_of(self.name, 1500)), group=True),
            Resource("/count/{name}", post=self.count, group=True),
        ]

    def count(self, request: Request) -> Response:
        self.posted[request.args["name"]] += 1
        return Response(codes.CHANGED, b"1")


class Stored:
    """A body that is replaced from time to time, by one of another name and another length."""

    def __init__(self) -> None:
        self.version = 0

    def body(self, version: int) -> bytes:
        return body_of(f"v{version}.", 9000 + 1000 * (version % 3))

    def source(self) -> BytesSource:
        return BytesSource(self.body(self.version))


class Server(Member):
    """Answers at random times, and writes down what it was asked to do."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.chance = world.entropy("server's choices")
        self.whole: dict[str, set[bytes]] = {}  # bodies that were taken as complete, by name
        self.patched: Counter[str] = Counter()
        self.written: dict[str, bytearray] = {}
        self.sinks: list[ServerSink] = []
        self.moving = Stored()
        self.values = dict.fromkeys((*OBSERVED, "cached"), 0)
        self.changed_at: list[float] = []  # when the cached value became 1, 2, …
        super().__init__(world, SERVER[0])
        for name in self.values:
            for _ in range(30):
                world.call_later(self.chance.uniform(0.0, BUSY), self.change, name)
        for _ in range(12):
            world.call_later(self.chance.uniform(0.0, BUSY), self.move)

    def resources(self) -> list[Resource]:
        observed = [
            Resource(f"/{name}", get=self.state, observable=True, notify_confirmable=name != "unconfirmed")
            for name in OBSERVED
        ]
        return [
            *super().resources(),
            *observed,
            Resource("/post/{name}", post=self.post, max_body=100_000),
            Resource("/put/{name}", put=self.put),
            Resource("/stream/{name}", upload=self.open),
            Resource("/blocks/{name}", write_block=self.write),
            Resource("/image/{name}/{size}", get=self.image),
            Resource("/moving", get=lambda request: self.answer(request, Response(payload=self.moving.source()))),
            Resource("/fetch", fetch=lambda request: self.answer(request, Response(payload=request.payload * 700))),
            Resource("/cached", get=self.cached),
            Resource("/patch/{name}", patch=self.patch, conditional=True),
        ]

    def answer(self, request: Request, response: Response, deferred: Optional[Deferred] = None) -> Any:
        """Answer now, soon or late."""
        delay = (0.0, 0.0, 0.5, 3.0)[self.chance.integer(2)] * self.chance.uniform(0.5, 1.5)
        if not delay and deferred is None:
            return response
        later = deferred or request.defer()
        self.host.call_later(delay, lambda: later.resolve(response, self.world.now))
        return later

    def change(self, name: str) -> None:
        self.values[name] += 1
        if name == "cached":
            self.changed_at.append(self.world.now)
        else:
            self.site_changed(name)

    def site_changed(self, name: str) -> None:
        self.core.site.changed(f"/{name}")
        self.host.wake()

    def move(self) -> None:
        self.moving.version += 1

    def state(self, request: Request) -> Any:
        (name,) = request.uri_path
        value = self.values[name]
        size = {"long": 2500, "pumping": 1500 * (value % 2)}.get(name, 0)
        response = Response(payload=(b"%d;" % value).ljust(size, b"%d" % (value % 10)), max_age=20)
        return self.answer(request, response) if name == "late" else response

    def cached(self, request: Request) -> Response:
        value = self.values["cached"]
        return Response(payload=(b"%d;" % value).ljust(1500, b"."), max_age=MAX_AGE, etag=b"%d" % value)

    def post(self, request: Request) -> Any:
        self.posted[request.args["name"]] += 1
        assert request.payload == body_of(request.args["name"], len(request.payload))
        return self.answer(request, Response(codes.CHANGED, request.payload[::-1]))

    def patch(self, request: Request) -> Any:
        assert request.meets_conditions(b"e")
        self.patched[request.args["name"]] += 1
        return self.answer(request, Response(codes.CHANGED))

    def put(self, request: Request) -> Any:
        self.whole.setdefault(request.args["name"], set()).add(request.payload)
        return self.answer(request, Response(codes.CHANGED))

    def write(self, request: Request, offset: int, more: bool) -> Response:
        data = self.written.setdefault(request.args["name"], bytearray())
        data.extend(bytes(max(0, offset + len(request.payload) - len(data))))
        data[offset : offset + len(request.payload)] = request.payload
        return Response(codes.CHANGED)

    def image(self, request: Request) -> Any:
        return self.answer(request, Response(payload=body_of(request.args["name"], int(request.args["size"]))))

    def open(self, request: Request) -> ServerSink:
        self.sinks.append(ServerSink(self, request))
        return self.sinks[-1]


class ServerSink:
    """Puts a body together; written in order, ended once."""

    def __init__(self, server: Server, request: Request) -> None:
        self.server, self.request = server, request
        self.data = b""
        self.ends: list[str] = []

    def write_at(self, offset: int, data: bytes) -> None:
        assert (offset, self.ends) == (len(self.data), [])
        self.data += data

    def finish(self, answer: Deferred) -> None:
        self.ends.append("finish")
        self.server.whole.setdefault(self.request.args["name"], set()).add(self.data)
        self.server.answer(self.request, Response(codes.CHANGED), answer)

    def abort(self, reason: str) -> None:
        self.ends.append("abort")


class ClientSink:
    """What a download has stored; where it is begun anew it is overwritten."""

    def __init__(self, any_order: bool) -> None:
        self.any_order = any_order
        self.data = bytearray()

    def begin(self, response: Response, size: Optional[int]) -> None:
        """It takes any body."""

    def write_at(self, offset: int, data: bytes) -> None:
        if not self.any_order:
            del self.data[offset:]
        self.data.extend(bytes(max(0, offset - len(self.data))))
        self.data[offset : offset + len(data)] = data


class Client:
    """Begins this and that at random times, observes, moves to another address, and checks what it is told."""

    def __init__(self, world: World, server: Server, members: list[Member], index: int, requests: int) -> None:
        self.world, self.server, self.members, self.index = world, server, members, index
        self.chance = world.entropy(f"client {index}'s choices")
        self.host: Host = world.host((f"client-{index}", 5683))
        self.core = EndpointCore(world.entropy(f"client {index}"), cache=Cache() if index % 2 else None)
        self.host.boot(self.core)
        self.is_narrow = index % 4 == 3
        if self.is_narrow:  # blocks of 1024 bytes do not come through
            world.link(self.host, server.host).mtu = world.link(server.host, self.host).mtu = 700
        self.moves = 0
        self.open: dict[str, None] = {}  # what is under way
        self.moved: dict[str, None] = {}  # what was under way when the address changed
        self.told: Counter[str] = Counter()
        self.cancelled: dict[str, None] = {}
        self.results: Counter[str] = Counter()
        self.seen: dict[str, int] = {}
        self.failed: dict[str, None] = {}
        self.observations: dict[str, Observation] = {}
        for number in range(requests):
            self.host.call_later(self.chance.uniform(0.0, BUSY), self.begin, f"{index}.{number}/")
        for name in OBSERVED[index % 2 :: 2]:
            self.host.call_later(self.chance.uniform(0.0, 30.0), self.observe, name)
        if index % 3 == 2:
            self.host.call_later(self.chance.uniform(30.0, 90.0), self.move)

    def move(self) -> None:
        """Be behind another port, as after a router has forgotten; the links stay as they were."""
        self.moves += 1
        self.moved.update(self.open)
        self.host.rebind((f"client-{self.index}", 50_000 + self.moves))

    # Requests

    def begin(self, name: str) -> None:
        kind = KINDS[self.chance.integer(8) % len(KINDS)]
        size = (10, 1024, 1500, 6000)[self.chance.integer(2)]
        szx = 4 if self.is_narrow or self.chance.integer(1) else 6
        self.open[name] = None
        self.told[kind] += 0
        try:
            request = self.send(kind, name, size, szx)
        except NetworkError:
            self.ended(name, kind, "full")
            return
        if not self.chance.integer(3):
            self.host.call_later(self.chance.uniform(0.0, 3.0), self.cancel, name, kind, request)

    def cancel(self, name: str, kind: str, request: Any) -> None:
        request.cancel(self.world.now)
        if name in self.open:
            self.ended(name, kind, "cancelled")
        self.cancelled[name] = None

    def ended(self, name: str, kind: str, how: str) -> None:
        assert name not in self.cancelled, "told after it was cancelled"
        del self.open[name]  # told once
        self.results[f"{kind} {how}"] += 1

    def send(self, kind: str, name: str, size: int, szx: int) -> Any:
        if kind.startswith("group"):
            return self.ask_group(kind, name)
        ask = self.core.request
        now = self.world.now
        sink = ClientSink(bool(self.chance.integer(1)))
        body = body_of(name, size)
        arguments: dict[str, Any] = {"szx": szx}
        told = kind
        if kind.startswith("quick "):  # by Q-Block
            kind = kind[6:]
            arguments["qblock"] = True
        path: tuple[str, ...] = (kind, name)
        code = codes.PUT
        if kind in ("post", "patch"):
            code = codes.POST if kind == "post" else codes.PATCH
            if kind == "patch":
                body, arguments["options"] = b"", ((IF_MATCH, b"e"),)
        elif kind in ("image", "window"):
            code, path, body = codes.GET, ("image", name, str(size)), b""
            if kind == "window":
                arguments.update(window=2 + self.chance.integer(4), sink=sink)
        elif kind in ("moving", "resumed"):
            code, path, body = codes.GET, ("moving",), b""
            arguments["sink"] = sink
            if kind == "resumed":
                sink.data.extend(self.server.moving.body(self.server.moving.version)[: 2 << (szx + 4)])
                etag = self.server.moving.source().etag
                arguments.update(offset=2 << (szx + 4), etag=etag, restart=True, window=1 + self.chance.integer(3))
        elif kind == "fetch":
            code, path, body = codes.FETCH, ("fetch",), name.encode()
        elif kind == "cached":
            code, path, body, arguments = codes.GET, ("cached",), b"", {} if not self.is_narrow else arguments
        elif kind == "tagged":  # several at once to one resource
            path = ("stream", f"shared {self.index}")
        if code != codes.GET and body and "qblock" not in arguments and self.chance.integer(1):
            arguments.update(window=2 + self.chance.integer(4), any_order=bool(self.chance.integer(1)))

        def done(outcome: Union[Response, CoapError]) -> None:
            if isinstance(outcome, Response):
                if outcome.is_success:
                    self.check(kind, name, size, body, sink, outcome, now)
                    self.ended(name, told, "done")
                else:
                    self.refused(kind, name, outcome)
                    self.ended(name, told, codes.code_text(outcome.code))
            else:
                loud = (
                    (NetworkError, BodyError) if kind in ("moving", "resumed", "fetch", "cached") else (NetworkError,)
                )
                assert isinstance(outcome, loud) or name in self.moved, (kind, outcome)
                self.ended(name, told, type(outcome).__name__)

        confirmable = arguments.get("window", 1) > 1 or self.chance.integer(3) != 0
        return ask(code, SERVER, done, now, uri_path=path, payload=body, confirmable=confirmable, **arguments)

    def refused(self, kind: str, name: str, outcome: Response) -> None:
        """What may be refused: a body whose address changed between its blocks, or whose blocks came too late."""
        expected = {codes.REQUEST_ENTITY_INCOMPLETE}
        if kind in ("moving", "resumed", "cached"):
            expected.add(codes.BAD_REQUEST)  # it has become shorter
        assert outcome.code in expected, (kind, name, outcome, outcome.text)
        assert outcome.code != codes.REQUEST_ENTITY_INCOMPLETE or name in self.moved, (kind, name, outcome.text)

    def check(
        self, kind: str, name: str, size: int, sent: bytes, sink: ClientSink, outcome: Response, asked_at: float
    ) -> None:
        server = self.server
        if kind == "post":
            assert outcome.body == sent[::-1]
            assert server.posted[name] == 1 or (name in self.moved and server.posted[name] == 2)
        elif kind == "patch":
            assert server.patched[name] == 1 or (name in self.moved and server.patched[name] == 2)
        elif kind == "put":
            assert server.whole[name] == {sent}
        elif kind in ("stream", "tagged"):
            assert sent in server.whole[name if kind == "stream" else f"shared {self.index}"]
        elif kind == "blocks":
            assert server.written[name] == sent
        elif kind == "image":
            assert outcome.body == body_of(name, size)
        elif kind == "window":
            assert sink.data == body_of(name, size)
        elif kind in ("moving", "resumed"):
            version = int(sink.data[1 : sink.data.index(b".")])
            assert sink.data == server.moving.body(version)
        elif kind == "fetch":
            assert outcome.body == sent * 700
        else:
            value = int(outcome.body.split(b";")[0])
            assert outcome.body == (b"%d;" % value).ljust(1500, b".")
            # Whatever is answered was true no longer ago than its Max-Age, or when it was asked.
            if value < len(server.changed_at):
                assert server.changed_at[value] > asked_at - MAX_AGE

    def ask_group(self, kind: str, name: str) -> Any:
        answered: Counter[Path] = Counter()
        paths = [member.host.address for member in self.members]

        def on_response(response: Response, path: Path) -> None:
            answered[path] += 1
            assert answered[path] == 1
            if kind == "group":
                member = self.members[paths.index(path)]
                assert response.body == body_of(member.name, 1500)
            else:
                assert response.body == b"1"

        def done(error: Optional[CoapError]) -> None:
            assert error is None
            self.ended(name, kind, f"by {len(answered)}")

        is_post = kind != "group"
        return self.core.multicast(
            codes.POST if is_post else codes.GET, GROUP, on_response, done, self.world.now,
            uri_path=("count", name) if is_post else ("name",),
        )  # fmt: skip

    # Observing

    def observe(self, name: str) -> None:
        def update(outcome: Any) -> None:
            if not isinstance(outcome, Response):
                assert isinstance(outcome, (NetworkError, PeerError)), outcome
                self.failed[name] = None
                return
            assert outcome.is_success
            value = int(outcome.body.split(b";")[0])
            assert not outcome.body.strip(b"%d" % (value % 10)).strip(b"0123456789;")
            assert value >= self.seen.get(name, 0), "time went back"
            self.seen[name] = value

        self.observations[name] = self.core.observe(
            SERVER, update, self.world.now, uri_path=(name,), confirmable=self.chance.integer(2) != 0,
            szx=4 if self.is_narrow else 6, patience=10_000.0,
        )  # fmt: skip

    def stop(self) -> None:
        for observation in self.observations.values():
            observation.cancel(self.world.now)
        self.host.wake()


class Everything:
    """The server, the other members of its group, and the clients."""

    def __init__(self, seed: int, clients: int, requests: int, **link: float) -> None:
        self.world = World(seed, link=Link(**link))
        self.server = Server(self.world)
        self.members = [self.server, *(Member(self.world, f"member-{index}") for index in range(1, MEMBERS))]
        Group(self.world, [member.host for member in self.members])
        self.clients = [
            Client(self.world, self.server, self.members, index, requests) for index in range(clients)
        ]  # fmt: skip
        self.world.run_for(BUSY)

    @property
    def cores(self) -> list[EndpointCore]:
        return [*(member.core for member in self.members), *(client.core for client in self.clients)]

    @property
    def results(self) -> Counter[str]:
        """How what was begun has ended."""
        return sum((client.results for client in self.clients), Counter())
