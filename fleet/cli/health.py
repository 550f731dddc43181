"""`fleet health`: the fleet on a page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from fleet.cli import session
from fleet.cli.exitcodes import DONE
from fleet.cli.output import outline
from fleet.operator.client import Fleet


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = session.parser("fleet health", "Show the fleet on a page")
    return session.run(parser.prog, _show, parser.parse_args(arguments))


async def _show(fleet: Fleet, options: argparse.Namespace) -> int:
    answer = await fleet.health()
    session.show_answer(options, answer, outline(answer.value))
    return DONE
