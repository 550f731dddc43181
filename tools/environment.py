"""The virtual environment that the tools here work in: made when it is missing or out of date, else reused.

It holds the project itself, editable, with what the asked-for extras need. A file inside, `built-from`, says what it
was built from: the interpreter, where the checkout stands, `pyproject.toml` and the extras; any difference in the
first three means a new environment, a missing extra is installed into the one that is there. The file is written
last, so that an interrupted build is never taken for a finished one.

Standard library only, and no syntax newer than Python 3.6: an older Python gets to read why it will not do.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import List, Optional, Sequence

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 9)

_ASK_VERSION = "import sys; print('.'.join(map(str, sys.version_info[:3])))"


def prepare(extras: Sequence[str], interpreter: Optional[str] = None) -> str:
    """Return the path of a Python that has this project and its `extras` installed.

    Without `interpreter` the environment is `.venv`, made by the running Python; with one it is `.venv-3.9` and the
    like, after that interpreter's version. Ends the process, saying why, when the environment cannot be made.
    """
    version = _version(interpreter or sys.executable)
    directory = ROOT / (".venv" if interpreter is None else ".venv-" + ".".join(version.split(".")[:2]))
    directory.mkdir(exist_ok=True)
    python = str(directory / "bin" / "python")
    with _Lock(directory):
        stamp = directory / "built-from"
        source = _source(version)
        built = stamp.read_text(encoding="utf-8").split("\n") if stamp.exists() else []
        present = built[1:] if built[:1] == [source] else []
        missing = [extra for extra in extras if extra not in present]
        if not missing:
            return python
        if not present:
            say(f"making {directory.name} with Python {version}")
            _run([interpreter or sys.executable, "-m", "venv", "--clear", str(directory)])
        say(f"installing the project with its extras: {', '.join(missing)}")
        wanted = f"{ROOT}[{','.join(missing)}]"
        _run([python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--editable", wanted])
        stamp.write_text("\n".join([source, *present, *missing]), encoding="utf-8")
    return python


def say(text: str) -> None:
    """Print one line about what the calling tool is doing."""
    print(f"{Path(sys.argv[0]).name}: {text}", flush=True)


class _Lock:
    """Keep a second tool, started meanwhile, waiting until the environment in `directory` is complete."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> None:
        # The directory itself is locked: `venv --clear` empties it, a lock file inside would be lost.
        self._descriptor = os.open(str(self._directory), os.O_RDONLY)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _source(version: str) -> str:
    """Return what an environment depends on, as one word."""
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes())
    digest.update(f"\n{version}\n{ROOT}".encode())
    return digest.hexdigest()


def _version(interpreter: str) -> str:
    """Return the version of a Python, as `3.11.2`; end the process where it is none or too old."""
    try:
        version = subprocess.check_output([interpreter, "-c", _ASK_VERSION]).decode().strip()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"{interpreter} is no working Python: {error}")
    if tuple(map(int, version.split("."))) < OLDEST_PYTHON:
        sys.exit(
            f"Python {version} is too old, 3.9 or newer is needed; where another one is installed, start this with it: "
            f"python3.11 {sys.argv[0]}"
        )
    return version


def _run(command: List[str]) -> None:
    """Run one step of the set-up; end the process where it fails, its own output says why."""
    try:
        subprocess.check_call(command, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"setting up the environment failed: {error}")
