"""A capture, graded: the tests it contains, and what else is wrong in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import NamedTuple

from tools.conformance.capture.files import Packet
from tools.conformance.capture.links import Address, Dissector
from tools.conformance.grading.exchanges import Conversations, Seen, find
from tools.conformance.grading.model import CASES, Grade, Scene, Side
from tools.conformance.grading.rules import judge, reused_ids
from tools.conformance.resources import ETSI_NAMES, segments

for _name in ("core", "blocks", "observe", "links"):
    import_module(f"tools.conformance.grading.{_name}")


class Graded(NamedTuple):
    """What a capture contains.

    `frames` is how many packets it has, `datagrams` how many of them are whole UDP datagrams, `unreadable` what could
    not be read, with how often; `grades` are the tests found, and `others` the exchanges that belong to none, each as a
    grade of no test.
    """

    frames: int
    datagrams: int
    unreadable: dict[str, int]
    conversations: Conversations
    grades: list[Grade]
    others: list[Grade]


def grade_capture(packets: Iterator[Packet], given: Mapping[str, tuple[str, ...]]) -> Graded:
    """Grade a capture; `given` are the roles of resources that have no ETSI names."""
    dissector = Dissector()
    frames = 0
    datagrams = []
    for packet in packets:
        frames += 1
        datagram = dissector.datagram(packet)
        if datagram is not None:
            datagrams.append(datagram)
    conversations = find(datagrams)
    grades = grade_conversations(conversations, given)
    used = {id(exchange) for each in grades for exchange in each.exchanges}
    others = [
        _judged(Grade("", "an exchange of no test", [each]), reused_ids(conversations))
        for each in conversations.exchanges
        if id(each) not in used
    ]
    return Graded(frames, len(datagrams), dissector.unreadable, conversations, grades, others)


def grade_conversations(conversations: Conversations, given: Mapping[str, tuple[str, ...]]) -> list[Grade]:
    """Return the tests in what was found, in the order of their IDs for each server."""
    roles = {role: segments(name) for role, name in ETSI_NAMES.items()}
    roles.update(given)
    reused = reused_ids(conversations)
    servers: dict[Address, None] = {each.server: None for each in conversations.exchanges}
    grades = []
    for server in servers:
        scene = Scene(conversations, server, roles)
        for _, _, case in CASES:
            grades += [_judged(found, reused) for found in case(scene)]
    return grades


def _judged(found: Grade, reused: dict[Seen, Seen]) -> Grade:
    """Return a grade with what the general rules hold against either side."""
    client, server = Side(), Side()
    for exchange in found.exchanges:
        judge(exchange, client, server)
        for seen in exchange.frames:
            if seen in reused:
                side = client if seen.source == exchange.client else server
                side.fault(
                    f"a message ID names one message as long as it lives (frame {reused[seen].number} has it too)",
                    "RFC 7252 §4.4", seen,
                )  # fmt: skip
    for mine, general in ((found.client, client), (found.server, server)):
        mine.add(general.faults)
        if found.test != "TD_COAP_OBS_05" or mine is found.server:  # there the client is to fall silent
            for why in general.open:
                mine.doubt(why)
    return found
