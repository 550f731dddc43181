"""A traced machine in the simulator: exact lines of exchanges, repetitions, errors, groups; nothing secret; bounded."""

from __future__ import annotations

import errno
import json
import os
from typing import Any, Optional

import pytest

from minicoap.codec import codes
from minicoap.codec.message import ACK, CON, NON, RST, Message, Options, encode
from minicoap.codec.options import URI_PATH
from minicoap.core import trace
from minicoap.core.identity import Identity
from minicoap.core.request import Path, Request, Response, SecurePath
from minicoap.core.resource import Resource, Site
from minicoap.core.trace import RECEIVED, SENT, TracedMachine, TraceEvent, peer_text
from minicoap.errors import SecurityError
from minicoap.simulate.link import Link
from minicoap.simulate.pair import Pair

PEER = ("192.0.2.7", 5683)


class Still:
    """A machine that does nothing but send what it is given, and remember what it is told."""

    def __init__(self) -> None:
        self.outbox: list[tuple[bytes, Path]] = []
        self.heard: list[tuple[Any, ...]] = []

    def datagram_received(self, data: bytes, path: Path, now: float) -> None:
        self.heard.append((data, path, now))

    def multicast_received(self, data: bytes, path: Path, now: float) -> None:
        self.heard.append(("group", data, path, now))

    def path_failed(self, path: Path, error: OSError, now: float) -> None:
        self.heard.append((path, error, now))

    def datagrams_to_send(self) -> list[tuple[bytes, Path]]:
        sent, self.outbox = self.outbox, []
        return sent

    def next_timeout(self) -> Optional[float]:
        return 7.0

    def handle_timeout(self, now: float) -> None:
        self.heard.append((now,))


class Told:
    """A `Still` machine, traced, and what was told of it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events: list[TraceEvent] = []
        self.inner = Still()
        self.machine = TracedMachine(self.inner, self.events.append, lambda: self.now)

    def sends(self, *messages: Message, path: Path = PEER, after: float = 0.0) -> None:
        self.now += after
        self.inner.outbox += [(encode(message), path) for message in messages]
        self.machine.datagrams_to_send()

    def receives(self, message: Message, path: Path = PEER, after: float = 0.0) -> None:
        self.now += after
        self.machine.datagram_received(encode(message), path, self.now)

    def lines(self) -> list[str]:
        return [event.text() for event in self.events]


def request(
    *path: str, type: int = CON, code: int = codes.GET, id: int = 1, token: bytes = b"\x01", payload: bytes = b""
) -> Message:
    return Message(type, code, id, token, Options([(URI_PATH, each.encode()) for each in path]), payload)


def response(
    type: int = ACK, code: int = codes.CONTENT, id: int = 1, token: bytes = b"\x01", payload: bytes = b"",
    options: tuple[tuple[int, bytes], ...] = (),
) -> Message:  # fmt: skip
    return Message(type, code, id, token, Options(options), payload)


def traced_pair(site: Site, link: Optional[Link] = None) -> tuple[Pair, list[TraceEvent]]:
    """A pair whose client is traced."""
    pair = Pair(site, link=link)
    events: list[TraceEvent] = []
    pair.client_host.boot(TracedMachine(pair.client, events.append, lambda: pair.world.now))
    return pair, events


def test_the_machine_within_is_told_everything_and_nothing_is_changed() -> None:
    told = Told()
    error = OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    told.machine.datagram_received(b"junk", PEER, 1.0)
    told.machine.multicast_received(b"\x50\x01\x00\x01", PEER, 2.0)
    told.machine.path_failed(PEER, error, 3.0)
    told.machine.handle_timeout(4.0)
    assert told.inner.heard == [
        (b"junk", PEER, 1.0),
        ("group", b"\x50\x01\x00\x01", PEER, 2.0),
        (PEER, error, 3.0),
        (4.0,),
    ]
    told.inner.outbox = [(b"x", PEER)]
    assert told.machine.datagrams_to_send() == [(b"x", PEER)]
    assert told.machine.datagrams_to_send() == []
    assert told.machine.next_timeout() == 7.0


def test_response_is_related_to_its_request_and_acknowledgements_to_what_they_are_for() -> None:
    told = Told()
    told.sends(request("time"))
    told.receives(response(payload=b"12:00"), after=0.0125)
    told.sends(request("slow", id=2, token=b"\x02"))
    told.receives(Message(ACK, codes.EMPTY, 2), after=1.0)
    told.receives(response(CON, id=77, token=b"\x02"), after=0.5)
    told.sends(Message(ACK, codes.EMPTY, 77))
    told.receives(response(CON, id=78, token=b"\x0f", payload=b"late"))
    told.sends(Message(RST, codes.EMPTY, 78), Message(CON, codes.EMPTY, 3))
    told.receives(Message(RST, codes.EMPTY, 3), after=0.25)
    assert told.lines() == [
        "-> 192.0.2.7:5683  CON 1 [01]  GET /time",
        '<- 192.0.2.7:5683  ACK 1 [01]  2.05 Content | 5 bytes "12:00"  (GET /time, 12.5 ms)',
        "-> 192.0.2.7:5683  CON 2 [02]  GET /slow",
        "<- 192.0.2.7:5683  ACK 2  Empty  (acknowledges GET /slow, 1.00 s)",
        "<- 192.0.2.7:5683  CON 77 [02]  2.05 Content  (GET /slow, 1.50 s)",
        "-> 192.0.2.7:5683  ACK 77  Empty  (acknowledges 2.05 Content, 0.0 ms)",
        "<- 192.0.2.7:5683  CON 78 [0f]  2.05 Content | 4 bytes, not shown: its request was not seen",
        "-> 192.0.2.7:5683  RST 78  Empty  (rejects 2.05 Content, 0.0 ms)",
        "-> 192.0.2.7:5683  CON 3  Empty  (ping)",
        "<- 192.0.2.7:5683  RST 3  Empty  (answers a ping, 250.0 ms)",
    ]


def test_repetitions_are_marked_in_both_directions_and_message_ids_of_others_are_no_repetition() -> None:
    told = Told()
    told.sends(request("a"))
    told.sends(request("a"), after=2.0)
    told.sends(request("a"), after=4.0)
    told.sends(request("a"), path=("192.0.2.8", 5683))
    told.sends(request("a", token=b"\x02"))  # the same ID with another token is another message
    told.receives(request("b"), path=("192.0.2.9", 1))
    told.receives(request("b"), path=("192.0.2.9", 1))
    told.sends(response(), path=("192.0.2.9", 1))
    told.sends(response(), path=("192.0.2.9", 1))
    assert [event.repeats for event in told.events] == [0, 1, 2, 0, 0, 0, 1, 0, 1]
    assert told.lines()[2] == "-> 192.0.2.7:5683  CON 1 [01]  GET /a  (retransmission 2)"
    assert told.lines()[6] == "<- 192.0.2.9:1  CON 1 [01]  GET /b  (duplicate 1)"
    assert told.lines()[8] == "-> 192.0.2.9:1  ACK 1 [01]  2.05 Content  (sent again, 1; GET /b, 0.0 ms)"


def test_message_id_that_is_used_again_after_its_lifetime_is_no_repetition() -> None:
    told = Told()
    told.sends(Message(ACK, codes.EMPTY, 9))
    told.sends(Message(ACK, codes.EMPTY, 9), after=246.0)
    told.sends(Message(ACK, codes.EMPTY, 9), after=248.0)
    assert [event.repeats for event in told.events] == [0, 1, 0]


def test_lost_messages_are_seen_to_be_repeated_in_the_simulator() -> None:
    pair, events = traced_pair(Site(Resource("/t", get=lambda request: Response(payload=b"x"))))
    pair.there.loss = 1.0
    outcomes = pair.start(codes.GET, "t")
    pair.world.run_until(lambda: len(events) == 3)
    pair.there.loss = 0.0
    assert pair.world.run_until(lambda: bool(outcomes))
    assert [(event.direction, event.repeats) for event in events] == [
        (SENT, 0), (SENT, 1), (SENT, 2), (SENT, 3), (RECEIVED, 0)
    ]  # fmt: skip
    assert events[-1].elapsed == pytest.approx(events[-1].at - events[0].at)


def test_states_of_an_observation_are_related_to_it_and_timed_once() -> None:
    told = Told()
    told.sends(Message(CON, codes.GET, 1, b"\x01", Options(((6, b""), (URI_PATH, b"t")))))
    told.receives(response(options=((6, b"\x05"),)), after=0.01)
    told.receives(response(CON, id=70, options=((6, b"\x06"),)), after=60.0)
    assert told.lines()[1:] == [
        "<- 192.0.2.7:5683  ACK 1 [01]  2.05 Content | Observe: 5  (GET /t, 10.0 ms)",
        "<- 192.0.2.7:5683  CON 70 [01]  2.05 Content | Observe: 6  (GET /t)",
    ]


def test_token_that_is_used_again_means_the_latest_request() -> None:
    told = Told()
    told.sends(request("a", token=b""))
    told.receives(response(token=b""), after=0.001)
    told.sends(request("a", id=2, token=b""), after=5.0)
    told.receives(response(id=2, token=b""), after=0.002)
    assert told.lines()[-1].endswith("(GET /a, 2.0 ms)")


def test_answers_of_a_groups_members_belong_to_the_groups_request() -> None:
    for group, member in ((("224.0.1.187", 5683), PEER), (("ff02::fd", 5683, 0, 2), ("fe80::1", 5683, 0, 2))):
        told = Told()
        told.sends(request("t", type=NON), path=group)
        told.receives(response(NON, id=50, payload=b"x"), path=member, after=0.5)
        assert told.lines()[1].endswith('2.05 Content | 1 byte "x"  (GET /t, 500.0 ms)')
    told = Told()
    told.machine.multicast_received(encode(request("t", type=NON)), PEER, 0.0)
    assert told.lines() == ["<- 192.0.2.7:5683  NON 1 [01]  GET /t  (to the group)"]
    assert told.events[0].document()["group"] is True


def test_malformed_datagrams_are_told_with_why_and_empty_ones_are_not_told() -> None:
    told = Told()
    told.machine.datagram_received(b"\x48\x01\x02", PEER, 0.0)
    told.machine.datagram_received(b"\x48\x01\x12\x34\x00", PEER, 0.0)
    told.sends(Message(RST, codes.EMPTY, 0x1234))
    told.machine.datagram_received(b"\x40\x01\x00\x01\xff" + bytes(0), PEER, 0.0)
    told.machine.datagram_received(b"\x80" * 30, PEER, 0.0)
    told.machine.datagram_received(b"", PEER, 0.0)
    assert told.lines() == [
        "<- 192.0.2.7:5683  malformed: 3 bytes are no CoAP header | 3 bytes 480102",
        "<- 192.0.2.7:5683  malformed: the token is cut off | 5 bytes 4801123400",
        "-> 192.0.2.7:5683  RST 4660  Empty  (rejects what was malformed, 0.0 ms)",
        "<- 192.0.2.7:5683  malformed: payload marker without payload | 5 bytes 40010001ff",
        f"<- 192.0.2.7:5683  malformed: version 2 is not 1 | 30 bytes {'80' * 24} ...",
    ]
    assert told.events[0].document() == {
        "schema": 1,
        "event": "malformed",
        "direction": "received",
        "peer": {"host": "192.0.2.7", "port": 5683, "secure": False},
        "size": 3,
        "error": "3 bytes are no CoAP header",
    }


def test_path_that_fails_is_told() -> None:
    told = Told()
    told.machine.path_failed(PEER, OSError(errno.ECONNREFUSED, "Connection refused"), 0.0)
    told.machine.path_failed(PEER, OSError("\x1b[2J"), 0.0)
    assert told.lines() == [
        "<- 192.0.2.7:5683  unreachable: Connection refused",
        "<- 192.0.2.7:5683  unreachable: \\x1b[2J",
    ]
    assert told.events[0].document()["event"] == "unreachable"
    assert "size" not in told.events[0].document()


def test_end_of_a_secure_session_is_told_as_such() -> None:
    told = Told()
    error: Any = SecurityError("the DTLS session has ended")
    told.machine.path_failed(secure("192.0.2.7", 5684), error, 0.0)
    assert told.lines() == ["<- coaps 192.0.2.7:5684 pump-7  the DTLS session has ended"]
    assert told.events[0].document()["event"] == "ended"


def test_nothing_of_an_enrolment_is_shown_its_answer_included() -> None:
    told = Told()
    for id, path in enumerate(((".well-known", "est", "sen"), (".well-known/est/crts",), ("est", "skg"))):
        told.sends(request(*path, code=codes.POST, id=id, token=bytes((id,)), payload=b"s3cret"))
        told.receives(response(id=id, token=bytes((id,)), payload=b"s3cret"))
        told.receives(response(CON, codes.BAD_REQUEST, id=90 + id, token=bytes((id,)), payload=b"s3cret"))
    told.receives(response(NON, id=9, token=b"\x77", payload=b"s3cret"))  # of a request from before the trace began
    shown = "\n".join([*told.lines(), *(json.dumps(event.document()) for event in told.events)])
    assert "s3cret" not in shown
    assert b"s3cret".hex() not in shown
    assert shown.count("6 bytes, not shown: enrolment") == 9


def test_payload_that_names_a_secret_is_not_shown_though_its_request_is_known() -> None:
    told = Told()
    told.sends(request("login", code=codes.POST, payload=b"password=s3cret"))
    told.receives(response(payload=b'{"token": "s3cret"}'))
    told.receives(response(NON, id=9, token=b"\x01", payload=b"welcome"))
    assert [line.partition(" | ")[2] for line in told.lines()] == [
        "15 bytes, not shown: names a secret",
        "19 bytes, not shown: names a secret  (POST /login, 0.0 ms)",
        '7 bytes "welcome"  (POST /login, 0.0 ms)',
    ]


def test_message_ids_of_both_sides_and_of_answers_are_kept_apart() -> None:
    told = Told()
    told.sends(request("a", id=5))
    told.receives(request("b", id=5, token=b"\x02"))
    told.sends(Message(ACK, codes.EMPTY, 5))
    told.receives(Message(ACK, codes.EMPTY, 5))
    assert [line.rpartition("  ")[2] for line in told.lines()[2:]] == [
        "(acknowledges GET /b, 0.0 ms)",
        "(acknowledges GET /a, 0.0 ms)",
    ]


def test_document_says_all_of_the_line_and_can_be_written_as_json() -> None:
    told = Told()
    told.sends(request("time"))
    told.receives(response(payload=b"12:00", options=((14, b"\x05"),)), after=0.0125)
    assert json.loads(json.dumps(told.events[1].document())) == {
        "schema": 1,
        "event": "message",
        "direction": "received",
        "peer": {"host": "192.0.2.7", "port": 5683, "secure": False},
        "size": len(told.events[1].data),
        "message": {
            "type": "ACK",
            "message_id": 1,
            "token": "01",
            "code": "2.05",
            "name": "2.05 Content",
            "options": [{"number": 14, "name": "Max-Age", "value": 5}],
            "payload": {"size": 5, "text": "12:00"},
        },
        "repeats": 0,
        "request": "GET /time",
        "after": 0.0125,
    }


def secure(*path: Any, subject: str = "pump-7") -> SecurePath:
    made = SecurePath(path)
    made.identity = Identity("x509", subject)
    return made


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("192.0.2.7", 5683), "192.0.2.7:5683"),
        (("192.0.2.7", 5683, "192.0.2.1"), "192.0.2.7:5683"),
        (("::ffff:192.0.2.7", 5683, 0, 0), "192.0.2.7:5683"),
        (("2001:db8::1", 5683, 0, 0), "[2001:db8::1]:5683"),
        (("fe80::1", 5683, 0, 3), "[fe80::1%3]:5683"),
        (("client", 1), "client:1"),
        (secure("192.0.2.7", 5684), "coaps 192.0.2.7:5684 pump-7"),
        (secure("2001:db8::1", 5684, 0, 0, subject="\x1b"), "coaps [2001:db8::1]:5684 \\x1b"),
        (secure("192.0.2.7", 5684, subject=""), "coaps 192.0.2.7:5684"),
    ],
)
def test_other_side_is_written_as_people_write_it(path: Path, text: str) -> None:
    assert peer_text(path) == text


def test_secure_peer_is_told_with_who_it_is() -> None:
    told = Told()
    told.receives(request("t"), path=secure("192.0.2.7", 5684))
    assert told.lines() == ["<- coaps 192.0.2.7:5684 pump-7  CON 1 [01]  GET /t"]
    assert told.events[0].document()["peer"] == {
        "host": "192.0.2.7",
        "port": 5684,
        "secure": True,
        "identity": {"scheme": "x509", "subject": "pump-7"},
    }


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_REMEMBERED", 100)
    told = Told()
    for id in range(1000):
        told.sends(request("t", id=id, token=id.to_bytes(2, "big")))
    assert len(told.machine._seen) == len(told.machine._asked) == 100
    told.receives(response(id=999, token=(999).to_bytes(2, "big"), payload=b"x"))
    told.receives(response(id=1, token=(1).to_bytes(2, "big"), payload=b"x"))
    assert told.lines()[-2].endswith('1 byte "x"  (GET /t, 0.0 ms)')
    assert told.lines()[-1].endswith("1 byte, not shown: its request was not seen")


def test_observation_that_goes_on_is_remembered_while_other_requests_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_REMEMBERED", 10)
    told = Told()
    told.sends(request("state", id=1000, token=b"\xff"))
    for id in range(50):
        told.sends(request("t", id=id, token=bytes((id,))))
        told.receives(response(NON, id=id, token=b"\xff", payload=b"x"))
    assert told.lines()[-1].endswith('1 byte "x"  (GET /state, 0.0 ms)')


def test_tracing_changes_nothing_of_what_is_sent() -> None:
    def body(request: Request) -> Response:
        return Response(payload=bytes(5000))

    def messages(is_traced: bool) -> list[bytes]:
        pair = Pair(
            Site(Resource("/b", get=body, put=lambda request: Response(codes.CHANGED))), link=Link(loss=0.2), seed=5
        )
        if is_traced:
            pair.client_host.boot(TracedMachine(pair.client, lambda event: None, lambda: pair.world.now))
            pair.server_host.boot(TracedMachine(pair.server, lambda event: None, lambda: pair.world.now))
        pair.request(codes.GET, "b")
        pair.request(codes.PUT, "b", payload=bytes(3000))
        return [datagram.data for datagram in pair.world.trace]

    assert messages(True) == messages(False)
