"""Who we are and whom we believe: a certificate with its key, trust anchors, revocation lists, a pinned server.

Everything is PEM as bytes; files are read by `minicoap.asyncio.credentials`. Certificates carry P-256 keys (RFC 7252
§9.1.3.3, RFC 7925 §4.4). Their dates are looked at here and not by OpenSSL, because a device without a clock does not
know the time: as long as it does not, no certificate is too old or too young.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Callable, NamedTuple, Optional

from minicoap.core.identity import Identity
from minicoap.errors import UsageError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

INSTALL = "CoAPS needs pyOpenSSL and cryptography: pip install 'minicoap[dtls]'"

_WEAK_HASHES = ("md5", "sha1")


class Certificate(NamedTuple):
    """What a certificate says: `subject` is its common name, `uris`, `names` and `addresses` its alternative names.

    `issuer` is the issuer's name (RFC 4514), `fingerprint` the SHA-256 of the certificate in hexadecimal digits,
    `not_before` and `not_after` are seconds since 1970, `der` is the certificate itself.
    """

    subject: str
    uris: tuple[str, ...]
    names: tuple[str, ...]
    addresses: tuple[str, ...]
    issuer: str
    serial: int
    fingerprint: str
    not_before: float
    not_after: float
    der: bytes

    @property
    def identity(self) -> Identity:
        """The party that whoever holds the certificate's key is."""
        return Identity("x509", self.subject, self.uris + self.names, self.not_after)

    def belongs_to(self, host: str) -> bool:
        """Whether it is a certificate of `host`, a name or an address (RFC 7252 §9.1.3.3); wildcards are none."""
        address = host.partition("%")[0]
        return host.lower() in (name.lower() for name in self.names) or _canonical(address) in self.addresses


Verify = Callable[[Certificate], Optional[str]]
"""Returns None to accept a certificate that is in order otherwise, or why it is refused."""


class Credentials:
    """What one side of CoAPS shows and believes. `change` replaces any of it while sessions are open.

    `certificate` is our certificate, those of intermediate authorities behind it, and `key` its private key, decrypted
    with `passphrase` if it is encrypted; a client may have neither, and is anonymous. `trust` are the certificates of
    authorities, `revoked` their revocation lists; all of them are PEM, any number in one. `verify` has the last word
    on a certificate, at the handshake and whenever credentials have changed.

    For a client: `fingerprint` pins the server's certificate (SHA-256, hexadecimal, colons allowed), whoever issued it;
    `server` is a URI that the server's certificate must carry instead of the host's name, or where it ends in a colon
    the beginning of one; with `verify_server` False
    whoever answers is taken for the server, to ask what can be checked by other means. For a server: without
    `require_certificate` a client that has none is let in as nobody: its identity's scheme is "none".

    Raises UsageError for what cannot be used, or if pyOpenSSL is not installed.
    """

    def __init__(
        self,
        *,
        certificate: bytes = b"",
        key: bytes = b"",
        passphrase: Optional[bytes] = None,
        trust: bytes = b"",
        revoked: bytes = b"",
        fingerprint: str = "",
        server: str = "",
        verify_server: bool = True,
        require_certificate: bool = False,
        verify: Optional[Verify] = None,
    ) -> None:
        self.generation = 0
        self.server = server
        self.verify_server = verify_server
        self.require_certificate = require_certificate
        self.verify = verify
        self.fingerprint = _fingerprint(fingerprint)
        self.chain: list[x509.Certificate] = []
        self.key: Optional[ec.EllipticCurvePrivateKey] = None
        self.trust: list[x509.Certificate] = []
        self.revoked: list[x509.CertificateRevocationList] = []
        self.change(certificate=certificate, key=key, passphrase=passphrase, trust=trust, revoked=revoked)

    def change(
        self,
        *,
        certificate: Optional[bytes] = None,
        key: Optional[bytes] = None,
        passphrase: Optional[bytes] = None,
        trust: Optional[bytes] = None,
        revoked: Optional[bytes] = None,
    ) -> None:
        """Replace what is not None; nothing is changed if any of it cannot be used (UsageError).

        Tell the machine afterwards (`SecureMachine.credentials_changed`), which then ends the sessions of those who
        are not to be believed any more.
        """
        chain = self.chain if certificate is None else _certificates(certificate, "certificate")
        private = self.key if key is None else _key(key, passphrase)
        if bool(chain) != (private is not None):
            raise UsageError("a certificate needs its private key, and a key its certificate")
        if private is not None and chain[0].public_key() != private.public_key():
            raise UsageError("the private key is not the certificate's")
        trusted = self.trust if trust is None else _certificates(trust, "trust")
        lists = self.revoked if revoked is None else _revocation_lists(revoked)
        self.chain, self.key, self.trust, self.revoked = chain, private, trusted, lists
        self.generation += 1

    @property
    def asks_authorities(self) -> bool:
        """Whether a server has to show a certificate of an authority that is trusted."""
        return self.verify_server and not self.fingerprint

    def objection(self, certificate: Certificate, wall: Optional[float]) -> Optional[str]:
        """Return what speaks against a certificate whose issuer is believed, at `wall` (UTC seconds; None: unknown)."""
        objection = date_objection(certificate.not_before, certificate.not_after, wall)
        if objection is None and self.verify is not None:
            objection = self.verify(certificate)
        return objection

    def server_objection(self, certificate: Certificate, host: str, wall: Optional[float]) -> Optional[str]:
        """Return what speaks against taking who shows `certificate` for the server that was asked for at `host`."""
        if not self.verify_server:
            return None
        if self.fingerprint:
            if certificate.fingerprint != self.fingerprint:
                return f"its fingerprint is {certificate.fingerprint}, not the one that is pinned"
        elif self.server:
            if not any(_is_named(uri, self.server) for uri in certificate.uris):
                return f"it does not belong to {self.server}"
        elif not certificate.belongs_to(host):
            known = ", ".join((*certificate.names, *certificate.addresses)) or "no host"
            return f"it belongs to {known}, not to {host}"
        return self.objection(certificate, wall)


def date_objection(not_before: float, not_after: float, wall: Optional[float]) -> Optional[str]:
    """Return what is wrong with a certificate of these dates at `wall`; nothing is where that is None."""
    if wall is None:
        return None
    if wall > not_after:
        return "certificate has expired"
    if wall < not_before:
        return "certificate is not yet valid"
    return None


def certificate_facts(certificate: x509.Certificate) -> Certificate:
    """Return what `certificate` says."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    uris: Iterable[str] = ()
    names: Iterable[str] = ()
    addresses: Iterable[str] = ()
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = alternative.get_values_for_type(x509.UniformResourceIdentifier)
        names = alternative.get_values_for_type(x509.DNSName)
        addresses = (str(address) for address in alternative.get_values_for_type(x509.IPAddress))
    except (x509.ExtensionNotFound, ValueError):  # has none, or none that can be read
        pass
    common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    der = certificate.public_bytes(Encoding.DER)
    return Certificate(
        str(common[0].value) if common else "",
        tuple(uris),
        tuple(names),
        tuple(addresses),
        certificate.issuer.rfc4514_string(),
        certificate.serial_number,
        hashlib.sha256(der).hexdigest(),
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
        der,
    )


def is_weak(certificate: x509.Certificate) -> bool:
    """Whether `certificate` is signed with a hash that can be forged."""
    algorithm = certificate.signature_hash_algorithm
    return algorithm is not None and algorithm.name in _WEAK_HASHES


def _is_named(uri: str, wanted: str) -> bool:
    return uri == wanted or (wanted.endswith(":") and uri.startswith(wanted))


def _canonical(address: str) -> str:
    from ipaddress import ip_address

    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(parsed if mapped is None else mapped)


def _fingerprint(text: str) -> str:
    digits = text.replace(":", "").lower()
    if digits and (len(digits) != 64 or digits.strip("0123456789abcdef")):
        raise UsageError(f"fingerprint {text!r}: a SHA-256 has 64 hexadecimal digits")
    return digits


def _certificates(pem: bytes, what: str) -> list[x509.Certificate]:
    if not pem.strip():
        return []
    try:
        from cryptography import x509
    except ImportError as error:
        raise UsageError(INSTALL) from error
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise UsageError(f"{what}: no certificates in PEM: {error}") from error


def _revocation_lists(pem: bytes) -> list[x509.CertificateRevocationList]:
    begin = b"-----BEGIN X509 CRL-----"
    if begin not in pem:
        return []
    from cryptography import x509

    try:
        return [x509.load_pem_x509_crl(begin + part) for part in pem.split(begin)[1:]]
    except ValueError as error:
        raise UsageError(f"revoked: no revocation lists in PEM: {error}") from error


def _key(pem: bytes, passphrase: Optional[bytes]) -> Optional[ec.EllipticCurvePrivateKey]:
    if not pem.strip():
        return None
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, passphrase)
    except (ValueError, TypeError) as error:
        raise UsageError(f"key: no private key in PEM that can be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise UsageError("key: it has to be one of the curve P-256 (openssl ecparam -name prime256v1 -genkey)")
    return key
