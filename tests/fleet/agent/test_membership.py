"""The node as a member: it registers, reports, and comes back by itself."""

from __future__ import annotations

import pytest

from fleet.host.facts import HostHealth
from fleet.model.formats import decode, encode
from fleet.model.health import report_etag
from fleet.model.mergepatch import merge_patch
from minicoap.codec import codes
from minicoap.codec.contentformats import CBOR
from minicoap.codec.message import decode as decode_message
from minicoap.codec.options import IF_MATCH, NO_RESPONSE
from minicoap.core.request import Request, Response, SecurePath
from tests.fleet.agent.noding import EPOCH, NODE, SERVER, Node, told
from tests.fleet.pretended import FixedFacts


def interval(node, path="/health", method="PUT"):
    times = [asked.at for asked in node.server.of(method, path)]
    return [later - earlier for earlier, later in zip(times, times[1:])]


def registered(**fields):
    return {"node_id": "n1", "status": "", "servers": [], "health_interval": 60, "time": "", **fields}


def test_a_node_registers_at_once_and_then_reports():
    node = Node(services=("ssh", "docker"), groups=("lab",))

    node.boot()
    node.until(lambda: len(node.server.of("PUT", "/health")) == 1)

    (registration,) = node.server.of("POST", "/nodes")
    assert registration.at < 0.1
    assert registration.body["node_id"] == "n1"
    assert (registration.body["services"], registration.body["groups"]) == (["ssh", "docker"], ["lab"])
    assert registration.body["system_info"]["arch"] == "aarch64"
    assert registration.body["last_seen"] == "2026-09-21T14:13:20.000Z"
    assert int(EPOCH) == 1_790_000_000
    assert registration.body["request_id"]
    assert node.agent.membership.is_registered


def test_a_report_says_how_the_node_is():
    node = Node(services=("ssh", "docker"))
    node.boot()
    node.until(lambda: len(node.server.of("PUT", "/health")) == 1)

    assert node.server.of("PUT", "/health")[0].body == {
        "node_id": "n1", "overall_healthy": False, "cpu_percent": 15.5, "memory_percent": 45.25, "disk_percent": 30.125,
        "temperature": 42.5, "services_status": {"ssh": True, "docker": False},
        "error_messages": ["Service docker is not running"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "configured", "expected"), [(60, None, 60), (7, None, 7), (60, 5, 5), (0.001, None, 1), (1e9, None, 86400)]
)
def test_reports_come_in_the_servers_interval_or_the_configured_one_a_little_spread(said, configured, expected):
    node = Node(health_interval=configured)
    node.server.say("POST", "/nodes", registered(health_interval=said))

    node.boot()
    node.until(lambda: len(node.server.of("PUT", "/health")) == 30, timeout=1e9)

    waits = interval(node)
    assert all(0.9 * expected <= wait <= expected + 0.1 for wait in waits)
    assert max(waits) - min(waits) > 0.02 * expected, "all nodes would report in step"


def test_a_server_that_does_not_answer_is_asked_again_ever_less_often_and_found_when_it_is_back():
    node = Node()
    node.server.host.crash()
    node.boot()
    node.world.run_for(3600)
    assert not node.agent.membership.is_registered

    node.server.host.boot(node.server.core)
    node.until(lambda: node.agent.membership.is_registered, timeout=250)


def test_a_server_that_refuses_for_now_is_asked_again():
    node = Node()
    sorry = Response(codes.SERVICE_UNAVAILABLE)
    node.server.say("POST", "/nodes", sorry, sorry, registered())
    node.server.say("PUT", "/health", sorry, sorry, {"status": "ok", "time": "", "jobs": [], "servers": []})

    node.boot()
    node.until(lambda: len(node.server.of("PUT", "/health")) == 3)

    for waits in (interval(node, "/nodes", "POST"), interval(node)):
        for wait, longest in zip(waits, (2, 4)):
            assert longest / 2 <= wait <= longest + 0.1


def test_a_node_that_was_forgotten_registers_anew_and_not_all_at_the_same_moment():
    waits = []
    for seed in range(8):
        node = Node(seed=seed)
        known = {"status": "ok", "time": "", "jobs": [], "servers": []}
        node.server.say("PUT", "/health", told({"error": "unknown"}, codes.NOT_FOUND), known)
        node.boot()
        node.until(lambda node=node: len(node.server.of("PUT", "/health")) == 2)
        waits.append(node.server.of("POST", "/nodes")[1].at - node.server.of("PUT", "/health")[0].at)

    assert all(wait <= 2.1 for wait in waits)
    assert max(waits) - min(waits) > 0.5


def test_answers_that_cannot_be_read_are_answers_all_the_same():
    node = Node()
    node.server.say("POST", "/nodes", Response(codes.CREATED, b"\xff"))
    node.server.say("PUT", "/health", Response(codes.CHANGED, b"[]"))

    node.boot()
    node.until(lambda: len(node.server.of("PUT", "/health")) == 3)

    assert all(54 <= wait <= 60.1 for wait in interval(node))


def test_what_a_later_server_adds_is_ignored():
    node = Node()
    node.server.say("POST", "/nodes", registered(of_a_later_version=[1]))
    node.server.say("PUT", "/health", {"status": "ok", "time": "", "jobs": [], "servers": [], "later": {}})

    node.boot()
    node.until(lambda: len(node.server.of("PUT", "/health")) == 2)


def test_the_server_restarting_is_survived():
    node = Node()
    node.boot()
    node.until(lambda: len(node.server.of("PUT", "/health")) == 1)
    node.server.host.crash()
    node.world.run_for(300)
    node.server.host.boot(node.server.core)

    node.until(lambda: len(node.server.of("PUT", "/health")) == 3, timeout=600)

    assert len(node.server.of("POST", "/nodes")) == 1, "registered anew though the server knew it"


# What changed


class Kept:
    """A server that keeps the node's report as the real one does; `number` says how many it had, `quiet` which of them
    wanted no answer to a success.
    """

    def __init__(self, node: Node) -> None:
        self.health: dict = {}
        self.number = 0
        self.quiet: list[bool] = []
        self.jobs: list[str] = []
        self.refusals: list[int] = []  # codes that the next patches are answered with
        node.server.say("PUT", "/health", self.put)
        node.server.say("iPATCH", "/h", self.patch)

    @property
    def tag(self) -> bytes:
        return report_etag(encode(self.health))

    def put(self, request: Request) -> Response:
        self.health = decode(request.payload, request.content_format, object)
        told = {"status": "ok", "time": "", "jobs": self.jobs, "servers": []}
        return self.taken(request, told)

    def patch(self, request: Request) -> Response:
        if self.refusals:
            return Response(self.refusals.pop(0))
        if request.options.all(IF_MATCH) not in ((self.tag,), ()):
            return Response(codes.PRECONDITION_FAILED)
        if request.payload:
            assert request.content_format == CBOR
            self.health = merge_patch(self.health, decode(request.payload, CBOR, object))
        return self.taken(request, {"jobs": self.jobs} if self.jobs else None)

    def taken(self, request: Request, told: object) -> Response:
        self.number += 1
        self.quiet.append(request.options.uint(NO_RESPONSE) == 2)
        if request.code != codes.PUT:
            return Response(codes.CHANGED, b"" if told is None else encode(told, CBOR, numbers=True), CBOR)
        return Response(codes.CHANGED, encode(told, CBOR), CBOR, etag=self.tag)


class Facts(FixedFacts):
    """Facts that can be changed."""

    def __init__(self) -> None:
        self.now = HostHealth(15.5, 45.2, 30.1, 42.5, {"ssh": True, "docker": False})

    def health(self, services):
        return self.now


def patching_node():
    node = Node(services=("ssh", "docker"))
    kept = Kept(node)
    facts = Facts()
    node.boot()
    node.agent.membership._facts = facts
    node.until(lambda: kept.number == 1)
    return node, kept, facts


def bodies(node, method="iPATCH"):
    return [asked.body for asked in node.server.of(method, "/h" if method == "iPATCH" else "/health")]


def test_after_a_whole_report_only_what_changed_is_reported():
    node, kept, facts = patching_node()
    node.until(lambda: kept.number == 2)
    facts.now = facts.now._replace(cpu_percent=20.04, services_status={"ssh": True, "docker": True})
    node.until(lambda: kept.number == 3)
    facts.now = facts.now._replace(temperature=None)
    node.until(lambda: kept.number == 4)

    assert len(bodies(node, "PUT")) == 1
    first, second, third = bodies(node)
    assert first == {"node_id": "n1"}
    assert second == {
        "node_id": "n1", "cpu_percent": 20.0, "overall_healthy": True, "services_status": {"docker": True},
        "error_messages": [],
    }  # fmt: skip
    assert third == {"node_id": "n1", "temperature": None}
    assert kept.health == {
        "node_id": "n1", "overall_healthy": True, "cpu_percent": 20.0, "memory_percent": 45.25, "disk_percent": 30.125,
        "services_status": {"ssh": True, "docker": True}, "error_messages": [],
    }  # fmt: skip


def test_what_changes_by_less_than_a_sixteenth_is_unchanged():
    node, kept, facts = patching_node()
    facts.now = facts.now._replace(cpu_percent=15.55, memory_percent=45.19, disk_percent=30.18, temperature=42.46)
    node.until(lambda: kept.number == 6)

    assert bodies(node) == [{"node_id": "n1"}] * 5


def test_small_changes_wait_for_the_report_that_is_confirmed_and_large_ones_do_not():
    node, kept, facts = patching_node()
    facts.now = facts.now._replace(cpu_percent=20.375, temperature=46.0)
    node.until(lambda: kept.number == 2)
    facts.now = facts.now._replace(cpu_percent=20.75, memory_percent=40.0)
    node.until(lambda: kept.number == 6)

    first, second, *others, last = bodies(node)
    assert first == {"node_id": "n1"}
    assert second == {"node_id": "n1", "cpu_percent": 20.75, "memory_percent": 40.0}
    assert others == [{"node_id": "n1"}] * 2
    assert last == {"node_id": "n1", "temperature": 46.0}
    assert kept.quiet == [False, *[True] * 4, False]


def test_all_of_it_is_reported_once_an_hour():
    node, kept, _facts = patching_node()
    node.world.run_for(3 * 3600)

    times = [asked.at for asked in node.server.of("PUT", "/health")]
    waits = [later - earlier for earlier, later in zip(times, times[1:])]
    assert len(times) in (3, 4)
    assert all(3600 <= wait <= 3661 for wait in waits)
    assert kept.number > 170, "nothing was left out in between"


def test_every_fifth_report_is_confirmed_and_so_is_a_change_of_state():
    node, kept, facts = patching_node()
    node.until(lambda: kept.number == 13)
    assert kept.quiet == [False, *[True] * 4, False, *[True] * 4, False, True, True]

    facts.now = facts.now._replace(services_status={"ssh": False, "docker": False})
    node.until(lambda: kept.number == 15)
    assert kept.quiet[13:] == [True, True], "docker was down all the time"
    facts.now = facts.now._replace(services_status={"ssh": True, "docker": True})
    node.until(lambda: kept.number == 16)
    assert kept.quiet[15:] == [False]


def test_job_that_waits_is_heard_of_within_five_reports_without_a_hint():
    node, kept, _facts = patching_node()
    node.until(lambda: kept.number == 2)
    node.agent.membership._jobs_wait = (waiting := []).extend
    kept.jobs = ["j1"]

    node.until(lambda: bool(waiting))

    assert kept.number <= 6


def secured_node():
    node = Node(services=("ssh", "docker"))
    kept = Kept(node)
    facts = Facts()
    node.path = SecurePath(SERVER)
    node.boot()
    node.agent.membership._facts = facts
    node.until(lambda: kept.number == 1)
    return node, kept, facts


def test_over_coaps_a_report_of_no_change_is_eleven_bytes_and_its_certificate_says_whose_it_is():
    node, kept, facts = secured_node()
    node.until(lambda: kept.number == 6)
    facts.now = facts.now._replace(cpu_percent=99.0)
    node.until(lambda: kept.number == 7)

    assert bodies(node) == [None] * 5 + [{"cpu_percent": 99.0}]
    sent = [
        each.data for each in node.world.trace if each.source == NODE and decode_message(each.data).code == codes.IPATCH
    ]
    messages = [decode_message(data) for data in sent]
    assert [len(data) for data in sent] == [9, 9, 9, 9, 11, 20]
    assert [len(message.token) for message in messages] == [0, 0, 0, 0, 2, 0]
    assert [message.options.all(IF_MATCH) != () for message in messages] == [False] * 4 + [True] * 2
    assert kept.quiet == [False, *[True] * 4, False, True]


def test_over_plain_coap_tokens_stay_too_long_to_guess():
    node, kept, _facts = patching_node()
    node.until(lambda: kept.number == 6)

    sent = [decode_message(each.data) for each in node.world.trace if each.source == NODE]
    assert {len(message.token) for message in sent if message.code} == {4}


def test_two_reports_without_an_answer_at_once_are_told_apart():
    node = Node(health_interval=1.0)
    kept = Kept(node)
    node.path = SecurePath(SERVER)
    node.boot()
    node.until(lambda: kept.number == 5)

    sent = [decode_message(each.data) for each in node.world.trace if each.source == NODE]
    assert [len(message.token) for message in sent if message.code == codes.IPATCH] == [0, 4, 4, 4]


def test_a_report_without_an_answer_holds_nothing_up_that_the_server_is_to_be_asked():
    node, kept, _facts = patching_node()
    node.until(lambda: kept.number == 2)
    assert kept.quiet[-1]

    node.agent._hinted("j1")
    node.host.wake()
    node.world.run_for(1)

    assert len(node.server.of("GET", "/updates/j1")) == 1


def test_a_lost_report_is_made_good_by_the_next():
    node, kept, facts = patching_node()
    node.until(lambda: kept.number == 2)
    node.world.partition(node.host, node.server.host)
    facts.now = facts.now._replace(cpu_percent=77.0)
    node.world.run_for(60)
    node.world.heal()
    facts.now = facts.now._replace(memory_percent=11.0)

    node.until(lambda: kept.number == 3)

    assert (kept.health["cpu_percent"], kept.health["memory_percent"]) == (77.0, 11.0)
    assert len(bodies(node, "PUT")) == 2
    node.world.run_for(1)
    assert encode(kept.health) == encode(node.agent.membership._known.health)


def test_a_list_of_services_that_is_too_long_for_a_datagram_is_confirmed():
    node, kept, facts = patching_node()
    facts.now = facts.now._replace(services_status={f"service-{number:03}": True for number in range(100)})
    node.until(lambda: kept.number == 2)

    assert kept.quiet == [False, False]


def test_a_server_that_does_not_have_the_last_report_gets_all_of_it_after_five_reports_though_nothing_changes():
    node, kept, _facts = patching_node()
    node.until(lambda: kept.number == 2)
    kept.health["cpu_percent"] = 99.9
    node.until(lambda: len(bodies(node, "PUT")) == 2)

    assert kept.number == 6
    assert kept.health["cpu_percent"] == 15.5


def test_a_server_that_does_not_have_the_last_report_gets_all_of_it_at_once():
    node, kept, facts = patching_node()
    node.until(lambda: kept.number == 3)
    kept.health["cpu_percent"] = 99.9  # it is another one that the server has
    facts.now = facts.now._replace(memory_percent=80.0)
    asked = len(node.server.asked)

    node.until(lambda: len(node.server.asked) == asked + 2)

    refused, whole = node.server.asked[-2:]
    assert (refused.method, whole.method) == ("iPATCH", "PUT")
    assert whole.at - refused.at < 0.1
    node.until(lambda: len(node.server.asked) == asked + 3)
    assert node.server.asked[-1].method == "iPATCH"


@pytest.mark.parametrize(
    "code", [codes.SERVICE_UNAVAILABLE, codes.TOO_MANY_REQUESTS, codes.METHOD_NOT_ALLOWED, codes.UNPROCESSABLE_ENTITY]
)
def test_a_server_that_refuses_what_changed_for_another_reason_gets_all_of_it_after_a_while(code):
    node, kept, _facts = patching_node()
    kept.refusals.append(code)

    node.until(lambda: len(bodies(node, "PUT")) == 2)

    refused, whole = node.server.asked[-2:]
    assert (refused.method, whole.method) == ("iPATCH", "PUT")
    assert 1 <= whole.at - refused.at <= 2.1


def test_after_a_report_without_an_answer_all_of_it_is_reported():
    node, kept, facts = patching_node()
    node.server.host.crash()
    facts.now = facts.now._replace(cpu_percent=50.0)
    node.world.run_for(200)
    node.server.host.boot(node.server.core)

    node.until(lambda: kept.health["cpu_percent"] == 50.0, timeout=600)

    assert len(bodies(node, "PUT")) == 2


def test_a_node_that_registers_anew_reports_all():
    node, kept, _facts = patching_node()
    node.until(lambda: kept.number == 2)
    kept.refusals.append(codes.NOT_FOUND)

    node.until(lambda: len(node.server.of("POST", "/nodes")) == 2)
    node.until(lambda: kept.number == 3)

    assert [asked.method for asked in node.server.asked[-3:]] == ["iPATCH", "POST", "PUT"]


def test_a_server_that_gives_reports_no_name_gets_all_of_it_always():
    node = Node()
    node.boot()
    node.until(lambda: len(node.server.of("PUT", "/health")) == 5)

    assert bodies(node) == []
