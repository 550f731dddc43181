"""The node as a member of its fleet: it registers, reports its health, and hears which jobs wait for it.

The report is the poll that everything else relies on: whatever hint was lost, the answer to the next report makes good.
It is sent each minute for years, so each byte of it counts: CBOR with integer keys, what changed and no more, to `/h`,
and four times out of five without an answer.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, Callable, NamedTuple, Optional, Union

import msgspec

from fleet.agent.backoff import Backoff
from fleet.agent.config import AgentConfig
from fleet.errors import FleetError
from fleet.host.clock import Clock
from fleet.host.facts import Facts
from fleet.model.answers import said
from fleet.model.api_answers import RegistrationAnswer
from fleet.model.formats import CBOR, decode, encode
from fleet.model.health import HealthReport, report_etag
from fleet.model.mergepatch import make_patch, merge_patch
from fleet.model.nodes import Registration
from fleet.model.times import iso_from_ms
from minicoap.codec import codes
from minicoap.codec.options import IF_MATCH
from minicoap.core.endpoint import EndpointCore
from minicoap.core.entropy import Entropy
from minicoap.core.parameters import TransmissionParameters
from minicoap.core.request import Path, Response, SecurePath
from minicoap.core.timers import Timer, Timers
from minicoap.errors import CoapError, NetworkError

logger = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 2.0, 120.0  # seconds between attempts while the server does not answer
DEFAULT_INTERVAL = 60.0  # seconds between health reports, until the server says
SHORTEST_INTERVAL, LONGEST_INTERVAL = 1.0, 86_400.0
FULL_INTERVAL = 3600.0  # seconds after which all is reported, and not only what changed
UNCONFIRMED = 4  # reports in a row that are not confirmed: by the fifth a node hears what waits for it
SMALL_CHANGE = 5.0  # percent, or degrees Celsius; what changes by less may wait for the report that is confirmed
# Below DTLS nobody can guess a token, and an answer that is held back until the token is used again only has the next
# report be a whole one (RFC 9175 §4).
TOKEN_UNCONFIRMED, TOKEN_CONFIRMED = 0, 2  # bytes
SILENCE = 20.0  # seconds in which an unconfirmed report may be refused
LARGEST_UNCONFIRMED = 1024  # bytes; what travels in blocks is answered
NO_SUCCESS = 2  # No-Response: a 2.xx is not wanted, an error is (RFC 7967 §2.1)
# One an interval, and never more than UNCONFIRMED without a sign of life, is congestion control enough (RFC 7252 §4.7):
# by PROBING_RATE what the server is to be asked next, for its job perhaps, would wait until a report is over.
SPARSE = TransmissionParameters(congestion_controlled=True)
SPREAD = 0.1  # part of the interval by which a report may be early, so that nodes do not report in step

Document = dict[str, Any]


class _Known(NamedTuple):
    """The report that the server has, as it keeps it, and its name for it."""

    health: Document
    etag: bytes


class Membership:
    """Keeps the node registered at the server at `path`; `jobs_wait` is called with job ids after each report.

    `time_told`, where there is one, is called with what the server says the time is.
    """

    def __init__(
        self,
        config: AgentConfig,
        endpoint: EndpointCore,
        path: Path,
        *,
        clock: Clock,
        timers: Timers,
        entropy: Entropy,
        facts: Facts,
        jobs_wait: Callable[[Sequence[str]], None],
        time_told: Optional[Callable[[str], None]] = None,
    ) -> None:
        self._config = config
        self._endpoint = endpoint
        self._path = path
        self._clock = clock
        self._timers = timers
        self._entropy = entropy
        self._facts = facts
        self._jobs_wait = jobs_wait
        self._time_told = time_told
        self._backoff = Backoff(entropy, FIRST_WAIT, LONGEST_WAIT)
        self._interval = DEFAULT_INTERVAL
        self._timer: Optional[Timer] = None
        self._known: Optional[_Known] = None
        self._full_at = 0.0  # when all is reported next, seconds of the monotonic clock
        self._is_secured = isinstance(path, SecurePath)
        self._unconfirmed = 0  # reports since the last that was confirmed
        self.is_registered = False

    def register(self) -> None:
        """Register now."""
        system = self._facts.system()
        registration = Registration(
            node_id=self._config.node_id,
            hostname=system.hostname,
            status="online",
            last_seen=iso_from_ms(int(self._clock.wall() * 1000)),
            services=self._config.services,
            groups=self._config.groups,
            system_info=system._asdict(),
            request_id=self._entropy.token(8).hex(),
        )
        self._known = None
        self._send(codes.POST, "nodes", registration, self._registered)

    def health(self) -> HealthReport:
        """How the node is now."""
        health = self._facts.health(self._config.services)
        down = [name for name, is_up in health.services_status.items() if not is_up]
        return HealthReport(
            node_id=self._config.node_id,
            overall_healthy=not down,
            cpu_percent=_rounded(health.cpu_percent),
            memory_percent=_rounded(health.memory_percent),
            disk_percent=_rounded(health.disk_percent),
            temperature=None if health.temperature is None else _rounded(health.temperature),
            services_status=health.services_status,
            error_messages=tuple(f"Service {name} is not running" for name in down),
        )

    def report(self, now: float = 0.0) -> None:
        """Report the node's health now: what changed since the last report, or all of it.

        All of it goes first, once an hour, and whenever the server may not have what was reported last. What changed
        goes without confirmation most of the time, if it is worth mentioning: the server says so if it does not have
        the report before (4.12), which the lost one was. The confirmed ones have all that changed; only they tell the
        node what waits for it.
        """
        self._endpoint.site.changed("/health")
        health = _document(self.health())
        at = self._clock.monotonic()
        known = self._known
        # Whatever comes of this report, the server has the last one no more. Only its answer says what it has then.
        self._known = None
        if known is None or at >= self._full_at:
            self._full_at = at + FULL_INTERVAL
            self._send(codes.PUT, "health", health, partial(self._reported, health=health))
            return
        changes = make_patch(known.health, health)
        if self._unconfirmed < UNCONFIRMED and "overall_healthy" not in changes:
            self._report_briefly(
                {name: value for name, value in changes.items() if _matters(known, name, value)}, known
            )
        else:
            self._report_confirmed(changes, known)

    def _report_briefly(self, changes: Document, known: _Known) -> None:
        payload = self._patch(changes)
        if len(payload) > LARGEST_UNCONFIRMED:
            self._report_confirmed(changes, known)
            return
        self._unconfirmed += 1
        expected = self._known = _patched(known, changes) if changes else known
        self._arm(self._interval * self._entropy.uniform(1 - SPREAD, 1), self.report)
        self._send(
            codes.IPATCH,
            "h",
            payload,
            partial(self._unconfirmed_answered, expected=expected),
            options=((IF_MATCH, known.etag),) if changes else (),
            confirmable=False,
            no_response=NO_SUCCESS,
            timeout=SILENCE,
            parameters=SPARSE,
            token_length=TOKEN_UNCONFIRMED,
        )

    def _report_confirmed(self, changes: Document, known: _Known) -> None:
        self._send(
            codes.IPATCH,
            "h",
            self._patch(changes),
            partial(self._answered, expected=_patched(known, changes)),
            options=((IF_MATCH, known.etag),),
            token_length=TOKEN_CONFIRMED,
        )

    def _patch(self, changes: Document) -> bytes:
        """What changed as it is sent: nothing at all, if nothing did and the certificate says who we are."""
        if self._is_secured:
            return encode(changes, CBOR, numbers=True) if changes else b""
        return encode({"node_id": self._config.node_id, **changes}, CBOR, numbers=True)

    def _send(
        self,
        code: int,
        path: str,
        message: Any,
        done: Callable[[Union[Response, CoapError]], None],
        **arguments: Any,
    ) -> None:
        """Ask something of the server: `message` in CBOR, or bytes that are. Tokens are short below DTLS only."""
        if not self._is_secured:
            arguments.pop("token_length", None)
        payload = message if isinstance(message, bytes) else encode(message, CBOR, numbers=True)
        try:
            self._endpoint.request(
                code,
                self._path,
                done,
                self._clock.monotonic(),
                uri_path=(path,),
                payload=payload,
                content_format=CBOR if payload else None,
                **arguments,
            )
        except NetworkError as error:
            done(error)

    def _registered(self, outcome: Union[Response, CoapError]) -> None:
        if not isinstance(outcome, Response) or not outcome.is_success:
            self._try_again(outcome, self.register)
            return
        if not self.is_registered:
            logger.info("registered as %s", self._config.node_id)
        self.is_registered = True
        self._backoff.reset()
        told = _read(outcome, RegistrationAnswer)
        wanted = self._config.health_interval or (told.health_interval if told is not None else DEFAULT_INTERVAL)
        self._interval = min(max(wanted, SHORTEST_INTERVAL), LONGEST_INTERVAL)
        if self._time_told is not None and told is not None:
            self._time_told(told.time)
        self.report()

    def _unconfirmed_answered(self, outcome: Union[Response, CoapError], expected: _Known) -> None:
        """Take what came of a report that was not to be confirmed: nothing, if all is well."""
        if self._known is not expected:
            return  # other reports have followed it, whose outcome counts
        if isinstance(outcome, Response) and (outcome.code == codes.EMPTY or outcome.is_success):
            return
        self._known = None
        self._answered(outcome, expected)

    def _answered(self, outcome: Union[Response, CoapError], expected: _Known) -> None:
        """Take what came of a report of changes, by which the server has what is `expected`."""
        if isinstance(outcome, Response) and outcome.code == codes.PRECONDITION_FAILED:
            logger.info("the server does not have the last report any more: reporting all")
            self.report()
            return
        self._reported(outcome, expected.health, expected.etag)

    def _reported(self, outcome: Union[Response, CoapError], health: Document, etag: Optional[bytes] = None) -> None:
        if isinstance(outcome, Response) and outcome.code == codes.NOT_FOUND:
            logger.warning("the server does not know this node any more: registering anew")
            self.is_registered = False
            # Others may have been forgotten at the same moment.
            self._arm(self._entropy.uniform(0, self._backoff.wait()), self.register)
            return
        if not isinstance(outcome, Response) or not outcome.is_success:
            self._try_again(outcome, self.report)
            return
        self._backoff.reset()
        self._unconfirmed = 0
        etag = etag if outcome.etag is None else outcome.etag
        if etag is not None:
            self._known = _Known(health, etag)
        self._arm(self._interval * self._entropy.uniform(1 - SPREAD, 1), self.report)
        told = _read(outcome, _Heard)
        if told is not None:
            if self._time_told is not None and told.time is not None:
                self._time_told(told.time)
            self._jobs_wait(told.jobs)

    def _try_again(self, outcome: Union[Response, CoapError], what: Callable[[], None]) -> None:
        why = said(outcome) if isinstance(outcome, Response) else str(outcome)
        wait = self._backoff.wait()
        log = logger.warning if self._backoff.failures == 1 else logger.info
        log("no success with the server at %s port %s, again in %.0f s: %s", *self._path[:2], wait, why)
        self._arm(wait, what)

    def _arm(self, wait: float, what: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._timers.at(self._clock.monotonic() + wait, lambda now: what())


class _Heard(msgspec.Struct, frozen=True):
    """What of an answer to a report is of use; none of it has to be there."""

    time: Optional[str] = None
    jobs: tuple[str, ...] = ()


def _rounded(value: float) -> float:
    """To an eighth, which takes three bytes of CBOR instead of a tenth's nine; less of a change is none."""
    return round(value * 8) / 8


def _document(health: HealthReport) -> Document:
    """A report as the server keeps it, without what is not known: a patch cannot say null."""
    document: Document = msgspec.to_builtins(health)
    return {name: value for name, value in document.items() if value is not None}


def _patched(known: _Known, changes: Document) -> _Known:
    health = merge_patch(known.health, changes)
    return _Known(health, report_etag(encode(health)))


def _matters(known: _Known, name: str, value: Any) -> bool:
    """Whether a change is worth a few bytes before its turn."""
    before = known.health.get(name)
    return not (isinstance(value, float) and isinstance(before, float) and abs(value - before) < SMALL_CHANGE)


def _read(response: Response, kind: Any) -> Any:
    """Return the answer as a `kind`; None if it is none, which a newer server may have its reasons for."""
    try:
        return decode(response.body, response.content_format, kind) if response.body else kind()
    except (FleetError, TypeError) as error:
        logger.warning("the server's answer cannot be read: %s", error)
        return None
