"""Certificates and revocation lists as a fleet's authority makes them (RFC 5280, the profile of RFC 7925 §4.4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from typing import NamedTuple, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleet.errors import FormatError
from fleet.model.roles import NODE, OPERATOR, SERVER, VIEWER, Principal
from fleet.pki.keys import PrivateKey, PublicKey, is_p256
from fleet.pki.names import alternative_names, subject

DAY = 86_400
AUTHORITY_LIFETIME = 3650 * DAY
LIFETIMES = {NODE: 90 * DAY, OPERATOR: 365 * DAY, VIEWER: 365 * DAY, SERVER: 365 * DAY}
"""Seconds for which certificates are good; nodes and the server renew theirs by themselves."""
SKEW = 3600
"""Seconds by which a certificate begins before it is issued: the holder's clock may be late by as much."""
REVOCATION_LIST_LIFETIME = 30 * DAY
REASONS = {
    "unspecified": x509.ReasonFlags.unspecified,
    "key-compromise": x509.ReasonFlags.key_compromise,
    "superseded": x509.ReasonFlags.superseded,
    "cessation-of-operation": x509.ReasonFlags.cessation_of_operation,
    "privilege-withdrawn": x509.ReasonFlags.privilege_withdrawn,
}
"""Why a certificate was revoked (RFC 5280 §5.3.1)."""

# A node is asked too: by operators who want to look at it.
_USES = {
    SERVER: [ExtendedKeyUsageOID.SERVER_AUTH],
    NODE: [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH],
}


class Revoked(NamedTuple):
    """An entry of a revocation list: `serial` as a number, when (UTC seconds), and one of `REASONS`."""

    serial: int
    revoked_at: int
    reason: str


def make_authority(key: PrivateKey, name: str, at: int, lifetime: int = AUTHORITY_LIFETIME) -> x509.Certificate:
    """Return the self-signed certificate of an authority that issues to end entities only."""
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(issuer, issuer, key.public_key(), at - SKEW, at + lifetime)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(is_authority=True), critical=True)
    return builder.sign(key, hashes.SHA256())


def make_certificate(
    authority: x509.Certificate,
    authority_key: PrivateKey,
    principal: Principal,
    public_key: PublicKey,
    at: int,
    lifetime: int,
    hosts: Sequence[str] = (),
) -> x509.Certificate:
    """Return a certificate of `principal`, good from a little before `at` for `lifetime` seconds.

    It does not outlive its authority. `hosts` are DNS names and addresses. Raises UsageError for a host that is none.
    """
    not_after = min(at + lifetime, int(authority.not_valid_after_utc.timestamp()))
    not_before = max(at - SKEW, int(authority.not_valid_before_utc.timestamp()))
    builder = _builder(authority.subject, subject(principal), public_key, not_before, not_after)
    issuer_id = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    uses = _USES.get(principal.role, [ExtendedKeyUsageOID.CLIENT_AUTH])
    for extension, is_critical in (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(is_authority=False), True),
        (x509.ExtendedKeyUsage(uses), False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), False),
        (alternative_names(principal, hosts), False),
    ):
        builder = builder.add_extension(extension, critical=is_critical)
    return builder.sign(authority_key, hashes.SHA256())


def make_revocation_list(
    authority: x509.Certificate, authority_key: PrivateKey, number: int, revoked: Iterable[Revoked], at: int
) -> bytes:
    """Return the list of what is revoked, in PEM; `number` grows with each list (RFC 5280 §5.2.3)."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.subject)
    builder = builder.last_update(_moment(at - SKEW)).next_update(_moment(at + REVOCATION_LIST_LIFETIME))
    issuer_id = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), critical=False
    )
    for entry in revoked:
        row = x509.RevokedCertificateBuilder().serial_number(entry.serial).revocation_date(_moment(entry.revoked_at))
        # RFC 5280 §5.3.1: "unspecified" is said by saying nothing.
        if entry.reason != "unspecified":
            row = row.add_extension(x509.CRLReason(REASONS[entry.reason]), critical=False)
        builder = builder.add_revoked_certificate(row.build())
    return builder.sign(authority_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether the signature below `certificate` is that of `authority`, and the two belong together."""
    key = authority.public_key()
    if not is_p256(key) or certificate.issuer != authority.subject:
        return False
    try:
        cast(PublicKey, key).verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def validity(certificate: x509.Certificate) -> tuple[int, int]:
    """Its first and last moment, UTC seconds."""
    return int(certificate.not_valid_before_utc.timestamp()), int(certificate.not_valid_after_utc.timestamp())


def certificate_fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate in hex, as `openssl x509 -fingerprint -sha256` shows it."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def serial_text(serial: int) -> str:
    """A serial number as `openssl x509 -serial` shows it."""
    text = f"{serial:X}"
    return text if len(text) % 2 == 0 else "0" + text


# Encodings


def encode_pem(certificate: x509.Certificate) -> bytes:
    """A certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def encode_der(certificate: x509.Certificate) -> bytes:
    """A certificate as DER (Content-Format 287)."""
    return certificate.public_bytes(serialization.Encoding.DER)


def encode_bundle(certificates: Sequence[x509.Certificate]) -> bytes:
    """Certificates as PKCS #7 "certs-only" in DER (Content-Format 281)."""
    from cryptography.hazmat.primitives.serialization import pkcs7  # 1.4 MB, which few who hold a certificate need

    return pkcs7.serialize_certificates(list(certificates), serialization.Encoding.DER)


def decode_der(data: bytes) -> x509.Certificate:
    """Read one certificate in DER; raises FormatError."""
    try:
        return x509.load_der_x509_certificate(data)
    except ValueError as error:
        raise FormatError("this is no X.509 certificate") from error


def decode_pem(data: bytes) -> list[x509.Certificate]:
    """Read certificates in PEM, other blocks between them skipped; raises FormatError if there is none."""
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise FormatError("there is no certificate in PEM in it") from error


def decode_bundle(data: bytes) -> list[x509.Certificate]:
    """Read what `encode_bundle` wrote; raises FormatError."""
    from cryptography.hazmat.primitives.serialization import pkcs7

    try:
        found = pkcs7.load_der_pkcs7_certificates(data)
    except ValueError as error:
        raise FormatError("this is no PKCS #7 with certificates") from error
    if not found:
        raise FormatError("this PKCS #7 holds no certificate")
    return found


def _builder(
    issuer: x509.Name, name: x509.Name, key: PublicKey, not_before: int, not_after: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(name)
        .public_key(key)
        .serial_number(x509.random_serial_number())  # 159 random bits
        .not_valid_before(_moment(not_before))
        .not_valid_after(_moment(not_after))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _moment(seconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=seconds)
