"""Simple registration with a resource directory: said once, refreshed in time, tried again (RFC 9176 §5.1)."""

from __future__ import annotations

from typing import Any

import pytest

from minicoap.codec import codes
from minicoap.codec.message import CON, Message
from minicoap.core.directory import Facts, Registration
from minicoap.core.parameters import Limits
from minicoap.core.request import Response
from minicoap.errors import NetworkError, RequestTimeout, UsageError
from tests.minicoap.core.solo import PEER, Solo, ack


class Node(Solo):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.outcomes: list[Any] = []

    def register(self, facts: Facts) -> tuple[Registration, Message]:
        registration = self.core.register(PEER, facts, self.outcomes.append, self.now)
        (sent,) = self.sent()
        return registration, sent


@pytest.mark.parametrize(
    ("facts", "query"),
    [
        (Facts("node1"), ("ep=node1", "lt=90000")),
        (Facts("nöde", "sector", 60), ("ep=nöde", "lt=60", "d=sector")),
        (Facts("n", attributes={"et": "oic.d.sensor", "v": ""}), ("ep=n", "lt=90000", "et=oic.d.sensor", "v")),
    ],
)
def test_registration_is_an_empty_post_to_the_well_known_place(facts: Facts, query: tuple[str, ...]) -> None:
    _, sent = Node().register(facts)
    assert (sent.type, sent.code, sent.payload) == (CON, codes.POST, b"")
    assert (sent.options.path, sent.options.query) == ((".well-known", "rd"), query)


@pytest.mark.parametrize(
    "facts",
    [
        Facts(""),
        Facts("x" * 64),
        Facts("ü" * 32),
        Facts("a\nb"),
        Facts("a\x80b"),
        Facts("a\x9fb"),
        Facts("n", "s" * 64),
        Facts("n", lifetime=0),
        Facts("n", lifetime=1 << 32),
        Facts("n", attributes={"base": "coap://elsewhere"}),
        Facts("n", attributes={"ep": "other"}),
    ],
)
def test_facts_that_no_directory_takes_are_refused(facts: Facts) -> None:
    with pytest.raises(UsageError):
        Node().register(facts)


def test_registration_is_refreshed_before_its_lifetime_ends_for_ever() -> None:
    node = Node()
    registration, sent = node.register(Facts("n", lifetime=1000))
    node.pass_time(1.5)  # the directory takes its time
    node.put(ack(codes.CHANGED, sent))
    assert registration.registered_until == 2000.0
    for turn in range(1, 4):
        ((when, sent),) = node.pass_time(750.0 - (1.5 if turn == 1 else 0.0))
        assert (when, sent.options.path) == (1000.0 + 750.0 * turn, (".well-known", "rd"))
        node.put(ack(codes.CHANGED, sent))
    assert len(node.outcomes) == 4


def test_failure_is_told_and_tried_again_ever_more_seldom() -> None:
    node = Node()
    registration, sent = node.register(Facts("n", lifetime=1000))
    waits = []
    for _ in range(8):
        node.put(ack(codes.FORBIDDEN, sent))
        began = node.now
        while not (due := node.pass_time(2.5)):
            assert node.now < began + 1000.0
        ((when, sent),) = due
        waits.append(when - began)
        node.now = when
    assert waits == [10.0, 20.0, 40.0, 80.0, 125.0, 125.0, 125.0, 125.0]
    assert [type(outcome) for outcome in node.outcomes] == [Response] * 8
    assert registration.registered_until is None
    node.put(ack(codes.CHANGED, sent))
    assert registration.registered_until == node.now + 1000.0


def test_silence_is_a_failure_too() -> None:
    node = Node()
    node.register(Facts("n", lifetime=1000))
    sent = node.pass_time(94.0)
    assert [type(outcome) for outcome in node.outcomes] == [RequestTimeout]
    assert sent[-1][1].message_id != sent[0][1].message_id  # it begins anew at once: the first retry is long due


def test_stopped_registration_runs_out() -> None:
    node = Node()
    registration, sent = node.register(Facts("n", lifetime=1000))
    node.put(ack(codes.CHANGED, sent))
    registration.stop(node.now)
    registration.stop(node.now)
    assert node.pass_time(5000.0) == []
    assert node.forgets_everything()

    registration, _ = node.register(Facts("n"))
    registration.stop(node.now)
    assert node.pass_time(5000.0) == []
    assert len(node.outcomes) == 1
    assert node.forgets_everything()


def test_no_room_is_a_failure_like_any_other() -> None:
    node = Node(limits=Limits(queued_messages=0))
    _, sent = node.register(Facts("n", lifetime=1000))
    node.put(ack(codes.CHANGED, sent))
    node.pass_time(749.0)
    node.request(codes.GET)
    node.sent()
    node.pass_time(1.5)
    assert [isinstance(outcome, NetworkError) for outcome in node.outcomes] == [False, True]
    with pytest.raises(NetworkError):
        node.core.register(PEER, Facts("n"), node.outcomes.append, node.now)


@pytest.mark.parametrize("name", ["a b", "a\x7eb", "a\xa0b", "x" * 63])
def test_names_may_have_what_is_no_control_character(name: str) -> None:
    assert f"ep={name}" in Facts(name).query()
