"""What holds for every exchange, whatever it is for: RFC 7252 §4 and §5, RFC 7641 §4."""

from __future__ import annotations

from typing import Optional

from minicoap.codec import codes
from minicoap.codec.message import ACK, CON, NON, RST, Message
from minicoap.codec.options import CONTENT_FORMAT, DEFINITIONS, OBSERVE, option_name
from tools.conformance.grading.exchanges import EXCHANGE_LIFETIME, NON_LIFETIME, Conversations, Exchange, Seen
from tools.conformance.grading.model import Side
from tools.conformance.model import SHOULD

SEQUENCE = 1 << 24  # Observe numbers are modulo this (RFC 7641 §3.4)
STALE = 128.0  # seconds after which any number is newer
ACK_EXPECTED = 2.0  # seconds: ACK_TIMEOUT


def judge(exchange: Exchange, client: Side, server: Side) -> None:
    """Judge an exchange by the general rules."""
    _judge_client(exchange, client)
    _judge_server(exchange, server)


def reused_ids(conversations: Conversations) -> dict[Seen, Seen]:
    """Return messages that have the ID of another, with that other: RFC 7252 §4.4."""
    begun: dict[tuple[object, ...], Seen] = {}
    found: dict[Seen, Seen] = {}
    everything = [seen for each in conversations.exchanges for seen in each.frames]
    for seen in sorted(everything, key=lambda seen: seen.number):
        if seen.type not in (CON, NON) or seen.message is None:
            continue
        key = seen.source, seen.destination, seen.message_id
        first = begun.get(key)
        lifetime = EXCHANGE_LIFETIME if first is not None and first.type == CON else NON_LIFETIME
        if first is None or seen.at - first.at >= lifetime:
            begun[key] = seen
        elif first.data != seen.data:
            found[seen] = first
    return found


def _judge_client(exchange: Exchange, side: Side) -> None:
    _judge_form(exchange.request, side)
    for seen in exchange.confirmations:
        _judge_form(seen, side)
        about = next((each for each in exchange.replies if each.message_id == seen.message_id), None)
        if about is not None and about.type == NON and seen.type == ACK:
            side.fault("a non-confirmable message is not acknowledged", "RFC 7252 §4.3", seen)
    for seen in exchange.responses:
        if seen.type == CON and exchange.confirmation(seen) is None:
            side.doubt(f"the confirmable message in frame {seen.number} is not acknowledged in the capture")


def _judge_server(exchange: Exchange, side: Side) -> None:
    request = exchange.message
    acknowledged: Optional[Seen] = None
    for seen in exchange.replies:
        _judge_form(seen, side)
        message = seen.message
        if message is None:
            continue
        if seen.type == ACK:
            if request.type == NON:
                side.fault("a non-confirmable request is not acknowledged", "RFC 7252 §4.3", seen)
            if message.code == codes.EMPTY:
                acknowledged = acknowledged or seen
            elif acknowledged is not None:
                side.fault(
                    "once a request was acknowledged by an empty message, its response does not come in another "
                    "acknowledgement", "RFC 7252 §5.2.2", seen,
                )  # fmt: skip
        if seen.type == ACK and message.code != codes.EMPTY and message.token != request.token:
            side.fault("a response carries the token of its request", "RFC 7252 §5.3.1", seen)
        if seen.type == RST and message.code != codes.EMPTY:
            side.fault("a reset is empty", "RFC 7252 §4.2", seen)
    response = exchange.response
    if exchange.is_ping:
        return
    if response is None:
        if any(seen.type == RST for seen in exchange.replies):
            side.doubt("the request was rejected with a reset")
        else:
            side.doubt("the capture has no response")
        return
    assert response.message is not None
    if request.type == NON and response.type == CON and not exchange.is_observation:
        side.fault(
            "a non-confirmable request should be answered by a non-confirmable message", "RFC 7252 §5.2.3", response,
            SHOULD,
        )  # fmt: skip
    if exchange.is_observation:
        _judge_notifications(exchange, response.message, side)
    elif exchange.notifications:
        _judge_uninvited(exchange, side)


def _judge_uninvited(exchange: Exchange, side: Side) -> None:
    extra = exchange.notifications[0]
    if extra.message is not None and extra.message.options.uint(OBSERVE) is not None:
        side.doubt(f"frame {extra.number} is a notification of an observation whose beginning the capture lacks")
    else:
        side.doubt(f"frame {extra.number} is another response with the same token")


def _judge_notifications(exchange: Exchange, first: Message, side: Side) -> None:
    content_format = first.options.uint(CONTENT_FORMAT)
    latest = exchange.responses[0]
    number = first.options.uint(OBSERVE) or 0
    for seen in exchange.notifications:
        message = seen.message
        assert message is not None
        observe = message.options.uint(OBSERVE)
        if not codes.is_success(message.code):
            if observe is not None:
                side.fault("a notification of an error has no Observe option", "RFC 7641 §4.2", seen)
            return
        if observe is None:
            side.fault("a notification of success has an Observe option", "RFC 7641 §4.2", seen)
            continue
        if message.options.uint(CONTENT_FORMAT) != content_format and message.code == codes.CONTENT:
            side.fault("notifications are of the Content-Format of the first response", "RFC 7641 §4.2", seen)
        is_newer = 0 < (observe - number) % SEQUENCE < SEQUENCE // 2
        if not is_newer and seen.at - latest.at < STALE:
            side.fault("the Observe number of each notification is larger than those before", "RFC 7641 §4.4", seen)
        latest, number = seen, observe


def _judge_form(seen: Seen, side: Side) -> None:
    message = seen.message
    if message is None:
        section = "RFC 7252 §4.1" if seen.error and "empty message" in seen.error else "RFC 7252 §3"
        side.fault(f"what is sent is a well-formed message ({seen.error})", section, seen)
        return
    if seen.type in (ACK, RST) and message.code and codes.is_request(message.code):
        side.fault("an acknowledgement carries no request", "RFC 7252 §4.2", seen)
    previous = -1
    for number, _ in message.options.items:
        definition = DEFINITIONS.get(number)
        if number == previous and definition is not None and not definition.repeatable:
            side.fault(f"{option_name(number)} is in a message once at most", "RFC 7252 §5.4.5", seen)
        previous = number
