"""TD_COAP_CORE_15, 16 and OBS_11 of ETSI CoAP#4: what has to happen when packets get lost.

Chance would make such a test long, or leave out what it is for. So the tester loses the very packets that the
descriptions name: it does not take notice of a packet that came, and behaves from then on as one does who never saw it.
"""

from __future__ import annotations

import time

from minicoap.codec import codes
from minicoap.codec.message import CON, NON
from minicoap.codec.options import OBSERVE
from tools.conformance.frames import Frame
from tools.conformance.model import CATALOGUE, SHOULD, Failure, Inconclusive
from tools.conformance.observation import TOGETHER, Observation
from tools.conformance.peer import PARAMETERS, Answer, Peer, Sent, check_success

test = CATALOGUE.test
THREE_TIMES = 25.0  # seconds in which a message is sent again three times, by the usual parameters (RFC 7252 §4.8)


MOST = 10  # notifications that are not acknowledged


def is_copy(frame: Frame, of: Frame) -> bool:
    """Whether a frame is the same message again, times and sequence numbers in it aside."""
    one, other = frame.message, of.message
    return (
        one is not None and other is not None
        and (one.type, one.message_id, one.token) == (other.type, other.message_id, other.token)
    )  # fmt: skip


def concerns(frame: Frame, sent: Sent) -> bool:
    """Whether a frame is the acknowledgement of a request, or its response."""
    message = frame.message
    return message is not None and (
        message.token == sent.token if message.type in (CON, NON) else message.message_id == sent.message_id
    )


def lose_response(peer: Peer, sent: Sent) -> Frame:
    """Lose the first thing that answers a request, and return it. Raises Inconclusive if nothing comes."""
    frame = peer.receive(lambda frame: concerns(frame, sent), PARAMETERS.ack_timeout)
    if frame is None:
        raise Inconclusive("the request was not answered the first time")
    return frame


@test("TD_COAP_CORE_15", section="RFC 7252 §4.2, §4.5", level=SHOULD, needs=["readable"])
def piggybacked(peer: Peer) -> None:
    """GET, confirmable, where packets get lost
    Lose the request, and send it again: it is answered.
    Lose the response, and send the request again: it is answered again, by the same token and message ID.
    """
    peer.control()
    content(peer.ask(codes.GET, "readable"))
    sent = peer.request(codes.GET, "readable")
    lose_response(peer, sent)
    peer.insist(
        sent.frame.data, lambda frame: concerns(frame, sent),
        "a confirmable request that comes again is acknowledged again", "RFC 7252 §4.5",
    )  # fmt: skip


@test("TD_COAP_CORE_16", section="RFC 7252 §4.2, §4.5, §5.2.2", level=SHOULD, needs=["separate"])
def separate(peer: Peer) -> None:
    """GET with a separate response, where packets get lost
    Lose the empty acknowledgement, and send the request again: acknowledged again, or answered.
    Lose the response: it comes again, with the same message ID.
    Lose the acknowledgement of the response: it comes again, and after that is acknowledged no more.
    """
    sent = peer.request(codes.GET, "separate")
    first = lose_response(peer, sent)
    assert first.message is not None
    if first.message.code != codes.EMPTY:
        raise Inconclusive("the response came in the acknowledgement; this is allowed, and not what was to be tested")
    peer.send(sent.frame.data)
    response = peer.receive(
        lambda frame: concerns(frame, sent) and frame.message is not None and frame.message.code != codes.EMPTY,
        peer.patience,
    )
    if response is None:
        raise Inconclusive("the response did not come")
    message = response.message
    assert message is not None
    if message.type != CON:
        raise Inconclusive("the separate response is not confirmable; this is allowed, and not what was to be tested")
    content(Answer(response, message, True))
    again = peer.receive(lambda frame: is_copy(frame, response), THREE_TIMES)
    if again is None:
        peer.ping()
        raise Failure(
            "a confirmable response that is not acknowledged is sent again", "RFC 7252 §4.2", response, level=SHOULD
        )
    later = repetitions(peer, response, again.at - response.at)
    if later is not None:
        raise Failure("what has been acknowledged is not sent again", "RFC 7252 §4.2", later)


def repetitions(peer: Peer, frame: Frame, gap: float) -> Frame | None:
    """Acknowledge a message; return what comes of it once the acknowledgement must have been there, or None.

    `gap` are the seconds between the last two copies of it.

    Each acknowledgement may be lost, and a repetition may have been on its way: so it has to come three times.
    """
    message = frame.message
    assert message is not None
    found = None
    for _ in range(3):
        peer.acknowledge(message)
        peer.forget(message)
        time.sleep(min(peer.grace, 0.2))
        peer.ping()
        while peer.receive(lambda other: is_copy(other, frame), 0) is not None:
            pass
        found = peer.receive(lambda other: is_copy(other, frame), max(peer.grace, 2.5 * gap))
        if found is None:
            return None
    return found


@test(
    "TD_COAP_OBS_11",
    section="RFC 7641 §4.5.1",
    needs=["observable"],
    differs="RFC 7641 §4.5.2 lets a newer notification take the place of one that is not acknowledged yet",
)
def notifications(peer: Peer) -> None:
    """Observe, where acknowledgements get lost
    Lose each notification once: it, or a newer one, comes again.
    Of two notifications, both unacknowledged, only one is being sent.
    """
    observation = Observation(peer, "observable")
    observation.register()
    lost = observation.raw(peer.patience)
    if lost is None:
        raise Inconclusive("the resource did not change")
    if lost.message is None or lost.message.type != CON:
        raise Inconclusive("the notifications are not confirmable")
    first_at = {lost.message.message_id: lost.at}
    copies = 0
    until = time.monotonic() + min(peer.patience, 5 * PARAMETERS.ack_timeout)
    while len(first_at) < MOST:
        frame = observation.raw(max(0.0, until - time.monotonic()))
        if frame is None:
            break
        message = frame.message
        assert message is not None
        if message.type != CON or message.options.get(OBSERVE) is None:
            continue
        copies += 1
        if message.message_id not in first_at:
            first_at[message.message_id] = frame.at
            continue
        later = list(first_at)[list(first_at).index(message.message_id) + 1 :]
        if later and frame.at - first_at[later[0]] > TOGETHER:
            observation.end()
            raise Failure(
                "a client is sent one confirmable notification at a time, until that is acknowledged or a newer one "
                "takes its place",
                "RFC 7641 §4.5.1",
                frame,
            )
    if not copies:
        raise Inconclusive("no notification came again while the tester waited")
    observation.end()


def content(answer: Answer) -> None:
    """Judge a 2.05."""
    check_success(answer, codes.CONTENT, rule="a GET that is carried out is answered 2.05", section="RFC 7252 §5.8.1")
