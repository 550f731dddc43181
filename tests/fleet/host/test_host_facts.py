"""Facts of this host, and of pretended ones."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import psutil
import pytest

from fleet.host.boot import SystemBoot
from fleet.host.clock import EARLIEST_PLAUSIBLE, SystemClock
from fleet.host.facts import LinuxFacts
from tests.fleet.host.recorded import RecordedProcesses


def test_health_is_in_percent(tmp_path: Path) -> None:
    health = LinuxFacts(str(tmp_path)).health([])

    for percent in (health.cpu_percent, health.memory_percent, health.disk_percent):
        assert 0 <= percent <= 100
    assert health.memory_percent > 0
    assert health.services_status == {}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"hwmon/a/temp1_input": "41000", "hwmon/a/temp2_input": "44500", "hwmon/b/temp1_input": "43000"}, 44.5),
        ({"hwmon/hwmon0/temp1_input": "-5000"}, -5.0),
        ({"hwmon/hwmon0/temp1_max": "90000", "hwmon/hwmon0/name": "cpu"}, None),
        ({"thermal/thermal_zone0/temp": "51250", "thermal/thermal_zone1/temp": "50000"}, 51.25),
        ({"hwmon/hwmon0/temp1_input": "41000", "thermal/thermal_zone0/temp": "99000"}, 41.0),
        ({"hwmon/hwmon0/temp1_input": "", "thermal/thermal_zone0/temp": "42000"}, 42.0),
    ],
)  # fmt: skip
def test_temperature_is_that_of_the_hottest_sensor(tmp_path: Path, files: dict[str, str], expected: object) -> None:
    for name, text in {**KERNEL, **{f"sys/class/{name}": text for name, text in files.items()}}.items():
        write(tmp_path / name, text + "\n")

    assert LinuxFacts(str(tmp_path), root=str(tmp_path)).health([]).temperature == expected


KERNEL = {
    "proc/stat": "cpu  100 20 30 700 50 5 5 90 10 0\ncpu0 1 2 3\nbtime 1700000000\n",
    "proc/meminfo": "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  250 kB\nHugePages_Total: 0\n",
}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_share_of_the_processors_that_was_used_is_that_since_the_last_question(tmp_path: Path) -> None:
    for name, text in KERNEL.items():
        write(tmp_path / name, text)
    facts = LinuxFacts(str(tmp_path), root=str(tmp_path))

    assert facts.health([]).cpu_percent == 0.0
    write(
        tmp_path / "proc/stat", "cpu  120 20 40 760 60 5 5 90 99 99\nbtime 1700000000\n"
    )  # 30 ticks of 100; what guests had is in user
    assert facts.health([]).cpu_percent == 30.0
    assert facts.health([]).cpu_percent == 0.0
    write(tmp_path / "proc/stat", "cpu  120 20 40 759 60 5 5 90 99 99\nbtime 1700000000\n")  # the kernel counted back
    assert facts.health([]).cpu_percent == 0.0
    assert facts.health([]).memory_percent == 75.0
    assert facts.system().memory_available == 250 * 1024


def test_figures_are_those_of_psutil(tmp_path: Path) -> None:
    facts = LinuxFacts(str(tmp_path))
    system, process, theirs = facts.system(), facts.process(), psutil.Process()

    assert facts.health([]).disk_percent == pytest.approx(psutil.disk_usage(str(tmp_path)).percent, abs=1)
    assert facts.health([]).memory_percent == pytest.approx(psutil.virtual_memory().percent, abs=5)
    assert (system.memory_total, system.cpu_count) == (psutil.virtual_memory().total, psutil.cpu_count())
    assert system.boot_time == psutil.boot_time()
    assert process.resident == pytest.approx(theirs.memory_info().rss, rel=0.2)
    assert process.cpu_seconds <= sum(theirs.cpu_times()[:2]) + 0.1
    assert process.threads == theirs.num_threads()


def test_system_facts_are_those_of_this_host(tmp_path: Path) -> None:
    facts = LinuxFacts(str(tmp_path)).system()

    assert facts.hostname == socket.gethostname()
    assert (facts.os, facts.arch) == ("linux", os.uname().machine)
    assert facts.python == sys.version.split()[0]
    assert facts.cpu_count >= 1
    assert facts.memory_total > facts.memory_available > 0
    assert facts.disk_total >= facts.disk_free
    assert facts.boot_time > 0
    assert facts.load >= 0


UNITS = {  # files below a pretended root
    "sys/fs/cgroup/system.slice/ssh.service/cgroup.events": "populated 1\nfrozen 0\n",
    "sys/fs/cgroup/system.slice/ssh.service/cgroup.procs": "",  # the processes are in groups below it
    "sys/fs/cgroup/system.slice/dead.service/cgroup.events": "populated 0\nfrozen 0\n",
    "sys/fs/cgroup/system.slice/dead.service/cgroup.procs": "",
    "sys/fs/cgroup/system.slice/system-getty.slice/getty@tty1.service/cgroup.events": "populated 1\n",
    "sys/fs/cgroup/systemd/system.slice/old.service/cgroup.procs": "812\n",
    "sys/fs/cgroup/other/cgroup.procs": "1\n",
    "proc/1/comm": "by-name\n",
    "proc/2/comm": "a-rather-long-n\n",  # as much of it as the kernel keeps
    "proc/2/cmdline": "/usr/bin/a-rather-long-name\0--option\0",
    "proc/3/comm": "fifteen-letters\n",
    "proc/3/cmdline": "",  # one of the kernel's own
    "proc/none/comm": "docker\n",
}

SERVICES = {
    "ssh": True,
    "ssh.service": True,
    "getty@tty1": True,
    "old": True,
    "dead": False,
    "docker": False,
    "../other": False,
    "by-name": True,
    "a-rather-long-name": True,
    "a-rather-long-n": False,
    "fifteen-letters": True,
}


@pytest.mark.parametrize("systemd", [True, False])
def test_a_service_is_up_when_its_unit_or_a_process_of_its_name_runs(tmp_path: Path, systemd: bool) -> None:
    for name, text in {**KERNEL, **UNITS}.items():
        write(tmp_path / name, text)
    if systemd:
        (tmp_path / "run/systemd/system").mkdir(parents=True)

    status = LinuxFacts(str(tmp_path), root=str(tmp_path)).health(list(SERVICES)).services_status

    by_name = ("by-name", "a-rather-long-name", "fifteen-letters")
    assert status == (SERVICES if systemd else {name: name in by_name for name in SERVICES})


def test_a_process_of_this_host_is_found_by_name(tmp_path: Path) -> None:
    name = psutil.Process().name()

    status = LinuxFacts(str(tmp_path), root="/").health([name, "no-such-program"]).services_status

    assert status == {name: True, "no-such-program": False}


def test_the_wall_clock_is_believed_from_its_floor_on() -> None:
    clock = SystemClock()

    assert SystemClock(floor=clock.wall() - 1).is_wall_trusted()
    assert not SystemClock(floor=clock.wall() + 1000).is_wall_trusted()
    assert clock.is_wall_trusted() == (clock.wall() >= EARLIEST_PLAUSIBLE)
    assert clock.monotonic() <= clock.monotonic()


def test_the_boot_id_is_the_kernels() -> None:
    boot = SystemBoot(RecordedProcesses())

    assert len(boot.boot_id()) == 36
    assert boot.boot_id() == SystemBoot(RecordedProcesses()).boot_id()


def test_a_reboot_is_asked_of_the_init_system_and_a_refusal_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    processes = RecordedProcesses()

    SystemBoot(processes).reboot()
    (command,) = processes.commands
    processes.end(exit_code=1, stderr=b"not permitted\n")

    assert command[-1] == "reboot"
    assert "not permitted" in caplog.text
