"""What the holder of a certificate keeps: its key and certificate, whom it trusts, and what it is just asking for.

    identity.pem   the key, then its certificate: one file, so that the two are exchanged in one step; 0600
    trust.pem      the certificates of the fleet's authority
    request.pem    a key and the request for its certificate while that is under way; 0600

A crash at any point leaves the old identity or the new one, and a request that is repeated with the same key.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple, Optional

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from fleet.errors import FormatError, PeerError, UsageError
from fleet.host.files import replace_file, sync_path
from fleet.model.roles import Principal
from fleet.pki.certificates import decode_pem, encode_pem, is_issued_by, validity
from fleet.pki.keys import PRIVATE, PrivateKey, decode_key, encode_key, key_fingerprint, make_key
from fleet.pki.names import principal_in
from fleet.pki.requests import CertificationRequest, load_request, make_request, read_request

CREDENTIALS = "credentials"
"""The keystore of an agent or an operator, within what it has for a directory."""
IDENTITY, TRUST, REQUEST = "identity.pem", "trust.pem", "request.pem"


class Holder(NamedTuple):
    """Somebody with a certificate in the name of `principal`; `trust` are the certificates of its authority.

    Times are UTC seconds.
    """

    principal: Principal
    key: PrivateKey
    certificate: x509.Certificate
    trust: tuple[x509.Certificate, ...]

    @property
    def not_before(self) -> int:
        """The certificate's first moment."""
        return validity(self.certificate)[0]

    @property
    def not_after(self) -> int:
        """Its last."""
        return validity(self.certificate)[1]


class Underway(NamedTuple):
    """A request that was sent, or is about to be: `der` is PKCS #10, `key` the fingerprint of its key."""

    key: str
    der: bytes


class Keystore:
    """Key, certificate and trust in `directory`, which is made when there is something to keep."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.identity_file = os.path.join(directory, IDENTITY)
        self.trust_file = os.path.join(directory, TRUST)
        self._request_file = os.path.join(directory, REQUEST)

    def holder(self) -> Optional[Holder]:
        """Return who the holder is; None if it has no certificate yet. Raises UsageError for files that are no use."""
        pem, trust_pem = _read(self.identity_file), _read(self.trust_file)
        if pem is None or trust_pem is None:
            return None
        key = decode_key(pem, self.identity_file)
        try:
            certificate, trust = decode_pem(pem)[0], decode_pem(trust_pem)
        except FormatError as error:
            raise UsageError(f"{self.identity_file} or {self.trust_file} is damaged: {error}") from error
        principal = principal_in(certificate)
        if principal is None or not _belongs(certificate, key):
            raise UsageError(f"the certificate in {self.identity_file} is not one of a fleet, or not that of its key")
        return Holder(principal, key, certificate, tuple(trust))

    def begin(self, principal: Principal, token: Optional[str] = None, key: Optional[PrivateKey] = None) -> Underway:
        """Return the request for a certificate that is under way, or a new one, for `key` or a fresh key.

        A request that is there already is repeated as it is (RFC 9148 §4.7), or with another token by the same key.
        """
        pem = _read(self._request_file)
        if pem is not None:
            underway_key = decode_key(pem, self._request_file)
            request = self._request(pem)
            if request.principal == principal and (key is None or key_fingerprint(key.public_key()) == request.key):
                if request.token == token:
                    return Underway(request.key, request.der)
                key = underway_key
        key = key or make_key()
        der = make_request(key, principal, token)
        self._write(self._request_file, encode_key(key) + _request_pem(der), PRIVATE)
        return Underway(key_fingerprint(key.public_key()), der)

    def finish(self, certificate: x509.Certificate, trust: Sequence[x509.Certificate]) -> Holder:
        """Put the certificate that was asked for, and whom to trust, in place of the old ones.

        Raises PeerError if it is not for our key and in our name, or not by who is trusted.
        """
        pem = _read(self._request_file)
        if pem is None:
            raise UsageError("no certificate was asked for")
        key = decode_key(pem, self._request_file)
        principal = self._request(pem).principal
        if not _belongs(certificate, key) or principal_in(certificate) != principal:
            raise PeerError("the certificate that came is not for our key, or not in our name; nothing was kept")
        if not any(is_issued_by(certificate, authority) for authority in trust):
            raise PeerError("the certificate that came is not by the fleet's authority; nothing was kept")
        # Trust first: the identity is what says that all is there.
        self._write(self.trust_file, b"".join(map(encode_pem, trust)), 0o644)
        self._write(self.identity_file, encode_key(key) + encode_pem(certificate), PRIVATE)
        self.abandon()
        return Holder(principal, key, certificate, tuple(trust))

    def put(self, key: PrivateKey, certificate: x509.Certificate, trust: Sequence[x509.Certificate]) -> None:
        """Keep a key and certificate that were made elsewhere."""
        self._write(self.trust_file, b"".join(map(encode_pem, trust)), 0o644)
        self._write(self.identity_file, encode_key(key) + encode_pem(certificate), PRIVATE)

    def abandon(self) -> None:
        """Forget the request that is under way, and its key."""
        try:
            os.unlink(self._request_file)
        except FileNotFoundError:
            return
        sync_path(self.directory)

    def _request(self, pem: bytes) -> CertificationRequest:
        start = pem.find(b"-----BEGIN CERTIFICATE REQUEST")
        try:
            return read_request(load_request(pem[start:]).public_bytes(serialization.Encoding.DER))
        except FormatError as error:
            raise UsageError(f"{self._request_file} is damaged: {error}; remove it to begin anew") from error

    def _write(self, path: str, data: bytes, mode: int) -> None:
        try:
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            replace_file(path, data, mode)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error


def _belongs(certificate: x509.Certificate, key: PrivateKey) -> bool:
    return certificate.public_key() == key.public_key()


def _request_pem(der: bytes) -> bytes:
    return load_request(der).public_bytes(serialization.Encoding.PEM)


def _read(path: str) -> Optional[bytes]:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
