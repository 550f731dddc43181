"""Our codec beside other people's: the same bytes for the same message, and captures that nobody here made."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicoap.codec.codes import EMPTY
from minicoap.codec.message import decode, encode
from minicoap.codec.options import (
    DEFINITIONS,
    FORMAT_EMPTY,
    FORMAT_STRING,
    FORMAT_UINT,
    encode_uint,
)
from minicoap.errors import MessageFormatError
from tests.minicoap.codec.foreign import Aiocoap, Minicoap, Picture, Scapy

CAPTURES = Path(__file__).parents[4] / "shared" / "captures"
OURS = Minicoap()


def values(number: int) -> st.SearchStrategy[bytes]:
    """Values that fit the option's registration; any bytes for a number without one."""
    definition = DEFINITIONS.get(number)
    if definition is None:
        return st.binary(max_size=300)
    longest = min(definition.maximum, 300)
    if definition.format == FORMAT_EMPTY:
        return st.just(b"")
    if definition.format == FORMAT_UINT:
        return (
            st.integers(1 if definition.minimum else 0, 256**definition.maximum - 1)
            .map(encode_uint)
            .filter(lambda value: len(value) >= definition.minimum)
        )
    if definition.format == FORMAT_STRING:
        return st.text(max_size=longest // 4).map(str.encode).filter(lambda value: len(value) >= definition.minimum)
    return st.binary(min_size=definition.minimum, max_size=longest)


NUMBERS = st.one_of(st.sampled_from(sorted(DEFINITIONS)), st.integers(3000, 65535))
OPTIONS = st.lists(NUMBERS.flatmap(lambda number: st.tuples(st.just(number), values(number))), min_size=1, max_size=8)
PICTURES = st.builds(
    Picture,
    st.integers(0, 3),
    st.sampled_from([1, 2, 3, 4, 5, 6, 7, 65, 68, 69, 95, 128, 132, 141, 160, 163]),
    st.integers(0, 65535),
    st.binary(max_size=8),
    OPTIONS.map(lambda items: tuple(sorted(items, key=lambda item: item[0]))),
    st.binary(max_size=64),
)


@pytest.mark.parametrize("foreign", [Aiocoap, Scapy])
def test_a_foreign_codec_and_ours_write_and_read_the_same(foreign):
    theirs = foreign()

    @given(PICTURES)
    def same(picture):
        data = OURS.encode(OURS.built(picture))
        assert theirs.encode(theirs.built(picture)) == data
        assert theirs.seen(theirs.decode(data)) == picture
        assert OURS.seen(OURS.decode(data)) == picture

    same()


# Some clients put the response's token into the Empty message that acknowledges it: a format error by §4.1, whatever
# the verdict on the test they were recorded in.
EMPTY_WITH_TOKEN = {
    "TD_COAP_OBS_05_PASS": 5,
    "TD_COAP_OBS_10_PASS_Duplicated_ACK": 16,
    "TD_COAP_OBS_10_PASS_Get_different_tokens": 9,
}


def capture_files():
    return sorted(CAPTURES.glob("labelled/*.pcap")) or [None]


@pytest.mark.parametrize("path", capture_files(), ids=lambda path: path.stem if path else "missing")
def test_every_coap_packet_of_a_foreign_capture_is_read_and_written_back(path):
    if path is None:
        pytest.skip(f"no foreign captures: {CAPTURES} is missing")
    scapy = Scapy()
    datagrams = coap_datagrams(path)
    refused = 0

    assert datagrams
    for data in datagrams:
        if data[1] == EMPTY and len(data) > 4:
            with pytest.raises(MessageFormatError):
                decode(data)
            refused += 1
            continue
        message = decode(data)
        assert encode(message) == data
        if message.options.items:
            assert scapy.seen(scapy.decode(data)) == OURS.seen(message)
    assert refused == EMPTY_WITH_TOKEN.get(path.stem, 0)


def coap_datagrams(path: Path) -> list[bytes]:
    """The UDP payloads to and from port 5683 in a capture."""
    udp = pytest.importorskip("scapy.layers.inet").UDP  # with the layers below it, which the reader has to know
    packets = pytest.importorskip("scapy.utils").rdpcap(str(path))
    layers = [packet[udp] for packet in packets if udp in packet]
    # As recorded: what scapy would build again from its own reading proves nothing about the bytes.
    return [layer.original[8 : layer.len] for layer in layers if 5683 in (layer.sport, layer.dport)]
