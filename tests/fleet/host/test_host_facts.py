"""Facts of this host, and of pretended ones."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from fleet.host.boot import SystemBoot
from fleet.host.clock import EARLIEST_PLAUSIBLE, SystemClock
from fleet.host.facts import PsutilFacts
from tests.fleet.host.recorded import RecordedProcesses


def test_health_is_in_percent(tmp_path: Path) -> None:
    health = PsutilFacts(str(tmp_path)).health([])

    for percent in (health.cpu_percent, health.memory_percent, health.disk_percent):
        assert 0 <= percent <= 100
    assert health.memory_percent > 0
    assert health.services_status == {}


@pytest.mark.parametrize(
    ("sensors", "expected"),
    [({}, None), ({"cpu": [41.0, 44.5], "gpu": [43.0]}, 44.5), ({"cold": [-5.0]}, -5.0), ({"empty": []}, None)],
)
def test_temperature_is_that_of_the_hottest_sensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sensors: dict[str, list[float]], expected: object
) -> None:
    groups = {name: [SimpleNamespace(current=value) for value in values] for name, values in sensors.items()}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: groups, raising=False)

    assert PsutilFacts(str(tmp_path)).health([]).temperature == expected


def test_temperature_is_none_where_psutil_knows_no_sensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(psutil, "sensors_temperatures", raising=False)

    assert PsutilFacts(str(tmp_path)).health([]).temperature is None


def test_system_facts_are_those_of_this_host(tmp_path: Path) -> None:
    facts = PsutilFacts(str(tmp_path)).system()

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
}


@pytest.mark.parametrize("systemd", [True, False])
def test_a_service_is_up_when_its_unit_or_a_process_of_its_name_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, systemd: bool
) -> None:
    for name, text in UNITS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    if systemd:
        (tmp_path / "run/systemd/system").mkdir(parents=True)
    processes = [SimpleNamespace(info={"name": "by-name"}), SimpleNamespace(info={"name": None})]
    monkeypatch.setattr(psutil, "process_iter", lambda attributes: iter(processes))

    status = PsutilFacts(str(tmp_path), root=str(tmp_path)).health(list(SERVICES)).services_status

    assert status == (SERVICES if systemd else {name: name == "by-name" for name in SERVICES})


def test_a_process_of_this_host_is_found_by_name(tmp_path: Path) -> None:
    name = psutil.Process().name()

    status = PsutilFacts(str(tmp_path), root=str(tmp_path)).health([name, "no-such-program"]).services_status

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
