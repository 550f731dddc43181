"""A node that speaks CoAPS: its credentials, the connection to its server, and the renewal of its certificate.

Loaded by agents only whose server is at a coaps:// URI, since what it takes costs as much memory again.
"""

from __future__ import annotations

import os
import socket

from fleet.agent.access import Access
from fleet.agent.agent import Agent
from fleet.agent.renewal import Renewal
from fleet.errors import InvalidError, UsageError
from fleet.host.clock import Clock
from fleet.model.roles import NODE
from fleet.model.times import ms_from_iso
from fleet.pki.connection import client_credentials, renew
from fleet.pki.keystore import CREDENTIALS, Holder, Keystore
from fleet.pki.renewal import KnownTime
from minicoap.core.entropy import Entropy
from minicoap.core.machine import DatagramMachine
from minicoap.core.request import Path, SecurePath
from minicoap.core.resource import Guard
from minicoap.errors import CoapError
from minicoap.security.association import server_path
from minicoap.security.sessions import SecurityLimits
from minicoap.shell.loop import Loop
from minicoap.shell.secure import SecureShell

LIMITS = SecurityLimits(sessions=16, anonymous_sessions=1, half_open=8)  # a server, and a few who look


class Secured:
    """What a node with a certificate, kept in `data_dir`, speaks CoAPS with.

    Raises UsageError if there is none, or if it cannot be used.
    """

    def __init__(self, data_dir: str, clock: Clock, entropy: Entropy) -> None:
        self._keystore = Keystore(os.path.join(data_dir, CREDENTIALS))
        holder = self._keystore.holder()
        if holder is None:
            raise UsageError(f"this node has no certificate in {self._keystore.directory}: run `fleet enroll` first")
        if holder.principal.role != NODE:
            raise UsageError(f"the certificate in {self._keystore.directory} is a {holder.principal.role}'s, no node's")
        self._holder = holder
        self._clock = clock
        self._entropy = entropy
        self._time = KnownTime(clock, holder.not_before)
        if self._time.has_ended(holder.not_after):
            raise UsageError("this node's certificate has expired: run `fleet enroll` again, which keeps its key")
        try:
            self._credentials = client_credentials(holder)
        except CoapError as error:
            raise UsageError(str(error)) from error

    @property
    def node_id(self) -> str:
        """The id that the certificate is for."""
        return self._holder.principal.name

    def path_to(self, address: Path, host: str) -> SecurePath:
        """Return the path to the server at `address`, asked for as `host`."""
        return server_path(address, host)

    @staticmethod
    def guard(server: Path) -> Guard:
        """Return what decides who may ask the node something, whose server is at `server`."""
        return Access(server).guard

    def time_told(self, text: str) -> None:
        """Take note of what the server says the time is."""
        try:
            self._time.told(ms_from_iso(text) / 1000)
        except InvalidError:
            return  # a newer server may say it in another way

    def run(self, agent: Agent, machine: DatagramMachine, sock: socket.socket, loop: Loop) -> SecureShell:
        """Run `machine`, the agent or what is around it, on `sock`, and keep its certificate good."""
        shell = SecureShell(machine, self._credentials, loop, wall=self._time.now, limits=LIMITS, exact=True)
        shell.listen(sock, "coaps")

        def renewed(holder: Holder) -> None:
            renew(self._credentials, holder)
            shell.credentials_changed()

        renewal = Renewal(
            agent.endpoint,
            agent.server,
            self._keystore,
            self._holder,
            clock=self._clock,
            time=self._time,
            timers=agent.timers,
            entropy=self._entropy,
            renewed=renewed,
        )
        renewal.look(loop.time())
        shell.wake()
        return shell
