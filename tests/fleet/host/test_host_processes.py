"""Children under an event loop: what they get, what comes back, and that none of them outlives its time."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Optional

import pytest

from fleet.host.processes import OUTPUT_KEPT, ProcessResult, SystemProcesses, clean_environment
from minicoap.poll.loop import Loop

LONG = 20.0


def run(
    code: str, *, input: bytes = b"", timeout: float = LONG, kill_when: Optional[Path] = None
) -> tuple[ProcessResult, list[ProcessResult]]:
    """What a child running `code` came to; and all results that were delivered."""
    return run_command([sys.executable, "-c", code], input=input, timeout=timeout, kill_when=kill_when)


def run_command(
    arguments: list[str], *, input: bytes = b"", timeout: float = LONG, kill_when: Optional[Path] = None
) -> tuple[ProcessResult, list[ProcessResult]]:
    results: list[ProcessResult] = []
    with Loop() as loop:
        processes = SystemProcesses(loop)

        def done(result: ProcessResult) -> None:
            results.append(result)
            loop.call_later(0.01, loop.stop)  # so that it could be told twice

        child = processes.run(arguments, input, timeout, done)
        assert not results, "done was called inside run"
        if kill_when is not None:
            call_when_there(loop, kill_when, child.kill)
        loop.call_later(LONG, loop.stop)
        loop.run()
        child.kill()
    return results[0], results


def call_when_there(loop: Loop, path: Path, callback: Callable[[], None]) -> None:
    if path.exists():
        callback()
    else:
        loop.call_later(0.005, call_when_there, loop, path, callback)


def test_a_child_reads_its_input_and_gives_output_and_exit_code() -> None:
    result, results = run(
        "import sys; d = sys.stdin.buffer.read(); print(len(d)); print('no', file=sys.stderr); sys.exit(3)",
        input=b"x" * 1_000_000,
    )

    assert result == ProcessResult(3, b"1000000\n", b"no\n", False)
    assert len(results) == 1


def test_a_child_need_not_read_its_input() -> None:
    result, _ = run("pass", input=b"x" * 1_000_000)

    assert result == ProcessResult(0, b"", b"", False)


def test_only_the_end_of_much_output_is_kept() -> None:
    result, _ = run("import sys; sys.stdout.write('a' * 5_000_000 + 'end'); sys.stderr.write('b' * 100_000 + 'END')")

    assert result.stdout == b"a" * (OUTPUT_KEPT - 3) + b"end"
    assert result.stderr == b"b" * (OUTPUT_KEPT - 3) + b"END"


def test_what_cannot_be_started_is_a_result() -> None:
    result, _ = run_command(["/nonexistent/program"])

    assert result.exit_code is None
    assert b"/nonexistent/program" in result.stderr
    assert not result.timed_out


FAMILY = """
import os, subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open(sys.argv[0] + ".new", "w") as file: file.write(str(grandchild.pid))
os.rename(sys.argv[0] + ".new", sys.argv[0])
time.sleep(600)
"""


def family(path: Path) -> str:
    return f"import sys; sys.argv[0] = {str(path)!r}\n" + FAMILY


def test_a_child_that_takes_too_long_is_killed_with_all_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "pid"

    result, results = run(family(mark), timeout=1.0)

    assert result.timed_out
    assert result.exit_code == -9
    assert len(results) == 1
    assert not mark.exists() or has_ended(int(mark.read_text()))


def test_kill_ends_the_whole_group_and_done_is_still_called(tmp_path: Path) -> None:
    mark = tmp_path / "pid"

    result, results = run(family(mark), kill_when=mark)

    assert (result.exit_code, result.timed_out) == (-9, False)
    assert len(results) == 1
    assert has_ended(int(mark.read_text()))


def has_ended(pid: int) -> bool:
    """Whether a process that was sent SIGKILL is gone, or dead and waiting for whoever adopted it, within a while."""
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii") as file:
                if file.read().rpartition(")")[2].split()[0] in ("Z", "X"):
                    return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.005)
    return False


def test_a_child_killed_at_once_has_no_time_to_do_anything(tmp_path: Path) -> None:
    results: list[ProcessResult] = []
    with Loop() as loop:

        def done(result: ProcessResult) -> None:
            results.append(result)
            loop.stop()

        code = f"import time; time.sleep(1); open({str(tmp_path / 'ran')!r}, 'w')"
        SystemProcesses(loop).run([sys.executable, "-c", code], b"", LONG, done).kill()
        loop.run()

    assert results[0].exit_code == -9
    assert not (tmp_path / "ran").exists()


def test_several_children_at_once_are_told_apart() -> None:
    told: dict[int, ProcessResult] = {}
    with Loop() as loop:
        processes = SystemProcesses(loop)

        def done(number: int, result: ProcessResult) -> None:
            told[number] = result
            if len(told) == 5:
                loop.stop()

        for number in range(5):
            processes.run(["sh", "-c", f"echo {number}; exit {number}"], b"", LONG, partial(done, number))
        loop.run()
        assert loop.remove_signal_handler(signal.SIGCHLD) is False, "nobody waits for children any more"

    assert {number: (result.exit_code, result.stdout) for number, result in told.items()} == {
        number: (number, f"{number}\n".encode()) for number in range(5)
    }


def test_a_child_leaves_no_descriptor_and_no_zombie() -> None:
    before = os.listdir("/proc/self/fd")

    run("pass")
    run_command(["/nonexistent/program"])

    assert os.listdir("/proc/self/fd") == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_process_that_left_the_group_and_holds_the_pipes_does_not_hold_the_result() -> None:
    code = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    time.sleep(30)
    os._exit(0)
print("parent done", flush=True)
"""
    result, _ = run(code, timeout=1.0)

    assert result.timed_out
    assert result.stdout == b"parent done\n"


def test_the_environment_holds_where_things_are_and_no_secrets() -> None:
    kept = {
        "HOME": "/h", "PATH": "/bin", "LC_ALL": "C", "PIP_INDEX_URL": "file:///i", "https_proxy": "p",
        "HTTPS_PROXY": "P", "SSL_CERT_FILE": "/c", "TMPDIR": "/t", "PYTHONPATH": "/p",
    }  # fmt: skip
    dropped = {"AWS_SECRET": "s", "PYTHONSTARTUP": "x", "VIRTUAL_ENV": "/v", "LD_PRELOAD": "l", "FLEET_SERVER": "f"}

    assert clean_environment({**kept, **dropped}) == kept


def test_a_child_sees_the_clean_environment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "s")

    result, _ = run("import json, os; print(json.dumps(dict(os.environ)))")

    assert "SECRET_TOKEN" not in json.loads(result.stdout)
    assert json.loads(result.stdout)["PATH"] == os.environ["PATH"]


def test_the_end_of_the_process_ends_the_children(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    results: list[ProcessResult] = []
    with Loop() as loop:
        processes = SystemProcesses(loop)
        processes.run([sys.executable, "-c", family(mark)], b"", LONG, results.append)
        call_when_there(loop, mark, loop.stop)
        loop.run()
        processes.close()
        processes.close()

    assert has_ended(int(mark.read_text()))
    assert results == []
