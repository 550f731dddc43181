"""Hints: sent a few at a time, to where the node was last heard, and forgotten whatever becomes of them."""

from __future__ import annotations

import pytest

from fleet.server.notifier import AT_ONCE, Notifier
from fleet.server.presence import Presences
from minicoap.codec import codes
from minicoap.codec.message import decode
from minicoap.core.endpoint import EndpointCore
from minicoap.core.parameters import Limits
from minicoap.core.resource import Site
from minicoap.simulate.world import World
from tests.fleet.server.serving import a_listener


class Hinting:
    """A notifier at its endpoint, and nodes that listen."""

    def __init__(self, limits=Limits()):  # noqa: B008
        self.world = World(0, trace=10_000)
        self.host = self.world.host(("server", 5683))
        self.endpoint = EndpointCore(self.world.entropy("server"), limits=limits)
        self.host.boot(self.endpoint)
        self.presences = Presences(60)
        self.acknowledged = []
        self.heard = {}
        self.notifier = Notifier(self.endpoint, self.presences, lambda *hint: self.acknowledged.append(hint))

    def node(self, node_id, code=codes.CHANGED, *, is_there=True):
        address = (node_id, 5683)
        self.presences.add(node_id).path = address
        self.heard[node_id] = []
        if is_there:
            site = Site(a_listener(self.heard[node_id], code))
            self.world.host(address).boot(EndpointCore(self.world.entropy(node_id), site=site))

    def hint(self, *hints):
        for job_id, node_id in hints:
            self.notifier.hint(job_id, node_id)
        self.send()

    def send(self):
        self.notifier.send(self.world.now)
        self.host.wake()

    def sent(self):
        return [decode(each.data) for each in self.world.trace if each.source == ("server", 5683)]


def test_a_hint_says_which_job_and_its_answer_is_told():
    hinting = Hinting()
    hinting.node("n1")

    hinting.hint(("j1", "n1"))
    hinting.world.run_for(1)

    assert hinting.heard["n1"] == [b'{"job_id":"j1"}']
    assert hinting.acknowledged == [("j1", "n1")]
    (message,) = hinting.sent()
    assert (message.options.path, message.options.uint(12)) == (("updates", "available"), 50)


@pytest.mark.parametrize("code", [codes.NOT_FOUND, codes.INTERNAL_SERVER_ERROR])
def test_a_hint_that_is_refused_is_left_at_that(code):
    hinting = Hinting()
    hinting.node("n1", code)

    hinting.hint(("j1", "n1"))
    hinting.world.run_for(300)

    assert (len(hinting.heard["n1"]), hinting.acknowledged) == (1, [])


def test_a_node_that_is_not_there_is_left_to_its_next_report():
    hinting = Hinting()
    hinting.node("n1", is_there=False)

    hinting.hint(("j1", "n1"))
    hinting.world.run_for(300)

    assert hinting.acknowledged == []
    assert len(hinting.sent()) == 5  # the message and its repetitions


def test_a_hint_is_sent_once_however_often_it_is_given():
    hinting = Hinting()
    hinting.node("n1")

    hinting.hint(("j1", "n1"), ("j1", "n1"), ("j2", "n1"))
    hinting.world.run_for(1)

    assert hinting.heard["n1"] == [b'{"job_id":"j1"}', b'{"job_id":"j2"}']


def test_nodes_that_nobody_knows_or_that_were_not_heard_get_none():
    hinting = Hinting()
    hinting.presences.add("silent")

    hinting.hint(("j1", "nobody"), ("j1", "silent"))
    hinting.world.run_for(1)

    assert hinting.sent() == []


def test_a_few_at_a_time_are_under_way_and_all_are_sent_in_the_end():
    hinting = Hinting()
    nodes = [f"n{number:03}" for number in range(3 * AT_ONCE)]
    for node_id in nodes:
        hinting.node(node_id)

    hinting.hint(*[("j1", node_id) for node_id in nodes])
    assert len(hinting.sent()) == AT_ONCE
    while len(hinting.acknowledged) < len(nodes):
        before = len(hinting.acknowledged)
        hinting.world.run_for(0.05)
        hinting.send()
        assert len(hinting.acknowledged) > before

    assert [node_id for _job_id, node_id in hinting.acknowledged] == nodes


def test_those_that_do_not_answer_free_their_places():
    hinting = Hinting()
    for number in range(AT_ONCE):
        hinting.node(f"dead{number}", is_there=False)
    hinting.node("alive")

    hinting.hint(*[("j1", f"dead{number}") for number in range(AT_ONCE)], ("j1", "alive"))
    hinting.world.run_for(100)
    hinting.send()
    hinting.world.run_for(1)

    assert hinting.acknowledged == [("j1", "alive")]


def test_an_endpoint_without_room_is_tried_again_later_with_the_next_hint():
    hinting = Hinting(Limits(peers=1))
    hinting.node("n1")
    hinting.node("n2")

    hinting.hint(("j1", "n1"), ("j1", "n2"))
    hinting.world.run_for(1)
    hinting.hint(("j2", "n2"))
    hinting.world.run_for(1)

    assert ("j1", "n1") in hinting.acknowledged
    assert ("j2", "n2") in hinting.acknowledged
