"""`fleet nodes`: who is in the fleet, and how they are."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime, timezone

from fleet.cli import session
from fleet.cli.exitcodes import DONE
from fleet.cli.metrics import metrics_table
from fleet.cli.output import age, outline, print_document, printable, table
from fleet.cli.watch import watch_node
from fleet.model.api_answers import NodeView
from fleet.model.enrolment import ACCEPT, REJECT
from fleet.model.formats import JSON, decode
from fleet.operator.client import Document, Fleet


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    group = session.Group("nodes", "List, show and remove nodes, let devices in", default="list")
    listing = group.action("list", _list, "List all nodes")
    listing.add_argument("--status", help="only those that are online, offline or unhealthy")
    listing.add_argument("--group", metavar="G", help="only those of this group")
    listing.add_argument("--search", metavar="TEXT", help="only those with this in their id or hostname")
    listing.add_argument("--pending", action="store_true", help="the devices that wait to be accepted instead")
    show = group.action("show", _show, "Show one node and its last health report")
    show.add_argument("node_id", metavar="ID")
    show.add_argument("--watch", action="store_true", help="print each health report as it comes, until interrupted")
    metrics = group.action("metrics", _metrics, "Show what a node measured")
    metrics.add_argument("node_id", metavar="ID")
    metrics.add_argument(
        "--hours", type=_hours, default=24, metavar="N", help="how far back, 1 to 720 (24); by the hour beyond 48"
    )
    remove = group.action("remove", _remove, "Forget nodes; one that still runs will register anew")
    remove.add_argument("node_ids", metavar="ID", nargs="+")
    accept = group.action("accept", _decide, "Let a device that waits have its certificate; compare the key first")
    accept.add_argument("--replace", action="store_true", help="it takes the place of the node that has this id")
    reject = group.action("reject", _decide, "Turn a device that waits away")
    for action, name in ((accept, ACCEPT), (reject, REJECT)):
        action.add_argument("node_id", metavar="ID")
        action.add_argument("--key", metavar="HEX", help="the fingerprint of its key, or how that begins")
        action.set_defaults(action=name)
    return group.run(arguments)


async def _list(fleet: Fleet, options: argparse.Namespace) -> int:
    if options.pending:
        return await _pending(fleet, options)
    pages = await session.all_pages(fleet.nodes(options.status, options.group, options.search), options, "nodes")
    if pages is not None:
        now = datetime.now(timezone.utc)
        rows = [_row(node, now) for page in pages for node in page.nodes]
        print(table(("NODE", "STATUS", "LAST SEEN", "ADDRESS", "HOSTNAME", "HEALTH"), rows) if rows else "no nodes")
    return DONE


async def _show(fleet: Fleet, options: argparse.Namespace) -> int:
    if options.watch:
        return await watch_node(fleet, options.node_id, as_json=options.json)
    answer = await fleet.node(options.node_id)
    session.show_answer(options, answer, outline(decode(answer.payload, JSON, Document)))
    return DONE


async def _metrics(fleet: Fleet, options: argparse.Namespace) -> int:
    answer = await fleet.metrics(options.node_id, options.hours)
    text = metrics_table(answer.value, options.node_id, options.hours, sys.stdout.encoding)
    session.show_answer(options, answer, text)
    return DONE


async def _pending(fleet: Fleet, options: argparse.Namespace) -> int:
    answer = await fleet.enrolments()
    now = datetime.now(timezone.utc)
    rows = [
        (waiting.node_id, waiting.address, age(waiting.asked_at, now), "yes" if waiting.replaces else "", waiting.key)
        for waiting in answer.value.enrolments
    ]
    header = ("NODE", "ADDRESS", "ASKED", "REPLACES", "KEY")
    session.show_answer(options, answer, table(header, rows) if rows else "nobody waits")
    return DONE


async def _decide(fleet: Fleet, options: argparse.Namespace) -> int:
    replace = getattr(options, "replace", False)
    answer = await fleet.decide(options.action, options.node_id, key=options.key, replace=replace)
    session.show_answer(options, answer, f"{printable(options.node_id)}  {printable(answer.value.status)}")
    return DONE


async def _remove(fleet: Fleet, options: argparse.Namespace) -> int:
    for node_id in options.node_ids:
        answer = await fleet.remove_node(node_id)
        if options.json:
            print_document(answer.payload)
    return DONE


def _hours(text: str) -> int:
    hours = int(text)
    if not 1 <= hours <= 720:
        raise argparse.ArgumentTypeError(f"{hours} is not from 1 to 720")
    return hours


def _row(node: NodeView, now: datetime) -> tuple[str, ...]:
    return node.node_id, node.status, age(node.last_seen, now), node.address, node.hostname, _health(node)


def _health(node: NodeView) -> str:
    report = node.health
    if report is None:
        return "no report yet"
    if report.get("overall_healthy", True):
        return "healthy"
    messages = report.get("error_messages")
    return "; ".join(map(str, messages)) if isinstance(messages, list) and messages else "unhealthy"
