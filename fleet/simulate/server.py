"""The server of the simulated fleet: its disk and its store, which outlast its lives, and those lives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Optional

from fleet.model.roles import SERVER, Principal
from fleet.server.changes import Change
from fleet.server.commands import Command, Outcome
from fleet.server.config import ServerConfig
from fleet.server.server import Server
from fleet.server.store.memory import MemoryLedger
from fleet.simulate.disk import PowerCut, SimulatedFiles
from fleet.simulate.host import SimulatedClock, SimulatedFacts
from fleet.simulate.invariants import CheckedStore, Invariants
from fleet.simulate.security import Speech
from minicoap.core.request import Path
from minicoap.simulate.world import Host, World

COMMIT = (0.002, 0.02)  # seconds that a commit takes, from and to
LINGER = 0.2  # seconds in which the last answers leave before a restart that was asked for
START = 1.0  # seconds that one takes
HEALTH_INTERVAL = 450.0  # seconds between reports: in between a node is idle for long enough to forget everything
DATA_DIR = "/var/lib/fleet-server"


class _Store(CheckedStore):
    """The store; the server dies right after the commits whose numbers are in `deaths`."""

    def __init__(self, invariants: Invariants) -> None:
        super().__init__(invariants)
        self.deaths: dict[int, Callable[[], None]] = {}
        self.commits = 0

    def commit(self, commands: Sequence[Command]) -> tuple[list[Outcome], list[Change]]:
        """See MemoryStore."""
        result = super().commit(commands)
        self.commits += 1
        death = self.deaths.pop(self.commits, None)
        if death is not None:
            death()
            raise PowerCut  # what was committed is told nobody
        return result


class SimulatedServer:
    """The server; `lives` counts its starts, `on_start` is called at each."""

    def __init__(self, world: World, invariants: Invariants, *, push: bool, security: Speech) -> None:
        self.host: Host = world.host(("server", 5683))
        self.disk = SimulatedFiles()
        self.store = _Store(invariants)
        self.server: Optional[Server] = None
        self.lives = 0
        self.on_start: Callable[[], None] = lambda: None
        self._world = world
        self._security = security
        self._config = ServerConfig(
            host="server", data_dir=DATA_DIR, push=push, health_interval=HEALTH_INTERVAL, insecure=True
        )
        self._ledger: Optional[MemoryLedger] = None
        self._is_up = False
        self._posted_until = 0.0
        self._chance = world.entropy("server/fate")
        self._commit_time = world.entropy("server/disk").uniform

    def boot(self) -> None:
        """Start the server as `fleet.server.main` does, unless it runs."""
        if self._is_up:
            return
        self._is_up = True
        self.lives += 1
        life = self.lives
        entropy = self._world.entropy(f"server/{life}")
        self._ledger = MemoryLedger(self.store, lambda callback: self._post(life, callback))
        try:
            server = Server(
                self._config,
                ledger=self._ledger,
                clock=SimulatedClock(self._world),
                entropy=entropy,
                files=self.disk,
                facts=SimulatedFacts("server", entropy),
                servers=("coap://server:5683",),
                act=self._act,
            )
        except PowerCut:
            self.die(power=True, down=START)
            return
        except OSError as error:
            self._world.record(f"the server cannot start: {error}".encode())
            self.die(power=False, down=START)
            return
        server.start(lambda: self._ready(server))

    def die(self, *, power: bool, down: float) -> None:
        """Kill the process, or with `power` cut the power; starts in `down` seconds."""
        if not self._is_up:
            return
        self._is_up = False
        if self._ledger is not None:
            self._ledger.crash()
        self.server = self._ledger = None
        self.host.crash()
        if power:
            self.disk.power_cut(self._chance)
        self._world.call_later(down, self.boot)

    def die_after_commit(self, number: int, *, power: bool, down: float) -> None:
        """Die as by `die`, right after the commit with this number from now."""
        self.store.deaths[self.store.commits + number] = lambda: self.die(power=power, down=down)

    def _ready(self, server: Server) -> None:
        self.server = server
        life = _Life(self, server)
        self.host.boot(self._security.machine(Principal(SERVER, "main"), self.lives, life))
        self.on_start()

    def _act(self, action: str) -> None:
        """Restart: as the process does, after the last answers have left and the ledger has done its work."""
        self._world.call_later(LINGER, self._restart, self.lives)

    def _restart(self, life: int) -> None:
        if self._ledger is None or life != self.lives:
            return
        if self.server is not None:
            self.server.stop()
        self._ledger.close()
        self.host.wake()
        self.die(power=False, down=START)

    def _post(self, life: int, callback: Callable[[], None]) -> None:
        """Have a completion come after a commit's time, in the order of the posts."""
        self._posted_until = max(self._posted_until, self._world.now + self._commit_time(*COMMIT))
        self._world.call_at(self._posted_until, self._complete, life, callback)

    def _complete(self, life: int, callback: Callable[[], None]) -> None:
        if not self._is_up or life != self.lives:
            return
        try:
            callback()
        except PowerCut:
            self.die(power=True, down=START)
            return
        self.host.wake()


class _Life:
    """A server as the host's machine: its disk can be cut inside any call."""

    __slots__ = ("_server", "_simulated", "datagrams_to_send", "next_timeout")

    def __init__(self, simulated: SimulatedServer, server: Server) -> None:
        self._simulated = simulated
        self._server = server
        self.datagrams_to_send = server.datagrams_to_send
        self.next_timeout = server.next_timeout

    def datagram_received(self, data: bytes, path: Path, now: float) -> None:
        """See DatagramMachine."""
        try:
            self._server.datagram_received(data, path, now)
        except PowerCut:
            self._simulated.die(power=True, down=START)

    def handle_timeout(self, now: float) -> None:
        """See DatagramMachine."""
        try:
            self._server.handle_timeout(now)
        except PowerCut:
            self._simulated.die(power=True, down=START)

    def path_failed(self, path: Path, error: OSError, now: float) -> None:
        """See DatagramMachine."""
        try:
            self._server.path_failed(path, error, now)
        except PowerCut:
            self._simulated.die(power=True, down=START)
