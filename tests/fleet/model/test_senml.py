"""SenML: what is written is read back, what the RFC shows is understood, and what it forbids is refused."""

import json
import math

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import FormatError, InvalidError, UsageError
from fleet.model.senml import ABSOLUTE, RATIO, SENML_CBOR, SENML_JSON, Record, decode_senml, encode_senml

FORMATS = (SENML_JSON, SENML_CBOR)
OW = "urn:dev:ow:10e2073a0108006"

numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(1 << 53), 1 << 53)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9:./_-]{0,20}", fullmatch=True)
records = st.builds(
    Record,
    names | st.sampled_from(("a:cpu", "a:disk")),
    numbers | st.booleans() | st.text() | st.binary(max_size=9),
    numbers | st.integers(1_790_000_000, 1_790_100_000),
    st.none() | st.sampled_from(("/", "Cel", "")),
    st.none() | numbers,
    st.none() | numbers,
)


@given(st.lists(records | st.builds(lambda record: record._replace(value=None, sum=1.5), records), max_size=6))
def test_whatever_is_written_in_either_format_is_read_back(pack):
    for number in FORMATS:
        assert decode_senml(encode_senml(pack, number), number) == pack


@given(st.binary(max_size=40) | st.lists(st.dictionaries(st.text() | st.sampled_from(["n", "v", "bt", "vd"]), st.text()
       | st.floats() | st.booleans())).map(lambda pack: json.dumps(pack).encode()))  # fmt: skip
def test_any_bytes_at_all_are_a_pack_or_one_of_two_errors(payload):
    for number in FORMATS:
        try:
            decode_senml(payload, number)
        except (FormatError, InvalidError):
            pass


def test_a_series_says_what_its_records_share_only_once():
    series = [Record("node:n1:cpu", tenths / 1000, 1_790_000_000 + 300 * tenths, RATIO) for tenths in (155, 156, 0)]
    series.append(Record("node:n1:disk", 0.5, 1_790_000_000 + 155 * 300, RATIO))

    assert json.loads(encode_senml(series)) == [
        {"bn": "node:n1:cpu", "bt": 1_790_046_500, "bu": "/", "v": 0.155},
        {"v": 0.156, "t": 300},
        {"v": 0, "t": -46500},
        {"bn": "node:n1:disk", "v": 0.5},
    ]


def test_a_pack_without_records_says_whose_they_would_be():
    for number in FORMATS:
        assert decode_senml(encode_senml([], number, name="node:n1:"), number) == []
    assert encode_senml([], name="node:n1:") == b'[{"bn":"node:n1:"}]'


def test_cbor_has_the_labels_of_table_4():
    pack = [Record("a", 0.5, 1_790_000_000, "/", 2, 60), Record("a", "x", 1_790_000_005, "/")]

    payload = encode_senml(pack, SENML_CBOR)

    assert cbor2.loads(payload) == [
        {-2: "a", -3: 1_790_000_000, -4: "/", 2: 0.5, 5: 2, 7: 60},
        {3: "x", 6: 5},
    ]
    assert payload[:1] == b"\x82", "an array of definite length (RFC 8428 §6)"


def test_octets_are_base64_in_json_and_octets_in_cbor():
    (entry,) = json.loads(encode_senml([Record("nfc", b"hi \n")]))
    assert entry == {"bn": "nfc", "vd": "aGkgCg"}  # the RFC's example, §5.1.5
    assert cbor2.loads(encode_senml([Record("nfc", b"hi \n")], SENML_CBOR)) == [{-2: "nfc", 8: b"hi \n"}]


@pytest.mark.parametrize("number", [50, 60, 113, 0])
def test_another_format_is_the_callers_mistake(number):
    with pytest.raises(UsageError):
        encode_senml([Record("a", 1)], number)
    with pytest.raises(UsageError):
        decode_senml(b"[]", number)


@pytest.mark.parametrize(
    "record",
    [
        Record("", 1),
        Record("-starts-with-a-dash", 1),
        Record("a b", 1),
        Record("ü", 1),
        Record("a\n", 1),
        Record("a", None),
        Record("a", math.nan),
        Record("a", math.inf),
        Record("a", 1, math.inf),
        Record("a", 1, sum=math.nan),
    ],
)
def test_a_record_that_senml_does_not_allow_is_not_written(record):
    with pytest.raises(UsageError):
        encode_senml([record])


# The examples of RFC 8428 §5.1

MULTIPLE = [
    {"bn": OW + ":", "bt": 1.276020076001e9, "bu": "A", "bver": 5, "n": "voltage", "u": "V", "v": 120.1},
    {"n": "current", "t": -5, "v": 1.2},
    {"n": "current", "v": 1.7},
]
MIXED = [
    {"bn": "urn:dev:ow:1", "bt": 1.320067464e09, "bu": "%RH", "v": 20},
    {"u": "lon", "v": 24.30621},
    {"t": 60, "v": 20.3},
    {"u": "%EL", "t": 150, "v": 98},
]
TYPES = [
    {"bn": "urn:dev:ow:1:", "n": "temp", "u": "Cel", "v": 23.1},
    {"n": "label", "vs": "Machine Room"},
    {"n": "open", "vb": False},
    {"n": "nfc-reader", "vd": "aGkgCg"},
]
TWO = [
    {"bn": "2001:db8::2/", "bt": 1.320078429e09, "n": "temperature", "u": "Cel", "v": 25.2},
    {"bn": "2001:db8::1/", "n": "temperature", "u": "Cel", "v": 12.3},
]
ACTUATOR = [{"bn": "urn:dev:ow:1:"}, {"n": "temp", "u": "Cel", "v": 23.1}, {"n": "heat", "u": "/", "v": 1}]


@pytest.mark.parametrize(
    ("pack", "expected"),
    [
        (
            [{"n": OW, "u": "Cel", "v": 23.1}],
            [Record(OW, 23.1, 0, "Cel")],
        ),
        (
            MULTIPLE,
            [
                Record(OW + ":voltage", 120.1, 1.276020076001e9, "V"),
                Record(OW + ":current", 1.2, 1.276020076001e9 - 5, "A"),
                Record(OW + ":current", 1.7, 1.276020076001e9, "A"),
            ],
        ),
        (
            MIXED,
            [
                Record("urn:dev:ow:1", 20, 1320067464, "%RH"),
                Record("urn:dev:ow:1", 24.30621, 1320067464, "lon"),
                Record("urn:dev:ow:1", 20.3, 1320067524, "%RH"),
                Record("urn:dev:ow:1", 98, 1320067614, "%EL"),
            ],
        ),
        (
            TYPES,
            [
                Record("urn:dev:ow:1:temp", 23.1, 0, "Cel"),
                Record("urn:dev:ow:1:label", "Machine Room"),
                Record("urn:dev:ow:1:open", False),
                Record("urn:dev:ow:1:nfc-reader", b"hi \n"),
            ],
        ),
        (
            TWO,
            [
                Record("2001:db8::2/temperature", 25.2, 1320078429, "Cel"),
                Record("2001:db8::1/temperature", 12.3, 1320078429, "Cel"),
            ],
        ),
        (ACTUATOR, [Record("urn:dev:ow:1:temp", 23.1, 0, "Cel"), Record("urn:dev:ow:1:heat", 1, 0, "/")]),
    ],
)
def test_the_rfcs_examples_are_understood(pack, expected):
    assert decode_senml(json.dumps(pack).encode()) == expected


def test_the_rfcs_example_in_cbor_is_understood():
    # §6, the beginning of the dump: the first record
    dump = bytes.fromhex(
        "81a721781b75726e3a6465763a6f773a3130653230373361303130383030363a22fb41d303a15b001062236141200500"
        "67766f6c746167650161560 2fb405e066666666666".replace(" ", "")
    )

    assert decode_senml(dump, SENML_CBOR) == [Record(OW + ":voltage", 120.1, 1.276020076001e9, "V")]


@pytest.mark.parametrize(
    ("fields", "value", "total"),
    [
        ({"bv": 20, "v": 1.5}, 21.5, None),
        ({"bv": 20, "n": "x"}, 20, None),  # §4.5.4: what is missing is zero
        ({"bv": 20, "vs": "x"}, "x", None),
        ({"bs": 5, "n": "x"}, None, 5),
        ({"bs": 5, "s": 2}, None, 7),
        ({"bs": 5, "v": 2}, 2, 5),
    ],
)
def test_base_values_and_sums_are_added(fields, value, total):
    (record,) = decode_senml(json.dumps([{"bn": "a", **fields}]).encode())

    assert (record.value, record.sum) == (value, total)


def test_a_relative_time_becomes_absolute_where_it_is_known_when_now_is():
    pack = json.dumps([{"n": "a", "v": 1}, {"n": "a", "v": 1, "t": -5}, {"n": "a", "v": 1, "t": ABSOLUTE}]).encode()

    assert [record.time for record in decode_senml(pack)] == [0, -5, ABSOLUTE]
    assert [record.time for record in decode_senml(pack, now=1_790_000_000)] == [1_790_000_000, 1_789_999_995, ABSOLUTE]


def test_what_is_unknown_is_ignored_unless_it_must_be_understood():
    known = [Record("a", 1)]

    assert decode_senml(b'[{"n": "a", "v": 1, "later": {"x": [1]}}]') == known
    assert decode_senml(cbor2.dumps([{0: "a", 2: 1, 99: 1, "later": 1}]), SENML_CBOR) == known
    for payload, number in (
        (b'[{"n": "a", "v": 1, "later_": 1}]', SENML_JSON),
        (cbor2.dumps([{0: "a", 2: 1, "later_": 1}]), SENML_CBOR),
    ):
        with pytest.raises(InvalidError) as raised:
            decode_senml(payload, number)
        assert raised.value.field == "$[0].later_"


@pytest.mark.parametrize(
    ("pack", "field"),
    [
        ({}, "$"),
        ([1], "$"),
        ([{"v": 1}], "$[0].n"),
        ([{"n": "-a", "v": 1}], "$[0].n"),
        ([{"bn": "a b", "v": 1}], "$[0].n"),
        ([{"n": "a"}], "$[0].v"),
        ([{"n": "a", "v": 1, "vs": "x"}], "$[0].vs"),
        ([{"n": "a", "v": True}], "$[0].v"),
        ([{"n": "a", "v": "1"}], "$[0].v"),
        ([{"n": "a", "v": None}], "$[0].v"),
        ([{"n": "a", "vb": 1}], "$[0].vb"),
        ([{"n": 1, "v": 1}], "$[0].n"),
        ([{"n": "a", "vd": "a+/="}], "$[0].vd"),
        ([{"n": "a", "vd": "a"}], "$[0].vd"),
        ([{"n": "a", "v": 1}, {"n": "a", "v": 1, "t": "now"}], "$[1].t"),
        ([{"bver": 11, "n": "a", "v": 1}], "$[0].bver"),
        ([{"bver": 26, "n": "a", "v": 1, "u": "/100"}], "$[0].bver"),
        ([{"bver": 0, "n": "a", "v": 1}], "$[0].bver"),
        ([{"bver": 9, "n": "a", "v": 1}, {"bver": 10, "n": "a", "v": 1}], "$[1].bver"),
        ([{"n": "a", "v": 1}, {"bver": 9, "n": "a", "v": 1}], "$[1].bver"),
        ([{"bn": "a", "bv": 1e308}, {"v": 1e308}], "$[1].v"),
    ],
)
def test_what_is_no_senml_is_refused_by_the_name_of_its_field(pack, field):
    with pytest.raises(InvalidError) as raised:
        decode_senml(json.dumps(pack).encode())

    assert raised.value.field == field


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_cbors_numbers_that_are_none_are_refused(value):
    with pytest.raises(InvalidError):
        decode_senml(cbor2.dumps([{0: "a", 2: value}]), SENML_CBOR)


@pytest.mark.parametrize(
    "payload",
    [cbor2.dumps([{0: "a", 2: cbor2.CBORTag(4, [-1, 5])}]), b"\x81\xa2\x00\x61a\x00\x61b", b"\x81\xa1\x41a\x01"],
)
def test_tags_repeated_labels_and_other_keys_are_no_cbor_of_ours(payload):
    with pytest.raises(FormatError):
        decode_senml(payload, SENML_CBOR)
