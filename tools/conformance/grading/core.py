"""TD_COAP_CORE of ETSI CoAP#4 in captures (RFC 7252).

Only what packets show is judged. What the description wants and the RFC leaves open, such as a Content-Format, makes a
verdict inconclusive and no failure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Callable, Optional

from minicoap.codec import codes
from minicoap.codec.message import ACK, CON, NON, RST
from minicoap.codec.options import (
    ACCEPT,
    CONTENT_FORMAT,
    ETAG,
    IF_MATCH,
    IF_NONE_MATCH,
    LOCATION_PATH,
    LOCATION_QUERY,
    OBSERVE,
)
from tools.conformance.grading.exchanges import Exchange, Seen
from tools.conformance.grading.model import CASES, Case, Grade, Scene, Side
from tools.conformance.model import SHOULD

TEXT, XML = 0, 41
ACK_TIMEOUT = 2.0  # seconds: the shortest first wait (RFC 7252 §4.8)
EARLY = 0.9  # of it: what a clock may be wrong by

Chosen = Callable[[Exchange], bool]


def grade(test: str, *exchanges: Exchange) -> Grade:
    """Return the beginning of a grade."""
    return Grade(test, CASES.title(test), exchanges)


def expect(side: Side, seen: Optional[Seen], expected: Sequence[int], rule: str, section: str, level: str) -> bool:
    """Judge a response's code; True if it is one of those expected."""
    if seen is None or seen.message is None:
        return False
    if seen.code in expected:
        return True
    names = " or ".join(codes.code_name(code) for code in expected)
    came = codes.code_name(seen.code)
    if codes.is_success(seen.code):
        side.fault(f"{rule} ({names} expected, {came} came)", section, seen, level)
    else:
        side.doubt(f"frame {seen.number} refuses: {came}")
    return False


def want_format(side: Side, seen: Seen) -> None:
    """Leave open what has a payload without saying of which format: the description wants it, the RFC does not."""
    message = seen.message
    if message is not None and message.payload and message.options.uint(CONTENT_FORMAT) is None:
        side.doubt(
            f"frame {seen.number} has a payload without Content-Format, which the description asks for and RFC 7252 "
            "§5.5.1 does not"
        )


def want_content(side: Side, seen: Optional[Seen]) -> bool:
    """Judge a response to a GET."""
    is_content = expect(
        side, seen, (codes.CONTENT,), "a GET of what is there is answered 2.05", "RFC 7252 §5.8.1", "must"
    )
    if not is_content:
        return False
    assert seen is not None and seen.message is not None
    if not seen.message.payload:
        side.doubt(f"the representation in frame {seen.number} is empty")
    want_format(side, seen)
    return True


def _plain(exchange: Exchange) -> bool:
    return exchange.message.options.uint(OBSERVE) is None


def _case(
    test: str, title: str, role: str, code: int, type: int, judge: Callable[[Grade, Exchange], None],
    chosen: Chosen = _plain,
) -> None:  # fmt: skip
    """Enter a test of a single exchange; those of one client and server are one occurrence."""

    def find(scene: Scene) -> Iterator[Grade]:
        groups: dict[str, list[Exchange]] = {}
        for exchange in scene.at(role, code=code, type=type):
            if chosen(exchange):
                groups.setdefault(exchange.client[0], []).append(exchange)
        for exchanges in groups.values():
            found = grade(test, *exchanges)
            for exchange in exchanges:
                judge(found, exchange)
            yield found

    CASES.case(test, title)(find)


def _get(found: Grade, exchange: Exchange) -> None:
    want_content(found.server, exchange.response)


def _delete(found: Grade, exchange: Exchange) -> None:
    expect(
        found.server, exchange.response, (codes.DELETED,), "a DELETE that succeeds is answered 2.02",
        "RFC 7252 §5.8.4", "must",
    )  # fmt: skip


def _put(found: Grade, exchange: Exchange) -> None:
    want_format(found.client, exchange.request)
    expect(
        found.server, exchange.response, (codes.CREATED, codes.CHANGED),
        "a PUT that succeeds is answered 2.01 or 2.04", "RFC 7252 §5.8.3", "must",
    )  # fmt: skip


def _post(found: Grade, exchange: Exchange) -> None:
    want_format(found.client, exchange.request)
    expect(
        found.server, exchange.response, (codes.CREATED, codes.CHANGED, codes.DELETED),
        "a POST that succeeds is answered 2.01, 2.04 or 2.02", "RFC 7252 §5.8.2", SHOULD,
    )  # fmt: skip


def _separate(found: Grade, exchange: Exchange) -> None:
    _get(found, exchange)
    if exchange.response is not None and not exchange.is_separate:
        found.server.doubt(f"the response came in the acknowledgement, frame {exchange.response.number}: allowed")


def _segments(found: Grade, exchange: Exchange) -> None:
    _get(found, exchange)


def _query(found: Grade, exchange: Exchange) -> None:
    _get(found, exchange)
    if len(exchange.query) < 2:
        found.client.doubt(f"frame {exchange.request.number} has fewer than two Uri-Query options")


def _location(number: int, separators: bytes) -> Callable[[Grade, Exchange], None]:
    def judge(found: Grade, exchange: Exchange) -> None:
        _post(found, exchange)
        response = exchange.response
        if response is None or response.message is None:
            return
        for value in response.message.options.all(number):
            if any(each in separators for each in value):
                found.server.remark(f"frame {response.number}: {value!r} is one segment with its separator in it")

    return judge


def _has_location(number: int) -> Chosen:
    def chosen(exchange: Exchange) -> bool:
        response = exchange.response
        return response is not None and response.message is not None and bool(response.message.options.all(number))

    return chosen


def _has_token(exchange: Exchange) -> bool:
    return bool(exchange.message.token) and _plain(exchange)


def _has_no_token(exchange: Exchange) -> bool:
    return not exchange.message.token and _plain(exchange)


def is_lossy(exchange: Exchange) -> bool:
    """Whether anything of an exchange was sent again."""
    confirmed = [seen.message_id for seen in exchange.replies if seen.type == CON]
    return bool(exchange.copies) or len(set(confirmed)) < len(confirmed)


def _lossy(exchange: Exchange) -> bool:
    return _plain(exchange) and is_lossy(exchange)


def judge_repetition(side: Side, first: Seen, copies: Sequence[Seen]) -> None:
    """Judge the times at which a confirmable message was sent again (RFC 7252 §4.2)."""
    wait, latest = 0.0, first
    for copy in copies:
        waited = copy.at - latest.at
        if wait and waited < 1.5 * wait:
            side.remark(f"frame {copy.number} repeats after {waited:.1f} s, the one before after {wait:.1f} s")
        if not wait and waited < ACK_TIMEOUT * EARLY:
            side.remark(f"frame {copy.number} repeats after {waited:.2f} s; ACK_TIMEOUT is 2 s unless agreed otherwise")
        wait, latest = waited, copy


def _retransmission(found: Grade, exchange: Exchange) -> None:
    _get(found, exchange)
    judge_repetition(found.client, exchange.request, exchange.copies)
    answered = next((seen for seen in exchange.replies if seen.type in (ACK, RST)), None)
    late = [copy for copy in exchange.copies if answered is not None and copy.at - answered.at > ACK_TIMEOUT]
    if late:
        found.client.doubt(f"frame {late[0].number} repeats what frame {answered.number} answered: was that lost?")  # type: ignore[union-attr]


def _chosen_query(exchange: Exchange) -> bool:
    return _plain(exchange) and bool(exchange.query)


_case("TD_COAP_CORE_01", "GET, confirmable", "readable", codes.GET, CON, _get)
_case("TD_COAP_CORE_02", "DELETE, confirmable", "deletable", codes.DELETE, CON, _delete)
_case("TD_COAP_CORE_03", "PUT, confirmable", "writable", codes.PUT, CON, _put)
_case("TD_COAP_CORE_04", "POST, confirmable", "postable", codes.POST, CON, _post)
_case("TD_COAP_CORE_05", "GET, non-confirmable", "readable", codes.GET, NON, _get)
_case("TD_COAP_CORE_06", "DELETE, non-confirmable", "deletable", codes.DELETE, NON, _delete)
_case("TD_COAP_CORE_07", "PUT, non-confirmable", "writable", codes.PUT, NON, _put)
_case("TD_COAP_CORE_08", "POST, non-confirmable", "postable", codes.POST, NON, _post)
_case("TD_COAP_CORE_09", "GET with a separate response", "separate", codes.GET, CON, _separate)
_case("TD_COAP_CORE_10", "GET with a token", "readable", codes.GET, CON, _get, _has_token)
_case("TD_COAP_CORE_11", "GET with a token and a separate response", "separate", codes.GET, CON, _separate, _has_token)
_case("TD_COAP_CORE_12", "GET with an empty token", "readable", codes.GET, CON, _get, _has_no_token)
_case("TD_COAP_CORE_13", "GET of a path with several segments", "segments", codes.GET, CON, _segments)
_case("TD_COAP_CORE_14", "GET with several Uri-Query options", "query", codes.GET, CON, _query, _chosen_query)
_case("TD_COAP_CORE_15", "GET in a lossy context", "readable", codes.GET, CON, _retransmission, _lossy)
_case(
    "TD_COAP_CORE_16", "GET with a separate response, in a lossy context", "separate", codes.GET, CON,
    _retransmission, _lossy,
)  # fmt: skip
_case("TD_COAP_CORE_17", "GET, non-confirmable, of what takes a while", "separate", codes.GET, NON, _get)
_case(
    "TD_COAP_CORE_18", "POST that creates says where by Location-Path", "location", codes.POST, CON,
    _location(LOCATION_PATH, b"/"), _has_location(LOCATION_PATH),
)  # fmt: skip
_case(
    "TD_COAP_CORE_19", "POST that creates says where by Location-Query", "location_query", codes.POST, CON,
    _location(LOCATION_QUERY, b"?&"),
)  # fmt: skip


def _clients(exchanges: Sequence[Exchange]) -> list[list[Exchange]]:
    groups: dict[str, list[Exchange]] = {}
    for exchange in exchanges:
        groups.setdefault(exchange.client[0], []).append(exchange)
    return list(groups.values())


def _enter(test: str, title: str) -> Callable[[Case], Case]:
    return CASES.case(test, title)


@_enter("TD_COAP_CORE_20", "Accept chooses among representations")
def _accept(scene: Scene) -> Iterator[Grade]:
    for exchanges in _clients(scene.at("multi_format", code=codes.GET, type=CON)):
        accepting = [each for each in exchanges if each.message.options.uint(ACCEPT) is not None]
        if not accepting:
            continue
        found = grade("TD_COAP_CORE_20", *accepting)
        asked = {each.message.options.uint(ACCEPT) for each in accepting}
        for number in (TEXT, XML):
            if number not in asked:
                found.client.doubt(f"the client does not ask for Content-Format {number}")
        for each in accepting:
            number = each.message.options.uint(ACCEPT) or 0
            response = each.response
            if response is None or response.message is None:
                continue
            if response.code == codes.NOT_ACCEPTABLE and number not in (TEXT, XML):
                continue
            if want_content(found.server, response) and response.message.options.uint(CONTENT_FORMAT) != number:
                found.server.fault(
                    "a representation is of the format that Accept names, or 4.06", "RFC 7252 §5.10.4", response
                )
        yield found


@_enter("TD_COAP_CORE_21", "A representation that the client has is confirmed by 2.03")
def _validation(scene: Scene) -> Iterator[Grade]:
    for exchanges in _clients(scene.at("validate", code=codes.GET, type=CON)):
        asking = [each for each in exchanges if each.message.options.all(ETAG)]
        if not asking:
            continue
        writes = [each for each in scene.at("validate") if each.message.code != codes.GET]
        found = grade("TD_COAP_CORE_21", *exchanges, *(each for each in writes if not _etags(each)))
        known: set[bytes] = set()
        changed = False
        for each in exchanges:
            response = each.response
            if response is None or response.message is None:
                continue
            sent = set(each.message.options.all(ETAG))
            etag = response.message.options.get(ETAG)
            if not sent <= known:
                found.client.doubt(f"frame {each.request.number} has an ETag that no response of the capture had")
            if not sent:
                want_content(found.server, response)
                if etag is None:
                    found.server.doubt(f"frame {response.number} has no ETag")
            elif response.code == codes.VALID:
                if response.message.payload:
                    found.server.fault("2.03 has no payload", "RFC 7252 §5.9.1.3", response)
                if etag is None or etag not in sent:
                    found.server.fault("2.03 names one of the request's ETags", "RFC 7252 §5.9.1.3", response)
            elif want_content(found.server, response):
                changed = True
                if etag in sent:
                    found.server.fault(
                        "an ETag of the request that is still good is answered 2.03", "RFC 7252 §5.10.6.2", response
                    )
            if etag is not None:
                known.add(etag)
        if not changed:
            found.client.doubt("the client does not ask again after a change")
        yield found


@_enter("TD_COAP_CORE_22", "If-Match lets a PUT through for the representation it names, and stops it for another")
def _if_match(scene: Scene) -> Iterator[Grade]:
    for exchanges in _clients([*scene.at("validate", type=CON)]):
        conditional = [each for each in exchanges if each.message.code == codes.PUT and _etags(each)]
        if not conditional:
            continue
        found = grade("TD_COAP_CORE_22", *exchanges)
        current: Optional[bytes] = None  # the ETag of what is there, as far as it is known
        refused = False
        for each in scene.at("validate"):
            response = each.response
            if response is None or response.message is None:
                current = None
                continue
            if each.message.code == codes.GET:
                if response.code == codes.CONTENT:
                    current = response.message.options.get(ETAG)
                continue
            if each in conditional:
                if current is not None and current in _etags(each):
                    expect(
                        found.server, response, (codes.CHANGED,), "a PUT whose If-Match holds is carried out",
                        "RFC 7252 §5.10.8.1", "must",
                    )  # fmt: skip
                elif current is not None and codes.is_success(response.code):
                    found.server.fault(
                        "a PUT whose If-Match names another representation is answered 4.12", "RFC 7252 §5.10.8.1",
                        response,
                    )  # fmt: skip
                refused = refused or response.code == codes.PRECONDITION_FAILED
            if codes.is_success(response.code):
                current = response.message.options.get(ETAG)
        if not refused and not found.server.faults:
            found.server.doubt("no PUT of the capture had to be refused, or none was for certain")
        yield found


def _etags(exchange: Exchange) -> tuple[bytes, ...]:
    return exchange.message.options.all(IF_MATCH)


@_enter("TD_COAP_CORE_23", "If-None-Match lets a PUT create, and stops it once the resource is there")
def _if_none_match(scene: Scene) -> Iterator[Grade]:
    everything = scene.at("create")
    for exchanges in _clients([each for each in everything if each.message.code == codes.PUT]):
        conditional = [each for each in exchanges if _has_if_none_match(each)]
        if not conditional:
            continue
        found = grade("TD_COAP_CORE_23", *conditional)
        is_there: Optional[bool] = None
        for each in everything:
            response = each.response
            if response is None:
                is_there = None
                continue
            if each in conditional and is_there and codes.is_success(response.code):
                found.server.fault(
                    "a PUT with If-None-Match on what exists is answered 4.12", "RFC 7252 §5.10.8.2", response
                )
            if response.code in (codes.CREATED, codes.CHANGED, codes.CONTENT, codes.PRECONDITION_FAILED):
                is_there = True
            elif response.code in (codes.DELETED, codes.NOT_FOUND):
                is_there = False
        if len(conditional) < 2:
            found.client.doubt("the client sends one such PUT only")
        yield found


def _has_if_none_match(exchange: Exchange) -> bool:
    return exchange.message.options.get(IF_NONE_MATCH) is not None


@_enter("TD_COAP_CORE_31", "Ping: an empty confirmable message is answered by a reset")
def _ping(scene: Scene) -> Iterator[Grade]:
    for exchanges in _clients([each for each in scene.exchanges if each.is_ping]):
        found = grade("TD_COAP_CORE_31", *exchanges)
        for each in exchanges:
            if not each.replies:
                found.server.doubt(f"the capture has no answer to frame {each.request.number}")
            for reply in each.replies:
                if reply.type != RST:
                    found.server.fault("an empty confirmable message is rejected with a reset", "RFC 7252 §4.3", reply)
        yield found
