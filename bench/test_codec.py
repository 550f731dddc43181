"""Encoding and decoding of typical messages, beside aiocoap and scapy in the same run.

    tools/test bench --benchmark-columns=min,median,rounds

Encoding starts at plain values and ends at a datagram, decoding the other way round; each codec first has to agree
with the others on the message. An endpoint of ours decodes with a cache of options, so "minicoap" does here, and
"without cache" shows what a message costs whose options were never seen before.
"""

from __future__ import annotations

import json

import pytest

from minicoap.codec import codes, contentformats
from minicoap.codec.message import ACK, CON, decode
from minicoap.codec.options import BLOCK2, CONTENT_FORMAT, ETAG, MAX_AGE, SIZE2, URI_PATH, encode_uint
from tests.minicoap.codec.foreign import Aiocoap, Minicoap, Picture, Scapy

TOKEN = b"\x51\x0e\x9a\x27"
JSON = (CONTENT_FORMAT, encode_uint(contentformats.JSON))
HEALTH = {
    "node_id": "node-123",
    "overall_healthy": True,
    "cpu_percent": 15.5,
    "memory_percent": 45.2,
    "disk_percent": 30.1,
    "temperature": 42.5,
    "services_status": {"systemd": True, "network": True, "ssh": True, "docker": False},
    "error_messages": ["Service docker is not running"],
}

MESSAGES = {
    "GET /test": Picture(CON, codes.GET, 0x1234, TOKEN, ((URI_PATH, b"test"),), b""),
    "PUT /health": Picture(CON, codes.PUT, 0x1235, TOKEN, ((URI_PATH, b"health"), JSON), json.dumps(HEALTH).encode()),
    "GET of a node's health": Picture(
        CON,
        codes.GET,
        0x1236,
        TOKEN,
        ((URI_PATH, b"nodes"), (URI_PATH, b"node-001"), (URI_PATH, b"health")),
        b"",
    ),
    "piggybacked 2.05": Picture(ACK, codes.CONTENT, 0x1234, TOKEN, (JSON, (MAX_AGE, b"")), b'{"status": "ok"}'),
    "2.05 with a block": Picture(
        ACK,
        codes.CONTENT,
        0x1237,
        TOKEN,
        (
            (ETAG, b"\x01\x23\x45\x67\x89\xab\xcd\xef"),
            (CONTENT_FORMAT, encode_uint(contentformats.OCTET_STREAM)),
            (BLOCK2, encode_uint(700 << 4 | 8 | 6)),
            (SIZE2, encode_uint(16 << 20)),
        ),
        bytes(range(256)) * 4,
    ),
    "empty acknowledgement": Picture(ACK, codes.EMPTY, 0x1234, b"", (), b""),
}
CODECS = [Minicoap, Aiocoap, Scapy]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", MESSAGES)
def test_encode(name, codec, compare):
    picture, it = MESSAGES[name], codec()
    assert it.encode(it.built(picture)) == Minicoap().encode(Minicoap().built(picture))

    compare(f"encode {name}", it.name, lambda: it.encode(it.built(picture)))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", MESSAGES)
def test_decode(name, codec, compare):
    picture, it = MESSAGES[name], codec()
    data = Minicoap().encode(Minicoap().built(picture))
    if picture.items or codec is not Scapy:
        assert it.seen(it.decode(data)) == picture

    if codec is Minicoap:
        cache = {}
        assert it.seen(decode(data, cache)) == it.seen(decode(data, cache)) == picture
        compare(f"decode {name}", it.name, lambda: decode(data, cache))
    else:
        compare(f"decode {name}", it.name, lambda: it.decode(data))


@pytest.mark.parametrize("name", MESSAGES)
def test_decode_without_cache(name, compare):
    data = Minicoap().encode(Minicoap().built(MESSAGES[name]))

    compare(f"decode {name}", "without cache", lambda: decode(data))
