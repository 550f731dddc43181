"""What the server's resources share: the ledger and the clock, and the two ways of asking the ledger for an answer."""

from __future__ import annotations

from typing import Callable

from fleet.host.addresses import is_loopback
from fleet.host.clock import Clock
from fleet.host.facts import Facts
from fleet.server.access import Access
from fleet.server.artifacts import ArtifactStore
from fleet.server.audit import AuditTrail
from fleet.server.commands import Command, Outcome
from fleet.server.config import ServerConfig
from fleet.server.presence import Presences
from fleet.server.queries import Item, Page, Query
from fleet.server.refusals import refuse_outcome, refuse_page
from fleet.server.series import Series
from fleet.server.store.interface import Ledger
from fleet.server.waiting import Waiting
from minicoap.core.entropy import Entropy
from minicoap.core.request import Deferred, Request, Response


class Services:
    """The server's parts, for its resources; `servers` are the URIs that nodes are told, ordered by preference."""

    def __init__(
        self,
        config: ServerConfig,
        *,
        ledger: Ledger,
        clock: Clock,
        entropy: Entropy,
        facts: Facts,
        artifacts: ArtifactStore,
        servers: tuple[str, ...],
    ) -> None:
        self.config = config
        self.ledger = ledger
        self.clock = clock
        self.entropy = entropy
        self.facts = facts
        self.artifacts = artifacts
        self.servers = servers
        self.changed: Callable[[str], None] = _nobody_observes  # the site's, once there is one
        self.access = Access(trusts_plain=config.insecure or is_loopback(config.host), wall=clock.wall)
        self.audit = AuditTrail(ledger, clock, self.access)
        self.access.refused = self.audit.refused
        self.series = Series(ledger.record_series)
        self.presences = Presences(config.health_interval, self.series)
        self.waiting = Waiting()

    def at(self) -> int:
        """The wall clock as UTC milliseconds."""
        return int(self.clock.wall() * 1000)

    def submit(self, request: Request, command: Command, succeed: Callable[[Request, Outcome], Response]) -> Deferred:
        """Answer `request` once `command` is durable: by `succeed`, or by what the command was refused for."""
        deferred = request.defer()

        def done(outcome: Outcome) -> None:
            response = succeed(request, outcome) if outcome.is_ok else refuse_outcome(request, outcome)
            deferred.resolve(response, self.clock.monotonic())

        self.ledger.submit(command, done)
        return deferred

    def query(
        self, request: Request, query: Query[Item], succeed: Callable[[Request, Page[Item]], Response]
    ) -> Deferred:
        """Answer `request` from the page that `query` leads to: by `succeed`, or by why there is none."""
        deferred = request.defer()

        def done(page: Page[Item]) -> None:
            response = succeed(request, page) if page.status == "ok" else refuse_page(request, page)
            deferred.resolve(response, self.clock.monotonic())

        self.ledger.query(query, done)
        return deferred


def _nobody_observes(path: str) -> None:
    """Nothing is served yet."""
