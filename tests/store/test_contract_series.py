"""Hours of series: written once, joined after a restart, found while they wait, and forgotten in time."""

import pytest

from fleet.server.commands import RemoveNode
from fleet.server.series import HOUR, HOUR_MS, KEPT_HOURS, RESOLUTIONS
from tests.store.series import H, hour_of, means
from tests.store.stores import registering


@pytest.mark.parametrize("settled", [False, True])
def test_an_hour_is_found_at_once_and_after_a_restart(disk, settled):
    store = disk.open()
    store.register("n1", "n2", "n3")
    store.ledger.record_series(hour_of(H, ("n2", 0, 10), ("n1", 1, 20), ("n1", 6, 40)))
    if settled:
        store = disk.open()

    assert means(store, last=H + 1) == [(0, 20.0), (300, 40.0)]
    assert means(store, last=H + 1, resolution=HOUR) == [(0, 30.0, 20.0, 40.0)]
    assert means(store, "n2", last=H + 1) == [(0, 10.0)]
    assert means(store, "n3", last=H + 1) == []
    assert means(store, "unknown", last=H + 1) == []


def test_hours_come_in_order_and_only_those_asked_for(disk):
    store = disk.open()
    store.register("n1")
    for number in (H, H + 1, H + 3, H + 2):
        store.ledger.record_series(hour_of(number, ("n1", 0, number - H)))
        disk.open()
        store = disk.driver

    for resolution in RESOLUTIONS:
        asked = {"resolution": resolution}
        assert [mean[1] for mean in means(store, **asked, first=H, last=H + 9)] == [0, 1, 2, 3]
        assert [mean[1] for mean in means(store, **asked, first=H + 1, last=H + 3)] == [1, 2]
        assert means(store, **asked, first=H + 3, last=H + 3) == []
        assert means(store, **asked, first=H + 3, last=H) == []
        assert means(store, **asked, first=H + 4, last=H + 9) == []


def test_the_parts_of_an_hour_in_which_the_server_was_restarted_are_one(disk):
    store = disk.open()
    store.register("n1", "n2", "n3")
    store.ledger.record_series(hour_of(H, ("n1", 0, 10), ("n2", 0, 50)))
    store = disk.open()
    store.ledger.record_series(hour_of(H, ("n1", 30, 30), ("n3", 30, 70)))
    store = disk.open()

    assert means(store, last=H + 1) == [(0, 10.0), (1800, 30.0)]
    assert means(store, last=H + 1, resolution=HOUR) == [(0, 20.0, 10.0, 30.0)]
    assert means(store, "n2", last=H + 1) == [(0, 50.0)]
    assert means(store, "n3", last=H + 1) == [(1800, 70.0)]


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_no_more_is_read_than_is_kept(disk, resolution):
    store = disk.open()
    store.register("n1")
    kept = KEPT_HOURS[resolution]
    for number in (H - kept, H - kept + 1, H):
        store.ledger.record_series(hour_of(number, ("n1", 0, number % 97)))
        store = disk.open()

    expected = [(H - kept + 1) % 97, H % 97]
    assert [mean[1] for mean in means(store, resolution=resolution, last=H + 1)] == expected
    # Nor was it only hidden: the place of an hour that is too old was given to the new one.
    assert [mean[1] for mean in means(store, resolution=resolution, last=H)] == expected[:1]


def test_a_node_that_was_removed_has_none_and_one_that_comes_anew_only_its_own(disk):
    store = disk.open()
    store.register("n1", at=H * HOUR_MS)
    store.ledger.record_series(hour_of(H, ("n1", 0, 10)))
    store = disk.open()
    store.ok(RemoveNode(H * HOUR_MS, "n1"))
    assert means(store, last=H + 1) == []

    store.ok(registering("n1", (H + 1) * HOUR_MS))
    assert means(store, last=H + 1) == []
    store.ledger.record_series(hour_of(H + 1, ("n1", 0, 20)))
    store = disk.open()
    assert means(store, last=H + 2) == [(3600, 20.0)]
