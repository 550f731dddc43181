"""The registry of content formats."""

from typing import Optional

import pytest

from minicoap.codec import contentformats


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("50", 50),
        ("application/json", 50),
        ("json", 50),
        (" CBOR ", 60),
        ("senml+cbor", 112),
        ("text", 0),
        ("text/plain", 0),
        ("text/plain; charset=utf-8", 0),
        ("application/json (deflate)", 11050),
        ("65535", 65535),
        ("65536", None),
        ("-1", None),
        ("application/none", None),
        ("", None),
    ],
)
def test_number_of_what_a_person_writes(text: str, number: Optional[int]) -> None:
    assert contentformats.content_format_number(text) == number


def test_every_name_leads_back_to_its_number() -> None:
    for number, name in contentformats.CONTENT_FORMATS.items():
        assert contentformats.content_format_name(number) == name
        assert contentformats.content_format_number(name) == number


def test_unlisted_number_is_named_by_itself() -> None:
    assert contentformats.content_format_name(20) == "Content-Format 20"
    assert contentformats.content_format_name(64997) == "Content-Format 64997"
    assert contentformats.content_format_name(64998) == "Content-Format 64998 (documentation)"  # RFC 9876
    assert contentformats.content_format_name(64999) == "Content-Format 64999 (documentation)"
    assert contentformats.content_format_name(65000) == "Content-Format 65000 (experimental)"
    assert contentformats.content_format_name(65535) == "Content-Format 65535 (experimental)"


def test_names_agree_with_aiocoap_where_both_know_the_number() -> None:
    theirs = pytest.importorskip("aiocoap.numbers.contentformat").ContentFormat
    for number, name in contentformats.CONTENT_FORMATS.items():
        other = theirs(number)
        if other.is_known() and number != 836:  # renamed since
            media_type, _, coding = name.partition(" (")
            assert (media_type, coding.rstrip(")") or "identity") == (other.media_type, other.encoding)
