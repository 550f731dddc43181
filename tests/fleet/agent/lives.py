"""Lives of a pretended node: machine and journal on a disk and a device that a power cut stops at any point.

A World is what outlasts a life: the disk, the device (one package, OLD, NEW or PARTIAL while it changes), and what the
server has heard. A Life runs the machine in it the way the agent does. It can die at any point: before and after each
change of the disk, each step of an effect, each report. `explore` takes a scenario through all such deaths, and each
world that one of them leaves through all second deaths. Every rule that is broken raises RuleBroken.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator
from typing import NamedTuple, Optional

from fleet.agent import steps
from fleet.agent.journal import Journal
from fleet.agent.machine import Action, Entered, Finished, Machine, Perform, Record, Report, Rewrite, Stop, Write
from fleet.agent.steps import ROWS
from fleet.install.interface import NEW, OLD, PARTIAL, Answer
from fleet.model.executions import (
    COMMITTING,
    INSTALLING,
    ROLLBACK_FAILED,
    SUCCESSES,
    TESTING,
    can_move,
)
from tests.fleet.agent.simdisk import SimDisk

SMALL = (b"a wheel",)
SEVERAL = (b"one wheel, in a few blocks", b"another wheel")
BLOCK = 4
BLOCKS_A_STEP = 2  # between two records of progress
JOURNAL = "data/journal"
POINTS_IN_A_LIFE = 2_000

Effect = Generator[list[Action], None, Answer]
read_journal = Journal.open  # as it was before a test changed it


class PowerCut(Exception):
    """The node dies here."""


class RuleBroken(AssertionError):
    """The machine did what it must never do."""


class Scenario(NamedTuple):
    """What is to happen, and how the job has to end whatever is cut."""

    name: str
    end: str
    device: str = OLD
    fails: tuple[str, ...] = ()  # the effects that fail
    artifacts: tuple[bytes, ...] = SMALL
    wrong_bytes: bool = False
    cancel_in: str = ""  # the state in which the server asks for the job back


class World:
    """What outlasts a life of the node."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.disk = SimDisk()
        self.boot = 1
        self.device = scenario.device
        self.way_back = False
        self.committed = False
        self.hashes_verified = False
        self.cancel_wanted = False
        self.last_begun: Optional[tuple[str, int]] = None
        self.last_report: Optional[tuple[int, str]] = None
        self.installed_is_known = False  # the server has heard of a state behind installing
        self.end: Optional[str] = None  # what the server has heard last, once it is an end
        self.finished = False

    def copy(self, disk: Optional[SimDisk] = None, boot: Optional[int] = None) -> World:
        """The same world, with its own disk."""
        world = World(self.scenario)
        world.__dict__.update(self.__dict__)
        world.disk = self.disk.copy() if disk is None else disk
        world.boot = self.boot if boot is None else boot
        return world

    def after_death(self) -> list[World]:
        """The worlds that may be found after it: those of a power cut, and that of a killed process."""
        cut = [self.copy(disk, self.boot + 1) for disk in self.disk.after_power_cut()]
        return [*cut, self.copy()]

    def signature(self) -> tuple[object, ...]:
        """Equal for worlds that cannot be told apart."""
        facts = {name: value for name, value in self.__dict__.items() if name != "disk"}
        files = tuple(sorted(self.disk.durable.items())), tuple(sorted(self.disk.written.items()))
        return (*files, *facts.values())

    def durable_records(self) -> list[Record]:
        """What a power cut now would leave of the journal for sure."""
        disk = SimDisk()
        disk.durable = dict(self.disk.durable)
        disk.written = dict(self.disk.durable)
        return read_journal(Journal(disk, JOURNAL))

    def receive(self, report: Report) -> None:
        """The server takes a report, and holds it against the earlier ones."""
        number, state = report.sequence, report.state
        if self.last_report is not None:
            last, before = self.last_report
            require(number >= last, f"{state} reported as {number} after {last}")
            require(number > last or state == before, f"{number} reported as {before} and as {state}")
            require(state == before or can_move(before, state), f"reported {state} after {before}")
        self.last_report = (number, state)
        self.installed_is_known = self.installed_is_known or state in (TESTING, COMMITTING)
        self.end = state if report.final else None

    def check_end(self) -> None:
        """The job is over, the server knows, and the device is what its end says."""
        require(self.finished and self.end is not None, "the job never came to its end")
        if self.end != ROLLBACK_FAILED:
            require(
                self.device == (NEW if self.end in SUCCESSES else OLD), f"{self.end}, but the device is {self.device}"
            )
        require(not any(path.startswith(("part", "done")) for path in self.disk.written), "downloads left behind")
        require(self.disk.size(JOURNAL) == 0, "the journal was not emptied")


class Life:
    """One life of the node in a world, up to the job's end.

    `at_point` is called at each point at which it could die. `deadly` names a state whose effect does kill it.
    """

    def __init__(self, world: World, deadly: str = "") -> None:
        self.machine = Machine()
        self.at_point: Callable[[], None] = lambda: None
        self._world = world
        self._deadly = deadly
        self._points = 0
        self._journal = Journal(world.disk, JOURNAL)
        self._queue: deque[Action] = deque()
        self._running: Optional[tuple[int, Effect]] = None
        self._begun: Optional[tuple[str, int]] = None
        self._failures = 0

    def run(self) -> bool:
        """Live; False if the node died."""
        world = self._world
        world.disk.on_step = self._point
        try:
            self._queue.extend(self.machine.recover(self._journal.open()))
            if self.machine.job is None and world.end is None:
                self._queue.extend(self.machine.start("job", 1, b"{}"))
            if world.cancel_wanted:
                self._queue.extend(self.machine.cancel())
            while self._queue or self._running:
                if self._queue:
                    self._act(self._queue[0])
                else:
                    self._go_on()
        except PowerCut:
            return False
        if world.end is not None and self.machine.job is None:
            world.finished = True  # also where the node died between emptying its journal and saying so
        return True

    def _point(self) -> None:
        self._points += 1
        require(self._points < POINTS_IN_A_LIFE, "the node does not come to rest")
        self.at_point()

    def _act(self, action: Action) -> None:
        try:
            if isinstance(action, Write):
                self._journal.append(action.record, action.sync)
            elif isinstance(action, Rewrite):
                self._journal.rewrite(action.records)
        except OSError:
            self._failures += 1
            require(self._failures < 10, "the journal never takes the record")
            return  # the list stops here; tried again
        self._queue.popleft()
        if isinstance(action, Report):
            self._point()
            self._world.receive(action)
            self._point()
            self._queue.extend(self.machine.report_answered(action.sequence))
        elif isinstance(action, Perform):
            self._begin(action)
        elif isinstance(action, Stop):
            self._running = None
        elif isinstance(action, Finished):
            require(action.state == self._world.end, "finished before the server knew")

    def _begin(self, action: Perform) -> None:
        require(self._running is None, "two effects at once")
        entered = [record for record in self._world.durable_records() if isinstance(record, Entered)]
        require(bool(entered), f"{action.effect} begun with nothing in the journal")
        state, entry = entered[-1].state, entered[-1].entry
        allowed = {ROWS[state].effect}
        if state == INSTALLING:
            allowed |= {steps.INSPECT, steps.ROLL_BACK}
        require(action.effect in allowed, f"{action.effect} begun while the journal says {state}")
        if self._begun != (state, entry):
            require(self._world.last_begun != (state, entry), f"{state} entered twice as number {entry}")
        self._begun = self._world.last_begun = (state, entry)
        self._running = (action.ticket, getattr(self, f"_{action.effect}")())

    def _go_on(self) -> None:
        assert self._running is not None
        ticket, effect = self._running
        self._point()
        try:
            self._queue.extend(next(effect))
        except StopIteration as stop:
            self._point()
            self._running = None
            self._queue.extend(self.machine.completed(ticket, stop.value))
            return
        if self.machine.state == self._deadly:
            raise PowerCut
        if self.machine.state == self._world.scenario.cancel_in and not self._world.cancel_wanted:
            self._world.cancel_wanted = True
            self._queue.extend(self.machine.cancel())

    # The effects: each `yield` is a point at which the node may die

    def _fails(self, effect: str) -> bool:
        return effect in self._world.scenario.fails

    def _requirements(self) -> Effect:
        yield []
        if self._fails(steps.REQUIREMENTS):
            return Answer(ok=False, reason="unsupported")
        return Answer(ok=True, already_installed=self._world.device == NEW)

    def _download(self) -> Effect:
        disk, boot = self._world.disk, f"boot-{self._world.boot}"
        for number in range(len(self._world.scenario.artifacts)):
            path, body = f"part{number}", self._served(number)
            if disk.size(f"done{number}") is not None:
                continue
            there = disk.size(path) or 0
            offset = self.machine.resume_offset(number, boot, there)
            if there:
                disk.truncate(path, offset)
                disk.fsync(path)
            yield self.machine.progressed(number, offset, boot)
            while offset < len(body):
                for _ in range(BLOCKS_A_STEP):
                    disk.write_at(path, offset, body[offset : offset + BLOCK])
                    offset = min(offset + BLOCK, len(body))
                disk.fsync(path)
                yield [
                    *self.machine.progressed(number, offset, boot),
                    *self.machine.note(bytes_done=offset, bytes_total=len(body)),
                ]
            disk.rename(path, f"done{number}")
        if self._fails(steps.DOWNLOAD):
            return Answer(ok=False, reason="not_found")
        return Answer(ok=True)

    def _served(self, number: int) -> bytes:
        body = self._world.scenario.artifacts[number]
        return body[::-1] if self._world.scenario.wrong_bytes else body

    def _verify_hashes(self) -> Effect:
        yield []
        for number in range(len(self._world.scenario.artifacts)):
            require(
                self._world.disk.read(f"done{number}") == self._served(number), "the download was put together wrong"
            )
        if self._world.scenario.wrong_bytes:
            return Answer(ok=False, reason="hash_mismatch")
        self._world.hashes_verified = True
        return Answer(ok=True)

    def _install(self) -> Effect:
        world = self._world
        require(world.device == OLD, f"install begun on a device that is {world.device}")
        require(world.hashes_verified, "install begun without verified hashes")
        require(not world.installed_is_known, "install begun again after it was done")
        for number, body in enumerate(world.scenario.artifacts):
            require(world.disk.read(f"done{number}") == body, "install begun with other bytes than were verified")
        yield []
        world.way_back = True
        world.device = PARTIAL
        yield []
        if self._fails(steps.INSTALL):
            return Answer(ok=False, reason="install_failed", output="no such version")
        world.device = NEW
        yield []
        return Answer(ok=True)

    def _inspect(self) -> Effect:
        yield []
        return Answer(ok=True, condition=self._world.device)

    def _verify(self) -> Effect:
        yield []
        if self._fails(steps.VERIFY) or self._world.device != NEW:
            return Answer(ok=False, reason="verify_failed")
        return Answer(ok=True)

    def _commit(self) -> Effect:
        require(self._world.device == NEW, f"commit of a device that is {self._world.device}")
        yield []
        if self._fails(steps.COMMIT):
            return Answer(ok=False, reason="commit_failed")
        self._world.way_back = False
        self._world.committed = True
        yield []
        return Answer(ok=True)

    def _roll_back(self) -> Effect:
        world = self._world
        yield []
        if world.committed or self._fails(steps.ROLL_BACK):
            return Answer(ok=False, reason="rollback_failed")
        if world.way_back:
            world.device = PARTIAL
            yield []
            world.device = OLD
            yield []
            world.way_back = False
            yield []
        return Answer(ok=True)

    def _clean_up(self) -> Effect:
        yield []
        for number in range(len(self._world.scenario.artifacts)):
            self._world.disk.remove(f"part{number}")
            self._world.disk.remove(f"done{number}")
            yield []
        return Answer(ok=True)


class Figures(NamedTuple):
    """How much was tried."""

    lives: Counter[int]  # that ran to the job's end, by the deaths before them
    deaths: Counter[str]  # by the state in which the node died; "" before it had a job


def explore(scenario: Scenario, deaths: int = 2) -> Figures:
    """Let the node die at every point, then again at every point of what comes after, up to so many times.

    A death leaves nothing but the world, so one life tells of a death at each of its points. Worlds that cannot be
    told apart are tried once. Raises RuleBroken.
    """
    figures = Figures(Counter(), Counter())
    first = World(scenario)
    found = {first.signature()}
    waiting = deque([(first, 0)])
    while waiting:
        world, before = waiting.popleft()
        life = Life(world)

        def die(world: World = world, life: Life = life, before: int = before) -> None:
            figures.deaths[life.machine.state or ""] += 1
            for left in world.after_death():
                signature = left.signature()
                if signature not in found:
                    found.add(signature)
                    waiting.append((left, before + 1))

        if before < deaths:
            life.at_point = die
        life.run()
        figures.lives[before] += 1
        world.check_end()
        require(world.end == scenario.end, f"ended {world.end}")
    return figures


def require(holds: bool, rule: str) -> None:
    """Raise RuleBroken unless it holds."""
    if not holds:
        raise RuleBroken(rule)
