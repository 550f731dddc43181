"""docs/conformance.md says what is: tables are current, failures of peers have their reasons, roles are told."""

from __future__ import annotations

import json
import re

import pytest

from tests.conformance.servers import PEERS, catalogue
from tools.conformance.resources import NAMES
from tools.conformance.tables import PAGE, VERDICTS_OF_PEERS, current

VERDICTS = json.loads(VERDICTS_OF_PEERS.read_text(encoding="utf-8"))
MANUAL = PAGE.read_text(encoding="utf-8")


def test_the_tables_are_current() -> None:
    assert current(MANUAL, VERDICTS) == MANUAL, "run: python -m tools.conformance.tables"


def test_the_verdicts_kept_are_of_all_peers_and_tests() -> None:
    ids = {test.id for test in catalogue()}

    assert sorted(VERDICTS) == sorted(PEERS)
    assert all(set(verdicts) == ids for verdicts in VERDICTS.values())


@pytest.mark.parametrize("peer", PEERS)
def test_each_failure_of_a_peer_has_its_reason(peer: str) -> None:
    reasoned: set[str] = set()
    for line in MANUAL.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and peer in cells[0].split(", "):
            reasoned.update(re.findall(r"[A-Z][A-Z0-9_]+_\d\d", cells[1]))
    failed = {id for id, verdict in VERDICTS[peer].items() if verdict.startswith("fail")}

    assert failed - reasoned == set()
    assert reasoned - failed == set(), "these do not fail (any more)"


@pytest.mark.parametrize("role", NAMES)
def test_each_role_is_told(role: str) -> None:
    assert f"`{role}`" in MANUAL.partition("<!-- tests -->")[0]
