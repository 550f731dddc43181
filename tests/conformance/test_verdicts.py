"""How verdicts come about: against servers that do one thing wrong, on purpose or for want of a better network."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Callable, Optional

import pytest

from minicoap.codec import codes
from minicoap.codec.message import ACK, CON, NON, RST, Message, decode, encode
from minicoap.errors import MessageFormatError
from tests.conformance.servers import catalogue
from tools.conformance.frames import Address
from tools.conformance.model import FAIL, INCONCLUSIVE, NOT_APPLICABLE, PASS, Result
from tools.conformance.resources import load_map
from tools.conformance.runner import Runner

Answer = Callable[[bytes, Address], Optional[bytes]]


@contextlib.contextmanager
def server(answer: Answer) -> Iterator[Address]:
    """Answer each datagram by what `answer` makes of it and of where it came from."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(0.05)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    data, source = sock.recvfrom(65535)
                except socket.timeout:
                    continue
                reply = answer(data, source)
                if reply is not None:
                    sock.sendto(reply, source)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield sock.getsockname()
        finally:
            over.set()
            thread.join()


def proper(data: bytes, source: Address) -> Optional[bytes]:
    """Answer as a small server should: pings, and GETs of anything."""
    try:
        message = decode(data)
    except MessageFormatError as error:
        if error.header is None or error.header[0] != CON:
            return None
        return encode(Message(RST, 0, error.header[2]))
    if message.code == codes.EMPTY:
        return encode(Message(RST, 0, message.message_id)) if message.type == CON else None
    if not codes.is_request(message.code) or message.type not in (CON, NON):
        return None
    type = ACK if message.type == CON else NON
    return encode(Message(type, codes.CONTENT, message.message_id, message.token, payload=b"body"))


def has_bare_marker(data: bytes) -> bool:
    """Whether a message ends with a payload marker; a ping may have that byte in its message ID."""
    return len(data) > 4 and data.endswith(b"\xff")


def run(id: str, answer: Answer) -> Result:
    test = next(test for test in catalogue() if test.id == id)
    with server(answer) as address:
        return Runner(address, {"readable": ("test",)}, patience=6.0, grace=0.1).run_one(test)


def test_what_is_right_passes() -> None:
    assert run("TD_COAP_CORE_01", proper).verdict == PASS


def test_a_failure_has_the_packet_the_section_and_the_rule() -> None:
    def other_token(data: bytes, source: Address) -> Optional[bytes]:
        message = decode(proper(data, source) or b"")
        return encode(Message(message.type, message.code, message.message_id, b"other", payload=message.payload))

    result = run("TD_COAP_CORE_01", other_token)

    assert (result.verdict, result.section) == (FAIL, "RFC 7252 §5.3.1")
    assert result.reason == "a response carries the token of its request"
    assert result.offender is not None
    assert result.offender.message is not None
    assert result.offender.message.token == b"other"


def test_what_fails_once_and_not_again_is_left_open() -> None:
    ports: list[Address] = []

    def wrong_to_the_first(data: bytes, source: Address) -> Optional[bytes]:
        if source not in ports:
            ports.append(source)
        message = decode(proper(data, source) or b"")
        token = b"other" if source == ports[0] else message.token
        return encode(Message(message.type, message.code, message.message_id, token, payload=message.payload))

    result = run("TD_COAP_CORE_01", wrong_to_the_first)

    assert len(ports) == 2
    assert result.verdict == INCONCLUSIVE
    assert "failed once" in result.reason


def test_silence_is_held_against_a_server_that_answers_pings() -> None:
    def deaf(data: bytes, source: Address) -> Optional[bytes]:
        return None if has_bare_marker(data) else proper(data, source)

    result = run("MALFORMED_02", deaf)

    assert (result.verdict, result.level) == (FAIL, "must")
    assert result.offender is not None
    assert result.offender.sent


def test_silence_is_not_held_against_a_network_that_loses_packets() -> None:
    seen = 0

    def deaf_on_a_bad_link(data: bytes, source: Address) -> Optional[bytes]:
        nonlocal seen
        seen += 1
        return None if has_bare_marker(data) or seen % 7 == 0 else proper(data, source)

    assert run("MALFORMED_02", deaf_on_a_bad_link).verdict == INCONCLUSIVE


def test_a_server_that_is_not_there_accuses_itself_of_nothing() -> None:
    assert run("TD_COAP_CORE_01", lambda data, source: None).verdict == INCONCLUSIVE


@pytest.mark.parametrize("code", [codes.UNAUTHORIZED, codes.FORBIDDEN, codes.SERVICE_UNAVAILABLE, codes.NOT_FOUND])
def test_a_refusal_is_no_failure(code: int) -> None:
    def refuse(data: bytes, source: Address) -> Optional[bytes]:
        answer = decode(proper(data, source) or b"")
        if answer.code != codes.CONTENT:
            return encode(answer)
        return encode(Message(answer.type, code, answer.message_id, answer.token))

    for id in ("TD_COAP_CORE_01", "OPTION_01", "BLOCK_21"):
        assert run(id, refuse).verdict == INCONCLUSIVE


def test_what_a_server_does_not_have_is_not_applicable() -> None:
    assert run("TD_COAP_BLOCK_01", proper).verdict == NOT_APPLICABLE


def test_a_file_of_resources_is_read_and_its_faults_named(tmp_path: object) -> None:
    from pathlib import Path

    file = Path(str(tmp_path)) / "resources"
    file.write_text("# mine\nreadable = /a/b  # here\n\nlarge=/big\n")
    assert load_map(str(file)) == {"readable": ("a", "b"), "large": ("big",)}

    file.write_text("readable = /a\nreadible = /a\n")
    with pytest.raises(ValueError, match="line 2: write ROLE = /PATH; roles are readable, "):
        load_map(str(file))
