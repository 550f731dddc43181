"""Echo (RFC 9175 §2), No-Response (RFC 7967), extended tokens (RFC 8974), Hop-Limit (RFC 8768).

Each is elective, or recognised by trying: a server that does not have it is not at fault, and says so by ignoring it.
"""

from __future__ import annotations

from typing import Callable

from minicoap.codec import codes
from minicoap.codec.contentformats import TEXT
from minicoap.codec.message import ACK, CON, NON, RST
from minicoap.codec.options import ECHO, HOP_LIMIT, NO_RESPONSE
from tools.conformance.frames import Frame
from tools.conformance.model import ADVICE, CATALOGUE, SHOULD, Failure, Inconclusive, NotApplicable
from tools.conformance.peer import Peer, Sent, check, check_code
from tools.conformance.tests.malformed import answers, head, path_options
from tools.conformance.tests.options import ignored

test = CATALOGUE.test
NOT_2XX, NOT_4XX, NOT_5XX = 2, 8, 16  # what No-Response says that nobody wants (RFC 7967 §2.1)


# Echo


@test("ECHO_01", section="RFC 9175 §2.2, RFC 7252 §5.4.1", needs=["readable"])
def echo_unasked(peer: Peer) -> None:
    """An Echo value that the server did not make
    GET with Echo of 1 byte and of 40: served as without, or answered 4.01 with a value of the server's own.
    """
    peer.control()
    for value in (b"?", b"conformance" * 3):
        answer = peer.ask(codes.GET, "readable", options=[(ECHO, value)])
        if answer.code == codes.UNAUTHORIZED and answer.option(ECHO) is not None:
            check(
                answer.option(ECHO) != value,
                "an Echo value that the server did not make is not taken for one of its own",
                "RFC 9175 §2.3",
                answer,
            )
            continue
        check_code(
            answer, codes.CONTENT, rule="Echo, which is elective, does not keep a request from being served",
            section="RFC 9175 §2.2, RFC 7252 §5.4.1",
        )  # fmt: skip


@test("ECHO_02", section="RFC 9175 §2.2, §2.3", needs=["fresh"])
def echo_wanted(peer: Peer) -> None:
    """What is done only by a fresh request
    POST without Echo: 4.01 with an Echo value of 1 to 40 bytes. POST with it: carried out.
    POST with a value that the server did not make: 4.01 again.
    """
    first = peer.answer(peer.request(codes.POST, "fresh", payload=b"1", content_format=TEXT))
    value = first.option(ECHO)
    if first.code != codes.UNAUTHORIZED or value is None:
        raise NotApplicable("the resource does not ask for freshness")
    check(1 <= len(value) <= 40, "an Echo value has 1 to 40 bytes", "RFC 9175 §2.2.1", first)
    for index in (0, len(value) // 2, len(value) - 1):
        forged = value[:index] + bytes((value[index] ^ 0xFF,)) + value[index + 1 :]
        wrong = peer.answer(
            peer.request(codes.POST, "fresh", payload=b"1", content_format=TEXT, options=[(ECHO, forged)])
        )
        check(
            not codes.is_success(wrong.code),
            "a request whose Echo value the server did not make is not taken for fresh",
            "RFC 9175 §2.3",
            wrong,
        )
    fresh = peer.answer(peer.request(codes.POST, "fresh", payload=b"1", content_format=TEXT, options=[(ECHO, value)]))
    if fresh.code == codes.UNAUTHORIZED and fresh.option(ECHO) is not None:
        raise Inconclusive("the value was not taken; it may have been too old")
    if not codes.is_success(fresh.code):
        raise Inconclusive(f"the server refuses: {codes.code_name(fresh.code)}")


@test("ECHO_03", section="RFC 9175 §2.3", needs=["fresh"])
def echo_elsewhere(peer: Peer) -> None:
    """An Echo value brought from another port
    POST from one port; POST with the value that came from another port: 4.01, if the server binds values to addresses.
    """
    first = peer.answer(peer.request(codes.POST, "fresh", payload=b"1", content_format=TEXT))
    value = first.option(ECHO)
    if first.code != codes.UNAUTHORIZED or value is None:
        raise NotApplicable("the resource does not ask for freshness")
    with peer.another() as other:
        answer = other.answer(
            other.request(codes.POST, "fresh", payload=b"1", content_format=TEXT, options=[(ECHO, value)])
        )
    if codes.is_success(answer.code):
        raise Inconclusive("the value is good from another port, too: it proves freshness, and no address")


# No-Response


def no_response(peer: Peer, value: int, role_path: tuple[str, ...], type: int) -> Sent:
    """GET with No-Response."""
    return peer.request(codes.GET, role_path, type=type, options=[(NO_RESPONSE, bytes((value,)) if value else b"")])


def responds(sent: Sent) -> Callable[[Frame], bool]:
    """Return what recognises a response to a request."""

    def is_response(frame: Frame) -> bool:
        message = frame.message
        return message is not None and message.token == sent.token and codes.is_response(message.code)

    return is_response


def has_token(message_id: int, token: bytes) -> Callable[[Frame], bool]:
    """Return what recognises whatever answers a message with a token."""
    return lambda frame: answers(message_id)(frame) or (frame.message is not None and frame.message.token == token)


@test("NO_RESPONSE_01", section="RFC 7967 §2.1", needs=["readable"])
def nothing_wanted(peer: Peer) -> None:
    """No response is wanted
    GET, non-confirmable, with No-Response 26: no response; a server that sends one does not have the option.
    """
    peer.control()
    sent = no_response(peer, NOT_2XX | NOT_4XX | NOT_5XX, peer.path("readable"), NON)
    if peer.receive(responds(sent), peer.grace) is not None:
        raise NotApplicable("the server does not have No-Response; it need not")


@test("NO_RESPONSE_02", section="RFC 7967 §2.1", needs=["readable"])
def other_classes(peer: Peer) -> None:
    """Responses of other classes are wanted
    GET of what is there with No-Response 24: the 2.05 comes. GET of what is not with No-Response 2: the error comes.
    """
    peer.control()
    missing = (peer.token(8).hex(),)
    for value, path, what in (
        (NOT_4XX | NOT_5XX, peer.path("readable"), "a success, where errors are not wanted,"),
        (0, peer.path("readable"), "a response, where all are wanted,"),
        (NOT_2XX, missing, "an error, where successes are not wanted,"),
    ):
        sent = no_response(peer, value, path, NON)
        plain = peer.ask(codes.GET, path)
        if codes.is_success(plain.code) == (path == missing):
            raise Inconclusive(f"/{'/'.join(path)} is answered {codes.code_name(plain.code)}")
        if peer.receive(responds(sent), peer.grace) is not None:
            continue

        def fresh(value: int = value, path: tuple[str, ...] = path) -> Sent:
            return no_response(peer, value, path, NON)

        losses = peer.losses
        for _ in range(4):
            sent = no_response(peer, value, path, NON)
            peer.ping()
            if peer.receive(responds(sent), peer.grace) is not None:
                break
        else:
            if peer.losses > losses:
                raise Inconclusive("no response came; but packets get lost on the way")
            raise Failure(f"{what} is sent", "RFC 7967 §2.1", sent.frame)


@test("NO_RESPONSE_03", section="RFC 7967 §2.1, RFC 7252 §4.2", needs=["readable"])
def still_acknowledged(peer: Peer) -> None:
    """A confirmable request whose response is not wanted
    GET, confirmable, with No-Response 26: it is acknowledged all the same.
    """
    peer.control()
    sent = no_response(peer, NOT_2XX | NOT_4XX | NOT_5XX, peer.path("readable"), CON)
    frame = peer.insist(
        sent.frame.data,
        has_token(sent.message_id, sent.token),
        "a confirmable message is acknowledged, though nobody wants a response to it", "RFC 7252 §4.2",
    )  # fmt: skip
    assert frame.message is not None
    if frame.message.type == RST:
        raise Failure("No-Response, which is elective, does not get a request rejected", "RFC 7252 §5.4.1", frame)


# Extended tokens


@test("TOKEN_01", section="RFC 8974 §2.1, §2.2", needs=["readable"])
def extended(peer: Peer) -> None:
    """A token of more than 8 bytes
    GET with a token of 9 bytes, of 12, of 13 and of 40: the response has that token, whole; or a reset, from a server
    that has RFC 7252 alone.
    """
    options = path_options(peer)
    peer.control()
    for length in (9, 12, 13, 40):
        token, message_id = peer.token(length), peer.next_message_id()
        extension = bytes((length - 13,)) if length > 12 else b""
        data = head(CON, min(length, 13), codes.GET, message_id) + extension + token + options
        frame = peer.insist(
            data,
            has_token(message_id, token),
            "a confirmable message is acknowledged, or rejected with a reset",
            "RFC 7252 §4.2",
        )
        message = frame.message
        assert message is not None
        if message.type == RST:
            check(message.code == codes.EMPTY, "a reset is empty", "RFC 7252 §4.2", frame)
            if length > 13:
                raise Failure(
                    "a server that has extended tokens does not reject a message for the length of one, but answers "
                    "4.00 or 5.03", "RFC 8974 §2.2.2, §3.1", frame,
                )  # fmt: skip
            raise NotApplicable("the server does not have extended tokens; it need not")
        if message.type == ACK and message.code == codes.EMPTY:
            continue
        check(
            message.token == token,
            "a response carries the token of its request, whole",
            "RFC 7252 §5.3.1, RFC 8974 §2.1",
            frame,
        )


@test("TOKEN_02", section="RFC 8974 §2.1, §2.2.2", level=SHOULD, needs=["readable"])
def too_long(peer: Peer) -> None:
    """A token of 1,000 bytes
    GET with it: the response has it, or is 4.00 or 5.03; no reset from a server that has extended tokens.
    """
    options = path_options(peer)
    peer.control()
    try:
        extended(peer)
    except Failure as error:
        raise Inconclusive("TOKEN_01 has to pass first") from error
    token, message_id = peer.token(1000), peer.next_message_id()
    data = head(CON, 14, codes.GET, message_id) + (1000 - 269).to_bytes(2, "big") + token + options
    frame = peer.insist(
        data, answers(message_id), "a confirmable message is acknowledged, or rejected with a reset", "RFC 7252 §4.2"
    )
    message = frame.message
    assert message is not None
    if message.type == RST:
        raise Failure(
            "a server that has extended tokens rejects no message for one that is too long, but answers 4.00 or 5.03",
            "RFC 8974 §2.2.2",
            frame,
            level="must",
        )
    if codes.is_response(message.code):
        check(message.token == token, "a response carries the token of its request, whole", "RFC 8974 §2.1", frame)


# Hop-Limit


@test("HOP_LIMIT_01", section="RFC 8768 §3, RFC 7252 §5.4.1", level=SHOULD, needs=["readable"])
def hops_left(peer: Peer) -> None:
    """A request with hops left
    GET with Hop-Limit 255, 16 and 1: served by the server that it is for.
    """
    for value in (255, 16):
        ignored(peer, [(HOP_LIMIT, bytes((value,)))], f"Hop-Limit {value}", "RFC 8768 §3")
    answer = peer.ask(codes.GET, "readable", options=[(HOP_LIMIT, b"\x01")])
    check_code(
        answer,
        codes.CONTENT,
        rule="a request with Hop-Limit 1 is served by the server that it is for: it goes no further",
        section="RFC 8768 §3",
        level=ADVICE,
    )


@test("HOP_LIMIT_02", section="RFC 8768 §3", needs=["readable"])
def no_hops_left(peer: Peer) -> None:
    """A request with Hop-Limit 0
    GET with it: 4.00; a server that serves it does not have the option.
    """
    peer.control()
    answer = peer.ask(codes.GET, "readable", options=[(HOP_LIMIT, b"\x00")])
    if answer.code == codes.CONTENT:
        raise NotApplicable("the server does not have Hop-Limit; it need not")
    check_code(answer, codes.BAD_REQUEST, rule="Hop-Limit 0 is answered 4.00", section="RFC 8768 §3")


@test("HOP_LIMIT_03", section="RFC 8768 §3, RFC 7252 §5.4.5", needs=["readable"])
def hops_twice(peer: Peer) -> None:
    """Hop-Limit twice
    GET with Hop-Limit 16 twice: served, the second ignored.
    """
    ignored(
        peer, [(HOP_LIMIT, b"\x10"), (HOP_LIMIT, b"\x10")], "Hop-Limit twice, which is elective,", "RFC 7252 §5.4.5"
    )
