"""A server with an authority, and clients whose identity a security layer is pretended to have proved."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Any, Optional

from fleet.model.roles import Principal
from fleet.pki.registrar import Registrar
from minicoap.core.identity import ANONYMOUS, Identity
from minicoap.core.request import Path, SecurePath
from tests.fleet.pki.certified import an_authority
from tests.fleet.server.serving import EPOCH, Client, Served


class SecuredServed(Served):
    """A server whose clients come over DTLS, as `identities` has it by their address; others over plain CoAP."""

    def __init__(self, directory: FilePath, **settings: Any) -> None:
        self.authority = an_authority(directory, int(EPOCH))
        self.registrar = Registrar(self.authority)
        self.identities: dict[Path, Identity] = {}
        self._clients = 0
        super().__init__(**settings)

    def boot(self) -> None:
        super().boot()
        self.host.machine = _Secured(self.server, self.identities)

    def secure_client(self, principal: Optional[Principal] = None) -> Client:
        """A client over DTLS, with the certificate of `principal` or none."""
        self._clients += 1
        address = ("192.0.2.10", 40000 + self._clients)
        identity = ANONYMOUS if principal is None else Identity("x509", principal.name, (principal.uri,))
        self.identities[address] = identity
        return Client(self, address)


class _Secured:
    """A machine below which the other side is known."""

    def __init__(self, machine: Any, identities: dict[Path, Identity]) -> None:
        self._machine = machine
        self._identities = identities

    def datagram_received(self, data: bytes, path: Path, now: float) -> None:
        if path in self._identities:
            secure = SecurePath(path)
            secure.identity = self._identities[path]
            path = secure
        self._machine.datagram_received(data, path, now)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._machine, name)
