"""`/health` and `/test`: nodes report how they are, operators ask how the fleet is."""

from __future__ import annotations

from typing import Any

import msgspec

from fleet.model.answers import FORMATS, answer, arguments, guarded, refusal
from fleet.model.api import HealthAnswer, parse_health
from fleet.model.formats import CBOR, encode
from fleet.model.times import iso_from_ms
from fleet.server.presence import Presence
from fleet.server.queries import Figures, FiguresQuery, Page, Sample
from fleet.server.services import Services
from minicoap.codec import codes
from minicoap.core.request import Deferred, Request, Response
from minicoap.core.resource import Resource


class TestAnswer(msgspec.Struct, frozen=True):
    """To `GET /test`."""

    status: str = "ok"


class FleetHealthAnswer(msgspec.Struct, frozen=True):
    """To `GET /health`: the fleet on a page; `nodes` by status, `jobs` by state, `server` its own figures."""

    status: str
    time: str
    nodes: dict[str, int]
    jobs: dict[str, int]
    server: dict[str, Any]


class HealthResource:
    """Health of nodes in, health of the fleet out."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def resources(self) -> list[Resource]:
        """The table's rows."""
        return [
            Resource(
                "/health",
                get=guarded(self._get),
                put=guarded(self._put),
                title="Health of the fleet",
                resource_type="fleet.health",
                content_formats=FORMATS,
                observable=True,
            ),
            Resource("/test", get=_test, title="Connectivity", resource_type="fleet.test", content_formats=FORMATS),
        ]

    def _put(self, request: Request) -> Response:
        arguments(request)
        services = self._services
        report = parse_health(request.payload, request.content_format)
        presence = services.presences.find(report.node_id)
        if presence is None:
            return refusal(
                request, codes.NOT_FOUND, f"node {report.node_id!r} is not registered; POST /nodes first", "$.node_id"
            )
        at = services.at()
        body = request.payload if request.content_format != CBOR else encode(report)
        # A change of state goes to disk at once; the rest may wait for the next flush (samples).
        has_changed = presence.healthy != report.overall_healthy or not presence.body
        presence.seen_at = at
        presence.path = request.path
        presence.healthy = report.overall_healthy
        presence.body = body
        services.ledger.record((Sample(report.node_id, at, body),), flush=has_changed)
        services.changed(f"/nodes/{report.node_id}/health")
        if has_changed:
            services.changed("/health")
            services.changed("/nodes")
        told = HealthAnswer("ok", iso_from_ms(at), tuple(services.waiting.jobs_for(report.node_id)), services.servers)
        return answer(request, told, codes.CHANGED)

    def _get(self, request: Request) -> Deferred:
        arguments(request)
        return self._services.query(request, FiguresQuery(), self._fleet_health)

    def _fleet_health(self, request: Request, page: Page[Figures]) -> Response:
        services = self._services
        at = services.at()
        figures = page.items[0]
        nodes = services.presences.counts(at)
        health = FleetHealthAnswer(
            status="degraded" if nodes["offline"] or nodes["unhealthy"] else "ok",
            time=iso_from_ms(at),
            nodes={"registered": len(services.presences), **nodes},
            jobs=figures.jobs,
            server={
                "artifacts": figures.artifacts,
                "artifact_bytes": figures.artifact_bytes,
                "executions_under_way": len(services.waiting),
            },
        )
        return answer(request, health)


def _test(request: Request) -> Response:
    return answer(request, TestAnswer())


def last_health(presence: Presence) -> Any:
    """A node's last report as dicts and lists; None if there is none yet."""
    return msgspec.json.decode(presence.body) if presence.body else None
