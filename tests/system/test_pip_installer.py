"""The pip installer with the real pip, in real virtual environments, through the worker as the agent starts it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import venv
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

import msgspec
import pytest

from fleet.install.interface import Answer, Step, StepArtifact
from tests.fleet.install.cutting import fingerprint
from tests.fleet.install.steps import make_step, stored
from tests.fleet.install.wheels import build_simple_index, build_wheel

ROOT = Path(__file__).parents[2]
NOWHERE = "http://127.0.0.1:9/simple"  # the port of 'discard', where nobody listens


@pytest.fixture(scope="session")
def pip_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site-packages of an environment that Python itself has put pip into."""
    place = tmp_path_factory.mktemp("with-pip") / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    return site_packages(place)


@pytest.fixture
def environment(tmp_path: Path, pip_directory: Path) -> Path:
    """A fresh virtual environment, small because it finds pip in another: most of what is shown here is copying."""
    place = tmp_path / "environment"
    venv.create(place, symlinks=True, with_pip=False)
    (site_packages(place) / "pip.pth").write_text(f"{pip_directory}\n")
    return place


def site_packages(environment: Path) -> Path:
    return environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def python_of(environment: Path) -> str:
    return str(environment / "bin" / "python")


def version_in(environment: Path, name: str) -> Optional[str]:
    """The version that the environment's interpreter finds, and imports."""
    code = f"import importlib.metadata as m, {name}; print(m.version('{name}'), {name}.VERSION)"
    run = subprocess.run([python_of(environment), "-I", "-B", "-c", code], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        return None
    told, imported = run.stdout.split()
    assert told == imported
    return told


def module(version: str) -> str:
    return f"VERSION = {version!r}\n"


def demo_wheel(place: Path, version: str, requires: Sequence[str] = (), name: str = "demo") -> Path:
    place.mkdir(exist_ok=True)
    return build_wheel(place, name, version, {f"{name}/__init__.py": module(version)}, requires)


def store(place: Path, *wheels: Path) -> tuple[StepArtifact, ...]:
    return tuple(stored(place / "downloads", wheel.name, wheel.read_bytes()) for wheel in wheels)


def pip_step(environment: Path, **fields: Any) -> Step:
    return make_step(
        environment.parent, package_type="pip", **{"python": python_of(environment), "name": "demo-job", **fields}
    )


def start(verb: str, step: Step, **variables: str) -> subprocess.Popen[bytes]:
    """The worker as the agent starts it: leading a group, in an environment that configures an index."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    configured = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": NOWHERE, "PIP_RETRIES": "0", **variables}
    child = subprocess.Popen(
        [sys.executable, "-m", "fleet.install.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**kept, **configured, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    assert child.stdin is not None
    child.stdin.write(msgspec.json.encode({"verb": verb, "step": step}))
    child.stdin.close()
    child.stdin = None
    return child


def ask(verb: str, step: Step, **variables: str) -> Answer:
    child = start(verb, step, **variables)
    stdout, stderr = child.communicate()
    assert child.returncode == 0, stderr.decode()
    return msgspec.json.decode(stdout.splitlines()[-1], type=Answer)


def do(step: Step, *verbs: str, **variables: str) -> None:
    for verb in verbs:
        answer = ask(verb, step, **variables)
        assert answer.ok, (verb, answer)


def beside(environment: Path) -> list[str]:
    return sorted(path.name for path in environment.parent.iterdir() if path.name.startswith("environment."))


def have_demo(environment: Path, version: str) -> None:
    """Put demo where pip would; for a wheel as plain as this, that is all that pip does."""
    with zipfile.ZipFile(demo_wheel(environment.parent / "wheels", version)) as wheel:
        wheel.extractall(site_packages(environment))
    assert version_in(environment, "demo") == version


def test_a_wheel_from_the_store_replaces_the_version_that_is_there(tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    have_demo(environment, "1.0")
    step = pip_step(environment, artifacts=store(tmp_path, demo_wheel(tmp_path / "wheels", "1.1")))

    needed = ask("requirements", step)
    assert (needed.ok, needed.can_roll_back, needed.already_installed, needed.reboot) == (True, True, False, False)
    assert 0 < needed.bytes_needed < needed.bytes_free
    assert ask("inspect", step).condition == "old"
    do(step, "verify_hashes")
    installed = ask("install", step)
    assert installed.ok
    assert "Successfully installed demo-1.1" in installed.output
    assert ask("inspect", step).condition == "new"
    do(step, "verify", "commit", "clean_up")

    assert version_in(environment, "demo") == "1.1"
    assert ask("inspect", step).condition == "new"
    assert ask("requirements", step).already_installed
    assert beside(environment) == []
    assert os.listdir(tmp_path / "work") == [".lock"]


def test_requirements_that_the_store_satisfies_are_installed_without_asking_the_index(
    tmp_path: Path, environment: Path
) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    artifacts = store(
        tmp_path,
        demo_wheel(wheels, "1.1", ["dep>=2"]),
        demo_wheel(wheels, "2.5", name="dep"),
        demo_wheel(wheels, "1.0"),
    )
    step = pip_step(environment, packages=("demo>=1.0,<2",), artifacts=artifacts)
    with socket.create_server(("127.0.0.1", 0)) as index:
        index.setblocking(False)
        url = f"http://127.0.0.1:{index.getsockname()[1]}/simple"

        # The proxies are for whatever other index pip might know of.
        do(step, "install", "verify", "commit", PIP_INDEX_URL=url, http_proxy=url, https_proxy=url)

        with pytest.raises(BlockingIOError):
            index.accept()
    assert (version_in(environment, "demo"), version_in(environment, "dep")) == ("1.1", "2.5")


def test_what_the_store_lacks_comes_from_the_nodes_own_index(tmp_path: Path, environment: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    index = build_simple_index(tmp_path / "index", [demo_wheel(wheels, "2.5", name="dep"), demo_wheel(wheels, "9.9")])
    step = pip_step(environment, packages=("demo==1.1",), artifacts=store(tmp_path, demo_wheel(wheels, "1.1", ["dep"])))

    do(step, "install", "verify", "commit", PIP_INDEX_URL=index)

    assert (version_in(environment, "demo"), version_in(environment, "dep")) == ("1.1", "2.5")


def test_a_job_with_neither_packages_nor_artifacts_means_its_name_and_version(
    tmp_path: Path, environment: Path
) -> None:
    index = build_simple_index(tmp_path / "index", [demo_wheel(tmp_path / "wheels", v) for v in ("1.0", "1.1", "1.2")])
    step = pip_step(environment, name="demo", version="1.1")

    do(step, "install", "verify", "commit", PIP_INDEX_URL=index, PIP_TARGET=str(tmp_path / "elsewhere"))

    assert version_in(environment, "demo") == "1.1"
    assert not (tmp_path / "elsewhere").exists()


def broken_zip(place: Path) -> tuple[Path, ...]:
    wheel = demo_wheel(place, "1.1")
    wheel.write_bytes(wheel.read_bytes()[: wheel.stat().st_size // 2])
    return (wheel,)


def broken_record(place: Path) -> tuple[Path, ...]:
    """A wheel whose bytes are whole, but whose module is not the one that its RECORD tells of."""
    wheel = demo_wheel(place, "1.1")
    with zipfile.ZipFile(wheel) as good:
        members = {name: good.read(name) for name in good.namelist()}
    with zipfile.ZipFile(wheel, "w") as bad:
        for name, data in members.items():
            bad.writestr(name, data.replace(b"VERSION = '1.1'", b"VERSION = '9.9'"))
    return (wheel,)


def missing_dependency(place: Path) -> tuple[Path, ...]:
    return (demo_wheel(place, "1.1", ["no-such-thing==3"]),)


def no_wheel(place: Path) -> tuple[Path, ...]:
    return ()


@pytest.mark.parametrize(
    ("make", "packages", "failing", "reason", "text"),
    [
        (no_wheel, ["demo==7.7"], "install", "version_not_found", "demo==7.7"),
        (missing_dependency, [], "install", "version_not_found", "no-such-thing==3"),
        (missing_dependency, ["demo==1.1"], "install", "version_not_found", "no-such-thing==3"),
        (broken_zip, [], "install", "install_failed", "demo"),
        (broken_record, [], "verify", "verify_failed", "demo/__init__.py is not as it was installed"),
    ],
    ids=["no such version", "no dependency", "no dependency of a package", "half a wheel", "wrong RECORD"],
)
def test_what_cannot_be_installed_leaves_the_environment_to_the_byte_as_it_was(
    tmp_path: Path,
    environment: Path,
    make: Callable[[Path], tuple[Path, ...]],
    packages: list[str],
    failing: str,
    reason: str,
    text: str,
) -> None:
    have_demo(environment, "1.0")
    index = build_simple_index(tmp_path / "index", [demo_wheel(tmp_path / "wheels", "1.0")])
    before = fingerprint(environment)
    step = pip_step(environment, packages=tuple(packages), artifacts=store(tmp_path, *make(tmp_path / "wheels")))
    if failing == "verify":
        do(step, "install", PIP_INDEX_URL=index)

    answer = ask(failing, step, PIP_INDEX_URL=index)

    assert (answer.ok, answer.reason) == (False, reason)
    assert text in answer.output
    assert ask("inspect", step).condition == "partial"
    do(step, "roll_back", "clean_up")
    assert fingerprint(environment) == before
    assert ask("inspect", step).condition == "old"
    assert beside(environment) == []
    assert version_in(environment, "demo") == "1.0"


def test_an_index_that_is_out_of_reach_is_not_a_missing_version(tmp_path: Path, environment: Path) -> None:
    step = pip_step(environment, packages=("demo==1.1",))

    answer = ask("install", step, PIP_RETRIES="1")

    assert (answer.ok, answer.reason) == (False, "install_failed")
    assert "127.0.0.1" in answer.output


def test_an_installation_that_only_looks_whole_is_repaired(tmp_path: Path, environment: Path) -> None:
    have_demo(environment, "1.0")
    (site_packages(environment) / "demo" / "__init__.py").unlink()
    step = pip_step(environment, artifacts=store(tmp_path, demo_wheel(tmp_path / "wheels", "1.0")))
    assert not ask("requirements", step).already_installed
    assert ask("verify", step).output == "demo 1.0: demo/__init__.py cannot be read"

    do(step, "install", "verify", "commit")

    assert version_in(environment, "demo") == "1.0"


def test_a_requirement_whose_marker_excludes_this_node_is_met(environment: Path) -> None:
    step = pip_step(environment, packages=('demo==1.0; python_version < "3"',))

    assert ask("requirements", step).already_installed


def test_looking_leaves_no_trace(environment: Path) -> None:
    (site_packages(environment) / "imported.py").write_text("")
    (site_packages(environment) / "imported.pth").write_text("import imported\n")
    before = fingerprint(environment)
    step = pip_step(environment, packages=("demo",))

    assert [ask(verb, step).ok for verb in ("requirements", "verify", "inspect")] == [True, False, True]

    assert fingerprint(environment) == before


def test_an_invalid_requirement_is_refused_before_anything_is_done(environment: Path) -> None:
    before = fingerprint(environment)

    answer = ask("requirements", pip_step(environment, packages=("demo=1.0",)))

    assert (answer.ok, answer.reason) == (False, "unsupported")
    assert "demo=1.0" in answer.output
    assert fingerprint(environment) == before


def test_an_environment_without_pip_is_lent_the_workers(tmp_path: Path, environment: Path) -> None:
    (site_packages(environment) / "pip.pth").unlink()
    before = fingerprint(environment)
    borrowed = ask("requirements", pip_step(environment, packages=("msgspec",)))
    assert borrowed.ok
    assert not borrowed.already_installed, "it is the worker's, not the environment's"
    step = pip_step(environment, artifacts=store(tmp_path, demo_wheel(tmp_path / "wheels", "1.1")))
    answer = ask("install", step)
    if "to lend" in answer.output:
        pytest.skip(answer.output)
    assert answer.ok, answer

    do(step, "verify")

    assert version_in(environment, "demo") == "1.1"
    do(step, "roll_back")
    assert fingerprint(environment) == before


def test_what_is_no_environment_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "bin" / "python").chmod(0o755)
    (tmp_path / "bin" / "liar").write_text("#!/bin/sh\ncat >/dev/null; echo hello\n")
    (tmp_path / "bin" / "liar").chmod(0o755)
    cases = {
        sys.base_prefix + "/bin/python3": "not in a virtual environment",
        str(tmp_path / "none" / "bin" / "python"): "does not run",
        str(tmp_path / "bin" / "python"): "cannot report",
        str(tmp_path / "bin" / "liar"): "does not report",
        "python3": "must be absolute",
    }

    for python, text in cases.items():
        for verb in ("requirements", "install"):
            answer = ask(verb, pip_step(tmp_path / "environment", python=python))
            assert (answer.ok, answer.reason) == (False, "environment_missing"), python
            assert text in answer.output


def test_an_update_that_another_job_left_unfinished_is_undone_first(tmp_path: Path, environment: Path) -> None:
    have_demo(environment, "1.0")
    left = pip_step(environment, job_id="left", artifacts=store(tmp_path, demo_wheel(tmp_path / "wheels", "3.0")))
    do(left, "install")
    step = pip_step(environment, artifacts=store(tmp_path, demo_wheel(tmp_path / "wheels", "2.0", name="other")))

    do(step, "requirements")
    assert version_in(environment, "demo") == "1.0"
    do(step, "install", "verify", "commit", "clean_up")

    assert (version_in(environment, "demo"), version_in(environment, "other")) == ("1.0", "2.0")
    assert beside(environment) == []


MANY = 600


def big_wheel(place: Path) -> Path:
    """A wheel that takes pip a while: many modules, each to be written and compiled."""
    modules = {f"demo/part{number}.py": f"value = {number}\n" * 20 for number in range(MANY)}
    return build_wheel(place, "demo", "2.0", {**modules, "demo/__init__.py": module("2.0")})


def parts(environment: Path) -> int:
    """How many files of the package there are; the directory comes and goes while this looks."""
    try:
        return len(os.listdir(site_packages(environment) / "demo"))
    except FileNotFoundError:
        return 0


def compiled(environment: Path) -> int:
    return len(list((site_packages(environment) / "demo").glob("__pycache__/*")))


CUTS: dict[str, tuple[str, Callable[[Path], bool]]] = {
    "the copy is being made": ("old", lambda env: Path(f"{env}.fleet-backup.partial").exists()),
    "the copy is complete": ("old partial", lambda env: Path(f"{env}.fleet-backup").exists()),
    "the old version is gone": ("partial", lambda env: not (site_packages(env) / "demo" / "__init__.py").exists()),
    "a few files are there": ("partial", lambda env: parts(env) > 10),
    "most files are there": ("partial", lambda env: parts(env) > MANY * 0.8),
    "pip compiles": ("partial", lambda env: compiled(env) > 10),
    "the new metadata is there": ("partial new", lambda env: any(site_packages(env).glob("demo-2.0.dist-info/RECORD"))),
}


def wait_until(condition: Callable[[], bool], child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not condition() and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def is_at_work(environment: Path) -> bool:
    """Whether some process still runs this environment's interpreter."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if command.startswith(os.fsencode(environment) + b"/"):
            return True
    return False


@pytest.mark.parametrize(
    ("moment", "victim"),
    [*((moment, "group") for moment in CUTS), ("a few files are there", "worker"), ("most files are there", "worker")],
)
def test_an_install_killed_when(tmp_path: Path, environment: Path, moment: str, victim: str) -> None:
    have_demo(environment, "1.0")
    before = fingerprint(environment)
    conditions, reached = CUTS[moment]
    step = pip_step(environment, artifacts=store(tmp_path, big_wheel(tmp_path / "wheels")))

    child = start("install", step)
    wait_until(lambda: reached(environment), child)
    if victim == "group":
        os.killpg(child.pid, signal.SIGKILL)
    else:  # the agent was killed alone, and the worker with it: the kernel ends pip
        child.kill()
    child.communicate()

    condition = ask("inspect", step).condition
    assert condition in conditions.split(), "the moment was missed" if condition == "new" else ""
    assert not is_at_work(environment)
    if moment == "a few files are there":
        assert parts(environment) < MANY, "pip was not killed: it went on to its end"
    do(step, "roll_back", "clean_up")
    assert fingerprint(environment) == before
    assert beside(environment) == []


@pytest.mark.parametrize("again", [True, False], ids=["then installed", "then given up"])
def test_an_install_killed_twice_and(tmp_path: Path, environment: Path, again: bool) -> None:
    have_demo(environment, "1.0")
    before = fingerprint(environment)
    step = pip_step(environment, artifacts=store(tmp_path, big_wheel(tmp_path / "wheels")))
    for few in (10, 300):
        child = start("install", step)
        wait_until(lambda few=few: parts(environment) > few, child)  # type: ignore[misc]
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()

    if again:
        do(step, "install", "verify")
        assert version_in(environment, "demo") == "2.0"
    do(step, "roll_back")

    assert fingerprint(environment) == before


@pytest.mark.parametrize("verb", ["roll_back", "commit"])
@pytest.mark.parametrize("moment", ["discard appears", "discard shrinks", "backup is gone"])
def test_killed_in_the_middle_of(tmp_path: Path, environment: Path, verb: str, moment: str) -> None:
    have_demo(environment, "1.0")
    before = fingerprint(environment)
    step = pip_step(environment, artifacts=store(tmp_path, big_wheel(tmp_path / "wheels")))
    do(step, "install", "verify")
    after = fingerprint(environment)
    discard, backup = Path(f"{environment}.fleet-discard"), Path(f"{environment}.fleet-backup")
    reached = {
        "discard appears": discard.exists,
        "discard shrinks": lambda: discard.exists() and not (discard / "pyvenv.cfg").exists(),
        "backup is gone": lambda: not backup.exists(),
    }[moment]

    child = start(verb, step)
    wait_until(reached, child)
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()
    do(step, verb, "clean_up")

    assert fingerprint(environment) == (before if verb == "roll_back" else after)
    assert beside(environment) == []


def test_every_verb_may_be_repeated(tmp_path: Path, environment: Path) -> None:
    have_demo(environment, "1.0")
    before = fingerprint(environment)
    step = pip_step(environment, artifacts=store(tmp_path, demo_wheel(tmp_path / "wheels", "1.1")))

    do(step, "clean_up", "roll_back", "clean_up")
    assert fingerprint(environment) == before
    do(step, "requirements", "requirements", "install", "install", "verify", "verify", "roll_back", "roll_back")
    assert fingerprint(environment) == before
    do(step, "install", "verify", "commit", "commit", "clean_up", "clean_up", "verify")
    assert version_in(environment, "demo") == "1.1"


def test_an_update_never_accepted_survives_clean_up(tmp_path: Path, environment: Path) -> None:
    have_demo(environment, "1.0")
    before = fingerprint(environment)
    step = pip_step(environment, artifacts=store(tmp_path, demo_wheel(tmp_path / "wheels", "1.1")))

    do(step, "install", "clean_up", "roll_back")

    assert fingerprint(environment) == before
