"""No conformance test fails on `fleet server`, while nodes register; and those that say something of it pass."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from minicoap.codec import codes
from minicoap.codec.contentformats import JSON
from tests.conformance.servers import ROOT, Roles, catalogue, process, roles, said
from tools.conformance.frames import Address
from tools.conformance.model import FAIL, PASS, Test
from tools.conformance.peer import Peer
from tools.conformance.runner import Runner

pytest.importorskip("msgspec", reason="fleet needs msgspec: pip install 'minicoap[fleet]'")

REGISTERS_EVERY = 0.7  # seconds
PASSING = (
    "TD_COAP_CORE_01", "TD_COAP_CORE_03", "TD_COAP_CORE_06", "TD_COAP_CORE_10", "TD_COAP_CORE_31", "TD_COAP_BLOCK_03",
    "TD_COAP_OBS_01", "TD_COAP_OBS_06", "TD_COAP_OBS_12", "TD_COAP_LINK_01", "TD_COAP_LINK_02", "MALFORMED_02",
    "MALFORMED_11", "OPTION_01", "OPTION_04", "OPTION_12", "DUPLICATE_01", "BLOCK_21", "BLOCK_27", "NO_RESPONSE_02",
    "TOKEN_01", "HOP_LIMIT_01",
)  # fmt: skip


def register(address: Address, over: threading.Event) -> None:
    """Register one node after the other until it is over."""
    number = 0
    with contextlib.closing(Peer(address, {}, patience=60.0, grace=0.3)) as peer:
        while not over.wait(REGISTERS_EVERY):
            number += 1
            body = {"node_id": f"node-{number}", "hostname": "h", "ip_address": "127.0.0.1", "status": "online"}
            peer.ask(codes.POST, ("nodes",), payload=json.dumps(body).encode(), content_format=JSON)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Address, Roles]]:
    directory = tmp_path_factory.mktemp("fleet")
    command = [sys.executable, "-m", "fleet.cli.main", "server", "--data-dir", str(directory), "--host", "127.0.0.1"]
    with process([*command, "--port", "0"], {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}, Path(directory)) as run:
        line = said(run)
        assert line.startswith("listening on coap://"), line
        address = ("127.0.0.1", int(line.rpartition(":")[2]))
        over = threading.Event()
        nodes = threading.Thread(target=register, args=(address, over))
        nodes.start()
        try:
            yield address, roles(address, "fleet")
        finally:
            over.set()
            nodes.join(60)


@pytest.mark.parametrize("test", catalogue(), ids=lambda test: test.id)
def test_the_fleet_server_keeps_to_the_rules(test: Test, fleet: tuple[Address, Roles]) -> None:
    address, found = fleet

    result = Runner(address, found, patience=8.0, grace=0.3).run_one(test)

    assert result.verdict != FAIL, f"{result.reason} {result.offender}"
    if test.id in PASSING:
        assert result.verdict == PASS, result.reason
