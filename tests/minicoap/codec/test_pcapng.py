"""Captures that we write: each field where the format has it, and tshark's reading of the whole."""

from __future__ import annotations

import shutil
import struct
import subprocess

import pytest

from minicoap.codec.pcapng import datagram, interface, packet, section

HOSTS = [
    ("192.0.2.1", "192.0.2.2", 28),
    ("2001:db8::1", "2001:db8::2", 48),
    ("::ffff:192.0.2.1", "192.0.2.2", 28),
    ("192.0.2.1", "2001:db8::2", 48),
    ("fe80::1%eth0", "fe80::2", 48),
    ("a name", "192.0.2.2", 28),
]


@pytest.mark.parametrize(("source", "destination", "headers"), HOSTS)
def test_a_datagram_has_the_headers_of_its_addresses(source, destination, headers):
    made = datagram((source, 40000), (destination, 5683), b"hello")

    assert len(made) == headers + 5
    assert made[0] >> 4 == (4 if headers == 28 else 6)
    assert made[-13:-9] == struct.pack("!HH", 40000, 5683)
    assert made.endswith(b"hello")


def test_every_block_says_its_length_at_both_ends_and_is_of_whole_words():
    for block in (section("x"), interface("any"), packet(1.5, b"abc"), packet(0.0, b"abcd", "why")):
        (length,) = struct.unpack_from("<I", block, 4)
        assert length == len(block) == struct.unpack("<I", block[-4:])[0]
        assert length % 4 == 0


def test_what_no_datagram_has_room_for_is_cut():
    made = datagram(("192.0.2.1", 1), ("192.0.2.2", 2), b"x" * 70_000)

    assert len(made) <= 65_535
    assert struct.unpack_from("!H", made, 2)[0] == len(made)


def test_tshark_reads_it_and_finds_the_checksums_right(tmp_path):
    tshark = shutil.which("tshark")
    if tshark is None:
        pytest.skip("tshark is not installed (Debian: tshark)")
    made = [
        datagram((source, 40000), (to, 5683), bytes(length)) for source, to, _ in HOSTS for length in (0, 1, 8, 999)
    ]
    # A sum of zero is sent as all ones: a UDP checksum of zero would mean that there is none.
    made += [datagram(("192.0.2.1", port), ("192.0.2.2", 5683), b"\x40\x01" + bytes((0, x))) for port in range(9)
             for x in range(256)]  # fmt: skip
    file = tmp_path / "ours.pcapng"
    parts = [packet(1_700_000_000.123456 + number, data, "why" * (number == 0)) for number, data in enumerate(made)]
    file.write_bytes(section("a test") + interface("any") + b"".join(parts))

    fields = ["frame.time_epoch", "ip.checksum.status", "udp.checksum.status", "_ws.malformed", "frame.comment"]
    arguments = [tshark, "-r", str(file), "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"]
    arguments += ["-d", "udp.port==5683,data", "-T", "fields", *(word for field in fields for word in ("-e", field))]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=120)
    rows = [line.split("\t") for line in done.stdout.splitlines()]

    assert len(rows) == len(made)
    assert rows[0][0].startswith("1700000000.123456")
    assert rows[0][4] == "why"
    assert {row[1] for row in rows} <= {"1", ""}  # 1: good; none in IPv6
    assert {row[2] for row in rows} == {"1"}
    assert {row[3] for row in rows} == {""}
