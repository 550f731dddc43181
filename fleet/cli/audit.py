"""`fleet audit`: who did what, when, from where, with what result."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

from fleet.cli import session
from fleet.cli.exitcodes import DONE
from fleet.cli.output import local_time, print_document, table
from fleet.errors import InvalidError
from fleet.model.api import PAGE_LIMIT
from fleet.model.audit import AuditView
from fleet.model.times import iso_from_ms, ms_from_iso
from fleet.operator.client import Fleet

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LIMIT = 50


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = session.parser("fleet audit", "Show who did what, newest first")
    parser.add_argument("--who", metavar="NAME", help="as shown, or the name without the role: alice")
    parser.add_argument("--what", metavar="ACTION", help="as shown, or its first part: job")
    parser.add_argument("--since", type=_since, metavar="TIME", help="30s, 15m, 1h, 7d ago, or an ISO 8601 time")
    parser.add_argument("--result", metavar="RESULT", help="as shown: ok, illegal, 4.03")
    parser.add_argument(
        "--limit", type=_limit, default=_LIMIT, metavar="N", help=f"rows at most, 1 to {PAGE_LIMIT} ({_LIMIT})"
    )
    return session.run(parser.prog, _show, parser.parse_args(arguments))


async def _show(fleet: Fleet, options: argparse.Namespace) -> int:
    answer = await fleet.audit(
        who=options.who, what=options.what, since=options.since, result=options.result, limit=options.limit
    )
    if options.json:
        print_document(answer.payload)
        return DONE
    rows = [_row(entry) for entry in answer.value.entries]
    header = ("TIME", "WHO", "FROM", "WHAT", "SUBJECT", "RESULT", ">COUNT")
    print(table(header, rows) if rows else "nothing is known")
    if answer.value.next is not None:
        print(f"there is more than these {len(rows)}; see --limit and --since", file=sys.stderr)
    for pool, count in answer.value.dropped.items():
        print(f"the oldest {count} rows of {pool} are kept no more", file=sys.stderr)
    return DONE


def _row(entry: AuditView) -> tuple[str, ...]:
    host = f"[{entry.host}]" if ":" in entry.host else entry.host
    subject = entry.subject or f"{entry.method} {entry.path}".strip()
    address = f"{host}:{entry.port}" if host else "-"
    return (local_time(entry.at), entry.who, address, entry.what, subject, entry.result, str(entry.count))


def _since(text: str) -> str:
    amount, unit = text[:-1], text[-1:]
    try:
        if unit in _UNITS and amount.isascii() and amount.isdigit():
            moment = datetime.now(timezone.utc) - timedelta(**{_UNITS[unit]: int(amount)})
            return iso_from_ms(int(moment.timestamp() * 1000))
        return iso_from_ms(ms_from_iso(text))
    except (InvalidError, OverflowError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; give 1h, 7d or 2026-09-17T10:00:00Z") from None


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= PAGE_LIMIT):
        raise argparse.ArgumentTypeError(f"give a number from 1 to {PAGE_LIMIT}")
    return int(text)
