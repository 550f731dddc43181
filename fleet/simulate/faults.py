"""What goes wrong in a world, planned from its seed: on the network, with nodes, disks and the server.

Cuts at random moments rarely meet a state that lasts a second, so most are ambushes: they wait for some node to enter
a state and strike soon after. Each row of the agent's table has its turn.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import NamedTuple, Optional, TypeVar

from fleet.agent import steps
from fleet.model import executions
from minicoap.core.entropy import Entropy
from minicoap.simulate.entropy import SeededEntropy

Item = TypeVar("Item")

# States that few jobs come to, or that are over soon: ambushed more often.
RARE = (
    executions.CANCELLING,
    executions.CANCELLED,
    executions.ALREADY_INSTALLED,
    executions.FAILED,
    executions.ROLLED_BACK,
    executions.ROLLBACK_FAILED,
)


class Cut(NamedTuple):
    """A node dies at `at` and boots `down` seconds later; `power`: its disk loses what was not synced."""

    node: int
    at: float
    power: bool
    down: float


class Ambush(NamedTuple):
    """The `entry`-th node to enter `state`, or a later one, dies `after` seconds; up to `times` times if it is back."""

    state: str
    entry: int
    after: float
    times: int
    power: bool
    down: float


class DiskFault(NamedTuple):
    """A node's disk: the power is cut at `points` (see `SimulatedFiles.cut_after`), a `call` fails with `error`."""

    node: int
    points: tuple[int, ...] = ()
    call: int = 0
    error: int = errno.EIO


class ServerCut(NamedTuple):
    """The server dies at `at`, or right after the `commit`-th commit, and starts `down` seconds later."""

    at: float
    commit: int
    power: bool
    down: float


class StoreFull(NamedTuple):
    """The store takes no writes from `at` on, for so many `seconds`."""

    at: float
    seconds: float


class Rebinding(NamedTuple):
    """A router forgets a node at `at`: it goes on from another port."""

    node: int
    at: float


class Plan(NamedTuple):
    """All that goes wrong until `heal_at`, when the network is whole again and what is down boots. Times in seconds.

    `small_disks` are nodes and the capacity in bytes of their disks; `server_point` is where the server's disk cuts the
    power, `server_call` its call that fails; at `restart_at` the operator has the server restart (0 for never).
    """

    loss: float = 0.0
    duplicate: float = 0.0
    delay: float = 0.02
    jitter: float = 0.0
    push: bool = True
    heal_at: float = 0.0
    cuts: tuple[Cut, ...] = ()
    ambushes: tuple[Ambush, ...] = ()
    disk_faults: tuple[DiskFault, ...] = ()
    server_cuts: tuple[ServerCut, ...] = ()
    server_point: int = 0
    server_call: int = 0
    restart_at: float = 0.0
    store_full: Optional[StoreFull] = None
    rebindings: tuple[Rebinding, ...] = ()
    small_disks: tuple[tuple[int, int], ...] = ()


def make_plan(seed: int, nodes: int) -> Plan:
    """Plan the faults of a world with so many nodes."""
    chance = SeededEntropy(seed, "faults")
    push = chance.integer(2) > 0
    # Without push a node learns of a job from its next report, so that everything takes longer.
    heal_at = chance.uniform(300, 600) if push else chance.uniform(2700, 3600)

    def node() -> int:
        return int(chance.uniform(0, nodes))

    def at() -> float:
        return chance.uniform(1, heal_at)

    def power() -> bool:
        return chance.integer(2) > 0

    def down() -> float:
        return chance.uniform(1, 20) if chance.integer(2) else chance.uniform(20, 150)

    def points() -> tuple[int, ...]:
        return (1 + chance.integer(7), 1 + chance.integer(4), 1 + chance.integer(5))

    return Plan(
        loss=0.2,
        duplicate=0.05,
        delay=0.02,
        jitter=chance.uniform(0.05, 1.0),
        push=push,
        heal_at=heal_at,
        cuts=tuple(Cut(node(), at(), power(), down()) for _ in range(max(1, nodes // 8))),
        ambushes=tuple(_ambush(chance, power(), down()) for _ in range(max(2, nodes // 3))),
        disk_faults=(
            *(DiskFault(node(), points=points()) for _ in range(max(2, nodes // 6))),
            *(DiskFault(node(), call=1 + chance.integer(7)) for _ in range(max(1, nodes // 25))),
            *(DiskFault(node(), call=1 + chance.integer(7), error=errno.ENOSPC) for _ in range(max(1, nodes // 25))),
        ),
        server_cuts=(
            # Half of the deaths are early, while jobs begin.
            ServerCut(chance.uniform(10, 150) if chance.integer(1) else at(), 0, power(), down()),
            *(ServerCut(0.0, 1 + chance.integer(10), power(), down()) for _ in range(chance.integer(1))),
        ),
        server_point=0 if chance.integer(1) else 1 + chance.integer(6),
        server_call=0 if chance.integer(1) else 1 + chance.integer(5),
        restart_at=0.0 if chance.integer(1) else at(),
        store_full=None if chance.integer(1) else StoreFull(chance.uniform(1, 200), chance.uniform(1, 60)),
        rebindings=tuple(Rebinding(node(), at()) for _ in range(max(1, nodes // 10))),
        small_disks=tuple((node(), int(chance.uniform(66_000, 75_000))) for _ in range(max(1, nodes // 25))),
    )


def _ambush(chance: Entropy, power: bool, down: float) -> Ambush:
    states = [row.state for row in steps.TABLE]
    state = pick(chance, (*states, *RARE))
    entry = 1 + chance.integer(1 if state in RARE else 4)
    times = 1 if chance.integer(2) else 1 + chance.integer(2)
    return Ambush(state, entry, chance.uniform(0, 1.5), times, power, down)


def pick(chance: Entropy, items: Sequence[Item]) -> Item:
    """One of the items."""
    return items[int(chance.uniform(0, len(items)))]
