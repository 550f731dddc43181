"""The client's side of TD_COAP_CORE and TD_COAP_LINK of ETSI CoAP#4 (RFC 7252, RFC 6690)."""

from __future__ import annotations

from typing import Optional

from minicoap.codec import codes
from minicoap.codec.contentformats import LINK_FORMAT, TEXT
from minicoap.codec.message import ACK, CON, NON, RST
from minicoap.codec.options import (
    ACCEPT,
    CONTENT_FORMAT,
    ETAG,
    IF_MATCH,
    IF_NONE_MATCH,
    LOCATION_PATH,
    LOCATION_QUERY,
    MAX_AGE,
    encode_uint,
)
from tools.conformance.frames import Frame
from tools.conformance.model import Failure, Inconclusive
from tools.conformance.serving.client import PARAMETERS, Client, Request, check
from tools.conformance.serving.model import CLIENT_TESTS

test = CLIENT_TESTS.test
BODY = b"conformance test"
XML = 41
EARLY = 0.9  # of a time: what clocks and a busy machine may make of it
DOUBLED = 1.25  # times: what they, and a copy that is lost between two others (4/3), may make of twice
FIRST_WAIT = PARAMETERS.ack_timeout * PARAMETERS.ack_random_factor
SLACK = 2.0  # seconds


def quiet(client: Client, request: Request) -> None:
    """Fail if a client goes on about a request that was answered."""
    message_id = request.message.message_id

    def repeats(frame: Frame) -> bool:
        message = frame.message
        return frame.source == request.client and message is not None and message.message_id == message_id

    client.silence(repeats, "a request that was answered is not repeated", "RFC 7252 §4.2")


def no_acknowledgement(client: Client, request: Request) -> None:
    """Fail if a client acknowledges what was not confirmable."""

    def acknowledges(frame: Frame) -> bool:
        return frame.source == request.client and len(frame.data) >= 4 and frame.data[0] >> 4 & 3 == ACK

    client.silence(acknowledges, "a non-confirmable message is not acknowledged", "RFC 7252 §4.3")


def simple(
    id: str, title: str, method: str, kind: str, code: int, answer: int, path: str = "/test", *, size: int = 0,
    location: Optional[int] = None,
) -> None:  # fmt: skip
    """Enter a test of one request and its answer."""
    type = CON if kind == "con" else NON
    section = "RFC 7252 §4.2, §5.2.1" if type == CON else "RFC 7252 §4.3, §5.2.3"

    def carry_out(client: Client) -> None:
        client.ask(method, path, kind=kind, size=size)
        segments = tuple(path.strip("/").split("/"))
        request = client.request(code, segments)
        if request.message.type != type:
            raise Inconclusive(f"the client sent a {'non-' if type == CON else ''}confirmable request")
        if size and not request.message.payload:
            raise Inconclusive("the request has no payload")
        has_body = answer == codes.CONTENT
        options = [] if location is None else [(location, b"first=1"), (location, b"second=2")]
        client.reply(
            request, answer, options=options, payload=BODY if has_body else b"",
            content_format=TEXT if has_body else None,
        )  # fmt: skip
        if type == CON:
            quiet(client, request)
        else:
            no_acknowledgement(client, request)
        if size and request.uint(CONTENT_FORMAT) is None:
            raise Inconclusive("the request has no Content-Format, which the description asks for and no RFC does")

    carry_out.__doc__ = f"{title}\nOne request comes, as it should be; once it is answered, the client says no more."
    test(id, section=section)(carry_out)


simple("TD_COAP_CORE_01", "GET, confirmable", "get", "con", codes.GET, codes.CONTENT)
simple("TD_COAP_CORE_02", "DELETE, confirmable", "delete", "con", codes.DELETE, codes.DELETED)
simple("TD_COAP_CORE_03", "PUT, confirmable", "put", "con", codes.PUT, codes.CHANGED, size=16)
simple("TD_COAP_CORE_04", "POST, confirmable", "post", "con", codes.POST, codes.CHANGED, size=16)
simple("TD_COAP_CORE_05", "GET, non-confirmable", "get", "non", codes.GET, codes.CONTENT)
simple("TD_COAP_CORE_06", "DELETE, non-confirmable", "delete", "non", codes.DELETE, codes.DELETED)
simple("TD_COAP_CORE_07", "PUT, non-confirmable", "put", "non", codes.PUT, codes.CHANGED, size=16)
simple("TD_COAP_CORE_08", "POST, non-confirmable", "post", "non", codes.POST, codes.CHANGED, size=16)
simple("TD_COAP_CORE_13", "GET of a path with several segments", "get", "con", codes.GET, codes.CONTENT,
       "/seg1/seg2/seg3")  # fmt: skip
simple("TD_COAP_CORE_18", "POST that is answered with Location-Path", "post", "con", codes.POST, codes.CREATED, size=16,
       location=LOCATION_PATH)  # fmt: skip
simple("TD_COAP_CORE_19", "POST that is answered with Location-Query", "post", "con", codes.POST, codes.CREATED,
       "/location-query", size=16, location=LOCATION_QUERY)  # fmt: skip


def separately(client: Client, request: Request, *, twice: bool = False) -> None:
    """Answer a request separately, and judge what the client makes of that."""
    client.acknowledge(request)
    waits_for_response(client, request)
    first = client.deliver(request, codes.CONTENT, payload=BODY, content_format=TEXT)
    check(first.message is not None and first.message.code == codes.EMPTY,
          "a separate response is acknowledged by an empty message", "RFC 7252 §5.2.2", first)  # fmt: skip
    if twice:
        comes_again(client, request)


def comes_again(client: Client, request: Request) -> None:
    """Send our last message once more, and fail if it is not acknowledged once more."""
    sent = next(frame for frame in reversed(client.frames) if frame.sent)
    message_id = int.from_bytes(sent.data[2:4], "big")
    again = client.confirmed(request, CON, codes.CONTENT, raw=sent.data, message_id=message_id)
    check(again.message is not None and again.message.type == ACK, "a message that comes again is acknowledged again",
          "RFC 7252 §4.2", again)  # fmt: skip


def waits_for_response(client: Client, request: Request) -> None:
    """Fail if a client repeats a request that was acknowledged, and goes on when it is acknowledged anew.

    Each wait is for longer than the client's would be. An acknowledgement may have been lost, hardly each of three.
    """
    client.answers_again = False
    latest, timeout = request, FIRST_WAIT + SLACK / 4
    try:
        for _ in range(3):
            copy = client.copy(latest, timeout)
            if copy is None:
                return
            client.acknowledge(request)
            latest, timeout = copy, 2 * timeout
    finally:
        client.answers_again = True
    raise Failure("a request that was acknowledged is not repeated", "RFC 7252 §4.2", latest.frame)


@test("TD_COAP_CORE_09", section="RFC 7252 §5.2.2")
def separate(client: Client) -> None:
    """GET with a separate response
    After the empty acknowledgement the client waits; it acknowledges the response, and does so again when that is
    repeated.
    """
    client.ask("get", "/separate")
    separately(client, client.request(codes.GET, ["separate"], type=CON), twice=True)


@test("TD_COAP_CORE_10", section="RFC 7252 §5.3.1")
def token(client: Client) -> None:
    """GET with a token"""
    client.ask("get", "/test")
    request = client.request(codes.GET, ["test"])
    client.reply(request, codes.CONTENT, payload=BODY, content_format=TEXT)
    quiet(client, request)
    if not request.message.token:
        raise Inconclusive("the client's token is empty")


@test("TD_COAP_CORE_12", section="RFC 7252 §5.3.1")
def empty_token(client: Client) -> None:
    """GET with an empty token"""
    client.ask("get", "/test", note="with an empty token")
    request = client.request(codes.GET, ["test"])
    client.reply(request, codes.CONTENT, payload=BODY, content_format=TEXT)
    quiet(client, request)
    if request.message.token:
        raise Inconclusive("the client's token is not empty; it need not be able to")


@test("TD_COAP_CORE_11", section="RFC 7252 §5.3.1, §5.2.2")
def token_separate(client: Client) -> None:
    """GET with a token and a separate response"""
    client.ask("get", "/separate")
    request = client.request(codes.GET, ["separate"], type=CON)
    separately(client, request)
    if not request.message.token:
        raise Inconclusive("the client's token is empty")


@test("TD_COAP_CORE_14", section="RFC 7252 §6.4, §5.10.1")
def several_queries(client: Client) -> None:
    """GET with several Uri-Query options
    Each argument is an option of its own.
    """
    client.ask("get", "/query?first=1&second=2&third=3")
    request = client.request(codes.GET, ["query"])
    client.reply(request, codes.CONTENT, payload=BODY, content_format=TEXT)
    rule = "each argument of a query is a Uri-Query option of its own"
    check(not any("&" in argument for argument in request.query), rule, "RFC 7252 §6.4", request)
    if set(request.query) != {"first=1", "second=2", "third=3"}:
        raise Inconclusive(f"the client asked another query: {request.query}")


@test("TD_COAP_CORE_15", section="RFC 7252 §4.2")
def lossy(client: Client) -> None:
    """GET in a lossy context
    The first two copies are not answered. The client repeats its request, the same byte for byte, after 2 to 3 seconds
    and then after twice as long.
    """
    client.ask("get", "/test")
    request = client.request(codes.GET, ["test"], type=CON)
    second = client.copy(request, max(client.patience, 3 * FIRST_WAIT))
    if second is None:
        raise Failure("a confirmable message is repeated until it is acknowledged", "RFC 7252 §4.2", request.frame)
    first_wait = second.at - request.at
    check(first_wait >= 1.0 * EARLY, f"ACK_TIMEOUT is not below a second ({first_wait:.2f} s here)",
          "RFC 7252 §4.8.1", second)  # fmt: skip
    third = client.copy(second, max(client.patience, 3 * first_wait))
    if third is None:
        raise Failure("a confirmable message is repeated up to MAX_RETRANSMIT times", "RFC 7252 §4.2", second.frame)
    second_wait = third.at - second.at
    check(second_wait >= DOUBLED * first_wait,
          f"the wait doubles with each repetition ({first_wait:.2f} s, then {second_wait:.2f} s)", "RFC 7252 §4.2",
          third)  # fmt: skip
    client.reply(request, codes.CONTENT, payload=BODY, content_format=TEXT)
    quiet(client, request)
    defaults = PARAMETERS.ack_timeout * EARLY <= first_wait <= FIRST_WAIT + SLACK
    if not defaults:
        raise Inconclusive(f"the first wait is {first_wait:.2f} s: the client's parameters are not the default ones")


@test("TD_COAP_CORE_16", section="RFC 7252 §5.2.2, §4.2")
def lossy_separate(client: Client) -> None:
    """GET with a separate response, in a lossy context
    The acknowledgement of the request is lost: the response by itself ends its repetition.
    """
    client.ask("get", "/separate")
    request = client.request(codes.GET, ["separate"], type=CON)
    taken = client.deliver(request, codes.CONTENT, payload=BODY, content_format=TEXT)
    latest, timeout = request, 2 * FIRST_WAIT
    while True:
        copy = client.copy(latest, timeout)
        if copy is None:
            return
        if copy.frame.at > taken.at + 1.0:  # else it was on its way
            raise Failure("a request whose response came is not repeated, though its acknowledgement was lost",
                          "RFC 7252 §5.2.2", copy.frame)  # fmt: skip
        latest = copy


@test("TD_COAP_CORE_17", section="RFC 7252 §4.3, §5.2.3")
def separate_non(client: Client) -> None:
    """GET, non-confirmable, of what takes a while"""
    client.ask("get", "/separate", kind="non")
    request = client.request(codes.GET, ["separate"], type=NON)
    client.receive(lambda frame: False, min(1.0, client.grace))
    client.reply(request, codes.CONTENT, payload=BODY, content_format=TEXT)
    no_acknowledgement(client, request)


@test("TD_COAP_CORE_20", section="RFC 7252 §5.10.4")
def accept(client: Client) -> None:
    """GET with Accept"""
    for number, body in ((TEXT, b"text"), (XML, b"<text/>")):
        client.ask("get", "/multi-format", accept=number)
        request = client.request(codes.GET, ["multi-format"])
        client.reply(request, codes.CONTENT, payload=body, content_format=number)
        if request.uint(ACCEPT) != number:
            raise Inconclusive(f"the client does not ask for Content-Format {number}")
        client.end()


@test("TD_COAP_CORE_21", section="RFC 7252 §5.6.2, §5.10.6.2")
def validation(client: Client) -> None:
    """A GET of what the client may have in its cache
    Where the client asks whether its representation is still good, it names the ETag that came with it.
    """
    known = b"\x07one"
    client.ask("get", "/validate")
    request = client.request(codes.GET, ["validate"])
    client.reply(request, codes.CONTENT, options=[(ETAG, known), (MAX_AGE, encode_uint(0))], payload=BODY,
                 content_format=TEXT)  # fmt: skip
    client.ask("get", "/validate", note="again, by the same client: its cache is stale")
    again = client.request(codes.GET, ["validate"])
    etags = again.message.options.all(ETAG)
    if not etags:
        client.reply(again, codes.CONTENT, options=[(ETAG, known)], payload=BODY, content_format=TEXT)
        raise Inconclusive("the client has no cache, or none that asks: it need not")
    client.reply(again, codes.VALID, options=[(ETAG, known)])
    check(known in etags, "an ETag that is asked for is one that the client was given", "RFC 7252 §5.10.6.2", again)
    quiet(client, again)


def conditional(id: str, title: str, path: str, number: int, expected: Optional[bytes], note: str) -> None:
    """Enter a test of a PUT with a condition."""

    def carry_out(client: Client) -> None:
        client.ask("put", path, size=16, note=note)
        request = client.request(codes.PUT, [path.strip("/")])
        client.reply(request, codes.CHANGED if expected else codes.CREATED)
        value = request.message.options.get(number)
        if value is None:
            raise Inconclusive("the client's request has no condition")
        if expected is not None and value != expected:
            raise Inconclusive(f"the client names the ETag {value.hex()}")
        quiet(client, request)

    carry_out.__doc__ = title
    test(id, section="RFC 7252 §5.10.8")(carry_out)


conditional("TD_COAP_CORE_22", "PUT with If-Match", "/validate", IF_MATCH, b"\x07one", "with If-Match 0x076f6e65")
conditional("TD_COAP_CORE_23", "PUT with If-None-Match", "/create1", IF_NONE_MATCH, None, "with If-None-Match")


@test("TD_COAP_CORE_31", section="RFC 7252 §4.3")
def ping(client: Client) -> None:
    """Ping: four bytes, and no more once they are answered"""
    client.ask("ping")

    def is_ping(frame: Frame) -> bool:
        return len(frame.data) >= 4 and frame.data[0] >> 4 == 4 and frame.data[1] == codes.EMPTY

    found = client.receive(is_ping, client.patience)
    if found is None:
        raise Inconclusive("the client does not ping")
    frame, at = found
    check(len(frame.data) == 4, "an empty message is four bytes", "RFC 7252 §4.1", frame)
    assert frame.message is not None
    request = Request(frame, frame.message, at)
    client.send(request, RST, codes.EMPTY, token=b"", message_id=frame.message.message_id)
    quiet(client, request)


def discovery(id: str, title: str, query: str) -> None:
    """Enter a test of a request to `/.well-known/core`."""

    def carry_out(client: Client) -> None:
        client.ask("get", "/.well-known/core" + (f"?{query}" if query else ""))
        request = client.request(codes.GET, [".well-known", "core"])
        client.reply(request, codes.CONTENT, payload=b'</test>;rt="one two";if="If1";sz=9', content_format=LINK_FORMAT)
        if request.query != ((query,) if query else ()):
            raise Inconclusive(f"the client asked {request.query or 'for everything'}")
        quiet(client, request)

    carry_out.__doc__ = title
    test(id, section="RFC 6690 §4")(carry_out)


discovery("TD_COAP_LINK_01", "Discovery", "")
discovery("TD_COAP_LINK_02", "Discovery by resource type", "rt=one")
discovery("TD_COAP_LINK_03", "Discovery of what has a resource type", "rt=*")
discovery("TD_COAP_LINK_04", "Discovery by one of several resource types", "rt=two")
discovery("TD_COAP_LINK_05", "Discovery by the beginning of an interface", "if=If*")
discovery("TD_COAP_LINK_06", "Discovery of what says its size", "sz=*")
discovery("TD_COAP_LINK_07", "Discovery by target", "href=/test")
discovery("TD_COAP_LINK_08", "Discovery by the beginning of a target", "href=/te*")
