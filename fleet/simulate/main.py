"""Runs worlds from the command line: `python -m fleet.simulate.main [SEED | FIRST-LAST ...]`, see `tools/simulate`."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from typing import Optional, Sequence

import msgspec

from fleet.agent import steps
from fleet.simulate.fleet import Figures, SimulatedFleet
from fleet.simulate.invariants import InvariantError

HOUR = 3600.0  # seconds


class Result(msgspec.Struct, frozen=True):
    """What became of a seed, as a line of JSON: the broken rule in `error`, or figures of the run."""

    seed: int
    error: Optional[str] = None
    digest: str = ""
    lives: int = 0
    server_lives: int = 0
    virtual_seconds: float = 0.0
    events: int = 0
    cuts: dict[str, int] = {}  # by row of the agent's table, "" without a job
    ends: dict[str, int] = {}


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the seeds that the arguments name; the exit code is 1 if a rule was broken in any."""
    about = "Run simulated fleets: a server and its nodes, under faults that a seed decides."
    parser = argparse.ArgumentParser(prog="tools/simulate", description=about)
    parser.add_argument("seeds", nargs="*", default=["0-9"], metavar="SEED", help="a seed, or FIRST-LAST (0-9)")
    parser.add_argument("--nodes", type=int, default=50, metavar="N", help="nodes of each fleet (50)")
    parser.add_argument("--secure", action="store_true", help="everybody speaks through pretended DTLS")
    parser.add_argument("--json", action="store_true", help="one line of JSON a seed")
    chosen = parser.parse_args(arguments)
    try:
        seeds = [seed for text in chosen.seeds for seed in _seeds(text)]
    except ValueError as error:
        parser.error(f"seeds are numbers, or two with a dash between: {error}")
    began = time.perf_counter()
    results = []
    for seed in seeds:
        started = time.perf_counter()
        result = run(seed, chosen.nodes, secure=chosen.secure)
        results.append(result)
        print(_line(result, time.perf_counter() - started) if not chosen.json else _json(result), flush=True)
    if not chosen.json:
        _print_table(results, chosen.nodes, time.perf_counter() - began)
    return int(any(result.error is not None for result in results))


def run(seed: int, nodes: int, *, secure: bool = False) -> Result:
    """Run one world."""
    fleet = SimulatedFleet(seed, nodes, secure=secure)
    try:
        figures = fleet.run()
    except InvariantError as error:
        return Result(seed, f"after {fleet.world.now:.1f} s: {error}")
    return _result(figures)


def _result(figures: Figures) -> Result:
    return Result(
        seed=figures.seed,
        digest=f"{figures.digest:08x}",
        lives=figures.lives,
        server_lives=figures.server_lives,
        virtual_seconds=figures.virtual_seconds,
        events=figures.events,
        cuts=dict(figures.cuts_by_state),
        ends=dict(figures.ends),
    )


def _seeds(text: str) -> range:
    first, dash, last = text.partition("-")
    return range(int(first), int(last if dash else first) + 1)


def _json(result: Result) -> str:
    return msgspec.json.encode(result).decode()


def _line(result: Result, seconds: float) -> str:
    if result.error is not None:
        return f"seed {result.seed:<5} FAILED {result.error}"
    return (
        f"seed {result.seed:<5} digest {result.digest}  {result.lives:3} lives of nodes, {result.server_lives} of the "
        f"server, {result.virtual_seconds:7,.0f} s virtual in {seconds:.2f} s, {result.events:6,} events"
    )


def _print_table(results: Sequence[Result], nodes: int, seconds: float) -> None:
    cuts: Counter[str] = Counter()
    for result in results:
        cuts.update(result.cuts)
    print("\ncuts by row of the agent's table:")
    for state, name in [(row.state, row.state) for row in steps.TABLE] + [("", "(no job)")]:
        print(f"  {name:18} {cuts[state]:6}")
    hours = nodes * sum(result.virtual_seconds for result in results) / HOUR
    print(f"\n{hours:,.0f} virtual node-hours in {seconds:.1f} s: {hours / seconds:,.0f} a second")


if __name__ == "__main__":
    sys.exit(main())
