"""What a test of a client is, and how a client is asked to do something."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, NamedTuple, Optional

from minicoap.errors import UsageError
from tools.conformance.model import LEVELS, MUST

if TYPE_CHECKING:
    from tools.conformance.serving.client import Client


class Ask(NamedTuple):
    """What the client is to do.

    `method` is get, put, post, delete, ping or observe; `path` what of, with its query; `kind` con or non; `size` bytes
    of text to send; `accept` a Content-Format, `block` the bytes of a block it is to ask for, None for neither;
    `seconds` how long to observe. `note` says what else, for a person.
    """

    method: str
    path: str = ""
    kind: str = "con"
    size: int = 0
    accept: Optional[int] = None
    block: Optional[int] = None
    seconds: float = 0.0
    note: str = ""

    def text(self, uri: str) -> str:
        """Return it for a person."""
        kind = "" if self.method in ("ping", "observe") else f", {'' if self.kind == 'con' else 'non-'}confirmable"
        parts = [f"{self.method.upper()} {uri}{kind}"]
        if self.size:
            parts.append(f"with {self.size} bytes of text/plain")
        if self.accept is not None:
            parts.append(f"with Accept {self.accept}")
        if self.block is not None:
            parts.append(f"asking for blocks of {self.block} bytes")
        if self.seconds:
            parts.append(f"for {self.seconds:g} s, then cancel")
        return ", ".join(parts) + (f" ({self.note})" if self.note else "")


Driver = Callable[[Ask, str], Callable[[], None]]
"""Has the client do what is asked of a URI; returns what ends that."""


def by_hand(ask: Ask, uri: str) -> Callable[[], None]:
    """Tell a person what to have the client do."""
    print(f"{'':15} now: {ask.text(uri)}", flush=True)
    return lambda: None


class Command:
    """Runs a command for each request, with {method}, {uri}, {kind}, {size}, {accept}, {block} and {seconds} filled in.

    What is not asked for is 0, or - for {accept}. Raises UsageError for a command that has no {uri}.
    """

    def __init__(self, command: str) -> None:
        self._words = shlex.split(command)
        if not any("{uri}" in word for word in self._words):
            raise UsageError("--client: the command has no {uri}")

    def __call__(self, ask: Ask, uri: str) -> Callable[[], None]:
        """Run it. Raises UsageError if it cannot be."""
        values = {
            "method": ask.method, "uri": uri, "kind": ask.kind, "size": str(ask.size), "block": str(ask.block or 0),
            "accept": "-" if ask.accept is None else str(ask.accept), "seconds": f"{ask.seconds:g}",
        }  # fmt: skip
        try:
            words = [word.format(**values) for word in self._words]
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        except (KeyError, IndexError, ValueError, OSError) as error:
            raise UsageError(f"--client: {error}") from error

        def end() -> None:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

        return end


@dataclass(frozen=True)
class ClientTest:
    """One test of a client."""

    id: str
    title: str
    section: str
    level: str
    steps: tuple[str, ...]
    function: Callable[[Client], None]
    is_long: bool


class ClientCatalogue:
    """All tests of clients, in the order in which they were defined."""

    def __init__(self) -> None:
        self._tests: dict[str, ClientTest] = {}

    def __iter__(self) -> Iterator[ClientTest]:
        return iter(self._tests.values())

    def __len__(self) -> int:
        return len(self._tests)

    def test(
        self, id: str, *, section: str, level: str = MUST, is_long: bool = False
    ) -> Callable[[Callable[[Client], None]], Callable[[Client], None]]:
        """Enter the decorated function as a test: the first line of its docstring is the title, the rest its steps."""

        def enter(function: Callable[[Client], None]) -> Callable[[Client], None]:
            assert id not in self._tests, id
            assert level in LEVELS, level
            title, *steps = (line.strip() for line in (function.__doc__ or "").strip().splitlines())
            self._tests[id] = ClientTest(
                id, title, section, level, tuple(step for step in steps if step), function, is_long
            )
            return function

        return enter

    def chosen(self, prefixes: Optional[Sequence[str]], *, with_long: bool) -> list[ClientTest]:
        """Return the tests whose ids begin so, or all; long ones if they are named or wanted."""
        if not prefixes:
            return [test for test in self if with_long or not test.is_long]
        found = [test for test in self if any(test.id.startswith(prefix) for prefix in prefixes)]
        if not found:
            raise UsageError(f"no test of clients is called {' or '.join(prefixes)}; `serve --list` shows them")
        return found


CLIENT_TESTS = ClientCatalogue()
