"""The ETSI test descriptions TD_COAP_CORE_01 to 23 and 31, our client against our server.

They are of 2014: where RFC 7252 differs it wins, and the test says so. "Display" is what the caller of `request` gets.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Optional

import pytest

from minicoap.codec import codes, contentformats
from minicoap.codec.message import ACK, CON, NON, RST, Message, decode
from minicoap.codec.options import (
    ACCEPT,
    CONTENT_FORMAT,
    ETAG,
    IF_MATCH,
    IF_NONE_MATCH,
    LOCATION_PATH,
    LOCATION_QUERY,
    URI_PATH,
    URI_QUERY,
)
from minicoap.core.cache import Cache
from minicoap.core.endpoint import EndpointCore
from minicoap.core.request import Deferred, Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.simulate.link import Link
from minicoap.simulate.pair import Pair
from tests.minicoap.core.solo import Solo, con

DESCRIPTIONS = Path(__file__).parents[4] / "shared/reference/etsi-td-coap4/base.yml"
XML = 41
WHILE = 3.0  # "a couple of seconds"


class Served:
    """The resources that the descriptions ask for, and what was exchanged to reach them."""

    def __init__(self, *, link: Optional[Link] = None, seed: int = 0, cache: Optional[Cache] = None) -> None:
        self.value = b"first"
        self.created: Optional[bytes] = None
        self.displayed_by_server: list[bytes] = []
        self.pair = Pair(
            Site(
                Resource("/test", get=self.read, put=self.write, post=self.write, delete=self.remove),
                Resource("/separate", get=self.separate),
                Resource("/seg1/seg2/seg3", get=self.read),
                Resource("/query", get=self.query),
                Resource("/location", post=lambda _: Response(codes.CREATED, location_path=self.location)),
                Resource("/location-query", post=self.location_query),
                Resource("/multi-format", get=self.multi, content_formats=[contentformats.TEXT, XML]),
                Resource("/validate", get=self.validate, put=self.update, conditional=True),
                Resource("/create1", put=self.create, conditional=True),
            ),
            link=link,
            seed=seed,
        )
        if cache is not None:
            self.pair.client = EndpointCore(self.pair.world.entropy("client"), cache=cache)
            self.pair.client_host.boot(self.pair.client)
        self.seen = 0

    location = ("location1", "location2", "location3")

    @property
    def etag(self) -> bytes:
        return b"of " + self.value[:5]

    def read(self, request: Request) -> Response:
        return Response(payload=self.value, content_format=contentformats.TEXT)

    def write(self, request: Request) -> Response:
        self.displayed_by_server.append(request.payload)
        assert request.content_format == contentformats.TEXT
        return Response(codes.CHANGED, b"taken", contentformats.TEXT)

    def remove(self, request: Request) -> Response:
        return Response(codes.DELETED)

    def separate(self, request: Request) -> Deferred:
        deferred = request.defer()
        self.pair.server_host.call_later(WHILE, lambda: deferred.resolve(self.read(request), self.pair.world.now))
        return deferred

    def query(self, request: Request) -> Response:
        return Response(payload=" ".join(request.query).encode(), content_format=contentformats.TEXT)

    def location_query(self, request: Request) -> Response:
        return Response(codes.CREATED, location_query=("first=1", "second=2"))

    def multi(self, request: Request) -> Response:
        if request.accept == XML:
            return Response(payload=b"<t/>", content_format=XML)
        return Response(payload=b"t", content_format=contentformats.TEXT)

    def validate(self, request: Request) -> Response:
        return Response(payload=self.value, content_format=contentformats.TEXT, etag=self.etag, max_age=0)

    def update(self, request: Request) -> Response:
        if not request.meets_conditions(self.etag):
            return Response(codes.PRECONDITION_FAILED)
        self.value = request.payload
        return Response(codes.CHANGED)

    def create(self, request: Request) -> Response:
        if not request.meets_conditions(None if self.created is None else b"etag"):
            return Response(codes.PRECONDITION_FAILED)
        self.created = request.payload
        return Response(codes.CREATED)

    def ask(self, code: int, *uri_path: str, **arguments: Any) -> tuple[Response, list[Message]]:
        """Send a request; return what the client displays, and the messages of both sides since the last one."""
        if code in (codes.PUT, codes.POST):
            arguments = {"content_format": contentformats.TEXT, **arguments}
        response = self.pair.request(code, *uri_path, **arguments)
        self.pair.world.run_for(1.0)
        return response, self.messages()

    def messages(self) -> list[Message]:
        messages = [message for _, message in self.pair.messages()]
        new, self.seen = messages[self.seen :], len(messages)
        return new


def check_piggybacked(messages: list[Message], code: int, answer: int, *uri_path: str) -> None:
    request, response = messages
    assert (request.type, request.code, request.options.path) == (CON, code, uri_path)
    assert (response.type, response.code) == (ACK, answer)
    assert (response.message_id, response.token) == (request.message_id, request.token)


def check_non_confirmable(messages: list[Message], code: int, answer: int, *uri_path: str) -> None:
    request, response = messages
    assert (request.type, request.code, request.options.path) == (NON, code, uri_path)
    assert (response.type, response.code, response.token) == (NON, answer, request.token)


def check_format(message: Message) -> None:
    assert message.options.uint(CONTENT_FORMAT) == contentformats.TEXT
    assert message.payload


def test_TD_COAP_CORE_01() -> None:
    """Perform GET transaction (CON mode)"""
    response, messages = Served().ask(codes.GET, "test")
    check_piggybacked(messages, codes.GET, codes.CONTENT, "test")
    check_format(messages[1])
    assert response.text == "first"


def test_TD_COAP_CORE_02() -> None:
    """Perform DELETE transaction (CON mode)"""
    response, messages = Served().ask(codes.DELETE, "test")
    check_piggybacked(messages, codes.DELETE, codes.DELETED, "test")
    assert response.code == codes.DELETED


@pytest.mark.parametrize("payload", [b"", b"some"])
def test_TD_COAP_CORE_03(payload: bytes) -> None:
    """Perform PUT transaction (CON mode)"""
    served = Served()
    response, messages = served.ask(codes.PUT, "test", payload=payload)
    check_piggybacked(messages, codes.PUT, codes.CHANGED, "test")
    check_format(messages[1])
    assert served.displayed_by_server == [payload]
    assert response.text == "taken"


@pytest.mark.parametrize("payload", [b"", b"some"])
def test_TD_COAP_CORE_04(payload: bytes) -> None:
    """Perform POST transaction (CON mode)"""
    served = Served()
    response, messages = served.ask(codes.POST, "test", payload=payload)
    check_piggybacked(messages, codes.POST, codes.CHANGED, "test")
    check_format(messages[1])
    assert served.displayed_by_server == [payload]
    assert response.text == "taken"


def test_TD_COAP_CORE_05() -> None:
    """Perform GET transaction (NON mode)"""
    response, messages = Served().ask(codes.GET, "test", confirmable=False)
    check_non_confirmable(messages, codes.GET, codes.CONTENT, "test")
    check_format(messages[1])
    assert response.text == "first"


def test_TD_COAP_CORE_06() -> None:
    """Perform DELETE transaction (NON mode)"""
    response, messages = Served().ask(codes.DELETE, "test", confirmable=False)
    check_non_confirmable(messages, codes.DELETE, codes.DELETED, "test")
    assert response.code == codes.DELETED


def test_TD_COAP_CORE_07() -> None:
    """Perform PUT transaction (NON mode)"""
    served = Served()
    response, messages = served.ask(codes.PUT, "test", payload=b"some", confirmable=False)
    check_non_confirmable(messages, codes.PUT, codes.CHANGED, "test")
    assert (served.displayed_by_server, response.text) == ([b"some"], "taken")


def test_TD_COAP_CORE_08() -> None:
    """Perform POST transaction (NON mode)"""
    served = Served()
    response, messages = served.ask(codes.POST, "test", payload=b"some", confirmable=False)
    check_non_confirmable(messages, codes.POST, codes.CHANGED, "test")
    assert (served.displayed_by_server, response.text) == ([b"some"], "taken")


def check_separate(messages: list[Message]) -> None:
    request, acknowledgement, response, last = messages
    assert (request.type, request.code, request.options.path) == (CON, codes.GET, ("separate",))
    assert acknowledgement == Message(ACK, codes.EMPTY, request.message_id)
    assert (response.type, response.code, response.token) == (CON, codes.CONTENT, request.token)
    check_format(response)
    assert last == Message(ACK, codes.EMPTY, response.message_id)


def test_TD_COAP_CORE_09() -> None:
    """Perform GET transaction with separate response (CON mode, no piggyback)"""
    response, messages = Served().ask(codes.GET, "separate")
    check_separate(messages)
    assert response.text == "first"


def test_TD_COAP_CORE_10() -> None:
    """Perform GET transaction containing non-empty Token (CON mode)"""
    response, messages = Served().ask(codes.GET, "test")
    check_piggybacked(messages, codes.GET, codes.CONTENT, "test")
    assert 1 <= len(messages[0].token) <= 8
    assert response.text == "first"


def test_TD_COAP_CORE_11() -> None:
    """Perform GET transaction containing non-empty Token with a separate response (CON mode)"""
    response, messages = Served().ask(codes.GET, "separate")
    check_separate(messages)
    assert 1 <= len(messages[0].token) <= 8
    assert response.text == "first"


def test_TD_COAP_CORE_12() -> None:
    """Perform GET transaction using empty Token (CON mode)

    Our client never does that (RFC 7252 §5.3.1 wants tokens that nobody can guess), so a foreign one is played.
    """
    (answer,) = Solo(Served().pair.server.site).put(con(codes.GET, 7, b"", "test"))
    assert (answer.type, answer.code, answer.message_id, answer.token) == (ACK, codes.CONTENT, 7, b"")
    check_format(answer)


def test_TD_COAP_CORE_13() -> None:
    """Perform GET transaction containing several URI-Path options (CON mode)"""
    response, messages = Served().ask(codes.GET, "seg1", "seg2", "seg3")
    check_piggybacked(messages, codes.GET, codes.CONTENT, "seg1", "seg2", "seg3")
    assert messages[0].options.all(URI_PATH) == (b"seg1", b"seg2", b"seg3")
    assert response.text == "first"


def test_TD_COAP_CORE_14() -> None:
    """Perform GET transaction containing several URI-Query options (CON mode)"""
    query = ("first=1", "second=2", "third=3")
    response, messages = Served().ask(codes.GET, "query", query=query)
    check_piggybacked(messages, codes.GET, codes.CONTENT, "query")
    assert messages[0].options.all(URI_QUERY) == (b"first=1", b"second=2", b"third=3")
    assert response.text == "first=1 second=2 third=3"


class Lossy(Served):
    """Loses the datagrams of one exchange whose numbers are given, counted on both ways together."""

    def __init__(self, *lost: int) -> None:
        super().__init__()
        self.count = 0
        self.lost = lost
        for link in (self.pair.there, self.pair.back):
            link.admits = self.admits

    def admits(self, data: bytes) -> bool:
        self.count += 1
        return self.count not in self.lost


@pytest.mark.parametrize(
    ("what", "lost"), [("request", (1,)), ("response", (2,)), ("both", (1, 3)), ("most", (1, 2, 4))]
)
def test_TD_COAP_CORE_15(what: str, lost: tuple[int, ...]) -> None:
    """Perform GET transaction (CON mode, piggybacked response) in a lossy context"""
    response, messages = Lossy(*lost).ask(codes.GET, "test")
    assert response.text == "first"
    requests = [message for message in messages if message.type == CON]
    assert len(requests) == 1 + len(lost)
    assert all(message == requests[0] for message in requests)


@pytest.mark.parametrize("seed", range(10))
def test_TD_COAP_CORE_15_through_a_link_that_loses_by_chance(seed: int) -> None:
    served = Served(link=Link(loss=0.15, jitter=0.1), seed=seed)
    for _ in range(5):
        assert served.ask(codes.GET, "test")[0].text == "first"
    served.pair.world.run_for(100.0)


@pytest.mark.parametrize(
    ("what", "lost", "requests", "responses"),
    [
        ("request", (1,), 2, 1),
        ("request's acknowledgement", (2,), 2, 1),
        ("response", (3,), 1, 2),
        ("response's acknowledgement", (4,), 1, 2),
        ("response's acknowledgement, and once more", (4, 6), 1, 3),
    ],
)
def test_TD_COAP_CORE_16(what: str, lost: tuple[int, ...], requests: int, responses: int) -> None:
    """Perform GET transaction (CON mode, delayed response) in a lossy context"""
    served = Lossy(*lost)
    response, _ = served.ask(codes.GET, "separate")
    assert response.text == "first"
    served.pair.world.run_for(100.0)
    messages = [message for _, message in served.pair.messages()]
    assert len([one for one in messages if one.code == codes.GET]) == requests
    assert len([one for one in messages if one.code == codes.CONTENT]) == responses


def test_TD_COAP_CORE_16_whose_response_stops_the_repetition_of_the_request() -> None:
    """For the dropped request ACK case: check that retransmission is also stopped by the arrival of the CON response"""
    served = Served()
    served.pair.back.admits = lambda data: decode(data).code != codes.EMPTY  # no acknowledgement ever comes back
    response, _ = served.ask(codes.GET, "separate")
    assert response.text == "first"
    at = served.pair.world.now
    served.pair.world.run_for(100.0)
    repeated = [one.sent_at for one in served.pair.world.trace if decode(one.data).code == codes.GET]
    assert repeated
    assert max(repeated) < at


def test_TD_COAP_CORE_17() -> None:
    """Perform GET transaction with a separate response (NON mode)"""
    response, messages = Served().ask(codes.GET, "separate", confirmable=False)
    check_non_confirmable(messages, codes.GET, codes.CONTENT, "separate")
    check_format(messages[1])
    assert response.text == "first"


def test_TD_COAP_CORE_18() -> None:
    """Perform POST transaction with responses containing several Location-Path options (CON mode)"""
    response, messages = Served().ask(codes.POST, "location", payload=b"some")
    check_piggybacked(messages, codes.POST, codes.CREATED, "location")
    assert messages[1].options.all(LOCATION_PATH) == (b"location1", b"location2", b"location3")
    assert response.location == "/location1/location2/location3"


def test_TD_COAP_CORE_19() -> None:
    """Perform POST transaction with responses containing several Location-Query options (CON mode)"""
    response, messages = Served().ask(codes.POST, "location-query", payload=b"some")
    check_piggybacked(messages, codes.POST, codes.CREATED, "location-query")
    assert messages[1].options.all(LOCATION_QUERY) == (b"first=1", b"second=2")
    assert response.location == "?first=1&second=2"


def test_TD_COAP_CORE_20() -> None:
    """Perform GET transaction containing the Accept option (CON mode)

    The draft's server may choose; RFC 7252 §5.10.4 has it answer 4.06 where it cannot, which is checked as well.
    """
    served = Served()
    for accept, body in ((contentformats.TEXT, b"t"), (XML, b"<t/>")):
        response, messages = served.ask(codes.GET, "multi-format", accept=accept)
        check_piggybacked(messages, codes.GET, codes.CONTENT, "multi-format")
        assert messages[0].options.uint(ACCEPT) == accept
        assert (messages[1].options.uint(CONTENT_FORMAT), messages[1].payload) == (accept, body)
        assert response.body == body
    assert served.ask(codes.GET, "multi-format", accept=contentformats.CBOR)[0].code == codes.NOT_ACCEPTABLE


def test_TD_COAP_CORE_21() -> None:
    """Perform GET transaction containing the ETag option (CON mode)"""
    served = Served(cache=Cache())
    response, messages = served.ask(codes.GET, "validate")
    check_piggybacked(messages, codes.GET, codes.CONTENT, "validate")
    etag = messages[1].options.get(ETAG)
    assert (messages[0].options.all(ETAG), messages[1].payload, response.text) == ((), b"first", "first")

    response, messages = served.ask(codes.GET, "validate")
    check_piggybacked(messages, codes.GET, codes.VALID, "validate")
    assert messages[0].options.all(ETAG) == messages[1].options.all(ETAG) == (etag,)
    assert (messages[1].payload, response.text) == (b"", "first")

    served.value = b"second"
    response, messages = served.ask(codes.GET, "validate")
    check_piggybacked(messages, codes.GET, codes.CONTENT, "validate")
    assert messages[0].options.all(ETAG) == (etag,)
    assert messages[1].options.get(ETAG) not in (etag, None)
    assert response.text == "second"


def test_TD_COAP_CORE_22() -> None:
    """Perform GET with responses containing ETag and requests containing If-Match (CON mode)"""
    served = Served()
    response, _ = served.ask(codes.GET, "validate")
    first = response.etag
    assert first is not None

    _, messages = served.ask(codes.PUT, "validate", payload=b"mine", options=[(IF_MATCH, first)])
    check_piggybacked(messages, codes.PUT, codes.CHANGED, "validate")
    assert messages[0].options.all(IF_MATCH) == (first,)
    assert served.value == b"mine"

    response, _ = served.ask(codes.GET, "validate")
    second = response.etag
    assert second not in (first, None)
    assert response.text == "mine"

    served.ask(codes.PUT, "validate", payload=b"other")
    assert second is not None
    _, messages = served.ask(codes.PUT, "validate", payload=b"late", options=[(IF_MATCH, second)])
    check_piggybacked(messages, codes.PUT, codes.PRECONDITION_FAILED, "validate")
    assert served.value == b"other"


def test_TD_COAP_CORE_23() -> None:
    """Perform PUT transaction containing the If-None-Match option (CON mode)"""
    served = Served()
    _, messages = served.ask(codes.PUT, "create1", payload=b"one", options=[(IF_NONE_MATCH, b"")])
    check_piggybacked(messages, codes.PUT, codes.CREATED, "create1")
    _, messages = served.ask(codes.PUT, "create1", payload=b"two", options=[(IF_NONE_MATCH, b"")])
    check_piggybacked(messages, codes.PUT, codes.PRECONDITION_FAILED, "create1")
    assert served.created == b"one"


def test_TD_COAP_CORE_31() -> None:
    """Perform CoAP Ping (CON mode)"""
    served, outcomes = Served(), []
    served.pair.client.ping(served.pair.server_host.address, outcomes.append, 0.0)
    served.pair.client_host.wake()
    served.pair.world.run_for(1.0)
    ping, pong = [datagram.data for datagram in served.pair.world.trace]
    assert (len(ping), decode(ping).type, decode(ping).code) == (4, CON, codes.EMPTY)
    assert (len(pong), decode(pong)) == (4, Message(RST, codes.EMPTY, decode(ping).message_id))
    assert outcomes == [None]


@pytest.mark.skipif(not DESCRIPTIONS.exists(), reason=f"no test descriptions: {DESCRIPTIONS} is missing")
def test_every_description_has_its_test() -> None:
    names = re.findall(r"^(TD_COAP_CORE_\d\d):", DESCRIPTIONS.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(names) == 24
    tested = [name for name in globals() if re.fullmatch(r"test_TD_COAP_CORE_\d\d", name)]
    assert tested == [f"test_{name}" for name in names]
