"""Targets: which nodes a job is for. Today the word `all`, or node ids one by one."""

from typing import Sequence

from fleet.errors import InvalidError

from .nodes import check_node_id

ALL = "all"
LIMIT = 100_000


def is_all(target_nodes: Sequence[str]) -> bool:
    """Whether the targets are every node that is registered when the job is prepared."""
    return tuple(target_nodes) == (ALL,)


def check_targets(target_nodes: Sequence[str], field: str = "$.target_nodes") -> None:
    """Raise InvalidError, naming the entry of `field`, unless the targets can be resolved."""
    if not target_nodes:
        raise InvalidError('no node is named; write ["all"] or the ids of nodes', field)
    if len(target_nodes) > LIMIT:
        raise InvalidError(f'more than {LIMIT} nodes are named; write ["all"], or divide the job', field)
    if is_all(target_nodes):
        return
    seen: dict[str, int] = {}
    for index, node_id in enumerate(target_nodes):
        entry = f"{field}[{index}]"
        if node_id == ALL:
            raise InvalidError('"all" stands alone; leave the other entries away', entry)
        check_node_id(node_id, entry)
        if node_id in seen:
            raise InvalidError(f"{node_id!r} is named twice; the first is {field}[{seen[node_id]}]", entry)
        seen[node_id] = index
