"""What the ETSI descriptions leave out of a client's side: what it rejects, how it numbers, when it gives up."""

from __future__ import annotations

from typing import Any

from minicoap.codec import codes
from minicoap.codec.contentformats import TEXT
from minicoap.codec.message import CON, RST
from minicoap.codec.options import ECHO
from tools.conformance.frames import Frame
from tools.conformance.model import MUST, SHOULD, Failure, Inconclusive
from tools.conformance.serving.client import Client, Request, check
from tools.conformance.serving.core import BODY, DOUBLED, EARLY, quiet
from tools.conformance.serving.model import CLIENT_TESTS

test = CLIENT_TESTS.test
UNKNOWN_CRITICAL = 65_001  # of the numbers for experiments (RFC 7252 §12.2), and odd
LONGEST = 100.0  # seconds: MAX_TRANSMIT_WAIT is 93


def waiting(client: Client) -> Request:
    """Return a request that was acknowledged and waits for its response."""
    client.ask("get", "/separate")
    request = client.request(codes.GET, ["separate"], type=CON)
    client.acknowledge(request)
    return request


def rejected(client: Client, request: Request, rule: str, section: str, **arguments: Any) -> None:
    """Send a confirmable response, and fail if it is not rejected."""
    frame = client.confirmed(request, CON, codes.CONTENT, **arguments)
    check(frame.message is not None and frame.message.type == RST, rule, section, frame)


@test("CLIENT_UNKNOWN_TOKEN", section="RFC 7252 §4.2, §5.3.2")
def unknown_token(client: Client) -> None:
    """A confirmable response to nothing that was asked is rejected
    A response with another token comes first; then the one that the client waits for, which it acknowledges.
    """
    request = waiting(client)
    other = bytes(byte ^ 0xFF for byte in request.message.token) or b"\x01"
    rejected(client, request, "a confirmable message for which the context is missing is rejected", "RFC 7252 §4.2",
             token=other, payload=BODY, content_format=TEXT)  # fmt: skip
    client.deliver(request, codes.CONTENT, payload=BODY, content_format=TEXT)


@test("CLIENT_CRITICAL_OPTION", section="RFC 7252 §5.4.1")
def critical_option(client: Client) -> None:
    """A response with a critical option that nobody knows is rejected"""
    request = waiting(client)
    rejected(client, request, "a response with an unknown critical option is rejected", "RFC 7252 §5.4.1",
             options=[(UNKNOWN_CRITICAL, b"x")], payload=BODY, content_format=TEXT)  # fmt: skip


@test("CLIENT_ELECTIVE_OPTION", section="RFC 7252 §5.4.1")
def elective_option(client: Client) -> None:
    """A response with an elective option that nobody knows is taken"""
    request = waiting(client)
    frame = client.confirmed(request, CON, codes.CONTENT, options=[(UNKNOWN_CRITICAL - 1, b"x")], payload=BODY,
                             content_format=TEXT)  # fmt: skip
    check(frame.message is not None and frame.message.type != RST,
          "an unknown elective option is ignored", "RFC 7252 §5.4.1", frame)  # fmt: skip


@test("CLIENT_FORMAT_ERROR", section="RFC 7252 §3, §4.2")
def format_error(client: Client) -> None:
    """A confirmable message with a format error is rejected
    The option's delta is the reserved 15, and it is no payload marker.
    """
    request = waiting(client)
    message_id = client.next_message_id()
    head = bytes((0x40 | len(request.message.token), codes.CONTENT)) + message_id.to_bytes(2, "big")
    rejected(client, request, "a confirmable message with a format error is rejected", "RFC 7252 §3",
             raw=head + request.message.token + b"\xf0", message_id=message_id)  # fmt: skip
    client.deliver(request, codes.CONTENT, payload=BODY, content_format=TEXT)


@test("CLIENT_OTHER_VERSION", section="RFC 7252 §3")
def other_version(client: Client) -> None:
    """A message of another version of CoAP is ignored"""
    request = waiting(client)
    message_id = client.next_message_id()
    data = bytes((0x80 | len(request.message.token), codes.CONTENT)) + message_id.to_bytes(2, "big")
    client.send(request, CON, codes.CONTENT, raw=data + request.message.token + b"\xffx")

    def answers(frame: Frame) -> bool:
        return frame.source == request.client and frame.data[2:4] == message_id.to_bytes(2, "big")

    client.silence(answers, "a message of an unknown version is silently ignored", "RFC 7252 §3")
    client.deliver(request, codes.CONTENT, payload=BODY, content_format=TEXT)


@test("CLIENT_ECHO", section="RFC 9175 §2.3", level=SHOULD)
def echo(client: Client) -> None:
    """A request that is answered 4.01 with Echo is sent again with the same Echo"""
    value = b"challenge"
    client.ask("get", "/test")
    request = client.request(codes.GET, ["test"])
    client.reply(request, codes.UNAUTHORIZED, options=[(ECHO, value)])
    again = client.next_request(codes.GET, ["test"], timeout=max(client.grace, 2.0))
    if again is None:
        raise Inconclusive("the client does not send its request again: it need not know Echo")
    client.reply(again, codes.CONTENT, payload=BODY, content_format=TEXT)
    check(again.message.options.get(ECHO) == value, "the Echo that comes back is the one that was sent",
          "RFC 9175 §2.3", again)  # fmt: skip
    quiet(client, again)


@test("CLIENT_FRESH_IDS", section="RFC 7252 §4.4, §5.3.1", level=MUST)
def fresh_ids(client: Client) -> None:
    """Two requests have message IDs of their own
    Where they come from one address; their tokens may be the same once the first is over.
    """
    requests = []
    for _ in range(2):
        client.ask("get", "/test")
        request = client.request(codes.GET, ["test"])
        client.reply(request, codes.CONTENT, payload=BODY, content_format=TEXT)
        requests.append(request)
        quiet(client, request)
    first, second = requests
    if first.client != second.client:
        raise Inconclusive("the client has another port for each request")
    check(first.message.message_id != second.message.message_id, "two messages have two message IDs",
          "RFC 7252 §4.4", second)  # fmt: skip


@test("CLIENT_GIVES_UP", section="RFC 7252 §4.2", is_long=True)
def gives_up(client: Client) -> None:
    """A request that is never answered is repeated four times, and then no more
    Each wait is twice the one before; it takes a minute and a half.
    """
    client.ask("get", "/test")
    latest = client.request(codes.GET, ["test"], type=CON)
    waits: list[float] = []
    while True:
        copy = client.copy(latest, LONGEST if not waits else 3 * waits[-1] + 5)
        if copy is None:
            break
        wait = copy.at - latest.at
        if waits and wait < DOUBLED * waits[-1]:
            raise Failure(f"the wait doubles with each repetition ({waits[-1]:.2f} s, then {wait:.2f} s)",
                          "RFC 7252 §4.2", copy.frame)  # fmt: skip
        check(wait >= EARLY, f"ACK_TIMEOUT is not below a second ({wait:.2f} s here)", "RFC 7252 §4.8.1", copy)
        waits.append(wait)
        latest = copy
        if len(waits) > 8:
            raise Failure("a message is repeated MAX_RETRANSMIT times at most", "RFC 7252 §4.2", copy.frame)
    if len(waits) != 4:
        raise Inconclusive(f"{len(waits)} copies more came: some were lost, or the parameters are not the default ones")
