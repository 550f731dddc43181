"""Private keys: on the curve P-256, in files that their owner alone can read, with a passphrase where one is wished."""

from __future__ import annotations

from typing import Optional, cast

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fleet.errors import UsageError

PRIVATE = 0o600
"""The permissions of every file that holds a key, from the moment that it exists."""

PublicKey = ec.EllipticCurvePublicKey
PrivateKey = ec.EllipticCurvePrivateKey


def make_key() -> PrivateKey:
    """Return a fresh key on the curve that every CoAP endpoint with certificates knows (RFC 7252 §9.1.3.3)."""
    return ec.generate_private_key(ec.SECP256R1())


def is_encrypted(pem: bytes) -> bool:
    """Whether a passphrase is needed to read the key."""
    return b"ENCRYPTED" in pem


def encode_key(key: PrivateKey, passphrase: Optional[bytes] = None) -> bytes:
    """Return the key as PKCS #8 in PEM, encrypted if there is a passphrase."""
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def decode_key(pem: bytes, source: str, passphrase: Optional[bytes] = None) -> PrivateKey:
    """Read a key as `encode_key` writes it; raises UsageError that names `source`, and never anything of the key."""
    if is_encrypted(pem) and not passphrase:
        raise UsageError(f"the key in {source} is encrypted: its passphrase is needed")
    try:
        key = serialization.load_pem_private_key(pem, passphrase if is_encrypted(pem) else None)
    except (ValueError, TypeError):
        # The library's text may quote what it could not read.
        why = "the passphrase is wrong" if is_encrypted(pem) else "it is damaged, or no private key in PEM"
        raise UsageError(f"the key in {source} cannot be read: {why}") from None
    if not is_p256(key):
        raise UsageError(f"the key in {source} is not on the curve P-256")
    return cast(PrivateKey, key)


def is_p256(key: object) -> bool:
    """Whether this is a key, public or private, on the curve P-256."""
    return isinstance(key, (ec.EllipticCurvePublicKey, ec.EllipticCurvePrivateKey)) and key.curve.name == "secp256r1"


def key_fingerprint(key: PublicKey) -> str:
    """Return what tells one key from another, for people to compare: SHA-256 of its SubjectPublicKeyInfo, in hex."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize().hex()


def grouped(fingerprint: str) -> str:
    """A fingerprint for people: upper case, a colon after each byte."""
    return ":".join(fingerprint[at : at + 2] for at in range(0, len(fingerprint), 2)).upper()


def parse_fingerprint(text: str) -> str:
    """Return 64 hex digits in lower case of a SHA-256 fingerprint however it is written; raises UsageError."""
    digits = "".join(text.split()).replace(":", "").lower()
    if len(digits) != 64 or any(digit not in "0123456789abcdef" for digit in digits):
        raise UsageError(f"{text[:100]!r} is no fingerprint: give the 64 hex digits of a SHA-256, colons are fine")
    return digits
