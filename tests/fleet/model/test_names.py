"""The rules for ids, names, paths, modes and times: a table each of what passes and what does not."""

import pytest

from fleet.errors import InvalidError
from fleet.model.artifacts import check_artifact_name, check_destination, check_mode, is_sha256
from fleet.model.nodes import check_node_id
from fleet.model.times import iso_from_ms, ms_from_iso

GOOD = {
    check_node_id: ["a", "worker-03", "A.b_c-9", "-", "x" * 64],
    check_artifact_name: ["a.whl", "ü b", ".hidden", "...", "x" * 255],
    check_destination: ["a", "etc/app.conf", ".a/b", "x/" * 100 + "y"],
    check_mode: ["0644", "755", "0000"],
}
BAD = {
    check_node_id: ["", ".a", "a/b", "a b", "ü", "x" * 65, "a\n", "a\0"],
    check_artifact_name: ["", ".", "..", "a/b", "../a", "a\\b", "a\0", "a\nb", "\x7f", "x" * 256, "ü" * 128, "\ud800"],
    check_destination: ["", "/a", "..", "a/../b", "a//b", "a/", "./a", "a\\b", "a\0b", "a/\ud800", "x/" * 600 + "y"],
    check_mode: ["", "644x", "0888", "4755", "00644", "rw-r--r--", "0644\n"],
}


@pytest.mark.parametrize(("check", "text"), [(check, text) for check, texts in GOOD.items() for text in texts])
def test_accepted(check, text):
    assert check(text) == text


@pytest.mark.parametrize(("check", "text"), [(check, text) for check, texts in BAD.items() for text in texts])
def test_refused_naming_the_field(check, text):
    with pytest.raises(InvalidError) as caught:
        check(text, "$.here")
    assert caught.value.field == "$.here"


def test_a_hash_is_lower_case_hex():
    assert is_sha256("0123456789abcdef" * 4)
    assert not any(map(is_sha256, ["", "a" * 63, "A" * 64, "g" * 64, "a" * 64 + "\n"]))


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.123Z", 123),
        ("1970-01-01T00:00:01", 1000),
        ("1970-01-01T01:00:00+01:00", 0),
        ("2025-09-17T10:00:00", 1_758_103_200_000),
    ],
)
def test_times_are_read_with_a_zone_and_without(text, at):
    assert ms_from_iso(text) == at
    assert ms_from_iso(iso_from_ms(at)) == at


def test_times_are_written_in_utc_to_the_millisecond():
    assert iso_from_ms(1_758_103_200_007) == "2025-09-17T10:00:00.007Z"


@pytest.mark.parametrize("text", ["", "now", "2025-13-01T00:00:00Z", "10:00"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(InvalidError):
        ms_from_iso(text, "$.last_seen")
