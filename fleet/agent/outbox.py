"""Reports to the server: the newest one matters, the last one must arrive.

One report is under way at a time. A newer one waits for its turn and takes the place of any other that waits; one that
gets no answer is sent again after a while, in its newest form.
"""

from __future__ import annotations

import logging
from typing import Callable, Optional, Union

from fleet.agent.backoff import Backoff
from fleet.agent.machine import Report
from fleet.errors import FleetError
from fleet.host.clock import Clock
from fleet.model.answers import said
from fleet.model.api import REPORT, ReportRequest
from fleet.model.api_answers import ReportAnswer
from fleet.model.formats import CBOR, decode, encode
from minicoap.codec import codes
from minicoap.core.endpoint import EndpointCore
from minicoap.core.entropy import Entropy
from minicoap.core.request import Path, Response
from minicoap.core.timers import Timers
from minicoap.errors import CoapError, NetworkError

logger = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 2.0, 300.0  # seconds
_FINAL_REFUSALS = frozenset((codes.NOT_FOUND, codes.CONFLICT, codes.UNPROCESSABLE_ENTITY, codes.BAD_REQUEST))


class Outbox:
    """Sends reports of node `node_id` to the server at `path`.

    `taken(report, state)` is called when the server has taken a report, with the state it is in there;
    `refused(report)` when it never will.
    """

    def __init__(
        self,
        endpoint: EndpointCore,
        path: Path,
        node_id: str,
        *,
        clock: Clock,
        timers: Timers,
        entropy: Entropy,
        taken: Callable[[Report, str], None],
        refused: Callable[[Report], None],
    ) -> None:
        self._endpoint = endpoint
        self._path = path
        self._node_id = node_id
        self._clock = clock
        self._timers = timers
        self._taken = taken
        self._refused = refused
        self._backoff = Backoff(entropy, FIRST_WAIT, LONGEST_WAIT)
        self._newest: Optional[Report] = None
        self._is_busy = False  # a report is under way, or a wait before the next attempt

    def put(self, report: Report) -> None:
        """Send a report, as soon as the one before it is answered."""
        self._newest = report
        if not self._is_busy:
            self._send()

    def _send(self) -> None:
        report = self._newest
        if report is None:
            return
        request = ReportRequest(
            action=REPORT,
            job_id=report.job_id,
            node_id=self._node_id,
            attempt=report.attempt,
            sequence=report.sequence,
            state=report.state,
            bytes_done=report.bytes_done or 0,
            bytes_total=report.bytes_total,
            reason=report.reason or None,
            waiting_for=report.waiting_for,
            output=report.output or None,
        )
        self._is_busy = True
        try:
            self._endpoint.request(
                codes.POST,
                self._path,
                _UnderWay(self, report).answered,
                self._clock.monotonic(),
                uri_path=("updates",),
                payload=encode(request, CBOR, numbers=True),
                content_format=CBOR,
            )
        except NetworkError as error:
            self._retry(str(error))

    def answered(self, report: Report, outcome: Union[Response, CoapError]) -> None:
        """Take the outcome of a report."""
        if isinstance(outcome, Response) and outcome.is_success:
            self._settled(report)
            try:
                state = decode(outcome.body, outcome.content_format, ReportAnswer).state
            except FleetError:
                state = report.state  # a success all the same; what else it says is only a help
            self._taken(report, state)
        elif isinstance(outcome, Response) and outcome.code in _FINAL_REFUSALS:
            logger.warning("the server refuses the report %s of job %s: %s", report.state, report.job_id, said(outcome))
            self._settled(report)
            self._refused(report)
        else:
            self._retry(said(outcome) if isinstance(outcome, Response) else str(outcome))

    def _settled(self, report: Report) -> None:
        self._is_busy = False
        self._backoff.reset()
        if self._newest is report:
            self._newest = None
        else:
            self._send()

    def _retry(self, why: str) -> None:
        wait = self._backoff.wait()
        logger.info("a report is sent again in %.0f s: %s", wait, why)
        self._timers.at(self._clock.monotonic() + wait, self._waited)

    def _waited(self, now: float) -> None:
        self._is_busy = False
        self._send()


class _UnderWay:
    __slots__ = ("_outbox", "_report")

    def __init__(self, outbox: Outbox, report: Report) -> None:
        self._outbox = outbox
        self._report = report

    def answered(self, outcome: Union[Response, CoapError]) -> None:
        self._outbox.answered(self._report, outcome)
