"""What is to be done about a handshake that came to nothing, told with the error."""

from __future__ import annotations


def remedy(reason: str) -> str:
    """Return what to do about `reason`, to be written behind it; empty if nothing is known."""
    for part, text in _REMEDIES.items():
        if part in reason:
            return f"; {text}"
    return ""


_REMEDIES = {
    "unknown ca": "the server does not trust the authority of our certificate",
    "handshake failure": "the server wants a certificate, or has no suite or curve in common with us",
    "internal error": "the server refuses our certificate for a reason of its own: it may have been revoked",
    "expired": "renew the certificate, or set the clock",
    "not trusted": "give its authority's certificate, or pin its fingerprint",
    "another authority": "give its authority's certificate, or pin its fingerprint",
    "signed by itself": "give its authority's certificate, or pin its fingerprint",
    "certificate required": "the server wants a certificate",
}
