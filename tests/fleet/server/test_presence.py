"""Who is there, by the server's clock."""

from __future__ import annotations

import pytest

from fleet.server.presence import OFFLINE, ONLINE, UNHEALTHY, Presences

MINUTE = 60_000


def test_a_node_that_was_never_heard_of_since_is_offline():
    presences = Presences(60)

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
    presences = Presences(60)
    presence = presences.add("n1")
    presence.seen_at, presence.healthy = 10 * MINUTE, healthy

    assert presences.status(presence, 10 * MINUTE + since) == status


def test_counts_are_over_all_nodes_and_all_statuses():
    presences = Presences(60)
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
    presences = Presences(60)
    presences.add("n1").seen_at = 5

    assert presences.add("n1").seen_at == 5


@pytest.mark.parametrize(
    ("body", "healthy"),
    [(b'{"node_id":"n1"}', True), (b'{"node_id":"n1","overall_healthy":false}', False)],
)
def test_what_was_flushed_is_taken_up_again(body, healthy):
    presences = Presences(60)

    presences.restore("n1", 7, body)

    presence = presences.find("n1")
    assert (presence.seen_at, presence.healthy, presence.body, presence.path) == (7, healthy, body, None)
