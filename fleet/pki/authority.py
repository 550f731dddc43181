"""A fleet's certificate authority: a directory with its key, its certificate, the register and the revocation list.

    ca.key            the key, 0600, encrypted if a passphrase was given
    ca.pem            the certificate that everybody trusts
    register.sqlite   what was issued, and to whom
    crl.pem           what was revoked (RFC 5280 §5), for programs that know nothing of the register

A certificate stands in the register before anybody gets it, so that none is in the world that cannot be revoked.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Optional

from cryptography import x509

from fleet.errors import FormatError, NotFoundError, UsageError
from fleet.host.files import replace_file
from fleet.model.roles import SERVER, Principal
from fleet.pki.certificates import (
    AUTHORITY_LIFETIME,
    DAY,
    LIFETIMES,
    REASONS,
    Revoked,
    certificate_fingerprint,
    decode_pem,
    encode_der,
    encode_pem,
    make_authority,
    make_certificate,
    make_revocation_list,
    serial_text,
    validity,
)
from fleet.pki.keys import (
    PRIVATE,
    PrivateKey,
    PublicKey,
    decode_key,
    encode_key,
    is_encrypted,
    key_fingerprint,
    make_key,
)
from fleet.pki.register import VALID, Issued, Register, StoredToken
from fleet.pki.tokens import LONGEST_LIFETIME, MOST_USES, make_token, token_hash

KEY, CERTIFICATE, REGISTER, REVOCATION_LIST = "ca.key", "ca.pem", "register.sqlite", "crl.pem"
_PRIVATE_DIRECTORY = 0o700


class Authority:
    """The authority in `directory`, opened by `open_authority`.

    Without its key (`key` is None, since nobody gave the passphrase) it can be read, and nothing can be issued.
    """

    def __init__(
        self, directory: str, certificate: x509.Certificate, key: Optional[PrivateKey], register: Register
    ) -> None:
        self.directory = directory
        self.certificate = certificate
        self.key = key
        self.register = register

    def close(self) -> None:
        """Let go of the register."""
        self.register.close()

    @property
    def fingerprint(self) -> str:
        """What a node knows its fleet by before it has a certificate: SHA-256 of the authority's, in hex."""
        return certificate_fingerprint(self.certificate)

    # Certificates

    def issue(
        self,
        principal: Principal,
        public_key: PublicKey,
        at: int,
        issued_for: str,
        *,
        lifetime: Optional[int] = None,
        hosts: Sequence[str] = (),
    ) -> Issued:
        """Make a certificate, enter it into the register, and return it.

        `at` is now, UTC seconds, `lifetime` seconds, `issued_for` tells people why it was issued, `hosts` are a
        server's names and addresses. Belongs into a change of the register together with what allowed it. Raises
        UsageError if the authority's key is not open, or itself not valid now.
        """
        key = self._open_key()
        not_before, not_after = validity(self.certificate)
        if not not_before <= at < not_after:
            raise UsageError("the authority's certificate is not valid at this machine's time; is its clock right?")
        lifetime = LIFETIMES[principal.role] if lifetime is None else lifetime
        if lifetime < 1:
            raise UsageError("a certificate has to live for some time")
        if hosts and principal.role != SERVER:
            raise UsageError("only a server's certificate has hosts")
        made = make_certificate(self.certificate, key, principal, public_key, at, lifetime, hosts)
        issued = Issued(
            serial_text(made.serial_number),
            *principal,
            key_fingerprint(public_key),
            *validity(made),
            at,
            issued_for,
            encode_der(made),
        )
        self.register.add(issued)
        return issued

    def revoke(self, certificates: Sequence[Issued], at: int, reason: str = "unspecified") -> list[Issued]:
        """Revoke those of `certificates` that are valid, and sign a new list; returns them. Raises UsageError."""
        if reason not in REASONS:
            raise UsageError(f"{reason[:80]!r} is no reason; there are {', '.join(REASONS)}")
        self._open_key()
        with self.register.change():
            revoked = self.mark_revoked(certificates, at, reason)
        self.write_revocation_list(at)
        return revoked

    def mark_revoked(self, certificates: Sequence[Issued], at: int, reason: str) -> list[Issued]:
        """Revoke those of `certificates` that are valid, within a change of the register; returns them."""
        revoked = [issued for issued in certificates if issued.state(at) == VALID]
        for issued in revoked:
            self.register.revoke(issued.serial, at, reason)
        return revoked

    def write_revocation_list(self, at: int) -> None:
        """Sign the list of what is revoked now, and put it into its file."""
        key = self._open_key()
        with self.register.change():  # within which nobody else writes the file either
            entries = [
                Revoked(int(issued.serial, 16), issued.revoked_at or at, issued.reason)
                for issued in self.register.revoked(at)
            ]
            number = self.register.next_list_number()
            revocation_list = make_revocation_list(self.certificate, key, number, entries, at)
            replace_file(os.path.join(self.directory, REVOCATION_LIST), revocation_list, 0o644)

    def find(self, role: str, name: str, at: int) -> list[Issued]:
        """Return the certificates of a party, or with the role "serial" the one of that number; raises NotFoundError.

        None but valid ones, if there are such.
        """
        if role == "serial":
            serial = name.replace(":", "").upper().lstrip("0")
            one = self.register.find(serial if len(serial) % 2 == 0 else "0" + serial)
            found = [] if one is None else [one]
        else:
            found = self.register.of(Principal(role, name))
        if not found:
            raise NotFoundError(f"no certificate was ever issued to {role} {name[:80]!r}; see fleet pki list")
        return [issued for issued in found if issued.state(at) == VALID] or found

    # Tokens

    def make_token(
        self,
        at: int,
        *,
        node_id: Optional[str] = None,
        uses: int = 1,
        lifetime: float = 3600.0,
        replaces: bool = False,
    ) -> tuple[str, StoredToken]:
        """Make an enrolment token, good `uses` times for `lifetime` seconds; it is told this once. Raises UsageError.

        With `node_id` it is good for that node only, and with `replaces` for a device that takes that node's place.
        """
        if not 1 <= uses <= MOST_USES:
            raise UsageError(f"a token can be good for 1 to {MOST_USES} nodes, not {uses}")
        if node_id is not None and uses > 1:
            raise UsageError("a token for one node is good once")
        if not 1.0 <= lifetime <= LONGEST_LIFETIME:
            raise UsageError(f"a token can live for 1 s to {LONGEST_LIFETIME / DAY:.0f} days")
        token = make_token()
        stored = StoredToken(token_hash(token), node_id, replaces, at, at + int(lifetime), uses)
        with self.register.change():
            self.register.add_token(stored)
        return token, stored

    def replace(self, principal: Principal, at: int, lifetime: float) -> tuple[str, StoredToken, list[Issued]]:
        """Have another device take a node's place: its certificates are revoked, a token lets the new one enrol."""
        revoked = self.revoke(self.find(*principal, at), at, "superseded")
        token, stored = self.make_token(at, node_id=principal.name, lifetime=lifetime, replaces=True)
        return token, stored, revoked

    def _open_key(self) -> PrivateKey:
        if self.key is None:
            raise UsageError(f"the authority's key {os.path.join(self.directory, KEY)} is locked: give its passphrase")
        return self.key


def create_authority(
    directory: str,
    name: str,
    at: int,
    passphrase: Optional[bytes] = None,
    lifetime: int = AUTHORITY_LIFETIME,
) -> Authority:
    """Make an authority in `directory`, called `name`; an encrypted key if there is a passphrase. Raises UsageError.

    What a crash left half-made is made anew; an authority that is there already is refused.
    """
    try:
        os.makedirs(directory, exist_ok=True)
        os.chmod(directory, _PRIVATE_DIRECTORY)
    except OSError as error:
        raise UsageError(f"the directory {directory} cannot be made: {error.strerror}") from error
    if has_authority(directory):
        raise UsageError(f"there is an authority in {directory} already; all its certificates would become worthless")
    key = make_key()
    certificate = make_authority(key, name, at, lifetime)
    register = Register(os.path.join(directory, REGISTER))
    authority = Authority(directory, certificate, key, register)
    try:
        replace_file(os.path.join(directory, KEY), encode_key(key, passphrase), PRIVATE)
        authority.write_revocation_list(at)
        # Last: where the certificate is, all the rest is.
        replace_file(os.path.join(directory, CERTIFICATE), encode_pem(certificate), 0o644)
    except OSError as error:
        register.close()
        raise UsageError(f"the authority cannot be written to {directory}: {error.strerror}") from error
    return authority


def has_authority(directory: str) -> bool:
    """Whether there is an authority in `directory`."""
    return os.path.exists(os.path.join(directory, CERTIFICATE))


def is_locked(directory: str) -> bool:
    """Whether the key of the authority in `directory` is encrypted. Raises UsageError if there is none."""
    return is_encrypted(_read(directory, KEY))


def open_authority(directory: str, passphrase: Optional[bytes] = None) -> Authority:
    """Open the authority in `directory`, its key too if `passphrase` is given or none is needed. Raises UsageError."""
    source = os.path.join(directory, CERTIFICATE)
    try:
        certificate = decode_pem(_read(directory, CERTIFICATE))[0]
    except FormatError as error:
        raise UsageError(f"{source} cannot be read: {error}") from error
    pem = _read(directory, KEY)
    key = None
    if passphrase is not None or not is_encrypted(pem):
        key = decode_key(pem, os.path.join(directory, KEY), passphrase)
        if key_fingerprint(key.public_key()) != key_fingerprint(certificate.public_key()):  # type: ignore[arg-type]
            raise UsageError(f"{os.path.join(directory, KEY)} is not the key of {source}")
    return Authority(directory, certificate, key, Register(os.path.join(directory, REGISTER)))


def _read(directory: str, name: str) -> bytes:
    path = os.path.join(directory, name)
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise UsageError(
            f"there is no authority in {directory} ({name} is missing); fleet pki init makes one"
        ) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
