"""The host's boot: which one this is, and asking for the next."""

from __future__ import annotations

import logging
import os
from typing import Protocol

from fleet.host.processes import Processes, ProcessResult

log = logging.getLogger(__name__)

BOOT_ID = "/proc/sys/kernel/random/boot_id"
REBOOT_TIMEOUT = 60.0  # seconds


class Boot(Protocol):
    """The boot of a host."""

    def boot_id(self) -> str:
        """A text that differs from boot to boot and is the same within one."""

    def reboot(self) -> None:
        """Ask for a reboot; returns at once, the host goes down a little later, or not at all."""


class SystemBoot:
    """The boot of a Linux host; the reboot is asked of systemd where it runs, of the init system elsewhere."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def boot_id(self) -> str:
        """The kernel's own random name of this boot."""
        with open(BOOT_ID, encoding="ascii") as file:
            return file.read().strip()

    def reboot(self) -> None:
        """Ask for a reboot; returns at once, the host goes down a little later, or not at all."""
        command = ["systemctl", "reboot"] if os.path.isdir("/run/systemd/system") else ["reboot"]
        self._processes.run(command, b"", REBOOT_TIMEOUT, _report)


def _report(result: ProcessResult) -> None:
    if result.exit_code != 0:
        log.error("the reboot was refused: %s", result.stderr.decode(errors="replace").strip())
