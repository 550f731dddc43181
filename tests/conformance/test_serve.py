"""Tests of clients: ours passes, through a bad network too, and each of these faults in a copy of it is found."""

from __future__ import annotations

import asyncio
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("scapy.contrib.coap")

from minicoap.simulate.link import Link
from tools.conformance import serve
from tools.conformance.__main__ import main
from tools.conformance.model import FAIL, INCONCLUSIVE, PASS
from tools.conformance.serving.client import Port
from tools.conformance.serving.model import CLIENT_TESTS, Command
from tools.impair import Impairment

ROOT = Path(__file__).parents[2]
OURS = (
    f"{sys.executable} -m tools.conformance.serving.ours"
    " {method} {uri} {kind} {size} {accept} {block} {seconds}"
)
PATIENCE = 30.0  # seconds, for what has to come; of use where it does not
TESTS = {test.id: test for test in CLIENT_TESTS}
OPEN = {
    # What our client does not do when it is asked by that command, so that nothing can be said.
    "TD_COAP_CORE_12": "not empty", "TD_COAP_CORE_21": "cache", "TD_COAP_CORE_22": "condition",
    "TD_COAP_CORE_23": "condition", "TD_COAP_CORE_31": "ping", "CLIENT_FRESH_IDS": "another port",
}  # fmt: skip
PLAIN = [id for id, test in TESTS.items() if not test.is_long and id not in OPEN]


def carry_out(id, command=OURS, *, patience=PATIENCE, grace=0.5):
    port = Port("127.0.0.1", 0)
    try:
        return serve.carry_out(TESTS[id], port, Command(command), patience=patience, grace=grace)
    finally:
        port.close()


AT_ONCE = 6
"""Tests that run beside each other: nearly all of their time is waiting."""


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(AT_ONCE) as executor:
        yield executor


@pytest.fixture(scope="module")
def passed(pool):
    return {id: pool.submit(carry_out, id) for id in PLAIN}


@pytest.mark.parametrize("id", PLAIN)
def test_our_client_passes(passed, id):
    result = passed[id].result()

    assert (result.verdict, result.reason) == (PASS, ""), [str(frame) for frame in result.frames]


@pytest.mark.parametrize("id", [id for id in OPEN if id not in ("TD_COAP_CORE_31",)])
def test_what_a_client_need_not_do_is_held_against_nobody(id):
    result = carry_out(id, patience=5.0)

    assert result.verdict == INCONCLUSIVE
    assert OPEN[id] in result.reason


class Elsewhere:
    """An event loop in a thread, in which a bad network stands between client and tester."""

    def __init__(self, port, link, seed):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.proxy = Impairment(port.address, link, seed=seed)
        asyncio.run_coroutine_threadsafe(self.proxy.open(), self._loop).result(30)

    def close(self):
        self._loop.call_soon_threadsafe(self.proxy.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()


LOSSY = ["TD_COAP_CORE_01", "TD_COAP_CORE_09", "TD_COAP_BLOCK_02", "TD_COAP_BLOCK_03", "TD_COAP_OBS_01",
         "TD_COAP_OBS_12", "CLIENT_UNKNOWN_TOKEN"]  # fmt: skip


@pytest.mark.parametrize("id", LOSSY)
def test_our_client_is_not_accused_where_the_network_loses_and_repeats(id):
    port = Port("127.0.0.1", 0)
    network = Elsewhere(port, Link(loss=0.05, duplicate=0.05, delay=0.005, jitter=0.01), seed=len(id))
    try:
        uri = "coap://{}:{}".format(*network.proxy.address)
        command = Command(OURS)

        def driver(ask, asked):
            return command(ask, uri + asked[len(port.uri("")) :])

        result = serve.carry_out(TESTS[id], port, driver, patience=PATIENCE, grace=0.5)
    finally:
        network.close()
        port.close()

    assert result.verdict != FAIL, (result.reason, [str(frame) for frame in result.frames])


TRANSMISSION, RELIABILITY = "core/transmission.py", "core/reliability.py"
OBSERVE, DOWNLOAD, UPLOAD = "core/observe_client.py", "core/block_download.py", "core/block_upload.py"
TAKEN = """            self._answers.remember(key, record, self._parameters.exchange_lifetime, now)
            self.send_empty(ACK, message.message_id, path)
"""
AGAIN = """        if self._answers.recall(key, now) == record:
            self.send_empty(ACK, message.message_id, path)
"""
UNKNOWN = """        else:
            self.send_empty(RST, message.message_id, path)

    def reserved"""
SETTLED = """        else:
            self._transmission.acknowledge(outgoing, now)
        error = None"""
NON_TAKEN = """        if message.type == NON:
            if not"""
ACKNOWLEDGE = "self.send_empty(ACK, message.message_id, path)"
REPEATED = "        outgoing.retransmissions += 1\n        if not"
ENDED = "        if message.options.mask & 1 << OBSERVE:\n            return False\n        self.close(now)\n"
MUTANTS = {
    # fault: (file, what is there, what is put there, the test that finds it)
    "waits as long each time": (TRANSMISSION, "outgoing.timeout *= 2", "outgoing.timeout *= 1", "TD_COAP_CORE_15"),
    "does not wait for two seconds": (
        TRANSMISSION, "self._entropy.uniform(timeout, timeout * parameters.ack_random_factor)", "0.3",
        "TD_COAP_CORE_15",
    ),
    "repeats nothing": (TRANSMISSION, "        if is_last:\n", "        if True:\n", "TD_COAP_CORE_15"),
    "repeats under another message ID": (
        TRANSMISSION, REPEATED,
        REPEATED.replace("\n", "\n        outgoing.data = outgoing.data[:3] + b'x' + outgoing.data[4:]\n"),
        "TD_COAP_CORE_15",
    ),
    "repeats another payload": (
        TRANSMISSION, REPEATED, REPEATED.replace("\n", "\n        outgoing.data += b'x'\n"), "TD_COAP_CORE_15",
    ),
    "repeats what was acknowledged": (RELIABILITY, SETTLED, "        error = None", "TD_COAP_CORE_09"),
    "does not acknowledge a separate response": (RELIABILITY, TAKEN, TAKEN.splitlines()[0] + "\n", "TD_COAP_CORE_09"),
    "does not acknowledge what comes again": (
        RELIABILITY, AGAIN, AGAIN.splitlines()[0] + "\n            pass\n", "TD_COAP_CORE_09",
    ),
    "acknowledges by more than four bytes": (
        RELIABILITY, "message_id >> 8, message_id & 0xFF)), path", "message_id >> 8, message_id & 0xFF, 1)), path",
        "TD_COAP_CORE_09",
    ),
    "acknowledges another message": (
        RELIABILITY, TAKEN, TAKEN.replace("ACK, message.message_id", "ACK, message.message_id ^ 1"), "TD_COAP_CORE_09",
    ),
    "acknowledges what is not confirmable": (
        RELIABILITY, NON_TAKEN, NON_TAKEN.replace(":\n", f":\n            {ACKNOWLEDGE}\n", 1),
        "TD_COAP_CORE_05",
    ),
    "ignores a response to nothing": (
        RELIABILITY, UNKNOWN, UNKNOWN.replace("self.send_empty(RST, message.message_id, path)", "pass"),
        "CLIENT_UNKNOWN_TOKEN",
    ),
    "takes any token": (
        RELIABILITY, UNKNOWN, UNKNOWN.replace("RST", "ACK"), "CLIENT_UNKNOWN_TOKEN",
    ),
    "ignores what is malformed": (
        RELIABILITY, "error.header is not None and error.header[0] == CON", "False", "CLIENT_FORMAT_ERROR",
    ),
    "takes unknown critical options": (
        "core/exchange.py", "refused = NOT_UNDERSTOOD | Q_BLOCKS", "refused = Q_BLOCKS", "CLIENT_CRITICAL_OPTION",
    ),
    "makes up an Echo": ("core/exchange.py", "(ECHO, value)])", "(ECHO, value[1:])])", "CLIENT_ECHO"),
    "asks for blocks with the M bit": (
        DOWNLOAD, "self._options.at(number, False, self.szx)", "self._options.at(number, True, self.szx)",
        "TD_COAP_BLOCK_02",
    ),
    "asks for larger blocks than it gets": (
        DOWNLOAD, "self._options.at(number, False, self.szx)", "self._options.at(number, False, 6)",
        "TD_COAP_BLOCK_02",
    ),
    "leaves a block out": (
        DOWNLOAD, "self._options.at(number, False", "self._options.at(number + (number > 1), False", "TD_COAP_BLOCK_06",
    ),
    "sends larger blocks than the server wants": (
        UPLOAD, "if block.szx < self.szx:", "if block.szx < 0:", "TD_COAP_BLOCK_03",
    ),
    "cuts blocks short": (
        UPLOAD, "read_at(offset, end - offset)", "read_at(offset, end - offset - 1)", "TD_COAP_BLOCK_04",
    ),
    "uses one message ID for all": (
        "core/peer.py", "self._message_id = (message_id + 1) & 0xFFFF", "self._message_id = message_id",
        "TD_COAP_BLOCK_02",
    ),
    "ends an observation with another token": (
        OBSERVE, "Deregistration(self.exchanges, exchange.peer, exchange.token,",
        "Deregistration(self.exchanges, exchange.peer, exchange.token[::-1],", "TD_COAP_OBS_12",
    ),
    "takes notifications after the end": (
        OBSERVE, ENDED, "",
        "TD_COAP_OBS_06",
    ),
    "registers anew with another token": (
        OBSERVE, "uniform(*JITTER), self._register)", "uniform(*JITTER), self._register_anew)", "TD_COAP_OBS_04",
    ),
    "registers anew at once": (
        OBSERVE, "now + max_age + self._owner.entropy.uniform(*JITTER)", "now + 0.2", "TD_COAP_OBS_04",
    ),
    "observes each block": (
        OBSERVE, "            self._code,\n            list(self._options),",
        "            self._code,\n            [*self._options, (OBSERVE, b'')],", "TD_COAP_OBS_13",
    ),
}  # fmt: skip


def carry_out_with(fault, folder):
    """Carry out the test that is to find a fault, with a copy of our client that has it."""
    name, there, put, id = MUTANTS[fault]
    for package in ("minicoap", "tools"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "minicoap" / name
    sound = file.read_text(encoding="utf-8")
    assert sound.count(there) == 1, "the code has changed: put the fault where it belongs now"
    file.write_text(sound.replace(there, put), encoding="utf-8")
    return carry_out(id, f"env -C {folder} PYTHONDONTWRITEBYTECODE=1 {OURS}", patience=10.0)


@pytest.fixture(scope="module")
def found(pool, tmp_path_factory):
    return {fault: pool.submit(carry_out_with, fault, tmp_path_factory.mktemp("mutant")) for fault in MUTANTS}


@pytest.mark.parametrize("fault", MUTANTS)
def test_a_fault_in_a_client_is_found(found, fault):
    result = found[fault].result()

    assert result.verdict == FAIL, (result.verdict, result.reason, [str(frame) for frame in result.frames])
    assert result.section.startswith("RFC ")


def test_serve_says_what_to_have_the_client_do_and_what_came_of_it(capsys):
    assert main(["serve", "127.0.0.1:0", "-t", "TD_COAP_CORE_20", "--patience", "0.1"]) == 0

    shown = capsys.readouterr().out
    assert "now: GET coap://127.0.0.1:" in shown
    assert "/multi-format, confirmable, with Accept 0" in shown
    assert "inconclusive    TD_COAP_CORE_20" in shown


def test_serve_counts_a_failure_and_records_it(tmp_path, capsys):
    """The client asks, and acknowledges nothing."""
    script = (
        "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        "p = int(sys.argv[1].split(':')[2].split('/')[0]);"
        "s.sendto(bytes.fromhex('4101abcd01b8') + b'separate', ('127.0.0.1', p)); s.settimeout(60); "
        "[s.recv(999) for _ in range(9)]"
    )
    file = tmp_path / "run.pcapng"
    arguments = ["-t", "TD_COAP_CORE_16", "--client", f'{sys.executable} -c "{script}" {{uri}}']

    assert main(["serve", "127.0.0.1:0", *arguments, "--patience", "2", "--record", str(file)]) == 1
    assert "a confirmable message is acknowledged, or rejected (RFC 7252 §4.2, must)" in capsys.readouterr().out
    assert file.stat().st_size > 200


@pytest.mark.parametrize(
    ("arguments", "why"),
    [(["--client", "coap-client"], "no {uri}"), (["-t", "NONE"], "no test of clients"), (["a:b:c"], "not HOST:PORT"),
     (["127.0.0.1:0", "-t", "TD_COAP_CORE_01", "--client", "/nowhere/client {uri}"], "/nowhere/client")],
)  # fmt: skip
def test_serve_says_what_it_was_used_wrongly_for(arguments, why, capsys):
    assert main(["serve", *arguments]) == 2
    assert why in capsys.readouterr().err


def test_the_tests_of_clients_are_listed(capsys):
    assert main(["serve", "--list", "--all"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(CLIENT_TESTS)
