"""Reports: one at a time, the newest form of it, and the last one until it is taken."""

from __future__ import annotations

import pytest

from fleet.agent.machine import Report
from fleet.agent.outbox import LONGEST_WAIT, Outbox
from minicoap.codec import codes
from minicoap.core.endpoint import EndpointCore
from minicoap.core.request import Response
from minicoap.core.timers import Timers
from minicoap.simulate.world import World
from tests.fleet.agent.noding import NODE, SERVER, ScriptedServer, told
from tests.fleet.agent.test_download import Machine


class Sending:
    """A node that reports, and nothing else."""

    def __init__(self):
        self.world = World(0)
        self.server = ScriptedServer(self.world)
        self.host = self.world.host(NODE)
        machine = Machine(EndpointCore(self.world.entropy("node")))
        self.host.boot(machine)
        self.taken = []
        self.refused = []
        self.outbox = Outbox(
            machine.endpoint, SERVER, "n1", clock=self, timers=machine.timers, entropy=self.world.entropy("backoff"),
            taken=lambda report, state: self.taken.append((report.sequence, state)),
            refused=lambda report: self.refused.append(report.sequence),
        )  # fmt: skip
        assert isinstance(machine.timers, Timers)

    def monotonic(self):
        return self.world.now

    def put(self, sequence, state="downloading", **fields):
        self.outbox.put(Report("j1", 1, sequence, state, **fields))
        self.host.wake()

    def sequences(self):
        return [report["sequence"] for report in self.server.reports()]


def test_a_report_says_what_the_api_asks_for():
    sending = Sending()

    sending.put(
        7, "failed", reason="no_space", output="full", bytes_done=5, bytes_total=9, waiting_for="a window", final=True
    )
    sending.world.run_for(1)

    assert sending.server.reports() == [
        {
            "action": "report", "job_id": "j1", "node_id": "n1", "attempt": 1, "sequence": 7, "state": "failed",
            "bytes_done": 5, "bytes_total": 9, "reason": "no_space", "waiting_for": "a window", "output": "full",
        }
    ]  # fmt: skip
    assert sending.taken == [(7, "failed")]


def test_what_is_not_known_is_null():
    sending = Sending()

    sending.put(1)
    sending.world.run_for(1)

    report = sending.server.reports()[0]
    assert {name: report[name] for name in ("bytes_done", "bytes_total", "reason", "waiting_for", "output")} == {
        "bytes_done": 0, "bytes_total": None, "reason": None, "waiting_for": None, "output": None,
    }  # fmt: skip


def test_only_the_newest_of_those_that_wait_is_sent():
    sending = Sending()

    for sequence in range(1, 6):
        sending.put(sequence)
    sending.world.run_for(1)

    assert sending.sequences() == [1, 5]
    assert [sequence for sequence, _state in sending.taken] == [1, 5]


def test_what_the_server_says_of_the_execution_is_told():
    sending = Sending()
    sending.server.say("POST", "/updates", told({"job_id": "j1", "state": "cancelling"}, codes.CHANGED))

    sending.put(1)
    sending.world.run_for(1)

    assert sending.taken == [(1, "cancelling")]


def test_a_success_that_cannot_be_read_is_one_all_the_same():
    sending = Sending()
    sending.server.say("POST", "/updates", Response(codes.CHANGED, b"\xff"))

    sending.put(1, "testing")
    sending.world.run_for(1)

    assert sending.taken == [(1, "testing")]


@pytest.mark.parametrize(
    "code", [codes.NOT_FOUND, codes.CONFLICT, codes.UNPROCESSABLE_ENTITY, codes.BAD_REQUEST], ids=codes.code_text
)
def test_a_refusal_is_final_and_the_next_report_goes_out(code):
    sending = Sending()
    sending.server.say("POST", "/updates", told({"error": "no"}, code), told({"job_id": "j1", "state": "testing"}))

    sending.put(1)
    sending.put(2, "testing")
    sending.world.run_for(1)

    assert (sending.refused, sending.taken) == ([1], [(2, "testing")])


@pytest.mark.parametrize("code", [codes.SERVICE_UNAVAILABLE, codes.INTERNAL_SERVER_ERROR, codes.FORBIDDEN])
def test_a_server_that_cannot_now_gets_the_newest_form_a_little_later_each_time(code):
    sending = Sending()
    sorry = told({"error": "busy"}, code)
    sending.server.say("POST", "/updates", *[sorry] * 4, told({"job_id": "j1", "state": "testing"}))

    sending.put(1)
    sending.world.run_for(0.5)
    sending.put(2, "testing")
    sending.world.run_until(lambda: bool(sending.taken))

    assert sending.sequences() == [1, 2, 2, 2, 2]
    times = [asked.at for asked in sending.server.of("POST", "/updates")]
    waits = [later - earlier for earlier, later in zip(times, times[1:])]
    for wait, longest in zip(waits, (2, 4, 8, 16)):
        assert longest / 2 <= wait <= longest + 0.1
    assert (sending.taken, sending.refused) == ([(2, "testing")], [])


def test_the_last_report_is_sent_until_it_is_taken_and_never_at_longer_intervals_than_it_must():
    sending = Sending()
    sending.world.partition(sending.host, sending.server.host)

    sending.put(1, "succeeded", final=True)
    sending.world.run_for(7 * 24 * 3600)
    assert sending.taken == []
    sending.world.heal()
    healed_at = sending.world.now
    sending.world.run_until(lambda: bool(sending.taken))

    assert sending.taken == [(1, "succeeded")]
    assert sending.world.now - healed_at <= LONGEST_WAIT + 100


def test_a_report_that_was_taken_sets_the_waits_back():
    sending = Sending()
    sorry, taken = told({"error": "busy"}, codes.SERVICE_UNAVAILABLE), told({"job_id": "j1", "state": "testing"})
    sending.server.say("POST", "/updates", *[sorry] * 6, taken, sorry, taken)
    sending.put(1)
    sending.world.run_until(lambda: len(sending.taken) == 1)

    began_at = sending.world.now
    sending.put(2)
    sending.world.run_until(lambda: len(sending.taken) == 2)

    assert sending.world.now - began_at < 2.5


def test_a_repeat_for_which_nothing_new_came_is_not_sent_after_it_was_taken():
    sending = Sending()
    sending.put(1)
    sending.world.run_for(10_000)

    assert sending.sequences() == [1]
    assert sending.host.machine.next_timeout() is None or sending.host.machine.timers.next_deadline() is None
