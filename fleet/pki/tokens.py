"""Enrolment tokens: a few characters that let so many devices, for so long, get a certificate.

A token is 128 random bits, so that its SHA-256 can be kept in its place: nobody finds a token by trying.
"""

from __future__ import annotations

import base64
import hashlib
import os

LIFETIME = 3600.0
"""Seconds for which a token can be used, unless it is said otherwise."""
LONGEST_LIFETIME = 90 * 86_400.0
MOST_USES = 100_000


def make_token() -> str:
    """Return a fresh token: 26 letters and digits."""
    return base64.b32encode(os.urandom(16)).decode().rstrip("=").lower()


def token_hash(token: str) -> str:
    """Return what is kept of a token; however it was typed or wrapped, it is the same."""
    return hashlib.sha256("".join(token.split()).lower().encode()).hexdigest()
