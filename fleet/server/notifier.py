"""Hints to nodes that a job waits for them: `POST /updates/available`.

A hint may be lost, refused or never sent: a node's next report tells it the same. So hints are sent a few at a time,
and nothing is kept of one that failed.
"""

from __future__ import annotations

from typing import Callable, Union

from fleet.model.api import Hint
from fleet.model.formats import JSON, encode
from fleet.server.presence import Presences
from minicoap.codec import codes
from minicoap.core.endpoint import EndpointCore
from minicoap.core.request import Response
from minicoap.errors import CoapError, NetworkError

AT_ONCE = 64  # hints under way
WAITING_LIMIT = 200_000  # hints not sent yet; more are left to the nodes' reports
_PATH = ("updates", "available")


class Notifier:
    """Sends hints through `endpoint`; `acknowledged(job_id, node_id)` is called for each that a node took."""

    def __init__(self, endpoint: EndpointCore, presences: Presences, acknowledged: Callable[[str, str], None]) -> None:
        self._endpoint = endpoint
        self._presences = presences
        self._acknowledged = acknowledged
        self._waiting: dict[tuple[str, str], None] = {}
        self._under_way = 0

    def hint(self, job_id: str, node_id: str) -> None:
        """Have a hint sent."""
        if len(self._waiting) < WAITING_LIMIT:
            self._waiting[job_id, node_id] = None

    def send(self, now: float) -> None:
        """Send what may be sent now."""
        while self._waiting and self._under_way < AT_ONCE:
            job_id, node_id = next(iter(self._waiting))
            del self._waiting[job_id, node_id]
            presence = self._presences.find(node_id)
            if presence is None or presence.path is None:
                continue
            under_way = _UnderWay(self, job_id, node_id)
            try:
                self._endpoint.request(
                    codes.POST,
                    presence.path,
                    under_way.done,
                    now,
                    uri_path=_PATH,
                    payload=encode(Hint(job_id)),
                    content_format=JSON,
                )
            except NetworkError:
                return
            self._under_way += 1

    def answered(self, job_id: str, node_id: str, outcome: Union[Response, CoapError]) -> None:
        """Take the outcome of a hint."""
        self._under_way -= 1
        if isinstance(outcome, Response) and outcome.is_success:
            self._acknowledged(job_id, node_id)


class _UnderWay:
    __slots__ = ("_job_id", "_node_id", "_notifier")

    def __init__(self, notifier: Notifier, job_id: str, node_id: str) -> None:
        self._notifier = notifier
        self._job_id = job_id
        self._node_id = node_id

    def done(self, outcome: Union[Response, CoapError]) -> None:
        self._notifier.answered(self._job_id, self._node_id, outcome)
