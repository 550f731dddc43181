"""The manual in docs/minicoap: its programs run and print what stands below them, and it has all public names."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import minicoap

ROOT = Path(minicoap.__file__).parents[1]
MANUAL = ROOT / "docs" / "minicoap"
# What is another one each time: ports, message IDs, tokens, times.
_CHANCE = re.compile(
    r"(?<=127\.0\.0\.1:)\d+|(?<=(?:CON|ACK|NON|RST) )\d+|\[[0-9a-f]{8}\]|\d+\.\d ms|^ +\d\.\d{3}", re.MULTILINE
)
_BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)


class Program(NamedTuple):
    """A program of the manual, and what it prints; None where the page does not say."""

    page: str
    line: int
    code: str
    output: str


def programs(page: Path) -> list[Program]:
    text = page.read_text(encoding="utf-8")
    return [
        Program(page.name, text[: found.start()].count("\n") + 2, found[1], found[2]) for found in _BLOCK.finditer(text)
    ]


PAGES = sorted(MANUAL.glob("*.md"))
SERVER, CLIENT = programs(MANUAL / "index.md")
RUNNABLE = [program for page in PAGES if page.name != "index.md" for program in programs(page)]


@pytest.mark.parametrize("program", RUNNABLE, ids=lambda program: f"{program.page}:{program.line}")
def test_program_prints_what_stands_below_it(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    code = compile("\n" * (program.line - 1) + program.code, program.page, "exec", dont_inherit=True)
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        exec(code, {"__name__": "__main__"})
    assert program.output is not None, "what it prints has to stand below it, in a block of text"
    assert _CHANCE.sub("*", printed.getvalue()) == _CHANCE.sub("*", program.output)


def test_server_has_ten_lines_and_client_five_and_they_work_together(tmp_path: Path) -> None:
    lines = [[line for line in program.code.splitlines() if line] for program in (SERVER, CLIENT)]
    assert (len(lines[0]) <= 10, len(lines[1]) <= 5) == (True, True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    served, asked = (program.code.replace(":5683", f":{port}") for program in (SERVER, CLIENT))
    with subprocess.Popen([sys.executable, "-c", served], cwd=ROOT) as server:
        try:
            for _ in range(200):  # until it is bound; a request to nobody fails at once
                ended = subprocess.run(
                    [sys.executable, "-c", asked], check=False, cwd=ROOT, capture_output=True, text=True
                )
                if "cannot be reached" not in ended.stderr:
                    break
        finally:
            server.terminate()
    assert (ended.stdout, ended.stderr) == (CLIENT.output, "")


def entries() -> dict[str, str]:
    """What the reference says of each name."""
    text = (MANUAL / "reference.md").read_text(encoding="utf-8")
    parts = re.split(r"^##+ (.*)\n", text, flags=re.MULTILINE)
    return {title.strip("`"): body for title, body in zip(parts[1::2], parts[2::2]) if title.startswith("`")}


def test_reference_has_an_entry_for_every_public_name_and_no_other() -> None:
    assert sorted(entries()) == sorted(minicoap.__all__)


def parameters(thing: Any) -> list[str]:
    """What a function, or a class's constructor, takes."""
    if isinstance(thing, type) and issubclass(thing, Exception) and "__init__" not in vars(thing):
        return []
    if isinstance(thing, type) and getattr(thing, "_is_protocol", False):
        return []
    names = inspect.signature(thing).parameters
    return [name for name in names if name not in ("self", "cls")]


@pytest.mark.parametrize("name", [name for name in minicoap.__all__ if not inspect.ismodule(getattr(minicoap, name))])
def test_manual_of_a_name_tells_what_it_takes_and_can_do(name: str) -> None:
    thing = getattr(minicoap, name)
    entry = entries()[name]
    told = f"{thing.__doc__ or ''} {entry}"
    missing = [each for each in parameters(thing) if not re.search(rf"\b{each}\b", told)]
    assert missing == [], "neither the docstring nor docs/minicoap/reference.md tells of these arguments"
    if not inspect.isclass(thing):
        return
    methods = [each for each, value in vars(thing).items() if each[0] != "_" and callable(getattr(thing, each))]
    assert [each for each in methods if not getattr(thing, each).__doc__] == []
    told += " ".join(entries()[protocol] for protocol in ("DatagramMachine", "Source", "Sink", "ClientSink"))
    assert [each for each in methods if not re.search(rf"\b{each}\b", told)] == [], "docs/minicoap/reference.md"


def test_pages_lead_to_pages_and_tests_that_exist() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https:)([^)#]*)", text):
            assert not target or (page.parent / target).exists(), (page.name, target)
    table = (MANUAL / "rfcs.md").read_text(encoding="utf-8")
    folder = ""
    for row in re.findall(r"^\|.*\| (.*) \|$", table, flags=re.MULTILINE):
        for place in re.findall(r"`([^`]*)`", row):
            base = ROOT if place.startswith("tests/") else MANUAL.parents[1] / "tests" / "minicoap"
            folder = place.rpartition("/")[0] or folder
            name = place if "/" in place else f"{folder}/{place}"
            assert list(base.glob(name.rstrip("/"))), place


def test_command_line_takes_what_its_page_says() -> None:
    from minicoap.cli.arguments import parser

    page = (MANUAL / "command.md").read_text(encoding="utf-8")
    known: set[str] = set()
    for command in parser()._subparsers._group_actions[0].choices.values():  # type: ignore[union-attr]
        known |= set(command._option_string_actions)
    assert {flag for flag in re.findall(r"(?<![\w-])(--?[a-zA-Z][a-z-]*)", page) if flag not in ("--help",)} <= known
    hidden = {
        "--help",
        "--verbose",
        "--payload",
        "--file",
        "--content-format",
        "--accept",
        "--option",
        "--non",
        "--output",
    }
    assert {flag for flag in known if flag.startswith("--")} - hidden <= set(re.findall(r"--[a-z-]+", page))
