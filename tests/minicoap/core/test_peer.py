"""Peers: message IDs, and who is forgotten."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from minicoap.core.peer import Peer, Peers
from minicoap.core.timers import Timers
from minicoap.simulate.entropy import SeededEntropy


def peers(limit: int = 3) -> tuple[Peers, Timers]:
    timers = Timers()
    return Peers(SeededEntropy(1, "peers"), timers, limit, 100.0), timers


def busy(peer: Any) -> Any:
    peer.opened(b"token", object())
    return peer


def test_message_ids_come_round_after_all_of_them_and_leave_out_outstanding_ones() -> None:
    peer = Peer(("host", 1), 65_000, 0.0)
    peer.outstanding = {10: object(), 11: object()}  # type: ignore[dict-item]
    ids = [peer.next_message_id() for _ in range(65_534)]
    assert ids[0] == 65_000
    assert sorted(ids) == [number for number in range(65_536) if number not in (10, 11)]
    assert peer.next_message_id() == 65_000


def test_first_message_id_is_random_for_each_peer() -> None:
    table, _ = peers(limit=100)
    assert len({table.reach(("host", port), 0.0).next_message_id() for port in range(50)}) > 45  # type: ignore[union-attr]


def test_peer_is_kept_for_the_lifetime_and_forgotten_afterwards() -> None:
    table, timers = peers()
    first = table.reach(("host", 1), 0.0)
    assert table.reach(("host", 1), 50.0) is first
    for now in (100.0, 149.0):
        timers.run(now)
        assert table.find(("host", 1)) is first
    for now in (200.0, 300.0):
        timers.run(now)
    assert (len(table), len(timers)) == (0, 0)


def test_busy_peer_is_not_forgotten_until_it_is_idle() -> None:
    table, timers = peers()
    peer = busy(table.reach(("host", 1), 0.0))
    for now in range(100, 1000, 100):
        timers.run(float(now))
    assert table.find(("host", 1)) is peer
    peer.closed(b"token")
    for now in range(1000, 1300, 100):
        timers.run(float(now))
    assert len(table) == 0


def test_full_table_forgets_the_longest_idle_and_refuses_if_all_are_busy() -> None:
    table, _ = peers(limit=3)
    for port in (1, 2, 3):
        table.reach(("host", port), 0.0)
    table.reach(("host", 1), 1.0)
    busy(table.find(("host", 2)))
    assert table.reach(("host", 4), 2.0) is not None
    assert [table.find(("host", port)) is not None for port in (1, 2, 3, 4)] == [True, True, False, True]
    busy(table.find(("host", 1)))
    busy(table.find(("host", 4)))
    assert table.reach(("host", 5), 3.0) is None
    assert table.reach(("host", 4), 3.0) is table.find(("host", 4))
    assert len(table) == 3


def test_nothing_is_kept_of_what_is_over() -> None:
    peer = Peer(("host", 1), 7, 0.0)
    idle = peer.outstanding, peer.exchanges
    first, second = (SimpleNamespace(message_id=number) for number in (1, 2))
    for outgoing in (first, second):
        peer.sent(outgoing)  # type: ignore[arg-type]
        peer.opened(bytes(outgoing.message_id), outgoing)  # type: ignore[arg-type]
    assert (peer.outstanding, peer.exchanges) == ({1: first, 2: second}, {bytes(1): first, bytes(2): second})
    for number in (1, 2):
        peer.settled(number)
        peer.closed(bytes(number))
        peer.closed(b"never opened")
    assert peer.outstanding is idle[0]
    assert peer.exchanges is idle[1]


def test_peers_that_are_used_in_silence_do_not_stand_in_the_way_of_idle_ones() -> None:
    table, _ = peers(limit=100)
    for port in range(50):
        busy(table.reach(("host", port), 0.0))
    for port in range(50, 100):
        table.reach(("host", port), 0.0)
    tries = [table.reach(("new", 1), 1.0) for _ in range(4)]
    assert [found is not None for found in tries] == [False, False, False, True]
    assert table.reach(("new", 2), 1.0) is not None
    assert all(table.find(("host", port)) is not None for port in range(50))
    assert len(table) == 100
