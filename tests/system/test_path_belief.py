"""Hints go where a node has shown to be, over real sockets: in a network of its own, since loopback needs no proof."""

from __future__ import annotations

from pathlib import Path

from tests.minicoap.asyncio.namespace import run_alone

SET_UP = "\n".join(f"ip addr add 192.0.2.{number}/32 dev lo" for number in (1, 50, 66))

CODE = """
import asyncio, json, socket, subprocess, sys
from minicoap.asyncio.endpoint import Endpoint
from minicoap.codec import codes
from minicoap.codec.message import CON, NON, Message, Options, decode, encode
from minicoap.codec.options import CONTENT_FORMAT, URI_PATH
from minicoap.core.request import Response
from minicoap.core.resource import Resource, Site
from minicoap.errors import PathError

SERVER = ("192.0.2.1", 5683)
URI = "coap://192.0.2.1:5683"

async def main():
    heard = []

    def hear(request):
        heard.append(request.payload)
        return Response(codes.CHANGED)

    async def post(path, body, code=codes.POST):
        response = await node.request(code, URI + path, json.dumps(body).encode(), content_format=50, timeout=10)
        assert response.is_success, response.text
        return json.loads(response.body)

    async with Endpoint(Site(Resource("/updates/available", post=hear))) as node:
        await node.serve("coap://192.0.2.50:5683")
        for _ in range(500):
            try:
                await post("/nodes", {"node_id": "n1"})
                break
            except PathError:  # the server is not there yet
                await asyncio.sleep(0.02)
        await post("/health", {"node_id": "n1"}, codes.PUT)
        victim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        victim.bind(("192.0.2.66", 5683))
        victim.settimeout(10)
        forged = ((CON, codes.PUT, b"health"), (NON, codes.PUT, b"health"), (CON, codes.POST, b"nodes"))
        answers = []
        for number, (kind, code, path) in enumerate(forged):
            options = Options([(URI_PATH, path), (CONTENT_FORMAT, bytes((50,)))])
            victim.sendto(encode(Message(kind, code, number, b"f%d" % number, options, b'{"node_id":"n1"}')), SERVER)
            answers.append(decode(await asyncio.to_thread(victim.recv, 2048)).code)
        job = await post("/updates", {"name": "a", "version": "1", "package_type": "pip", "target_nodes": ["n1"]})
        await post("/updates", {"action": "install", "job_id": job["job_id"]})
        for _ in range(1000):
            if heard:
                break
            await asyncio.sleep(0.01)
        victim.setblocking(False)
        late = []
        try:
            while True:
                late.append(decode(victim.recv(2048)))
        except BlockingIOError:
            pass
        requests = [message for message in late if 0 < message.code < 32]
        print(json.dumps({"answered": len(answers), "node": len(heard), "victim": len(requests)}))

server = subprocess.Popen(
    [sys.executable, "-m", "fleet.cli.main", "server", "--host", "192.0.2.1", "--insecure", "--data-dir", "DATA"],
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    asyncio.run(main())
finally:
    server.terminate()
    server.wait(20)
"""


def test_a_report_from_a_victims_address_aims_no_hint_at_it(tmp_path: Path) -> None:
    output = run_alone(SET_UP, CODE.replace("DATA", str(tmp_path)))

    assert output.strip() == '{"answered": 3, "node": 1, "victim": 0}'
