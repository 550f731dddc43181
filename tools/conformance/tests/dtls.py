"""TD_COAP_DTLS of ETSI CoAP#4: pre-shared keys and raw public keys, with which the library cannot be made to work.

pyOpenSSL reaches neither: see docs/security.md. What there is with certificates stands in `x509`.
"""

from __future__ import annotations

from tools.conformance.model import CATALOGUE, NotApplicable
from tools.conformance.peer import Peer

PSK = "pre-shared keys: the TLS library that the tester has (pyOpenSSL) offers none for DTLS"
RAW = "raw public keys (RFC 7250): the TLS library that the tester has (OpenSSL) offers none for DTLS"

TESTS = (
    ("01", "DTLS with a pre-shared key", "§9.1.3.1", PSK),
    ("02", "DTLS with a wrong pre-shared key", "§9.1.3.1", PSK),
    ("03", "DTLS with a pre-shared key, where packets get lost", "§9.1.3.1", PSK),
    ("04", "DTLS with raw public keys", "§9.1.3.2", RAW),
    ("05", "DTLS with a raw public key that the client does not know", "§9.1.3.2", RAW),
    ("06", "DTLS with a raw public key that the server does not know", "§9.1.3.2", RAW),
    ("07", "DTLS with raw public keys, where packets get lost", "§9.1.3.2", RAW),
)


def _enter(number: str, title: str, section: str, reason: str) -> None:
    def function(peer: Peer) -> None:
        raise NotApplicable(reason)

    function.__doc__ = f"{title}\nNot carried out: {reason}."
    CATALOGUE.test(f"TD_COAP_DTLS_{number}", section=f"RFC 7252 {section}")(function)


for row in TESTS:
    _enter(*row)
