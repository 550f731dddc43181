"""`/nodes/{id}/metrics`: what a node measured, as SenML.

Without `from` it is the last `limit` intervals before `to`, of which the one that is running changes with each report:
what a client observes. With `from` it is the first `limit` of them from there on, so that a client pages through by
giving, as the next `from`, the time behind the last one that it got, until there are none.
"""

from __future__ import annotations

from typing import NamedTuple, Union

from fleet.errors import InvalidError
from fleet.model.answers import arguments, guarded, refusal
from fleet.model.senml import CELSIUS, RATIO, SENML_CBOR, SENML_JSON, Record, encode_senml
from fleet.model.times import ms_from_iso
from fleet.server.queries import Page, SeriesQuery, SeriesRow
from fleet.server.series import FIVE_MINUTES, HOUR, KEPT_HOURS, RESOLUTIONS, Point, merge, points
from fleet.server.services import Services
from minicoap.codec import codes
from minicoap.codec.contentformats import CBOR, JSON
from minicoap.core.request import Deferred, Request, Response
from minicoap.core.resource import Resource

LIMIT_DEFAULT = 288
LIMIT = 720
"""Intervals in one answer at most: all hours that are kept."""

# SenML is JSON, and CBOR: who asks for no more than that gets it under the name that was asked for.
_WRITTEN = {SENML_JSON: SENML_JSON, SENML_CBOR: SENML_CBOR, JSON: SENML_JSON, CBOR: SENML_CBOR}


class Asked(NamedTuple):
    """What a request asks for: seconds of UTC from `start` up to, but not including, `end`."""

    resolution: int
    start: float
    end: float
    limit: int


class MetricsResource:
    """The series of nodes."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def resources(self) -> list[Resource]:
        """The table's rows."""
        return [
            Resource(
                "/nodes/{id}/metrics",
                get=guarded(self._get),
                content_formats=tuple(_WRITTEN),
                observable=True,
                notify_confirmable=False,
            )
        ]

    def _get(self, request: Request) -> Union[Response, Deferred]:
        services = self._services
        node_id = request.args["id"]
        presence = services.presences.find(node_id)
        if presence is None:
            return refusal(request, codes.NOT_FOUND, f"there is no node {node_id[:80]!r}; see GET /nodes")
        asked = parse_metrics_query(arguments(request, "from", "to", "resolution", "limit"), services.at())
        # Taken before the store is asked: an hour that ends meanwhile is then found twice, and joined, and not missed.
        running = services.series.running(presence.row)

        def told(request: Request, page: Page[SeriesRow]) -> Response:
            bodies = {row.hour: row.body for row in page.items}
            if running is not None:
                hour, row = running
                known, body = bodies.get(hour), row.body(asked.resolution)
                bodies[hour] = body if known is None else merge(asked.resolution, known, body)
            number = SENML_JSON if request.accept is None else request.accept
            payload = encode_senml(_records(node_id, bodies, asked), _WRITTEN[number], name=_name(node_id, ""))
            return Response(codes.CONTENT, payload, number, max_age=0)

        query = SeriesQuery(node_id, asked.resolution, int(asked.start // HOUR), int(-(-asked.end // HOUR)))
        return services.query(request, query, told)


def parse_metrics_query(query: dict[str, str], now: int) -> Asked:
    """Read the arguments of `GET /nodes/{id}/metrics` at `now` (UTC ms); raises InvalidError naming one."""
    resolution = query.get("resolution", str(FIVE_MINUTES))
    if resolution not in map(str, RESOLUTIONS):
        known = " and ".join(map(str, RESOLUTIONS))
        raise InvalidError(f"there is no resolution {resolution[:80]!r}; there are {known} seconds", "resolution")
    limit = query.get("limit", str(LIMIT_DEFAULT))
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 4 and 1 <= int(limit) <= LIMIT):
        raise InvalidError(f"{limit[:80]!r} is no limit; give a number from 1 to {LIMIT}", "limit")
    step = int(resolution)
    end = now + 1 if "to" not in query else min(ms_from_iso(query["to"], "to"), now + 1)
    start = end - int(limit) * step * 1000 if "from" not in query else ms_from_iso(query["from"], "from")
    # The store keeps no more, and is not to look for what it cannot have.
    start = max(start, now - KEPT_HOURS[step] * HOUR * 1000)
    return Asked(step, start / 1000, max(start, end) / 1000, int(limit))


def _records(node_id: str, bodies: dict[int, bytes], asked: Asked) -> list[Record]:
    """The records of what was asked for: series after series, each by time."""
    found: dict[int, list[Point]] = {}
    for hour in sorted(bodies):
        for point in points(asked.resolution, hour, bodies[hour]):
            if asked.start <= point.at < asked.end and (point.at in found or len(found) < asked.limit):
                found.setdefault(point.at, []).append(point)
    series: dict[str, list[Record]] = {}
    for point in (point for at in found for point in found[at]):
        unit, scale = (CELSIUS, 1) if point.metric == "temperature" else (RATIO, 100)
        for suffix, value in (("", point.mean), (":min", point.least), (":max", point.greatest)):
            if value is not None:
                name = _name(node_id, point.metric + suffix)
                series.setdefault(name, []).append(Record(name, _scaled(value, scale), point.at, unit))
    return [record for name in sorted(series) for record in series[name]]


def _scaled(value: float, scale: int) -> float:
    return round(value / scale, 3)


def _name(node_id: str, series: str) -> str:
    """The name of a series: the characters of node ids are among those of names, but they may begin with another."""
    return f"node:{node_id}:{series}"
