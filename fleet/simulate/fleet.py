"""A server and its agents in one world: faults rain, then cease, and everything has to come to its end."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Optional

from fleet.model import executions
from fleet.simulate.faults import Ambush, Plan, Rebinding, make_plan, pick
from fleet.simulate.invariants import InvariantError, Invariants, require
from fleet.simulate.node import SimulatedNode
from fleet.simulate.operator import JobPlan, SimulatedOperator, make_wheel
from fleet.simulate.rest import check_idle_memory, check_rest
from fleet.simulate.security import Plain, Security
from fleet.simulate.server import SimulatedServer
from minicoap.core.entropy import Entropy
from minicoap.simulate.link import Link
from minicoap.simulate.world import World

GRACE = 12 * 3600.0  # seconds after healing in which everything has to end; half of what a silent node is given
LARGE = 290 * 1024  # bytes of the artifact that is synced in between
AMBUSH_AGAIN = 0.3  # seconds after it boots in its old state, at which a node dies again


class Figures(NamedTuple):
    """What a run was. Times in seconds; `cuts` are deaths of nodes by state and what was being done then."""

    seed: int
    digest: int
    virtual_seconds: float
    events: int
    lives: int
    server_lives: int
    cuts: Counter[tuple[str, str]]
    ends: Counter[str]

    @property
    def cuts_by_state(self) -> Counter[str]:
        """The deaths by row of the agent's table, with "" for a node without a job."""
        found: Counter[str] = Counter()
        for (state, _doing), number in self.cuts.items():
            found[state] += number
        return found


class SimulatedFleet:
    """A world from `seed`, with so many `nodes`; `plan` and `jobs`, where given, replace what the seed says.

    With `secure` all of them speak through pretended DTLS (`minicoap.simulate.dtls`), known by their certificates, and
    the server keeps fewer sessions than there are nodes. `run` raises InvariantError for a rule that was broken, and
    what the server or an agent raised.
    """

    def __init__(
        self,
        seed: int,
        nodes: int = 50,
        *,
        plan: Optional[Plan] = None,
        jobs: Optional[Sequence[JobPlan]] = None,
        secure: bool = False,
    ) -> None:
        self.seed = seed
        self.plan = plan = make_plan(seed, nodes) if plan is None else plan
        link = Link(loss=plan.loss, duplicate=plan.duplicate, delay=plan.delay, jitter=plan.jitter)
        self.world = World(seed, link=link)
        self.invariants = Invariants()
        security = self._security = Security(self.world, nodes) if secure else Plain()
        self.server = SimulatedServer(self.world, self.invariants, push=plan.push, security=security)
        capacities = dict(plan.small_disks)
        self.nodes = [
            SimulatedNode(
                self.world,
                index,
                self.server.host.address,
                invariants=self.invariants,
                observer=self,
                disk_capacity=capacities.get(index),
                security=security,
            )
            for index in range(nodes)
        ]
        self.operator = SimulatedOperator(self.world, self.server, self.invariants, nodes, security=security)
        self._chance = self.world.entropy("fleet")
        self.jobs = make_jobs(self._chance, self.nodes) if jobs is None else jobs
        self._ambushes = list(plan.ambushes)
        self._entries: Counter[str] = Counter()
        self._followed: dict[int, tuple[Ambush, int]] = {}  # nodes that die again: how, and how often still
        self._is_healed = False

    def run(self) -> Figures:
        """Run to the end and check all there is to check."""
        with errors_raised():
            self._begin()
            self.world.run_until(self.plan.heal_at)
            self._heal()
            require(
                self.world.run_until(self._is_at_rest, GRACE), "no end in {} s: {}", GRACE, self._what_is_under_way()
            )
            self.operator.check_acknowledged()
            check_rest(self.server, self.nodes, self.invariants)
            check_idle_memory(self.world, self.server, self.nodes)
            self._security.check()
        return self._figures()

    # Faults

    def _begin(self) -> None:
        world, plan = self.world, self.plan
        self.server.on_start = self.operator.check_acknowledged
        self.server.boot()
        for node in self.nodes:
            late = self._chance.integer(3) == 0
            world.call_at(self._chance.uniform(0, 60 if late else 5), node.boot)
        self.operator.start(self.operator.gather())
        for job in self.jobs:
            self.operator.start(self.operator.job(job))
        for cut in plan.cuts:
            world.call_at(cut.at, self._cut, self.nodes[cut.node], cut.power, cut.down)
        for fault in plan.disk_faults:
            disk = self.nodes[fault.node].disk
            disk.cut_after(*fault.points)
            disk.fail_at, disk.fail_errno = fault.call, fault.error
        for death in plan.server_cuts:
            if death.commit:
                self.server.die_after_commit(death.commit, power=death.power, down=death.down)
            else:
                world.call_at(death.at, self._cut_server, death.power, death.down)
        if plan.server_point:
            self.server.disk.cut_after(plan.server_point)
        self.server.disk.fail_at = plan.server_call
        if plan.restart_at:
            self.operator.start(self.operator.restart_server(plan.restart_at))
        if plan.store_full is not None:
            world.call_at(plan.store_full.at, self._limit_store, 0)
            world.call_at(plan.store_full.at + plan.store_full.seconds, self._limit_store, None)
        for rebinding in plan.rebindings:
            world.call_at(rebinding.at, self._rebind, rebinding)

    def _heal(self) -> None:
        """End the faults: the network is whole, no disk fails, nobody lies in ambush."""
        self._is_healed = True
        self.world.heal()
        self._ambushes.clear()
        self._followed.clear()
        self.server.store.deaths.clear()
        self.server.store.writes_left = None
        for disk in (self.server.disk, *(node.disk for node in self.nodes)):
            disk.cut_after()
            disk.fail_at = 0
            disk.capacity = 1 << 30
        if self.plan.server_call:
            self.server.die(power=False, down=1.0)  # what a broken disk did not let go of goes at the next start
        self.server.boot()
        for node in self.nodes:
            node.boot()

    def _cut(self, node: SimulatedNode, power: bool, down: float) -> None:
        if not self._is_healed:
            node.die(power=power, down=down)

    def _cut_server(self, power: bool, down: float) -> None:
        if not self._is_healed:
            self.server.die(power=power, down=down)

    def _limit_store(self, writes: Optional[int]) -> None:
        self.server.store.writes_left = None if self._is_healed else writes

    def _rebind(self, rebinding: Rebinding) -> None:
        host = self.nodes[rebinding.node].host
        host.rebind((host.address[0], host.address[1] + 1))

    # What nodes do

    def state_entered(self, node: SimulatedNode, state: str) -> None:
        """Lie in ambush for nodes that enter a state."""
        followed = self._followed.get(node.index)
        if followed is not None:
            ambush, left = followed
            if ambush.state == state and left:
                self._followed[node.index] = (ambush, left - 1)
                node.call_later(AMBUSH_AGAIN, lambda: self._strike(node, ambush))
            return
        self._entries[state] += 1
        for ambush in self._ambushes:
            if ambush.state == state and self._entries[state] >= ambush.entry:
                node.call_later(ambush.after, lambda ambush=ambush: self._strike(node, ambush))  # type: ignore[misc]
                return

    def _strike(self, node: SimulatedNode, ambush: Ambush) -> None:
        if node.state != ambush.state or self._is_healed:
            return  # too late; the next one, then
        if ambush in self._ambushes:
            self._ambushes.remove(ambush)
            self._followed[node.index] = (ambush, ambush.times - 1)
        node.die(power=ambush.power, down=ambush.down)

    def job_forgotten(self, node: SimulatedNode, job_id: str, attempt: int, state: str) -> None:
        """A node forgets a job only when the server knows its end."""
        row = self.server.store.tables.executions.get(job_id, {}).get(node.node_id)
        if row is None or row.attempt != attempt:
            return
        where = (node.node_id, job_id, attempt)
        require(row.state in executions.ENDS, "{} was forgotten while the server has it {}", where, row.state)
        require(row.state == state, "{} ended {}, but the server has it {}", where, state, row.state)

    # The end

    def _is_at_rest(self) -> bool:
        if self.server.server is None or not self.operator.is_done:
            return False
        return all(node.is_at_rest for node in self.nodes)

    def _what_is_under_way(self) -> str:
        busy = [f"{node.node_id} {node.state}" for node in self.nodes if not node.is_at_rest]
        counts = self.server.store.tables.counts
        return f"nodes {busy}, executions {counts}, operator done: {self.operator.is_done}"

    def _figures(self) -> Figures:
        cuts: Counter[tuple[str, str]] = Counter()
        for node in self.nodes:
            cuts.update(node.cuts)
        tables = self.server.store.tables
        ends = Counter(row.state for rows in tables.executions.values() for row in rows.values())
        return Figures(
            seed=self.seed,
            digest=self.world.digest,
            virtual_seconds=self.world.now,
            events=self.world.events,
            lives=sum(node.lives for node in self.nodes),
            server_lives=self.server.lives,
            cuts=cuts,
            ends=ends,
        )


def make_jobs(chance: Entropy, nodes: Sequence[SimulatedNode]) -> list[JobPlan]:
    """Jobs for a world: files for all, a wheel for many, a requirement for some, now and then a long file for one."""
    everywhere = [node.node_id for node in nodes]

    def some(share: float) -> tuple[str, ...]:
        chosen = tuple(node_id for node_id in everywhere if chance.uniform(0, 1) < share)
        return chosen or (pick(chance, everywhere),)

    def steered(plan: JobPlan) -> JobPlan:
        after = chance.uniform(1, 20)
        if chance.integer(2) == 0:
            plan = plan._replace(pause_after=after, resume_after=chance.uniform(1, 200))
        if chance.integer(1) == 0:
            plan = plan._replace(cancel_after=chance.uniform(2, 45))
        return plan._replace(retries=int(chance.uniform(0, 3)), delete=chance.integer(3) == 0)

    files = tuple((f"file-{number}", _bytes(chance, 300, 6000)) for number in range(1 + chance.integer(1)))
    planned = [
        JobPlan("configuration", "1", "file", files, at=chance.uniform(5, 30)),
        JobPlan("demo", "1.2", "pip", (make_wheel("demo", "1.2"),), targets=some(0.7), at=chance.uniform(20, 150)),
        JobPlan("other", "2.0", "pip", (), ("other==2.0",), targets=some(0.4), at=chance.uniform(20, 250)),
    ]
    if chance.integer(2) == 0:
        large = (("image", _bytes(chance, LARGE, LARGE + 2000)),)
        planned.append(JobPlan("image", "7", "file", large, targets=(pick(chance, everywhere),), at=10.0))
    # Some nodes have it already, others have what it replaces.
    for node in nodes:
        kind = chance.integer(3)
        if kind < 2:
            node.device.contents["pip:demo"] = "1.2" if kind else "1.1"
    return [steered(plan) for plan in planned]


def _bytes(chance: Entropy, shortest: int, longest: int) -> bytes:
    return chance.token(int(chance.uniform(shortest, longest)))


class _Raiser(logging.Handler):
    """Raises what others log and survive."""

    def emit(self, record: logging.LogRecord) -> None:
        """Raise the exception of a record that has one."""
        if record.exc_info is not None and record.exc_info[1] is not None:
            raise InvariantError(record.getMessage()) from record.exc_info[1]


@contextmanager
def errors_raised() -> Iterator[None]:
    """Have an exception that the endpoint logs and answers with 5.00 end the run; less than errors is not logged."""
    handler = _Raiser(logging.ERROR)
    loggers = [logging.getLogger(name) for name in ("fleet", "minicoap")]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.ERROR)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
