"""What a pretended host says of itself: its clocks, its boot, its facts."""

from __future__ import annotations

from collections.abc import Sequence

from fleet.host.clock import EARLIEST_PLAUSIBLE
from fleet.host.facts import HostHealth, ProcessFacts, SystemFacts
from minicoap.core.entropy import Entropy
from minicoap.simulate.world import World

EPOCH = 1_800_000_000.0  # UTC seconds at which every world begins
GIB = 1 << 30


class SimulatedClock:
    """The world's clock; `wall_at_start` is what the host's wall clock says when the world begins (UTC seconds)."""

    def __init__(self, world: World, wall_at_start: float = EPOCH) -> None:
        self._world = world
        self._wall_at_start = wall_at_start

    def monotonic(self) -> float:
        """Seconds since the world began."""
        return self._world.now

    def wall(self) -> float:
        """UTC as the host believes it."""
        return self._wall_at_start + self._world.now

    def is_wall_trusted(self) -> bool:
        """Whether it can be right."""
        return self.wall() >= EARLIEST_PLAUSIBLE


class SimulatedBoot:
    """One boot of a host."""

    def __init__(self, boot_id: str) -> None:
        self._boot_id = boot_id

    def boot_id(self) -> str:
        """Its name."""
        return self._boot_id

    def reboot(self) -> None:
        """Nothing in a pretended fleet asks for one yet."""
        raise NotImplementedError("no package type needs a reboot")


class SimulatedFacts:
    """Facts of a host named `hostname`; its load and, now and then, a service that is down come from `entropy`."""

    def __init__(self, hostname: str, entropy: Entropy) -> None:
        self._hostname = hostname
        self._entropy = entropy

    def health(self, services: Sequence[str]) -> HostHealth:
        """See Facts."""
        return HostHealth(
            cpu_percent=float(self._entropy.integer(6)),
            memory_percent=40.0,
            disk_percent=20.0,
            temperature=None,
            services_status={name: self._entropy.integer(4) > 0 for name in services},
        )

    def system(self) -> SystemFacts:
        """See Facts."""
        return SystemFacts(
            hostname=self._hostname,
            os="linux",
            os_release="6.1.0",
            arch="aarch64",
            python="3.11.2",
            cpu_count=4,
            memory_total=GIB,
            memory_available=GIB // 2,
            disk_total=8 * GIB,
            disk_free=4 * GIB,
            boot_time=EPOCH,
            load=0.1,
        )

    def process(self) -> ProcessFacts:
        """See Facts."""
        return ProcessFacts(resident=20 << 20, cpu_seconds=1.0, threads=1)
