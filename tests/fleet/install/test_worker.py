"""The worker's side of the protocol, in process and as the child that it is."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fleet.host.files import SystemFiles
from fleet.install import file, worker
from fleet.install.interface import OUTPUT_BYTES, OUTPUT_LINES, Answer, InstallError, Step, last_lines
from fleet.install.verify import verify_hashes
from tests.fleet.host.test_host_processes import has_ended
from tests.fleet.install.steps import make_step, stored

ROOT = Path(__file__).parents[3]


def ask(verb: str, step: Step) -> Answer:
    return worker.answer(msgspec.json.encode({"verb": verb, "step": step}))


@pytest.mark.parametrize(
    ("question", "text"),
    [
        (b"", "malformed"),
        (b"[]", "malformed"),
        (b'{"verb": "install"}', "malformed"),
        (b'{"verb": "install", "step": {"job_id": "j", "attempt": "one"}}', "malformed"),
    ],
)
def test_a_malformed_question_is_answered_as_unsupported(question: bytes, text: str) -> None:
    answer = worker.answer(question)

    assert (answer.ok, answer.reason) == (False, "unsupported")
    assert text in answer.output


@pytest.mark.parametrize("verb", ["", "explode", "__init__", "answer"])
def test_an_unknown_verb_is_unsupported(tmp_path: Path, verb: str) -> None:
    answer = ask(verb, make_step(tmp_path))

    assert (answer.ok, answer.reason) == (False, "unsupported")
    assert repr(verb) in answer.output


@pytest.mark.parametrize("verb", list(worker.SYSTEM_ERROR_REASONS))
def test_an_unknown_package_type_is_unsupported_for_every_verb(tmp_path: Path, verb: str) -> None:
    answer = ask(verb, make_step(tmp_path, package_type="deb"))

    assert (answer.ok, answer.reason) == (False, "unsupported")
    assert "'deb'" in answer.output


def test_the_hash_of_every_artifact_is_checked(tmp_path: Path) -> None:
    good = stored(tmp_path, "good", b"x" * 3_000_000)
    wrong = stored(tmp_path, "wrong", b"right")
    Path(wrong.file).write_bytes(b"wrong")
    short = stored(tmp_path, "short", b"all of it")
    Path(short.file).write_bytes(b"part")
    missing = msgspec.structs.replace(good, name="missing", file=str(tmp_path / "none"))
    upper = msgspec.structs.replace(good, sha256=good.sha256.upper())

    assert ask("verify_hashes", make_step(tmp_path, artifacts=(good, upper))) == Answer(ok=True)
    for bad, text in ((wrong, "SHA-256 is"), (short, "4 bytes, the job says 9"), (missing, "there is no file")):
        answer = ask("verify_hashes", make_step(tmp_path, artifacts=(good, bad)))
        assert (answer.ok, answer.reason) == (False, "hash_mismatch")
        assert answer.output.startswith(f"{bad.name}: ")
        assert text in answer.output
        with pytest.raises(InstallError):
            verify_hashes([bad])


def test_too_little_space_is_refused_with_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = make_step(tmp_path, artifacts=(stored(tmp_path, "a", b"x" * 1000),))
    monkeypatch.setattr(SystemFiles, "free_bytes", lambda self, path: 999)

    answer = ask("requirements", step)

    assert (answer.ok, answer.reason) == (False, "no_space")
    assert "1000 bytes are needed, 999 are free" in answer.output


@pytest.mark.parametrize(
    ("verb", "number", "reason"),
    [
        ("install", errno.ENOSPC, "no_space"),
        ("install", errno.EDQUOT, "no_space"),
        ("install", errno.EROFS, "install_failed"),
        ("roll_back", errno.ENOSPC, "rollback_failed"),
        ("verify", errno.EIO, "verify_failed"),
        ("requirements", errno.EACCES, "environment_missing"),
    ],
)
def test_an_error_of_the_system_is_an_answer_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, number: int, reason: str
) -> None:
    def fail(self: object, step: Step) -> None:
        raise OSError(number, os.strerror(number), "/some/path")

    monkeypatch.setattr(file.FileInstaller, verb, fail)

    answer = ask(verb, make_step(tmp_path))

    assert (answer.ok, answer.reason) == (False, reason)
    assert "/some/path" in answer.output


def test_output_is_cut_to_its_last_lines_and_bytes() -> None:
    lines = [f"line {number}" for number in range(100)]

    assert last_lines("\n\n".join(lines)).splitlines() == lines[-OUTPUT_LINES:]
    assert last_lines("é" * 10_000) == "é" * (OUTPUT_BYTES // 2)
    assert last_lines("a" + "é" * 10_000 + "b") == "é" * (OUTPUT_BYTES // 2 - 1) + "b"
    assert last_lines("") == ""


# From here on the worker is a process. `noisy` is a package type whose installer does as the job's name says.
NOISY = """
import os, resource, subprocess, sys, time
from fleet.install.interface import InstallError

class Noisy:
    def install(self, step):
        return getattr(self, step.name)(step)

    def talk(self, step):
        print("to stdout", flush=True)
        os.write(1, b"to descriptor 1\\n")
        subprocess.run(["echo", "from a child"])
        return f"core limit {resource.getrlimit(resource.RLIMIT_CORE)}"

    def refuse(self, step):
        raise InstallError("no_such_luck", "because")

    def crash(self, step):
        raise RuntimeError("a fault in the installer")

    def hang(self, step):
        with open(step.version + ".new", "w") as file: file.write(str(os.getpid()))
        os.rename(step.version + ".new", step.version)
        time.sleep(600)

    def leave_a_child(self, step):
        code = "import sys; sys.stdin.read()"
        subprocess.Popen([sys.executable, "-c", code], close_fds=False, stdin=0, stdout=subprocess.DEVNULL)
        return "left"
"""


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    (tmp_path / "noisy.py").write_text(NOISY)
    return tmp_path


def start(place: Path, name: str, version: str = "", **options: Any) -> subprocess.Popen[bytes]:
    """Start the worker as a child with the noisy installer and hand it its question."""
    code = "from fleet.install import worker; worker.INSTALLERS['noisy'] = ('noisy', 'Noisy'); worker.main()"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{place}"},
        **options,
    )


def question(place: Path, name: str, version: str = "") -> bytes:
    step = make_step(place, package_type="noisy", name=name, version=version)
    return msgspec.json.encode({"verb": "install", "step": step})


def test_the_command_answers_on_the_last_line_of_stdout(tmp_path: Path) -> None:
    step = make_step(tmp_path, artifacts=(stored(tmp_path, "app.conf", b"a=1\n"),))

    finished = subprocess.run(
        [sys.executable, "-m", "fleet.install.worker"],
        input=msgspec.json.encode({"verb": "requirements", "step": step}),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )

    answer = json.loads(finished.stdout.splitlines()[-1])
    assert answer.pop("bytes_free") > 0
    assert answer == {"ok": True, "bytes_needed": 4, "can_roll_back": True}


def test_nothing_an_installer_prints_gets_into_the_answer(noisy: Path) -> None:
    stdout, stderr = start(noisy, "talk").communicate(question(noisy, "talk"), timeout=30)

    assert json.loads(stdout) == {"ok": True, "output": "core limit (0, 0)"}
    assert stderr.decode().split("\n")[:3] == ["to stdout", "to descriptor 1", "from a child"]


def test_a_refusal_is_an_answer_and_a_fault_is_a_crash(noisy: Path) -> None:
    refused = start(noisy, "refuse")
    stdout, _ = refused.communicate(question(noisy, "refuse"), timeout=30)
    assert (refused.returncode, json.loads(stdout)) == (0, {"ok": False, "reason": "no_such_luck", "output": "because"})

    crashed = start(noisy, "crash")
    stdout, stderr = crashed.communicate(question(noisy, "crash"), timeout=30)
    assert (crashed.returncode, stdout) == (1, b"")
    assert b"a fault in the installer" in stderr


def test_the_worker_dies_with_whoever_started_it(noisy: Path) -> None:
    mark = noisy / "pid"
    agent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from tests.fleet.install import test_worker as t; from pathlib import Path;"
            f"p = Path({str(noisy)!r}); t.start(p, 'hang').communicate(t.question(p, 'hang', {str(mark)!r}))",
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    for _ in until(mark.exists):
        assert agent.poll() is None

    os.kill(agent.pid, signal.SIGKILL)
    agent.wait()

    assert has_ended(int(mark.read_text()))


def test_a_worker_waits_for_what_the_last_one_left_running(noisy: Path) -> None:
    reading, writing = os.pipe()
    left = subprocess.run(
        [sys.executable, "-c", LEAVE, str(noisy)],
        stdin=reading,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{noisy}"},
        check=True,
    )
    assert b"left" in left.stdout
    os.close(reading)
    with open(noisy / "work" / ".lock", "rb") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    second = start(noisy, "talk")
    assert second.stdin is not None and second.stdout is not None
    second.stdin.write(question(noisy, "talk"))
    second.stdin.close()

    os.close(writing)  # now the child that was left ends

    assert json.loads(second.stdout.read())["ok"]
    second.wait()
    second.stdout.close()
    assert second.stderr is not None
    second.stderr.close()


# A worker whose stdin is not its question, so that the child it leaves can wait on it.
LEAVE = """
import sys
from pathlib import Path
from fleet.install import worker
from tests.fleet.install.test_worker import question
worker.INSTALLERS["noisy"] = ("noisy", "Noisy")
print(worker.answer(question(Path(sys.argv[1]), "leave_a_child")))
"""


def until(condition: Any) -> Iterator[None]:
    """Turns of waiting until the condition holds."""
    import time

    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        yield
        time.sleep(0.005)
