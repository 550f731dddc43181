"""Options that a server does not know, or that come too often, too long or out of range: RFC 7252 §5.4, §5.10.

Before anything is asked in an odd way it is asked in a plain one: what makes a difference then is the option.
"""

from __future__ import annotations

from minicoap.codec import codes
from minicoap.codec.contentformats import TEXT
from minicoap.codec.message import NON
from minicoap.codec.options import (
    ACCEPT,
    BLOCK2,
    CONTENT_FORMAT,
    ETAG,
    IF_NONE_MATCH,
    MAX_AGE,
    OBSERVE,
    PROXY_URI,
    SIZE2,
    URI_PATH,
    URI_PORT,
    encode_uint,
)
from tools.conformance.model import ADVICE, CATALOGUE, Failure, Inconclusive, NotApplicable
from tools.conformance.peer import REFUSALS, Answer, Peer, Rejected, check, check_code

test = CATALOGUE.test
CRITICAL, OTHER_CRITICAL, ELECTIVE = 65001, 65003, 65004  # for experiments (RFC 7252 §12.2): nobody knows them
UNASSIGNED_FORMAT = 65001


def refused(peer: Peer, options: list[tuple[int, bytes]], what: str, section: str, *also: int) -> Answer:
    """GET with `options`, one of which is critical and cannot be processed: judge that 4.02 comes."""
    peer.control()
    rule = f"a confirmable request with {what} is answered 4.02"
    try:
        answer = peer.demand(codes.GET, "readable", options=options)
    except Rejected as error:
        raise Failure(f"{rule} (a reset came)", section, error.frame) from error
    check_code(answer, codes.BAD_OPTION, *also, rule=rule, section=section)
    return answer


def ignored(peer: Peer, options: list[tuple[int, bytes]], what: str, section: str) -> Answer:
    """GET with `options`, which are elective and mean nothing: judge that it is served as without."""
    peer.control()
    rule = f"a request with {what} is served as without"
    try:
        answer = peer.demand(codes.GET, "readable", options=options)
    except Rejected as error:
        raise Failure(f"{rule} (a reset came)", section, error.frame) from error
    if answer.code != codes.CONTENT:
        peer.control()
    check_code(answer, codes.CONTENT, rule=rule, section=section)
    return answer


@test("OPTION_01", section="RFC 7252 §5.4.1", needs=["readable"])
def unknown_critical(peer: Peer) -> None:
    """An unknown critical option
    GET with option 65001, then with 65003 as well: 4.02, nothing of the resource.
    """
    refused(peer, [(CRITICAL, b"")], "a critical option that is not known", "RFC 7252 §5.4.1")
    refused(
        peer, [(CRITICAL, b"conformance"), (OTHER_CRITICAL, b"x")], "critical options that are not known",
        "RFC 7252 §5.4.1",
    )  # fmt: skip


@test("OPTION_02", section="RFC 7252 §5.4.1", needs=["readable"])
def unknown_critical_non(peer: Peer) -> None:
    """An unknown critical option, non-confirmable
    GET, non-confirmable, with option 65001: nothing comes, or a reset, or (as later drafts have it) 4.02.
    """
    peer.control()
    sent = peer.request(codes.GET, "readable", type=NON, options=[(CRITICAL, b"")])
    peer.silence(
        lambda frame: (
            frame.message is not None and frame.message.token == sent.token and codes.is_success(frame.message.code)
        ),
        "a non-confirmable request with a critical option that is not known is not carried out", "RFC 7252 §5.4.1",
    )  # fmt: skip


@test("OPTION_03", section="RFC 7252 §5.4.1", needs=["readable"])
def unknown_elective(peer: Peer) -> None:
    """An unknown elective option
    GET with option 65004, empty, with 20 bytes, and twice: served.
    """
    ignored(peer, [(ELECTIVE, b"")], "an elective option that is not known", "RFC 7252 §5.4.1")
    ignored(peer, [(ELECTIVE, b"x" * 20), (ELECTIVE, b"y")], "elective options that are not known", "RFC 7252 §5.4.1")


@test("OPTION_04", section="RFC 7252 §5.4.5", needs=["readable"])
def critical_twice(peer: Peer) -> None:
    """A critical option that comes too often
    GET with Accept twice, the resource's own Content-Format both times: 4.02. With Uri-Port twice: 4.02.
    """
    plain = peer.control()
    content_format = plain.option(CONTENT_FORMAT)
    what = "{} twice, which is not repeatable and critical,"
    if content_format is not None:
        option = (ACCEPT, content_format)
        once = peer.ask(codes.GET, "readable", options=[option])
        if once.code in (codes.CONTENT, codes.BAD_OPTION):
            refused(peer, [option, option], what.format("Accept"), "RFC 7252 §5.4.5")
    port = (URI_PORT, encode_uint(peer.address[1]))
    once = peer.ask(codes.GET, "readable", options=[port])
    if once.code in (codes.CONTENT, codes.BAD_OPTION):
        refused(peer, [port, port], what.format("Uri-Port"), "RFC 7252 §5.4.5")


@test("OPTION_05", section="RFC 7252 §5.4.5", needs=["readable"])
def elective_twice(peer: Peer) -> None:
    """An elective option that comes too often
    GET with Size2 twice, and with Max-Age twice: served, the second of each ignored.
    """
    ignored(peer, [(SIZE2, b""), (SIZE2, b"")], "Size2 twice, which is elective,", "RFC 7252 §5.4.5")
    ignored(peer, [(MAX_AGE, b"\x01"), (MAX_AGE, b"\x02")], "Max-Age twice, which is elective,", "RFC 7252 §5.4.5")


@test("OPTION_06", section="RFC 7252 §5.4.5", needs=["writable"])
def content_format_twice(peer: Peer) -> None:
    """Content-Format that comes too often
    PUT with Content-Format 0, and then 65001: carried out as with the first alone.
    """
    plain = peer.ask(codes.PUT, "writable", payload=b"plain", content_format=TEXT)
    if not codes.is_success(plain.code):
        raise Inconclusive(f"a plain PUT is answered {codes.code_name(plain.code)}")
    other = [(CONTENT_FORMAT, encode_uint(UNASSIGNED_FORMAT))]
    answer = peer.ask(codes.PUT, "writable", payload=b"twice", content_format=TEXT, options=other)
    check_code(
        answer, codes.CREATED, codes.CHANGED, codes.DELETED,
        rule="a second Content-Format, being elective, is ignored", section="RFC 7252 §5.4.5",
    )  # fmt: skip


@test("OPTION_07", section="RFC 7252 §5.4.3", needs=["readable"])
def critical_length(peer: Peer) -> None:
    """A critical option of a length that it cannot have
    GET with Accept of 3 bytes, with Uri-Port of 3 bytes, with Block2 of 4 bytes: 4.02.
    """
    for number, name in ((ACCEPT, "an Accept"), (URI_PORT, "a Uri-Port")):
        refused(peer, [(number, b"\x00\x00\x01")], f"{name} of 3 bytes", "RFC 7252 §5.4.3")
    refused(peer, [(BLOCK2, b"\x00\x00\x00\x02")], "a Block2 of 4 bytes", "RFC 7252 §5.4.3")


@test("OPTION_08", section="RFC 7252 §5.4.3", needs=["readable"])
def elective_length(peer: Peer) -> None:
    """An elective option of a length that it cannot have
    GET with an ETag of 9 bytes, with Observe of 4 bytes, with an empty ETag: served; not observed.
    """
    ignored(peer, [(ETAG, b"ninebytes")], "an ETag of 9 bytes", "RFC 7252 §5.4.3")
    answer = ignored(peer, [(OBSERVE, bytes(4))], "an Observe of 4 bytes", "RFC 7252 §5.4.3")
    if peer.has("observable"):
        answer = peer.ask(codes.GET, "observable", options=[(OBSERVE, bytes(4))])
    check(answer.option(OBSERVE) is None, "an Observe option of 4 bytes is ignored", "RFC 7252 §5.4.3", answer)
    ignored(peer, [(ETAG, b"")], "an empty ETag", "RFC 7252 §5.4.3")


@test("OPTION_09", section="RFC 7252 §5.4.3", needs=["writable"])
def flag_with_value(peer: Peer) -> None:
    """If-None-Match that has a value
    PUT with If-None-Match of one byte: 4.02.
    """
    plain = peer.ask(codes.PUT, "writable", payload=b"plain", content_format=TEXT)
    if not codes.is_success(plain.code):
        raise Inconclusive(f"a plain PUT is answered {codes.code_name(plain.code)}")
    options = [(IF_NONE_MATCH, b"x")]
    answer = peer.ask(codes.PUT, "writable", payload=b"value", content_format=TEXT, options=options)
    check_code(
        answer, codes.BAD_OPTION, rule="a confirmable request with an If-None-Match of one byte is answered 4.02",
        section="RFC 7252 §5.4.3",
    )  # fmt: skip


@test("OPTION_10", section="RFC 7252 §5.10.4", needs=["readable"])
def not_acceptable(peer: Peer) -> None:
    """Accept of what cannot be had
    GET with Accept 65001: 4.06, or 4.02 from a server that does not know Accept.
    """
    peer.control()
    answer = peer.ask(codes.GET, "readable", options=[(ACCEPT, encode_uint(UNASSIGNED_FORMAT))])
    if answer.code == codes.CONTENT and answer.option(CONTENT_FORMAT) is None:
        raise Inconclusive("the response does not say of which Content-Format it is")
    if answer.uint(CONTENT_FORMAT) == UNASSIGNED_FORMAT and answer.code == codes.CONTENT:
        raise Inconclusive("the server has such a representation")
    check_code(
        answer,
        codes.NOT_ACCEPTABLE,
        codes.BAD_OPTION,
        rule="what cannot be had in the accepted format is answered 4.06",
        section="RFC 7252 §5.10.4",
    )


@test("OPTION_11", section="RFC 7252 §5.10.2")
def no_proxy(peer: Peer) -> None:
    """Proxy-Uri, of a scheme that nobody has
    GET with Proxy-Uri x-conformance://example.com/: 5.05, or 4.02 from a server that does not know the option.
    """
    options = [(PROXY_URI, b"x-conformance://example.com/")]
    try:
        answer = peer.demand(codes.GET, (), options=options)
    except Rejected as error:
        raise Failure(
            "a request to a forward-proxy is answered 5.05 by who is none (a reset came)",
            "RFC 7252 §5.10.2",
            error.frame,
        ) from error
    if codes.is_success(answer.code) and answer.code != codes.CONTENT:
        raise Inconclusive(f"{codes.code_name(answer.code)}: whoever answered this is a proxy of a kind")
    if answer.code in (codes.BAD_REQUEST, codes.BAD_GATEWAY, codes.GATEWAY_TIMEOUT):
        raise NotApplicable("the server is a proxy")
    check_code(
        answer, codes.PROXYING_NOT_SUPPORTED, codes.BAD_OPTION,
        rule="a request to a forward-proxy is answered 5.05 by who is none, or none for that URI",
        section="RFC 7252 §5.10.2",
    )  # fmt: skip


@test("OPTION_12", section="RFC 7252 §5.8", needs=["readable"])
def unknown_method(peer: Peer) -> None:
    """A method that nobody knows
    A request with code 0.30 to what can be read: 4.05, or 5.01 from a server of limited precision.
    """
    peer.control()
    rule = "a request with a method that is not known is answered 4.05"
    try:
        answer = peer.demand(0x1E, "readable")
    except Rejected as error:
        raise Failure(f"{rule} (a reset came)", "RFC 7252 §5.8", error.frame) from error
    check_code(answer, codes.METHOD_NOT_ALLOWED, codes.NOT_IMPLEMENTED, rule=rule, section="RFC 7252 §5.8")


@test("OPTION_13", section="RFC 7252 §5.9.2.5", level=ADVICE)
def not_found(peer: Peer) -> None:
    """A path that leads nowhere
    GET of a random path: 4.04.
    """
    answer = peer.ask(codes.GET, (peer.token(8).hex(),))
    if codes.is_success(answer.code) or answer.code in REFUSALS:
        raise NotApplicable("the server answers for every path")
    check_code(answer, codes.NOT_FOUND, rule="what is not there is answered 4.04", section="RFC 7252 §5.9.2.5")


@test("OPTION_14", section="RFC 7252 §3.2, §5.10.1", level=ADVICE)
def not_text(peer: Peer) -> None:
    """A path that is no UTF-8
    GET with a Uri-Path of the byte 0xFF: an error of the client's, 4.xx; the server lives on.
    """
    answer = peer.demand(codes.GET, (), options=[(URI_PATH, b"\xff\xfe")])
    check(
        codes.is_client_error(answer.code) or codes.is_success(answer.code),
        f"a path that cannot be is an error of the client's ({codes.code_name(answer.code)} came)", "RFC 7252 §5.9",
        answer,
    )  # fmt: skip
    peer.ping()


@test("OPTION_15", section="RFC 7252 §3.1", needs=["readable"])
def many_options(peer: Peer) -> None:
    """Many options, among them ones with extended deltas and lengths
    GET with ten elective options of one to 20 bytes, numbers up to 65,532: served.
    """
    options = [(number, bytes(1 + index * 2)) for index, number in enumerate(range(65004, 65533, 48))]
    ignored(peer, [*options[:10]], "ten elective options that are not known", "RFC 7252 §3.1, §5.4.1")
