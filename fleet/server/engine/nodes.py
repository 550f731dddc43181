"""Nodes: registration and removal."""

from msgspec.structs import replace

from fleet.model import executions
from fleet.model.nodes import Node
from fleet.server import changes
from fleet.server.commands import NOT_FOUND, Outcome, RegisterNode, RemoveNode
from fleet.server.store.interface import Tx

from .jobs import finish_if_done
from .moves import move


def register(tx: Tx, command: RegisterNode) -> Outcome:
    """Take a node in, or what it says of itself now."""
    node_id = command.registration.node_id
    known = tx.node(node_id)
    node = Node(
        node_id=node_id,
        registration=replace(command.registration, request_id=None),
        host=command.host,
        port=command.port,
        created_at=command.at if known is None else known.created_at,
        registered_at=command.at,
    )
    tx.put_node(node)
    tx.emit(command.at, changes.NODE, changes.REGISTERED, node_id=node_id)
    return Outcome(created=known is None, node_id=node_id)


def remove(tx: Tx, command: RemoveNode) -> Outcome:
    """Forget a node; its open executions end, since nobody would ever report on them."""
    if tx.node(command.node_id) is None:
        return Outcome(NOT_FOUND, f"no node {command.node_id!r} is registered")
    tx.remove_node(command.node_id)
    for execution in tx.node_executions(command.node_id):
        end = executions.CANCELLED if execution.state in executions.NOT_BEGUN else executions.TIMED_OUT
        move(tx, execution, end, command.at, reason="node_removed")
        finish_if_done(tx, execution.job_id, command.at)
    tx.emit(command.at, changes.NODE, changes.REMOVED, node_id=command.node_id)
    return Outcome(node_id=command.node_id)
