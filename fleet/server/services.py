"""What the server's resources share: the ledger and the clock, and the two ways of asking the ledger for an answer."""

from __future__ import annotations

import logging
from typing import Callable, Optional, TypeVar

from fleet.errors import PeerError
from fleet.host.addresses import is_loopback
from fleet.host.clock import Clock
from fleet.host.facts import Facts
from fleet.model.answers import refusal, refuse_error
from fleet.server.access import Access
from fleet.server.artifacts import ArtifactStore
from fleet.server.audit import AuditTrail
from fleet.server.commands import OK, Command, Outcome
from fleet.server.config import ServerConfig
from fleet.server.presence import Presence, Presences
from fleet.server.queries import Item, Page, Query
from fleet.server.refusals import refuse_outcome, refuse_page
from fleet.server.series import Series
from fleet.server.store.interface import Ledger
from fleet.server.waiting import Waiting
from minicoap.codec import codes
from minicoap.core.entropy import Entropy
from minicoap.core.request import Deferred, Path, Request, Response, SecurePath

_SECURE = "coaps://"

logger = logging.getLogger(__name__)

T = TypeVar("T")


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
        secure = tuple(uri for uri in servers if uri.startswith(_SECURE))
        self._servers = {True: secure, False: tuple(uri for uri in servers if uri not in secure)}
        self.changed: Callable[[str], None] = _nobody_observes  # the site's, once there is one
        self.is_observed: Callable[[], bool] = _somebody_may_observe  # the same
        self.needs_no_proof: Callable[[Path], bool] = _all_need_proof  # the endpoint's, once there is one
        self.access = Access(trusts_plain=config.insecure or is_loopback(config.plain_host), wall=clock.wall)
        self.audit = AuditTrail(ledger, clock, self.access)
        self.access.refused = self.audit.refused
        self.series = Series(ledger.record_series)
        self.presences = Presences(config.health_interval, self.series)
        self.waiting = Waiting()

    def servers_for(self, request: Request) -> tuple[str, ...]:
        """The URIs for whoever asks: of CoAPS to one who came by it."""
        return self._servers[isinstance(request.path, SecurePath)]

    def at(self) -> int:
        """The wall clock as UTC milliseconds."""
        return int(self.clock.wall() * 1000)

    def heard(self, request: Request, presence: Presence, at: int) -> bool:
        """Note that a node was heard of; False if it has yet to show that it is where the message says it came from.

        Until then nothing is sent there unasked: a message in a victim's name must not aim hints at it. See `told`. The
        message itself has to show it, by an Echo value: that its address has shown to be real is true of all the other
        nodes' too, at which a forged message could aim.
        """
        presences = self.presences
        row = presence.row
        presences.seen_at[row] = at
        path = request.path
        if not presences.paths.holds(row, path):
            if request.age is None and not self.needs_no_proof(path):
                return False
            presence.path = path
        return True

    def told(self, request: Request, response: Response, is_believed: bool) -> Response:
        """Return the answer to a node, with an Echo value to bring back if it is not believed yet (RFC 9175 §2.3)."""
        if is_believed:
            return response
        options = (*response.options.items, *request.echo_options())
        return Response(response.code, response.payload, options=options)

    def submit(self, request: Request, command: Command, succeed: Callable[[Request, Outcome], Response]) -> Deferred:
        """Answer `request` once `command` is durable: by `succeed`, or by what the command was refused for."""
        answering = Answering(self, request)

        def done(outcome: Outcome) -> None:
            answering.resolve(succeed(request, outcome) if outcome.is_ok else refuse_outcome(request, outcome))

        return answering.submit(command, done)

    def query(
        self, request: Request, query: Query[Item], succeed: Callable[[Request, Page[Item]], Response]
    ) -> Deferred:
        """Answer `request` from the page that `query` leads to: by `succeed`, or by why there is none."""
        answering = Answering(self, request)
        return answering.query(query, lambda page: answering.resolve(succeed(request, page)))


class Answering:
    """A request that is answered once the ledger has spoken, maybe more than once.

    All that waits for the ledger on behalf of a request goes through one of these, so that none is left without an
    answer: what a callback raises is logged, and answered with 5.00, or as what it says of the request. `ended` is
    called before the answer, whatever it is; `deferred` is where it goes, if the request has been deferred already.
    """

    __slots__ = ("_ended", "_services", "deferred", "request")

    def __init__(
        self,
        services: Services,
        request: Request,
        *,
        deferred: Optional[Deferred] = None,
        ended: Optional[Callable[[], None]] = None,
    ) -> None:
        self.request = request
        self.deferred = request.defer() if deferred is None else deferred
        self._services = services
        self._ended = ended

    def resolve(self, response: Response) -> None:
        """Give the answer."""
        ended, self._ended = self._ended, None
        if ended is not None:
            ended()
        self.deferred.resolve(response, self._services.clock.monotonic())

    def query(self, query: Query[Item], found: Callable[[Page[Item]], None]) -> Deferred:
        """Call `found` with what the ledger finds; where it cannot look, that is the answer."""

        def checked(page: Page[Item]) -> None:
            if page.status != OK:
                self.resolve(refuse_page(self.request, page))
            else:
                found(page)

        self._services.ledger.query(query, self._told_of(checked))
        return self.deferred

    def submit(self, command: Command, done: Callable[[Outcome], None]) -> Deferred:
        """Call `done` with the outcome of a command, whichever it is, once that is durable."""
        self._services.ledger.submit(command, self._told_of(done))
        return self.deferred

    def _told_of(self, callback: Callable[[T], None]) -> Callable[[T], None]:
        def call(result: T) -> None:
            try:
                callback(result)
            except Exception as error:  # noqa: BLE001  the boundary to the ledger: whoever asked has to be told
                self._failed(error)

        return call

    def _failed(self, error: Exception) -> None:
        is_answered = self.deferred.response is not None
        if isinstance(error, PeerError) and not is_answered:
            self.resolve(refuse_error(self.request, error))
            return
        logger.error("the answer to a request failed", exc_info=error)
        if not is_answered:
            self.resolve(refusal(self.request, codes.INTERNAL_SERVER_ERROR, ""))


def _somebody_may_observe() -> bool:
    """Nobody has to ask."""
    return True


def _nobody_observes(path: str) -> None:
    """Nothing is served yet."""


def _all_need_proof(path: Path) -> bool:
    """There is no endpoint yet."""
    return False
