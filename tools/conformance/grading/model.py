"""What a grade is: a test found in a capture, and a verdict on each side of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Callable, NamedTuple, Optional

from tools.conformance.capture.links import Address
from tools.conformance.grading.exchanges import Conversations, Exchange, Seen
from tools.conformance.model import FAIL, INCONCLUSIVE, MUST, PASS


class Fault(NamedTuple):
    """A rule that was broken, in our words, where it stands, by which frame, and how much it weighs."""

    rule: str
    section: str
    seen: Seen
    level: str = MUST


class Side:
    """What is held against a side, and what is open about it."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.open: list[str] = []
        self.remarks: list[str] = []

    @property
    def verdict(self) -> str:
        """The verdict: a fault outweighs what is open."""
        return FAIL if self.faults else INCONCLUSIVE if self.open else PASS

    def fault(self, rule: str, section: str, seen: Seen, level: str = MUST) -> None:
        """Hold a broken rule against it."""
        fault = Fault(rule, section, seen, level)
        if all((each.rule, each.seen) != (rule, seen) for each in self.faults):
            self.faults.append(fault)

    def add(self, faults: Iterable[Fault]) -> None:
        """Hold several against it."""
        for fault in faults:
            self.fault(*fault)

    def doubt(self, why: str) -> None:
        """Say what is open."""
        if why not in self.open:
            self.open.append(why)

    def remark(self, what: str) -> None:
        """Say what is worth knowing."""
        if what not in self.remarks:
            self.remarks.append(what)


class Grade:
    """A test that a capture contains. `exchanges` are what it was found in."""

    def __init__(self, test: str, title: str, exchanges: Sequence[Exchange]) -> None:
        self.test = test
        self.title = title
        self.exchanges = list(exchanges)
        self.client = Side()
        self.server = Side()

    @property
    def parties(self) -> tuple[Address, Address]:
        """The client that was tested, and the server."""
        return self.exchanges[0].client, self.exchanges[0].server

    @property
    def frames(self) -> list[Seen]:
        """The frames that it was found in, in order."""
        return sorted((seen for each in self.exchanges for seen in each.frames), key=lambda seen: seen.number)


class Scene:
    """All exchanges with one server, in order, with the part that each resource plays.

    `roles` maps a role to the path that plays it; `ends_at` is when the capture ends.
    """

    def __init__(self, conversations: Conversations, server: Address, roles: dict[str, tuple[str, ...]]) -> None:
        self.server = server
        self.exchanges = [each for each in conversations.exchanges if each.server == server]
        self.ends_at = conversations.ends_at
        self._roles = roles

    def at(self, role: str, *, code: Optional[int] = None, type: Optional[int] = None) -> list[Exchange]:
        """Return the requests to a role's resource, of a method and a type where these are given."""
        path = self._roles[role]
        return [
            each
            for each in self.exchanges
            if each.path == path
            and not each.is_ping
            and (code is None or each.message.code == code)
            and (type is None or each.message.type == type)
        ]

    def after(self, seen: Seen) -> float:
        """Return for how many seconds the capture goes on after a frame."""
        return self.ends_at - seen.at


Case = Callable[[Scene], Iterator[Grade]]
"""Finds the occurrences of a test, judged for what is particular to it."""


class Cases:
    """All tests that can be recognised, by ID, in the order in which they were defined."""

    def __init__(self) -> None:
        self._cases: dict[str, tuple[str, Case]] = {}

    def __iter__(self) -> Iterator[tuple[str, str, Case]]:
        return iter((id, title, case) for id, (title, case) in self._cases.items())

    def __len__(self) -> int:
        return len(self._cases)

    def case(self, id: str, title: str) -> Callable[[Case], Case]:
        """Enter the decorated function as the test `id`."""

        def enter(function: Case) -> Case:
            assert id not in self._cases, id
            self._cases[id] = title, function
            return function

        return enter

    def title(self, id: str) -> str:
        """Return what a test is about."""
        return self._cases[id][0]


CASES = Cases()
