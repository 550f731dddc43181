"""A program that attacks a server: `python -m tests.system.attacker KIND COUNT PORT`, as fast as one process can.

It sends COUNT requests, with at most WINDOW unanswered, and prints how often it got which code as JSON.
"""

from __future__ import annotations

import itertools
import json
import select
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

from minicoap.codec import codes
from minicoap.codec.contentformats import JSON
from minicoap.codec.message import ACK, CON, Message, Options, decode, encode
from minicoap.codec.options import BLOCK1, CONTENT_FORMAT, OBSERVE, URI_PATH, encode_uint
from minicoap.core.body import Block

WINDOW = 64  # requests that may be without an answer
PATIENCE = 0.05  # seconds without an answer after which the unanswered are given up
PER_SOCKET = 1000  # requests from one port; message IDs are not to come round
ELECTIVE = 2048  # an option of which nothing is known but that it may be ignored (RFC 7252 §5.4.1)
HOST = "127.66.0.1"
FORMAT = (CONTENT_FORMAT, encode_uint(JSON))


def uploads(number: int) -> tuple[int, list[tuple[int, bytes]], bytes]:
    """The first block of an upload that never goes on."""
    name = b"half-%d" % number
    return codes.PUT, [(URI_PATH, b"firmware"), (URI_PATH, name), (BLOCK1, Block(0, True, 6).encode())], bytes(1024)


def reports(number: int) -> tuple[int, list[tuple[int, bytes]], bytes]:
    """The first block of a report, told apart by an option that nobody knows."""
    options = [(URI_PATH, b"health"), FORMAT, (BLOCK1, Block(0, True, 6).encode()), (ELECTIVE, b"%d" % number)]
    return codes.PUT, options, bytes(1024)


def registrations(number: int) -> tuple[int, list[tuple[int, bytes]], bytes]:
    """A node that does not exist, with much to say of itself."""
    body = json.dumps({"node_id": f"bogus-{number}", "hostname": "x" * 200, "system_info": {"x": "y" * 600}})
    return codes.POST, [(URI_PATH, b"nodes"), FORMAT], body.encode()


def jobs(number: int) -> tuple[int, list[tuple[int, bytes]], bytes]:
    """A job that nobody wants."""
    body = {"name": f"job-{number}", "version": "1.0", "package_type": "pip", "target_nodes": ["all"]}
    return codes.POST, [(URI_PATH, b"updates"), FORMAT], json.dumps(body).encode()


def observers(number: int) -> tuple[int, list[tuple[int, bytes]], bytes]:
    """Someone who observes in a way of his own, so that nobody shares it, and never acknowledges anything."""
    return codes.GET, [(OBSERVE, b""), (URI_PATH, b"health"), (ELECTIVE, b"%d" % number)], b""


KINDS = {kind.__name__: kind for kind in (uploads, reports, registrations, jobs, observers)}


def attack(kind: str, count: int, port: int, sockets: ExitStack) -> Counter[str]:
    """Send the requests; returns how often each code came back, and how many were never answered as "none".

    The sockets stay open: a closed one would say by ICMP that nobody listens.
    """
    told: Counter[str] = Counter()
    numbers = iter(range(count))
    while True:
        batch = list(itertools.islice(numbers, PER_SOCKET))
        if not batch:
            return told
        sock = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sock.bind((HOST, 0))
        sock.connect(("127.0.0.1", port))
        for code in answers(sock, kind, batch):
            told[code] += 1


def answers(sock: socket.socket, kind: str, numbers: list[int]) -> Iterator[str]:
    unanswered = 0
    for number in numbers:
        code, options, payload = KINDS[kind](number)
        message_id = number % 0x10000
        sock.send(encode(Message(CON, code, message_id, message_id.to_bytes(2, "big"), Options(options), payload)))
        unanswered += 1
        while unanswered and select.select([sock], [], [], 0.0 if unanswered < WINDOW else PATIENCE)[0]:
            message = decode(sock.recv(2048))
            if message.code and (message.type == ACK or kind != "observers"):
                unanswered -= 1
                yield codes.code_text(message.code)
        if unanswered >= WINDOW:
            yield from ["none"] * unanswered
            unanswered = 0
    yield from ["none"] * unanswered


if __name__ == "__main__":
    with ExitStack() as opened:
        print(json.dumps(attack(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), opened)))
