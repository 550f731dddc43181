"""The message format, rule by rule: RFC 7252 §3, bytes written by hand on one side and the message on the other."""

from __future__ import annotations

import pytest

from minicoap.codec import codes
from minicoap.codec.message import (
    ACK,
    CON,
    EXTENDED,
    EXTENDED_CRITICAL,
    NON,
    RST,
    UNUSABLE_CRITICAL,
    Message,
    Options,
    decode,
    encode,
)
from minicoap.codec.options import (
    ACCEPT,
    BLOCK2,
    CONTENT_FORMAT,
    ETAG,
    IF_MATCH,
    IF_NONE_MATCH,
    MAX_AGE,
    NO_RESPONSE,
    REQUEST_TAG,
    SIZE1,
    URI_HOST,
    URI_PATH,
    URI_QUERY,
)
from minicoap.errors import MessageFormatError, OptionError, UsageError


def message(type, code, message_id, token=b"", items=(), payload=b""):
    return Message(type, code, message_id, token, Options(items), payload)


WELL_FORMED = {
    # RFC 7252 Appendix A, Figures 16 and 17
    "a request": (
        "40 01 7d34  bb 74656d7065726174757265",
        message(CON, codes.GET, 0x7D34, items=[(URI_PATH, b"temperature")]),
    ),
    "its piggybacked response": (
        "60 45 7d34  ff 32322e332043",
        message(ACK, codes.CONTENT, 0x7D34, payload=b"22.3 C"),
    ),
    "a request with a token": (
        "41 01 7d35  20  bb 74656d7065726174757265",
        message(CON, codes.GET, 0x7D35, b"\x20", [(URI_PATH, b"temperature")]),
    ),
    "a response with that token": (
        "61 45 7d35  20  ff 32322e332043",
        message(ACK, codes.CONTENT, 0x7D35, b"\x20", payload=b"22.3 C"),
    ),
    "an empty acknowledgement": ("60 00 0000", message(ACK, codes.EMPTY, 0)),
    "a reset": ("70 00 ffff", message(RST, codes.EMPTY, 0xFFFF)),
    "a ping": ("40 00 0102", message(CON, codes.EMPTY, 0x0102)),
    "a non-confirmable response": ("50 45 0001", message(NON, codes.CONTENT, 1)),
    "the longest token of RFC 7252": ("48 01 0001  0102030405060708", message(CON, codes.GET, 1, bytes(range(1, 9)))),
    # RFC 8974 §2.1
    "a token of nine bytes": ("49 01 0001" + 9 * "61", message(CON, codes.GET, 1, 9 * b"a")),
    "the longest plain token": ("4c 01 0001" + 12 * "61", message(CON, codes.GET, 1, 12 * b"a")),
    "the shortest token with one more byte": ("4d 01 0001  00" + 13 * "61", message(CON, codes.GET, 1, 13 * b"a")),
    "the longest token with one more byte": (
        "4d 01 0001  ff" + 268 * "61  " + "b162 ff63",
        message(CON, codes.GET, 1, 268 * b"a", [(URI_PATH, b"b")], b"c"),
    ),
    "the shortest token with two more bytes": (
        "4e 01 0001  0000" + 269 * "61",
        message(CON, codes.GET, 1, 269 * b"a"),
    ),
    "the longest token with two more bytes": (
        "4e 01 0001  ffff" + 65804 * "61" + "b162",
        message(CON, codes.GET, 1, 65804 * b"a", [(URI_PATH, b"b")]),
    ),
    "a token of marker bytes": ("42 01 0001  ffff", message(CON, codes.GET, 1, b"\xff\xff")),
    "a code of a reserved class": ("40 e1 0001", message(CON, 0xE1, 1)),
    "an option without a value": ("40 01 0001  50", message(CON, codes.GET, 1, items=[(IF_NONE_MATCH, b"")])),
    "the reserved option 0": ("40 01 0001  01 aa", message(CON, codes.GET, 1, items=[(0, b"\xaa")])),
    "a repeated option, by delta 0": (
        "40 01 0001  b1 61 01 62 00",
        message(CON, codes.GET, 1, items=[(URI_PATH, b"a"), (URI_PATH, b"b"), (URI_PATH, b"")]),
    ),
    "the longest plain length": ("40 01 0001  bc" + 12 * "61", message(CON, codes.GET, 1, items=[(11, 12 * b"a")])),
    "the shortest of one more byte": (
        "40 01 0001  bd 00" + 13 * "61",
        message(CON, codes.GET, 1, items=[(11, 13 * b"a")]),
    ),
    "the longest of one more byte": (
        "40 01 0001  bd ff" + 268 * "61",
        message(CON, codes.GET, 1, items=[(11, 268 * b"a")]),
    ),
    "the shortest of two more bytes": (
        "40 01 0001  be 0000" + 269 * "61",
        message(CON, codes.GET, 1, items=[(11, 269 * b"a")]),
    ),
    "the longest of two more bytes": (
        "40 01 0001  be ffff" + 65804 * "61",
        message(CON, codes.GET, 1, items=[(11, 65804 * b"a")]),
    ),
    "the largest plain delta": ("40 01 0001  c0", message(CON, codes.GET, 1, items=[(12, b"")])),
    "the smallest delta of one more byte": ("40 01 0001  d0 00", message(CON, codes.GET, 1, items=[(13, b"")])),
    "the largest delta of one more byte": ("40 01 0001  d0 ff", message(CON, codes.GET, 1, items=[(268, b"")])),
    "the smallest delta of two more bytes": ("40 01 0001  e0 0000", message(CON, codes.GET, 1, items=[(269, b"")])),
    "the largest option number": ("40 01 0001  e0 fef2", message(CON, codes.GET, 1, items=[(65535, b"")])),
    "delta and length extended": (
        "40 01 0001  dd 2f01" + 14 * "61",
        message(CON, codes.GET, 1, items=[(SIZE1, 14 * b"a")]),
    ),
    "a marker byte in an option's value": (
        "40 01 0001  b2 ff61  ff 62",
        message(CON, codes.GET, 1, items=[(URI_PATH, b"\xffa")], payload=b"b"),
    ),
    "a marker byte in an extended delta": (
        "40 01 0001  d1 ff61  ff 62",
        message(CON, codes.GET, 1, items=[(268, b"a")], payload=b"b"),
    ),
    "marker bytes in the payload": (
        "40 02 0001  ff ffff",
        message(CON, codes.POST, 1, payload=b"\xff\xff"),
    ),
    "everything at once": (
        "52 03 1234  abcd  b6 6865616c7468 11 32 52 6b76  ff 7b7d",
        message(
            NON,
            codes.PUT,
            0x1234,
            b"\xab\xcd",
            [(URI_PATH, b"health"), (CONTENT_FORMAT, b"2"), (ACCEPT, b"kv")],
            b"{}",
        ),
    ),
}


@pytest.mark.parametrize("name", WELL_FORMED)
def test_a_well_formed_message_reads_and_writes_as_the_rfc_says(name):
    text, expected = WELL_FORMED[name]
    data = bytes.fromhex(text)

    assert decode(data) == expected
    assert encode(expected) == data


HEADER = (CON, codes.GET, 1)
MALFORMED = {
    # too short or of another version: nothing in it can be believed, so there is no header to answer to
    "nothing": ("", None),
    "one byte": ("40", None),
    "a header cut off": ("40 01 00", None),
    "version 0": ("00 01 0001", None),
    "version 2": ("80 01 0001", None),
    "version 3": ("c0 01 0001", None),
    "version 2 with a reserved token length": ("8f 01 0001", None),
    # the token
    "token length 15": ("4f 01 0001" + 15 * "00", HEADER),
    "extended token length cut off": ("4d 01 0001", HEADER),
    "doubly extended token length cut off": ("4e 01 0001  00", HEADER),
    "extended token cut off": ("4d 01 0001  00" + 12 * "61", HEADER),
    "doubly extended token cut off": ("4e 01 0001  0000" + 268 * "61", HEADER),
    "a token missing": ("41 01 0001", HEADER),
    "a token cut off": ("48 01 0001  01020304050607", HEADER),
    # an empty message is the header alone (§4.1)
    "an empty message with a token": ("41 00 0001  aa", (CON, codes.EMPTY, 1)),
    "an empty message with an option": ("40 00 0001  b1 61", (CON, codes.EMPTY, 1)),
    "an empty message with a payload": ("60 00 0001  ff 61", (ACK, codes.EMPTY, 1)),
    "an empty message with a marker": ("70 00 0001  ff", (RST, codes.EMPTY, 1)),
    # options
    "option delta 15": ("40 01 0001  f0", HEADER),
    "option delta 15, with what 14 would need": ("40 01 0001  f0 0000", HEADER),
    "option length 15 meant as it stands": ("40 01 0001  bf" + 15 * "61", HEADER),
    "option length 15, with what 13 would need": ("40 01 0001  bf 00" + 13 * "61", HEADER),
    "option length 15, with what 14 would need": ("40 01 0001  bf 0000" + 269 * "61", HEADER),
    "option length 15 after an extended delta": ("40 01 0001  df 00 0000" + 269 * "61", HEADER),
    "a delta's extra byte missing": ("40 01 0001  d0", HEADER),
    "a delta's extra bytes missing": ("40 01 0001  e0", HEADER),
    "a delta's second extra byte missing": ("40 01 0001  e0 00", HEADER),
    "a length's extra byte missing": ("40 01 0001  bd", HEADER),
    "a length's second extra byte missing": ("40 01 0001  be 00", HEADER),
    "a length's extra byte missing after a delta's": ("40 01 0001  dd 00", HEADER),
    "a value missing": ("40 01 0001  b1", HEADER),
    "a value cut off": ("40 01 0001  b5 61626364", HEADER),
    "a long value cut off": ("40 01 0001  bd 00" + 12 * "61", HEADER),
    "a value cut off after a good option": ("40 01 0001  b1 61  15 62", HEADER),
    "an option number above 65535": ("40 01 0001  e0 fef3", HEADER),
    "option numbers that add up to more than 65535": ("40 01 0001  e0 fef2 10", HEADER),
    # the payload
    "a marker without a payload": ("40 01 0001  ff", HEADER),
    "a marker without a payload after an option": ("40 01 0001  b1 61  ff", HEADER),
    "a marker without a payload after a marker in a value": ("40 01 0001  b1 ff  ff", HEADER),
    "a marker without a payload after a token": ("41 01 0001  aa  ff", HEADER),
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("cache", [None, {}, {b"": Options(), b"\xb1a": Options([(URI_PATH, b"a")])}])
def test_a_malformed_message_is_refused_with_the_header_to_answer_to(name, cache):
    text, header = MALFORMED[name]

    with pytest.raises(MessageFormatError) as caught:
        decode(bytes.fromhex(text), cache)

    assert caught.value.header == header


CANNOT_BE_WRITTEN = {
    "a token of 65,805 bytes": message(CON, codes.GET, 1, bytes(65805)),
    "an empty message with a token": message(ACK, codes.EMPTY, 1, b"a"),
    "an empty message with an option": message(ACK, codes.EMPTY, 1, items=[(URI_PATH, b"a")]),
    "an empty message with a payload": message(ACK, codes.EMPTY, 1, payload=b"a"),
    "an option number of 17 bits": message(CON, codes.GET, 1, items=[(65536, b"")]),
    "an option number of 17 bits beside its predecessor": message(
        CON, codes.GET, 1, items=[(65535, b""), (65536, b"")]
    ),
    "an option value too long to say": message(CON, codes.GET, 1, items=[(URI_PATH, bytes(65805))]),
}


@pytest.mark.parametrize("name", CANNOT_BE_WRITTEN)
def test_a_message_without_a_wire_form_is_refused_as_wrong_use(name):
    with pytest.raises(UsageError):
        encode(CANNOT_BE_WRITTEN[name])


def test_options_are_written_in_order_of_their_numbers_and_equal_numbers_keep_theirs():
    options = Options([(URI_QUERY, b"x"), (URI_PATH, b"b"), (ETAG, b"e"), (URI_PATH, b"a")])

    assert options.items == ((ETAG, b"e"), (URI_PATH, b"b"), (URI_PATH, b"a"), (URI_QUERY, b"x"))
    assert options.raw.hex(" ") == "41 65 71 62 01 61 41 78"


def test_options_are_found_by_number():
    options = Options([(URI_PATH, b"nodes"), (URI_PATH, b"n1"), (CONTENT_FORMAT, b"\x01\x00"), (MAX_AGE, b"")])

    assert options.get(URI_PATH) == b"nodes"
    assert options.all(URI_PATH) == (b"nodes", b"n1")
    assert options.uint(CONTENT_FORMAT) == 256
    assert options.uint(MAX_AGE) == 0
    assert options.get(ETAG) is None
    assert options.all(ETAG) == ()
    assert options.uint(ACCEPT) is None


def test_leading_zero_bytes_of_a_number_are_accepted():
    assert Options([(CONTENT_FORMAT, b"\x00\x32")]).uint(CONTENT_FORMAT) == 50  # §3.2


def test_path_and_query_are_text_and_empty_segments_stay():
    options = Options([(URI_PATH, "größe".encode()), (URI_PATH, b""), (URI_QUERY, b"a=1"), (URI_QUERY, b"b")])

    assert options.path == ("größe", "")
    assert options.query == ("a=1", "b")
    assert Options().path == ()
    assert Options().query == ()


@pytest.mark.parametrize(("number", "name"), [(URI_PATH, "path"), (URI_QUERY, "query")])
def test_a_path_or_query_that_is_not_utf8_asks_for_bad_request(number, name):
    options = decode(encode(message(CON, codes.GET, 1, items=[(number, b"\xc3\x28")]))).options

    with pytest.raises(OptionError) as caught:
        getattr(options, name)

    assert caught.value.code == codes.BAD_REQUEST


# §5.4.3: a value of a length outside the definition's, and §5.4.5: a supernumerary option, are treated as unrecognised;
# the mask tells whether that makes the message unacceptable (critical) or goes unnoticed (elective).
UNUSABLE = {
    "a critical option too long": ([(ACCEPT, b"\0\0\0")], ACCEPT, (), True),
    "a critical option too short": ([(URI_HOST, b"")], URI_HOST, (), True),
    "an option that must be empty": ([(IF_NONE_MATCH, b"a")], IF_NONE_MATCH, (), True),
    "a critical option twice": ([(ACCEPT, b"2"), (ACCEPT, b"(")], ACCEPT, (b"2",), True),
    "an elective option too long": ([(CONTENT_FORMAT, b"\0\0\0")], CONTENT_FORMAT, (), False),
    "an elective option too short": ([(ETAG, b"")], ETAG, (), False),
    "an elective option twice": ([(MAX_AGE, b"1"), (MAX_AGE, b"2")], MAX_AGE, (b"1",), False),
    "one of many too long": ([(IF_MATCH, b"a"), (IF_MATCH, bytes(9)), (IF_MATCH, b"b")], IF_MATCH, (b"a", b"b"), True),
    "a repeatable critical option": ([(IF_MATCH, b"a"), (IF_MATCH, b"")], IF_MATCH, (b"a", b""), False),
    "a repeatable elective option": ([(REQUEST_TAG, b"a"), (REQUEST_TAG, b"b")], REQUEST_TAG, (b"a", b"b"), False),
    "an unknown option": ([(65001, b"a")], 65001, (b"a",), False),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_option_against_its_definition_counts_as_unrecognised(name):
    items, number, usable, spoils_the_message = UNUSABLE[name]
    options = Options(items)

    assert options.all(number) == usable
    assert bool(options.mask & UNUSABLE_CRITICAL) is spoils_the_message
    assert options.items == tuple(items)


@pytest.mark.parametrize(
    ("numbers", "mask"),
    [
        ((), 0),
        ((URI_PATH, URI_PATH), 1 << URI_PATH),
        ((ETAG, BLOCK2), 1 << ETAG | 1 << BLOCK2),
        ((59,), 1 << 59),
        ((60,), EXTENDED),
        ((61,), EXTENDED_CRITICAL),
        ((NO_RESPONSE, 65535), EXTENDED | EXTENDED_CRITICAL),
    ],
)
def test_the_mask_tells_which_options_a_message_has(numbers, mask):
    assert Options([(number, b"a") for number in numbers]).mask == mask


def test_a_cached_prefix_is_decoded_once():
    cache = {}
    first = decode(bytes.fromhex("41 01 0001 aa  b4 74657374  ff 01"), cache)
    second = decode(bytes.fromhex("42 03 0002 bbcc  b4 74657374  ff 02"), cache)
    third = decode(bytes.fromhex("40 01 0003  b4 74657374"), cache)

    assert second.options is first.options
    assert third.options is first.options
    assert (second.code, second.token, second.payload) == (codes.PUT, b"\xbb\xcc", b"\x02")


def test_a_cached_prefix_is_not_taken_for_a_message_that_goes_on_with_a_marker_byte_in_a_value():
    cache = {}
    decode(bytes.fromhex("40 01 0001  b1 61"), cache)

    # The prefix before the first 0xFF is here 'b1 61 12', in the second message 'b1 61' with another option behind it.
    assert decode(bytes.fromhex("40 01 0001  b1 61 12 ff62"), cache).options.items == ((11, b"a"), (12, b"\xffb"))
    assert decode(bytes.fromhex("40 01 0001  b1 61 12 ff62 ff 63"), cache).payload == b"c"
    assert set(cache) == {bytes.fromhex("b1 61")}


def test_the_cache_stays_bounded_and_keeps_no_block_numbers():
    cache = {}
    for number in range(5000):
        decode(encode(message(CON, codes.GET, 1, items=[(URI_PATH, b"%d" % number)])), cache)
    size = len(cache)
    for number in range(100):
        decode(encode(message(CON, codes.GET, 1, items=[(URI_PATH, b"a"), (BLOCK2, b"%d" % number)])), cache)
    decode(encode(message(CON, codes.GET, 1, items=[(URI_PATH, bytes(200))])), cache)

    assert 0 < size <= 1024
    assert len(cache) == size


def test_number_of_an_option_is_read_once_and_for_all() -> None:
    options = Options([(CONTENT_FORMAT, b"\x32"), (SIZE1, b"\x01\x00"), (3000, b"\x07")])
    for _ in range(2):
        assert [options.uint(number) for number in (CONTENT_FORMAT, SIZE1, 3000)] == [50, 256, 7]
        assert (options.uint(ACCEPT), options.uint(3002)) == (None, None)
    too_long = Options([(ACCEPT, b"\x00\x00\x01")])
    assert (too_long.uint(ACCEPT), too_long.uint(ACCEPT)) == (None, None)
