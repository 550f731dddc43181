"""Integer keys for field names: one to one, never changed, listed in the reference."""

from pathlib import Path

import cbor2
import pytest

from fleet.errors import FormatError, InvalidError
from fleet.model.api import JobAction, parse_health, parse_update_request
from fleet.model.formats import CBOR, decode, encode
from fleet.model.health import HealthReport
from fleet.model.keys import NAMES, NUMBERS, has_numbers

KNOWN = {
    "node_id": 0, "overall_healthy": 1, "cpu_percent": 2, "memory_percent": 3, "disk_percent": 4, "temperature": 5,
    "services_status": 6, "error_messages": 7, "status": 8, "time": 9, "jobs": 10, "servers": 11, "job_id": 12,
    "health_interval": 23, "hostname": 24, "legal": 51,
}  # fmt: skip


def test_a_number_keeps_its_meaning():
    assert {name: NUMBERS[name] for name in KNOWN} == KNOWN
    assert {NAMES[number]: number for number in NAMES} == NUMBERS


def test_the_reference_lists_them():
    reference = (Path(__file__).parents[3] / "docs/api.md").read_text()

    for name, number in NUMBERS.items():
        assert f"{number} `{name}`" in reference


def test_names_and_numbers_may_stand_in_one_map():
    payload = cbor2.dumps({0: "n1", "cpu_percent": 1.5, 6: {"ssh": True}})

    assert parse_health(payload, CBOR) == HealthReport("n1", cpu_percent=1.5, services_status={"ssh": True})
    with pytest.raises(FormatError, match="twice"):
        parse_health(cbor2.dumps({0: "n1", "node_id": "n2"}), CBOR)


def test_a_number_that_nobody_knows_is_a_field_that_nobody_knows():
    assert parse_health(cbor2.dumps({0: "n1", 999: 1, -7: 2}), CBOR) == HealthReport("n1")
    assert parse_update_request(cbor2.dumps({21: "install", 12: "j1"}), CBOR) == JobAction("install", "j1")
    with pytest.raises(InvalidError, match="999"):
        parse_update_request(cbor2.dumps({21: "install", 12: "j1", 999: True}), CBOR)


def test_what_is_written_in_numbers_is_read_back_though_names_of_services_look_like_fields():
    report = HealthReport("n1", services_status={"time": True, "0": False, "x": True})

    payload = encode(report, CBOR, numbers=True)

    assert decode(payload, CBOR, HealthReport) == report
    assert has_numbers(payload)
    assert not has_numbers(encode(report, CBOR))
