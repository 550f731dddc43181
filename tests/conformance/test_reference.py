"""Every test of the conformance tester passes against our reference server, over IPv4 and without packets lost.

Several servers run side by side, and each test has one for itself while it runs: most of the time is waiting.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.conformance.servers import catalogue, reference, roles
from tools.conformance.frames import Address
from tools.conformance.model import FAIL, INCONCLUSIVE, NOT_APPLICABLE, PASS, Result, Test
from tools.conformance.runner import Runner

SERVERS = 6
SEEDS = [int(seed) for seed in os.environ.get("CONFORMANCE_SEEDS", "1").split()]
LOCAL = ("AMPLIFICATION_01",)  # means nothing on this machine's own address


def run_all(chosen: Iterable[Test], *, loss: float = 0.0, seed: int = 0) -> dict[str, Result]:
    """Run tests against reference servers; return what came of each."""
    with ExitStack() as stack:
        free: queue.Queue[tuple[Address, dict[str, tuple[str, ...]]]] = queue.Queue()
        for _ in range(SERVERS):
            address = stack.enter_context(reference())
            free.put((address, roles(address)))

        def run(test: Test) -> Result:
            server = free.get()
            try:
                address, found = server
                return Runner(address, found, patience=30.0, grace=0.3, loss=loss, seed=seed).run_one(test)
            finally:
                free.put(server)

        with ThreadPoolExecutor(SERVERS) as pool:
            return {result.test.id: result for result in pool.map(run, chosen)}


@pytest.fixture(scope="module")
def results() -> Iterator[dict[str, Result]]:
    yield run_all(catalogue())


@pytest.mark.parametrize("test", catalogue(), ids=lambda test: test.id)
def test_the_reference_server_passes(test: Test, results: dict[str, Result]) -> None:
    result = results[test.id]
    if test.id.startswith("TD_COAP_DTLS_") or test.id.startswith("X509_") or test.id in LOCAL:
        assert result.verdict == NOT_APPLICABLE
    else:
        assert result.verdict == PASS, f"{result.reason} {result.offender}"


@pytest.mark.parametrize("seed", SEEDS)
def test_nobody_is_accused_for_packets_that_got_lost(seed: int) -> None:
    results = run_all(catalogue(), loss=0.05, seed=seed)

    accused = {id: f"{result.reason} {result.offender}" for id, result in results.items() if result.verdict == FAIL}
    assert accused == {}
    counts: Sequence[str] = [result.verdict for result in results.values()]
    assert counts.count(PASS) > 0.85 * len(counts)
    assert counts.count(INCONCLUSIVE) < 0.1 * len(counts)
