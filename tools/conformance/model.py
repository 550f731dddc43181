"""What a test is, and what can come of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Optional

if TYPE_CHECKING:
    from tools.conformance.frames import Frame
    from tools.conformance.peer import Peer

MUST, SHOULD, ADVICE = "must", "should", "advice"
LEVELS = (MUST, SHOULD, ADVICE)
"""How much a failure weighs: against a MUST of an RFC, against a SHOULD, or against what we hold to be wise."""

PASS, FAIL, INCONCLUSIVE, NOT_APPLICABLE = "pass", "fail", "inconclusive", "not applicable"
VERDICTS = (PASS, FAIL, INCONCLUSIVE, NOT_APPLICABLE)


class Failure(Exception):
    """The peer broke a rule.

    `rule` is the sentence that was broken, in our words, `section` where it stands, `frame` the packet that broke it,
    or the one that got no answer. `level` is the rule's own weight where it differs from the test's.
    """

    def __init__(self, rule: str, section: str, frame: Optional[Frame] = None, *, level: Optional[str] = None) -> None:
        super().__init__(rule)
        self.rule = rule
        self.section = section
        self.frame = frame
        self.level = level


class Inconclusive(Exception):
    """What the peer did, or the network, leaves the question open."""


class NotApplicable(Exception):
    """The peer has nothing that the test could be made with."""


@dataclass(frozen=True)
class Test:
    """One test of a server: `function` carries it out on a `Peer`, and raises what is not as it should be.

    `differs` says where the description of ETSI CoAP#4 asks for something else than the RFC does, which wins.
    """

    id: str
    title: str
    section: str
    level: str
    needs: tuple[str, ...]
    steps: tuple[str, ...]
    function: Callable[[Peer], None]
    differs: str = ""

    __test__ = False  # not one of pytest's


@dataclass
class Result:
    """What came of a test. `frames` are the packets of its last run."""

    test: Test
    verdict: str
    reason: str = ""
    section: str = ""
    offender: Optional[Frame] = None
    frames: Sequence[Frame] = ()
    seconds: float = 0.0
    broken: Optional[str] = None  # the level of the rule that was broken, where it is not the test's
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def level(self) -> str:
        """How much a failure weighs."""
        return self.broken or self.test.level


class Catalogue:
    """All tests, by id, in the order in which they were defined."""

    def __init__(self) -> None:
        self._tests: dict[str, Test] = {}

    def __iter__(self) -> Iterator[Test]:
        return iter(self._tests.values())

    def __len__(self) -> int:
        return len(self._tests)

    def test(
        self, id: str, *, section: str, level: str = MUST, needs: Sequence[str] = (), differs: str = ""
    ) -> Callable[[Callable[[Peer], None]], Callable[[Peer], None]]:
        """Enter the decorated function as a test: the first line of its docstring is the title, the rest its steps."""

        def enter(function: Callable[[Peer], None]) -> Callable[[Peer], None]:
            assert id not in self._tests, id
            assert level in LEVELS, level
            title, *steps = (line.strip() for line in (function.__doc__ or "").strip().splitlines())
            self._tests[id] = Test(
                id, title, section, level, tuple(needs), tuple(step for step in steps if step), function, differs
            )
            return function

        return enter


CATALOGUE = Catalogue()
