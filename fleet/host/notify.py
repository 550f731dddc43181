"""What the service manager is told of this process, by systemd's protocol: sd_notify(3), sd_watchdog_enabled(3).

Each word is one datagram of `NAME=value` lines to the unix socket that NOTIFY_SOCKET names. Where nobody asked for
any, nothing is opened, sent or timed.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Callable, Optional

if TYPE_CHECKING:
    from minicoap.shell.loop import Loop, TimerHandle

logger = logging.getLogger(__name__)

READY = "READY=1"
STOPPING = "STOPPING=1"
ALIVE = "WATCHDOG=1"

BEATS = 3  # in the time after which the manager ends a silent process: one that is lost, or late, does no harm
STATUS_INTERVAL = 30.0  # seconds between beats where there is no watchdog: then they only keep the status true


class ServiceManager:
    """Whoever started this process and wants to hear of it; nobody where `address` is empty.

    `address` is the path of a socket, or "@" and an abstract name. `watchdog` is the time, in seconds, after which
    the manager ends a process that did not say that it is alive; 0 for never.
    """

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog = watchdog if address else 0.0

    @property
    def listens(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self._address)

    def tell(self, *words: str, status: str = "") -> None:
        """Send `words`, and `status` for people to read. What cannot be sent is logged: the manager has its timers."""
        if not self._address:
            return
        if status:
            words = (*words, "STATUS=" + " ".join(status.split()))
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(words).encode(errors="replace"), self._address)
        except OSError as error:
            logger.warning("the service manager cannot be told %s: %s", words[0], error)

    def tell_restart(self) -> None:
        """Say that this process is about to become its successor, which will say READY."""
        self.tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}", status="restarting")


def service_manager(environment: Mapping[str, str] = os.environ) -> ServiceManager:
    """Return the manager that `environment` names."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        if address:
            logger.warning("NOTIFY_SOCKET=%s is no unix socket: the service manager is told nothing", address)
        return ServiceManager()
    # The watchdog may be meant for another process than this one, of which the variable was inherited.
    is_ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    microseconds = environment.get("WATCHDOG_USEC", "") if is_ours else ""
    return ServiceManager(address, int(microseconds) / 1e6 if microseconds.isdecimal() else 0.0)


class Heartbeat:
    """Tells `manager`, again and again, that the process makes progress, and how it is.

    Each beat asks `check` whether all that the process needs still works: it calls what it is given once that has
    answered, now or later. Only then is the manager told; a stuck loop never asks, and what is stuck never answers.
    `status` is asked for the line that people read. Both may be exchanged while it runs.
    """

    def __init__(
        self,
        manager: ServiceManager,
        loop: Loop,
        check: Callable[[Callable[[], None]], None],
        status: Callable[[], str],
    ) -> None:
        self._manager = manager
        self._loop = loop
        self.check = check
        self.status = status
        self._interval = manager.watchdog / BEATS or STATUS_INTERVAL
        self._timer: Optional[TimerHandle] = None
        self._told = ""

    def begin(self) -> None:
        """Say READY, and beat from now on."""
        if self._manager.listens:
            self._told = self.status()
            self._manager.tell(READY, status=self._told)
            self._beat()

    def stop(self) -> None:
        """Beat no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        self._timer = self._loop.call_later(self._interval, self._beat)
        self.check(self._alive)

    def _alive(self) -> None:
        if self._timer is None:  # the answer came after the end
            return
        status = self.status()
        words = (ALIVE,) if self._manager.watchdog else ()
        if words or status != self._told:
            self._manager.tell(*words, status=status if status != self._told else "")
            self._told = status
