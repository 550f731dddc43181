"""CBOR against another implementation, the RFC's own examples, and what is refused."""

from __future__ import annotations

import math

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicoap.codec import cbor
from minicoap.codec.problem import Problem, decode_problem, encode_problem
from minicoap.errors import PeerError, UsageError

numbers = st.integers(-(1 << 64), (1 << 64) - 1) | st.floats(allow_nan=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(-99, 99), inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_what_is_written_is_what_another_writes_in_the_preferred_form(value):
    encoded = cbor.encode(value)

    assert cbor2.loads(encoded) == value
    assert len(encoded) == len(cbor2.dumps(value, canonical=True))
    assert cbor.decode(encoded, integer_keys=True) == value


@given(values)
def test_what_another_writes_is_read(value):
    assert cbor.decode(cbor2.dumps(value), integer_keys=True) == value


# RFC 8949 appendix A.
EXAMPLES = {
    "00": 0, "17": 23, "1818": 24, "1903e8": 1000, "1a000f4240": 1000000, "1bffffffffffffffff": (1 << 64) - 1,
    "20": -1, "3863": -100, "3bffffffffffffffff": -(1 << 64), "f90000": 0.0, "f93c00": 1.0, "fb3ff199999999999a": 1.1,
    "f97bff": 65504.0, "fa47c35000": 100000.0, "f90001": 5.960464477539063e-08, "f9c400": -4.0, "f97c00": math.inf,
    "f9fc00": -math.inf, "f4": False, "f5": True, "f6": None, "40": b"", "4401020304": b"\1\2\3\4", "60": "",
    "6449455446": "IETF", "62c3bc": "\u00fc", "80": [], "83010203": [1, 2, 3], "a0": {}, "a201020304": {1: 2, 3: 4},
    "a26161016162820203": {"a": 1, "b": [2, 3]},
}  # fmt: skip


@pytest.mark.parametrize(("encoded", "value"), EXAMPLES.items())
def test_the_examples_of_the_rfc(encoded, value):
    assert cbor.encode(value).hex() == encoded
    read = cbor.decode(bytes.fromhex(encoded), integer_keys=True)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("encoded", "value"),
    [("5f42010243030405ff", b"\1\2\3\4\5"), ("7f657374726561646d696e67ff", "streaming"), ("9f018202039f0405ffff",
     [1, [2, 3], [4, 5]]), ("bf6161019fff" + "ff", None), ("bf61610161629f0203ffff", {"a": 1, "b": [2, 3]}),
     ("1800", 0), ("fa3f800000", 1.0)],
)  # fmt: skip
def test_other_forms_are_read_too(encoded, value):
    if value is None:
        with pytest.raises(PeerError, match="no text"):
            cbor.decode(bytes.fromhex(encoded))
    else:
        assert cbor.decode(bytes.fromhex(encoded)) == value


def test_not_a_number_stays_so():
    assert math.isnan(cbor.decode(cbor.encode(math.nan)))


@pytest.mark.parametrize("value", [1 << 64, -(1 << 64) - 1, 1 << 200])
def test_integers_that_no_processor_holds_are_written_with_a_tag_and_not_read(value):
    assert cbor2.loads(cbor.encode([value])) == [value]
    with pytest.raises(PeerError, match="tag"):
        cbor.decode(cbor.encode(value))


def test_names_and_numbers_of_keys_stand_for_each_other():
    numbers = {"node_id": 0, "time": 9}
    encoded = cbor.encode({"node_id": "n", "other": {"time": 1}}, numbers)

    assert encoded == cbor2.dumps({0: "n", "other": {9: 1}})
    assert cbor.decode(encoded, names={0: "node_id", 9: "time"}) == {"node_id": "n", "other": {"time": 1}}
    assert cbor.decode(cbor2.dumps({7: 1, -1: 2}), names={}) == {"7": 1, "-1": 2}, "as such a name nobody knows it"
    with pytest.raises(PeerError, match="twice"):
        cbor.decode(cbor2.dumps({0: "n", "node_id": "m"}), names={0: "node_id"})


@pytest.mark.parametrize("value", [object(), {1, 2}, {"a": b"".join}])
def test_what_cbor_has_no_word_for_is_the_callers_mistake(value):
    with pytest.raises(UsageError):
        cbor.encode(value)


@given(st.binary(max_size=40))
def test_any_bytes_at_all_are_a_value_or_one_error(data):
    for arguments in ({}, {"integer_keys": True}, {"tags": True, "names": {}}):
        try:
            cbor.decode(data, **arguments)
        except PeerError:
            pass


@pytest.mark.parametrize("data", [b"\x81" * 100_000, b"\x9f" * 100_000, b"\xc1" * 100_000, b"\xbf\x61a" * 100_000])
def test_depth_without_end_is_an_error_and_no_crash(data):
    for tags in (False, True):
        with pytest.raises(PeerError):
            cbor.decode(data, tags=tags)


def test_problems_are_written_and_read():
    problem = Problem("not found", "there is no job 7", {"tag:x": {"field": "$.job_id"}, 7: {0: 1}})
    assert decode_problem(encode_problem(problem)) == problem
    assert decode_problem(cbor2.dumps({-1: "t", -9: 1, "x": 2})) == Problem("t")
    # RFC 9290 appendix A: a text may say which language it is in.
    assert decode_problem(cbor2.dumps({-1: cbor2.CBORTag(38, ["de", "nicht gefunden"])})) == Problem("nicht gefunden")
    for data in (b"", b"\xff", cbor2.dumps([1])):
        with pytest.raises(PeerError):
            decode_problem(data)
