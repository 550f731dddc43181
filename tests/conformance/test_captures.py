"""Captures of others: every link layer down to the datagram, damaged files, and what only looks like CoAP."""

from __future__ import annotations

import gzip
import random
import struct

import pytest

from minicoap.codec.pcapng import datagram, interface, packet, section
from tools.conformance.capture.files import CaptureError, Packet, read
from tools.conformance.capture.links import (
    ETHERNET,
    LINUX_COOKED,
    LINUX_COOKED_2,
    LOOP,
    NULL,
    RAW,
    Datagram,
    Dissector,
)
from tools.conformance.grading.exchanges import find

HERE, THERE = ("192.0.2.1", 40000), ("192.0.2.2", 5683)
HERE6, THERE6 = ("2001:db8::1", 40000), ("2001:db8::2", 5683)
DATA = bytes.fromhex("4401abcd01020304b474657374")  # CON GET /test
V4, V6 = datagram(HERE, THERE, DATA), datagram(HERE6, THERE6, DATA)


def dissected(link_type, *frames):
    dissector = Dissector()
    found = [dissector.datagram(Packet(number, 1.5, link_type, frame, len(frame)))
             for number, frame in enumerate(frames, 1)]  # fmt: skip
    return [each for each in found if each is not None], dissector


MACS = bytes(12)
LAYERS = {
    "raw IPv4": (RAW, V4, HERE),
    "raw IPv6": (RAW, V6, HERE6),
    "Ethernet": (ETHERNET, MACS + b"\x08\x00" + V4, HERE),
    "Ethernet, padded": (ETHERNET, MACS + b"\x08\x00" + V4 + bytes(9), HERE),
    "Ethernet, IPv6": (ETHERNET, MACS + b"\x86\xdd" + V6, HERE6),
    "VLAN": (ETHERNET, MACS + b"\x81\x00\x00\x07\x08\x00" + V4, HERE),
    "VLAN in VLAN": (ETHERNET, MACS + b"\x88\xa8\x00\x07\x81\x00\x00\x08\x86\xdd" + V6, HERE6),
    "PPPoE": (ETHERNET, MACS + b"\x88\x64\x11\x00\x00\x01\x00\x00\x00\x21" + V4, HERE),
    "cooked": (LINUX_COOKED, bytes(14) + b"\x08\x00" + V4, HERE),
    "cooked, version 2": (LINUX_COOKED_2, b"\x86\xdd" + bytes(18) + V6, HERE6),
    "loopback, little-endian": (NULL, b"\x02\x00\x00\x00" + V4, HERE),
    "loopback, IPv6 of macOS": (NULL, b"\x1e\x00\x00\x00" + V6, HERE6),
    "loopback of OpenBSD": (LOOP, b"\x00\x00\x00\x02" + V4, HERE),
    "IPv4 with options": (RAW, b"\x46\0" + struct.pack("!H", len(V4) + 4) + V4[4:20] + bytes(4) + V4[20:], HERE),
    "IPv6 with headers": (RAW, V6[:4] + struct.pack("!H", len(V6) - 40 + 8) + b"\x00\x40" + V6[8:40] + b"\x11\x00"
                          + bytes(6) + V6[40:], HERE6),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_a_datagram_is_found_under_every_link_layer(name):
    link_type, frame, source = LAYERS[name]

    found, _ = dissected(link_type, frame)

    assert [(each.source, each.data) for each in found] == [(source, DATA)]


def ipv4_fragments(data, size, *, order=None):
    whole = datagram(HERE, THERE, data)[20:]
    made = []
    for offset in range(0, len(whole), size):
        piece = whole[offset : offset + size]
        more = 0x2000 if offset + size < len(whole) else 0
        head = bytearray(V4[:20])
        struct.pack_into("!HHH", head, 2, 20 + len(piece), 77, more | offset // 8)
        made.append(bytes(head) + piece)
    return [made[index] for index in (order or range(len(made)))]


def ipv6_fragments(data, size):
    whole = datagram(HERE6, THERE6, data)[40:]
    made = []
    for offset in range(0, len(whole), size):
        piece = whole[offset : offset + size]
        fragment = struct.pack("!BxHI", 17, offset | (offset + size < len(whole)), 77)
        made.append(V6[:4] + struct.pack("!H", 8 + len(piece)) + b"\x2c\x40" + V6[8:40] + fragment + piece)
    return made


@pytest.mark.parametrize(
    ("source", "frames"),
    [
        (HERE, ipv4_fragments(bytes(range(200)), 80)),
        (HERE, ipv4_fragments(bytes(range(200)), 80, order=(2, 0, 1))),
        (HERE6, ipv6_fragments(bytes(range(200)), 80)),
    ],
)
def test_fragments_are_put_together_in_any_order(source, frames):
    found, _ = dissected(RAW, *frames)

    assert [(each.number, each.source, each.data) for each in found] == [(3, source, bytes(range(200)))]


def test_fragments_without_their_others_are_bounded():
    first = ipv4_fragments(bytes(200), 80)[0]
    frames = [first[:4] + struct.pack("!H", number) + first[6:] for number in range(2000)]

    found, dissector = dissected(RAW, *frames)

    assert found == []
    assert len(dissector._fragments) <= 257


# IPHC with addresses from the MAC header, hop limit 64; UDP with ports in full, or in four bits each (RFC 6282).
LOWPAN_UDP = {
    "ports in full": (b"\xf0" + struct.pack("!HHH", 40000, 5683, 0), 40000, 5683),
    "short ports": (b"\xf3\x12\x00\x00", 61617, 61618),
}
MAC_HEADERS = {
    "short addresses": (b"\x41\x88\x07\xcd\xab\x01\x00\x02\x00", "fe80::ff:fe00:2", "fe80::ff:fe00:1"),
    "long addresses": (
        b"\x41\xcc\x07\xcd\xab" + struct.pack("<QQ", 0x0212740000000001, 0x0212740000000002),
        "fe80::12:7400:0:2", "fe80::12:7400:0:1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("ports", LOWPAN_UDP)
@pytest.mark.parametrize("header", MAC_HEADERS)
@pytest.mark.parametrize(("link_type", "fcs"), [(230, b""), (195, b"\0\0")])
def test_6lowpan_over_802_15_4_is_decompressed_by_scapy(ports, header, link_type, fcs):
    pytest.importorskip("scapy.layers.sixlowpan")
    udp, source, destination = LOWPAN_UDP[ports]
    mac, here, there = MAC_HEADERS[header]

    found, _ = dissected(link_type, mac + b"\x7e\x33" + udp + DATA + fcs)

    assert [each[2:] for each in found] == [((here, source), (there, destination), DATA)]


def test_an_ipv6_header_that_is_not_compressed_and_fragments_of_6lowpan_are_told_apart():
    pytest.importorskip("scapy.layers.sixlowpan")
    mac = MAC_HEADERS["short addresses"][0]

    found, dissector = dissected(230, mac + b"\x41" + V6, mac + b"\xc0\x50\x00\x07\x41" + V6[:40])

    assert [each.data for each in found] == [DATA]
    assert dissector.unreadable == {"fragments of 6LoWPAN": 1}


def pcap(order, magic, fraction, frames=(V4,)):
    head = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, RAW)
    return head + b"".join(
        struct.pack(order + "IIII", 1000, fraction, len(frame), len(frame)) + frame for frame in frames
    )


FORMATS = {
    "pcap, little-endian": pcap("<", 0xA1B2C3D4, 250_000),
    "pcap, big-endian": pcap(">", 0xA1B2C3D4, 250_000),
    "pcap, nanoseconds": pcap("<", 0xA1B23C4D, 250_000_000),
    "pcapng": section("x") + interface("any") + packet(1000.25, V4),
    "pcapng, two sections": section("x") + interface("a") + section("y") + interface("b") + packet(1000.25, V4),
    "packed": gzip.compress(section("x") + interface("any") + packet(1000.25, V4)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_of_a_file_is_read(tmp_path, name):
    file = tmp_path / "capture"
    file.write_bytes(FORMATS[name])

    assert [tuple(each) for each in read(str(file))] == [(1, 1000.25, RAW, V4, len(V4))]


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_breaks_off_is_refused_where_it_does(tmp_path, name):
    whole = FORMATS[name]
    file = tmp_path / "capture"
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        try:
            packets = list(read(str(file)))
        except CaptureError as error:
            assert str(file) in str(error)
        else:
            assert packets == []  # it ends between two blocks


def test_damaged_files_are_read_or_refused_and_nothing_else(tmp_path):
    chance = random.Random(1)
    file = tmp_path / "capture"
    whole = FORMATS["pcapng"] * 2
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        file.write_bytes(data)
        try:
            dissector = Dissector()
            for each in read(str(file)):
                dissector.datagram(each)
        except CaptureError:
            pass


def test_no_frame_of_any_link_layer_makes_the_dissector_fail():
    chance = random.Random(2)
    dissector = Dissector()
    for _ in range(20_000):
        link_type, frame, _ = LAYERS[chance.choice(list(LAYERS))]
        data = bytearray(frame[: chance.randrange(len(frame) + 1)])
        if data:
            data[chance.randrange(len(data))] = chance.randrange(256)
        dissector.datagram(Packet(1, 0.0, link_type, bytes(data), len(data)))


def conversation(here, there, *payloads):
    """Datagrams to and fro."""
    pairs = [(here, there), (there, here)]
    return [Datagram(number, float(number), *pairs[number % 2], payload) for number, payload in enumerate(payloads)]


REQUEST = DATA
ACK = bytes.fromhex("6445abcd01020304ff68656c6c6f")
A, B = ("192.0.2.1", 40000), ("192.0.2.2", 61616)


def test_coap_is_found_on_any_port_by_its_answers():
    assert len(find(conversation(A, B, REQUEST, ACK)).exchanges) == 1
    assert len(find(conversation(A, B, bytes.fromhex("4000abcd"), bytes.fromhex("7000abcd"))).exchanges) == 1


@pytest.mark.parametrize(
    ("why", "payloads"),
    [
        ("nothing answers", [REQUEST]),
        ("the message ID is another", [REQUEST, bytes.fromhex("6445abce01020304ff68")]),
        ("the token is another", [REQUEST, bytes.fromhex("5445abce01020305ff68")]),
        ("the token is empty", [bytes.fromhex("5001abcdb474657374"), bytes.fromhex("5045abceff68")]),
        ("an option is unknown", [bytes.fromhex("4001abcde30001ab"), bytes.fromhex("6045abcdff68")]),
        ("most of it is something else", [REQUEST, ACK, *[b"\x00\x01\x02\x03"] * 5]),
    ],
)
def test_what_only_looks_like_coap_on_another_port_is_not_taken_for_it(why, payloads):
    assert find(conversation(A, B, *payloads)).exchanges == [], why


def test_random_datagrams_of_other_protocols_are_no_coap():
    chance = random.Random(3)
    for port in (53, 443, 5060, 5684, 61616):
        # As QUIC's short headers begin, and STUN's, RTP's and DTLS's do; then a protocol that echoes.
        for first in ((0x40, 0x7F), (0x00, 0x03), (0x80, 0xBF), (20, 25)):
            payloads = [bytes((chance.randint(*first),)) + chance.randbytes(chance.randrange(60)) for _ in range(2000)]
            assert find(conversation(A, ("192.0.2.2", port), *payloads)).exchanges == []
        echoed = [payload for payload in payloads for _ in (0, 1)]
        assert find(conversation(A, ("192.0.2.2", port), *echoed)).exchanges == []
