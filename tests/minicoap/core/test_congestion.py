"""The congestion window, by acknowledgements and losses alone; then at a simulated router."""

from __future__ import annotations

from typing import Any, Callable, Optional

import pytest

from minicoap.codec import codes
from minicoap.core.congestion import LARGEST_WINDOW, CongestionWindow
from minicoap.core.endpoint import EndpointCore
from minicoap.core.parameters import Limits
from minicoap.core.request import Response
from minicoap.core.resource import Resource, Site
from minicoap.errors import UsageError
from minicoap.simulate.link import Link
from minicoap.simulate.world import World


def acknowledged(window: CongestionWindow, count: int, *, at: float = 10.0, round_trip: Optional[float] = 0.1) -> int:
    """Acknowledge so many, of a window that is full; return what it allows then."""
    for _ in range(count):
        window.acknowledged(at, window.size, round_trip)
    return window.size


def test_window_starts_at_four_and_grows_by_one_an_acknowledgement() -> None:
    window = CongestionWindow(64)
    assert window.size == 4
    assert [acknowledged(window, 1) for _ in range(4)] == [5, 6, 7, 8]


@pytest.mark.parametrize("limit", [1, 2, 4, 16])
def test_window_never_exceeds_its_limit(limit: int) -> None:
    assert acknowledged(CongestionWindow(limit), 100) == limit


@pytest.mark.parametrize("limit", [0, -1, LARGEST_WINDOW + 1])
def test_limit_that_cannot_work_is_refused(limit: int) -> None:
    with pytest.raises(UsageError):
        CongestionWindow(limit)


def test_window_that_is_not_used_does_not_grow() -> None:
    window = CongestionWindow(64)
    for _ in range(20):
        window.acknowledged(1.0, 3, 0.1)
    assert window.size == 4


def test_loss_while_a_queue_waits_halves_the_window() -> None:
    window = CongestionWindow(64)
    acknowledged(window, 16, round_trip=0.1)
    acknowledged(window, 20, round_trip=0.3)
    assert window.size == 40
    window.lost(11.0, 11.5)
    assert window.size == 20


def test_loss_with_nothing_in_a_queue_takes_a_fifth() -> None:
    window = CongestionWindow(64)
    acknowledged(window, 36)
    window.lost(11.0, 11.5)
    assert window.size == 32


def test_loss_before_any_round_trip_is_known_halves() -> None:
    window = CongestionWindow(64)
    acknowledged(window, 16, round_trip=None)
    window.lost(11.0, 11.5)
    assert window.size == 10


def test_losses_of_one_flight_count_once_and_its_acknowledgements_do_not_grow_the_window() -> None:
    window = CongestionWindow(64)
    acknowledged(window, 16)
    window.lost(11.0, 11.5)
    window.lost(11.1, 11.6)
    window.lost(11.5, 11.7)
    assert window.size == 16
    assert acknowledged(window, 100, at=11.5) == 16
    window.lost(11.6, 11.8)
    assert window.size == 12


def test_after_a_loss_a_whole_window_of_acknowledgements_is_worth_one_more() -> None:
    window = CongestionWindow(64)
    acknowledged(window, 16)
    window.lost(11.0, 11.5)
    assert acknowledged(window, 15, at=12.0) == 16
    assert acknowledged(window, 2, at=12.0) == 17
    assert acknowledged(window, 15, at=12.0) == 17
    assert acknowledged(window, 2, at=12.0) == 18


def test_after_congestion_the_window_returns_at_once_to_what_the_way_holds_without_a_queue() -> None:
    window = CongestionWindow(64)
    acknowledged(window, 26, round_trip=0.1)
    acknowledged(window, 10, round_trip=0.14)
    before = window.size
    window.lost(11.0, 11.5)
    assert window.size == before // 2
    grown = acknowledged(window, 10, at=12.0, round_trip=0.1)
    assert before * 0.7 < grown < before * 0.8
    assert acknowledged(window, 10, at=12.0, round_trip=0.1) <= grown + 1


def test_timeout_sets_the_window_back_to_one_and_half_of_it_is_the_threshold() -> None:
    window = CongestionWindow(64)
    acknowledged(window, 16)
    window.timed_out(11.0, 12.0)
    window.timed_out(11.1, 12.1)
    assert window.size == 1
    assert acknowledged(window, 9, at=13.0) == 10
    assert acknowledged(window, 9, at=13.0) == 10


def test_window_never_falls_below_one() -> None:
    window = CongestionWindow(4)
    for count in range(10):
        window.lost(20.0 + count, 20.5 + count)
    assert window.size == 1


# At a router


class Router:
    """Several clients fetch from one server through one queue of `room` bytes, 125 kB/s and 100 ms a round trip."""

    RATE = 125_000.0

    def __init__(self, clients: int, room: int, size: int, *, window: int = 64, loss: float = 0.0) -> None:
        self.world = World(7, link=Link(delay=0.05, loss=loss))
        self.room = room
        self.free_at = 0.0
        self.offered = self.dropped = 0
        self.done: list[float] = []
        server = self.world.host(("server", 1))
        body = bytes(size)
        site = Site(Resource("/x", get=lambda _: Response(payload=body, etag=b"v")))
        # Not to be asked for an Echo first: it is the flights that are measured.
        server.boot(EndpointCore(self.world.entropy("server"), site=site, limits=Limits(amplification=0)))
        for number in range(clients):
            client = self.world.host((f"client-{number}", 1))
            core = EndpointCore(self.world.entropy(f"client-{number}"))
            client.boot(core)
            link = self.world.link(server, client)
            link.admits = self.through(link)
            client.call_later(0.7 * number, self.start, core, server.address, window)
        self.world.run_until(lambda: len(self.done) == clients)
        self.use = clients * size / self.world.now / self.RATE

    def start(self, core: EndpointCore, server: Any, window: int) -> None:
        core.request(codes.GET, server, self.ended, self.world.now, uri_path=["x"], sink=Sink(), window=window)

    def ended(self, outcome: Any) -> None:
        assert isinstance(outcome, Response), outcome
        self.done.append(self.world.now)

    def through(self, link: Link) -> Callable[[bytes], bool]:
        def admits(data: bytes) -> bool:
            self.offered += 1
            begins = max(self.free_at, self.world.now)
            if (begins - self.world.now) * self.RATE > self.room:
                self.dropped += 1
                return False
            self.free_at = begins + len(data) / self.RATE
            link.delay = 0.05 + self.free_at - self.world.now
            return True

        return admits


class Sink:
    any_order = True

    def begin(self, response: Response, size: Optional[int]) -> None:
        pass

    def write_at(self, offset: int, data: bytes) -> None:
        pass


@pytest.mark.parametrize("room", [12_500, 30_000])
@pytest.mark.parametrize("clients", [1, 2, 4])
def test_transfers_fill_a_router_and_share_it(clients: int, room: int) -> None:
    router = Router(clients, room, 512 * 1024)
    assert router.use > 0.8
    assert router.dropped < 0.12 * router.offered
    # None is starved: all have begun within 3 s and the last is done when two fair shares of time have passed.
    assert max(router.done) < 2.2 * min(router.done)


def test_window_leaves_a_link_that_loses_one_in_a_hundred_mostly_busy() -> None:
    link = Router(1, 1 << 20, 1024 * 1024, window=32, loss=0.01)
    assert link.use > 0.8
    assert Router(1, 1 << 20, 1024 * 1024, window=4, loss=0.01).use < 0.35
