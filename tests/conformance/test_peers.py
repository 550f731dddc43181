"""What the tester says of other people's servers is what docs/conformance.md has.

A few tests of each by default; all of them, which takes minutes, with CONFORMANCE_PEERS=all in the environment.
"""

from __future__ import annotations

import json
import os
from importlib.metadata import PackageNotFoundError, version

import pytest

from tests.conformance.record import FILE, GRACE, PATIENCE
from tests.conformance.servers import PEERS, RUN, catalogue, roles
from tools.conformance.model import FAIL
from tools.conformance.runner import Runner

FEW = (
    "TD_COAP_CORE_01", "TD_COAP_CORE_05", "TD_COAP_CORE_10", "TD_COAP_CORE_31", "TD_COAP_LINK_01", "MALFORMED_10",
    "OPTION_01", "OPTION_03", "OPTION_04", "OPTION_12", "DUPLICATE_05", "BLOCK_21", "HOP_LIMIT_03",
)  # fmt: skip
ALL = os.environ.get("CONFORMANCE_PEERS") == "all"
OF_AIOCOAP = "0.4.17"  # that the verdicts are of


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_does_what_the_manual_says(peer: str) -> None:
    if peer == "aiocoap" and aiocoap_version() != OF_AIOCOAP:
        pytest.skip(f"the verdicts are of aiocoap {OF_AIOCOAP}")
    kept = json.loads(FILE.read_text(encoding="utf-8"))[peer]
    found = {}
    with RUN[peer]() as address:
        runner = Runner(address, roles(address, peer), patience=PATIENCE, grace=GRACE, slow=ALL)
        for result in runner.run(test for test in catalogue() if ALL or test.id in FEW):
            found[result.test.id] = f"{FAIL} ({result.level})" if result.verdict == FAIL else result.verdict

    assert found == {id: kept[id] for id in found}


def aiocoap_version() -> str:
    try:
        return version("aiocoap")
    except PackageNotFoundError:
        return ""
