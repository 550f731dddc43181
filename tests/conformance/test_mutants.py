"""A fault put into a copy of our server is found by a conformance test; each of `MUTANTS`, one at a time."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conformance.mutants import MUTANTS, Mutant
from tests.conformance.servers import ROOT, catalogue, reference, roles
from tools.conformance.model import FAIL, Result
from tools.conformance.runner import Runner

AT_ONCE = 4
TAKEN = int(os.environ.get("CONFORMANCE_MUTANTS", len(MUTANTS)))
"""How many are tried: the first so many, where a machine has no time for all."""


def tried(mutant: Mutant, root: Path) -> Result:
    """Put a fault into a copy of the server in `root`; return what comes of the test that has to find it."""
    shutil.copytree(ROOT / "minicoap", root / "minicoap", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "tools").mkdir()
    for name in ("__init__.py", "reference_server.py"):
        shutil.copy(ROOT / "tools" / name, root / "tools" / name)
    file = root / mutant.file
    text = file.read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1, (
        f"{mutant.name}: the text stands {text.count(mutant.old)} times in {mutant.file}"
    )
    file.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    test = next(test for test in catalogue() if test.id == mutant.caught_by)
    with reference(root) as address:
        return Runner(address, roles(address), patience=30.0, grace=0.3).run_one(test)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Future[Result]]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return {
            mutant.name: pool.submit(tried, mutant, tmp_path_factory.mktemp("mutant")) for mutant in MUTANTS[:TAKEN]
        }


@pytest.mark.parametrize("mutant", MUTANTS[:TAKEN], ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_fault_is_found(mutant: Mutant, outcomes: dict[str, Future[Result]]) -> None:
    result = outcomes[mutant.name].result()

    assert result.verdict == FAIL, f"{result.verdict}: {result.reason}"
    assert result.section
    assert result.offender is not None
