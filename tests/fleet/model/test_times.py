"""Times as text and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import InvalidError
from fleet.model.times import iso_from_ms, ms_from_iso

LAST = 253_402_300_799_999  # the end of the year 9999


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1, "1970-01-01T00:00:00.001Z"),
        (1_758_103_200_999, "2025-09-17T10:00:00.999Z"),
        (1_758_103_201_000, "2025-09-17T10:00:01.000Z"),
    ],
)
def test_milliseconds_are_written(at: int, text: str) -> None:
    assert iso_from_ms(at) == text


@given(st.lists(st.integers(0, LAST), max_size=40))
def test_every_time_is_read_as_it_was_written(times: list[int]) -> None:
    for at in [*times, *reversed(times)]:
        assert ms_from_iso(iso_from_ms(at)) == at


def test_time_without_a_zone_is_utc() -> None:
    assert ms_from_iso("2025-09-17T10:00:00") == ms_from_iso("2025-09-17T12:00:00+02:00")
    with pytest.raises(InvalidError):
        ms_from_iso("yesterday")
