"""Sockets that a process is born with, by systemd's protocol: sd_listen_fds(3), from both of its ends.

A `.socket` unit opens the socket before the service starts; a server that replaces itself hands its own to its
successor in the same way.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from typing import Optional

from fleet.errors import UsageError

FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def inherited_socket(environment: MutableMapping[str, str] = os.environ) -> Optional[socket.socket]:
    """Return the UDP socket that this process was given, non-blocking, or None; no child is given it again.

    Raises UsageError where it was given something else.
    """
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = environment.get("LISTEN_FDS", "")
    for name in _VARIABLES:
        environment.pop(name, None)
    if count != "1":
        raise UsageError(f"LISTEN_FDS={count}: give one socket; a .socket unit has one ListenDatagram= line for it")
    try:
        os.set_inheritable(FIRST_DESCRIPTOR, False)
        sock = socket.socket(fileno=FIRST_DESCRIPTOR)
    except OSError as error:
        raise UsageError(f"LISTEN_FDS=1, but descriptor {FIRST_DESCRIPTOR} is no socket: {error.strerror}") from error
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_DGRAM:
        sock.close()
        raise UsageError(
            "the socket that was passed on is not for UDP; a .socket unit says ListenDatagram=ADDRESS:PORT"
        )
    sock.setblocking(False)
    return sock


def hand_over(sock: socket.socket) -> dict[str, str]:
    """Put `sock` where this process's successor (the same PID) finds it; returns the variables that say so."""
    os.dup2(sock.fileno(), FIRST_DESCRIPTOR, inheritable=True)
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
