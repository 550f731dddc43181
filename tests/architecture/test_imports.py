"""Who may import whom, and what the machines must not touch."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# The machines: no I/O, no clock, no randomness, and the same decision on every run.
PURE = [
    "minicoap/codec",
    "minicoap/core",
    "fleet/model",
    "fleet/server/engine",
    "fleet/agent/machine.py",
    "fleet/agent/steps.py",
]
FORBIDDEN_MODULES = {
    "asyncio",
    "os",
    "random",
    "secrets",
    "select",
    "selectors",
    "socket",
    "sqlite3",
    "subprocess",
    "threading",
    "time",
}
FORBIDDEN_CALLS = {"hash", "id", "open", "uuid1", "uuid4"}
CLOCK_READINGS = {"now", "today", "utcnow"}


def test_imports_run_downhill():
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("import-linter is not installed here; .ci/run runs it as a step of its own")

    finished = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert finished.returncode == 0, finished.stdout


def test_minicoap_alone_loads_no_event_loop_and_no_openssl():
    loaded = without_site_packages("import minicoap, sys; print(*sys.modules)").split()

    assert "minicoap" in loaded
    assert not {"asyncio", "ssl", "_ssl", "_hashlib", "socket"} & set(loaded)


def test_every_module_of_minicoap_can_be_imported_without_any_third_party_package():
    names = [module_name(path) for path in sorted((ROOT / "minicoap").rglob("*.py")) if path.name != "__main__.py"]

    without_site_packages("import " + ", ".join(names))


def without_site_packages(code: str) -> str:
    """What a new interpreter prints that finds the standard library and this repository only."""
    command = [sys.executable, "-S", "-E", "-c", code]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def pure_files() -> list[Path]:
    return sorted(
        path
        for place in map(ROOT.joinpath, PURE)
        for path in ([place] if place.suffix else place.rglob("*.py"))
        if path.exists()
    )


@pytest.mark.parametrize("path", pure_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_machine_does_no_io_and_decides_nothing_by_chance(path):
    assert list(faults(ast.parse(path.read_text(encoding="utf-8")))) == []


FAULTY = {
    "import time": "imports time",
    "import os.path as path": "imports os",
    "from asyncio import sleep": "imports asyncio",
    "def f():\n    import socket": "imports socket",
    "key = hash(name)": "calls hash",
    "token = uuid.uuid4()": "calls uuid4",
    "at = datetime.now(timezone.utc)": "reads a clock",
    "for name in {a, b}: pass": "iterates over a set",
    "names = [name for name in set(names)]": "iterates over a set",
    "names = list(frozenset(names))": "iterates over a set",
}


@pytest.mark.parametrize("code", FAULTY)
def test_the_check_of_machines_finds(code):
    assert [text for _, text in faults(ast.parse(code))] == [FAULTY[code]]


@pytest.mark.parametrize(
    "code",
    [
        "from minicoap.core import parameters",
        "from . import time",
        "def __hash__(self): return hash(self.items)",
        "for name in sorted(set(names)): pass",
        "now = request.now",
        "uuid = parse(uuid4)",
    ],
)
def test_the_check_of_machines_lets_pass(code):
    assert list(faults(ast.parse(code))) == []


def faults(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) for each thing in a module that a machine must not do."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "__hash__":
            continue  # a value may say what it is hashed by; what is asked of dicts does not depend on it
        yield from ((node.lineno, text) for text in fault(node))
        yield from faults(node)


def fault(node: ast.AST) -> Iterator[str]:
    names = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        names = [str(node.module)]
    for top in (name.split(".")[0] for name in names):
        if top in FORBIDDEN_MODULES:
            yield f"imports {top}"

    if isinstance(node, ast.Call):
        called = name_of(node.func)
        if called in FORBIDDEN_CALLS:
            yield f"calls {called}"
        if called in CLOCK_READINGS and isinstance(node.func, ast.Attribute):
            yield "reads a clock"
        if called in {"list", "tuple", "enumerate", "iter", "next", "join"} and any(map(is_set, node.args)):
            yield "iterates over a set"
    loops = [node] if isinstance(node, ast.For) else getattr(node, "generators", [])
    if any(is_set(loop.iter) for loop in loops):
        yield "iterates over a set"


def is_set(node: ast.expr) -> bool:
    """Whether the expression is a set at sight; what a name holds is not followed."""
    made = isinstance(node, ast.Call) and name_of(node.func) in {"set", "frozenset"}
    return made or isinstance(node, (ast.Set, ast.SetComp))


def name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
