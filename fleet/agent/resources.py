"""What a node serves: its health, what it is, and an ear for the hint that a job waits."""

from __future__ import annotations

from typing import Any, Callable

import msgspec

import fleet
from fleet.host.facts import Facts
from fleet.model.answers import FORMATS, answer, arguments, guarded
from fleet.model.api import parse_hint
from fleet.model.api_answers import HintAnswer
from fleet.model.health import HealthReport
from minicoap.codec import codes
from minicoap.core.request import Request, Response
from minicoap.core.resource import Resource


class NodeSystemAnswer(msgspec.Struct, frozen=True):
    """To `GET /system` on a node."""

    node_id: str
    version: str
    registered: bool
    job: Any
    host: dict[str, Any]


class NodeResources:
    """The resources of node `node_id`; `hinted` is called with a job's id."""

    def __init__(
        self,
        node_id: str,
        facts: Facts,
        *,
        health: Callable[[], HealthReport],
        status: Callable[[], tuple[bool, Any]],
        hinted: Callable[[str], None],
    ) -> None:
        self._node_id = node_id
        self._facts = facts
        self._health = health
        self._status = status
        self._hinted = hinted

    def resources(self) -> list[Resource]:
        """The table's rows."""
        return [
            Resource(
                "/health",
                get=guarded(self._get_health),
                title="Health of this node",
                resource_type="fleet.health",
                content_formats=FORMATS,
                observable=True,
            ),
            Resource(
                "/system",
                get=guarded(self._get_system),
                title="This node",
                resource_type="fleet.system",
                content_formats=FORMATS,
                observable=True,
            ),
            Resource("/updates/available", post=guarded(self._hint), content_formats=FORMATS, max_body=4096),
        ]

    def _get_health(self, request: Request) -> Response:
        arguments(request)
        return answer(request, self._health())

    def _get_system(self, request: Request) -> Response:
        arguments(request)
        registered, job = self._status()
        host = self._facts.system()._asdict()
        return answer(request, NodeSystemAnswer(self._node_id, fleet.__version__, registered, job, host))

    def _hint(self, request: Request) -> Response:
        hint = parse_hint(request.payload, request.content_format)
        self._hinted(hint.job_id)
        return answer(request, HintAnswer("noted", hint.job_id), codes.CHANGED)
