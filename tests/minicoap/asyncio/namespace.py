"""A network of its own for a test: a piece of Python that runs where nobody else's addresses and routes are."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import textwrap

import pytest


@functools.lru_cache(maxsize=1)
def _is_possible() -> bool:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    command = ["unshare", "--net", "--map-root-user", "ip", "link", "set", "lo", "up"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def run_alone(set_up: str, code: str) -> str:
    """Run `code` where only loopback and what the shell commands in `set_up` add is there; return its output."""
    if not _is_possible():
        pytest.skip("network namespaces cannot be made here")
    script = f'set -e\nip link set lo up\n{set_up}\nexec {sys.executable} -c "$CODE"'
    environment = {**os.environ, "CODE": textwrap.dedent(code), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = ["unshare", "--net", "--map-root-user", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
