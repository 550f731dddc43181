"""Who is there, by the server's clock."""

from __future__ import annotations

import pytest

from fleet.server import presence as presence_module
from fleet.server.presence import OFFLINE, ONLINE, UNHEALTHY, Presences
from fleet.server.samples import pack, unpack
from fleet.server.series import Series
from minicoap.core.request import SecurePath

MINUTE = 60_000


def test_a_node_that_was_never_heard_of_since_is_offline():
    presences = Presences(60, Series(print))

    assert presences.status(presences.add("n1"), 1_790_000_000_000) == OFFLINE
    assert presences.find("n2") is None


@pytest.mark.parametrize(
    ("since", "healthy", "status"),
    [
        (0, True, ONLINE), (3 * MINUTE, True, ONLINE), (3 * MINUTE + 1, True, OFFLINE), (0, False, UNHEALTHY),
        (3 * MINUTE + 1, False, OFFLINE),
    ],
)  # fmt: skip
def test_three_reports_may_be_missing(since, healthy, status):
    presences = Presences(60, Series(print))
    presence = presences.add("n1")
    presence.seen_at, presence.healthy = 10 * MINUTE, healthy

    assert presences.status(presence, 10 * MINUTE + since) == status


def test_counts_are_over_all_nodes_and_all_statuses():
    presences = Presences(60, Series(print))
    for name, healthy in (("a", True), ("b", True), ("c", False)):
        presence = presences.add(name)
        presence.seen_at, presence.healthy = 1, healthy
    presences.add("d").seen_at = 1 - 4 * MINUTE
    presences.add("e")
    presences.remove("e")
    presences.remove("nobody")

    assert presences.counts(1) == {ONLINE: 2, UNHEALTHY: 1, OFFLINE: 1}
    assert len(presences) == 4


def test_registering_again_keeps_what_is_known():
    presences = Presences(60, Series(print))
    presences.add("n1").seen_at = 5

    assert presences.add("n1").seen_at == 5


@pytest.mark.parametrize(
    ("body", "healthy"),
    [(b'{"node_id":"n1"}', True), (b'{"node_id":"n1","overall_healthy":false}', False)],
)
def test_what_was_flushed_is_taken_up_again(body, healthy):
    presences = Presences(60, Series(print))

    presences.restore("n1", 7, body)

    presence = presences.find("n1")
    assert (presence.seen_at, presence.healthy, presence.body, presence.path) == (7, healthy, body, None)


def test_many_reports_are_packed_a_few_at_a_time_and_read_as_they_came(monkeypatch):
    monkeypatch.setattr(presence_module, "UNPACKED", 10)
    monkeypatch.setattr(presence_module, "PACKED_AT_ONCE", 7)
    presences = Presences(60, Series(print))
    bodies = {f"n{number}": b'{"node_id":"n%d","cpu_percent":%d}' % (number, number) for number in range(50)}
    for node_id, body in bodies.items():
        assert presences.is_loose == (int(node_id[1:]) > 10)
        presences.keep(presences.add(node_id), body, True)
    rounds = 0
    while presences.is_loose:
        presences.pack()
        rounds += 1

    assert rounds == 6
    assert {node_id: presences.find(node_id).body for node_id in bodies} == bodies
    assert sum(len(body) for body in presences.bodies) == presences._held < sum(map(len, bodies.values())) * 0.7
    presences.remove("n1")
    for node_id in bodies:
        presences.remove(node_id)
    assert (presences._held, presences._unpacked) == (0, 0)


@pytest.mark.parametrize(
    "path",
    [("192.0.2.7", 5683), ("255.255.255.255", 65535), ("2001:db8::7", 5683, 0, 0), ("fe80::1%eth0", 5683, 0, 2),
     ("host", 1), SecurePath(("192.0.2.7", 5683, "dtls 7"))],
)  # fmt: skip
def test_a_path_is_kept_whatever_it_is(path):
    presences = Presences(60, Series(print))
    before, presence, behind = (presences.add(name) for name in "abc")
    assert presence.path is None
    assert not presence.is_at(path)

    presence.path = path

    assert presence.path == path
    assert type(presence.path) is type(path)
    assert presence.is_at(path)
    assert not any(presence.is_at(other) for other in (("192.0.2.8", 5683), ("192.0.2.7", 5684), (*path, "other")))
    assert (before.path, behind.path) == (None, None)
    presences.remove("b")
    assert presences.add("d").path is None, "the row of a node that is gone"


def test_nodes_are_found_by_status_in_the_order_of_their_ids():
    presences = Presences(60, Series(print))
    for number in range(9, -1, -1):
        presence = presences.add(f"n{number}")
        presence.seen_at, presence.healthy = (10 if number % 3 else 1) * MINUTE, number % 2 == 0
    presences.remove("n2")
    now = 12 * MINUTE

    assert presences.with_status(OFFLINE, "", 9, now) == ["n0", "n3", "n6", "n9"]
    assert presences.with_status(UNHEALTHY, "", 9, now) == ["n1", "n5", "n7"]
    assert presences.with_status(ONLINE, "n4", 9, now) == ["n8"]
    assert presences.with_status(OFFLINE, "n0", 2, now) == ["n3", "n6"]
    assert presences.counts(now) == {ONLINE: 2, OFFLINE: 4, UNHEALTHY: 3}


def test_what_is_saved_is_every_report_once_in_the_order_of_node_ids():
    presences = Presences(60, Series(print))
    for name in ("b", "a", "c"):
        presence = presences.add(name)
        presences.keep(presence, b'{"node_id":"%b"}' % name.encode(), True)
        presence.seen_at = 7
    assert presences.sample("c", presences.find("c")).at == 7

    samples = list(presences.unsaved().samples())

    assert [(sample.node_id, sample.at, unpack(sample.body)) for sample in samples] == [
        ("a", 7, b'{"node_id":"a"}'),
        ("b", 7, b'{"node_id":"b"}'),
    ]
    assert presences.unsaved() is None


def test_what_a_database_from_before_has_is_read_as_it_is():
    assert unpack(b'{"node_id":"n1"}') == b'{"node_id":"n1"}'
    assert unpack(pack(b"{}")) == b"{}"
    assert pack(pack(b"{}")) == pack(b"{}")
