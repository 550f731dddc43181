"""Compares what the benchmarks of a group measured: one line a group, as multiples of the first one's best time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

RESULTS = pytest.StashKey[dict[str, dict[str, float]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS] = {}


@pytest.fixture
def compare(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Time `function` as `who`, to be set beside the others of `group`.

    The best round counts: on a machine that has other things to do everything else is noise, and only upwards.
    """

    def run(group: str, who: str, function: Callable[[], object]) -> None:
        benchmark.group = group
        benchmark(function)
        if benchmark.stats is not None:
            request.config.stash[RESULTS].setdefault(group, {})[who] = benchmark.stats.stats.min

    return run


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    results = config.stash[RESULTS]
    if not results:
        return
    width = max(map(len, results))
    terminalreporter.section("best times, in multiples of the first")
    for group, times in results.items():
        (first, best), *others = times.items()
        ratios = "".join(f"   {who} {time / best:6.1f}" for who, time in others)
        terminalreporter.write_line(f"{group:{width}}   {first} {best * 1e6:7.2f} µs{ratios}")
