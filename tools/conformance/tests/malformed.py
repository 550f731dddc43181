"""Messages that are none, or that nobody may send: RFC 7252 §3 and §4. ETSI CoAP#4 has no such tests.

Each is sent confirmable, which a server has to reject by a reset; and non-confirmable, which it has to ignore, a reset
aside. A reset proves that the server saw the message; so does whatever else comes. Silence proves nothing by itself:
see `Peer.insist`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable

from minicoap.codec import codes
from minicoap.codec.message import ACK, CON, NON, RST
from tools.conformance.frames import Frame, craft
from tools.conformance.model import ADVICE, CATALOGUE, MUST, SHOULD, Failure, Inconclusive
from tools.conformance.peer import Peer

test = CATALOGUE.test
Malformed = Callable[[int, int, bytes, bytes], bytes]


def answers(message_id: int) -> Callable[[Frame], bool]:
    """Return what recognises a frame that answers a message of ours."""
    return lambda frame: (
        frame.message is not None and frame.message.type in (ACK, RST) and frame.message.message_id == message_id
    )


def path_options(peer: Peer) -> bytes:
    """Return the encoded options of a GET of what can be read, which a tolerant reader would carry out."""
    message_id = peer.next_message_id()
    data = craft(CON, codes.GET, message_id, b"", [(11, segment.encode()) for segment in peer.path("readable")])
    return data[4:]


def rejected(peer: Peer, data: bytes, message_id: int, what: str, section: str, level: str = MUST) -> None:
    """Judge that a confirmable message is rejected: a reset, and nothing else; `level` is how wrong an answer is."""
    section = section if "§4.2" in section else f"{section}, §4.2"
    rule = f"a confirmable message {what} is rejected with a reset"
    frame = peer.insist(data, answers(message_id), rule, section)
    message = frame.message
    assert message is not None
    if message.type != RST:
        raise Failure(f"{rule}, and not answered", section, frame, level=level)
    if message.code != codes.EMPTY:
        raise Failure("a reset is empty", "RFC 7252 §4.2", frame)


def ignored(peer: Peer, data: bytes, message_id: int, token: bytes, what: str, section: str) -> None:
    """Judge that a message gets no response and no acknowledgement; a reset may come."""
    peer.ping()
    peer.send(data)

    def is_answer(frame: Frame) -> bool:
        message = frame.message
        if message is None or message.type == RST:
            return False
        return (message.type == ACK and message.message_id == message_id) or (
            codes.is_response(message.code) and message.token == token
        )

    peer.silence(is_answer, f"a message {what} is ignored, a reset aside", section)


def judge(peer: Peer, craft_it: Malformed, what: str, section: str) -> None:
    """Send a malformed message confirmable and non-confirmable; `craft_it` takes type, message ID, token, options."""
    options = path_options(peer)
    peer.control()
    token = peer.token()
    message_id = peer.next_message_id()
    ignored(peer, craft_it(NON, message_id, token, options), message_id, token, what, f"{section}, §4.3")
    message_id = peer.next_message_id()
    rejected(peer, craft_it(CON, message_id, token, options), message_id, what, section)


def head(type: int, token_length: int, code: int, message_id: int) -> bytes:
    """Return the first four bytes of a message."""
    return bytes((1 << 6 | type << 4 | token_length, code, message_id >> 8, message_id & 0xFF))


@test("MALFORMED_01", section="RFC 7252 §3, RFC 8974 §2.1", needs=["readable"])
def token_length(peer: Peer) -> None:
    """The token length 15
    GET whose header says so, with 15 bytes of token: reset. Non-confirmable: nothing, or reset.
    """
    judge(
        peer,
        lambda type, message_id, token, options: (
            head(type, 15, codes.GET, message_id) + (token * 4)[:15] + options
        ),
        "with the reserved token length 15", "RFC 7252 §3, RFC 8974 §2.1",
    )  # fmt: skip


@test("MALFORMED_02", section="RFC 7252 §3", needs=["readable"])
def marker_alone(peer: Peer) -> None:
    """A payload marker without payload
    GET that ends with 0xFF: reset. Non-confirmable: nothing, or reset.
    """
    judge(
        peer,
        lambda type, message_id, token, options: (
            head(type, len(token), codes.GET, message_id) + token + options + b"\xff"
        ),
        "whose payload marker is followed by nothing", "RFC 7252 §3",
    )  # fmt: skip


@test("MALFORMED_03", section="RFC 7252 §3.1", needs=["readable"])
def reserved_delta(peer: Peer) -> None:
    """An option delta of 15 that is no payload marker
    GET with an option that begins with 0xF1: reset. Non-confirmable: nothing, or reset.
    """
    judge(
        peer,
        lambda type, message_id, token, options: (
            head(type, len(token), codes.GET, message_id) + token + options + b"\xf1x"
        ),
        "with the reserved option delta 15", "RFC 7252 §3.1",
    )  # fmt: skip


@test("MALFORMED_04", section="RFC 7252 §3.1", needs=["readable"])
def reserved_length(peer: Peer) -> None:
    """An option length of 15
    GET with an option that begins with 0x1F: reset. Non-confirmable: nothing, or reset.
    """
    judge(
        peer,
        lambda type, message_id, token, options: (
            head(type, len(token), codes.GET, message_id) + token + options + b"\x1f" + bytes(20)
        ),
        "with the reserved option length 15", "RFC 7252 §3.1",
    )  # fmt: skip


@test("MALFORMED_05", section="RFC 7252 §3.1, §4.2", needs=["readable"])
def value_cut_off(peer: Peer) -> None:
    """An option that is longer than the message
    GET whose last option says 10 bytes and has 3: reset. Non-confirmable: nothing, or reset.
    """
    judge(
        peer,
        lambda type, message_id, token, options: (
            head(type, len(token), codes.GET, message_id) + token + options + b"\x4acut"
        ),
        "whose last option ends before it should", "RFC 7252 §3.1",
    )  # fmt: skip


@test("MALFORMED_06", section="RFC 7252 §3, §4.2", needs=["readable"])
def token_cut_off(peer: Peer) -> None:
    """A token that is longer than the message
    GET whose header says 8 bytes of token, and that ends after 2: reset. Non-confirmable: nothing, or reset.
    """
    judge(
        peer,
        lambda type, message_id, token, options: head(type, 8, codes.GET, message_id) + token[:2],
        "that ends within its token", "RFC 7252 §3",
    )  # fmt: skip


@test("MALFORMED_07", section="RFC 7252 §3.1", needs=["readable"])
def extension_cut_off(peer: Peer) -> None:
    """An option whose extended delta is missing
    GET that ends with 0xE0, whose delta should follow in two bytes: reset. Non-confirmable: nothing, or reset.
    """
    judge(
        peer,
        lambda type, message_id, token, options: (
            head(type, len(token), codes.GET, message_id) + token + options + b"\xe0\x01"
        ),
        "that ends within an option's header", "RFC 7252 §3.1",
    )  # fmt: skip


@test("MALFORMED_08", section="RFC 7252 §4.1, §4.2")
def not_quite_empty(peer: Peer) -> None:
    """An empty message that has bytes after its message ID
    Code 0.00 with a token, with an option, with a payload: reset. Non-confirmable: nothing, or reset.
    """
    for length, rest in ((4, b"full"), (0, b"\xb4test"), (0, b"\xfffull")):
        message_id = peer.next_message_id()
        data = head(NON, length, codes.EMPTY, message_id) + rest
        ignored(peer, data, message_id, b"full"[:length], "of code 0.00 that is not empty", "RFC 7252 §4.1, §4.3")
        message_id = peer.next_message_id()
        data = head(CON, length, codes.EMPTY, message_id) + rest
        rejected(peer, data, message_id, "of code 0.00 that is not empty", "RFC 7252 §4.1")


@test("MALFORMED_09", section="RFC 7252 §4.2, §4.3", needs=["readable"])
def reserved_class(peer: Peer) -> None:
    """A code of the classes 1, 6 and 7
    A message with code 1.01, 6.01, 7.31: reset. Non-confirmable: nothing, or reset.
    """
    options = path_options(peer)
    for code in (0x21, 0xC1, 0xFF):
        what = f"with the code {codes.code_text(code)}, whose class is reserved,"
        token, message_id = peer.token(), peer.next_message_id()
        data = head(NON, len(token), code, message_id) + token + options
        ignored(peer, data, message_id, token, what, "RFC 7252 §4.3")
        message_id = peer.next_message_id()
        rejected(peer, head(CON, len(token), code, message_id) + token + options, message_id, what, "RFC 7252 §4.2")


@test("MALFORMED_10", section="RFC 7252 §3", needs=["readable"])
def version(peer: Peer) -> None:
    """A version other than 1
    GET of version 0, 2, 3, confirmable and not: nothing comes, no reset either.
    """
    options = path_options(peer)
    peer.control()
    for number in (0, 2, 3):
        for type in (CON, NON):
            token, message_id = peer.token(), peer.next_message_id()
            data = head(type, len(token), codes.GET, message_id) + token + options
            peer.send(bytes((data[0] & 0x3F | number << 6,)) + data[1:])
            peer.silence(
                lambda frame, message_id=message_id, token=token: (  # type: ignore[misc]
                    answers(message_id)(frame) or (frame.message is not None and frame.message.token == token)
                ),
                f"a message of a version that is not known (here {number}) is silently ignored", "RFC 7252 §3",
            )  # fmt: skip


@test("MALFORMED_11", section="RFC 7252 §4.2")
def stray_acknowledgements(peer: Peer) -> None:
    """Acknowledgements and resets that belong to nothing
    An empty acknowledgement, one with a response, one with a request, a reset, one that is not empty: nothing comes.
    """
    cases = (
        (ACK, codes.EMPTY, "an acknowledgement"), (ACK, codes.CONTENT, "an acknowledgement with a response"),
        (ACK, codes.GET, "an acknowledgement with a request"), (RST, codes.EMPTY, "a reset"),
        (RST, codes.GET, "a reset that is not empty"), (ACK, 0x21, "an acknowledgement with a code of class 1"),
    )  # fmt: skip
    for type, code, name in cases:
        message_id = peer.next_message_id()
        token = b"" if code == codes.EMPTY else peer.token()
        peer.send(craft(type, code, message_id, token))
        peer.silence(
            lambda frame, message_id=message_id, token=token: (  # type: ignore[misc]
                answers(message_id)(frame)
                or (bool(token) and frame.message is not None and frame.message.token == token)
            ),
            f"{name} that belongs to nothing is silently ignored", "RFC 7252 §4.2",
        )  # fmt: skip


@test("MALFORMED_12", section="RFC 7252 §4.2")
def stray_malformed(peer: Peer) -> None:
    """Acknowledgements and resets that are malformed
    An acknowledgement with token length 9, a reset with a payload marker at its end: nothing comes.
    """
    for type, rest in ((ACK, b"\xff"), (RST, b"\xff"), (ACK, b"\xf1x")):
        message_id = peer.next_message_id()
        peer.send(head(type, 0, codes.CONTENT, message_id) + rest)
        peer.silence(
            answers(message_id), "nothing is sent in return for an acknowledgement or a reset, a malformed one neither",
            "RFC 7252 §4.2",
        )  # fmt: skip


@test("MALFORMED_13", section="RFC 7252 §4.2, §5.3.2")
def stray_response(peer: Peer) -> None:
    """A response to a request that was never made
    A confirmable 2.05: reset. Non-confirmable: nothing, or reset.
    """
    token, message_id = peer.token(), peer.next_message_id()
    data = craft(NON, codes.CONTENT, message_id, token, payload=b"unasked")
    ignored(peer, data, message_id, token, "with a response that was not asked for", "RFC 7252 §4.3, §5.3.2")
    message_id = peer.next_message_id()
    data = craft(CON, codes.CONTENT, message_id, token, payload=b"unasked")
    rejected(peer, data, message_id, "with a response that was not asked for", "RFC 7252 §5.3.2", SHOULD)


@test("MALFORMED_14", section="RFC 7252 §11.1", level=ADVICE)
def garbage(peer: Peer) -> None:
    """Datagrams that are nothing at all
    An empty one, ones of one to three bytes, text, 1,400 zero bytes, an option of number 65,804: the server lives on.
    """
    peer.ping()
    cases: Sequence[bytes] = (
        b"", b"\x40", b"\x40\x01", b"\x40\x01\x00", b"GET / HTTP/1.1\r\n\r\n", bytes(1400), b"\xff" * 600,
        head(NON, 0, codes.GET, peer.next_message_id()) + b"\xe0\xff\xff\xe0\xff\xff",
    )  # fmt: skip
    for data in cases:
        peer.send(data)
    try:
        peer.ping()
    except Inconclusive as error:
        raise Inconclusive("the server does not answer any more after datagrams that are no CoAP messages") from error
