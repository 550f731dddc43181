"""TD_COAP_CORE of ETSI CoAP#4: the base specification, RFC 7252. The descriptions are of 2014; the RFC wins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Union

from minicoap.codec import codes
from minicoap.codec.contentformats import TEXT
from minicoap.codec.message import NON, RST
from minicoap.codec.options import (
    ACCEPT,
    CONTENT_FORMAT,
    ETAG,
    IF_MATCH,
    IF_NONE_MATCH,
    LOCATION_PATH,
    LOCATION_QUERY,
    encode_uint,
)
from tools.conformance.model import CATALOGUE, SHOULD, Failure, Inconclusive, NotApplicable
from tools.conformance.peer import Answer, Peer, check, check_code, check_success

test = CATALOGUE.test
XML = 41
UNASSIGNED_FORMAT = 65001  # for experiments (RFC 7252 §12.3): nobody has it
BODY = b"conformance test"


def answered(peer: Peer, code: int, where: Union[str, Sequence[str]], **arguments: Any) -> Answer:
    """Ask, and judge what travels wrong whatever the answer says (RFC 7252 §5.2, §5.3.1: see `Peer.answer`)."""
    return peer.ask(code, where, **arguments)


def content(answer: Answer) -> None:
    """Judge a 2.05 with something in it."""
    check_success(answer, codes.CONTENT, rule="a GET that is carried out is answered 2.05", section="RFC 7252 §5.8.1")
    if not answer.payload:
        raise Inconclusive("the resource is empty: nothing can be said of its representation")


def wrote(answer: Answer) -> None:
    """Judge the answer to a PUT."""
    check_success(
        answer, codes.CREATED, codes.CHANGED, rule="a PUT that is carried out is answered 2.01 or 2.04",
        section="RFC 7252 §5.8.3",
    )  # fmt: skip


def posted(answer: Answer) -> None:
    """Judge the answer to a POST."""
    check_success(
        answer, codes.CREATED, codes.CHANGED, codes.DELETED,
        rule="a POST that is carried out is answered 2.01, 2.04 or 2.02", section="RFC 7252 §5.8.2",
    )  # fmt: skip


def deleted(answer: Answer) -> None:
    """Judge the answer to a DELETE."""
    check_success(
        answer, codes.DELETED, rule="a DELETE that is carried out, or finds nothing, is answered 2.02",
        section="RFC 7252 §5.8.4",
    )  # fmt: skip


@test("TD_COAP_CORE_01", section="RFC 7252 §5.8.1, §5.2.1", needs=["readable"])
def get_con(peer: Peer) -> None:
    """GET, confirmable
    A confirmable GET is answered 2.05, with its token, in the acknowledgement or separately.
    """
    content(answered(peer, codes.GET, "readable"))


@test("TD_COAP_CORE_02", section="RFC 7252 §5.8.4", needs=["deletable"])
def delete_con(peer: Peer) -> None:
    """DELETE, confirmable
    A DELETE is answered 2.02, also of what is not there.
    """
    deleted(answered(peer, codes.DELETE, "deletable"))


@test("TD_COAP_CORE_03", section="RFC 7252 §5.8.3", needs=["writable"])
def put_con(peer: Peer) -> None:
    """PUT, confirmable"""
    wrote(answered(peer, codes.PUT, "writable", payload=BODY, content_format=TEXT))


@test("TD_COAP_CORE_04", section="RFC 7252 §5.8.2", needs=["postable"])
def post_con(peer: Peer) -> None:
    """POST, confirmable"""
    posted(answered(peer, codes.POST, "postable", payload=BODY, content_format=TEXT))


@test("TD_COAP_CORE_05", section="RFC 7252 §5.8.1, §5.2.3", needs=["readable"])
def get_non(peer: Peer) -> None:
    """GET, non-confirmable
    The response comes in a message of its own, which should be non-confirmable too.
    """
    content(answered(peer, codes.GET, "readable", type=NON))


@test("TD_COAP_CORE_06", section="RFC 7252 §5.8.4, §5.2.3", needs=["deletable"])
def delete_non(peer: Peer) -> None:
    """DELETE, non-confirmable"""
    deleted(answered(peer, codes.DELETE, "deletable", type=NON))


@test("TD_COAP_CORE_07", section="RFC 7252 §5.8.3, §5.2.3", needs=["writable"])
def put_non(peer: Peer) -> None:
    """PUT, non-confirmable"""
    wrote(answered(peer, codes.PUT, "writable", type=NON, payload=BODY, content_format=TEXT))


@test("TD_COAP_CORE_08", section="RFC 7252 §5.8.2, §5.2.3", needs=["postable"])
def post_non(peer: Peer) -> None:
    """POST, non-confirmable"""
    posted(answered(peer, codes.POST, "postable", type=NON, payload=BODY, content_format=TEXT))


@test("TD_COAP_CORE_09", section="RFC 7252 §5.2.2", needs=["separate"])
def separate(peer: Peer) -> None:
    """GET with a separate response
    An empty acknowledgement comes first, the response later in a message with an ID of its own.
    """
    answer = answered(peer, codes.GET, "separate")
    if not answer.separate:
        raise Inconclusive("the response came in the acknowledgement; this is allowed, and not what was to be tested")
    content(answer)


@test("TD_COAP_CORE_10", section="RFC 7252 §5.3.1", needs=["readable"])
def token(peer: Peer) -> None:
    """GET with a token of each length from 1 to 8"""
    for length in range(1, 9):
        content(answered(peer, codes.GET, "readable", token=peer.token(length)))


@test("TD_COAP_CORE_11", section="RFC 7252 §5.3.1, §5.2.2", needs=["separate"])
def token_separate(peer: Peer) -> None:
    """GET with a token and a separate response"""
    content(answered(peer, codes.GET, "separate", token=peer.token(8)))


@test("TD_COAP_CORE_12", section="RFC 7252 §5.3.1", needs=["readable"])
def empty_token(peer: Peer) -> None:
    """GET with an empty token"""
    content(answered(peer, codes.GET, "readable", token=b""))


@test("TD_COAP_CORE_13", section="RFC 7252 §5.10.1", needs=["segments"])
def several_segments(peer: Peer) -> None:
    """GET of a path with several segments"""
    content(answered(peer, codes.GET, "segments"))


@test("TD_COAP_CORE_14", section="RFC 7252 §5.10.1", needs=["query"])
def several_queries(peer: Peer) -> None:
    """GET with several Uri-Query options"""
    content(answered(peer, codes.GET, "query", query=["first=1", "second=2", "third=3"]))


@test("TD_COAP_CORE_17", section="RFC 7252 §5.2.2, §5.2.3", needs=["separate"])
def separate_non(peer: Peer) -> None:
    """GET, non-confirmable, of what takes a while"""
    content(answered(peer, codes.GET, "separate", type=NON))


def located(answer: Answer) -> None:
    """Judge Location-Path and Location-Query: one segment, or one argument, each."""
    options = answer.message.options
    check(
        all(value not in (b".", b"..") for value in options.all(LOCATION_PATH)),
        "no Location-Path option is . or ..", "RFC 7252 §5.10.7", answer,
    )  # fmt: skip


@test("TD_COAP_CORE_18", section="RFC 7252 §5.8.2, §5.10.7", needs=["location"])
def location_path(peer: Peer) -> None:
    """POST that creates a resource says where by Location-Path"""
    answer = answered(peer, codes.POST, "location", payload=BODY, content_format=TEXT)
    posted(answer)
    located(answer)
    if answer.code != codes.CREATED:
        raise Inconclusive("nothing was created")
    if not answer.message.options.all(LOCATION_PATH):
        raise Inconclusive("the server did not say where; it need not if that is the URI of the request")


@test("TD_COAP_CORE_19", section="RFC 7252 §5.8.2, §5.10.7", needs=["location_query"])
def location_query(peer: Peer) -> None:
    """POST that creates a resource says where by Location-Query"""
    answer = answered(peer, codes.POST, "location_query", payload=BODY, content_format=TEXT)
    posted(answer)
    located(answer)
    if answer.code != codes.CREATED or not answer.message.options.all(LOCATION_QUERY):
        raise Inconclusive("nothing was created, or its URI has no query")


@test("TD_COAP_CORE_20", section="RFC 7252 §5.10.4", needs=["multi_format"])
def accept(peer: Peer) -> None:
    """GET with Accept
    Accept: text/plain gets that, application/xml that; a format that there is not, 4.06.
    """
    for number in (TEXT, XML):
        answer = answered(peer, codes.GET, "multi_format", options=[(ACCEPT, encode_uint(number))])
        if answer.code in (codes.NOT_ACCEPTABLE, codes.BAD_OPTION):
            raise Inconclusive(f"the resource has no representation of Content-Format {number}, or Accept is not known")
        if answer.code == codes.CONTENT and answer.option(CONTENT_FORMAT) is None:
            raise Inconclusive("the response does not say of which Content-Format it is")
        content(answer)
        check(
            answer.uint(CONTENT_FORMAT) == number, "a representation is of the format that Accept names, or 4.06",
            "RFC 7252 §5.10.4", answer,
        )  # fmt: skip
    answer = answered(peer, codes.GET, "multi_format", options=[(ACCEPT, encode_uint(UNASSIGNED_FORMAT))])
    check_code(
        answer, codes.NOT_ACCEPTABLE, rule="what cannot be had in the accepted format is answered 4.06",
        section="RFC 7252 §5.10.4",
    )  # fmt: skip


@test("TD_COAP_CORE_21", section="RFC 7252 §5.9.1.3, §5.10.6.2", needs=["validate"])
def validation(peer: Peer) -> None:
    """GET with the ETag of what the client has already
    GET; the response has an ETag.
    GET with that ETag: 2.03, the same ETag, no payload.
    PUT something else, and GET with the first ETag: 2.05, another ETag, the new representation.
    """
    first = answered(peer, codes.GET, "validate")
    content(first)
    etag = first.option(ETAG)
    if etag is None:
        raise Inconclusive("the response has no ETag")
    again = answered(peer, codes.GET, "validate", options=[(ETAG, etag)])
    if again.code == codes.CONTENT:
        if again.option(ETAG) != etag:
            raise Inconclusive("the resource changes by itself")
        raise Failure(
            "a representation that the client has, by its ETag, is confirmed by 2.03 rather than sent again",
            "RFC 7252 §5.10.6.2", again.frame, level=SHOULD,
        )  # fmt: skip
    check_success(again, codes.VALID, rule="an ETag that is still good is answered 2.03", section="RFC 7252 §5.10.6.2")
    check(again.option(ETAG) == etag, "2.03 names the representation by its ETag", "RFC 7252 §5.9.1.3", again)
    check(not again.payload, "2.03 has no payload", "RFC 7252 §5.9.1.3", again)
    other = b"second" if first.payload != b"second" else b"third"
    wrote(answered(peer, codes.PUT, "validate", payload=other, content_format=TEXT))
    changed = answered(peer, codes.GET, "validate", options=[(ETAG, etag)])
    plain = answered(peer, codes.GET, "validate")
    if plain.payload == first.payload:
        raise Inconclusive("the resource did not change by a PUT")
    if changed.code == codes.VALID and plain.option(ETAG) != etag:
        raise Failure("an ETag that is none of the present representation's is not confirmed by 2.03",
                      "RFC 7252 §5.10.6.2", changed.frame)  # fmt: skip
    check(plain.option(ETAG) != etag, "another representation has another ETag", "RFC 7252 §5.10.6", plain)
    content(changed)


@test("TD_COAP_CORE_22", section="RFC 7252 §5.10.8.1", needs=["validate"])
def if_match(peer: Peer) -> None:
    """PUT with If-Match
    With the ETag of what is there: carried out. With an ETag of what was there before: 4.12, nothing changes.
    """
    etag = answered(peer, codes.GET, "validate").option(ETAG)
    if etag is None:
        raise Inconclusive("the response has no ETag")
    first = _put_if_match(peer, etag, peer.token(6).hex().encode())
    if first.code == codes.BAD_OPTION:
        raise NotApplicable("the server does not know If-Match")
    if first.code == codes.PRECONDITION_FAILED:
        raise Inconclusive("4.12: the resource may have changed between the GET and the PUT")
    wrote(first)
    before = answered(peer, codes.GET, "validate")
    if before.option(ETAG) == etag:
        raise Inconclusive("the ETag did not change with the resource")
    answer = _put_if_match(peer, etag, peer.token(6).hex().encode())
    if not codes.is_success(answer.code) and answer.code != codes.PRECONDITION_FAILED:
        raise Inconclusive(f"the server refuses: {codes.code_name(answer.code)}")
    check(
        answer.code == codes.PRECONDITION_FAILED,
        "a request whose If-Match names no present representation is not carried out; it is answered 4.12",
        "RFC 7252 §5.10.8.1", answer,
    )  # fmt: skip
    after = answered(peer, codes.GET, "validate")
    if before.code == after.code == codes.CONTENT and before.payload != after.payload:
        raise Inconclusive("the resource changed meanwhile")


def _put_if_match(peer: Peer, etag: bytes, body: bytes) -> Answer:
    return answered(peer, codes.PUT, "validate", payload=body, content_format=TEXT, options=[(IF_MATCH, etag)])


@test("TD_COAP_CORE_23", section="RFC 7252 §5.10.8.2", needs=["create"])
def if_none_match(peer: Peer) -> None:
    """PUT with If-None-Match
    Where nothing is: created, 2.01. Where something is: 4.12.
    """
    options = [(IF_NONE_MATCH, b"")]
    answered(peer, codes.DELETE, "create")
    first = answered(peer, codes.PUT, "create", payload=BODY, content_format=TEXT, options=options)
    if first.code == codes.PRECONDITION_FAILED:
        raise Inconclusive("the resource is there already and cannot be removed")
    if first.code == codes.BAD_OPTION:
        raise NotApplicable("the server does not know If-None-Match")
    wrote(first)
    if answered(peer, codes.GET, "create").code not in (codes.CONTENT, codes.METHOD_NOT_ALLOWED):
        raise Inconclusive("what was created cannot be seen")
    answer = answered(peer, codes.PUT, "create", payload=BODY, content_format=TEXT, options=options)
    check_code(
        answer, codes.PRECONDITION_FAILED, rule="a PUT with If-None-Match on what exists is answered 4.12",
        section="RFC 7252 §5.10.8.2",
    )  # fmt: skip


@test("TD_COAP_CORE_31", section="RFC 7252 §4.2")
def ping(peer: Peer) -> None:
    """Ping
    An empty confirmable message is answered by a reset.
    """
    frame = peer.ping()
    message = frame.message
    assert message is not None
    if message.type != RST:
        raise Failure("an empty confirmable message is rejected with a reset", "RFC 7252 §4.2", frame)
    check(message.code == codes.EMPTY, "a reset is empty", "RFC 7252 §4.2", frame)
