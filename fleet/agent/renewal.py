"""The node's certificate is renewed before it ends, over the connection that it secures itself (RFC 9148, /sren).

A node that could not for the last third of its certificate's life has to be enrolled anew.
"""

from __future__ import annotations

import logging
from typing import Callable, Optional, Union

from fleet.agent.backoff import Backoff
from fleet.errors import FleetError, RefusedError
from fleet.host.clock import Clock
from fleet.pki.enrolment import Retry, read_certificate, renew_request
from fleet.pki.keystore import Holder, Keystore
from fleet.pki.renewal import KnownTime, renewal_due_at
from minicoap.core.endpoint import EndpointCore
from minicoap.core.entropy import Entropy
from minicoap.core.request import Path, Response
from minicoap.core.timers import Timers
from minicoap.errors import CoapError, NetworkError

logger = logging.getLogger(__name__)

LOOK = 3600.0  # seconds between looks at the time, which may be set meanwhile
FIRST_WAIT, LONGEST_WAIT = 60.0, 6 * 3600.0  # seconds between attempts


class Renewal:
    """Keeps the certificate in `keystore` good, by asking the server at `path`.

    `time` is what the node knows of the time. `renewed` is called when there is a new certificate to be used.
    """

    def __init__(
        self,
        endpoint: EndpointCore,
        path: Path,
        keystore: Keystore,
        holder: Holder,
        *,
        clock: Clock,
        time: KnownTime,
        timers: Timers,
        entropy: Entropy,
        renewed: Callable[[Holder], None],
    ) -> None:
        self._endpoint = endpoint
        self._path = path
        self._keystore = keystore
        self._clock = clock
        self._time = time
        self._timers = timers
        self._renewed = renewed
        self._backoff = Backoff(entropy, FIRST_WAIT, LONGEST_WAIT)
        self.holder = holder

    def look(self, now: float) -> None:
        """Renew if it is time; look again later. Call once, when the node starts."""
        at = self._time.now()
        wait = LOOK if at is None else renewal_due_at(self.holder) - at
        if wait > 0:
            self._timers.at(now + min(wait, LOOK), self.look)
            return
        try:
            request = renew_request(self._keystore.begin(self.holder.principal).der)
            self._endpoint.request(
                request.code,
                self._path,
                self._answered,
                now,
                uri_path=request.path,
                payload=request.payload,
                content_format=request.content_format,
                accept=request.accept,
            )
        except (FleetError, NetworkError) as error:
            self._again(str(error))

    def _answered(self, outcome: Union[Response, CoapError]) -> None:
        if not isinstance(outcome, Response):
            self._again(str(outcome))
            return
        try:
            answer = read_certificate(outcome)
            if isinstance(answer, Retry):
                self._again(answer.reason, float(answer.seconds))
                return
            # The authority stays who it was: a server cannot make this node trust another.
            self.holder = self._keystore.finish(answer, self.holder.trust)
        except RefusedError as error:
            self._again(f"the server refused: {error}", LONGEST_WAIT)
            return
        except FleetError as error:
            self._again(str(error))
            return
        logger.info("the certificate was renewed")
        self._backoff.reset()
        self._time.passed(self.holder.not_before)
        self._timers.at(self._clock.monotonic() + LOOK, self.look)
        self._renewed(self.holder)

    def _again(self, why: str, wait: Optional[float] = None) -> None:
        wait = self._backoff.wait() if wait is None else wait
        logger.warning("the certificate is not renewed yet, again in %.0f s: %s", wait, why)
        self._timers.at(self._clock.monotonic() + wait, self.look)
