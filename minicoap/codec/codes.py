"""Request and response codes (IANA "CoAP Codes"): one byte, three bits of class and five of detail (RFC 7252 §3).

Codes are plain ints, written `c.dd` for people: 0x45 is 2.05. The tables hold every code that IANA lists.
"""

from __future__ import annotations

EMPTY = 0x00

# Methods (RFC 7252 §5.8, RFC 8132 §2).
GET = 0x01
POST = 0x02
PUT = 0x03
DELETE = 0x04
FETCH = 0x05
PATCH = 0x06
IPATCH = 0x07

# Success (RFC 7252 §5.9.1, RFC 7959 §2.9.1).
CREATED = 0x41
DELETED = 0x42
VALID = 0x43
CHANGED = 0x44
CONTENT = 0x45
CONTINUE = 0x5F

# Client errors (RFC 7252 §5.9.2, RFC 7959 §2.9, RFC 8132 §3.4, RFC 8516).
BAD_REQUEST = 0x80
UNAUTHORIZED = 0x81
BAD_OPTION = 0x82
FORBIDDEN = 0x83
NOT_FOUND = 0x84
METHOD_NOT_ALLOWED = 0x85
NOT_ACCEPTABLE = 0x86
REQUEST_ENTITY_INCOMPLETE = 0x88
CONFLICT = 0x89
PRECONDITION_FAILED = 0x8C
REQUEST_ENTITY_TOO_LARGE = 0x8D
UNSUPPORTED_CONTENT_FORMAT = 0x8F
UNPROCESSABLE_ENTITY = 0x96
TOO_MANY_REQUESTS = 0x9D

# Server errors (RFC 7252 §5.9.3, RFC 8768 §3).
INTERNAL_SERVER_ERROR = 0xA0
NOT_IMPLEMENTED = 0xA1
BAD_GATEWAY = 0xA2
SERVICE_UNAVAILABLE = 0xA3
GATEWAY_TIMEOUT = 0xA4
PROXYING_NOT_SUPPORTED = 0xA5
HOP_LIMIT_REACHED = 0xA8

# Signaling, on reliable transports only (RFC 8323 §5).
CSM = 0xE1
PING = 0xE2
PONG = 0xE3
RELEASE = 0xE4
ABORT = 0xE5

METHOD_NAMES: dict[int, str] = {
    GET: "GET",
    POST: "POST",
    PUT: "PUT",
    DELETE: "DELETE",
    FETCH: "FETCH",
    PATCH: "PATCH",
    IPATCH: "iPATCH",
}

RESPONSE_NAMES: dict[int, str] = {
    CREATED: "Created",
    DELETED: "Deleted",
    VALID: "Valid",
    CHANGED: "Changed",
    CONTENT: "Content",
    CONTINUE: "Continue",
    BAD_REQUEST: "Bad Request",
    UNAUTHORIZED: "Unauthorized",
    BAD_OPTION: "Bad Option",
    FORBIDDEN: "Forbidden",
    NOT_FOUND: "Not Found",
    METHOD_NOT_ALLOWED: "Method Not Allowed",
    NOT_ACCEPTABLE: "Not Acceptable",
    REQUEST_ENTITY_INCOMPLETE: "Request Entity Incomplete",
    CONFLICT: "Conflict",
    PRECONDITION_FAILED: "Precondition Failed",
    REQUEST_ENTITY_TOO_LARGE: "Request Entity Too Large",
    UNSUPPORTED_CONTENT_FORMAT: "Unsupported Content-Format",
    UNPROCESSABLE_ENTITY: "Unprocessable Entity",
    TOO_MANY_REQUESTS: "Too Many Requests",
    INTERNAL_SERVER_ERROR: "Internal Server Error",
    NOT_IMPLEMENTED: "Not Implemented",
    BAD_GATEWAY: "Bad Gateway",
    SERVICE_UNAVAILABLE: "Service Unavailable",
    GATEWAY_TIMEOUT: "Gateway Timeout",
    PROXYING_NOT_SUPPORTED: "Proxying Not Supported",
    HOP_LIMIT_REACHED: "Hop Limit Reached",
}

SIGNALING_NAMES: dict[int, str] = {CSM: "CSM", PING: "Ping", PONG: "Pong", RELEASE: "Release", ABORT: "Abort"}


def is_request(code: int) -> bool:
    """Whether `code` is of class 0 and not Empty: a method, known or not."""
    return 0 < code < 0x20


def is_response(code: int) -> bool:
    """Whether `code` is of class 2, 4 or 5; classes 1, 3, 6 and 7 are reserved on UDP (RFC 7252 §4.2)."""
    return 0x40 <= code < 0x60 or 0x80 <= code < 0xC0


def is_success(code: int) -> bool:
    """Whether `code` is a 2.xx response."""
    return 0x40 <= code < 0x60


def is_client_error(code: int) -> bool:
    """Whether `code` is a 4.xx response."""
    return 0x80 <= code < 0xA0


def is_server_error(code: int) -> bool:
    """Whether `code` is a 5.xx response."""
    return 0xA0 <= code < 0xC0


def code_text(code: int) -> str:
    """Return `code` as RFC 7252 §3 writes it: 0x45 is "2.05"."""
    return f"{code >> 5}.{code & 0x1F:02d}"


def code_name(code: int) -> str:
    """Return what people call `code`: "GET", "2.05 Content", "Empty"; "4.31" where it has no name."""
    method = METHOD_NAMES.get(code)
    if method is not None:
        return method
    name = RESPONSE_NAMES.get(code) or SIGNALING_NAMES.get(code)
    if name is not None:
        return f"{code_text(code)} {name}"
    return "Empty" if code == EMPTY else code_text(code)
