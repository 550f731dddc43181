"""Fairness: where many hosts share room, whoever takes the most of it is the first to give some up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional, TypeVar

from minicoap.core.request import Path

K = TypeVar("K")

_PREFIX_GROUPS = 4  # of an IPv6 address: a /64, any address of which a host can take (RFC 4862)


def host_of(path: Path) -> str:
    """Return which host, or whose network, a path leads to: an IPv4 address, or the /64 of an IPv6 one."""
    host = str(path[0]) if path else ""
    if ":" not in host:
        return host
    if "." in host:  # an IPv4 address in IPv6 form
        return host.rpartition(":")[2]
    before, shortened, _ = host.partition("::")
    groups = before.split(":") if before else []
    if shortened:
        groups += ["0"] * (_PREFIX_GROUPS - len(groups))
    return ":".join(groups[:_PREFIX_GROUPS])


def greediest(shares: Sequence[tuple[Path, int, float, K]], host: str, wanted: int) -> Optional[K]:
    """Return the key of the share that is to be given up for `wanted` more for `host`; None if that would be unfair.

    Each share has the path of its holder, its weight, when it was last used, and its key. It is the longest unused one
    of the host that holds the most, if that is more than `host` would hold.
    """
    weights: dict[str, int] = {}
    hosts: dict[str, str] = {}  # of texts, since many shares have the same
    for path, weight, _, _ in shares:
        text = str(path[0]) if path else ""
        holder = hosts.get(text)
        if holder is None:
            holder = hosts[text] = host_of(path)
        weights[holder] = weights.get(holder, 0) + weight
    if not weights:
        return None
    most = max(weights, key=lambda holder: weights[holder])
    if weights[most] <= weights.get(host, 0) + wanted:
        return None
    return min((share for share in shares if host_of(share[0]) == most), key=lambda share: share[2])[3]
