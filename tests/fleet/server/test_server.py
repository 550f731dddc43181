"""The server as a machine: what it does of itself, after commits, when something is due, and when it starts."""

from __future__ import annotations

import pytest

from fleet.server.engine.moves import ACTIVE_LIMIT_MS, PENDING_LIMIT_MS
from fleet.server.samples import unpack
from fleet.server.series import FIVE_MINUTES
from fleet.server.server import RETRY_ADVANCE, SAVE_INTERVAL
from minicoap.codec import codes
from tests.fleet.server.serving import EPOCH, SERVER, Client, Served, a_listener, a_report

GET, POST, PUT, DELETE = codes.GET, codes.POST, codes.PUT, codes.DELETE


def a_node(served, node_id, number, network="192.0.2"):
    """A node that listens and has shown where it is; returns it and what it heard."""
    heard: list[bytes] = []
    node = Client(served, (f"{network}.{number}", 5683), a_listener(heard))
    assert node.ask(POST, "/nodes", {"node_id": node_id}).is_success
    assert node.ask(PUT, "/health", {"node_id": node_id}).is_success  # brings back the Echo value of the first answer
    return node, heard


def test_the_targets_of_a_large_job_are_all_found():
    served = Served()
    served.register(*[f"n{number:04}" for number in range(1200)])

    job_id = served.running()

    assert served.status(job_id)["counts"] == {"pending": 1200}


def test_all_nodes_of_a_job_are_hinted_and_no_other():
    served = Served()
    nodes = {node_id: a_node(served, node_id, number) for number, node_id in enumerate(("n1", "n2", "n3"), 50)}

    job_id = served.running(target_nodes=["n1", "n3"])
    served.world.run_for(1)

    assert {node_id: len(heard) for node_id, (_node, heard) in nodes.items()} == {"n1": 1, "n2": 0, "n3": 1}
    assert served.status(job_id)["counts"] == {"notified": 2}


def test_a_node_is_hinted_again_when_it_is_to_try_again_and_when_it_is_to_stop():
    served = Served()
    node, heard = a_node(served, "n1", 50)
    job_id = served.running()
    served.world.run_for(1)
    assert len(heard) == 1

    assert node.ask(POST, "/updates", a_report(job_id, "n1", 1, "failed")).is_success
    served.act("retry", job_id)
    served.world.run_for(1)
    assert len(heard) == 2, "retry"
    assert node.ask(POST, "/updates", a_report(job_id, "n1", 2, "downloading", attempt=2)).is_success
    served.act("cancel", job_id)
    served.world.run_for(1)
    assert len(heard) == 3, "cancel"


def test_a_node_that_was_away_is_hinted_when_the_job_resumes():
    served = Served()
    node, heard = a_node(served, "n1", 50)
    node.host.crash()
    job_id = served.running()
    served.act("pause", job_id)
    served.world.run_for(200)
    node.host.boot(node.core)

    served.act("resume", job_id)
    served.world.run_for(1)

    assert len(heard) == 1
    assert served.status(job_id)["nodes"]["n1"]["state"] == "notified"


@pytest.mark.parametrize(("network", "hints"), [("127.0.0", 1), ("192.0.2", 0)])
def test_a_restarted_server_hints_nodes_that_have_not_begun_if_it_knows_where_they_are(network, hints):
    served = Served()
    node, heard = a_node(served, "n1", 50, network)
    node.host.crash()
    job_id = served.running()
    served.world.run_for(1)
    node.host.boot(node.core)

    served.boot()
    served.world.run_for(1)

    assert len(heard) == hints
    assert served.status(job_id)["nodes"]["n1"]["state"] == ("notified" if hints else "pending")
    assert served.told(PUT, "/health", {"node_id": "n1"})["jobs"] == [job_id]


def test_a_report_in_a_victims_name_aims_no_hint_at_it():
    served = Served()
    _node, heard = a_node(served, "n1", 50)
    victim, heard_by_victim = Client(served, ("198.51.100.7", 5683)), []
    victim.core.site.add(a_listener(heard_by_victim))
    for code, path in ((PUT, "/health"), (POST, "/nodes")):
        # Whoever sends in the victim's name does not get its answers, nor the Echo value in them.
        assert victim.ask(code, path, {"node_id": "n1"}).is_success
        victim.core._peers.reach(SERVER, served.world.now).echo = None

    served.running()
    served.world.run_for(1)

    assert (len(heard), heard_by_victim) == (1, [])


@pytest.mark.parametrize(("code", "path"), [(codes.PUT, "/health"), (codes.POST, "/nodes"), (codes.POST, "/updates")])
def test_a_message_in_another_nodes_name_aims_no_hint_at_it_though_that_node_has_shown_where_it_is(code, path):
    served = Served()
    _node, heard = a_node(served, "n1", 50)
    victim, heard_by_victim = a_node(served, "n2", 51)
    victim.core._peers.reach(SERVER, served.world.now).echo = None  # a forger does not know it
    victim.ask(code, path, a_report("j0", "n1", 1, "waiting") if path == "/updates" else {"node_id": "n1"})

    served.running()
    served.world.run_for(1)

    assert (len(heard), len(heard_by_victim)) == (1, 1), "each hears of its own"
    assert served.told(GET, "/nodes/n1")["address"] == "192.0.2.50:5683"


def test_a_node_that_moved_is_hinted_where_it_is_as_soon_as_it_has_shown_it():
    served = Served()
    a_node(served, "n1", 50)
    _moved, heard = a_node(served, "n1", 51)

    served.running()
    served.world.run_for(1)

    assert len(heard) == 1
    assert served.told(GET, "/nodes/n1")["address"] == "192.0.2.51:5683"


def test_a_crash_loses_nothing_that_was_answered():
    served = Served()
    served.register("n1")
    job_id = served.running()
    served.server.services.ledger.crash()

    served.boot()

    assert served.status(job_id)["status"] == "running"
    assert served.report(job_id, "n1", 1, "succeeded").is_success
    assert served.status(job_id)["status"] == "succeeded"


def test_a_job_that_was_being_prepared_when_the_server_died_is_prepared_by_the_next():
    served = Served()
    served.register(*[f"n{number:04}" for number in range(1200)])
    job_id = served.created()
    served.client.start(POST, "/updates", {"action": "install", "job_id": job_id})
    assert served.world.run_until(lambda: served.store.tables.jobs[job_id].state == "preparing")
    served.server.services.ledger.crash()

    served.boot()

    assert served.world.run_until(lambda: served.status(job_id)["status"] == "running")
    assert served.status(job_id)["counts"] == {"pending": 1200}


@pytest.mark.parametrize(
    ("reported", "limit", "reason"),
    [(None, PENDING_LIMIT_MS, "not_fetched"), ("installing", ACTIVE_LIMIT_MS, "no_report")],
)
def test_an_execution_that_is_never_heard_of_again_times_out_and_the_job_ends(reported, limit, reason):
    served = Served(push=False)
    served.register("n1")
    job_id = served.running()
    if reported:
        assert served.report(job_id, "n1", 1, reported).is_success

    served.world.run_for(limit / 1000 - 5)
    assert served.status(job_id)["status"] == "running"
    served.world.run_for(10)

    told = served.status(job_id)
    execution = told["nodes"]["n1"]
    assert (told["status"], execution["state"], execution["reason"]) == ("failed", "timed_out", reason)


def test_work_that_the_store_cannot_do_is_tried_again_and_not_at_once():
    served = Served()
    served.register("n1")
    job_id = served.created()
    served.client.start(POST, "/updates", {"action": "install", "job_id": job_id})
    assert served.world.run_until(lambda: served.store.tables.jobs[job_id].state == "preparing")
    served.store.writes_left = 0
    events = served.world.events
    served.world.run_for(10 * RETRY_ADVANCE)
    assert served.world.events - events < 200, "the server spins"
    assert served.status(job_id)["status"] == "preparing"

    served.store.writes_left = None
    served.world.run_for(2 * RETRY_ADVANCE)

    assert served.status(job_id)["status"] == "running"


def test_samples_are_saved_every_hour():
    served = Served()
    served.register("n1")
    for percent in (1, 2):
        served.told(PUT, "/health", {"node_id": "n1", "cpu_percent": percent})
    assert b'"cpu_percent": 1' in unpack(served.store.tables.samples["n1"].body)

    served.world.run_for(SAVE_INTERVAL + 1)

    assert b'"cpu_percent": 2' in unpack(served.store.tables.samples["n1"].body)


def test_what_nodes_measured_is_written_when_the_hour_is_over_and_before_a_stop():
    served = Served()
    served.register("n1")
    written = served.store.tables.series[FIVE_MINUTES]
    hour = int(EPOCH) // 3600
    for _ in range(2):
        served.told(PUT, "/health", {"node_id": "n1", "cpu_percent": 10})
        assert hour not in written

        served.world.run_for(3600 - (EPOCH + served.world.now) % 3600 + 1)

        assert set(written[hour]) == {"n1"}
        hour += 1
    served.world.run_for(7200)
    assert hour not in written, "an hour without a report has no rows"
    served.told(PUT, "/health", {"node_id": "n1", "cpu_percent": 10})
    served.server.stop()
    served.world.run_for(1)
    assert len(written) == 3


def test_an_idle_server_wakes_to_save_samples_only():
    served = Served()
    served.world.run_for(300)
    events = served.world.events

    served.world.run_for(10 * SAVE_INTERVAL)

    assert served.world.events - events <= 25


def test_the_wall_clock_may_be_set_while_something_is_due():
    """Rows are due by the wall clock, wake-ups go by the monotonic one."""
    served = Served(push=False)
    served.register("n1")
    job_id = served.running()
    shift = [0.0]
    served.wall = lambda: 1_790_000_000 + served.world.now + shift[0]

    shift[0] = 8 * 24 * 3600.0
    served.world.run_for(SAVE_INTERVAL + 1)

    assert served.status(job_id)["nodes"]["n1"]["state"] == "timed_out"


def test_a_refused_report_is_nothing_heard_of_a_node():
    served = Served()
    served.register("n1")

    assert served.ask(POST, "/updates", {"action": "report", "node_id": "n1"}).code == codes.UNPROCESSABLE_ENTITY
    assert served.server.services.presences.find("n2") is None
    assert len(served.server.services.waiting) == 0
