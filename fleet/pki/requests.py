"""Certification requests (PKCS #10, RFC 2986): who wants a certificate makes one, the authority checks it.

An enrolment token travels as the attribute challengePassword (RFC 2985 §5.4.1), below the request's signature: whoever
read it on the way could not put it beside another key.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import AttributeOID

from fleet.errors import FormatError
from fleet.model.roles import Principal
from fleet.pki.keys import PrivateKey, PublicKey, is_p256, key_fingerprint
from fleet.pki.names import alternative_names, requested_principal, subject

LARGEST = 4096  # bytes; a request for a P-256 key has about 300


class CertificationRequest(NamedTuple):
    """What is asked for: a certificate of `public_key`, whose fingerprint is `key`, in the name of `principal`."""

    principal: Principal
    public_key: PublicKey
    key: str
    token: Optional[str]
    der: bytes


def make_request(key: PrivateKey, principal: Principal, token: Optional[str] = None) -> bytes:
    """Return a request in DER, signed by `key`."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject(principal))
    builder = builder.add_extension(alternative_names(principal), critical=False)
    if token is not None:
        builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, token.encode())
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def read_request(der: bytes) -> CertificationRequest:
    """Take a request apart, its signature checked: who sent it has the key. Raises FormatError otherwise."""
    request = load_request(der)
    public_key = checked_key(request)
    return CertificationRequest(
        requested_principal(request), public_key, key_fingerprint(public_key), _token(request), der
    )


def load_request(data: bytes) -> x509.CertificateSigningRequest:
    """Read a request in DER or PEM; raises FormatError."""
    if len(data) > LARGEST:
        raise FormatError(f"{len(data)} bytes are too many for a certification request")
    try:
        if data.lstrip().startswith(b"-----BEGIN"):
            return x509.load_pem_x509_csr(data)
        return x509.load_der_x509_csr(data)
    except ValueError as error:
        raise FormatError("this is no certification request (PKCS #10)") from error


def checked_key(request: x509.CertificateSigningRequest) -> PublicKey:
    """Return the key of a request, which has to be one that we take and have made the request's signature."""
    try:
        key = request.public_key()
        is_signed = is_p256(key) and request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FormatError("the key or the signature of the request is of an unknown kind; use P-256") from error
    if not is_p256(key):
        raise FormatError("the key of the request is not on the curve P-256 (secp256r1)")
    if not is_signed:
        raise FormatError("the request is not signed by the key that it holds")
    return cast(PublicKey, key)


def _token(request: x509.CertificateSigningRequest) -> Optional[str]:
    try:
        return request.attributes.get_attribute_for_oid(AttributeOID.CHALLENGE_PASSWORD).value.decode()
    except x509.AttributeNotFound:
        return None
    except ValueError as error:
        raise FormatError("the challengePassword of the request cannot be read") from error
