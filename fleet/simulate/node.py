"""A node of the simulated fleet: what outlasts its agent's lives, and those lives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Optional, Protocol

from fleet.agent.agent import Agent
from fleet.agent.config import AgentConfig
from fleet.model.executions import DOWNLOADING
from fleet.model.roles import NODE, Principal
from fleet.simulate.device import Device, DeviceProcesses
from fleet.simulate.disk import PowerCut, SimulatedFiles
from fleet.simulate.host import EPOCH, SimulatedBoot, SimulatedClock, SimulatedFacts
from fleet.simulate.invariants import Invariants
from fleet.simulate.security import Speech
from minicoap.core.request import Path
from minicoap.simulate.world import Host, World

RESTART_AFTER = 5.0  # seconds until an agent that could not start is started again
DATA_DIR = "/var/lib/fleet-agent"
JOURNAL = f"{DATA_DIR}/journal"
DOWNLOADS = f"{DATA_DIR}/downloads"


class Observer(Protocol):
    """Is told what happens at a node."""

    def state_entered(self, node: SimulatedNode, state: str) -> None:
        """Its job came to a state, or was found in one after a boot."""

    def job_forgotten(self, node: SimulatedNode, job_id: str, attempt: int, state: str) -> None:
        """It is through with a job that ended in `state`."""


class SimulatedNode:
    """One node. `cuts` counts the deaths by state and what was being done then; `lives` the boots."""

    def __init__(
        self,
        world: World,
        index: int,
        server: Path,
        *,
        invariants: Invariants,
        observer: Observer,
        security: Speech,
        disk_capacity: Optional[int] = None,
    ) -> None:
        self.index = index
        self.node_id = f"node-{index:02d}"
        self.host: Host = world.host((f"10.0.0.{index}", 5683))
        self.disk = SimulatedFiles() if disk_capacity is None else SimulatedFiles(disk_capacity)
        self.device = Device(self.node_id, world.seed, invariants)
        self.agent: Optional[Agent] = None
        self.cuts: Counter[tuple[str, str]] = Counter()
        self.lives = 0
        self.state: Optional[str] = None
        self._world = world
        self._server = security.server_path(server)
        self._security = security
        self._invariants = invariants
        self._observer = observer
        self._boots = 1
        self._processes: Optional[DeviceProcesses] = None
        self._job: Optional[tuple[str, int]] = None
        self._last_state = ""
        self._is_up = False
        self._chance = world.entropy(f"{self.node_id}/fate")

    # Life and death

    def boot(self) -> None:
        """Start the agent as `fleet.agent.main` does, unless it runs."""
        if self._is_up:
            return
        self._is_up = True
        self.lives += 1
        world = self._world
        entropy = world.entropy(f"{self.node_id}/{self.lives}")
        self._processes = DeviceProcesses(self.device, self.disk, entropy, self.call_later, self._invariants)
        # Some nodes have no clock that outlasts a power cut.
        clock = SimulatedClock(world, EPOCH if self.index % 3 else 0.0)
        config = AgentConfig(server="coap://server", node_id=self.node_id, data_dir=DATA_DIR, services=("app",))
        try:
            agent = Agent(
                config,
                self._server,
                clock=clock,
                entropy=entropy,
                files=self.disk,
                facts=SimulatedFacts(self.node_id, entropy),
                processes=self._processes,
                boot=SimulatedBoot(f"boot-{self._boots}"),
            )
            self.agent = agent
            agent.start()
        except PowerCut:
            self.die(power=True, down=RESTART_AFTER)
            return
        except OSError as error:
            world.record(f"{self.node_id} cannot start: {error}".encode())
            self.die(power=False, down=RESTART_AFTER)
            return
        life = _Life(self, agent)
        self.host.boot(self._security.machine(Principal(NODE, self.node_id), self.lives, life))
        self.look()

    def die(self, *, power: bool, down: float) -> None:
        """Kill the process, or with `power` cut the power; boots in `down` seconds."""
        if not self._is_up:
            return
        state = "" if self.agent is None else self.agent.machine.state or ""
        doing = "start" if self.agent is None or self._processes is None else self._processes.verb
        self.cuts[state, doing or ("download" if state == DOWNLOADING else "")] += 1
        self._is_up = False
        self.agent = self._processes = None
        self.state = None
        self.host.crash()
        if power:
            self._boots += 1
            self.disk.power_cut(self._chance)
        self._world.call_later(down, self.boot)

    def switch_off(self) -> None:
        """Stop for good."""
        self._is_up = True  # what would boot it finds it so
        self.agent = self._processes = None
        self.host.crash()

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        """Call back in this life of the node only, and send what that leads to."""
        self._world.call_later(delay, self._call, self.lives, callback)

    def _call(self, life: int, callback: Callable[[], None]) -> None:
        agent = self.agent
        if agent is None or life != self.lives:
            return
        try:
            callback()
        except PowerCut:
            self.die(power=True, down=RESTART_AFTER)
            return
        self.host.wake()
        self.look()

    # What is seen of it

    @property
    def is_at_rest(self) -> bool:
        """Whether it is up and has no job."""
        return self.agent is not None and self.agent.machine.job is None and self._processes_are_idle

    @property
    def _processes_are_idle(self) -> bool:
        return self._processes is not None and not self._processes.verb

    @property
    def leftovers(self) -> list[str]:
        """What a job has left on the disk."""
        left = [f"{DOWNLOADS}/{name}" for name in self.disk.names(DOWNLOADS)]
        return [*left, JOURNAL] if self.disk.size(JOURNAL) else left

    def look(self) -> None:
        """See how far its job is."""
        agent = self.agent
        if agent is None:
            return
        machine = agent.machine
        job = None if machine.job is None else (machine.job.job_id, machine.job.attempt)
        state = machine.state
        if job != self._job or (state != self.state and state is not None):
            self._changed(job, state)

    def _changed(self, job: Optional[tuple[str, int]], state: Optional[str]) -> None:
        self._world.record(f"{self.node_id} {job and job[1]} {state}".encode())
        # A job that was seen and not yet written down may be lost: nothing was done for it.
        if self._job is not None and job != self._job and self.device.has_begun(*self._job):
            self._observer.job_forgotten(self, *self._job, self._last_state)
        self._job = job
        self.state = state
        if state is not None:
            self._last_state = state
            self._observer.state_entered(self, state)


class _Life:
    """An agent as the host's machine: it can die inside any call."""

    __slots__ = ("_agent", "_node", "datagrams_to_send", "next_timeout")

    def __init__(self, node: SimulatedNode, agent: Agent) -> None:
        self._node = node
        self._agent = agent
        self.datagrams_to_send = agent.datagrams_to_send
        self.next_timeout = agent.next_timeout

    def datagram_received(self, data: bytes, path: Path, now: float) -> None:
        """See DatagramMachine."""
        try:
            self._agent.datagram_received(data, path, now)
        except PowerCut:
            self._node.die(power=True, down=RESTART_AFTER)
            return
        self._node.look()

    def handle_timeout(self, now: float) -> None:
        """See DatagramMachine."""
        try:
            self._agent.handle_timeout(now)
        except PowerCut:
            self._node.die(power=True, down=RESTART_AFTER)
            return
        self._node.look()

    def path_failed(self, path: Path, error: OSError, now: float) -> None:
        """See DatagramMachine."""
        try:
            self._agent.path_failed(path, error, now)
        except PowerCut:
            self._node.die(power=True, down=RESTART_AFTER)
            return
        self._node.look()
