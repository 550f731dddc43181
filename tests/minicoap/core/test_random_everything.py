"""All that an endpoint can do at once, on a bad network, from a seed.

Uploads, downloads with windows, what changes under way, observations with long states, groups, caches, clients whose
address changes or whose link takes no large datagrams, with the guard against forged addresses on. Nothing happens
twice that must not, each body arrives whole or fails loudly, each observer has the last state in the end, and then
nothing is left in memory.
"""

from __future__ import annotations

import pytest

from tests.minicoap.core.everything import OBSERVED, Everything
from tests.minicoap.core.solo import LIFETIME

CLIENTS = 8
REQUESTS = 30  # of each
BAD = {"loss": 0.15, "duplicate": 0.1, "delay": 0.05, "jitter": 0.5}


def check_to_the_end(everything: Everything) -> None:
    """Heal the network, and see everything come to its end."""
    world, server = everything.world, everything.server
    world.heal()
    assert world.run_until(lambda: not any(client.open for client in everything.clients), 3000.0), "no outcome"
    world.run_for(600.0)  # repetitions, exchange lifetimes, registrations after Max-Age
    for client in everything.clients:
        for name in client.observations:
            assert name in client.failed or client.seen[name] == server.values[name], (client.index, name)
    moved = {name for client in everything.clients for name in client.moved}
    for counted in (server.posted, server.patched, *(member.posted for member in everything.members)):
        assert all(count == 1 for name, count in counted.items() if name not in moved)
    assert all(len(sink.ends) <= 1 for sink in server.sinks)
    for client in everything.clients:
        client.stop()
    world.run_for(60.0)
    for name in OBSERVED:  # whose farewell was for an entry that is not theirs any more finds out by a reset
        server.site_changed(name)
    world.run_for(6 * LIFETIME)
    assert all(len(sink.ends) == 1 for sink in server.sinks)
    for core in everything.cores:
        left = {what: count for what, count in core.footprint().items() if count and what != "cached"}
        assert left == {}


@pytest.mark.parametrize("seed", range(12))
def test_bad_network_makes_nothing_happen_twice_or_by_halves_and_leaves_nothing(seed: int) -> None:
    everything = Everything(seed, CLIENTS, REQUESTS, **BAD)
    check_to_the_end(everything)
    results = everything.results
    assert sum(results.values()) == CLIENTS * REQUESTS
    assert sum(count for how, count in results.items() if how.endswith("done")) > CLIENTS * REQUESTS // 3


def test_good_network_makes_everything_succeed_that_can() -> None:
    everything = Everything(99, CLIENTS, REQUESTS, delay=0.05, jitter=0.1)
    check_to_the_end(everything)
    for client in everything.clients:
        for how in client.results:
            kind, _, end = how.rpartition(" ")
            fine = ["done", "cancelled", "3", *("2" * client.is_narrow)]
            if kind in ("moving", "resumed", "cached", "quick moving"):
                fine.append("BodyError")  # it has changed
            if client.moves:
                fine += ["4.08", "RequestTimeout", *"012"]  # from two addresses, or answered at the old one
            assert end in fine, how
        assert not client.failed


def test_same_seed_gives_the_same_run() -> None:
    first, second = (Everything(7, 4, 20, **BAD) for _ in range(2))
    assert (first.world.digest, first.results) == (second.world.digest, second.results)
