"""The client's side of TD_COAP_OBS of ETSI CoAP#4 (RFC 7641)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional

from minicoap.codec import codes
from minicoap.codec.contentformats import TEXT
from minicoap.codec.message import ACK, CON, NON, RST
from minicoap.codec.options import BLOCK2, ETAG, MAX_AGE, OBSERVE, encode_uint
from tools.conformance.frames import Frame
from tools.conformance.model import SHOULD, Failure, Inconclusive
from tools.conformance.serving.block import BODY, ETAG_ITEM, SMALL, block_of, item
from tools.conformance.serving.client import Client, Request, check
from tools.conformance.serving.core import comes_again, no_acknowledgement, quiet
from tools.conformance.serving.model import CLIENT_TESTS

test = CLIENT_TESTS.test
SHORT = 1  # seconds: a Max-Age
COLLISION = 5.0  # seconds after Max-Age that a client should wait for at least (RFC 7641 §3.3.1)
PAUSE = 0.3  # seconds from one notification to the next


def registered(client: Client, path: str = "obs", *, seconds: float = 4.0, max_age: int = 60) -> Request:
    """Return a registration, which is accepted."""
    client.ask("observe", f"/{path}", seconds=seconds)
    request = client.request(codes.GET, [path])
    if request.uint(OBSERVE) != 0:
        raise Inconclusive("the client does not ask to observe")
    client.reply(request, codes.CONTENT, options=state(1, max_age), payload=b"0", content_format=TEXT)
    quiet(client, request)
    return request


def state(number: int, max_age: int = 60) -> list[tuple[int, bytes]]:
    """Return the options of a notification."""
    return [(OBSERVE, encode_uint(number)), (MAX_AGE, encode_uint(max_age))]


def notify(client: Client, request: Request, number: int, **arguments: object) -> Frame:
    """Send a notification until it is acknowledged; fail if it is not."""
    options = state(number)
    payload = b"%d" % number
    return client.deliver(request, codes.CONTENT, options=options, payload=payload, content_format=TEXT, **arguments)


@test("TD_COAP_OBS_01", section="RFC 7641 §3.5, RFC 7252 §4.2")
def confirmable(client: Client) -> None:
    """Observation with confirmable messages: each is acknowledged
    One comes twice, and is acknowledged twice; one is older than what the client has, and is acknowledged all the same.
    """
    request = registered(client)
    for number in (2, 3, 5, 4):
        notify(client, request, number)
    comes_again(client, request)


@test("TD_COAP_OBS_02", section="RFC 7641 §3.5, RFC 7252 §4.3")
def non_confirmable(client: Client) -> None:
    """Observation with non-confirmable messages: none is acknowledged, none rejected"""
    request = registered(client, "obs-non")
    for number in (2, 3, 4):
        client.send(request, NON, codes.CONTENT, options=state(number), payload=b"%d" % number, content_format=TEXT)
        client.receive(lambda frame: False, PAUSE)
    no_acknowledgement(client, request)

    def rejects(frame: Frame) -> bool:
        return frame.source == request.client and len(frame.data) >= 4 and frame.data[0] >> 4 & 3 == RST

    if client.receive(rejects, 0.0) is not None:
        raise Inconclusive("the client rejects notifications: it has ended its observation")


@test("TD_COAP_OBS_04", section="RFC 7641 §3.3.1", level=SHOULD)
def registers_anew(client: Client) -> None:
    """A client that hears nothing after Max-Age registers anew
    With the same token and the same options; not while what it has is fresh, and some seconds later than that.
    """
    request = registered(client, seconds=60.0, max_age=SHORT)
    again = client.next_request(codes.GET, ["obs"], timeout=max(client.patience, SHORT + 20.0))
    if again is None:
        raise Inconclusive("the client does not register anew: it may")
    value = again.uint(OBSERVE)
    if value is None:
        raise Inconclusive("the client asks for the resource without observing it")
    client.reply(again, codes.CONTENT, options=state(1), payload=b"1", content_format=TEXT)
    if value == 1:
        raise Inconclusive("the client ends its observation")
    check(again.message.token == request.message.token, "a registration is repeated with its token",
          "RFC 7641 §3.3.1", again)  # fmt: skip
    same_options(request, again)
    waited = again.at - request.at
    check(waited >= SHORT, "a registration is not repeated while what was told is fresh", "RFC 7641 §3.3.1", again)
    if waited < SHORT + COLLISION:
        raise Failure(f"a client waits for 5 to 15 s after Max-Age ({waited - SHORT:.1f} s here)",
                      "RFC 7641 §3.3.1", again.frame)  # fmt: skip
    quiet(client, again)


def same_options(first: Request, second: Request, *, without: Iterable[int] = (ETAG,)) -> None:
    """Fail if two requests differ in their options, some aside."""
    left_out = frozenset(without)
    options = [[each for each in request.message.options.items if each[0] not in left_out] for request in
               (first, second)]  # fmt: skip
    check(options[0] == options[1], "all other options are those of the registration", "RFC 7641 §3.6", second)


def ended(client: Client, request: Request) -> Optional[Request]:
    """Wait for a client to end its observation: by a GET, which is returned, or by forgetting it."""
    deregistration = client.next_request(codes.GET, ["obs"], timeout=client.patience)
    if deregistration is None or deregistration.uint(OBSERVE) != 1:
        return None
    client.reply(deregistration, codes.CONTENT, payload=b"9", content_format=TEXT)
    return deregistration


@test("TD_COAP_OBS_06", section="RFC 7641 §3.6, RFC 7252 §4.2")
def rejects(client: Client) -> None:
    """A notification of an observation that the client has ended is rejected"""
    request = registered(client, seconds=1.0)
    notify(client, request, 2)
    ended(client, request)
    frame = client.confirmed(request, CON, codes.CONTENT, options=state(9), payload=b"9", content_format=TEXT)
    check(frame.message is not None and frame.message.type == RST,
          "a notification of an observation that was ended is rejected", "RFC 7641 §3.6", frame)  # fmt: skip


@test("TD_COAP_OBS_07", section="RFC 7641 §3.2, RFC 7252 §4.2")
def ends_with_an_error(client: Client) -> None:
    """A notification of an error is acknowledged, and ends the observation"""
    request = registered(client)
    notify(client, request, 2)
    client.deliver(request, codes.NOT_FOUND)
    frame = client.confirmed(request, CON, codes.CONTENT, options=state(9), payload=b"9", content_format=TEXT)
    if frame.message is not None and frame.message.type == ACK:
        raise Inconclusive("the client goes on to acknowledge notifications; it may keep the token")


@test("TD_COAP_OBS_12", section="RFC 7641 §3.6")
def deregisters(client: Client) -> None:
    """A client that ends its observation by a GET does so with Observe 1, its token and its options"""
    request = registered(client, seconds=1.0)
    notify(client, request, 2)
    deregistration = ended(client, request)
    if deregistration is None:
        raise Inconclusive("the client forgets its observation: it may")
    check(deregistration.message.token == request.message.token, "an observation is ended with its token",
          "RFC 7641 §3.6", deregistration)  # fmt: skip
    same_options(request, deregistration, without=(ETAG, OBSERVE))
    quiet(client, deregistration)


@test("TD_COAP_OBS_13", section="RFC 7959 §2.6")
def large(client: Client) -> None:
    """The rest of what is observed is fetched without the Observe option"""
    client.ask("observe", "/obs-large", seconds=3.0)
    request = client.request(codes.GET, ["obs-large"])
    if request.uint(OBSERVE) != 0:
        raise Inconclusive("the client does not ask to observe")
    options = [(OBSERVE, encode_uint(7)), ETAG_ITEM, item(BLOCK2, 0, True, SMALL)]
    client.reply(request, codes.CONTENT, options=options, payload=BODY[:64], content_format=TEXT)
    rest = client.request(codes.GET, ["obs-large"])
    asked = block_of(rest, BLOCK2)
    if asked is None or not asked.number:
        raise Inconclusive("the client does not fetch the rest")
    check(rest.message.options.get(OBSERVE) is None, "the rest of what is observed is fetched without Observe",
          "RFC 7959 §2.6", rest)  # fmt: skip
    check(asked.offset == 64, "a client that goes on asks for what comes next", "RFC 7959 §2.4", rest)
    check(rest.message.token != request.message.token, "the rest is not fetched by the observation's token",
          "RFC 7959 §3.4", rest)  # fmt: skip
    client.reply(rest, codes.CONTENT, options=[ETAG_ITEM, item(BLOCK2, 1, False, SMALL)], payload=BODY[64:80],
                 content_format=TEXT)  # fmt: skip
    quiet(client, rest)
