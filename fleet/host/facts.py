"""Facts of the host: how it is, what it is.

A service is up when systemd runs and the control group of its unit holds a process, or else when a process of that
name runs. That is what files say at once; asking systemd would mean a child for each report, or D-Bus.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple, Optional, Protocol


class HostHealth(NamedTuple):
    """How the host is now: percentages 0 to 100, temperature in °C (None where no sensor is), services by name."""

    cpu_percent: float
    memory_percent: float
    disk_percent: float
    temperature: Optional[float]
    services_status: dict[str, bool]


class SystemFacts(NamedTuple):
    """What the host is: sizes in bytes, `boot_time` in UTC seconds, `load` the one-minute load average."""

    hostname: str
    os: str
    os_release: str
    arch: str
    python: str
    cpu_count: int
    memory_total: int
    memory_available: int
    disk_total: int
    disk_free: int
    boot_time: float
    load: float


class ProcessFacts(NamedTuple):
    """What this process uses: resident memory in bytes, CPU time in seconds, threads."""

    resident: int
    cpu_seconds: float
    threads: int


class Facts(Protocol):
    """What a host says of itself; synchronous, and quick enough for an event loop."""

    def health(self, services: Sequence[str]) -> HostHealth:
        """How the host is; `services` are the names to look for."""

    def system(self) -> SystemFacts:
        """What the host is."""

    def process(self) -> ProcessFacts:
        """What this process uses."""


SYSTEMD_MARK = "run/systemd/system"  # exists if and only if systemd is the init process: sd_booted(3)
UNIT_GROUPS = ("sys/fs/cgroup/system.slice", "sys/fs/cgroup/systemd/system.slice")  # control groups, version 2 and 1


class PsutilFacts:
    """Facts from psutil, which is imported at the first question.

    `directory` is a path on the file system whose space is reported; `root` is where `/run` and `/sys` are.
    """

    def __init__(self, directory: str, root: str = "/") -> None:
        self._directory = directory
        self._root = root

    def health(self, services: Sequence[str]) -> HostHealth:
        """How the host is; `services` are the names to look for. CPU use is the mean since the last question."""
        import psutil

        return HostHealth(
            cpu_percent=psutil.cpu_percent(interval=None),
            memory_percent=psutil.virtual_memory().percent,
            disk_percent=psutil.disk_usage(self._directory).percent,
            temperature=self._temperature(),
            services_status=self._services(services),
        )

    def system(self) -> SystemFacts:
        """What the host is."""
        import psutil

        kernel = os.uname()
        memory = psutil.virtual_memory()
        disk = psutil.disk_usage(self._directory)
        return SystemFacts(
            hostname=kernel.nodename,
            os=kernel.sysname.lower(),
            os_release=kernel.release,
            arch=kernel.machine,
            python=".".join(map(str, sys.version_info[:3])),
            cpu_count=psutil.cpu_count() or 1,
            memory_total=memory.total,
            memory_available=memory.available,
            disk_total=disk.total,
            disk_free=disk.free,
            boot_time=psutil.boot_time(),
            load=os.getloadavg()[0],
        )

    def process(self) -> ProcessFacts:
        """What this process uses."""
        import psutil

        process = psutil.Process()
        with process.oneshot():
            times = process.cpu_times()
            return ProcessFacts(process.memory_info().rss, times.user + times.system, process.num_threads())

    def _temperature(self) -> Optional[float]:
        """The hottest sensor."""
        import psutil

        if not hasattr(psutil, "sensors_temperatures"):  # psutil leaves it out where the system has no such thing
            return None
        sensors = psutil.sensors_temperatures()
        return max((sensor.current for group in sensors.values() for sensor in group), default=None)

    def _services(self, services: Sequence[str]) -> dict[str, bool]:
        systemd = os.path.isdir(os.path.join(self._root, SYSTEMD_MARK))
        states = {name: systemd and self._unit_has_processes(name) for name in services}
        if all(states.values()):
            return states
        import psutil

        running = {process.info["name"] for process in psutil.process_iter(["name"])}
        return {name: state or name in running for name, state in states.items()}

    def _unit_has_processes(self, name: str) -> bool:
        unit = name if name.endswith(".service") else f"{name}.service"
        if "/" in unit:
            return False
        template, at, _ = unit.partition("@")
        inner = os.path.join(f"system-{template}.slice", unit) if at else unit
        return any(_is_populated(os.path.join(self._root, group, inner)) for group in UNIT_GROUPS)


def _is_populated(group: str) -> bool:
    """Whether a control group holds a process, or (version 2, where a unit may delegate) one below it does."""
    return "populated 1\n" in _content(os.path.join(group, "cgroup.events")) or bool(
        _content(os.path.join(group, "cgroup.procs"))
    )


def _content(path: str) -> str:
    """The text of a kernel's file, empty where it is not there: no such unit, or the other version of the hierarchy."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""
