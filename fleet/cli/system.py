"""`fleet system`: the server itself."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from fleet.cli import session
from fleet.cli.exitcodes import DONE
from fleet.cli.output import outline
from fleet.operator.client import Fleet


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    group = session.Group("system", "Show, restart or shut down the server", default="status")
    group.action("status", _status, "Show its versions, uptime, memory, load and database")
    for name, purpose in (
        ("restart", "Have it finish what it does and start anew"),
        ("shutdown", "Have it finish what it does and end"),
    ):
        group.action(name, _act, purpose).set_defaults(action=name)
    return group.run(arguments)


async def _status(fleet: Fleet, options: argparse.Namespace) -> int:
    answer = await fleet.system()
    session.show_answer(options, answer, outline(answer.value))
    return DONE


async def _act(fleet: Fleet, options: argparse.Namespace) -> int:
    answer = await fleet.system_action(options.action)
    session.show_answer(options, answer, outline(answer.value))
    return DONE
