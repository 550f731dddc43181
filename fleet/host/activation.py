"""Sockets that a process is born with, by systemd's protocol: sd_listen_fds(3), from both of its ends.

A `.socket` unit opens the socket before the service starts; a server that replaces itself hands its own to its
successor in the same way.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping

from fleet.errors import UsageError

FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START
_PARKED = 200  # descriptors that nothing has by then
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def inherited_sockets(environment: MutableMapping[str, str] = os.environ) -> list[tuple[str, socket.socket]]:
    """Return the UDP sockets that this process was given, non-blocking, each with its name; no child is given them.

    Raises UsageError where it was given something else.
    """
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    count, names = environment.get("LISTEN_FDS", ""), environment.get("LISTEN_FDNAMES", "").split(":")
    for name in _VARIABLES:
        environment.pop(name, None)
    if count not in ("1", "2"):
        raise UsageError(f"LISTEN_FDS={count}: give a socket for CoAP, one for CoAPS, or both")
    found: list[tuple[str, socket.socket]] = []
    try:
        for number in range(int(count)):
            found.append((names[number] if number < len(names) else "", _inherited(FIRST_DESCRIPTOR + number)))
    except UsageError:
        for _, sock in found:
            sock.close()
        raise
    return found


def _inherited(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise UsageError(f"LISTEN_FDS says so, but descriptor {descriptor} is no socket: {error.strerror}") from error
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_DGRAM:
        sock.close()
        raise UsageError(
            "the socket that was passed on is not for UDP; a .socket unit says ListenDatagram=ADDRESS:PORT"
        )
    sock.setblocking(False)
    return sock


def hand_over(sockets: Mapping[str, socket.socket]) -> dict[str, str]:
    """Put sockets, by name, where this process's successor (the same PID) finds them; returns what says so."""
    # Above what they are to become, so that none is closed by another's taking its place.
    held = [os.dup2(sock.fileno(), _PARKED + number) for number, sock in enumerate(sockets.values())]
    for number, descriptor in enumerate(held):
        os.dup2(descriptor, FIRST_DESCRIPTOR + number, inheritable=True)
        os.close(descriptor)
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(held)), "LISTEN_FDNAMES": ":".join(sockets)}
