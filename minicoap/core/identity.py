"""Who is asking: what a security layer knows of the other side, which hangs on each request."""

from __future__ import annotations

from typing import NamedTuple, Optional


class Identity(NamedTuple):
    """One party, as its credentials prove it.

    `scheme` says how: "none", "x509", "psk" or "oscore". `subject` is its name in that scheme, such as the common name
    of a certificate, `claims` what else is certified, such as the URIs of the subject's alternative names.
    `expires_at` is when the credentials end, in seconds since 1970, None where they do not.
    """

    scheme: str
    subject: str = ""
    claims: tuple[str, ...] = ()
    expires_at: Optional[float] = None


ANONYMOUS = Identity("none")
"""Whoever asks without security."""
