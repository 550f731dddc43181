"""`tools/demo` as a person runs it: real processes, sockets, pip; the last of which it must leave nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NODES = ("worker-01", "worker-02", "worker-03")

pytestmark = pytest.mark.skipif(
    not Path(sys.executable).with_name("fleet").exists(),
    reason="the commands are not installed beside this Python; tools/test installs them",
)


@contextmanager
def demo(folder: Path, *arguments: str, python: str = sys.executable) -> Iterator[subprocess.Popen[str]]:
    """The demo, with `folder` as the place for temporary files; ended if the test fails."""
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(ROOT / "tools" / "demo"), "--python", python, *arguments]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        except BaseException:
            process.terminate()  # it then ends what it has started
            process.communicate(timeout=60)
            raise


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What the process prints, up to and with the line that has `text`."""
    assert process.stdout is not None
    read = ""
    for line in process.stdout:
        read += line
        if text in line:
            return read
    raise AssertionError(f"{text!r} was never printed:\n{read}")


def left_behind(folder: Path) -> list[str]:
    """Files in `folder`, and processes that have it in their command line."""
    found = [str(path) for path in folder.iterdir()]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue  # it has ended meanwhile
        if str(folder).encode() in command and b"tools/demo" not in command:
            found.append(command.replace(b"\0", b" ").decode())
    return found


def test_the_demo_shows_a_package_rolled_out_to_three_nodes(tmp_path):
    with demo(tmp_path) as process:
        out, _ = process.communicate(timeout=300)

    assert process.returncode == 0, out
    for payload in (
        '\'{"name": "demo-greeting", "version": "1.1", "package_type": "pip", "target_nodes": ["all"]}\'',
        '\'{"action": "install", "job_id": "',
        '\'{"action": "status", "job_id": "',
    ):
        assert f"/updates --content-format json --payload {payload}" in out
    for node in NODES:
        assert re.search(rf"{node} +online .* healthy$", out, re.MULTILINE)
        assert f"    {node}  succeeded\n" in out
        assert f"    {node}  demo-greeting 1.0 -> 1.1   it says: Hello from 1.1!\n" in out
    assert "    the job: succeeded\n" in out
    assert left_behind(tmp_path) == []


def test_kept_running_it_says_what_to_try_and_that_works(tmp_path):
    with demo(tmp_path, "--keep") as process:
        out = read_until(process, "tail -f")
        to_try = out[out.index("export PATH=") : out.index("tail -f")]
        tried = subprocess.run(
            ["bash", "-e", "-u", "-c", to_try], capture_output=True, text=True, timeout=240, check=False
        )
        assert (tried.returncode, tried.stderr) == (0, "")
        assert "job succeeded: 1 succeeded" in tried.stdout
        assert tried.stdout.endswith("Hello from 1.0!\n")
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)

    assert (process.returncode, rest.splitlines()[-1]) == (0, "All processes ended, nothing left behind.")
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGINT, "to be updated"), (signal.SIGTERM, "to be updated"), (signal.SIGINT, "  installing")],
)
def test_interrupted_it_leaves_nothing_behind(tmp_path, number, moment):
    with demo(tmp_path) as process:
        read_until(process, moment)
        process.send_signal(number)
        rest, _ = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "Traceback" not in rest
    assert left_behind(tmp_path) == []


def test_where_something_fails_it_shows_the_logs_and_leaves_nothing_behind(tmp_path):
    commands = tmp_path / "commands"
    commands.mkdir()
    write_script(commands / "python", f'exec {sys.executable} "$@"')
    write_script(commands / "fleet", "echo the disk is on fire; exit 7")
    folder = tmp_path / "temporary"
    folder.mkdir()

    with demo(folder, "--insecure", python=str(commands / "python")) as process:
        out, _ = process.communicate(timeout=120)

    assert process.returncode == 1
    assert "tools/demo: the server has ended" in out
    assert "--- the last lines of server\nthe disk is on fire\n" in out
    assert left_behind(folder) == []


def write_script(path: Path, command: str) -> None:
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)
