"""Duplicates and separate responses: RFC 7252 §4.2, §4.5, §5.2.2. What ETSI CoAP#4 left out of them."""

from __future__ import annotations

import time

from minicoap.codec import codes
from minicoap.codec.contentformats import TEXT
from minicoap.codec.message import ACK, CON, NON, RST, Message
from minicoap.codec.options import LOCATION_PATH, LOCATION_QUERY
from tools.conformance.frames import Frame
from tools.conformance.model import ADVICE, CATALOGUE, MUST, SHOULD, Failure, Inconclusive, NotApplicable
from tools.conformance.peer import PARAMETERS, Peer, Sent, check
from tools.conformance.tests.lossy import THREE_TIMES, concerns, content, is_copy, lose_response, repetitions

test = CATALOGUE.test


def acknowledged(peer: Peer, sent: Sent) -> Frame:
    """Return the acknowledgement of a request, with its response or empty. Raises Inconclusive if none comes."""
    timeout = PARAMETERS.ack_timeout
    head = sent.message_id.to_bytes(2, "big")
    for _ in range(4):
        frame = peer.receive(
            lambda frame: frame.data[2:4] == head and frame.data[0] >> 4 in (4 | ACK, 4 | RST), timeout
        )
        if frame is not None:
            if frame.data[1] == codes.EMPTY and len(frame.data) > 4:
                raise Failure("an empty message has four bytes", "RFC 7252 §4.1", frame, level=MUST)
            if frame.message is None:
                raise Inconclusive(f"the request is acknowledged by what cannot be read: {frame}")
            return frame
        peer.losses += 1
        peer.send(sent.frame.data)
    raise Inconclusive("the request was not acknowledged")


@test("DUPLICATE_01", section="RFC 7252 §4.5", level=SHOULD, needs=["readable"])
def get_again(peer: Peer) -> None:
    """A GET that comes three times
    The same confirmable GET three times: each is acknowledged, with the same token and code.
    """
    peer.control()
    sent = peer.request(codes.GET, "readable")
    first = acknowledged(peer, sent)
    for _ in range(2):
        frame = peer.insist(
            sent.frame.data, lambda frame: concerns(frame, sent),
            "each copy of a confirmable message is acknowledged", "RFC 7252 §4.5",
        )  # fmt: skip
        assert frame.message is not None and first.message is not None
        if frame.message.type == ACK and frame.message.code != codes.EMPTY:
            check(
                frame.message.token == sent.token, "a response carries the token of its request", "RFC 7252 §5.3.1",
                frame, "must",
            )  # fmt: skip


@test("DUPLICATE_02", section="RFC 7252 §4.5", level=SHOULD, needs=["counter"])
def post_again(peer: Peer) -> None:
    """A POST that comes three times
    The same confirmable POST three times: it is carried out once, and the acknowledgements are the same.
    """
    before = peer.ask(codes.GET, "counter")
    sent = peer.request(codes.POST, "counter", payload=b"1", content_format=TEXT)
    first = acknowledged(peer, sent)
    assert first.message is not None
    if not codes.is_success(first.message.code):
        raise Inconclusive("the POST is not answered at once by a success")
    for _ in range(2):
        frame = peer.insist(
            sent.frame.data, lambda frame: concerns(frame, sent),
            "each copy of a confirmable message is acknowledged", "RFC 7252 §4.5",
        )  # fmt: skip
        message = frame.message
        assert message is not None
        if (
            codes.EMPTY not in (first.message.code, message.code)
            and message.type == ACK
            and _says(first.message) != _says(message)
        ):
            raise Failure(
                "a request that comes again is not carried out again, but acknowledged by the same message",
                "RFC 7252 §4.5", frame,
            )  # fmt: skip
    after = peer.ask(codes.GET, "counter")
    counted(before.payload, after.payload, after.frame)


def _says(message: Message) -> tuple[object, ...]:
    """Return what a response says, times aside."""
    options = message.options
    return message.code, message.token, options.all(LOCATION_PATH), options.all(LOCATION_QUERY), message.payload


def counted(before: bytes, after: bytes, frame: Frame) -> None:
    """Judge that a counter went up by one."""
    if not (before.isdigit() and after.isdigit()):
        return
    check(int(after) - int(before) <= 1, "a request that comes again is carried out once", "RFC 7252 §4.5", frame)


@test("DUPLICATE_03", section="RFC 7252 §4.5", level=SHOULD, needs=["counter"])
def post_again_non(peer: Peer) -> None:
    """A non-confirmable POST that comes three times
    The same non-confirmable POST three times: it is carried out once.
    """
    before = peer.ask(codes.GET, "counter")
    if not before.payload.isdigit():
        raise NotApplicable("the resource does not count what is posted to it")
    sent = peer.request(codes.POST, "counter", type=NON, payload=b"1", content_format=TEXT)
    for _ in range(2):
        peer.ping()
        peer.send(sent.frame.data)
    peer.ping()
    after = peer.ask(codes.GET, "counter")
    counted(before.payload, after.payload, after.frame)


@test("DUPLICATE_04", section="RFC 7252 §4.4, §4.5", needs=["readable"])
def same_id_elsewhere(peer: Peer) -> None:
    """The same message ID from two ports
    A confirmable GET, and one from another port with the same message ID: both are answered, each by its own token.
    """
    content(peer.control())
    with peer.another() as other:
        content(other.control())
        message_id = peer.next_message_id()
        first = peer.ask(codes.GET, "readable", message_id=message_id)
        sent = other.request(codes.GET, "readable", message_id=message_id)
        frame = other.insist(
            sent.frame.data, lambda frame: concerns(frame, sent),
            "a message is a duplicate only of one from the same endpoint; others are acknowledged", "RFC 7252 §4.5",
        )  # fmt: skip
        assert frame.message is not None
        if frame.message.type == ACK and frame.message.code != codes.EMPTY:
            check(
                frame.message.token == sent.token, "a response carries the token of its request", "RFC 7252 §5.3.1",
                frame,
            )  # fmt: skip
    content(first)


@test("DUPLICATE_05", section="RFC 7252 §4.2, §5.2.1", needs=["readable"])
def many(peer: Peer) -> None:
    """Many requests at once
    Sixteen confirmable GETs, one right after the other: each is answered, by its own message ID and token.
    """
    content(peer.control())
    sent = [peer.request(codes.GET, "readable", token=bytes((number,)) * 4) for number in range(1, 17)]
    for request in sent:
        content(peer.answer(request))


@test("SEPARATE_01", section="RFC 7252 §4.2, §5.2.2", level=SHOULD, needs=["separate"])
def repeated(peer: Peer) -> None:
    """A separate response that is not acknowledged
    GET of what takes a while; acknowledge nothing. The response comes again, with the same message ID.
    Acknowledge it: it comes no more.
    """
    sent = peer.request(codes.GET, "separate")
    first = acknowledged(peer, sent)
    assert first.message is not None
    if first.message.code != codes.EMPTY:
        raise NotApplicable("the response came in the acknowledgement; it may")
    response = later_response(peer, sent)
    again = peer.receive(lambda frame: is_copy(frame, response), THREE_TIMES)
    if again is None:
        peer.ping()
        raise Failure(
            "a confirmable message that is not acknowledged is sent again", "RFC 7252 §4.2", response, level=SHOULD
        )
    later = repetitions(peer, response, again.at - response.at)
    if later is not None:
        raise Failure("what has been acknowledged is not sent again", "RFC 7252 §4.2", later)


def later_response(peer: Peer, sent: Sent) -> Frame:
    """Return the separate response to a request, not acknowledged; raises Inconclusive if it is not confirmable."""
    response = peer.receive(
        lambda frame: frame.message is not None and frame.message.token == sent.token
        and codes.is_response(frame.message.code), peer.patience,
    )  # fmt: skip
    if response is None:
        raise Inconclusive("the response did not come")
    assert response.message is not None
    if response.message.type != CON:
        raise Inconclusive("the separate response is not confirmable; it need not be")
    return response


@test("SEPARATE_02", section="RFC 7252 §4.2", needs=["separate"])
def reset(peer: Peer) -> None:
    """A separate response that is rejected
    GET of what takes a while. Reset the response: it comes no more.
    """
    sent = peer.request(codes.GET, "separate")
    first = acknowledged(peer, sent)
    assert first.message is not None
    if first.message.code != codes.EMPTY:
        raise NotApplicable("the response came in the acknowledgement; it may")
    response = later_response(peer, sent)
    assert response.message is not None
    for _ in range(3):
        peer.reset(response.message)
        time.sleep(min(peer.grace, 0.2))
        peer.ping()
        while peer.receive(lambda frame: is_copy(frame, response), 0) is not None:
            pass
        frame = peer.receive(lambda frame: is_copy(frame, response), max(peer.grace, 2.5 * PARAMETERS.ack_timeout))
        if frame is None:
            return
    raise Failure("what has been rejected is not sent again", "RFC 7252 §4.2", frame)


@test("SEPARATE_03", section="RFC 7252 §5.2.2, §4.5", level=ADVICE, needs=["separate"])
def request_again(peer: Peer) -> None:
    """A request that comes again while its response is under way
    GET of what takes a while, twice the same: both acknowledged, one response.
    """
    sent = peer.request(codes.GET, "separate")
    first = lose_response(peer, sent)
    assert first.message is not None
    if first.message.code != codes.EMPTY:
        raise NotApplicable("the response came in the acknowledgement; it may")
    peer.send(sent.frame.data)
    response = later_response(peer, sent)
    assert response.message is not None
    peer.acknowledge(response.message)
    other = peer.receive(
        lambda frame: frame.message is not None and frame.message.token == sent.token and frame.message.type == CON
        and frame.message.message_id != response.message.message_id,  # type: ignore[union-attr]
        max(peer.grace, 2.0),
    )  # fmt: skip
    if other is not None:
        peer.reset(other.message)  # type: ignore[arg-type]
        raise Failure(
            "a request that comes again while it is being carried out is not carried out a second time",
            "RFC 7252 §4.5", other,
        )  # fmt: skip


@test("SEPARATE_04", section="RFC 7252 §5.2.2", needs=["separate"])
def empty_acknowledgement(peer: Peer) -> None:
    """The acknowledgement of a request whose response comes later
    GET of what takes a while, by a token: the acknowledgement is empty, has no token, no option, no payload.
    """
    sent = peer.request(codes.GET, "separate", token=peer.token(8))
    first = acknowledged(peer, sent)
    assert first.message is not None
    if first.message.code != codes.EMPTY:
        raise NotApplicable("the response came in the acknowledgement; it may")
    content(peer.answer(sent))
