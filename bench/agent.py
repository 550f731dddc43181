"""Measures an agent as it is when nothing happens: its memory, how often it wakes, what a report takes of a processor.

    .venv/bin/python bench/agent.py [--runs 5] [--seconds 60] [--json]

`fleet server` and `fleet agent` run as a user starts them, in the environment of this interpreter, first with plain
CoAP, then with CoAPS. Resident memory is read some seconds after the registration, the median of the runs. Then an
agent that reports each second is watched: how often it left its waiting is the kernel's own count (voluntary context
switches), the time that it took is extrapolated to a report a minute. Memory is counted in thousands of KiB.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SETTLED = 4.0  # seconds after the registration
PATIENCE = 60.0  # seconds until something should have been said
MINUTE = 60.0
TICKS = os.sysconf("SC_CLK_TCK")


class Fleet:
    """A server in `directory`, with an authority if `scheme` is coaps."""

    def __init__(self, directory: Path, scheme: str) -> None:
        self.directory = directory
        self.scheme = scheme
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)
        if scheme == "coaps":
            self.run("pki", "init", "--host", "127.0.0.1", "--data-dir", "server")

    def run(self, *arguments: str, **variables: str) -> str:
        """Run a command to its end and return what it said."""
        command = [sys.executable, "-m", "fleet.cli.main", *arguments]
        environment = {**self._environment, **variables}
        ran = subprocess.run(command, cwd=self.directory, env=environment, capture_output=True, text=True, check=True)
        return ran.stdout

    @contextmanager
    def started(self, ready: str, *arguments: str) -> Iterator[tuple[int, str]]:
        """Run a command that stays; yields its process id and the line that `ready` matches."""
        log = self.directory / "log"
        with log.open("w") as said:
            command = [sys.executable, "-m", "fleet.cli.main", *arguments]
            process = subprocess.Popen(
                command, cwd=self.directory, env=self._environment, stdout=said, stderr=subprocess.STDOUT
            )
        try:
            deadline = time.monotonic() + PATIENCE
            while not (found := re.search(ready, log.read_text())):
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError(f"{arguments[0]} did not start: {log.read_text()}")
                time.sleep(0.05)
            yield process.pid, found[1]
        finally:
            process.terminate()
            process.wait()

    @contextmanager
    def agent(self, uri: str, node_id: str, *arguments: str) -> Iterator[int]:
        """Run an agent, enrolled if need be; yields its process id once it is registered."""
        common = ("--server", uri, "--node-id", node_id, "--data-dir", node_id)
        if self.scheme == "coaps":
            token = self.run("pki", "token", "--node", node_id, "--data-dir", "server").split()[0]
            fingerprint = self.run("pki", "fingerprint", "--data-dir", "server").splitlines()[-1]
            self.run("enroll", *common, "--fingerprint", fingerprint, FLEET_TOKEN=token)
        with self.started("(registered)", "agent", *common, "--port", "0", *arguments) as (pid, _):
            time.sleep(SETTLED)
            yield pid


def status(pid: int, name: str) -> int:
    """A number of /proc/PID/status."""
    found = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def cpu_seconds(pid: int) -> float:
    """The time that a process took of a processor."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(scheme: str, runs: int, seconds: float) -> dict[str, Any]:
    """Return the figures of agents that speak `scheme`."""
    with tempfile.TemporaryDirectory() as directory:
        fleet = Fleet(Path(directory), scheme)
        ready = rf"listening on ({scheme}://\S+)"
        server = ("server", "--port", "0", "--secure-port", "0", "--data-dir", "server")
        with fleet.started(ready, *server) as (_, uri):
            memory = []
            for number in range(runs):
                with fleet.agent(uri, f"n{number}") as pid:
                    memory.append(status(pid, "VmRSS") / 1000)
            with fleet.agent(uri, "busy", "--health-interval", "1") as pid:
                began, woken, used = time.monotonic(), status(pid, "voluntary_ctxt_switches"), cpu_seconds(pid)
                time.sleep(seconds)
                took = time.monotonic() - began
                woken = status(pid, "voluntary_ctxt_switches") - woken
                used = cpu_seconds(pid) - used
    reports = took / 0.95  # each a little early, by as much as a tenth
    return {
        "scheme": scheme,
        "rss_mb": statistics.median(memory),
        "wakeups_a_report": woken / reports,
        "cpu_ms_a_report": used / reports * 1000,
        "cpu_percent_of_a_core_each_minute": used / reports / MINUTE * 100,
    }


def main() -> int:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=5, help="agents whose memory is read (default: 5)")
    options.add_argument("--seconds", type=float, default=60.0, help="how long to watch one (default: 60)")
    options.add_argument("--json", action="store_true", help="print the figures as JSON")
    chosen = options.parse_args()
    figures = [measure(scheme, chosen.runs, chosen.seconds) for scheme in ("coap", "coaps")]
    if chosen.json:
        print(json.dumps(figures, indent=2))
        return 0
    for row in figures:
        print(
            f"{row['scheme']:5}  {row['rss_mb']:5.2f} MB resident, {row['wakeups_a_report']:.2f} wake-ups a report, "
            f"{row['cpu_ms_a_report']:.2f} ms of CPU a report: "
            f"{row['cpu_percent_of_a_core_each_minute']:.4f} % of a core at one a minute"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
