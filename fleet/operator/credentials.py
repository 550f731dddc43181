"""The certificate that an operator or a viewer shows, from the directory that `fleet pki issue --out` made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fleet.errors import UsageError
from minicoap.errors import CoapError

if TYPE_CHECKING:
    from minicoap.security.credentials import Credentials

INSTALL = "CoAPS needs pyOpenSSL and cryptography: pip install 'minicoap[fleet,dtls]'"


def default_directory(environment: Mapping[str, str] = os.environ) -> str:
    """Where credentials are looked for if nobody says where they are."""
    place = environment.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(place, "fleet", "credentials")


def load_operator(directory: str) -> Credentials:
    """Return the credentials in `directory`. Raises UsageError with the remedy if there are none that can be used."""
    try:
        from fleet.host.clock import SystemClock
        from fleet.pki.connection import client_credentials
        from fleet.pki.keystore import Keystore
        from fleet.pki.renewal import KnownTime
    except ImportError as error:
        raise UsageError(INSTALL) from error
    holder = Keystore(directory).holder()
    if holder is None:
        raise UsageError(
            f"no certificate in {directory}: have `fleet pki issue operator NAME --out DIR` run where the server is, "
            "and give that directory as --credentials or FLEET_CREDENTIALS"
        )
    if KnownTime(SystemClock()).has_ended(holder.not_after):
        raise UsageError(
            f"the certificate of {holder.principal.role} {holder.principal.name} in {directory} has expired: have "
            "`fleet pki issue` make a new one"
        )
    try:
        return client_credentials(holder)
    except CoapError as error:
        raise UsageError(f"{directory}: {error}") from error
