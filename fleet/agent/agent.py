"""The node's agent as a machine: a CoAP endpoint, the table of steps with its journal, and the effects.

`fleet.agent.machine` decides what happens to a job; this file does it, in the order it is told, and carries outcomes
back. Between jobs it asks the server for the next one that waits. What a hint or a report's answer says is only a
reason to ask: the server's word on a job is the answer to `GET /updates/{job_id}?node=`.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import deque
from collections.abc import Sequence
from typing import Any, Callable, Optional, Union

import msgspec

from fleet.agent import steps
from fleet.agent.config import AgentConfig
from fleet.agent.download import Download, Downloads
from fleet.agent.journal import Journal
from fleet.agent.machine import Action, Finished, Machine, Perform, Report, Rewrite, Stop, Write
from fleet.agent.membership import Membership
from fleet.agent.outbox import Outbox
from fleet.agent.resources import NodeResources
from fleet.agent.runner import Runner
from fleet.errors import InvalidError
from fleet.host.boot import Boot
from fleet.host.clock import Clock
from fleet.host.facts import Facts
from fleet.host.files import Files
from fleet.host.processes import Processes
from fleet.install.interface import UNSUPPORTED, Answer, Step, StepArtifact
from fleet.model.api_answers import NodeJobAnswer
from fleet.model.artifacts import check_artifact_name, check_destination, is_sha256
from fleet.model.executions import CANCELLING, PENDING
from minicoap.codec import codes
from minicoap.core.endpoint import EndpointCore
from minicoap.core.entropy import Entropy
from minicoap.core.parameters import Limits, TransmissionParameters
from minicoap.core.request import Path, Response
from minicoap.core.resource import Guard, Site
from minicoap.core.timers import Timers
from minicoap.errors import CoapError, NetworkError

logger = logging.getLogger(__name__)

STORAGE_RETRY = 5.0  # seconds until the journal is tried again on a full disk
NOTE_INTERVAL = 2.0  # seconds between reports of a download's progress
JOBS_LIMIT = 64  # ids of waiting jobs kept; the server repeats the rest

# An agent talks to one server and a few curious clients.
AGENT_LIMITS = Limits(
    peers=256,
    remembered_answers=512,
    remembered_bytes=128 * 1024,
    deferred=16,
    open_bodies=16,
    open_body_bytes=256 * 1024,
    assembled_body=1024 * 1024,
)


class Agent:
    """The agent of one node as a `DatagramMachine`; `server` is the path of its server. Call `start` first.

    `guard` decides who may ask the agent something; where there is none, everybody. `time_told` is called with what
    the server says the time is, ISO 8601.
    """

    def __init__(
        self,
        config: AgentConfig,
        server: Path,
        *,
        clock: Clock,
        entropy: Entropy,
        files: Files,
        facts: Facts,
        processes: Processes,
        boot: Boot,
        guard: Optional[Guard] = None,
        time_told: Optional[Callable[[str], None]] = None,
        parameters: TransmissionParameters = TransmissionParameters(),  # noqa: B008  immutable
        limits: Limits = AGENT_LIMITS,
    ) -> None:
        self._config = config
        self.server = server
        self._clock = clock
        self._boot_id = boot.boot_id()
        self.timers = Timers()
        site = Site(lenient_paths=True, guard=guard)
        self.endpoint = EndpointCore(entropy, site=site, parameters=parameters, limits=limits)
        shared: dict[str, Any] = {"clock": clock, "timers": self.timers, "entropy": entropy}
        self.membership = Membership(
            config, self.endpoint, server, facts=facts, jobs_wait=self._jobs_wait, time_told=time_told, **shared
        )
        node_resources = NodeResources(
            config.node_id, facts, health=self.membership.health, status=self._status, hinted=self._hinted
        )
        for resource in node_resources.resources():
            self.endpoint.site.add(resource)
        self.machine = Machine()
        files.make_directory(config.data_dir)
        self._journal = Journal(files, f"{config.data_dir}/journal")
        self._downloads = Downloads(
            self.endpoint, server, files=files, directory=f"{config.data_dir}/downloads", **shared
        )
        self._download: Optional[Download] = None
        self._runner = Runner(processes)
        self._outbox = Outbox(
            self.endpoint, server, config.node_id, taken=self._report_taken, refused=self._report_refused, **shared
        )
        self._actions: deque[Action] = deque()
        self._is_held = False  # the next action waits: for the disk, or for what is being stopped
        self._is_pumping = False
        self._storage_error: Optional[int] = None  # of the journal, until it could be written again
        self._job: Optional[NodeJobAnswer] = None
        self._waiting: dict[str, None] = {}  # ids of jobs to ask for, in order
        self._asked: Optional[str] = None
        self._noted_at = 0.0

    # DatagramMachine

    def datagram_received(self, data: bytes, path: Path, now: float) -> None:
        """Take a datagram."""
        self.endpoint.datagram_received(data, path, now)

    def path_failed(self, path: Path, error: OSError, now: float) -> None:
        """End what is under way with the peer at `path`."""
        self.endpoint.path_failed(path, error, now)

    def datagrams_to_send(self) -> list[tuple[bytes, Path]]:
        """Return what is to be sent, and forget it."""
        return self.endpoint.datagrams_to_send()

    def next_timeout(self) -> Optional[float]:
        """When something is due."""
        ours, endpoints = self.timers.next_deadline(), self.endpoint.next_timeout()
        if ours is None or endpoints is None:
            return endpoints if ours is None else ours
        return min(ours, endpoints)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        self.endpoint.handle_timeout(now)
        self.timers.run(now)

    # Life

    def start(self) -> None:
        """Take up what an earlier life left, and register. Raises OSError if the data directory cannot be used."""
        actions = self.machine.recover(self._journal.open())
        accepted = self.machine.job
        if accepted is None:
            self._downloads.clear()  # the last life may have ended before it had done so
        else:
            self._job = _read_job(bytes(accepted.description))
            logger.info("job %s goes on in state %s", accepted.job_id, self.machine.state)
        self._do(actions)
        self.membership.register()

    def check(self, answered: Callable[[], None]) -> None:
        """Call `answered` if the journal can be written; a full disk, which no new start would empty, is no reason."""
        if self._storage_error is None and not self._journal.is_sound():
            return
        if self._storage_error in (None, errno.ENOSPC, errno.EDQUOT):
            answered()

    def status(self) -> str:
        """How the node is, in a line."""
        is_registered, job = self._status()
        told = f"node {self._config.node_id}, "
        told += (
            f"registered with {self._config.server}" if is_registered else f"no answer yet from {self._config.server}"
        )
        told += f"; job {job['job_id']}: {job['state']}" if job else "; no job"
        if self._storage_error is not None:
            told += f"; the journal cannot be written: {os.strerror(self._storage_error)}"
        return told

    def _status(self) -> tuple[bool, Any]:
        accepted = self.machine.job
        if accepted is None:
            return self.membership.is_registered, None
        job = {"job_id": accepted.job_id, "attempt": accepted.attempt, "state": self.machine.state}
        return self.membership.is_registered, job

    # Which job

    def _hinted(self, job_id: str) -> None:
        self._jobs_wait((job_id,))

    def _jobs_wait(self, job_ids: Sequence[str]) -> None:
        """Take note of jobs that wait; the one at hand is asked for too, since it may have been cancelled."""
        for job_id in job_ids[: JOBS_LIMIT - len(self._waiting)]:
            self._waiting[job_id] = None
        accepted = self.machine.job
        if accepted is not None:
            # The server does not list it any more: it may have timed out there, or been deleted.
            self._waiting[accepted.job_id] = None
        self._ask()

    def _ask(self) -> None:
        """Ask for the next job that may be of use now."""
        if self._asked is not None:
            return
        accepted = self.machine.job
        if accepted is None:
            job_id = next(iter(self._waiting), None)
        else:
            job_id = accepted.job_id if accepted.job_id in self._waiting else None
        if job_id is None:
            return
        del self._waiting[job_id]
        try:
            self.endpoint.request(
                codes.GET,
                self.server,
                self._told,
                self._clock.monotonic(),
                uri_path=("updates", job_id),
                query=(f"node={self._config.node_id}",),
            )
        except NetworkError as error:
            logger.info("job %s is asked for later: %s", job_id, error)
            return
        self._asked = job_id

    def _told(self, outcome: Union[Response, CoapError]) -> None:
        """Take the server's word on a job."""
        job_id, self._asked = self._asked, None
        assert job_id is not None
        if isinstance(outcome, Response):
            accepted = self.machine.job
            if outcome.is_success:
                self._job_told(job_id, outcome.body)
            elif outcome.code in (codes.NOT_FOUND, codes.CONFLICT) and accepted and accepted.job_id == job_id:
                logger.warning("job %s is not wanted any more: %s", job_id, outcome.text)
                self._do(self.machine.cancel())
        else:
            logger.info("job %s is asked for after the next report: %s", job_id, outcome)
        self._ask()

    def _job_told(self, job_id: str, description: bytes) -> None:
        try:
            told = msgspec.json.decode(description, type=_Told)
        except msgspec.MsgspecError as error:
            logger.error("job %s cannot be read: %s", job_id, error)
            return
        accepted = self.machine.job
        if accepted is None:
            logger.info("job %s begins, attempt %d", job_id, told.attempt)
            self._job = _read_job(description)
            self._do(self.machine.start(job_id, told.attempt, description, told.sequence))
        elif accepted.job_id != job_id:
            self._waiting[job_id] = None
            return
        elif accepted.attempt != told.attempt:
            self._waiting[job_id] = None
            self._do(self.machine.cancel())
            return
        if told.state == CANCELLING:
            self._do(self.machine.cancel())

    # Actions

    def _do(self, actions: Sequence[Action]) -> None:
        """Perform actions behind those that wait, each when the one before it is done."""
        self._actions.extend(actions)
        if self._is_pumping or self._is_held:
            return
        self._is_pumping = True
        try:
            while self._actions and not self._is_held:
                action = self._actions[0]
                try:
                    self._perform(action)
                except OSError as error:
                    self._hold_for_storage(error)
                    return
                self._storage_error = None
                self._actions.popleft()
        finally:
            self._is_pumping = False

    def _perform(self, action: Action) -> None:
        if isinstance(action, Write):
            self._journal.append(action.record, action.sync)
        elif isinstance(action, Rewrite):
            self._journal.rewrite(action.records)
        elif isinstance(action, Report):
            self.endpoint.site.changed("/system")
            self._outbox.put(action)
        elif isinstance(action, Perform):
            self._begin(action)
        elif isinstance(action, Stop):
            self._stop()
        else:
            self._finished(action)

    def _hold_for_storage(self, error: OSError) -> None:
        logger.error("the journal cannot be written, again in %.0f s: %s", STORAGE_RETRY, error)
        self._storage_error = error.errno
        self._is_held = True
        self.timers.at(self._clock.monotonic() + STORAGE_RETRY, self._go_on)

    def _go_on(self, now: float = 0.0) -> None:
        self._is_held = False
        self._do(())

    def _begin(self, action: Perform) -> None:
        job = self._job
        ticket = action.ticket
        if job is None:
            self._complete(ticket, Answer(ok=False, reason=UNSUPPORTED, output="the job cannot be read"))
        elif action.effect == steps.DOWNLOAD:
            self._download = Download(
                self._downloads,
                job.artifacts,
                trusted=lambda index, size: self.machine.resume_offset(index, self._boot_id, size),
                progressed=lambda index, offset: self._do(self.machine.progressed(index, offset, self._boot_id)),
                received=self._received,
                done=lambda answer: self._complete(ticket, answer),
            )
            self._download.start()
        else:
            self._runner.run(action.effect, self._step(job), lambda answer: self._complete(ticket, answer))

    def _complete(self, ticket: int, answer: Answer) -> None:
        self._download = None
        if not answer.ok:
            logger.warning("%s failed: %s %s", self.machine.state, answer.reason, answer.output)
        self._do(self.machine.completed(ticket, answer))

    def _stop(self) -> None:
        if self._download is not None:
            self._download.stop()
            self._download = None
        elif self._runner.stop(self._stopped):
            self._is_held = True

    def _stopped(self) -> None:
        self._go_on()

    def _received(self, done: int, total: int) -> None:
        now = self._clock.monotonic()
        if now - self._noted_at >= NOTE_INTERVAL or done == total:
            self._noted_at = now
            self._do(self.machine.note(bytes_done=done, bytes_total=total))

    def _finished(self, action: Finished) -> None:
        logger.info("job %s ended: %s", action.job_id, action.state)
        self._job = None
        self._downloads.clear()
        self._ask()

    def _step(self, job: NodeJobAnswer) -> Step:
        config = self._config
        artifacts = tuple(
            StepArtifact(item.name, item.size, item.sha256, self._downloads.file(item), item.path, item.mode)
            for item in job.artifacts
        )
        return Step(
            job_id=job.job_id,
            attempt=job.attempt,
            package_type=job.package_type,
            work_directory=f"{config.data_dir}/work/{job.job_id}",
            name=job.name,
            version=job.version,
            packages=job.packages,
            artifacts=artifacts,
            python=config.python,
            file_root=config.file_root or f"{config.data_dir}/files",
        )

    # Reports

    def _report_taken(self, report: Report, state: str) -> None:
        if report.final:
            self._do(self.machine.report_answered(report.sequence))
        elif state == CANCELLING and self._is_at_hand(report):
            self._do(self.machine.cancel())

    def _report_refused(self, report: Report) -> None:
        """The server does not want this attempt any more: an end need not be told, anything else is given up."""
        if report.final:
            self._do(self.machine.report_answered(report.sequence))
        elif self._is_at_hand(report):
            self._do(self.machine.cancel())

    def _is_at_hand(self, report: Report) -> bool:
        accepted = self.machine.job
        return accepted is not None and (accepted.job_id, accepted.attempt) == (report.job_id, report.attempt)


class _Told(msgspec.Struct, frozen=True):
    """What has to be readable of a job: enough to report that the rest was not, and the job is rejected."""

    attempt: int
    sequence: int = 0
    state: str = PENDING


def _read_job(description: bytes) -> Optional[NodeJobAnswer]:
    """Return a job as the server described it; None if it cannot be read, or names files that it must not."""
    try:
        job = msgspec.json.decode(description, type=NodeJobAnswer)
        check_artifact_name(job.job_id, "job_id")
        for artifact in job.artifacts:
            check_artifact_name(artifact.name)
            if artifact.path is not None:
                check_destination(artifact.path)
            if not is_sha256(artifact.sha256) or artifact.size < 0:
                raise InvalidError(f"{artifact.name!r} has no hash, or no size", "artifacts")
    except (msgspec.MsgspecError, InvalidError) as error:
        logger.error("the job cannot be read: %s", error)
        return None
    return job
