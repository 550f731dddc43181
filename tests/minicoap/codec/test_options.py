"""The registry of options and the uint format."""

import sys

import pytest

from minicoap.codec import options


@pytest.mark.parametrize(
    ("value", "data"),
    [(0, b""), (1, b"\x01"), (255, b"\xff"), (256, b"\x01\x00"), (65535, b"\xff\xff"), (1 << 31, b"\x80\x00\x00\x00")],
)
def test_uint_is_minimal_and_round_trips(value: int, data: bytes) -> None:
    assert options.encode_uint(value) == data
    assert options.decode_uint(data) == value


def test_uint_with_leading_zeros_is_read() -> None:
    assert options.decode_uint(b"\x00\x00\x05") == 5


@pytest.mark.parametrize(
    ("number", "critical", "unsafe", "no_cache_key"),
    [
        (options.IF_MATCH, True, False, False),
        (options.URI_HOST, True, True, False),
        (options.ETAG, False, False, False),
        (options.IF_NONE_MATCH, True, False, False),
        (options.OBSERVE, False, True, False),
        (options.URI_PORT, True, True, False),
        (options.LOCATION_PATH, False, False, False),
        (options.OSCORE, True, False, False),
        (options.URI_PATH, True, True, False),
        (options.CONTENT_FORMAT, False, False, False),
        (options.MAX_AGE, False, True, False),
        (options.URI_QUERY, True, True, False),
        (options.HOP_LIMIT, False, False, False),
        (options.ACCEPT, True, False, False),
        (options.Q_BLOCK1, True, True, False),
        (options.LOCATION_QUERY, False, False, False),
        (options.EDHOC, True, False, False),
        (options.BLOCK2, True, True, False),
        (options.BLOCK1, True, True, False),
        (options.SIZE2, False, False, True),
        (options.Q_BLOCK2, True, True, False),
        (options.PROXY_URI, True, True, False),
        (options.PROXY_SCHEME, True, True, False),
        (options.SIZE1, False, False, True),
        (options.ECHO, False, False, True),
        (options.NO_RESPONSE, False, True, False),
        (options.REQUEST_TAG, False, False, False),
    ],
)
def test_properties_follow_from_the_number_as_the_rfcs_tables_say(
    number: int, critical: bool, unsafe: bool, no_cache_key: bool
) -> None:
    found = (options.is_critical(number), options.is_unsafe(number), options.is_no_cache_key(number))
    assert found == (critical, unsafe, no_cache_key)


def test_every_definition_stands_under_its_number_and_is_possible() -> None:
    for number, definition in options.DEFINITIONS.items():
        assert definition.number == number
        assert 0 <= definition.minimum <= definition.maximum <= options.LONGEST_VALUE
        assert definition.format in ("empty", "opaque", "uint", "string")
        assert (definition.format == "empty") == (definition.maximum == 0)


@pytest.mark.skipif(sys.version_info < (3, 10), reason="the last aiocoap for Python 3.9 does not list its registry")
def test_registry_knows_at_least_the_numbers_that_aiocoap_takes_from_iana() -> None:
    numbers = pytest.importorskip("aiocoap.numbers.optionnumbers")
    not_at_iana = {13, 548}  # drafts that aiocoap tries out
    assert {int(number) for number in numbers.OptionNumber} - not_at_iana <= options.DEFINITIONS.keys()


def test_option_without_a_name_is_called_by_its_number() -> None:
    assert options.option_name(options.CONTENT_FORMAT) == "Content-Format"
    assert options.option_name(65001) == "Option 65001"
