"""What of a message must not be shown to whoever reads a trace: keys, tokens, passwords, and how devices get them.

A trace is kept in logs and pasted into reports, so it hides rather too much: all that an enrolment says, each payload
that names a secret, and each response whose request is not known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from minicoap.codec import contentformats
from minicoap.codec.message import Message
from minicoap.codec.options import CONTENT_FORMAT, URI_PATH

ENROLMENT = "enrolment"
SECRET = "names a secret"
NO_REQUEST = "its request was not seen"

_EST = b"est"  # RFC 9148 §4.1: /.well-known/est, or a shorter path that ends in it

# Tokens and keys by themselves: application/ace+cbor, CWT, COSE keys; what EST carries, with its challenge passwords.
_SECRET_FORMATS = frozenset(
    (
        19,
        contentformats.CWT,
        101,
        102,
        contentformats.PKCS7_SERVER_GENERATED_KEY,
        contentformats.PKCS8,
        contentformats.PKCS10,
    )
)
_NAMES = rb"token|passw(?:or)?d|passphrase|secret|psk|(?:api|private|secret|access)[_-]?key"
_NAMED = re.compile(_NAMES, re.IGNORECASE)
_ASSIGNED = re.compile(rb"(?:" + _NAMES + rb"|\bkey)[\"']?\s*[:=]|PRIVATE KEY", re.IGNORECASE)
_NAME = re.compile(rb"(?:.*[_-])?(?:" + _NAMES + rb"|key|pin|auth)\Z", re.IGNORECASE | re.DOTALL)
_ESCAPE = re.compile(rb"%([0-9a-fA-F]{2})")
_HIDDEN = b"..."


def is_enrolment(path: Sequence[bytes]) -> bool:
    """Whether a request with these Uri-Path values, however they spell it, is about keys and certificates."""
    text = _ESCAPE.sub(lambda found: bytes((int(found[1], 16),)), b"/".join(path))
    return _EST in text.lower().split(b"/")


def why_hidden(message: Message) -> str:
    """Return why the payload of `message` must not be shown; the empty string where nothing in it says so."""
    if is_enrolment([value for number, value in message.options.items if number == URI_PATH]):
        return ENROLMENT
    if message.options.uint(CONTENT_FORMAT) in _SECRET_FORMATS:
        return SECRET
    payload = message.payload
    try:
        payload.decode()
        found = _ASSIGNED.search(payload)
    except UnicodeDecodeError:  # CBOR and other forms, where a name stands beside its value without a sign between
        found = _NAMED.search(payload) or _ASSIGNED.search(payload)
    return SECRET if found else ""


def without_secret(argument: bytes) -> bytes:
    """Return a query argument as it may be shown: `token=...` for `token=1234`."""
    name, equals, value = argument.partition(b"=")
    return name + equals + _HIDDEN if value and _NAME.match(name) else argument
