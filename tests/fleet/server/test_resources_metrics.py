"""What a node measured, as SenML: of the time that was asked for, in the format that was asked for."""

from __future__ import annotations

import json

import cbor2
import pytest

from fleet.model.senml import SENML_CBOR, SENML_JSON, Record, decode_senml
from fleet.model.times import iso_from_ms
from minicoap.codec import codes
from minicoap.codec.contentformats import CBOR, JSON
from tests.fleet.server.serving import EPOCH, SERVER, Served, document

GET, PUT, DELETE = codes.GET, codes.PUT, codes.DELETE
METRICS = "/nodes/n1/metrics"
SLOT = int(EPOCH) // 300 * 300  # the five minutes that the world begins in
assert SLOT // 3600 == (SLOT + 900) // 3600, "the tests count on some time before the hour is over"


@pytest.fixture
def served():
    served = Served()
    served.register("n1")
    return served


def report(served, cpu, **fields):
    served.told(PUT, "/health", {"node_id": "n1", "cpu_percent": cpu, **fields})


def metrics(served, *query, path=METRICS):
    response = served.ask(GET, path, query=query, accept=SENML_JSON)
    assert response.code == codes.CONTENT, response.text
    return decode_senml(response.body)


def cpu(records, suffix=""):
    return [(int(record.time), record.value) for record in records if record.name == f"node:n1:cpu{suffix}"]


def iso(seconds):
    return iso_from_ms(int(seconds * 1000))


def run_to(served, seconds):
    """Let the world's time pass until `seconds` after the beginning of the first five minutes."""
    served.world.run_for(SLOT + seconds - EPOCH - served.world.now)


def test_a_report_is_there_at_once_as_ratios_and_degrees(served):
    report(served, 15.5, memory_percent=45.25, disk_percent=100, temperature=-4.5)

    assert metrics(served) == [
        Record("node:n1:cpu", 0.155, SLOT, "/"),
        Record("node:n1:disk", 1, SLOT, "/"),
        Record("node:n1:memory", 0.452, SLOT, "/"),
        Record("node:n1:temperature", -4.5, SLOT, "Cel"),
    ]


def test_it_is_json_where_nothing_is_said_and_what_accept_says_otherwise(served):
    report(served, 50)
    expected = [{"bn": "node:n1:cpu", "bt": SLOT, "bu": "/", "v": 0.5}]

    for accept, number in ((None, SENML_JSON), (SENML_JSON, SENML_JSON), (JSON, JSON)):
        response = served.ask(GET, METRICS, accept=accept)
        assert (response.content_format, response.max_age) == (number, 0)
        assert json.loads(response.body) == expected
    for accept in (SENML_CBOR, CBOR):
        response = served.ask(GET, METRICS, accept=accept)
        assert response.content_format == accept
        assert cbor2.loads(response.body) == [{-2: "node:n1:cpu", -3: SLOT, -4: "/", 2: 0.5}]
    refused = served.ask(GET, METRICS, accept=41)
    assert (refused.code, refused.body) == (codes.NOT_ACCEPTABLE, b"")


def test_a_node_that_measured_nothing_has_a_pack_that_says_only_whose_it_is(served):
    assert json.loads(served.ask(GET, METRICS).body) == [{"bn": "node:n1:"}]
    assert metrics(served) == []


def test_a_name_is_one_of_senmls_whatever_the_node_is_called(served):
    for node_id in ("-n", "_n", "N.9-_"):
        served.register(node_id)
        served.told(PUT, "/health", {"node_id": node_id, "cpu_percent": 50})
        (record,) = metrics(served, path=f"/nodes/{node_id}/metrics")
        assert record.name == f"node:{node_id}:cpu"


def test_five_minutes_are_a_mean_and_an_hour_has_its_least_and_greatest_value_too(served):
    for index, value in enumerate((10, 30, 80)):
        run_to(served, 60 + index * 150)
        report(served, value)

    assert cpu(metrics(served)) == [(SLOT, 0.2), (SLOT + 300, 0.8)]
    hour = SLOT // 3600 * 3600
    by_hour = metrics(served, "resolution=3600")
    assert [cpu(by_hour, suffix) for suffix in ("", ":min", ":max")] == [
        [(hour, 0.5)], [(hour, 0.1)], [(hour, 0.8)]
    ]  # fmt: skip


def test_hours_that_are_over_and_the_one_that_runs_are_one_series(served):
    for index in range(12 * 4):
        run_to(served, 150 + index * 300)
        report(served, index)

    assert cpu(metrics(served)) == [(SLOT + index * 300, index / 100) for index in range(48)]
    assert len(cpu(metrics(served, "resolution=3600"))) in (4, 5)


@pytest.mark.parametrize("graceful", [True, False])
def test_a_restart_costs_nothing_and_a_crash_the_running_hour(served, graceful):
    run_to(served, 10)
    report(served, 10)
    run_to(served, 3610)
    report(served, 20)
    if graceful:
        served.server.stop()
        served.world.run_for(1)
    served.boot()
    report(served, 40)

    last = (SLOT + 3600, 0.3 if graceful else 0.4)
    assert cpu(metrics(served)) == [(SLOT, 0.1), last]
    assert cpu(metrics(served, "resolution=3600"))[-1][1] == last[1]


def test_only_what_is_asked_for_is_told(served):
    for index in range(10):
        run_to(served, 10 + index * 300)
        report(served, index)
    at = [SLOT + index * 300 for index in range(10)]
    values = [(at[index], index / 100) for index in range(10)]

    def asked(*query):
        return cpu(metrics(served, *query))

    assert asked() == values
    assert asked("limit=1") == values[-1:]
    assert asked("limit=3") == values[-3:]
    assert asked(f"from={iso(at[2])}") == values[2:]
    assert asked(f"from={iso(at[2] + 0.001)}") == values[3:]
    assert asked(f"to={iso(at[3])}") == values[:3]
    assert asked(f"to={iso(at[3] + 1)}") == values[:4]
    assert asked(f"to={iso(at[3] + 1)}", "limit=2") == values[2:4]
    assert asked(f"from={iso(at[1])}", f"to={iso(at[4])}") == values[1:4]
    assert asked(f"from={iso(at[1])}", "limit=2") == values[1:3]
    assert asked("from=1970-01-01T00:00:00Z", "to=9999-12-31T00:00:00Z") == values
    assert asked(f"from={iso(at[4])}", f"to={iso(at[1])}") == []
    assert asked("from=9999-01-01T00:00:00Z") == []


def test_pages_are_turned_by_time_across_gaps(served):
    expected = []
    for index in (0, 1, 5, 40, 41, 42, 90):
        run_to(served, 10 + index * 300)
        report(served, index)
        expected.append((SLOT + index * 300, index / 100))
    got, start = [], SLOT
    for _ in range(9):
        page = cpu(metrics(served, f"from={iso(start)}", "limit=2"))
        if not page:
            break
        got += page
        start = page[-1][0] + 300

    assert got == expected


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("resolution=60", "resolution"),
        ("resolution=", "resolution"),
        ("limit=0", "limit"),
        ("limit=721", "limit"),
        ("limit=-1", "limit"),
        ("limit=many", "limit"),
        ("from=yesterday", "from"),
        ("to=", "to"),
        ("after=x", "after"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_by_name(served, query, field):
    response = served.ask(GET, METRICS, query=(query,), accept=SENML_JSON)

    assert response.code == codes.UNPROCESSABLE_ENTITY
    assert (response.content_format, document(response)["field"]) == (JSON, field)


def test_an_unknown_node_has_no_metrics_and_a_removed_one_has_none_any_more(served):
    assert served.ask(GET, "/nodes/nobody/metrics").code == codes.NOT_FOUND
    report(served, 10)
    run_to(served, 4000)
    served.told(DELETE, "/nodes/n1")
    assert served.ask(GET, METRICS).code == codes.NOT_FOUND

    run_to(served, 7300)
    served.register("n1")
    assert metrics(served) == []


def test_a_month_of_hours_comes_in_one_answer_block_by_block(served):
    for index in range(750):
        run_to(served, 10 + index * 3600)
        report(served, index % 100, memory_percent=1, disk_percent=2, temperature=3)

    records = metrics(served, "resolution=3600", "limit=720")

    assert len(records) == 720 * 4 * 3
    assert [value for _at, value in cpu(records)] == [index % 100 / 100 for index in range(30, 750)]
    assert len(cpu(metrics(served))) == 24


def test_observers_are_told_of_the_newest_with_each_report(served):
    states = []
    served.client.core.observe(
        SERVER,
        lambda update: states.append(cpu(decode_senml(update.body))),
        served.world.now,
        uri_path=("nodes", "n1", "metrics"),
        query=("limit=1",),
        accept=SENML_JSON,
    )
    served.client.host.wake()
    assert served.world.run_until(lambda: bool(states))

    report(served, 10)
    assert served.world.run_until(lambda: states[-1] == [(SLOT, 0.1)], timeout=4)
    report(served, 30)
    assert served.world.run_until(lambda: states[-1] == [(SLOT, 0.2)], timeout=4)
