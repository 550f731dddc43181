"""Bytes of atheris' choice, as datagrams to an endpoint that serves and asks; Python 3.11 or newer.

    python tests/fuzz/endpoint.py -max_total_time=600 CORPUS

The first byte of an input says what becomes of the rest: read by the codec alone, or taken for datagrams, each behind
its length in two bytes, that come from one of two peers. Nothing may be raised but what is meant to be, what is sent
has to be well-formed, and what is kept has to stay within bounds.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import atheris

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

with atheris.instrument_imports(include=["minicoap"]):
    from minicoap.codec import codes
    from minicoap.codec.linkformat import parse_links
    from minicoap.codec.message import Options, decode, encode
    from minicoap.codec.uri import parse_uri
    from minicoap.core.body import BytesSource
    from minicoap.core.cache import Cache
    from minicoap.core.endpoint import EndpointCore
    from minicoap.core.parameters import Limits
    from minicoap.core.request import Deferred, Request, Response
    from minicoap.core.resource import Resource, Site
    from minicoap.errors import CoapError, MessageFormatError, NetworkError, PeerError, UsageError
    from minicoap.security.hello import hello_random, read_hello
    from minicoap.simulate.entropy import SeededEntropy

PEERS = (("127.0.0.1", 5683), ("192.0.2.1", 5683))
LIMITS = Limits(
    peers=4, remembered_answers=8, deferred=4, open_bodies=4, open_body_bytes=8192, observers=4, observers_per_peer=2
)
_cache: dict[bytes, Options] = {}


class Sink:
    """Takes whatever comes."""

    def write_at(self, offset: int, data: bytes) -> None:
        pass

    def finish(self, answer: Deferred) -> None:
        answer.resolve(Response(codes.CHANGED), 0.0)

    def abort(self, reason: str) -> None:
        pass


def site(waiting: list[Deferred]) -> Site:
    def later(request: Request) -> Deferred:
        waiting.append(request.defer())
        return waiting[-1]

    def echo(request: Request) -> Response:
        return Response(codes.CHANGED, request.payload, etag=b"e")

    return Site(
        Resource("/t", get=lambda _: Response(payload=bytes(3000), etag=b"e"), post=echo, put=echo, fetch=echo,
                 observable=True, group=True, conditional=True),
        Resource("/s", get=lambda _: Response(payload=BytesSource(bytes(2000))), upload=lambda _: Sink()),
        Resource("/l/{x}", get=later, post=later, ipatch=echo, fresh=10.0),
        lenient_paths=True,
    )  # fmt: skip


def codec(data: bytes) -> None:
    """What is read is written back to the same bytes; what is not is a format error. A hello of DTLS is one or none."""
    hello = read_hello(data)
    assert hello is None or hello_random(data) in hello.parameters
    try:
        message = decode(data, _cache)
    except MessageFormatError:
        return
    assert encode(message) == data
    text = data.decode("utf-8", "replace")
    for read in (parse_links, parse_uri):
        try:
            read(text)
        except (PeerError, UsageError):
            pass


def endpoint(data: bytes) -> None:
    """An endpoint through a few datagrams, and the time that passes between them."""
    waiting: list[Deferred] = []
    outcomes: list[Any] = []
    core = EndpointCore(SeededEntropy(1, "fuzz"), site=site(waiting), limits=LIMITS, cache=Cache(entries=4))
    now = 0.0
    for code, confirmable, size in ((codes.GET, True, 0), (codes.POST, False, 2000)):
        core.request(code, PEERS[0], outcomes.append, now, payload=bytes(size), confirmable=confirmable)
    core.request(codes.GET, PEERS[1], outcomes.append, now, window=4)
    core.request(codes.PUT, PEERS[1], outcomes.append, now, payload=bytes(3000), confirmable=False, qblock=True)
    core.observe(PEERS[0], outcomes.append, now, uri_path=["o"])
    core.multicast(codes.GET, ("224.0.1.187", 5683), lambda *_: None, outcomes.append, now)
    at = 0
    while at + 3 <= len(data):
        head, length = data[at], int.from_bytes(data[at + 1 : at + 3], "big") % 2048
        datagram = data[at + 3 : at + 3 + length]
        at += 3 + length
        sent = core.datagrams_to_send()
        if head & 2 and sent:  # an answer to what was sent last: its message ID and token
            last = decode(sent[-1][0])
            datagram = bytes((0x40 | head & 0x30 | len(last.token), datagram[0] if datagram else 0x45))
            datagram += last.message_id.to_bytes(2, "big") + last.token + data[at - length + 1 : at]
        receive = core.multicast_received if head & 4 else core.datagram_received
        receive(datagram, PEERS[head & 1], now)
        if head & 8:
            now += (head >> 4) * 4.0
            core.handle_timeout(now)
        if head & 0x40 and waiting:
            waiting.pop().resolve(Response(payload=bytes(head)), now)
        for reply, _ in core.datagrams_to_send():
            decode(reply)
        footprint = core.footprint()
        assert footprint["peers"] <= LIMITS.peers
        assert footprint["remembered"] <= LIMITS.remembered_answers
        assert footprint["pending"] <= 2 * LIMITS.deferred
        assert footprint["bodies"] <= LIMITS.open_bodies
        assert footprint["observers"] <= LIMITS.observers
        assert footprint["cached"] <= 4
    core.path_failed(PEERS[0], OSError(111, "refused"), now)
    assert all(isinstance(outcome, (Response, CoapError, type(None))) for outcome in outcomes)


def one_input(data: bytes) -> None:
    """What atheris calls."""
    try:
        (endpoint if data[:1] and data[0] & 1 else codec)(data[1:])
    except NetworkError as error:
        assert "see Limits" in str(error)


if __name__ == "__main__":
    import logging

    logging.disable()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
