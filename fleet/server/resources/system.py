"""`/system`: what the server is and uses, and its restart and shutdown."""

from __future__ import annotations

import logging
from typing import Any, Callable

import msgspec

import fleet
from fleet.errors import InvalidError
from fleet.host.addresses import plain_host
from fleet.host.files import Files
from fleet.model.answers import FORMATS, answer, arguments, guarded
from fleet.model.api import SystemAction, parse_system_action
from fleet.model.times import iso_from_ms
from fleet.server.services import Services
from minicoap.codec import codes
from minicoap.core.request import Request, Response, address_of
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
    """The server itself; `act` is told of restart and shutdown once the answer to the request is on its way.

    Whoever missed that answer asks again, and finds the server that was restarted: which must know that it was.
    """

    def __init__(self, services: Services, files: Files, act: Callable[[str], None]) -> None:
        self._services = services
        self._files = files
        self._act = act
        self._started_at = services.clock.monotonic()
        self._done_file = f"{services.config.data_dir}/last-action"
        known = files.size(self._done_file) is not None
        self._done = files.read(self._done_file).decode() if known else ""  # action and request_id of the last one

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
                observable=True,
            )
        ]

    def _get(self, request: Request) -> Response:
        arguments(request)
        return answer(request, self._told())

    def _told(self) -> SystemAnswer:
        services = self._services
        system = services.facts.system()
        return SystemAnswer(
            status="running",
            version=fleet.__version__,
            time=iso_from_ms(services.at()),
            uptime=round(services.clock.monotonic() - self._started_at, 3),
            host=system._asdict(),
            process=services.facts.process()._asdict(),
            store={"artifact_bytes": services.artifacts.used, "artifact_quota": services.config.artifact_quota},
        )

    def _post(self, request: Request) -> Response:
        arguments(request)
        wanted = parse_system_action(request.payload, request.content_format)
        if wanted.action not in (RESTART, SHUTDOWN):
            return answer(request, self._told(), codes.CHANGED)
        if not self._is_repeat(wanted):
            host, port = address_of(request.path)[:2]
            logger.warning("%s asked for by %s port %s", wanted.action, plain_host(host), port)
            self._services.audit.record(request, f"system.{wanted.action}", "")
            self._act(wanted.action)
        status = "restarting" if wanted.action == RESTART else "shutting down"
        return answer(request, SystemActionAnswer(status), codes.CHANGED)

    def _is_repeat(self, wanted: SystemAction) -> bool:
        """Whether this very request was carried out before; if not, remember it, also for the next process."""
        if wanted.request_id is None:
            return False
        action, _, request_id = self._done.partition(" ")
        if request_id == wanted.request_id:
            if action == wanted.action:
                return True
            text = "this request_id was used for another request; give each request one of its own"
            raise InvalidError(text, "$.request_id")
        self._done = f"{wanted.action} {wanted.request_id}"
        try:
            self._files.replace(self._done_file, self._done.encode())
        except OSError as error:
            logger.error("a repeat of this %s would be carried out again: %s", wanted.action, error)
        return False
