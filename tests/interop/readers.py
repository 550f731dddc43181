"""Four readers of the same bytes: ours, aiocoap's, scapy's, tshark's. What each sees is one picture, or a refusal."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Optional

import pytest

from minicoap.errors import MessageFormatError
from tests.minicoap.codec.foreign import Aiocoap, Minicoap, Picture, Scapy


class Seen(NamedTuple):
    """What all readers tell of a message: options by number and length, the payload by its length."""

    type: int
    code: int
    message_id: int
    token: bytes
    options: tuple[tuple[int, int], ...]
    payload: int


Verdict = Optional[Seen]
"""None: no CoAP message."""


def _seen(picture: Picture) -> Seen:
    options = tuple((number, len(value)) for number, value in picture.items)
    return Seen(*picture[:4], options, len(picture.payload))


def read_by_ours(rows: Mapping[str, bytes]) -> dict[str, Verdict]:
    codec = Minicoap()

    def read(data: bytes) -> Verdict:
        try:
            return _seen(codec.seen(codec.decode(data)))
        except MessageFormatError:
            return None

    return {name: read(data) for name, data in rows.items()}


def read_by_aiocoap(rows: Mapping[str, bytes]) -> dict[str, Verdict]:
    codec = Aiocoap()

    def read(data: bytes) -> Verdict:
        try:
            return _seen(codec.seen(codec.decode(data)))
        except Exception:  # noqa: BLE001  whatever it raises, it does not take it for a message
            return None

    return {name: read(data) for name, data in rows.items()}


def read_by_scapy(rows: Mapping[str, bytes]) -> dict[str, Verdict]:
    codec = Scapy()
    layer = pytest.importorskip("scapy.contrib.coap").CoAP

    def read(data: bytes) -> Verdict:
        try:
            packet = codec.decode(data)
            # It dissects on when it can't: what is not its own layer, or not written as it was read, it did not take.
            if not isinstance(packet, layer) or bytes(packet) != data:
                return None
            return _seen(codec.seen(packet))
        except Exception:  # noqa: BLE001  whatever it raises, it does not take it for a message
            return None

    return {name: read(data) for name, data in rows.items()}


_FIELDS = (
    "coap.version", "coap.type", "coap.code", "coap.mid", "coap.token", "coap.opt.delta", "coap.opt.delta_ext",
    "coap.opt.length", "coap.opt.length_ext", "coap.payload_length", "coap.block_length", "_ws.malformed",
    "_ws.expert.severity",
)  # fmt: skip
_ERROR = str(0x00800000)  # severity PI_ERROR


def read_by_tshark(rows: Mapping[str, bytes], directory: Path) -> dict[str, Verdict]:
    command = shutil.which("tshark")
    if command is None:
        pytest.skip("tshark is not installed (Debian: tshark)")
    capture = directory / "rows.pcap"
    capture.write_bytes(_pcap(rows.values()))
    arguments = [command, "-r", str(capture), "-d", "udp.port==5683,coap", "-T", "fields", "-E", "separator=|"]
    for field in _FIELDS:
        arguments += ["-e", field]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=120)
    lines = done.stdout.split("\n")[: len(rows)]
    return {name: _told(line.split("|")) for name, line in zip(rows, lines)}


def _told(fields: list[str]) -> Verdict:
    (
        version,
        type,
        code,
        message_id,
        token,
        deltas,
        more_delta,
        lengths,
        more_length,
        payload,
        block,
        malformed,
        severity,
    ) = fields
    if malformed or _ERROR in severity.split(",") or version != "1" or not message_id:
        return None
    options = []
    number = 0
    more_deltas, more_lengths = iter(_numbers(more_delta)), iter(_numbers(more_length))
    for delta, length in zip(_numbers(deltas), _numbers(lengths)):
        number += _extended(delta, more_deltas)
        options.append((number, _extended(length, more_lengths)))
    payloads = _numbers(payload or block)
    return Seen(
        int(type), int(code), int(message_id), bytes.fromhex(token), tuple(options), payloads[0] if payloads else 0
    )


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")] if text else []


def _extended(nibble: int, more: Any) -> int:
    return nibble if nibble < 13 else next(more) + (13 if nibble == 13 else 269)


def _pcap(datagrams: Any) -> bytes:
    parts = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 101)]
    for data in datagrams:
        udp = struct.pack(">HHHH", 40000, 5683, (8 + len(data)) & 0xFFFF, 0) + data
        address = b"\x7f\x00\x00\x01"
        ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, address, address) + udp
        parts.append(struct.pack("<IIII", 1, 0, len(ip), len(ip)) + ip)
    return b"".join(parts)
