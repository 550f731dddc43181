"""A pretended device: what its installer changes, and a child process that speaks the worker's protocol.

A device holds things (files, packages), each with a content. A verb takes virtual time in several steps and may be cut
between any two of them; what it did until then is there when the node boots again. Some attempts meet trouble, drawn
from the seed: a verb that fails, a child that crashes.

What the real installers forgive (`fleet.install.file` undoes a half-done change before it installs) the pretended one
does not: it holds the agent to the order that its table promises.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Sequence
from typing import Optional

import msgspec

from fleet.agent.runner import CRASHED
from fleet.host.files import Files
from fleet.host.processes import ProcessResult, RunningProcess
from fleet.install.interface import (
    INSTALL_FAILED,
    NEW,
    NO_SPACE,
    OLD,
    PARTIAL,
    ROLLBACK_FAILED,
    UNSUPPORTED,
    VERIFY_FAILED,
    VERSION_NOT_FOUND,
    Answer,
    Call,
    Step,
)
from fleet.simulate.invariants import Invariants
from minicoap.core.entropy import Entropy
from minicoap.simulate.entropy import SeededEntropy

STEP = (0.05, 2.5)  # seconds that a step of a verb takes, from and to
KILLED = -9  # exit code of a child that got SIGKILL

CallLater = Callable[[float, Callable[[], None]], None]
Work = Generator[None, None, Answer]

AGAIN = "requirements, asked again"
TROUBLES: tuple[dict[str, str], ...] = (
    {"requirements": UNSUPPORTED},
    {AGAIN: NO_SPACE},
    {"verify_hashes": CRASHED},
    {"install": INSTALL_FAILED},
    {"install": VERSION_NOT_FOUND},
    {"install": CRASHED},
    {"verify": VERIFY_FAILED},
    {"commit": INSTALL_FAILED},
    {"verify": VERIFY_FAILED, "roll_back": ROLLBACK_FAILED},
)
TROUBLE_BITS = 5  # of 2 ** 5 attempts as many meet trouble as there are troubles


class _Change(msgspec.Struct):
    """What a roll-back needs: the contents from before the change, None for what was not there."""

    old: dict[str, Optional[str]]
    is_complete: bool = False


class Device:
    """The device of node `node_id`; all of it is durable at once.

    `contents` are its things: `file:etc/app.conf` with the SHA-256 of its bytes, `pip:demo` with its version.
    """

    def __init__(self, node_id: str, seed: int, invariants: Invariants) -> None:
        self.contents: dict[str, str] = {}
        self._node_id = node_id
        self._seed = seed
        self._invariants = invariants
        self._changes: dict[str, _Change] = {}  # by job, until it is committed or undone
        self._questions: dict[tuple[str, int], int] = {}
        self._wanted: dict[str, dict[str, str]] = {}  # by job; and what was there before it
        self._before: dict[str, dict[str, Optional[str]]] = {}

    def has_new(self, job_id: str) -> bool:
        """Whether it holds what a job wanted, for good."""
        wanted = self._wanted.get(job_id)
        return wanted is not None and job_id not in self._changes and self._holds(wanted)

    def has_old(self, job_id: str) -> bool:
        """Whether it holds what it did before a job, for good."""
        before = self._before.get(job_id, {})
        return job_id not in self._changes and all(self.contents.get(key) == old for key, old in before.items())

    def has_begun(self, job_id: str, attempt: int) -> bool:
        """Whether anything was done for this attempt."""
        return (job_id, attempt) in self._questions

    def perform(self, call: Call, files: Files) -> Work:
        """Do a verb: each `yield` lets time pass, and is a point at which the device may be cut."""
        verb: Callable[[Step, Files, str], Work] = getattr(self, f"_{call.verb}")
        return verb(call.step, files, self._trouble(call.verb, call.step))

    def _trouble(self, verb: str, step: Step) -> str:
        attempt = step.job_id, step.attempt
        if verb == "requirements":
            if step.job_id not in self._wanted:
                wanted = self._wanted[step.job_id] = wanted_contents(step)
                self._before[step.job_id] = {key: self.contents.get(key) for key in wanted}
            self._questions[attempt] = self._questions.get(attempt, 0) + 1
            if self._questions[attempt] > 1:
                verb = AGAIN
        name = f"trouble/{self._node_id}/{step.name}/{step.attempt}"
        number = SeededEntropy(self._seed, name).integer(TROUBLE_BITS)
        return TROUBLES[number].get(verb, "") if number < len(TROUBLES) else ""

    def _requirements(self, step: Step, files: Files, trouble: str) -> Work:
        yield
        if trouble:
            return Answer(ok=False, reason=trouble)
        needed, free = sum(artifact.size for artifact in step.artifacts), files.free_bytes(step.work_directory)
        is_there = self._has(step)
        if needed > free and not is_there:
            return Answer(ok=False, reason=NO_SPACE, output=f"{needed} bytes are needed, {free} are free")
        return Answer(ok=True, bytes_needed=needed, bytes_free=free, can_roll_back=True, already_installed=is_there)

    def _verify_hashes(self, step: Step, files: Files, trouble: str) -> Work:
        for _ in step.artifacts:
            yield
        yield
        if trouble:
            return Answer(ok=False, reason=trouble)
        self._invariants.hashes_verified(self._node_id, step, files)
        return Answer(ok=True)

    def _install(self, step: Step, files: Files, trouble: str) -> Work:
        self._invariants.install_begins(self._node_id, step, files, self._condition(step))
        yield
        if trouble == VERSION_NOT_FOUND:
            return Answer(ok=False, reason=trouble, output=f"no version {step.version} of {step.name}")
        wanted = wanted_contents(step)
        change = self._changes[step.job_id] = _Change({key: self.contents.get(key) for key in wanted})
        for key, content in wanted.items():
            yield
            self.contents[key] = content
            if trouble:
                return Answer(ok=False, reason=trouble, output="it does not fit")
        yield
        change.is_complete = True
        self._invariants.install_completed(self._node_id, step)
        yield
        return Answer(ok=True, output="done")

    def _verify(self, step: Step, files: Files, trouble: str) -> Work:
        yield
        if trouble or not self._has(step):
            return Answer(ok=False, reason=VERIFY_FAILED)
        return Answer(ok=True)

    def _commit(self, step: Step, files: Files, trouble: str) -> Work:
        self._invariants.commit_begins(self._node_id, step, self._condition(step))
        yield
        if trouble:
            return Answer(ok=False, reason=trouble)
        self._changes.pop(step.job_id, None)
        yield
        return Answer(ok=True)

    def _roll_back(self, step: Step, files: Files, trouble: str) -> Work:
        yield
        change = self._changes.get(step.job_id)
        if change is None:
            return Answer(ok=True)
        change.is_complete = False
        for key, content in change.old.items():
            if content is None:
                self.contents.pop(key, None)
            else:
                self.contents[key] = content
            yield
            if trouble:
                return Answer(ok=False, reason=trouble)
        del self._changes[step.job_id]
        yield
        return Answer(ok=True)

    def _inspect(self, step: Step, files: Files, trouble: str) -> Work:
        yield
        return Answer(ok=True, condition=self._condition(step))

    def _clean_up(self, step: Step, files: Files, trouble: str) -> Work:
        yield
        return Answer(ok=True)

    def _has(self, step: Step) -> bool:
        return self._holds(wanted_contents(step))

    def _holds(self, wanted: dict[str, str]) -> bool:
        return all(self.contents.get(key) == content for key, content in wanted.items())

    def _condition(self, step: Step) -> str:
        change = self._changes.get(step.job_id)
        if change is not None:
            return NEW if change.is_complete else PARTIAL
        return NEW if self._has(step) else OLD


class DeviceProcesses:
    """`Processes` of one life of a node: the installer's child, one at a time.

    `call_later(seconds, callback)` calls back unless the node dies before; the child then dies with it.
    """

    def __init__(
        self, device: Device, files: Files, entropy: Entropy, call_later: CallLater, invariants: Invariants
    ) -> None:
        self.child: Optional[_Child] = None
        self.device = device
        self.files = files
        self.entropy = entropy
        self.call_later = call_later
        self._invariants = invariants

    @property
    def verb(self) -> str:
        """What is being done, empty if nothing is."""
        return "" if self.child is None else self.child.verb

    def run(
        self, arguments: Sequence[str], input: bytes, timeout: float, done: Callable[[ProcessResult], None]
    ) -> RunningProcess:
        """See Processes."""
        call = msgspec.json.decode(input, type=Call)
        self._invariants.verb_begins(call, self.verb, arguments)
        self.child = _Child(self, call, done)
        return self.child


class _Child:
    """One child from start to end."""

    def __init__(self, processes: DeviceProcesses, call: Call, done: Callable[[ProcessResult], None]) -> None:
        self.verb = call.verb
        self._processes = processes
        self._done: Optional[Callable[[ProcessResult], None]] = done
        self._work: Optional[Work] = processes.device.perform(call, processes.files)
        self._wait()

    def kill(self) -> None:
        """See RunningProcess."""
        if self._work is not None:
            self._work = None
            self._processes.call_later(0.02, lambda: self._end(ProcessResult(KILLED, b"", b"", False)))

    def _wait(self) -> None:
        self._processes.call_later(self._processes.entropy.uniform(*STEP), self._go_on)

    def _go_on(self) -> None:
        if self._work is None:
            return
        try:
            next(self._work)
        except StopIteration as stop:
            answer: Answer = stop.value
            self._work = None
            if answer.reason == CRASHED:
                self._end(ProcessResult(1, b"", b"Traceback: the installer is broken", False))
            else:
                self._end(ProcessResult(0, b"hello\n" + msgspec.json.encode(answer) + b"\n", b"", False))
            return
        self._wait()

    def _end(self, result: ProcessResult) -> None:
        done, self._done = self._done, None
        self._processes.child = None
        if done is not None:
            done(result)


def wanted_contents(step: Step) -> dict[str, str]:
    """What the things that a step is about are to hold."""
    if step.package_type == "pip":
        return {f"pip:{name}": version for name, _, version in (item.partition("==") for item in step.packages)}
    return {f"file:{artifact.path or artifact.name}": artifact.sha256 for artifact in step.artifacts}


def digest_of(data: bytes) -> str:
    """The SHA-256 of some bytes, in hex."""
    return hashlib.sha256(data).hexdigest()
