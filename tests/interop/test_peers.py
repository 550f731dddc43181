"""GET, PUT, POST, DELETE and FETCH between us and others over sockets, both ways: aiocoap, libcoap, node-coap.

node-coap is looked for by `require("coap")` of the `node` command; NODE_PATH says where a folder is that has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Optional

import pytest

from minicoap import Endpoint, Request, Resource, Response, Site, codes, contentformats

METHODS = {"GET": codes.GET, "POST": codes.POST, "PUT": codes.PUT, "DELETE": codes.DELETE, "FETCH": codes.FETCH}
ANSWERS = {"GET": "2.05", "POST": "2.01", "PUT": "2.04", "DELETE": "2.02", "FETCH": "2.05"}
TLS = ("-notls", "-openssl", "-gnutls", "")  # as Debian names libcoap's programs


class Asked(NamedTuple):
    """A request as its server saw it."""

    method: str
    payload: bytes
    content_format: Optional[int]
    query: tuple[str, ...]


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 60))  # type: ignore[arg-type]


def libcoap(name: str) -> str:
    for tls in TLS:
        found = shutil.which(name + tls)
        if found is not None:
            return found
    pytest.skip(f"no {name} of libcoap is installed here (Debian: libcoap3-bin)")


def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed here")
    if subprocess.run([found, "-e", "require('coap')"], capture_output=True, check=False).returncode:
        pytest.skip("node has no coap here: npm install coap@1.5, and NODE_PATH to where it is")
    return found


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# Their clients, our server


class Ours:
    """A server of ours that takes down what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        handle = self.handle
        self.endpoint = Endpoint(
            Site(Resource("/thing", get=handle, post=handle, put=handle, delete=handle, fetch=handle))
        )

    def handle(self, request: Request) -> Response:
        method = codes.METHOD_NAMES[request.code]
        self.asked.append(Asked(method, request.payload, request.content_format, request.query))
        whole, _, detail = ANSWERS[method].partition(".")
        code = int(whole) << 5 | int(detail)
        location = ("thing", "7") if method == "POST" else ()
        return Response(code, f"{method} seen".encode(), contentformats.TEXT, location_path=location)


class Heard(NamedTuple):
    """An answer as its client tells it; the code is None where it does not."""

    code: Optional[str]
    payload: bytes


AskUs = Callable[[str, str, bytes], Awaitable[Heard]]


@contextlib.asynccontextmanager
async def aiocoap_client() -> AsyncIterator[AskUs]:
    aiocoap: Any = pytest.importorskip("aiocoap")
    context = await aiocoap.Context.create_client_context()

    async def ask(method: str, uri: str, payload: bytes) -> Heard:
        message = aiocoap.Message(code=getattr(aiocoap, method), uri=uri, payload=payload)
        if payload:
            message.opt.content_format = contentformats.TEXT
        response = await context.request(message).response
        return Heard(response.code.dotted, response.payload)

    try:
        yield ask
    finally:
        await context.shutdown()


@contextlib.asynccontextmanager
async def libcoap_client() -> AsyncIterator[AskUs]:
    command = libcoap("coap-client")

    async def ask(method: str, uri: str, payload: bytes) -> Heard:
        body = ["-e", payload.decode(), "-t", "0"] if payload else []
        process = await asyncio.create_subprocess_exec(
            command, "-m", method.lower(), *body, uri, stdout=PIPE, stderr=PIPE
        )
        said, complaint = await process.communicate()
        assert process.returncode == 0, complaint
        return Heard(None, said.rstrip(b"\n"))

    yield ask


NODE_CLIENT = """
const coap = require('coap')
const [method, host, port, path, query, payload] = process.argv.slice(1)
const request = coap.request({host, port: Number(port), pathname: path, query, method})
if (payload) request.setOption('Content-Format', 'text/plain')
request.on('response', response => {
  console.log(JSON.stringify({code: response.code, payload: response.payload.toString('base64')}))
  process.exit(0)
})
request.on('error', error => { console.error(error); process.exit(1) })
request.end(payload)
"""


@contextlib.asynccontextmanager
async def node_client() -> AsyncIterator[AskUs]:
    command = node()

    async def ask(method: str, uri: str, payload: bytes) -> Heard:
        import base64

        authority, _, rest = uri[len("coap://") :].partition("/")
        host, _, port = authority.partition(":")
        path, _, query = rest.partition("?")
        process = await asyncio.create_subprocess_exec(
            command, "-e", NODE_CLIENT, method, host, port, f"/{path}", query, payload.decode(),
            stdout=PIPE, stderr=PIPE,
        )  # fmt: skip
        said, complaint = await process.communicate()
        assert process.returncode == 0, complaint
        told = json.loads(said)
        return Heard(told["code"], base64.b64decode(told["payload"]))

    yield ask


CLIENTS = {"aiocoap": aiocoap_client, "libcoap": libcoap_client, "node-coap": node_client}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("client", CLIENTS)
def test_foreign_client_asks_us(client: str, method: str) -> None:
    async def scenario() -> None:
        ours = Ours()
        async with ours.endpoint, CLIENTS[client]() as ask:
            await ours.endpoint.serve("coap://127.0.0.1:0")
            payload = b"hello" if method in ("POST", "PUT", "FETCH") else b""
            heard = await ask(method, f"{ours.endpoint.local_uri}/thing?a=b&c", payload)
            assert heard.payload == f"{method} seen".encode()
            assert heard.code in (ANSWERS[method], None)
            (asked,) = ours.asked
            assert asked == Asked(method, payload, contentformats.TEXT if payload else None, ("a=b", "c"))

    run(scenario)


# Their servers, our client


@contextlib.asynccontextmanager
async def aiocoap_server() -> AsyncIterator[str]:
    aiocoap: Any = pytest.importorskip("aiocoap")
    resource: Any = pytest.importorskip("aiocoap.resource")

    class Thing(resource.Resource):  # type: ignore[misc]
        """Holds a text; a FETCH gets it with the request's payload behind it."""

        content = b"first"

        async def render_get(self, request: Any) -> Any:
            return aiocoap.Message(payload=self.content, content_format=0)

        async def render_put(self, request: Any) -> Any:
            self.content = request.payload
            return aiocoap.Message(code=aiocoap.CHANGED)

        async def render_post(self, request: Any) -> Any:
            self.content += request.payload
            return aiocoap.Message(code=aiocoap.CHANGED)

        async def render_delete(self, request: Any) -> Any:
            self.content = b""
            return aiocoap.Message(code=aiocoap.DELETED)

        async def render_fetch(self, request: Any) -> Any:
            return aiocoap.Message(payload=self.content + request.payload, content_format=0)

    site = resource.Site()
    site.add_resource(["thing"], Thing())
    port = free_port()
    context = await aiocoap.Context.create_server_context(site, bind=("127.0.0.1", port))
    try:
        yield f"coap://127.0.0.1:{port}/thing"
    finally:
        await context.shutdown()


NODE_SERVER = """
const coap = require('coap')
let content = Buffer.from('first')
const server = coap.createServer((request, response) => {
  response.setOption('Content-Format', 'text/plain')
  const methods = {
    GET: () => { response.code = '2.05'; response.end(content) },
    PUT: () => { content = request.payload; response.code = '2.04'; response.end() },
    POST: () => { content = Buffer.concat([content, request.payload]); response.code = '2.04'; response.end() },
    DELETE: () => { content = Buffer.alloc(0); response.code = '2.02'; response.end() },
    FETCH: () => { response.code = '2.05'; response.end(Buffer.concat([content, request.payload])) },
  }
  methods[request.method]()
})
server.listen(Number(process.argv[1]), '127.0.0.1', () => console.log('ready'))
"""


@contextlib.asynccontextmanager
async def node_server() -> AsyncIterator[str]:
    port = free_port()
    async with a_process(node(), "-e", NODE_SERVER, str(port)) as process:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield f"coap://127.0.0.1:{port}/thing"


@contextlib.asynccontextmanager
async def a_process(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=asyncio.subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        await process.communicate()


SERVERS = {"aiocoap": aiocoap_server, "node-coap": node_server}

Step = tuple[str, bytes, str, bytes]
THING: Sequence[Step] = (
    ("GET", b"", "2.05", b"first"),
    ("PUT", b"second", "2.04", b""),
    ("GET", b"", "2.05", b"second"),
    ("POST", b" and more", "2.04", b""),
    ("FETCH", b"!", "2.05", b"second and more!"),
    ("DELETE", b"", "2.02", b""),
    ("GET", b"", "2.05", b""),
)


async def take(client: Endpoint, uri: str, steps: Sequence[Step]) -> None:
    for method, payload, code, body in steps:
        response = await client.request(
            METHODS[method], uri, payload, content_format=contentformats.TEXT if payload else None
        )
        assert (method, codes.code_text(response.code), response.body) == (method, code, body)


@pytest.mark.parametrize("server", SERVERS)
def test_we_ask_a_foreign_server(server: str) -> None:
    async def scenario() -> None:
        async with Endpoint() as client, SERVERS[server]() as uri:
            await take(client, uri, THING)

    run(scenario)


def test_we_ask_libcoaps_example_server() -> None:
    """Its resources come and go with PUT and DELETE, of which it makes one if told so; it serves no FETCH anywhere."""

    async def scenario() -> None:
        port = free_port()
        async with (
            Endpoint() as client,
            a_process(libcoap("coap-server"), "-A", "127.0.0.1", "-p", str(port), "-d", "1"),
        ):
            while True:  # it says nothing when it is ready
                try:
                    await client.ping(f"coap://127.0.0.1:{port}", timeout=1.0)
                    break
                except Exception:  # noqa: BLE001  refused, or too early
                    await asyncio.sleep(0.05)
            uri = f"coap://127.0.0.1:{port}/thing"
            steps = (
                ("GET", b"", "4.04", b"Not Found"),
                ("PUT", b"first", "2.01", b""),
                ("GET", b"", "2.05", b"first"),
                ("PUT", b"second", "2.04", b""),
                ("GET", b"", "2.05", b"second"),
                ("POST", b"third", "2.04", b""),
                ("GET", b"", "2.05", b"third"),
                ("FETCH", b"?", "4.05", b"Method Not Allowed"),
                ("DELETE", b"", "2.02", b""),
                ("GET", b"", "4.04", b"Not Found"),
            )
            await take(client, uri, steps)

    run(scenario)
