"""Nodes: what one says of itself when it registers, and the row that the server keeps of it."""

import re
from typing import Any, Optional

import msgspec

from fleet.errors import InvalidError

_NODE_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}\Z")


def check_node_id(node_id: str, field: str = "$.node_id") -> str:
    """Return `node_id` if it follows the rule for node ids; otherwise raise InvalidError naming `field`.

    The rule keeps an id usable as one path segment, one file name and one argument of a command.
    """
    if not _NODE_ID.match(node_id):
        raise InvalidError(
            f"{node_id[:80]!r} is no node id: use 1 to 64 letters, digits, '.', '_' or '-', not beginning with '.'",
            field,
        )
    return node_id


class Registration(msgspec.Struct, frozen=True):
    """`POST /nodes`. Only `node_id` is required; `status`, `last_seen` and `ip_address` are the node's own opinion."""

    node_id: str
    hostname: str = ""
    ip_address: str = ""
    status: str = ""
    last_seen: Optional[str] = None
    groups: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    drivers: tuple[str, ...] = ()
    system_info: dict[str, Any] = {}
    request_id: Optional[str] = None


class Node(msgspec.Struct, frozen=True):
    """A node's row: its last registration, and the address (`host`, `port`) that it came from. Times are UTC ms."""

    node_id: str
    registration: Registration
    host: str
    port: int
    created_at: int
    registered_at: int

    @property
    def search(self) -> str:
        """What a text is looked for in: its id and its hostname, in lower case."""
        return f"{self.node_id}\n{self.registration.hostname}".lower()
