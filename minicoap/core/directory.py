"""A client of a resource directory: simple registration, kept alive (RFC 9176 §5.1).

The endpoint says who it is by a POST to `/.well-known/rd`; the directory then reads `/.well-known/core` from where that
came from, and answers. The registration is refreshed before its lifetime ends, and tried again when that fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable, NamedTuple, Optional, Union

from minicoap.codec import codes
from minicoap.core.request import ClientRequest, Path, Response
from minicoap.core.timers import Timer, Timers
from minicoap.errors import CoapError, UsageError

DEFAULT_LIFETIME = 90_000  # seconds (§5)
_LONGEST_LIFETIME = 0xFFFFFFFF
_LONGEST_NAME = 63  # bytes of an endpoint's name, or a sector's (§5)
_WELL_KNOWN_RD = (".well-known", "rd")
_REFRESH = 0.75  # of the lifetime; the rest is for attempts that fail
_FIRST_RETRY = 10.0  # seconds, doubled with each failure up to an eighth of the lifetime, but not below this

Outcome = Union[Response, CoapError]
Ask = Callable[[tuple[str, ...], list[str], Callable[[Outcome], None], float], ClientRequest]


class Facts(NamedTuple):
    """What an endpoint tells a directory: its name, its sector, the lifetime in seconds, attributes of its own."""

    name: str
    sector: str = ""
    lifetime: int = DEFAULT_LIFETIME
    attributes: Mapping[str, str] = {}

    def query(self) -> list[str]:
        """Return them as arguments of the registration; raises UsageError for what no directory takes."""
        if not self.name:
            raise UsageError("an endpoint needs a name to register")
        for value in (self.name, self.sector):
            if len(value.encode()) > _LONGEST_NAME or any(ord(c) < 32 or 127 <= ord(c) < 160 for c in value):
                raise UsageError(f"{value!r}: a name has {_LONGEST_NAME} bytes at most and no control characters")
        if not 1 <= self.lifetime <= _LONGEST_LIFETIME:
            raise UsageError(f"a lifetime of {self.lifetime} s; 1 to {_LONGEST_LIFETIME} are allowed")
        for reserved in ("ep", "d", "lt", "base"):
            if reserved in self.attributes:
                raise UsageError(f"the attribute {reserved!r} has a meaning of its own")
        arguments = [f"ep={self.name}", f"lt={self.lifetime}"]
        if self.sector:
            arguments.append(f"d={self.sector}")
        arguments.extend(f"{name}={value}" if value else name for name, value in self.attributes.items())
        return arguments


class Registration:
    """One endpoint's entry in the directory at `path`, from `start` until `stop`.

    `on_outcome` is called after each attempt, with the response or the error. Made by `EndpointCore.register`.
    """

    def __init__(
        self, path: Path, facts: Facts, ask: Ask, timers: Timers, on_outcome: Callable[[Outcome], None]
    ) -> None:
        self.path = path
        self.facts = facts
        self._query = facts.query()
        self._ask = ask
        self._timers = timers
        self._on_outcome = on_outcome
        self._request: Optional[ClientRequest] = None
        self._timer: Optional[Timer] = None
        self._began = 0.0
        self._failures = 0
        self.registered_until: Optional[float] = None  # on the endpoint's clock

    def start(self, now: float) -> None:
        """Register; raises NetworkError if the endpoint has no room for the request."""
        self._began = now
        self._request = self._ask(_WELL_KNOWN_RD, self._query, self._answered, now)

    def stop(self, now: float) -> None:
        """Let the registration run out: simple registration has no way to end it sooner. More than once is fine."""
        if self._timer is not None:
            self._timer.cancel()
        if self._request is not None:
            self._request.cancel(now)

    def _answered(self, outcome: Outcome) -> None:
        self._request = None
        lifetime = self.facts.lifetime
        if isinstance(outcome, Response) and outcome.code == codes.CHANGED:
            self._failures = 0
            self.registered_until = self._began + lifetime
            delay = lifetime * _REFRESH
        else:
            # What is refused is tried again as well: a directory may be set up later than those that register.
            delay = min(_FIRST_RETRY * 2**self._failures, max(lifetime / 8, _FIRST_RETRY))
            self._failures += 1
        self._timer = self._timers.at(self._began + delay, self._again)
        self._on_outcome(outcome)

    def _again(self, now: float) -> None:
        self._timer = None
        try:
            self.start(max(now, self._began))
        except CoapError as error:
            self._answered(error)
