"""TD_COAP_OBS of ETSI CoAP#4: resources that are observed, RFC 7641; and what it left out."""

from __future__ import annotations

import time

from minicoap.codec import codes
from minicoap.codec.contentformats import JSON, TEXT
from minicoap.codec.message import CON, NON
from minicoap.codec.options import BLOCK2, CONTENT_FORMAT, OBSERVE
from tools.conformance.blocks import block_of, block_value, fetch
from tools.conformance.model import ADVICE, CATALOGUE, SHOULD, Failure, Inconclusive, NotApplicable
from tools.conformance.observation import SETTLE, Observation, block_option
from tools.conformance.peer import PARAMETERS, Answer, Peer, check, check_absent

test = CATALOGUE.test
SEVERAL = 3  # notifications that are waited for
SLOW = 300.0  # seconds after which a server has given a client up, whatever its parameters: EXCHANGE_LIFETIME and more
QUIET = 100.0  # seconds within which something new is sent to who was not given up: MAX_TRANSMIT_WAIT (RFC 7252 §4.8.2)


def told(observation: Observation, number: int = SEVERAL) -> list[Answer]:
    """Return so many notifications, judged."""
    return [observation.expect() for _ in range(number)]


@test("TD_COAP_OBS_01", section="RFC 7641 §4.1, §4.2, §4.4", needs=["observable"])
def confirmable(peer: Peer) -> None:
    """Observe, confirmable
    GET with Observe 0: 2.05 with Observe.
    Each notification: the same token, the same Content-Format, an Observe value newer than the one before.
    """
    observation = Observation(peer, "observable")
    try:
        observation.register()
        told(observation)
    finally:
        observation.end()


@test("TD_COAP_OBS_02", section="RFC 7641 §4.1, §4.2, §4.4, §4.5", needs=["observable_non"],
      differs="RFC 7641 §3.5 leaves it to the server which notifications are confirmable")  # fmt: skip
def non_confirmable(peer: Peer) -> None:
    """Observe, non-confirmable
    GET with Observe 0, non-confirmable: 2.05 with Observe.
    Each notification: as in TD_COAP_OBS_01.
    """
    observation = Observation(peer, "observable_non", type=NON)
    try:
        observation.register()
        answers = told(observation)
    finally:
        observation.end()
    if all(answer.message.type == CON for answer in answers):
        raise Inconclusive("all notifications were confirmable; this is allowed, and not what was to be tested")


@test(
    "TD_COAP_OBS_04",
    section="RFC 7641 §3.3.1, §4.1",
    needs=["observable"],
    differs="no tester can make a server forget its observers; the other half, registering again, is tested",
)
def again(peer: Peer) -> None:
    """Registering again, as a client does that was not told anything for longer than Max-Age
    GET with Observe 0; a notification comes. GET with Observe 0 and the same token: 2.05 with Observe.
    Notifications go on. One GET with Observe 1 ends them all: there is no second entry.
    """
    observation = Observation(peer, "observable")
    try:
        observation.register()
        observation.expect()
        observation.register()
        observation.expect()
        observation.deregister()
    finally:
        observation.end()
    observation.silent(
        "a client that registers again by the same token has one entry in the list, which one GET with Observe 1 "
        "removes", "RFC 7641 §4.1",
    )  # fmt: skip


@test("TD_COAP_OBS_05", section="RFC 7641 §4.5", needs=["observable"],
      differs="RFC 7252 §4.8 leaves it to the server how long it tries")  # fmt: skip
def gone(peer: Peer) -> None:
    """A client that is switched off
    GET with Observe 0; then acknowledge nothing.
    The server repeats a notification, or a newer one, some times, and then sends no more.
    """
    observation = Observation(peer, "observable")
    observation.register()
    began = time.monotonic()
    first = observation.raw(peer.patience)
    if first is None or first.message is None:
        raise Inconclusive("the resource did not change")
    if first.message.type != CON:
        raise Inconclusive("the notifications are not confirmable")
    limit = SLOW + QUIET if peer.slow else peer.patience
    known = {first.message.message_id}
    last = new_at = time.monotonic()
    gap = PARAMETERS.ack_timeout * PARAMETERS.ack_random_factor
    while (left := began + limit - time.monotonic()) > 0:
        frame = observation.raw(min(2.5 * gap, left))
        now = time.monotonic()
        if frame is None or frame.message is None:
            if now - last >= 2.5 * gap:
                return
            continue
        gap, last = max(gap, now - last), now
        if frame.message.message_id not in known:
            known.add(frame.message.message_id)
            new_at = now
            if now - began > SLOW:
                observation.end()
                raise Failure(
                    "a client whose acknowledgement of a notification does not come, however often that is repeated, "
                    "is removed from the list",
                    "RFC 7641 §4.5",
                    frame,
                )
        elif now - new_at > QUIET:  # what is repeated still was sent before the client was given up
            return
    observation.end()
    raise Inconclusive(f"the server had not given up after {limit:g} s; with --slow the tester waits {SLOW:g} s")


@test("TD_COAP_OBS_06", section="RFC 7641 §3.6, §4.5", needs=["observable"])
def rejected(peer: Peer) -> None:
    """A client that rejects a notification
    GET with Observe 0; a notification comes; reset it.
    No further one comes.
    """
    observation = Observation(peer, "observable")
    observation.register()
    observation.expect()
    answer = observation.next(acknowledge=False)
    if answer is None:
        raise Inconclusive("no second notification came")
    if answer.message.type != CON:
        observation.end()
        raise Inconclusive("the notifications are not confirmable: RFC 7641 §4.5 need not know their resets")
    observation.reset(answer)
    observation.silent(
        "a client that rejects a notification is removed from the list", "RFC 7641 §4.5", reset=True, allowed=3
    )
    observation.end()


@test("TD_COAP_OBS_07", section="RFC 7641 §4.2", needs=["observable_written"],
      differs="the error is a SHOULD (RFC 7641 §4.2), and the server chooses type and code")  # fmt: skip
def removed(peer: Peer) -> None:
    """An observed resource that is deleted
    GET with Observe 0; a notification comes. DELETE the resource, from another port.
    A notification with an error comes, without Observe; after that none.
    """
    observation = Observation(peer, "observable_written")
    with peer.another() as other:
        try:
            observation.register()
            observation.expect()
            deleted = other.ask(codes.DELETE, "observable_written")
            if deleted.code != codes.DELETED:
                raise Inconclusive(f"the DELETE is answered {codes.code_name(deleted.code)}")
            ended(observation, "what was deleted")
        finally:
            observation.end()
            other.ask(codes.PUT, "observable_written", payload=b"0", content_format=TEXT)


def ended(observation: Observation, what: str) -> Answer:
    """Return the notification with an error that ends an observation; judge that none follows it."""
    until = time.monotonic() + observation.peer.patience
    while (left := until - time.monotonic()) > 0:
        answer = observation.next(left)
        if answer is None:
            break
        if not codes.is_success(answer.code):
            observation.silent("after a notification of an error no more follow", "RFC 7641 §4.2")
            return answer
    raise Inconclusive(
        f"the observer of {what} was not told of an error; that is a SHOULD, and the resource may be back"
    )


@test(
    "TD_COAP_OBS_08",
    section="RFC 7641 §4.2",
    needs=["observable_written"],
    differs="4.06 is a SHOULD; that no notification has another Content-Format is the MUST (RFC 7641 §4.2)",
)
def other_format(peer: Peer) -> None:
    """An observed resource that takes on another Content-Format
    GET with Observe 0; a notification comes. PUT a body of another Content-Format, from another port.
    A notification with 4.06 comes, without Observe; after that none. None comes in the other format.
    """
    observation = Observation(peer, "observable_written")
    with peer.another() as other:
        try:
            first = observation.register()
            observation.expect()
            wanted = JSON if first.uint(CONTENT_FORMAT) != JSON else TEXT
            put = other.ask(codes.PUT, "observable_written", payload=b"1", content_format=wanted)
            if not codes.is_success(put.code):
                raise Inconclusive(f"the PUT is answered {codes.code_name(put.code)}")
            if other.ask(codes.GET, "observable_written").uint(CONTENT_FORMAT) != wanted:
                raise Inconclusive("the resource did not take on the Content-Format of the PUT")
            answer = ended(observation, "what has another Content-Format")
            check(
                answer.code == codes.NOT_ACCEPTABLE,
                "a server that cannot go on in the first Content-Format says so by 4.06", "RFC 7641 §4.2", answer,
                SHOULD,
            )  # fmt: skip
        finally:
            observation.end()
            other.ask(codes.PUT, "observable_written", payload=b"0", content_format=TEXT)


@test("TD_COAP_OBS_09", section="RFC 7641 §4.2, §4.5", needs=["observable_written"])
def updated(peer: Peer) -> None:
    """An observed resource that is written
    GET with Observe 0. PUT another body of the same Content-Format, from another port.
    A notification has that body, or a later one; without it the observer's state would be stale after Max-Age.
    """
    observation = Observation(peer, "observable_written")
    with peer.another() as other:
        try:
            first = observation.register()
            value = b"4%d" % (time.time_ns() % 1_000_000)
            put = other.ask(
                codes.PUT, "observable_written", payload=value, content_format=first.uint(CONTENT_FORMAT) or TEXT
            )
            if not codes.is_success(put.code):
                raise Inconclusive(f"the PUT is answered {codes.code_name(put.code)}")
            if observation.next() is None:
                observation.stale()
        finally:
            observation.end()


@test("TD_COAP_OBS_10", section="RFC 7641 §3.1, §4.1", needs=["observable"])
def plain_get(peer: Peer) -> None:
    """A GET without Observe, by another token
    GET with Observe 0; a notification comes. GET without Observe, by another token: 2.05 without Observe.
    Notifications go on.
    """
    observation = Observation(peer, "observable")
    try:
        observation.register()
        observation.expect()
        plain = peer.ask(codes.GET, "observable")
        if plain.code != codes.CONTENT:
            raise Inconclusive(f"the GET is answered {codes.code_name(plain.code)}")
        check_absent(
            plain,
            OBSERVE,
            "the response to a request without Observe, by a token of its own, is no notification",
            "RFC 7641 §2",
            ADVICE,
        )
        if observation.next() is None:
            observation.stale()
    finally:
        observation.end()


@test("TD_COAP_OBS_12", section="RFC 7641 §3.6, §4.1", needs=["observable"])
def deregistered(peer: Peer) -> None:
    """A GET with Observe 1
    GET with Observe 0; a notification comes. GET with Observe 1 and the same token: 2.05 without Observe.
    No further notification comes.
    """
    observation = Observation(peer, "observable")
    try:
        observation.register()
        told(observation, 2)
        answer = observation.deregister()
    finally:
        observation.end()
    check_absent(answer, OBSERVE, "the response to a GET with Observe 1 has no Observe option", "RFC 7641 §4.1")
    observation.silent("a GET with Observe 1 ends the observation by the same token", "RFC 7641 §4.1")


def whole(peer: Peer, role: str, answer: Answer) -> bool:
    """Fetch the rest of a notification's representation; return whether there is a rest."""
    block = block_of(answer, BLOCK2)
    if block is None:
        return False
    check(block.number == 0, "a notification has the first block", "RFC 7959 §2.6", answer)
    if not block.more:
        return False
    check(
        len(answer.payload) == block.size, "a block that others follow is of the size that its option says",
        "RFC 7959 §2.3", answer,
    )  # fmt: skip
    rest = peer.ask(codes.GET, role, options=[(BLOCK2, block_value(1, False, block.szx))])
    if codes.is_success(rest.code):
        second = block_of(rest, BLOCK2)
        check(second is not None, "each block of a response has the Block2 option", "RFC 7959 §2.4", rest)
        rule = "the response for a later block is no notification"
        check_absent(rest, OBSERVE, rule, "RFC 7959 §2.6, §3.4", ADVICE)
    return True


@test("TD_COAP_OBS_13", section="RFC 7641 §4.2, RFC 7959 §2.6", needs=["observable_large"])
def in_blocks(peer: Peer) -> None:
    """Observe what is large
    GET with Observe 0 and Block2, of 64 bytes: 2.05 with Observe and block 0.
    Each notification: block 0, not larger than asked for. The rest is got by GET, by other tokens.
    """
    observation = Observation(peer, "observable_large", options=[block_option(2)])
    try:
        first = observation.register()
        if not whole(peer, "observable_large", first):
            raise NotApplicable("the resource is not long enough to travel in several blocks")
        for _ in range(SEVERAL):
            answer = observation.expect()
            whole(peer, "observable_large", answer)
            block = block_of(answer, BLOCK2)
            check(
                block is not None and block.szx <= 2, "notifications keep to the block size of the registration",
                "RFC 7959 §2.6", answer, SHOULD,
            )  # fmt: skip
        fetch(peer, peer.path("observable_large"), szx=2)
    finally:
        observation.end()


@test("TD_COAP_OBS_14", section="RFC 7641 §4.2, RFC 7959 §2.6", needs=["observable_pumping"])
def pumping(peer: Peer) -> None:
    """Observe what is large at times
    GET with Observe 0: 2.05 with Observe, with or without Block2.
    Each notification: all of it, or block 0, whose rest is got by GET.
    """
    observation = Observation(peer, "observable_pumping")
    try:
        sizes = {whole(peer, "observable_pumping", observation.register())}
        for _ in range(4 * SEVERAL):
            sizes.add(whole(peer, "observable_pumping", observation.expect()))
            if len(sizes) == 2:
                return
    finally:
        observation.end()
    raise Inconclusive("the resource was never long and short in turn")


@test("OBSERVE_01", section="RFC 7641 §4.1", needs=["readable"])
def not_observable(peer: Peer) -> None:
    """Observe of what may not be observable
    GET with Observe 0: 2.05; with Observe only if notifications can come.
    GET with Observe 1 of what was not observed: 2.05 without Observe.
    """
    peer.control()
    answer = peer.ask(codes.GET, "readable", options=[(OBSERVE, b"\x01")])
    if answer.code != codes.CONTENT:
        raise Inconclusive(f"the GET is answered {codes.code_name(answer.code)}")
    check_absent(answer, OBSERVE, "the response to a GET with Observe 1 has no Observe option", "RFC 7641 §4.1")


@test("OBSERVE_02", section="RFC 7641 §4.1", needs=["observable"])
def two_clients(peer: Peer) -> None:
    """Two observers of one resource, one of which leaves
    GET with Observe 0 from two ports, by the same token. GET with Observe 1 from the second.
    Notifications to the first go on.
    """
    observation = Observation(peer, "observable")
    with peer.another() as other:
        second = Observation(other, "observable")
        second.token = observation.token
        try:
            observation.register()
            second.register()
            second.expect()
            second.deregister()
            until = time.monotonic() + SETTLE
            while observation.next(max(0.0, until - time.monotonic())) is not None:
                pass
            if observation.next() is None:
                observation.stale()
        finally:
            second.end()
            observation.end()
