"""The demo's own traffic, recorded and read back by scapy: each packet is what our codec says it is."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from minicoap.asyncio.endpoint import Endpoint
from minicoap.codec import codes
from minicoap.codec.message import ACK, CON, decode, encode
from minicoap.codec.options import BLOCK1, BLOCK2, CONTENT_FORMAT, ETAG, LOCATION_PATH, MAX_AGE, SIZE1, SIZE2, URI_PATH
from tests.fleet.install.wheels import build_wheel
from tests.minicoap.codec.foreign import Minicoap, Scapy
from tests.system.processes import Machine, Operator, make_environment, wait_until
from tests.system.relay import Relay

NODES = ("worker-01", "worker-02")


async def record_the_demo(directory: Path) -> Path:
    """The demo's flow, by the commands that it uses, through a relay that records all of it; returns the capture."""
    with Machine(directory) as machine:
        server = await machine.server()
        async with Relay(("127.0.0.1", server.port)) as relay, Endpoint() as endpoint:
            for node in NODES:
                machine.agent(relay.uri, node, "--python", make_environment(directory / f"env-{node}"))
            operator = Operator(endpoint, relay.uri)
            await operator.online(*NODES)
            wheel = build_wheel(directory, "greeting", "1.1", {"greeting.py": "x = 1\n", "data.txt": "x" * 20_000})
            put = machine.start("put", "firmware", "--server", relay.uri, "put", str(wheel))
            assert await asyncio.get_running_loop().run_in_executor(None, put.wait) == 0
            job_id = await operator.install(name="greeting", version="1.1", package_type="pip")
            status = await operator.end_of(job_id)
            assert status["status"] == "succeeded", status
            refused = await operator.ask(codes.POST, "/updates", {"action": "install", "job_id": job_id})
            assert refused.code == codes.CONFLICT

            def all_are_answered():
                passed = [decode(each.data) for each in relay.passed]
                return {each.message_id for each in passed if each.type == CON} <= {
                    each.message_id for each in passed if each.type == ACK
                }

            await wait_until(all_are_answered, "the answers to all messages")
            capture = directory / "demo.pcap"
            relay.write_pcap(capture)
            return capture


@pytest.fixture(scope="module")
def packets(tmp_path_factory):
    """What scapy reads in the capture: pairs of its own CoAP layer and the bytes of the datagram."""
    pytest.importorskip("scapy.contrib.coap")
    udp = pytest.importorskip("scapy.layers.inet").UDP
    read = pytest.importorskip("scapy.utils").rdpcap
    capture = asyncio.run(record_the_demo(tmp_path_factory.mktemp("demo")))
    layers = [packet[udp] for packet in read(str(capture))]
    return [(layer.payload, layer.original[8 : layer.len]) for layer in layers]


def test_scapy_finds_in_each_packet_what_our_codec_says(packets):
    scapy, ours = Scapy(), Minicoap()

    for theirs, data in packets:
        message = decode(data)
        assert type(theirs).__name__ == "CoAP"
        assert (theirs.ver, theirs.tkl) == (1, len(message.token))
        if message.options.items or not message.payload:
            # It takes a payload marker right behind the token for an option.
            assert scapy.seen(theirs) == ours.seen(message)
        else:
            seen, said = scapy.seen(theirs), ours.seen(message)
            assert seen[:4] == said[:4]
        assert encode(message) == data


def test_the_capture_holds_everything_that_the_demo_is_about(packets):
    messages = [decode(data) for _theirs, data in packets]
    requests = Counter(
        (codes.code_name(message.code), "/" + "/".join(message.options.path))
        for message in messages
        if codes.is_request(message.code)
    )
    answers = {codes.code_text(message.code) for message in messages if codes.is_response(message.code)}
    numbers = {number for message in messages for number, _value in message.options.items}

    for request in (("POST", "/nodes"), ("PUT", "/health"), ("POST", "/updates"), ("POST", "/updates/available")):
        assert requests[request] >= 1, request
    assert sum(count for (method, path), count in requests.items() if path.startswith("/firmware/")) > 2 * 20 + 20
    assert {"2.01", "2.04", "2.05", "2.31", "4.09"} <= answers
    assert {BLOCK1, BLOCK2, CONTENT_FORMAT, ETAG, LOCATION_PATH, MAX_AGE, SIZE1, SIZE2, URI_PATH} <= numbers
