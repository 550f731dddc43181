"""JSON and CBOR: strict about what could be understood in two ways, bounded, and never anything but two errors."""

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import FormatError, InvalidError, UsageError
from fleet.model.formats import CBOR, JSON, decode, decode_unambiguous, encode
from fleet.model.health import HealthReport

numbers = st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_whatever_is_written_in_either_format_is_read_back(value):
    for content_format in (CBOR, JSON):
        assert decode_unambiguous(encode(value, content_format), content_format) == value


@given(st.binary(max_size=40))
def test_any_bytes_at_all_are_a_value_or_one_of_two_errors(payload):
    for content_format in (CBOR, JSON, None):
        for kind in (object, HealthReport):
            try:
                decode(payload, content_format, kind)
            except (FormatError, InvalidError):
                pass


@given(values, st.binary(min_size=1, max_size=3))
def test_nothing_may_follow_a_cbor_value_or_be_missing_of_it(value, more):
    payload = encode(value, CBOR)
    with pytest.raises(FormatError):
        decode(payload + more, CBOR, object)
    with pytest.raises(FormatError):
        decode(payload[:-1], CBOR, object)


@pytest.mark.parametrize("content_format", [JSON, CBOR])
def test_sixteen_levels_are_read_and_seventeen_are_not(content_format):
    def nested(levels):
        value = 1
        for level in range(levels):
            value = [value] if level % 2 else {"a": value}
        return encode(value, content_format)

    decode(nested(16), content_format, object)
    for levels in (17, 500):
        with pytest.raises(FormatError, match="16 levels"):
            decode(nested(levels), content_format, object)


def test_depth_without_end_is_an_error_and_no_crash():
    for payload, content_format in ((b"[" * 100_000, JSON), (b"\x81" * 100_000, CBOR), (b"\x9f" * 100_000, CBOR)):
        with pytest.raises(FormatError):
            decode(payload, content_format, object)


def test_many_brackets_side_by_side_or_in_text_are_not_deep():
    assert decode(b"[" + b"[]," * 50 + b"[]]", JSON, object)
    assert decode(b'["' + b'[\\"{' * 50 + b'"]', JSON, object)


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (cbor2.dumps(cbor2.CBORTag(1, 5)), "tag"),
        (cbor2.dumps({"a": cbor2.CBORTag(35, "(a+)+$")}), "tag"),
        (bytes.fromhex("d81c81d81d00"), "tag"),  # a list that holds itself
        (bytes.fromhex("a2616101616102"), "twice"),
        (bytes.fromhex("a2617801 617802".replace(" ", "")), "twice"),
        (bytes.fromhex("a2616101780161 02".replace(" ", "")), "twice"),  # the same key, longer written
        (bytes.fromhex("a1f502"), "no text"),
        (bytes.fromhex("a17f61616162ff01"), "indefinite"),
        (bytes.fromhex("ff"), "break"),
        (bytes.fromhex("1c"), "reserved"),
        (bytes.fromhex("81ff"), "break"),
        (bytes.fromhex("7f4161ff"), "something else"),
        (bytes.fromhex("61ff"), "CBOR"),
        (bytes.fromhex("a161ff01"), "CBOR"),
        (bytes.fromhex("9bffffffffffffffff"), "too early"),
        (bytes.fromhex("bbffffffffffffffff"), "too early"),
        (bytes.fromhex("5bffffffffffffffff"), "too early"),
        (b"", "empty"),
    ],
)
def test_refused_in_cbor(payload, complaint):
    with pytest.raises(FormatError, match=complaint):
        decode(payload, CBOR, object)


def test_indefinite_lengths_are_read():
    assert decode(bytes.fromhex("bf61619f01ff61627f61616162ffff"), CBOR, object) == {"a": [1], "b": "ab"}


def test_the_same_message_is_refused_alike_in_both_formats():
    for content_format in (JSON, CBOR):
        with pytest.raises(InvalidError) as caught:
            decode(encode({"node_id": "a", "error_messages": ["x", 5]}, content_format), content_format, HealthReport)
        assert caught.value.field == "$.error_messages[1]"


def test_another_content_format_is_the_callers_mistake():
    for call in (lambda: decode(b"{}", 0, object), lambda: encode({}, 0), lambda: decode_unambiguous(b"{}", 41)):
        with pytest.raises(UsageError):
            call()
