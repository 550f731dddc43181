"""What a holder of a certificate shows and believes on a connection: the fleet's part in `minicoap.security`.

Who somebody is stands in the certificate, as a role and a name (`fleet.model.roles`): clients look for a server of
their own fleet, whatever its host is called, and a server for anybody of it. Revocation is the register's word, and not
a list's, which could be too old.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, Optional

from cryptography import x509

from fleet.host.clock import Clock
from fleet.model.roles import SERVER, Principal
from fleet.pki.certificates import encode_pem, serial_text
from fleet.pki.keys import encode_key
from fleet.pki.keystore import Holder
from minicoap.security.credentials import Certificate, Credentials

ANY_SERVER = Principal(SERVER, "").uri
"""The beginning of the URI that every server of a fleet has in its certificate."""


def server_credentials(holder: Holder, is_revoked: Callable[[str], bool]) -> Credentials:
    """Return what a server goes by: whoever has no certificate is let in as nobody, to enrol.

    `is_revoked` gets a certificate's number as the register has it. Raises minicoap's UsageError without pyOpenSSL.
    """

    def verify(certificate: Certificate) -> Optional[str]:
        return "certificate is revoked" if is_revoked(serial_text(certificate.serial)) else None

    return Credentials(**_pem(holder), verify=verify)


def client_credentials(holder: Holder) -> Credentials:
    """Return what a node or an operator goes by: it believes a server of its own fleet."""
    return Credentials(**_pem(holder), server=ANY_SERVER)


def stranger_credentials(trust: Optional[Sequence[x509.Certificate]]) -> Credentials:
    """Return what somebody without a certificate goes by, who believes `trust`, or whoever answers where it is None."""
    if trust is None:
        return Credentials(verify_server=False)
    return Credentials(trust=b"".join(map(encode_pem, trust)), server=ANY_SERVER)


def renew(credentials: Credentials, holder: Holder) -> None:
    """Go by another certificate from now on; tell the machine afterwards."""
    credentials.change(**_pem(holder))


def known_time(clock: Clock) -> Callable[[], Optional[float]]:
    """Return what tells the time that certificates' dates are held against; None where the clock cannot be right."""
    return lambda: clock.wall() if clock.is_wall_trusted() else None


def _pem(holder: Holder) -> dict[str, Any]:
    return {
        "certificate": encode_pem(holder.certificate),
        "key": encode_key(holder.key),
        "trust": b"".join(map(encode_pem, holder.trust)),
    }
