"""What a server with an authority does about certificates: its own, the revocation list, and what others revoke.

The authority is in `pki` of the data directory, the server's key and certificate in `pki/server`. A revocation by
`fleet pki revoke` is a change that another process makes in the register: it is looked for twice a second, which costs
a few microseconds, and takes effect then.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Callable, Optional

from fleet.errors import UsageError
from fleet.host.clock import Clock
from fleet.model.roles import SERVER, Principal
from fleet.pki.authority import Authority, open_authority
from fleet.pki.certificates import DAY, decode_der
from fleet.pki.keys import make_key
from fleet.pki.keystore import Holder, Keystore
from fleet.pki.names import hosts_of
from fleet.pki.registrar import Registrar
from fleet.pki.renewal import renewal_due_at
from fleet.server.config import PKI_DIRECTORY

logger = logging.getLogger(__name__)

WATCH_INTERVAL = 0.5  # seconds between looks at what another process did to the register
UPKEEP_INTERVAL = 3600.0  # seconds between looks at what time does to certificates and the list
LIST_AGE = DAY  # seconds after which the revocation list is signed anew
SERVER_NAME = "server"


class Certification:
    """The certificates of a running server.

    `revoked` is called with the serial numbers, in hex, of certificates that are good no more. `changed`, to be set by
    whoever secures connections, is called after that, and when the server has a new certificate itself: sessions with
    those that are not to be believed have to end. Call `run` when `next_due_at` has come.
    """

    def __init__(
        self,
        data_dir: str,
        clock: Clock,
        *,
        passphrase: Optional[bytes] = None,
        revoked: Callable[[Sequence[str]], None],
    ) -> None:
        directory = os.path.join(data_dir, PKI_DIRECTORY)
        self.authority = open_authority(directory, passphrase)
        self.registrar = Registrar(self.authority)
        self.keystore = server_keystore(directory)
        self._clock = clock
        self.changed: Callable[[], None] = _nothing
        self._tell_revoked = revoked
        self._watch_at = self._upkeep_at = clock.monotonic()
        self._list_signed_at = 0.0
        self._revoked: frozenset[str] = frozenset()
        self._look()
        if self.authority.key is None:
            logger.warning("the authority's key is locked: no device can enrol or renew its certificate")
        self.holder = self._own()

    def close(self) -> None:
        """Let go of the register."""
        self.authority.close()

    def is_revoked(self, serial: str) -> bool:
        """Whether the certificate with this number, in hex, was revoked."""
        return serial in self._revoked

    @property
    def revoked(self) -> frozenset[str]:
        """The numbers of all revoked certificates that would be valid otherwise."""
        return self._revoked

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names and addresses by which the server is known."""
        return hosts_of(self.holder.certificate)

    def next_due_at(self) -> float:
        """When `run` is to be called, in seconds of the monotonic clock."""
        return min(self._watch_at, self._upkeep_at)

    def run(self, now: float) -> None:
        """Do what is due."""
        if now >= self._watch_at:
            self._watch_at = now + WATCH_INTERVAL
            if self.authority.register.is_changed():
                self._look()
        if now >= self._upkeep_at:
            self._upkeep_at = now + UPKEEP_INTERVAL
            self._upkeep(now)

    def _look(self) -> None:
        revoked = frozenset(issued.serial for issued in self.authority.register.revoked(int(self._clock.wall())))
        new = sorted(revoked - self._revoked)
        self._revoked = revoked
        if new:
            logger.info("%d certificates are revoked that were not before", len(new))
            self._tell_revoked(new)
            self.changed()

    def _upkeep(self, now: float) -> None:
        if self.authority.key is None or not self._clock.is_wall_trusted():
            return
        try:
            if now >= self._list_signed_at + LIST_AGE or not self._list_signed_at:
                self.authority.write_revocation_list(int(self._clock.wall()))
                self._list_signed_at = now
            before = self.holder
            self.holder = self._own()
        except (UsageError, OSError) as error:
            logger.error("certificates cannot be kept up: %s", error)
            return
        if before.certificate != self.holder.certificate:
            self.changed()

    def _own(self) -> Holder:
        """The server's certificate; a new one where there is none, or two thirds of its life are over."""
        holder = self.keystore.holder()
        at = int(self._clock.wall())
        if holder is not None and (self.authority.key is None or at < renewal_due_at(holder)):
            return holder
        return issue_server(self.authority, self.keystore, at)


def _nothing() -> None:
    """No connection is secured yet."""


def issue_server(authority: Authority, keystore: Keystore, at: int, hosts: Sequence[str] = ()) -> Holder:
    """Give the server a key and a certificate for `hosts`, those of its last one where none are named."""
    last = keystore.holder()
    principal = Principal(SERVER, SERVER_NAME) if last is None else last.principal
    if not hosts and last is not None:
        hosts = hosts_of(last.certificate)
    key = make_key()
    with authority.register.change():
        issued = authority.issue(principal, key.public_key(), at, "this server", hosts=hosts)
    certificate = decode_der(issued.der)
    keystore.put(key, certificate, [authority.certificate])
    return Holder(principal, key, certificate, (authority.certificate,))


def server_keystore(directory: str) -> Keystore:
    """Where the server whose authority is in `directory` keeps its own key."""
    return Keystore(os.path.join(directory, SERVER_NAME))
