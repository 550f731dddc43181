"""Option numbers and their definitions (IANA "CoAP Option Numbers"), and the uint format (RFC 7252 §3.2, §5.4, §5.10).

The number itself says how to treat an option one does not know (§5.4.6): bit 0 critical, bit 1 unsafe to forward; one
that is safe to forward is no part of a cache key if bits 2, 3 and 4 are all set. The table holds every option that IANA
lists; being listed does not mean that the endpoint implements it.
"""

from __future__ import annotations

from typing import NamedTuple

IF_MATCH = 1
URI_HOST = 3
ETAG = 4
IF_NONE_MATCH = 5
OBSERVE = 6
URI_PORT = 7
LOCATION_PATH = 8
OSCORE = 9
URI_PATH = 11
CONTENT_FORMAT = 12
MAX_AGE = 14
URI_QUERY = 15
HOP_LIMIT = 16
ACCEPT = 17
Q_BLOCK1 = 19
LOCATION_QUERY = 20
EDHOC = 21
BLOCK2 = 23
BLOCK1 = 27
SIZE2 = 28
Q_BLOCK2 = 31
PROXY_URI = 35
PROXY_SCHEME = 39
SIZE1 = 60
PROXY_CRI = 235
PROXY_SCHEME_NUMBER = 239
ECHO = 252
NO_RESPONSE = 258
REQUEST_TAG = 292
OCF_ACCEPT_CONTENT_FORMAT_VERSION = 2049
OCF_CONTENT_FORMAT_VERSION = 2053
SCP82_PARAMS = 2055
X_ADMIN_PROTOCOL = 2056

DEFAULT_MAX_AGE = 60  # seconds (§5.10.5)
DEFAULT_HOP_LIMIT = 16  # RFC 8768 §3

FORMAT_EMPTY = "empty"
FORMAT_OPAQUE = "opaque"
FORMAT_UINT = "uint"
FORMAT_STRING = "string"

# The longest value that the 16-bit length extension can express (§3.1); for options whose registration names no limit.
LONGEST_VALUE = 65535 + 269


class OptionDefinition(NamedTuple):
    """What a registered option looks like: one of the four formats of §3.2, and the lengths allowed, in bytes."""

    number: int
    name: str
    format: str
    minimum: int
    maximum: int
    repeatable: bool


def _define(rows: tuple[OptionDefinition, ...]) -> dict[int, OptionDefinition]:
    return {row.number: row for row in rows}


DEFINITIONS: dict[int, OptionDefinition] = _define(
    (
        # RFC 7252 Table 4; Observe RFC 7641 §2; Block and Size2 RFC 7959 §2.1, §4; OSCORE RFC 8613 §2
        OptionDefinition(IF_MATCH, "If-Match", FORMAT_OPAQUE, 0, 8, True),
        OptionDefinition(URI_HOST, "Uri-Host", FORMAT_STRING, 1, 255, False),
        OptionDefinition(ETAG, "ETag", FORMAT_OPAQUE, 1, 8, True),
        OptionDefinition(IF_NONE_MATCH, "If-None-Match", FORMAT_EMPTY, 0, 0, False),
        OptionDefinition(OBSERVE, "Observe", FORMAT_UINT, 0, 3, False),
        OptionDefinition(URI_PORT, "Uri-Port", FORMAT_UINT, 0, 2, False),
        OptionDefinition(LOCATION_PATH, "Location-Path", FORMAT_STRING, 0, 255, True),
        OptionDefinition(OSCORE, "OSCORE", FORMAT_OPAQUE, 0, 255, False),
        OptionDefinition(URI_PATH, "Uri-Path", FORMAT_STRING, 0, 255, True),
        OptionDefinition(CONTENT_FORMAT, "Content-Format", FORMAT_UINT, 0, 2, False),
        OptionDefinition(MAX_AGE, "Max-Age", FORMAT_UINT, 0, 4, False),
        OptionDefinition(URI_QUERY, "Uri-Query", FORMAT_STRING, 0, 255, True),
        OptionDefinition(HOP_LIMIT, "Hop-Limit", FORMAT_UINT, 1, 1, False),  # RFC 8768 §3
        OptionDefinition(ACCEPT, "Accept", FORMAT_UINT, 0, 2, False),
        OptionDefinition(Q_BLOCK1, "Q-Block1", FORMAT_UINT, 0, 3, False),  # RFC 9177 §4.1
        OptionDefinition(LOCATION_QUERY, "Location-Query", FORMAT_STRING, 0, 255, True),
        OptionDefinition(EDHOC, "EDHOC", FORMAT_EMPTY, 0, 0, False),  # RFC 9668 §3.1
        OptionDefinition(BLOCK2, "Block2", FORMAT_UINT, 0, 3, False),
        OptionDefinition(BLOCK1, "Block1", FORMAT_UINT, 0, 3, False),
        OptionDefinition(SIZE2, "Size2", FORMAT_UINT, 0, 4, False),
        OptionDefinition(Q_BLOCK2, "Q-Block2", FORMAT_UINT, 0, 3, True),  # RFC 9177 §4.1
        OptionDefinition(PROXY_URI, "Proxy-Uri", FORMAT_STRING, 1, 1034, False),
        OptionDefinition(PROXY_SCHEME, "Proxy-Scheme", FORMAT_STRING, 1, 255, False),
        OptionDefinition(SIZE1, "Size1", FORMAT_UINT, 0, 4, False),
        OptionDefinition(PROXY_CRI, "Proxy-Cri", FORMAT_OPAQUE, 1, 1023, False),  # draft-ietf-core-href
        OptionDefinition(PROXY_SCHEME_NUMBER, "Proxy-Scheme-Number", FORMAT_UINT, 0, 3, False),  # draft-ietf-core-href
        OptionDefinition(ECHO, "Echo", FORMAT_OPAQUE, 1, 40, False),  # RFC 9175 §2.2
        OptionDefinition(NO_RESPONSE, "No-Response", FORMAT_UINT, 0, 1, False),  # RFC 7967 §2
        OptionDefinition(REQUEST_TAG, "Request-Tag", FORMAT_OPAQUE, 0, 8, True),  # RFC 9175 §3.2
        OptionDefinition(
            OCF_ACCEPT_CONTENT_FORMAT_VERSION, "OCF-Accept-Content-Format-Version", FORMAT_UINT, 2, 2, False
        ),
        OptionDefinition(OCF_CONTENT_FORMAT_VERSION, "OCF-Content-Format-Version", FORMAT_UINT, 2, 2, False),
        OptionDefinition(SCP82_PARAMS, "SCP82-Params", FORMAT_OPAQUE, 0, LONGEST_VALUE, False),
        OptionDefinition(X_ADMIN_PROTOCOL, "X-Admin-Protocol", FORMAT_OPAQUE, 0, LONGEST_VALUE, False),
    )
)


def encode_uint(value: int) -> bytes:
    """Return `value` big-endian without leading zero bytes; 0 is the empty string (RFC 7252 §3.2)."""
    return value.to_bytes((value.bit_length() + 7) >> 3, "big")


def decode_uint(data: bytes) -> int:
    """Return the number in `data`; leading zero bytes are accepted (RFC 7252 §3.2)."""
    return int.from_bytes(data, "big")


def is_critical(number: int) -> bool:
    """Whether a receiver that does not understand the option has to reject the message (RFC 7252 §5.4.1)."""
    return number & 0x01 != 0


def is_unsafe(number: int) -> bool:
    """Whether a proxy that does not understand the option has to refuse to forward it (RFC 7252 §5.4.2)."""
    return number & 0x02 != 0


def is_no_cache_key(number: int) -> bool:
    """Whether the option is safe to forward and not part of the cache key (RFC 7252 §5.4.2, §5.4.6)."""
    return number & 0x1E == 0x1C


def option_name(number: int) -> str:
    """Return the registered name of the option, or "Option 1234" where it has none."""
    definition = DEFINITIONS.get(number)
    return f"Option {number}" if definition is None else definition.name
