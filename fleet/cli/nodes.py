"""`fleet nodes`: who is in the fleet, and how they are."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime, timezone

from fleet.cli import session
from fleet.cli.exitcodes import DONE
from fleet.cli.output import age, outline, print_document, table
from fleet.cli.watch import watch_node
from fleet.model.api import NodeView
from fleet.model.formats import JSON, decode
from fleet.operator.client import Document, Fleet


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    group = session.Group("nodes", "List, show and remove nodes", default="list")
    listing = group.action("list", _list, "List all nodes")
    listing.add_argument("--status", help="only those that are online, offline or unhealthy")
    show = group.action("show", _show, "Show one node and its last health report")
    show.add_argument("node_id", metavar="ID")
    show.add_argument("--watch", action="store_true", help="print each health report as it comes, until interrupted")
    remove = group.action("remove", _remove, "Forget nodes; one that still runs will register anew")
    remove.add_argument("node_ids", metavar="ID", nargs="+")
    return group.run(arguments)


async def _list(fleet: Fleet, options: argparse.Namespace) -> int:
    pages = await session.all_pages(fleet.nodes(options.status), options, "nodes")
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


async def _remove(fleet: Fleet, options: argparse.Namespace) -> int:
    for node_id in options.node_ids:
        answer = await fleet.remove_node(node_id)
        if options.json:
            print_document(answer.payload)
    return DONE


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
