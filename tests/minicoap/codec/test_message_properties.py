"""What must hold for every message and for every datagram, whoever made it."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from minicoap.codec.message import CON, Message, Options, decode, encode
from minicoap.errors import MessageFormatError

NUMBERS = st.one_of(
    st.integers(0, 40), st.sampled_from([12, 13, 60, 252, 258, 268, 269, 292, 65535]), st.integers(0, 65535)
)
VALUES = st.one_of(st.binary(max_size=16), st.sampled_from([12, 13, 268, 269, 1034]).map(lambda length: length * b"a"))
MESSAGES = st.one_of(
    st.builds(Message, st.integers(0, 3), st.just(0), st.integers(0, 65535)),
    st.builds(
        Message,
        st.integers(0, 3),
        st.integers(1, 255),
        st.integers(0, 65535),
        st.one_of(st.binary(max_size=16), st.sampled_from([12, 13, 268, 269]).map(lambda length: length * b"t")),
        st.builds(Options, st.lists(st.tuples(NUMBERS, VALUES), max_size=12)),
        st.binary(max_size=64),
    ),
)


@st.composite
def nearly_messages(draw: st.DrawFn) -> bytes:
    """A message with some of its bytes changed, taken away or put in; random bytes alone seldom get past the header."""
    data = bytearray(encode(draw(MESSAGES)))
    for _ in range(draw(st.integers(1, 3))):
        position = draw(st.integers(0, len(data)))
        data[position : position + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


@given(MESSAGES)
def test_what_was_written_is_read_back(message):
    assert decode(encode(message)) == message


@given(st.one_of(st.binary(max_size=64), nearly_messages()))
@example(b"")
@example(bytes.fromhex("40010001 b1ff ff"))
def test_any_datagram_is_a_message_that_writes_the_same_bytes_or_a_format_error(data):
    try:
        message = decode(data)
    except MessageFormatError:
        return

    # Every part of a CoAP message has exactly one wire form, so the bytes must come back, also from options made anew.
    assert encode(message) == data
    assert encode(_made_anew(message)) == data


shared_cache: dict[bytes, Options] = {}


@given(st.one_of(MESSAGES.map(encode), nearly_messages()))
def test_a_cache_that_has_seen_everything_before_changes_nothing(data):
    assert _outcome(data, shared_cache) == _outcome(data, None)
    assert _outcome(data, shared_cache) == _outcome(data, None)


@given(st.lists(st.sampled_from([b"\xb1a", b"\xb1\xff", b"\x11\xff", b"\xff", b"\x01", b"\xd1\xff"]), max_size=6))
def test_a_cache_is_not_misled_by_marker_bytes_wherever_they_stand(pieces):
    cache: dict[bytes, Options] = {}
    body = b"".join(pieces)
    for end in range(len(body) + 1):
        data = b"\x40\x01\x00\x01" + body[:end]
        assert _outcome(data, cache) == _outcome(data, None)


def test_the_header_in_a_format_error_is_the_datagrams_own():
    for first in range(256):
        try:
            decode(bytes((first, 1, 0xAB, 0xCD, 0xFF)))
        except MessageFormatError as error:
            assert error.header == (None if first >> 6 != 1 else (first >> 4 & 3, 1, 0xABCD))
        else:
            assert first & 0xCF == 0x41 and CON <= first >> 4 & 3 <= 3


def _made_anew(message):
    return Message(
        message.type,
        message.code,
        message.message_id,
        message.token,
        Options(message.options.items),
        message.payload,
    )


def _outcome(data, cache):
    try:
        return decode(data, cache)
    except MessageFormatError as error:
        return str(error), error.header
