"""Requests to a group: what members answer and when, and what becomes of their answers (RFC 7252 §8)."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from minicoap.codec import codes, contentformats
from minicoap.codec.message import ACK, CON, NON, RST, Message, Options, decode, encode
from minicoap.codec.options import BLOCK2, ECHO, ETAG, IF_MATCH, NO_RESPONSE, SIZE2
from minicoap.core.parameters import Limits, TransmissionParameters
from minicoap.core.request import Path, Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.errors import CoapError, NetworkError, PathError, UsageError
from tests.minicoap.core.handlers import Counter, Later
from tests.minicoap.core.solo import ABROAD, LIFETIME, PEER, Solo, ack, con, empty, message, non, reset

GROUP: Path = ("224.0.1.187", 5683)
MEMBERS: list[Path] = [(f"127.0.1.{number}", 5683) for number in range(5)]
LEISURE = TransmissionParameters().default_leisure


# A member


def asked(solo: Solo, request: Message, path: Path = PEER) -> list[tuple[float, Message]]:
    """What is sent after a request to the group, with the seconds after it."""
    solo.core.multicast_received(encode(request), path, solo.now)
    began = solo.now
    assert solo.sent() == []
    return [(when - began, one) for when, one in solo.pass_time(LEISURE)]


def member(answer: Optional[Response] = None, **more: Any) -> Solo:
    response = answer or Response(payload=b"here")
    handlers = dict.fromkeys(("get", "post", "put"), lambda _: response)
    return Solo(Site(Resource("/x", group=True, **handlers), Resource("/alone", **handlers)), **more)  # type: ignore[arg-type]


def test_member_answers_once_within_its_leisure_by_a_message_of_its_own() -> None:
    moments = []
    for seed in range(40):
        ((after, answer),) = asked(member(seed=seed), non(codes.GET, 7, b"t", "x"))
        assert (answer.type, answer.code, answer.token, answer.payload) == (NON, codes.CONTENT, b"t", b"here")
        assert answer.message_id != 7
        moments.append(after)
    assert 0.0 <= min(moments) < 0.5
    assert LEISURE - 0.5 < max(moments) <= LEISURE


@pytest.mark.parametrize(
    "request_",
    [
        con(codes.GET, 1, b"t", "x"),
        message(ACK, codes.GET, 1, b"t", "x"),
        message(RST, codes.GET, 1, b"t", "x"),
        empty(CON, 1),
        empty(RST, 1),
        non(codes.CONTENT, 1, b"t"),
        con(codes.CONTENT, 1, b"t"),
        Message(CON, 0xE1, 1),
        non(codes.GET, 1, b"t", "alone"),  # §11.3: only where that was wanted
        non(codes.GET, 1, b"t", "missing"),
        non(codes.DELETE, 1, b"t", "x"),
        non(codes.GET, 1, b"t", "x", options=((1235, b""),)),
        non(codes.GET, 1, b"t", "x", options=((IF_MATCH, b"e"),)),
        non(codes.GET, 1, b"t", "x", options=((35, b"coap://x"),)),
        non(codes.GET, 1, bytes(300), "x"),
        non(codes.GET, 1, b"t", options=((11, b"\xff"),)),
    ],
)
def test_member_ignores_what_it_has_nothing_useful_to_say_to(request_: Message) -> None:
    assert asked(member(), request_) == []


@pytest.mark.parametrize("data", [b"", b"\x40", b"\x40\x01\x00\x01\xff", b"\x50\x01\x00\x01\xff", b"\x4f\x01\x00\x01"])
def test_malformed_message_to_a_group_is_not_reset(data: bytes) -> None:
    solo = member()
    solo.core.multicast_received(data, PEER, solo.now)
    assert solo.pass_time(100.0) == []
    assert solo.is_empty()


@pytest.mark.parametrize(
    ("answer", "no_response", "sent"),
    [
        (Response(payload=b"x"), None, True),
        (Response(payload=b""), None, False),
        (Response(codes.CHANGED), None, False),
        (Response(codes.CHANGED, b"x"), None, True),
        (Response(codes.NOT_FOUND, b"x"), None, False),
        (Response(codes.INTERNAL_SERVER_ERROR, b"x"), None, False),
        # RFC 7967 §2.1: what the client says overrides that
        (Response(codes.CHANGED), b"", True),
        (Response(codes.NOT_FOUND, b"x"), b"", True),
        (Response(codes.NOT_FOUND, b"x"), b"\x02", True),
        (Response(codes.CHANGED, b"x"), b"\x02", False),
        (Response(codes.INTERNAL_SERVER_ERROR), b"\x08", True),
        (Response(codes.INTERNAL_SERVER_ERROR), b"\x1a", False),
    ],
)
def test_member_answers_what_tells_something_or_what_the_client_wants(
    answer: Response, no_response: Optional[bytes], sent: bool
) -> None:
    options = () if no_response is None else ((NO_RESPONSE, no_response),)
    answers = asked(member(answer), non(codes.POST, 1, b"t", "x", options=options))
    assert [one.code for _, one in answers] == ([answer.code] if sent else [])


@pytest.mark.parametrize(("query", "answers"), [((), 1), ((b"rt=light",), 1), ((b"rt=fan",), 0), ((b"href=/x*",), 1)])
def test_discovery_is_answered_only_by_members_that_match(query: tuple[bytes, ...], answers: int) -> None:
    solo = Solo(Site(Resource("/x", get=lambda _: Response(), resource_type="light")))
    request = non(codes.GET, 1, b"t", ".well-known", "core", options=tuple((15, one) for one in query))
    received = asked(solo, request)
    assert [one.options.uint(12) for _, one in received] == [contentformats.LINK_FORMAT] * answers


@pytest.mark.parametrize(("code", "times"), [(codes.POST, 1), (codes.GET, 1)])
def test_repeated_request_to_a_group_is_ignored(code: int, times: int) -> None:
    counter = Counter()
    solo = Solo(Site(Resource("/x", get=counter.handle, post=counter.handle, group=True)))
    request = encode(non(code, 1, b"t", "x"))
    for _ in range(3):
        solo.core.multicast_received(request, PEER, solo.now)
    assert len(solo.pass_time(LEISURE)) == times
    assert counter.count == times
    solo.core.multicast_received(encode(non(code, 2, b"t", "x")), PEER, solo.now)
    assert counter.count == times + 1
    assert solo.forgets_everything()


def test_late_answer_to_a_group_request_is_sent_when_it_is_there_and_given_up_if_never() -> None:
    later = Later()
    solo = Solo(Site(Resource("/x", get=later.handle, group=True)))
    for number in range(2):
        solo.core.multicast_received(encode(non(codes.GET, number, b"%d" % number, "x")), PEER, solo.now)
    assert solo.core.footprint()["pending"] == 2
    solo.pass_time(10.0)
    later.deferred[0].resolve(Response(payload=b"late"), solo.now)
    ((_, answer),) = solo.pass_time(LEISURE)
    assert (answer.type, answer.token, answer.payload) == (NON, b"0", b"late")
    assert solo.forgets_everything()
    later.deferred[1].resolve(Response(payload=b"too late"), solo.now)
    assert solo.pass_time(LEISURE) == []
    assert solo.is_empty()


def test_answer_that_is_ready_though_deferred_is_sent() -> None:
    def handle(request: Request) -> Any:
        answer = request.defer()
        answer.resolve(Response(payload=b"now"), request.now)
        return answer

    solo = Solo(Site(Resource("/x", get=handle, group=True)))
    assert [one.payload for _, one in asked(solo, non(codes.GET, 1, b"t", "x"))] == [b"now"]


def test_answers_that_wait_for_their_moment_are_bounded() -> None:
    solo = member(limits=Limits(deferred=3))
    for number in range(10):
        solo.core.multicast_received(encode(non(codes.GET, number, b"t", "x")), PEER, solo.now)
    assert solo.core.footprint()["pending"] == 3
    assert len(solo.pass_time(LEISURE)) == 3
    assert solo.forgets_everything()


def test_large_answer_is_cut_and_goes_to_who_is_there_only() -> None:
    solo = member(Response(payload=bytes(3000)))
    ((_, answer),) = asked(solo, non(codes.GET, 1, b"t", "x"))
    assert (len(answer.payload), answer.options.uint(SIZE2)) == (1024, 3000)
    ((_, answer),) = asked(solo, non(codes.GET, 1, b"t", "x"), ABROAD)
    assert (answer.type, answer.code) == (NON, codes.UNAUTHORIZED)
    assert answer.options.get(ECHO)


# A client


class Client(Solo):
    """Asks a group and takes down what comes of it."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.responses: list[tuple[Path, str]] = []
        self.ends: list[Optional[CoapError]] = []

    def ask(self, code: int = codes.GET, **arguments: Any) -> tuple[Any, Message]:
        request = self.core.multicast(
            code,
            GROUP,
            lambda response, path: self.responses.append((path, codes.code_text(response.code) + " " + response.text)),
            self.ends.append,
            self.now,
            **arguments,
        )
        sent = self.core.datagrams_to_send()
        return request, decode(sent[0][0]) if sent else empty(CON, 0)


def test_client_sends_one_message_and_hands_on_every_answer_until_its_time_is_over() -> None:
    client = Client()
    _, sent = client.ask(uri_path=["x"], query=["a=b"], accept=0)
    assert (sent.type, sent.code, len(sent.token)) == (NON, codes.GET, 4)
    assert sent.options == Options(((11, b"x"), (15, b"a=b"), (17, b"")))
    for number, path in enumerate(MEMBERS):
        client.pass_time(1.0)
        assert client.put(non(codes.CONTENT, 9, sent.token, payload=b"%d" % number), path) == []
    assert client.responses == [(path, f"2.05 {number}") for number, path in enumerate(MEMBERS)]
    assert client.ends == []
    assert client.pass_time(2 * LEISURE - 5.0) == []
    assert client.ends == [None]
    client.put(non(codes.CONTENT, 10, sent.token), MEMBERS[0])
    assert len(client.responses) == len(MEMBERS)
    assert client.forgets_everything()


def test_body_sent_to_a_group_fits_into_one_message() -> None:
    client = Client()
    _, sent = client.ask(codes.POST, payload=bytes(1024))
    assert len(sent.payload) == 1024
    with pytest.raises(UsageError):
        client.ask(codes.POST, payload=bytes(1025))


def test_time_of_a_request_begins_when_it_is_sent() -> None:
    """§4.7: a group that was silent to the last has to be left alone for a while."""
    client = Client()
    client.ask(uri_path=["x"])
    client.pass_time(1.0)
    client.ask(uri_path=["y"])
    ((sent_at, sent),) = client.pass_time(15.0)
    assert sent.options.path == ("y",)
    assert client.ends == [None]
    client.put(non(codes.CONTENT, 9, sent.token), MEMBERS[0])
    assert len(client.responses) == 1
    client.pass_time(sent_at + 2 * LEISURE - client.now - 0.1)
    assert client.ends == [None]
    client.pass_time(0.1)
    assert client.ends == [None, None]
    assert client.forgets_everything()


def test_request_that_is_cancelled_before_its_turn_is_not_sent() -> None:
    client = Client()
    client.ask(uri_path=["x"])
    waiting, _ = client.ask(uri_path=["y"])
    waiting.cancel(client.now)
    assert client.pass_time(100.0) == []
    assert client.ends == [None]
    assert client.forgets_everything()


def test_answer_that_comes_twice_is_handed_on_once() -> None:
    client = Client()
    _, sent = client.ask()
    answer = non(codes.CONTENT, 9, sent.token)
    for _ in range(3):
        client.put(answer, MEMBERS[0])
    client.put(non(codes.CONTENT, 10, sent.token), MEMBERS[0])
    assert len(client.responses) == 2


def test_confirmable_answer_is_acknowledged() -> None:
    client = Client()
    _, sent = client.ask()
    answer = con(codes.NOT_FOUND, 9, sent.token, payload=b"no")
    for _ in range(2):
        assert client.put(answer, MEMBERS[0]) == [empty(ACK, 9)]
    assert client.responses == [(MEMBERS[0], "4.04 no")]
    other = con(codes.CONTENT, 9, b"other")
    assert client.put(other, MEMBERS[1]) == [reset(other)]


@pytest.mark.parametrize("token", [b"", b"other", b"1234"])
def test_answer_with_another_token_is_nothing_to_us(token: bytes) -> None:
    client = Client()
    client.ask()
    client.put(non(codes.CONTENT, 9, token), MEMBERS[0])
    assert client.responses == []


def test_answer_with_a_critical_option_that_is_not_understood_is_rejected() -> None:
    client = Client()
    _, sent = client.ask()
    client.put(non(codes.CONTENT, 9, sent.token, options=((1235, b""),)), MEMBERS[0])
    assert client.responses == []


@pytest.mark.parametrize(
    ("code", "options", "payload"),
    [
        (codes.UNAUTHORIZED, ((ECHO, b"value"),), b""),  # RFC 9175 §2.4
        (codes.CONTENT, ((BLOCK2, b"\x0e"),), bytes(1024)),  # RFC 7959 §2.8
    ],
)
def test_member_that_has_not_said_all_is_asked_again_alone(
    code: int, options: tuple[tuple[int, bytes], ...], payload: bytes
) -> None:
    client = Client()
    _, sent = client.ask(uri_path=["x"], duration=1.0)
    (again,) = client.put(non(code, 1, sent.token, options=options, payload=payload), MEMBERS[1])
    assert (again.type, again.code, again.options.path) == (CON, codes.GET, ("x",))
    assert again.options.get(ECHO) == (b"value" if code == codes.UNAUTHORIZED else None)
    client.pass_time(1.0)
    assert (client.responses, client.ends) == ([], [])  # the end waits for what is under way
    client.put(ack(codes.CONTENT, again, payload=b"all of it"), MEMBERS[1])
    assert client.responses == [(MEMBERS[1], "2.05 all of it")]
    assert client.ends == [None]
    assert client.forgets_everything()


def test_member_that_was_asked_alone_and_fails_does_not_keep_the_request_from_ending() -> None:
    client = Client()
    _, sent = client.ask(uri_path=["x"], duration=1.0)
    client.put(non(codes.UNAUTHORIZED, 1, sent.token, options=((ECHO, b"value"),)), MEMBERS[1])
    client.pass_time(100.0)
    assert (client.responses, client.ends) == ([], [None])
    assert client.forgets_everything()


def test_cancelled_request_hands_on_nothing_and_leaves_nothing() -> None:
    client = Client()
    request, sent = client.ask()
    request.cancel(client.now)
    request.cancel(client.now)
    client.put(non(codes.CONTENT, 1, sent.token), MEMBERS[0])
    client.pass_time(LIFETIME)
    assert (client.responses, client.ends) == ([], [])
    assert client.forgets_everything()


def test_group_that_cannot_be_reached_is_told() -> None:
    client = Client()
    client.ask()
    client.core.path_failed(GROUP, OSError(101, "Network is unreachable"), client.now)
    (error,) = client.ends
    assert isinstance(error, PathError)
    assert client.pass_time(LIFETIME) == []
    assert len(client.ends) == 1
    assert client.forgets_everything()


def test_message_id_is_none_that_somebody_may_reset() -> None:
    """§8.1: a member's reset of the group's message would hit the other."""
    client = Client()
    client.request(codes.GET, path=MEMBERS[0])
    (alone,) = client.sent()
    group = client.core._peers.reach(GROUP, client.now)
    assert group is not None
    group._message_id = alone.message_id
    _, sent = client.ask()
    assert sent.message_id == (alone.message_id + 1) & 0xFFFF


def test_second_request_waits_until_somebody_has_answered_the_first() -> None:
    """PROBING_RATE (§4.7): a group where nobody is must not be flooded either."""
    client = Client()
    _, first = client.ask()
    _, second = client.ask()
    assert second.code == codes.EMPTY
    (second,) = client.put(non(codes.CONTENT, 1, first.token), MEMBERS[0])
    assert second.type == NON
    assert second.token != first.token


@pytest.mark.parametrize("arguments", [{"options": [(ETAG, b"e")]}, {"payload": bytes(1025)}])
def test_what_a_group_cannot_be_asked_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Client().ask(**arguments)


def test_no_room_for_a_request_is_told() -> None:
    client = Client(limits=Limits(peers=1))
    client.request(codes.GET, path=MEMBERS[0])
    with pytest.raises(NetworkError):
        client.ask()


def test_responses_to_one_request_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minicoap.core.multicast._MOST_RESPONSES", 3)
    client = Client()
    _, sent = client.ask()
    for number, path in enumerate(MEMBERS):
        client.put(non(codes.CONTENT, number, sent.token), path)
    assert len(client.responses) == 3
