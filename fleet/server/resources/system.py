"""`/system`: what the server is and uses, and its restart and shutdown."""

from __future__ import annotations

import logging
from typing import Any, Callable

import msgspec

import fleet
from fleet.model.answers import FORMATS, answer, arguments, guarded
from fleet.model.api import parse_system_action
from fleet.model.times import iso_from_ms
from fleet.server.services import Services
from minicoap.codec import codes
from minicoap.core.request import Request, Response
from minicoap.core.resource import Resource

logger = logging.getLogger(__name__)

RESTART = "restart"
SHUTDOWN = "shutdown"


class SystemAnswer(msgspec.Struct, frozen=True):
    """To `GET /system`: sizes in bytes, times in seconds."""

    status: str
    version: str
    time: str
    uptime: float
    host: dict[str, Any]
    process: dict[str, Any]
    store: dict[str, Any]


class SystemActionAnswer(msgspec.Struct, frozen=True):
    """To `POST /system` with restart or shutdown."""

    status: str


class SystemResource:
    """The server itself; `act` is told of restart and shutdown once the answer to the request is on its way."""

    def __init__(self, services: Services, act: Callable[[str], None]) -> None:
        self._services = services
        self._act = act
        self._started_at = services.clock.monotonic()

    def resources(self) -> list[Resource]:
        """The table's rows."""
        return [
            Resource(
                "/system",
                get=guarded(self._get),
                post=guarded(self._post),
                title="The server",
                resource_type="fleet.system",
                content_formats=FORMATS,
            )
        ]

    def _get(self, request: Request) -> Response:
        arguments(request)
        services = self._services
        system = services.facts.system()
        told = SystemAnswer(
            status="running",
            version=fleet.__version__,
            time=iso_from_ms(services.at()),
            uptime=round(services.clock.monotonic() - self._started_at, 3),
            host=system._asdict(),
            process=services.facts.process()._asdict(),
            store={"artifact_bytes": services.artifacts.used, "artifact_quota": services.config.artifact_quota},
        )
        return answer(request, told)

    def _post(self, request: Request) -> Response:
        wanted = parse_system_action(request.payload, request.content_format)
        if wanted.action not in (RESTART, SHUTDOWN):
            return self._get(request)
        logger.warning("%s asked for by %s port %s", wanted.action, request.path[0], request.path[1])
        self._act(wanted.action)
        status = "restarting" if wanted.action == RESTART else "shutting down"
        return answer(request, SystemActionAnswer(status), codes.CHANGED)
