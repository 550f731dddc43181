"""The shell for CoAP over DTLS: one machine on a socket for both, or on one for plain CoAP and one for DTLS."""

from __future__ import annotations

import logging
import socket
import time
from functools import partial
from typing import Optional

from minicoap.core.machine import DatagramMachine
from minicoap.core.request import Path, SecurePath
from minicoap.errors import UsageError
from minicoap.security.credentials import Credentials
from minicoap.security.dtls import WallClock
from minicoap.security.hello import Admission
from minicoap.security.sessions import SecureMachine, SecurityLimits
from minicoap.shell.entropy import SystemEntropy
from minicoap.shell.floodfilter import admit
from minicoap.shell.junction import Junction
from minicoap.shell.loop import Loop
from minicoap.shell.udp import UdpShell

logger = logging.getLogger(__name__)


class SecureShell:
    """Runs `inner` with DTLS under it, on the sockets that it is given by `listen`, until `close`.

    The first socket is the one that requests are sent from, with DTLS or without. `wall` returns UTC seconds, or None
    as long as the time is not known. `exact` is explained at `UdpShell`. Whoever calls `inner` from outside calls
    `wake` afterwards.
    """

    def __init__(
        self,
        inner: DatagramMachine,
        credentials: Credentials,
        loop: Loop,
        *,
        wall: WallClock = time.time,
        limits: SecurityLimits = SecurityLimits(),  # noqa: B008  immutable
        exact: bool = False,
    ) -> None:
        self.machine = SecureMachine(inner, credentials, SystemEntropy(), wall, limits=limits)
        self.shells: list[UdpShell] = []
        self._inner = inner
        self._loop = loop
        self._exact = exact
        self._junction: Optional[Junction] = None

    def listen(self, sock: socket.socket, scheme: str = "coaps", *, serves: bool = True) -> UdpShell:
        """Listen on `sock`, for requests of `scheme`; two sockets at most, of different schemes. Returns its shell."""
        loop = self._loop
        junction = self._junction
        if junction is None:
            self.machine.serves_plain = scheme == "coap"
            received = self._inner.datagram_received if scheme == "coaps" else self.machine.record_received
            junction = Junction(self.machine, received)
            self._junction = junction
            shell = UdpShell(junction.first, sock, loop, serves=serves, exact=self._exact)
            junction.wake_first = shell.wake
        else:
            if len(self.shells) > 1:
                raise UsageError("an endpoint serves one address of coap and one of coaps")
            shell = UdpShell(junction.second, sock, loop, serves=serves, exact=self._exact)
            junction.wake_second = shell.wake
        self.shells.append(shell)
        if scheme == "coaps":
            self.machine.reception.admit = partial(self._admit, sock)
            self._admit(sock, Admission())  # it may come from a predecessor who was in a flood
        return shell

    def _admit(self, sock: socket.socket, admission: Admission) -> None:
        """Have the system let through what can be looked at, unless it will not."""
        try:
            admit(sock, admission)
        except OSError as error:
            logger.warning("the system does not keep out what floods the port of CoAPS: %s", error)
            self.machine.reception.admit = None

    def path_to(self, address: Path, host: str) -> SecurePath:
        """Return the path to the server at `address` whose certificate has to be one of `host`."""
        return self.machine.path_to(address, host)

    def credentials_changed(self) -> None:
        """Go by the credentials as they are now; see `SecureMachine.credentials_changed`."""
        self.machine.credentials_changed(self._loop.time())
        self.wake()

    def wake(self) -> None:
        """Send what there is to send and arm the timers."""
        for shell in self.shells:
            shell.wake()

    def close(self) -> None:
        """Say good-bye to everybody and close the sockets. Calling it again does nothing."""
        self.machine.close(self._loop.time())
        self.wake()
        for shell in self.shells:
            shell.close()
