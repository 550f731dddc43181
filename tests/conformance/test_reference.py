"""Every test of the conformance tester passes against our reference server, over IPv4 and without packets lost.

Several servers run side by side, and each test has one for itself while it runs: most of the time is waiting.
"""

from __future__ import annotations

import os
import queue
import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Optional

import pytest

from minicoap.simulate.link import Link
from tests.conformance.servers import Roles, catalogue, impaired, reference, roles
from tools.conformance.frames import Address
from tools.conformance.model import FAIL, NOT_APPLICABLE, PASS, Result, Test
from tools.conformance.runner import Runner

SERVERS = 6
SEEDS = [int(seed) for seed in os.environ.get("CONFORMANCE_SEEDS", "1").split()]
LINKS = {
    "that loses": Link(loss=0.05, delay=0.005),
    "that reorders and repeats": Link(loss=0.02, duplicate=0.05, delay=0.005, jitter=0.05),
}
LOCAL = ("AMPLIFICATION_01",)  # means nothing on this machine's own address


def run_all(chosen: Iterable[Test], link: Optional[Link] = None, seed: int = 0) -> dict[str, Result]:
    """Run tests against reference servers, over a bad link if one is given; return what came of each."""
    with ExitStack() as stack:
        free: queue.Queue[tuple[Address, Roles]] = queue.Queue()
        for number in range(SERVERS):
            address = stack.enter_context(reference())
            found = roles(address)
            if link is not None:
                address = stack.enter_context(impaired(address, link, seed * SERVERS + number))
            free.put((address, found))

        def run(test: Test) -> Result:
            server = free.get()
            try:
                address, found = server
                return Runner(address, found, patience=30.0, grace=0.3).run_one(test)
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
@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_nobody_is_accused_for_what_a_network_does(link: Link, seed: int) -> None:
    results = run_all(catalogue(), link, seed)

    accused = {id: f"{result.reason} {result.offender}" for id, result in results.items() if result.verdict == FAIL}
    assert accused == {}
    verdicts = [result.verdict for result in results.values()]
    assert verdicts.count(PASS) > 0.8 * len(verdicts)


def test_a_server_is_tested_over_ipv6() -> None:
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    test = next(test for test in catalogue() if test.id == "TD_COAP_CORE_01")
    with reference(host="::1") as address:
        assert Runner(address, roles(address), patience=30.0, grace=0.3).run_one(test).verdict == PASS


def test_an_address_that_may_be_forged_is_sent_little() -> None:
    host = own_address()
    if host is None:
        pytest.skip("this machine has no address but its own loopback")
    with reference(host=host) as address:
        found = roles(address)
        for test in catalogue():
            if test.id.startswith(("AMPLIFICATION", "TD_COAP_BLOCK", "Q_BLOCK_02")):
                result = Runner(address, found, patience=30.0, grace=0.3).run_one(test)
                assert result.verdict == PASS, f"{test.id} {result.reason}"


def has_ipv6() -> bool:
    """Whether ::1 can be bound."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def own_address() -> Optional[str]:
    """Return the address by which this machine would reach others; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
        except OSError:
            return None
        host = str(sock.getsockname()[0])
    return None if host.startswith("127.") else host
