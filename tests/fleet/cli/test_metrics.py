"""`fleet nodes metrics`: a line for each series, and a curve that says when."""

from __future__ import annotations

import pytest

from fleet.cli.metrics import COLUMNS, metrics_table
from fleet.model.senml import SENML_JSON, Record, encode_senml
from minicoap.codec import codes
from minicoap.core.request import Response

START = 1_790_000_100


def ratios(*values, name="node:n1:cpu", step=1800):
    return [Record(name, value, START + index * step, "/") for index, value in enumerate(values)]


def test_the_command_asks_for_the_hours_wanted_and_prints_a_table(fake, fleet):
    records = [*ratios(0.1, 0.2), Record("node:n1:temperature", 42.5, START, "Cel")]
    fake.say("GET", "/nodes/n1/metrics", Response(codes.CONTENT, encode_senml(records), SENML_JSON))

    out = fleet("nodes", "metrics", "n1", "--hours", "2").out

    header, cpu, temperature = out.splitlines()
    assert header.split() == ["METRIC", "LAST", "MIN", "MEAN", "MAX", "2", "H"]
    assert cpu.split()[:9] == ["cpu", "20.0", "%", "10.0", "%", "15.0", "%", "20.0", "%"]
    assert temperature.split()[:3] == ["temperature", "42.5", "°C"]
    assert fake.last.query == ("resolution=300", "limit=24")
    assert fake.last.request.accept == SENML_JSON


@pytest.mark.parametrize(
    ("hours", "query"),
    [
        ((), ("resolution=300", "limit=288")),
        (("--hours", "48"), ("resolution=300", "limit=576")),
        (("--hours", "49"), ("resolution=3600", "limit=49")),
        (("--hours", "720"), ("resolution=3600", "limit=720")),
    ],
)
def test_what_is_not_kept_by_five_minutes_is_asked_for_by_the_hour(fake, fleet, hours, query):
    fake.say("GET", "/nodes/n1/metrics", Response(codes.CONTENT, encode_senml([]), SENML_JSON))

    assert fleet("nodes", "metrics", "n1", *hours).out == "no measurements yet\n"
    assert fake.last.query == query


def test_with_json_it_is_the_servers_senml(fake, fleet):
    payload = encode_senml(ratios(0.1))
    fake.say("GET", "/nodes/n1/metrics", Response(codes.CONTENT, payload, SENML_JSON))

    assert fleet("nodes", "metrics", "n1", "--json").out.encode() == payload + b"\n"


@pytest.mark.parametrize("hours", ["0", "721", "-1", "day"])
def test_hours_that_cannot_be_are_wrong_use(fleet, hours):
    with pytest.raises(SystemExit) as left:
        fleet("nodes", "metrics", "n1", "--hours", hours)
    assert left.value.code == 2


def test_no_such_node_and_no_senml_are_said(fake, fleet):
    ran = fleet("nodes", "metrics", "nobody")
    assert (ran.code, ran.out) == (1, "")
    fake.say("GET", "/nodes/n1/metrics", Response(codes.CONTENT, b'[{"v": 1}]', SENML_JSON))
    ran = fleet("nodes", "metrics", "n1")
    assert ran.code == 1
    assert "is one of this version running there?" in ran.err


@pytest.mark.parametrize(
    ("encoding", "first", "last"), [("utf-8", "▁", "█"), ("UTF8", "▁", "█"), ("ascii", "_", "#"), (None, "_", "#")]
)
def test_a_curve_goes_from_none_to_all_and_shows_what_is_missing(encoding, first, last):
    values = [0.0] * 12 + [None] * 24 + [1.0] * 12
    records = [record for record in ratios(*values) if record.value is not None]

    line = metrics_table(records, "n1", COLUMNS * 1800 // 3600, encoding).splitlines()[1]
    curve = line.rpartition("100.0 %  ")[2]

    assert curve == first * 12 + " " * 24 + last * 12


def test_an_hours_least_and_greatest_are_those_of_its_reports():
    records = [
        *ratios(0.4, 0.6),
        *ratios(0.05, 0.3, name="node:n1:cpu:min"),
        *ratios(0.5, 0.95, name="node:n1:cpu:max"),
    ]

    lines = metrics_table(records, "n1", 24, "utf-8").splitlines()

    assert len(lines) == 2
    assert lines[1].split()[1:9] == ["60.0", "%", "5.0", "%", "50.0", "%", "95.0", "%"]


def test_what_a_later_server_measures_is_shown_too():
    fan = Record("node:n1:fan", 1200, START, "1/min")
    records = [fan, Record("other", 3, START), Record("node:n1:x", "text", START)]

    lines = metrics_table(records, "n1", 24, "utf-8").splitlines()

    assert [line.split()[:3] for line in lines[1:]] == [["fan", "1200.0", "1/min"], ["other", "3.0", "3.0"]]
