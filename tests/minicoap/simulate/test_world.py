"""The virtual clock, the event order, hosts that die and boot, and the digest."""

from __future__ import annotations

import errno
import subprocess
import sys
from typing import Any

import pytest

from minicoap.simulate.entropy import SeededEntropy
from minicoap.simulate.link import Link
from minicoap.simulate.world import World
from tests.minicoap.simulate.machines import Recorder, Reporter


def two_hosts(**link: Any) -> tuple[World, Recorder, Recorder]:
    world = World(link=Link(**link))
    near, far = Recorder(), Recorder()
    world.host(("near", 1)).boot(near)
    world.host(("far", 2)).boot(far)
    return world, near, far


def test_events_run_in_order_of_time_then_of_asking() -> None:
    world, log = World(), []
    world.call_later(2.0, log.append, "c")
    world.call_at(1.0, log.append, "a")
    world.call_at(1.0, log.append, "b")
    world.call_at(-5.0, log.append, "at once")
    world.run_for(10.0)
    assert log == ["at once", "a", "b", "c"]
    assert (world.now, world.events) == (10.0, 4)


def test_run_until_stops_at_the_condition_at_a_time_or_without_success() -> None:
    world, log = World(), []
    for second in range(1, 10):
        world.call_at(float(second), log.append, second)
    assert world.run_until(lambda: 3 in log)
    assert world.now == 3.0
    assert world.run_until(5.5)
    assert (world.now, log) == (5.5, [1, 2, 3, 4, 5])
    assert not world.run_until(lambda: False, timeout=2.0)
    assert log == [1, 2, 3, 4, 5, 6, 7]
    assert not world.run_until(lambda: False)
    assert not world.step()


def test_datagrams_travel_between_hosts_and_show_their_source() -> None:
    world, near, far = two_hosts(delay=0.5)
    near.outbox.append((b"hello", ("far", 2)))
    world.host(("near", 1)).wake()
    world.run_for(1.0)
    assert far.received == [(b"hello", ("near", 1), 0.5)]
    assert near.received == []


def test_datagram_to_nobody_is_lost_without_an_error() -> None:
    world, near, _ = two_hosts()
    near.outbox.append((b"hello", ("nobody", 3)))
    world.host(("near", 1)).wake()
    world.run_for(1.0)
    assert near.failures == []


def test_too_large_a_datagram_fails_at_its_sender() -> None:
    world, near, far = two_hosts(mtu=5)
    near.outbox += [(b"123456", ("far", 2)), (b"12345", ("far", 2))]
    world.host(("near", 1)).wake()
    world.run_for(1.0)
    assert near.failures == [(("far", 2), errno.EMSGSIZE, 0.0)]
    assert [data for data, _, _ in far.received] == [b"12345"]


def test_one_timer_follows_the_machines_next_timeout() -> None:
    world, near, _ = two_hosts()
    host = world.host(("near", 1))
    near.due = [3.0]
    host.wake()
    near.due = [5.0, 1.0]  # earlier: armed anew
    host.wake()
    near.due = [5.0, 2.0]  # later: found out when the first one runs
    host.wake()
    world.run_for(10.0)
    assert near.timeouts == [2.0, 5.0]
    assert world.events == 4  # those armed for 3, 1, 2 and 5; the first was armed anew before it ran


def test_crash_ends_timers_callbacks_and_deliveries_of_that_life_only() -> None:
    world, near, far = two_hosts(delay=0.5)
    host, log = world.host(("far", 2)), []
    far.due = [1.0]
    host.wake()
    host.call_later(2.0, log.append, "of the first life")
    near.outbox.append((b"lost", ("far", 2)))
    world.host(("near", 1)).wake()
    host.crash()
    world.run_for(0.6)
    second = Recorder()
    second.due = [1.5]
    host.boot(second)
    host.call_later(2.0, log.append, "of the second life")
    near.outbox.append((b"arrives", ("far", 2)))
    world.host(("near", 1)).wake()
    world.run_for(10.0)
    assert (far.received, far.timeouts) == ([], [])
    assert second.timeouts == [1.5]
    assert [data for data, _, _ in second.received] == [b"arrives"]
    assert log == ["of the second life"]


def test_callback_of_a_host_wakes_its_machine() -> None:
    world, near, far = two_hosts()
    world.host(("near", 1)).call_later(1.0, near.outbox.append, (b"later", ("far", 2)))
    world.run_for(2.0)
    assert [data for data, _, _ in far.received] == [b"later"]


def test_partition_loses_both_ways_and_heal_mends_everything() -> None:
    world, near, far = two_hosts(loss=1.0)
    one, other = world.host(("near", 1)), world.host(("far", 2))
    world.link(one, other).loss = 0.0
    world.partition(one, other)

    def exchange() -> None:
        near.outbox.append((b"there", ("far", 2)))
        far.outbox.append((b"back", ("near", 1)))
        one.wake()
        other.wake()
        world.run_for(1.0)

    exchange()
    assert (near.received, far.received) == ([], [])
    world.link(one, other).admits = lambda data: False
    world.heal()
    exchange()
    assert [len(near.received), len(far.received)] == [1, 1]


def test_rebound_host_is_seen_at_its_new_address_and_not_reached_at_the_old() -> None:
    world, near, far = two_hosts(delay=0.5)
    host = world.host(("near", 1))
    far.outbox.append((b"to the old one", ("near", 1)))
    world.host(("far", 2)).wake()
    host.rebind(("near", 9))
    near.outbox.append((b"from the new one", ("far", 2)))
    host.wake()
    world.run_for(1.0)
    assert far.received == [(b"from the new one", ("near", 9), 0.5)]
    assert near.received == []


def test_links_have_a_direction_and_parameters_of_their_own() -> None:
    world, near, far = two_hosts(delay=0.5)
    one, other = world.host(("near", 1)), world.host(("far", 2))
    world.link(one, other).delay = 2.0
    far.answer = b"pong"
    near.outbox.append((b"ping", ("far", 2)))
    one.wake()
    world.run_for(5.0)
    assert near.received == [(b"pong", ("far", 2), 2.5)]


def test_trace_keeps_the_last_datagrams_with_their_fate() -> None:
    world = World(trace=2)
    near, far = world.host(("near", 1)), world.host(("far", 2))
    far.boot(Recorder())
    recorder = Recorder()
    near.boot(recorder)
    world.link(near, far).admits = lambda data: data != b"b"
    for data in (b"a", b"b", b"c"):
        recorder.outbox.append((data, ("far", 2)))
    near.wake()
    assert [(entry.data, entry.arrivals) for entry in world.trace] == [(b"b", ()), (b"c", (0.01,))]


def test_hooks_run_after_every_event() -> None:
    world, seen = World(), []
    world.after_event.append(lambda: seen.append(world.now))
    world.call_at(1.0, int)
    world.call_at(2.0, int)
    world.run_for(5.0)
    assert seen == [1.0, 2.0]


def test_machine_whose_timeout_stays_in_the_past_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minicoap.simulate.world.EVENTS_AT_ONCE", 100)

    class Stuck(Recorder):
        def handle_timeout(self, now: float) -> None:
            """Does nothing about it."""

    world, machine = World(), Stuck()
    machine.due = [1.0]
    world.host(("stuck", 1)).boot(machine)
    with pytest.raises(RuntimeError, match="stands still"):
        world.run_for(2.0)


def reports(seed: int) -> World:
    """A fleet of 50 that reports for ten minutes over a bad network, with a node cut off now and then."""
    world = World(seed, link=Link(loss=0.2, duplicate=0.05, delay=0.05, jitter=0.2))
    world.host(("server", 5683)).boot(Recorder(answer=b"ok"))
    starts = world.entropy("starts")
    nodes = [world.host((f"node-{index}", 5683)) for index in range(50)]
    for node in nodes:
        node.boot(Reporter(("server", 5683), starts.uniform(0.0, 60.0)))

    def power_cut() -> None:
        node = nodes[starts.integer(5)]
        node.crash()
        world.call_later(5.0, lambda: node.boot(Reporter(("server", 5683), world.now)))
        world.call_later(starts.uniform(10.0, 60.0), power_cut)

    world.call_later(30.0, power_cut)
    world.run_for(600.0)
    return world


def test_same_seed_gives_the_same_digest_and_another_seed_another() -> None:
    assert reports(1).digest == reports(1).digest
    assert len({reports(seed).digest for seed in range(20)}) == 20


def test_digest_does_not_depend_on_the_hash_seed_or_the_process() -> None:
    program = "from tests.minicoap.simulate.test_world import reports; print(reports(1).digest)"
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert digests == {str(reports(1).digest)}


def test_digest_is_the_one_written_down() -> None:
    """The same on every Python; a change to the order of events or to the use of chance changes it, knowingly."""
    assert f"{reports(1).digest:08x}" == "4a54d252"


def test_streams_of_entropy_are_independent_and_repeatable() -> None:
    one, same, other = SeededEntropy(1, "a"), SeededEntropy(1, "a"), SeededEntropy(1, "b")
    tokens = [one.token(8) for _ in range(3)]
    assert tokens == [same.token(8) for _ in range(3)]
    assert tokens != [other.token(8) for _ in range(3)]
    assert all(2.0 <= one.uniform(2.0, 3.0) <= 3.0 for _ in range(100))
    assert all(one.integer(16) < 65536 for _ in range(100))
