"""`/health` and `/test`: nodes report how they are, operators ask how the fleet is."""

from __future__ import annotations

from typing import Any, Union

import msgspec

from fleet.errors import InvalidError
from fleet.model.answers import FORMATS, answer, arguments, guarded, refusal
from fleet.model.api import parse_brief_report, parse_health, parse_health_patch
from fleet.model.api_answers import BriefAnswer, HealthAnswer
from fleet.model.formats import CBOR, JSON, convert, decode, encode
from fleet.model.health import HealthReport, report_etag
from fleet.model.mergepatch import merge_patch
from fleet.model.times import iso_from_ms
from fleet.server.presence import SMALL_REPORT, Presence
from fleet.server.queries import Figures, FiguresQuery, Page, Sample
from fleet.server.services import Services
from minicoap.codec import codes
from minicoap.codec.contentformats import MERGE_PATCH
from minicoap.codec.options import IF_MATCH, IF_NONE_MATCH
from minicoap.core.request import Deferred, Request, Response
from minicoap.core.resource import Resource

REPORT_LIMIT = 65536  # bytes of a report, also of one that patches have added to
_CONDITIONAL = 1 << IF_MATCH | 1 << IF_NONE_MATCH


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
                ipatch=guarded(self._patch, (MERGE_PATCH, CBOR)),
                conditional=True,
                max_body=REPORT_LIMIT,
                title="Health of the fleet",
                resource_type="fleet.health",
                content_formats=FORMATS,
                observable=True,
            ),
            Resource(
                "/h",
                ipatch=guarded(self._brief, (None, CBOR)),
                conditional=True,
                max_body=REPORT_LIMIT,
                title="Reports of nodes, in few bytes",
                content_formats=(CBOR,),
            ),
            Resource("/test", get=_test, title="Connectivity", resource_type="fleet.test", content_formats=FORMATS),
        ]

    def _put(self, request: Request) -> Response:
        arguments(request)
        report = parse_health(request.payload, request.content_format)
        refused = self._services.access.refuses_node(request, report.node_id)
        if refused is not None:
            return refused
        presence = self._services.presences.find(report.node_id)
        if presence is None:
            return _unknown(request, report.node_id)
        if not _condition_holds(request, presence):
            return _outdated(request)
        is_cbor = request.content_format == CBOR
        body = encode(decode(request.payload, CBOR, object)) if is_cbor else request.payload
        return self._taken(request, presence, report, body)

    def _patch(self, request: Request) -> Response:
        """Take what changed since the report that If-Match names: a merge patch (RFC 8132 §3, RFC 7396)."""
        arguments(request)
        is_cbor = request.content_format == CBOR
        node_id, patch = parse_health_patch(request.payload, CBOR if is_cbor else JSON)
        return self._patched(request, node_id, patch)

    def _brief(self, request: Request) -> Response:
        """Take a merge patch in the fewest bytes, and answer in as few: what is not said is as it was, or as usual.

        A certificate says who a node is as well as `node_id` does, and no payload that nothing has changed. Without
        If-Match that is about whatever report there is.
        """
        arguments(request)
        node_id, patch = parse_brief_report(request.payload)
        if node_id is None:
            node_id = self._services.access.node_id(request)
            if node_id is None:
                raise InvalidError("only a node with a certificate need not say who it is", "$.node_id")
        return self._patched(request, node_id, patch, is_brief=True)

    def _patched(self, request: Request, node_id: str, patch: dict[str, Any], *, is_brief: bool = False) -> Response:
        refused = self._services.access.refuses_node(request, node_id)
        if refused is not None:
            return refused
        presence = self._services.presences.find(node_id)
        if presence is None:
            return _unknown(request, node_id)
        if not _condition_holds(request, presence) or (is_brief and not presence.body):
            return _outdated(request)
        patched = last_health(presence)
        body = presence.body
        if patch or not body:
            patched = merge_patch(patched, patch)
            body = encode(patched)
        report = convert(patched, HealthReport)
        if len(body) > REPORT_LIMIT:
            text = f"the report would have {len(body)} bytes; at most {REPORT_LIMIT} are kept"
            return refusal(request, codes.REQUEST_ENTITY_TOO_LARGE, text)
        return self._taken(request, presence, report, body, is_brief=is_brief)

    def _taken(
        self, request: Request, presence: Presence, report: HealthReport, body: bytes, *, is_brief: bool = False
    ) -> Response:
        """Keep a node's report; its ETag in the answer is what a later patch refers to."""
        services = self._services
        if not services.presences.has_room(presence, body):
            text = f"the server has no room for large reports of so many nodes; send one of {SMALL_REPORT} bytes"
            return refusal(request, codes.REQUEST_ENTITY_TOO_LARGE, text)
        at = services.at()
        # A change of state goes to disk at once; the rest may wait for the next flush (samples).
        has_changed = presence.healthy != report.overall_healthy or not presence.body
        is_believed = services.heard(request, presence, at)
        presence.healthy = report.overall_healthy
        services.presences.keep(presence, body)
        services.series.record(presence.row, at, report)
        services.ledger.record((Sample(report.node_id, at, body),), flush=has_changed)
        services.changed(f"/nodes/{report.node_id}/health")
        services.changed(f"/nodes/{report.node_id}/metrics")
        if has_changed:
            services.changed("/health")
            services.changed("/nodes")
        jobs = tuple(services.waiting.jobs_for(report.node_id))
        if is_brief:
            response = _brief_answer(jobs)
        else:
            told = HealthAnswer("ok", iso_from_ms(at), jobs, services.servers_for(request))
            response = answer(request, told, codes.CHANGED, etag=report_etag(body))
        return services.told(request, response, is_believed)

    def _get(self, request: Request) -> Union[Response, Deferred]:
        arguments(request)
        if request.options.mask & _CONDITIONAL:
            return refusal(request, codes.BAD_OPTION, "If-Match and If-None-Match are for reports, PUT and iPATCH")
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


def _brief_answer(jobs: tuple[str, ...]) -> Response:
    if not jobs:
        return Response(codes.CHANGED)
    return Response(codes.CHANGED, encode(BriefAnswer(jobs), CBOR, numbers=True), CBOR)


def _condition_holds(request: Request, presence: Presence) -> bool:
    """Whether a node's report is what If-Match and If-None-Match want (RFC 7252 §5.10.8)."""
    options = request.options
    if not options.mask & _CONDITIONAL:
        return True
    tags = options.all(IF_MATCH)
    if tags and not (presence.body and (b"" in tags or report_etag(presence.body) in tags)):
        return False
    return not (options.mask & 1 << IF_NONE_MATCH and presence.body)


def _unknown(request: Request, node_id: str) -> Response:
    return refusal(request, codes.NOT_FOUND, f"node {node_id!r} is not registered; POST /nodes first", "$.node_id")


def _outdated(request: Request) -> Response:
    text = "this is not about the report that the server has; send the whole report with PUT"
    return refusal(request, codes.PRECONDITION_FAILED, text)


def last_health(presence: Presence) -> Any:
    """A node's last report as dicts and lists; None if there is none yet."""
    return msgspec.json.decode(presence.body) if presence.body else None
