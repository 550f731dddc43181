"""What no file of this repository may say, and what every module has to."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for package in ("minicoap", "fleet") for path in (ROOT / package).rglob("*.py"))

NOT_TO_BE_FOUND = {
    "work left open": r"\b(TO[D]O|FIX[M]E|XX[X])\b",
    "somebody's home": r"/home/\w|/Users/\w|/root/\w",
    "the host of a package registry": r"pypi\.org|pythonhosted\.org|registry\.npmjs|deb\.debian\.org",
}


def tracked_texts() -> dict[str, str]:
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not in a git repository")
    texts = {}
    for name in filter(None, listed.decode().split("\0")):
        path = ROOT / name
        if path.is_file():
            texts[name] = path.read_bytes().decode(errors="replace")
    return texts


@pytest.mark.parametrize("what", NOT_TO_BE_FOUND)
def test_no_file_contains(what):
    pattern = re.compile(NOT_TO_BE_FOUND[what])

    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in tracked_texts().items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]

    assert found == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_what_it_is(path):
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))

    assert text, "no docstring"
    assert text.partition("\n\n")[0].rstrip().endswith((".", ":")), "the docstring does not begin with a sentence"
