"""The server as a machine: a CoAP endpoint, a ledger and the resources that join them.

Requests become commands and queries; what they change comes back as the change feed, from which everything that follows
a commit derives: who waits for what, whom to send a hint, which bytes may go. Time drives the rest: deadlines are rows
of the store, and the server's part is to submit `Advance` when the next one is due.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Callable, Optional, Protocol

from fleet.host.clock import Clock
from fleet.host.facts import Facts
from fleet.host.files import Files
from fleet.model import executions, jobs
from fleet.server import commands
from fleet.server.artifacts import ArtifactStore
from fleet.server.changes import ARTIFACT, EXECUTION, JOB, NODE, RELEASED, REMOVED, Change
from fleet.server.commands import Advance, Notified, Outcome
from fleet.server.config import ServerConfig
from fleet.server.notifier import Notifier
from fleet.server.queries import ContentsQuery, NodeItem, NodesQuery, Page, WaitingItem, WaitingQuery
from fleet.server.resources.audit import AuditResource
from fleet.server.resources.firmware import FirmwareResource
from fleet.server.resources.health import HealthResource
from fleet.server.resources.metrics import MetricsResource
from fleet.server.resources.nodes import NodesResource
from fleet.server.resources.system import SystemResource
from fleet.server.resources.updates import UpdatesResource
from fleet.server.services import Services
from fleet.server.store.interface import CLOSED, QUEUE_FULL, Ledger
from minicoap.core.endpoint import EndpointCore
from minicoap.core.entropy import Entropy
from minicoap.core.parameters import Limits, TransmissionParameters
from minicoap.core.resource import Resource, Site

if TYPE_CHECKING:
    from fleet.pki.registrar import Registrar

logger = logging.getLogger(__name__)

FLUSH_INTERVAL = 900.0  # seconds between flushes of samples
RETRY_ADVANCE = 5.0  # seconds until due work is tried again after the store could not do it


class Part(Protocol):
    """What a part of the server has for its site."""

    def resources(self) -> list[Resource]:
        """The rows of the site's table."""


class Server:
    """The fleet's server as a `DatagramMachine`.

    `act` is called with "restart" or "shutdown" when an operator asks for it. `servers` are the URIs that nodes are
    told. With a `registrar` devices get certificates here. `start` has to have called back before the first datagram.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        ledger: Ledger,
        clock: Clock,
        entropy: Entropy,
        files: Files,
        facts: Facts,
        servers: tuple[str, ...],
        act: Callable[[str], None],
        registrar: Optional[Registrar] = None,
        parameters: TransmissionParameters = TransmissionParameters(),  # noqa: B008  immutable
        limits: Limits = Limits(),  # noqa: B008  immutable
    ) -> None:
        store = ArtifactStore(files, f"{config.data_dir}/artifacts", config.artifact_quota)
        services = Services(
            config, ledger=ledger, clock=clock, entropy=entropy, facts=facts, artifacts=store, servers=servers
        )
        site = Site(lenient_paths=True, guard=services.access.guard)
        parts: list[Part] = [
            HealthResource(services),
            NodesResource(services),
            MetricsResource(services),
            UpdatesResource(services),
            FirmwareResource(services),
            SystemResource(services, files, act),
            AuditResource(services),
        ]
        if registrar is not None:
            # A server without certificates needs no `cryptography`.
            from fleet.server.resources.enrolments import EnrolmentsResource
            from fleet.server.resources.est import EstResource

            parts += [EstResource(services, registrar), EnrolmentsResource(services, registrar)]
        for part in parts:
            for resource in part.resources():
                site.add(resource)
        services.changed = site.changed
        self.services = services
        self.endpoint = EndpointCore(entropy, site=site, parameters=parameters, limits=limits)
        services.needs_no_proof = self.endpoint.needs_no_proof
        # What the shell calls for each datagram goes straight to the endpoint.
        self.datagram_received = self.endpoint.datagram_received
        self.datagrams_to_send = self.endpoint.datagrams_to_send
        self.path_failed = self.endpoint.path_failed
        self._notifier = Notifier(self.endpoint, services.presences, self._acknowledged)
        self._is_advancing = False
        self._advance_after = 0.0
        self._flush_at = clock.monotonic() + FLUSH_INTERVAL
        self._restored: Callable[[], None] = _nothing
        self._needed: dict[str, None] = {}
        self._resuming = 0  # questions to the store what waits, now that a job goes on
        self._hinted: dict[tuple[str, str], None] = {}  # by changes, while such a question is open
        ledger.watch(self._changed)

    # DatagramMachine

    def next_timeout(self) -> Optional[float]:
        """When something is due: a message's timer, a row of the store, a flush."""
        if self.services.artifacts.parts.has_unhashed:
            return 0.0  # long since
        when = self._flush_at
        endpoint_due = self.endpoint.next_timeout()
        if endpoint_due is not None and endpoint_due < when:
            when = endpoint_due
        clock = self.services.clock
        refusals_due = self.services.audit.next_due_at()
        if refusals_due is not None and refusals_due < when:
            when = refusals_due
        hour_over_at = self.services.series.next_due_at()
        if hour_over_at is not None:
            when = min(when, hour_over_at / 1000 - clock.wall() + clock.monotonic())
        if not self._is_advancing:
            row_due = self.services.ledger.next_due_at()
            if row_due is not None:
                when = min(when, max(self._advance_after, row_due / 1000 - clock.wall() + clock.monotonic()))
        return when

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        self.endpoint.handle_timeout(now)
        self._notifier.send(now)
        services = self.services
        if now >= self._flush_at:
            self._flush_at = now + FLUSH_INTERVAL
            services.ledger.flush()
            services.artifacts.parts.expire(now)
        services.artifacts.parts.hash_on()
        refusals_due = services.audit.next_due_at()
        if refusals_due is not None and now >= refusals_due:
            services.audit.flush()
        services.series.advance(services.at())
        due = services.ledger.next_due_at()
        if due is not None and not self._is_advancing and now >= self._advance_after and due <= services.at():
            self._is_advancing = True
            services.ledger.submit(Advance(services.at()), self._advanced)

    def _advanced(self, outcome: Outcome) -> None:
        self._is_advancing = False
        if not outcome.is_ok:
            logger.error("due work could not be done: %s", outcome.detail)
            self._advance_after = self.services.clock.monotonic() + RETRY_ADVANCE

    # For whoever watches over the process

    def check(self, answered: Callable[[], None]) -> None:
        """Call `answered` once both of the ledger's threads have done all that was asked of them before this.

        Nothing is written for it where nothing is due. A full queue says nothing of them: then it is not called.
        """
        ledger, at = self.services.ledger, self.services.at()

        def applied(outcome: Outcome) -> None:
            if outcome.detail not in (QUEUE_FULL, CLOSED):
                ledger.query(NodesQuery(limit=1), found)

        def found(page: Page[NodeItem]) -> None:
            if page.detail not in (QUEUE_FULL, CLOSED):
                answered()

        ledger.submit(Advance(at), applied)

    def status(self) -> str:
        """How the fleet is, in a line."""
        counts = self.services.presences.counts(self.services.at())
        told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        return f"serving on {', '.join(self.services.servers)}; nodes: {told or 'none yet'}"

    # Start and stop

    def stop(self) -> None:
        """Hand what only memory has over to the ledger, which is about to be closed."""
        self.services.series.close()
        self.services.audit.flush()

    def start(self, ready: Callable[[], None]) -> None:
        """Take up what the store knows, then call `ready`."""
        self._restored = ready
        self.services.ledger.query(NodesQuery(limit=1000), self._restore_nodes)

    def _restore_nodes(self, page: Page[NodeItem]) -> None:
        presences = self.services.presences
        for item in page.items:
            presence = presences.add(item.node.node_id)
            if item.sample is not None:
                presences.restore(item.node.node_id, item.sample.at, item.sample.body)
            # An IPv6 path has more to it than host and port; the node's next message brings it.
            # Nor has a node that was heard of before a restart shown that it was there, but on this machine.
            path = (item.node.host, item.node.port)
            if ":" not in item.node.host and self.endpoint.needs_no_proof(path):
                presence.path = path
        if page.next is not None:
            self.services.ledger.query(NodesQuery(page.next, 1000), self._restore_nodes)
            return
        self.services.ledger.query(ContentsQuery(), self._restore_contents)

    def _restore_contents(self, page: Page[str]) -> None:
        self._needed.update(dict.fromkeys(page.items))
        if page.next is not None:
            self.services.ledger.query(ContentsQuery(page.next), self._restore_contents)
            return
        store = self.services.artifacts
        if page.status == commands.OK:
            for sha256 in store.digests():
                if sha256 not in self._needed:
                    store.remove(sha256)
        self._needed = {}
        self.services.ledger.query(WaitingQuery(), self._restore_waiting)

    def _restore_waiting(self, page: Page[WaitingItem]) -> None:
        self._take_waiting(page)
        if page.next is not None:
            self.services.ledger.query(WaitingQuery(page.next), self._restore_waiting)
            return
        self._notifier.send(self.services.clock.monotonic())
        ready, self._restored = self._restored, _nothing
        ready()

    # After commits

    def _changed(self, changes: Sequence[Change]) -> None:
        touched: dict[str, None] = {}
        for change in changes:
            self.services.waiting.follow(change)
            if change.job_id is not None:
                touched[f"/updates/{change.job_id}/status"] = None
            if change.kind in (JOB, NODE):
                touched["/nodes" if change.kind == NODE else "/health"] = None
            if change.kind == EXECUTION:
                self._execution_changed(change)
            elif change.kind == JOB and change.state == jobs.RUNNING:
                # What waited while the job was paused or prepared is the store's to say.
                self._resuming += 1
                self.services.ledger.query(WaitingQuery(), self._resumed)
            elif change.kind == NODE and change.node_id is not None:
                if change.state == REMOVED:
                    self.services.presences.remove(change.node_id)
                else:
                    self.services.presences.add(change.node_id)
            elif change.kind == ARTIFACT and change.state == RELEASED and change.sha256 is not None:
                self.services.artifacts.remove(change.sha256)
        for path in touched:
            self.services.changed(path)
        self._notifier.send(self.services.clock.monotonic())

    def _execution_changed(self, change: Change) -> None:
        job_id, node_id = change.job_id, change.node_id
        if job_id is None or node_id is None or change.state not in (executions.PENDING, executions.CANCELLING):
            return
        if job_id in self.services.waiting.jobs_for(node_id):
            self._hint(job_id, node_id)
            if self._resuming:
                self._hinted[job_id, node_id] = None

    def _resumed(self, page: Page[WaitingItem]) -> None:
        self._take_waiting(page)
        if page.next is not None:
            self.services.ledger.query(WaitingQuery(page.next), self._resumed)
        else:
            self._resuming -= 1
            if not self._resuming:
                self._hinted.clear()
        self._notifier.send(self.services.clock.monotonic())

    def _take_waiting(self, page: Page[WaitingItem]) -> None:
        for item in page.items:
            self.services.waiting.add(item)
            if item.state == executions.PENDING and (item.job_id, item.node_id) not in self._hinted:
                self._hint(item.job_id, item.node_id)

    def _hint(self, job_id: str, node_id: str) -> None:
        if self.services.config.push:
            self._notifier.hint(job_id, node_id)

    def _acknowledged(self, job_id: str, node_id: str) -> None:
        self.services.ledger.submit(Notified(self.services.at(), job_id, node_id), _ignore)
        self._notifier.send(self.services.clock.monotonic())


def _nothing() -> None:
    """Nobody waits for the start any more."""


def _ignore(outcome: Outcome) -> None:
    """The node may have reported before its answer to the hint came: then there is nothing to note."""
