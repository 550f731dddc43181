"""TD_COAP_OBS of ETSI CoAP#4 in captures (RFC 7641).

What the descriptions have people look at (what a client displays, that nothing comes any more) is no more than a
remark: a capture ends at some time, and silence after its end cannot be seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Callable, Optional

from minicoap.codec import codes
from minicoap.codec.message import CON, RST
from minicoap.codec.options import BLOCK2, CONTENT_FORMAT, MAX_AGE, OBSERVE
from tools.conformance.grading.core import grade, is_lossy, judge_repetition
from tools.conformance.grading.exchanges import Exchange, Seen
from tools.conformance.grading.model import CASES, Grade, Scene
from tools.conformance.model import ADVICE, SHOULD

REGISTER, DEREGISTER = 0, 1
UNDER_WAY = 5.0  # seconds for which a notification may have been sent before its cause was known
DEFAULT_MAX_AGE = 60

Judge = Callable[[Scene, Grade, Exchange], None]


def observations(scene: Scene, role: str, type: Optional[int] = None) -> list[Exchange]:
    """Return the requests that ask to observe a role's resource."""
    return [
        each
        for each in scene.at(role, code=codes.GET, type=type)
        if each.message.options.uint(OBSERVE) == REGISTER and not (_block2(each.request) or 0) >> 4
    ]


def _case(
    test: str, title: str, judge: Judge, chosen: Callable[[Scene, Exchange], bool], role: str = "observable",
    type: Optional[int] = None,
) -> None:  # fmt: skip
    """Enter a test of a single observation."""

    def find(scene: Scene) -> Iterator[Grade]:
        for exchange in observations(scene, role, type):
            if not chosen(scene, exchange):
                continue
            found = grade(test, exchange)
            if exchange.response is not None and not exchange.is_observation:
                found.server.doubt("the server does not agree to be observed")
            else:
                judge(scene, found, exchange)
            yield found

    CASES.case(test, title)(find)


def _others(scene: Scene, exchange: Exchange, *methods: int) -> list[Exchange]:
    """Return the other requests to the observed resource, while it was observed."""
    return [
        each
        for each in scene.at("observable")
        if each is not exchange and each.message.code in methods and each.request.number > exchange.request.number
    ]


def _answered_at(exchange: Exchange) -> Optional[Seen]:
    """Return the response by which a request was carried out."""
    response = exchange.response
    return response if response is not None and codes.is_success(response.code) else None


def _after(exchange: Exchange, seen: Seen) -> list[Seen]:
    return [each for each in exchange.notifications if each.number > seen.number]


def _registration(scene: Scene, found: Grade, exchange: Exchange) -> None:
    if not exchange.notifications:
        found.server.doubt("the capture has no notification")


def _non_notifications(scene: Scene, found: Grade, exchange: Exchange) -> None:
    _registration(scene, found, exchange)
    if exchange.notifications and all(seen.type == CON for seen in exchange.notifications):
        found.server.doubt("all notifications are confirmable: allowed, and not what was to be tested")


def _always(scene: Scene, exchange: Exchange) -> bool:
    return True


def _rejected(exchange: Exchange) -> Optional[Seen]:
    return next((seen for seen in exchange.confirmations if seen.type == RST), None)


def _is_rejected(scene: Scene, exchange: Exchange) -> bool:
    return _rejected(exchange) is not None


def _rejection(scene: Scene, found: Grade, exchange: Exchange) -> None:
    reset = _rejected(exchange)
    assert reset is not None
    for seen in _after(exchange, reset):
        if seen.at - reset.at > UNDER_WAY or seen.type == CON:
            found.server.fault("a client that rejects a notification is notified no more", "RFC 7641 §4.5", seen)
    _say_silence(scene, found, reset)


def _say_silence(scene: Scene, found: Grade, since: Seen) -> None:
    if not found.server.faults:
        found.server.remark(
            f"the capture goes on for {scene.after(since):.1f} s after frame {since.number}, without a notification"
        )


def _again(scene: Scene, exchange: Exchange) -> list[Exchange]:
    """Return later registrations by the same client with the same token."""
    return [
        each
        for each in observations(scene, "observable")
        if each.request.number > exchange.request.number
        and each.client == exchange.client
        and each.message.token == exchange.message.token
    ]


def _is_first(scene: Scene, exchange: Exchange) -> bool:
    """Whether a registration does not repeat another."""
    return not any(exchange in _again(scene, each) for each in observations(scene, "observable"))


def _is_first_of_several(scene: Scene, exchange: Exchange) -> bool:
    return _is_first(scene, exchange) and bool(_again(scene, exchange))


def _re_registration(scene: Scene, found: Grade, exchange: Exchange) -> None:
    previous = exchange
    for each in _again(scene, exchange):
        found.exchanges.append(each)
        told = previous.responses
        if told and told[-1].message is not None:
            age = told[-1].message.options.uint(MAX_AGE)
            waited = each.request.at - told[-1].at
            due = DEFAULT_MAX_AGE if age is None else age
            if waited < due:
                found.client.remark(f"frame {each.request.number} asks anew while what came last is fresh")
            elif waited < due + 5:
                found.client.remark(
                    f"frame {each.request.number} asks anew {waited - due:.1f} s after Max-Age; RFC 7641 §3.3.1 has "
                    "clients wait for 5 to 15 s"
                )
        options = [item for item in each.message.options.items if item[0] != 4]
        if options != [item for item in exchange.message.options.items if item[0] != 4]:
            found.client.fault(
                "a registration that is repeated has the options of the first, ETags aside", "RFC 7641 §3.3.1",
                each.request,
            )  # fmt: skip
        if each.response is not None and not each.is_observation and codes.is_success(each.response.code):
            found.server.doubt(f"the server does not take the client for an observer in frame {each.response.number}")
        previous = each


def _unheard(exchange: Exchange) -> list[Seen]:
    return [seen for seen in exchange.replies if seen.type == CON and exchange.confirmation(seen) is None]


def _is_unheard(scene: Scene, exchange: Exchange) -> bool:
    """Whether the client fell silent: notifications were sent, more than once, and none after was acknowledged."""
    unheard = _unheard(exchange)
    return len(unheard) >= 2 and not any(seen.number > unheard[0].number for seen in exchange.confirmations)


def _client_gone(scene: Scene, found: Grade, exchange: Exchange) -> None:
    unheard = _unheard(exchange)
    found.client.open.clear()
    found.client.remark(f"the client is silent from frame {unheard[0].number} on, as the test wants")
    _say_silence(scene, found, unheard[-1])


def _is_deleted(scene: Scene, exchange: Exchange) -> bool:
    return bool(_others(scene, exchange, codes.DELETE))


def _deletion(scene: Scene, found: Grade, exchange: Exchange) -> None:
    deletion = _others(scene, exchange, codes.DELETE)[0]
    found.exchanges.append(deletion)
    answered = _answered_at(deletion)
    if answered is None:
        found.server.doubt(f"the DELETE in frame {deletion.request.number} was not carried out")
        return
    told = [seen for seen in exchange.notifications if not codes.is_success(seen.code)]
    if told:
        _judge_end(scene, found, exchange, told[0])
        return
    later = [seen for seen in _after(exchange, answered) if seen.at - answered.at > 0.0]
    if later:
        found.server.fault(
            "observers of a resource that was deleted are told so by an error, and then no more", "RFC 7641 §4.2",
            later[0], SHOULD,
        )  # fmt: skip
    else:
        found.server.doubt("the capture has no notification after the DELETE")


def _judge_end(scene: Scene, found: Grade, exchange: Exchange, told: Seen) -> None:
    """Judge an observation after a notification of an error."""
    for seen in _after(exchange, told):
        found.server.fault("after a notification of an error an observer is notified no more", "RFC 7641 §4.2", seen)
    _say_silence(scene, found, told)


def _format_of(seen: Optional[Seen]) -> Optional[int]:
    return None if seen is None or seen.message is None else seen.message.options.uint(CONTENT_FORMAT)


def _updates(scene: Scene, exchange: Exchange, *, same_format: bool) -> list[Exchange]:
    mine = _format_of(exchange.response)
    return [
        each
        for each in _others(scene, exchange, codes.PUT, codes.POST)
        if (_format_of(each.request) in (mine, None)) == same_format and _answered_at(each) is not None
    ]


def _changes_format(scene: Scene, exchange: Exchange) -> bool:
    return bool(_updates(scene, exchange, same_format=False))


def _format_change(scene: Scene, found: Grade, exchange: Exchange) -> None:
    update = _updates(scene, exchange, same_format=False)[0]
    found.exchanges.append(update)
    answered = _answered_at(update)
    assert answered is not None
    told = [seen for seen in exchange.notifications if seen.number > update.request.number]
    errors = [seen for seen in told if not codes.is_success(seen.code)]
    if errors:
        if errors[0].code != codes.NOT_ACCEPTABLE:
            found.server.fault(
                "an observer of a format that is no more is told 4.06", "RFC 7641 §4.2", errors[0], SHOULD
            )
        _judge_end(scene, found, exchange, errors[0])
    elif not told:
        found.server.doubt("the capture has no notification after the change of format")
    else:
        found.server.remark("the server goes on in the format of the first response: allowed")


def _changes_value(scene: Scene, exchange: Exchange) -> bool:
    return bool(_updates(scene, exchange, same_format=True))


def _update(scene: Scene, found: Grade, exchange: Exchange) -> None:
    update = _updates(scene, exchange, same_format=True)[0]
    found.exchanges.append(update)
    answered = _answered_at(update)
    assert answered is not None
    told = [seen for seen in exchange.notifications if seen.number > update.request.number]
    if not told:
        found.server.doubt("the capture has no notification after the update")
        return
    first = told[0]
    if not codes.is_success(first.code):
        found.server.fault(
            "an update that succeeded leaves the resource with a state to tell its observers, not with an error",
            "RFC 7641 §4.2", first, ADVICE,
        )  # fmt: skip
    elif update.message.code == codes.PUT and all(_payload(seen) != update.message.payload for seen in told):
        found.server.doubt(f"no notification after frame {answered.number} has what was written")


def _payload(seen: Seen) -> bytes:
    return b"" if seen.message is None else seen.message.payload


def _reads(scene: Scene, exchange: Exchange) -> list[Exchange]:
    return [
        each
        for each in _others(scene, exchange, codes.GET)
        if each.client == exchange.client
        and each.message.options.uint(OBSERVE) is None
        and each.message.token != exchange.message.token
    ]


def _is_read(scene: Scene, exchange: Exchange) -> bool:
    return bool(_reads(scene, exchange))


def _read_between(scene: Scene, found: Grade, exchange: Exchange) -> None:
    read = _reads(scene, exchange)[0]
    found.exchanges.append(read)
    response = read.response
    if response is None or response.message is None:
        return
    if response.message.options.uint(OBSERVE) is not None:
        found.server.fault("who does not ask to observe gets no Observe option", "RFC 7641 §4.1", response)
    if not _after(exchange, response):
        found.server.doubt(f"the capture has no notification after frame {response.number}")


def _is_lossy(scene: Scene, exchange: Exchange) -> bool:
    return is_lossy(exchange) and not _is_unheard(scene, exchange) and _is_first(scene, exchange)


def _lossy(scene: Scene, found: Grade, exchange: Exchange) -> None:
    judge_repetition(found.client, exchange.request, exchange.copies)
    for seen in exchange.notifications:
        copies = [each for each in exchange.replies if each.message_id == seen.message_id and each is not seen]
        judge_repetition(found.server, seen, copies)
    confirmed_at: Optional[float] = 0.0
    previous: Optional[Seen] = None
    for seen in exchange.notifications:
        is_pending = previous is not None and confirmed_at is None and previous.type == CON
        if is_pending and previous is not None and not any(
            each.message_id == previous.message_id and each is not previous for each in exchange.replies
        ):  # fmt: skip
            found.server.doubt(f"frame {seen.number} is sent while frame {previous.number} waits to be acknowledged")
        confirmation = exchange.confirmation(seen)
        confirmed_at = None if confirmation is None or confirmation.at < seen.at else confirmation.at
        previous = seen


def _cancellations(scene: Scene, exchange: Exchange) -> list[Exchange]:
    return [
        each
        for each in _others(scene, exchange, codes.GET)
        if each.client == exchange.client
        and each.message.options.uint(OBSERVE) == DEREGISTER
        and each.message.token == exchange.message.token
    ]


def _is_cancelled(scene: Scene, exchange: Exchange) -> bool:
    return bool(_cancellations(scene, exchange))


def _cancellation(scene: Scene, found: Grade, exchange: Exchange) -> None:
    cancellation = _cancellations(scene, exchange)[0]
    found.exchanges.append(cancellation)
    response = cancellation.response
    if response is None or response.message is None:
        return
    if response.message.options.uint(OBSERVE) is not None:
        found.server.fault("who asks not to observe any more gets no Observe option", "RFC 7641 §4.1", response)
    for seen in (*_after(exchange, response), *_after(cancellation, response)):
        if seen.at - response.at > UNDER_WAY:
            found.server.fault("who asks not to be notified any more is not", "RFC 7641 §4.1", seen)
    _say_silence(scene, found, response)


def _large(scene: Scene, found: Grade, exchange: Exchange) -> None:
    _registration(scene, found, exchange)
    blocks = [seen for seen in exchange.responses if _block2(seen) is not None]
    if not blocks:
        found.server.doubt("no response is in blocks")
    asked = [
        each
        for each in scene.exchanges
        if each.client == exchange.client and each.path == exchange.path and (_block2(each.request) or 0) >> 4
    ]
    found.exchanges.extend(asked)
    if blocks and not asked:
        found.client.doubt("the client does not fetch the rest of what it is notified of")
    for each in asked:
        if each.message.options.uint(OBSERVE) is not None:
            found.client.fault(
                "the rest of a representation is fetched without the Observe option", "RFC 7959 §2.6", each.request
            )


def _block2(seen: Seen) -> Optional[int]:
    return None if seen.message is None else seen.message.options.uint(BLOCK2)


def _pumping(scene: Scene, found: Grade, exchange: Exchange) -> None:
    _large(scene, found, exchange)
    found.server.open[:] = [why for why in found.server.open if why != "no response is in blocks"]
    kinds: Sequence[bool] = [_block2(seen) is not None for seen in exchange.responses]
    if len(set(kinds)) < 2:
        found.server.doubt("the capture has not both: responses in blocks and in one piece")


_case("TD_COAP_OBS_01", "Observation with confirmable messages", _registration, _is_first, type=CON)
_case("TD_COAP_OBS_02", "Observation with non-confirmable messages", _non_notifications, _always, "observable_non")
_case(
    "TD_COAP_OBS_04", "A client registers anew when nothing is heard after Max-Age", _re_registration,
    _is_first_of_several,
)  # fmt: skip
_case("TD_COAP_OBS_05", "A client that is off is notified no more, after a while", _client_gone, _is_unheard)
_case("TD_COAP_OBS_06", "A client that rejects a notification is notified no more", _rejection, _is_rejected)
_case("TD_COAP_OBS_07", "Observers are told that a resource was deleted", _deletion, _is_deleted)
_case("TD_COAP_OBS_08", "Observers are told that a format is no more", _format_change, _changes_format)
_case("TD_COAP_OBS_09", "Observers are told what was written", _update, _changes_value)
_case("TD_COAP_OBS_10", "A GET between does not end an observation", _read_between, _is_read)
_case("TD_COAP_OBS_11", "Observation in a lossy context", _lossy, _is_lossy)
_case("TD_COAP_OBS_12", "A GET with Observe 1 ends an observation", _cancellation, _is_cancelled)
_case("TD_COAP_OBS_13", "Observation of what travels in blocks", _large, _always, "observable_large")
_case("TD_COAP_OBS_14", "Observation of what travels in blocks at times", _pumping, _always, "observable_pumping")
