"""Carries tests out. A failure is believed when it came twice, from two fresh ports."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Callable, Optional

from tools.conformance.frames import Address, Frame
from tools.conformance.model import (
    FAIL,
    INCONCLUSIVE,
    NOT_APPLICABLE,
    PASS,
    Failure,
    Inconclusive,
    NotApplicable,
    Result,
    Test,
)
from tools.conformance.peer import Peer
from tools.conformance.secure import Secure


class Runner:
    """Runs tests against the server at `address`, whose `resources` play the roles; see `Peer` for the rest."""

    def __init__(
        self,
        address: Address,
        resources: dict[str, tuple[str, ...]],
        *,
        patience: float,
        grace: float,
        slow: bool = False,
        record: Optional[Callable[[Frame], None]] = None,
        secure: Optional[Secure] = None,
    ) -> None:
        self._address = address
        self._resources = resources
        self._patience = patience
        self._grace = grace
        self._slow = slow
        self._record = record
        self._secure = secure

    def run(self, tests: Iterable[Test]) -> Iterator[Result]:
        """Run `tests` one after the other; yield what came of each."""
        for test in tests:
            yield self.run_one(test)

    def run_one(self, test: Test) -> Result:
        """Run a test, again if it failed."""
        began = time.monotonic()
        result = self._attempt(test)
        if result.verdict == FAIL:
            again = self._attempt(test)
            if again.verdict != FAIL:
                again = Result(
                    test, INCONCLUSIVE, f"failed once ({result.reason}) and then not: {again.verdict}",
                    frames=[*result.frames, *again.frames],
                )  # fmt: skip
            result = again
        result.seconds = time.monotonic() - began
        return result

    def _attempt(self, test: Test) -> Result:
        peer = Peer(
            self._address,
            self._resources,
            patience=self._patience,
            grace=self._grace,
            slow=self._slow,
            record=self._record,
            secure=self._secure,
        )
        try:
            for role in test.needs:
                peer.path(role)
            test.function(peer)
        except NotApplicable as error:
            return Result(test, NOT_APPLICABLE, str(error), frames=peer.frames)
        except Inconclusive as error:
            return Result(test, INCONCLUSIVE, str(error), frames=peer.frames)
        except Failure as error:
            return Result(test, FAIL, error.rule, error.section, error.frame, peer.frames, broken=error.level)
        finally:
            peer.close()
        return Result(test, PASS, frames=peer.frames)
