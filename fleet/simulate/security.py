"""How the simulated fleet speaks: plainly, or through pretended DTLS with certificates that name roles."""

from __future__ import annotations

from typing import Protocol

from fleet.model.roles import SERVER, Principal
from fleet.simulate.invariants import require
from minicoap.core.machine import DatagramMachine
from minicoap.core.request import Path
from minicoap.security.association import server_path
from minicoap.security.sessions import SecureMachine, SecurityLimits
from minicoap.simulate.dtls import make_certificate, secured
from minicoap.simulate.world import World

IDLE = 1800.0  # seconds after which the server ends a session that is not used


class Speech(Protocol):
    """What lies between a machine and the network."""

    def machine(self, who: Principal, life: int, inner: DatagramMachine) -> DatagramMachine:
        """Return what a host is to run as `who` in its life of that number."""

    def server_path(self, address: Path) -> Path:
        """Return the path to the server at `address`."""

    def check(self) -> None:
        """Check what has to hold once nobody has spoken for long."""


class Plain:
    """CoAP without DTLS."""

    def machine(self, who: Principal, life: int, inner: DatagramMachine) -> DatagramMachine:
        """See Speech."""
        return inner

    def server_path(self, address: Path) -> Path:
        """See Speech."""
        return address

    def check(self) -> None:
        """See Speech."""


class Security:
    """Pretended DTLS; the server keeps three sessions for four of its `nodes`."""

    def __init__(self, world: World, nodes: int) -> None:
        self._world = world
        self._limits = SecurityLimits(sessions=max(4, nodes * 3 // 4), half_open=max(4, nodes // 2), idle_lifetime=IDLE)
        self._machines: dict[Principal, SecureMachine] = {}

    def machine(self, who: Principal, life: int, inner: DatagramMachine) -> DatagramMachine:
        """See Speech."""
        names = ("server",) if who.role == SERVER else ()
        certificate = make_certificate(who.name, uris=(who.uri,), names=names)
        limits = self._limits if who.role == SERVER else SecurityLimits()
        name = f"{who.role} {who.name} {life}"
        machine = secured(self._world, name, inner, certificate=certificate, limits=limits)
        self._machines[who] = machine
        return machine

    def server_path(self, address: Path) -> Path:
        """See Speech."""
        return server_path(address, "server")

    def check(self) -> None:
        """See Speech."""
        self._world.run_for(2 * IDLE)
        for who, machine in self._machines.items():
            if who.role == SERVER:  # the nodes were switched off, some of them in the midst of a handshake
                footprint = machine.footprint()
                require(not any(footprint.values()), "{} keeps {}", who, footprint)
