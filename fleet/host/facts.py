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
KERNEL_NAME = 15  # characters that the kernel keeps of a process's name
UNIT_GROUPS = ("sys/fs/cgroup/system.slice", "sys/fs/cgroup/systemd/system.slice")  # control groups, version 2 and 1


class LinuxFacts:
    """Facts of a Linux host, from its files below `/proc` and `/sys`.

    `directory` is a path on the file system whose space is reported; `root` is where `/proc`, `/run` and `/sys` are.
    Raises OSError where they are not.
    """

    def __init__(self, directory: str, root: str = "/") -> None:
        self._directory = directory
        self._root = root
        self._busy, self._total = self._cpu_time()

    def health(self, services: Sequence[str]) -> HostHealth:
        """How the host is; `services` are the names to look for. CPU use is the mean since the last question."""
        memory_total, memory_available = self._memory()
        disk = os.statvfs(self._directory)
        disk_used = disk.f_blocks - disk.f_bfree
        return HostHealth(
            cpu_percent=self._cpu_percent(),
            memory_percent=_percent(memory_total - memory_available, memory_total),
            # Of what there is without the blocks that only root may use, as df(1) counts.
            disk_percent=_percent(disk_used, disk_used + disk.f_bavail),
            temperature=self._temperature(),
            services_status=self._services(services),
        )

    def system(self) -> SystemFacts:
        """What the host is."""
        kernel = os.uname()
        memory_total, memory_available = self._memory()
        disk = os.statvfs(self._directory)
        return SystemFacts(
            hostname=kernel.nodename,
            os=kernel.sysname.lower(),
            os_release=kernel.release,
            arch=kernel.machine,
            python=".".join(map(str, sys.version_info[:3])),
            cpu_count=os.cpu_count() or 1,
            memory_total=memory_total,
            memory_available=memory_available,
            disk_total=disk.f_blocks * disk.f_frsize,
            disk_free=disk.f_bavail * disk.f_frsize,
            boot_time=float(self._lines("proc/stat")["btime"]),
            load=os.getloadavg()[0],
        )

    def process(self) -> ProcessFacts:
        """What this process uses."""
        status = self._lines("proc/self/status")
        times = os.times()
        resident = int(status["VmRSS:"].split()[0]) * 1024
        return ProcessFacts(resident, times.user + times.system, int(status["Threads:"]))

    def _lines(self, path: str) -> dict[str, str]:
        """A kernel's file as what its lines begin with, and the rest of each."""
        with open(os.path.join(self._root, path), encoding="ascii", errors="replace") as file:
            parts = [line.split(None, 1) for line in file]
        return {part[0]: part[1] for part in parts if len(part) == 2}

    def _memory(self) -> tuple[int, int]:
        """Bytes of memory, and of it what programs can have without swapping."""
        told = self._lines("proc/meminfo")
        return int(told["MemTotal:"].split()[0]) * 1024, int(told["MemAvailable:"].split()[0]) * 1024

    def _cpu_time(self) -> tuple[int, int]:
        """Time that all processors were busy, and all of it, in ticks: proc(5)."""
        # The first eight: what guests use is part of `user` and `nice` already.
        ticks = [int(word) for word in self._lines("proc/stat")["cpu"].split()[:8]]
        total = sum(ticks)
        return total - sum(ticks[3:5]), total  # idle, and waiting for a disk

    def _cpu_percent(self) -> float:
        busy, total = self._busy, self._total
        self._busy, self._total = self._cpu_time()
        # The kernel may count a little back where a processor sleeps.
        return _percent(max(0, self._busy - busy), max(0, self._total - total))

    def _temperature(self) -> Optional[float]:
        """The hottest sensor, where its driver is one of hwmon; else the hottest zone."""
        for directory, prefix, suffix in (("sys/class/hwmon", "temp", "_input"), ("sys/class/thermal", "temp", "")):
            found = []
            directory = os.path.join(self._root, directory)
            for device in _names(directory):
                for name in _names(os.path.join(directory, device)):
                    if name.startswith(prefix) and name.endswith(suffix):
                        found.append(_content(os.path.join(directory, device, name)).strip())
            temperatures = [int(text) / 1000 for text in found if text.lstrip("-").isdecimal()]
            if temperatures:
                return max(temperatures)
        return None

    def _services(self, services: Sequence[str]) -> dict[str, bool]:
        systemd = os.path.isdir(os.path.join(self._root, SYSTEMD_MARK))
        states = {name: systemd and self._unit_has_processes(name) for name in services}
        if all(states.values()):
            return states
        running = self._running()
        return {name: state or name in running for name, state in states.items()}

    def _running(self) -> set[str]:
        """The names of all processes; the kernel's own has 15 characters of it, the command line the rest."""
        processes = os.path.join(self._root, "proc")
        names = set()
        for pid in _names(processes):
            if pid.isdecimal():
                name = _content(os.path.join(processes, pid, "comm")).rstrip("\n")
                if len(name) == KERNEL_NAME:
                    program = os.path.basename(_content(os.path.join(processes, pid, "cmdline")).partition("\0")[0])
                    name = program if program.startswith(name) else name
                names.add(name)
        return names

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


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 1) if whole else 0.0


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:  # there is nothing of that kind, or it has just gone
        return []


def _content(path: str) -> str:
    """The text of a kernel's file, empty where it is not there: no such unit, or the other version of the hierarchy."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
