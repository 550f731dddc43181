"""Downloads that go on where an earlier one stood, and what tells the body that was begun from another."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from typing import Any, Optional

import pytest

from minicoap.codec import codes
from minicoap.codec.options import BLOCK2
from minicoap.core.body import Block, HashingSink, TransferState, decode_block
from minicoap.core.endpoint import EndpointCore
from minicoap.core.request import Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.errors import BodyError, NetworkError, RequestTimeout, UsageError
from minicoap.simulate.link import Link
from minicoap.simulate.pair import Pair
from tests.minicoap.core.solo import LIFETIME, Solo, ack

BODY = b"".join(n.to_bytes(4, "big") for n in range(16 * 256))  # 16 KiB


class Memory:
    """Keeps what it gets, in order."""

    def __init__(self, before: bytes = b"") -> None:
        self.data = bytearray(before)
        self.begun = 0

    def begin(self, response: Response, size: Optional[int]) -> None:
        self.begun += 1

    def write_at(self, offset: int, data: bytes) -> None:
        assert offset <= len(self.data)
        self.data[offset:] = data


class Server:
    """One body that may be replaced; the server may be restarted."""

    def __init__(self, **link: Any) -> None:
        self.body = BODY
        self.etag: Optional[bytes] = b"v1"
        self.blocks = True
        self.site = Site(Resource("/x", get=self.show))
        self.pair = Pair(self.site, **link)

    def show(self, request: Request) -> Response:
        return Response(payload=self.body, etag=self.etag)

    def restart(self) -> None:
        pair = self.pair
        pair.server = EndpointCore(pair.world.entropy(f"life from {pair.world.now}"), site=self.site)
        pair.server_host.boot(pair.server)


# The state


@pytest.mark.parametrize("etag", [None, b"\x00\xff"])
def test_state_survives_json(etag: Optional[bytes]) -> None:
    state = TransferState("coap://h/x", etag, 5000, 4)
    assert TransferState.from_dict(json.loads(json.dumps(state.as_dict()))) == state


@pytest.mark.parametrize(
    "fields",
    [
        None,
        [],
        {},
        {"uri": "coap://h/x", "etag": None, "offset": 0},
        {"uri": "coap://h/x", "etag": "xyz", "offset": 0, "szx": 6},
        {"uri": "coap://h/x", "etag": 7, "offset": 0, "szx": 6},
        {"uri": "coap://h/x", "etag": None, "offset": -1, "szx": 6},
        {"uri": "coap://h/x", "etag": None, "offset": 1.5, "szx": 6},
        {"uri": "coap://h/x", "etag": None, "offset": 0, "szx": 7},
        {"uri": "coap://h/x", "etag": None, "offset": 0, "szx": True},
        {"uri": 1, "etag": None, "offset": 0, "szx": 6},
    ],
)
def test_what_is_no_state_is_refused(fields: Any) -> None:
    with pytest.raises(UsageError):
        TransferState.from_dict(fields)


@pytest.mark.parametrize(
    ("offset", "szx", "at"), [(0, 6, 0), (1, 6, 0), (1024, 6, 0), (1025, 6, 1024), (5000, 6, 4096), (100, 0, 96)]
)
def test_download_goes_on_with_the_last_block_that_is_stored(offset: int, szx: int, at: int) -> None:
    assert TransferState("coap://h/x", b"v", offset, szx).resume_at == at


# Going on


@pytest.mark.parametrize("window", [1, 8])
@pytest.mark.parametrize("offset", [1024, 8192, 15 * 1024])
def test_same_body_goes_on_at_the_offset(offset: int, window: int) -> None:
    server, sink = Server(), Memory(BODY[:offset])
    server.pair.request(codes.GET, "x", sink=sink, offset=offset, etag=b"v1", window=window)
    assert sink.data == BODY
    asked = [one.options.uint(BLOCK2) for name, one in server.pair.messages() if name == "client"]
    assert len(asked) == (len(BODY) - offset) // 1024


@pytest.mark.parametrize("window", [1, 8])
@pytest.mark.parametrize("body", [BODY[::-1], BODY[:2048], BODY[:500]])
@pytest.mark.parametrize("restart", [False, True])
def test_other_body_is_an_error_or_fetched_anew(body: bytes, restart: bool, window: int) -> None:
    server, sink = Server(), Memory(BODY[:8192])
    server.body, server.etag = body, b"v2"
    outcome = server.pair.outcome(codes.GET, "x", sink=sink, offset=8192, etag=b"v1", restart=restart, window=window)
    if restart:
        assert outcome.is_success  # type: ignore[union-attr]
        assert (sink.data, sink.begun) == (body, 1)
    else:
        assert isinstance(outcome, BodyError) or not outcome.is_success  # type: ignore[union-attr]
        assert (sink.data, sink.begun) == (BODY[:8192], 0)


def test_server_without_etags_is_believed_only_by_who_asks_for_none() -> None:
    server = Server()
    server.etag = None

    class Nameless:
        size, etag = len(BODY), None

        def read_at(self, offset: int, length: int) -> bytes:
            return BODY[offset : offset + length]

    server.body = Nameless()  # type: ignore[assignment]
    sink = Memory(BODY[:8192])
    assert isinstance(server.pair.outcome(codes.GET, "x", sink=sink, offset=8192, etag=b"v1"), BodyError)
    assert server.pair.request(codes.GET, "x", sink=sink, offset=8192).is_success
    assert sink.data == BODY


def test_server_without_blocks_starts_over_if_it_may() -> None:
    solo, sink = Solo(), Memory(b"#" * 1024)
    outcomes = solo.request(codes.GET, sink=sink, offset=1024, restart=True)
    (sent,) = solo.sent()
    solo.put(ack(codes.CONTENT, sent, payload=b"all of it"))
    assert [outcome.is_success for outcome in outcomes if isinstance(outcome, Response)] == [True]
    assert sink.data == b"all of it"


@pytest.mark.parametrize("window", [1, 8])
def test_change_in_the_middle_is_an_error_even_where_it_may_restart(window: int) -> None:
    server, sink = Server(), Memory()
    outcomes = server.pair.start(codes.GET, "x", sink=sink, restart=True, window=window)
    server.pair.world.run_until(lambda: len(sink.data) > 2000)
    server.body, server.etag = BODY[::-1], b"v2"
    server.restart()
    server.pair.world.run_for(100.0)
    assert [type(outcome) for outcome in outcomes] == [BodyError]
    assert sink.data == BODY[: len(sink.data)]


def resumed_until_whole(server: Server, sink: Any, **arguments: Any) -> list[Any]:
    """Download as one who keeps a state does: go on after each error; return the errors."""
    offset, etag, errors, transfers = 0, None, [], []

    def progress(transfer: Any) -> None:
        transfers.append((transfer.received, transfer.etag))

    for _ in range(50):
        at = TransferState("", etag, offset).resume_at
        outcome = server.pair.outcome(codes.GET, "x", sink=sink, offset=at, etag=etag, progress=progress, **arguments)
        if isinstance(outcome, Response):
            assert outcome.is_success
            return errors
        errors.append(outcome)
        if transfers:
            offset, etag = transfers[-1]
        server.pair.world.run_for(200.0)
        server.pair.world.link(server.pair.client_host, server.pair.server_host).up = True
    raise AssertionError("never whole")


@pytest.mark.parametrize("window", [1, 8])
def test_lost_network_costs_a_block(window: int) -> None:
    server, sink = Server(), Memory()
    server.pair.world.call_later(0.05, lambda: setattr(server.pair.there, "up", False))
    errors = resumed_until_whole(server, sink, window=window)
    assert [type(error) for error in errors] == [RequestTimeout]
    assert sink.data == BODY
    numbers = [decode_block(one.options.uint(BLOCK2) or 0) for name, one in server.pair.messages() if name == "client"]
    first_of_second = [block.number for block in numbers if block is not None].index(0) == 0
    assert first_of_second


# Faults on the way, from a seed


@pytest.mark.parametrize("seed", range(30))
def test_download_comes_whole_through_restarts_rebinding_and_loss(seed: int) -> None:
    server = Server(seed=seed, link=Link(loss=0.2, duplicate=0.1, delay=0.05, jitter=0.4))
    world, pair = server.pair.world, server.pair
    chance = world.entropy("faults")
    for number in range(3):
        world.call_later(chance.uniform(0.0, 20.0), server.restart)
        moved = (f"client-{number}", 5683)
        world.call_later(chance.uniform(0.0, 20.0), lambda moved=moved: rebind(pair, moved))
    digest = hashlib.sha256()
    sink = Memory()
    errors = resumed_until_whole(server, sink, window=(1, 4, 16)[seed % 3])
    digest.update(sink.data)
    assert all(isinstance(error, NetworkError) for error in errors)
    assert digest.digest() == hashlib.sha256(BODY).digest()
    world.run_for(4 * LIFETIME)
    assert not any([*pair.client.footprint().values(), *pair.server.footprint().values()])


def rebind(pair: Pair, address: tuple[str, int]) -> None:
    """Another address, on links as bad as before."""
    pair.client_host.rebind(address)


@pytest.mark.parametrize("seed", range(12))
def test_change_on_a_bad_link_is_never_mixed_in(seed: int) -> None:
    server = Server(seed=seed, link=Link(loss=0.2, duplicate=0.1, delay=0.05, jitter=0.4))
    sink = Memory()
    outcomes = server.pair.start(codes.GET, "x", sink=sink, window=(1, 8)[seed % 2])

    def change() -> None:
        server.body, server.etag = BODY[::-1], b"v2"
        server.restart()

    server.pair.world.call_later(0.5 + seed % 5, change)
    assert server.pair.world.run_until(lambda: bool(outcomes))
    if isinstance(outcomes[0], Response):
        assert sink.data in (BODY, BODY[::-1])
    else:
        assert isinstance(outcomes[0], (BodyError, NetworkError))


# Progress, hashing, memory


@pytest.mark.parametrize("size", [1, 1024, 5000])
def test_progress_of_an_upload_tells_every_block_that_was_taken(size: int) -> None:
    pair = Pair(Site(Resource("/x", put=lambda _: Response(codes.CHANGED))))
    seen: list[tuple[int, int]] = []
    pair.request(codes.PUT, "x", payload=BODY[:size], progress=lambda one: seen.append((one.sent, one.sent_size)))
    assert seen == [(end, size) for end in (*range(1024, size, 1024), size)]


@pytest.mark.parametrize("at", [1, 3])
def test_who_is_told_of_progress_may_cancel(at: int) -> None:
    server = Server()
    pair = server.pair
    count = []
    outcomes: list[Any] = []

    def progress(transfer: Any) -> None:
        count.append(transfer)
        if len(count) == at:
            transfer.cancel(pair.world.now)

    for code, body in ((codes.GET, b""), (codes.PUT, BODY)):
        count.clear()
        pair.client.request(
            code, pair.server_host.address, outcomes.append, pair.world.now, uri_path=["x"], payload=body,
            sink=Memory(), progress=progress,
        )  # fmt: skip
        pair.client_host.wake()
        pair.world.run_for(5.0)
        assert len(count) == (at if code == codes.GET else 0)
    assert len(outcomes) == 1  # the PUT, which is not allowed


@pytest.mark.parametrize("any_order", [False, True])
def test_digest_is_fed_in_order_whatever_the_order_of_blocks(any_order: bool) -> None:
    server = Server(link=Link(loss=0.1, jitter=0.3), seed=3)
    sink, digest = Memory(), hashlib.sha256()
    sink.any_order = any_order  # type: ignore[attr-defined]
    assert server.pair.request(codes.GET, "x", sink=HashingSink(sink, digest), window=16).is_success
    assert digest.digest() == hashlib.sha256(BODY).digest()


class Endless:
    """A body that is nowhere."""

    size = 8 << 20
    etag = b"endless"

    def read_at(self, offset: int, length: int) -> bytes:
        return offset.to_bytes(8, "big") * (min(length, self.size - offset) // 8)


class Nowhere:
    def __init__(self) -> None:
        self.count = 0

    def begin(self, response: Response, size: Optional[int]) -> None:
        pass

    def write_at(self, offset: int, data: bytes) -> None:
        assert data[:8] == offset.to_bytes(8, "big")
        self.count += len(data)

    def finish(self, answer: Any) -> None:
        answer.resolve(Response(codes.CHANGED), answer.request.now)

    def abort(self, reason: str) -> None:
        pass


@pytest.mark.parametrize("kind", ["download", "window", "upload"])
def test_long_body_takes_no_more_memory_than_what_is_under_way(kind: str) -> None:
    taken = Nowhere()
    site = Site(Resource("/x", get=lambda _: Response(payload=Endless()), upload=lambda _: taken))
    server, client = (EndpointCore(Pair().world.entropy(name), site=site) for name in ("server", "client"))
    address, outcomes = ("there", 1), []
    tracemalloc.start()
    if kind == "upload":
        client.request(codes.PUT, address, outcomes.append, 0.0, uri_path=["x"], payload=Endless())
    else:
        window = 64 if kind == "window" else 1
        client.request(codes.GET, address, outcomes.append, 0.0, uri_path=["x"], sink=taken, window=window)
    now = 0.0
    while not outcomes:
        now += 0.001  # so that what is remembered for a lifetime is seen to go
        for data, _ in client.datagrams_to_send():
            server.datagram_received(data, address, now)
        for data, _ in server.datagrams_to_send():
            client.datagram_received(data, address, now)
        for core in (client, server):
            due = core.next_timeout()
            if due is not None and due <= now:
                core.handle_timeout(now)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken.count == Endless.size
    # Of an upload's blocks the answers are remembered, 300 bytes each at most, until their lifetime is over.
    bound = {"download": 256 << 10, "window": 1 << 20, "upload": (256 << 10) + Endless.size // 1024 * 300}
    assert peak < bound[kind], peak


def test_blocks_are_counted_past_16_bits() -> None:
    solo, sink = Solo(), Memory(b"\0" * (65_534 * 16))
    outcomes = solo.request(codes.GET, sink=sink, offset=65_534 * 16, szx=0)
    (sent,) = solo.sent()
    for number in range(65_534, 65_540):
        block = Block(number, number < 65_539, 0)
        assert sent.options.uint(BLOCK2) == number << 4
        requests = solo.put(ack(codes.CONTENT, sent, options=((BLOCK2, block.encode()),), payload=bytes(16)))
        if block.more:
            (sent,) = requests
    assert len(outcomes) == 1
    assert len(sink.data) == 65_540 * 16


def test_body_longer_than_block_numbers_can_count_is_an_error() -> None:
    last = (1 << 20) - 1
    solo, sink = Solo(), Memory(b"\0" * (last * 16))
    outcomes = solo.request(codes.GET, sink=sink, offset=last * 16, szx=0)
    (sent,) = solo.sent()
    block = Block(last, True, 0)
    assert solo.put(ack(codes.CONTENT, sent, options=((BLOCK2, block.encode()),), payload=bytes(16))) == []
    assert [type(outcome) for outcome in outcomes] == [BodyError]
