"""Lists of missing blocks (RFC 9177 §5), checked against a CBOR library that is not ours."""

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicoap.codec.missingblocks import decode_missing, encode_missing
from minicoap.errors import PeerError, UsageError

LAST = (1 << 20) - 1
EDGES = [0, 1, 23, 24, 255, 256, 65_535, 65_536, LAST]
ascending = st.sets(st.integers(0, LAST), min_size=1, max_size=60).map(sorted)


def test_the_list_is_a_sequence_of_shortest_unsigned_integers() -> None:
    assert encode_missing(EDGES, 1024) == b"".join(cbor2.dumps(number) for number in EDGES)
    assert encode_missing([1, 9], 1024) == bytes.fromhex("0109")


@given(ascending)
def test_what_another_library_writes_is_read_and_the_other_way_round(numbers: list[int]) -> None:
    sequence = b"".join(cbor2.dumps(number) for number in numbers)
    assert encode_missing(numbers, 1024) == sequence
    assert decode_missing(sequence, 100) == numbers


@given(ascending, st.integers(5, 40))
def test_a_list_that_is_too_long_ends_early_with_whole_numbers(numbers: list[int], limit: int) -> None:
    encoded = encode_missing(numbers, limit)
    read = decode_missing(encoded, 100)
    assert len(encoded) <= limit
    assert read == numbers[: len(read)]
    if len(read) < len(numbers):
        assert len(encoded) + len(cbor2.dumps(numbers[len(read)])) > limit


@pytest.mark.parametrize("numbers", [[], [2, 1], [1, 1], [-1], [LAST + 1]], ids=str)
def test_no_other_list_is_written(numbers: list[int]) -> None:
    with pytest.raises(UsageError):
        encode_missing(numbers, 1024)


def test_a_list_without_room_for_one_number_is_not_written() -> None:
    with pytest.raises(UsageError):
        encode_missing([LAST], 4)


def test_no_more_is_kept_than_was_asked_for() -> None:
    assert decode_missing(bytes(range(24)), 10) == list(range(10))


def test_a_duplicate_is_ignored() -> None:
    assert decode_missing(bytes([3, 3, 4]), 10) == [3, 4]


def test_a_longer_form_of_a_number_is_well_formed() -> None:
    assert decode_missing(bytes.fromhex("1803 190004 1a00000005 1b0000000000000006"), 10) == [3, 4, 5, 6]


@pytest.mark.parametrize(
    "payload",
    [
        *("", "0201", "030403", "1a00100000", "1bffffffffffffffff"),  # none, not ascending, no block numbers
        *("20", "40", "820102", "9f01ff", "f6", "fb4008000000000000", "c201", "1f", "1c" + "00" * 16),  # not uint
        *("18", "1900", "011a0000"),  # cut off
    ],
)
def test_anything_else_is_refused(payload: str) -> None:
    with pytest.raises(PeerError):
        decode_missing(bytes.fromhex(payload), 10)


def test_what_is_not_kept_is_checked_all_the_same() -> None:
    with pytest.raises(PeerError):
        decode_missing(bytes([1, 2, 0xF6]), 1)


@given(st.binary(max_size=40))
def test_bytes_are_read_or_refused(payload: bytes) -> None:
    try:
        numbers = decode_missing(payload, 100)
    except PeerError:
        return
    assert numbers == sorted(set(numbers))
    assert numbers[0] >= 0
    assert numbers[-1] <= LAST
