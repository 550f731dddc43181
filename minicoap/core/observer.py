"""An observer, and the representation that it observes: the entries of the lists that `observe_server` keeps.

What is kept of each observer counts, for there may be many: half a kilobyte at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from minicoap.codec import codes
from minicoap.codec.message import Options
from minicoap.codec.options import ETAG, MAX_AGE, OBSERVE, encode_uint
from minicoap.core.outgoing import Outgoing
from minicoap.core.peer import Peer
from minicoap.core.request import Path, Request, Response
from minicoap.core.resource import Resource
from minicoap.core.timers import Timer
from minicoap.errors import CoapError

if TYPE_CHECKING:
    from minicoap.core.observe_server import Observers

UNKNOWN_FORMAT = -1  # the first response was 2.03, which names none
NO_ETAGS: tuple[bytes, ...] = ()
_TICKS = 1 << 15  # a second of sequence numbers (RFC 7641 §4.4: fewer than 2^23 in 256 s)
_SEQUENCE_MASK = (1 << 24) - 1

SubjectKey = tuple[tuple[str, ...], Path, int, tuple[tuple[int, bytes], ...], bytes]
"""Of a subject: the path, whose it is (everyone's: empty), the method, the options, the payload."""


class Rendering:
    """What a subject's handler said: a response ready for one datagram, of which version, and when."""

    __slots__ = ("_max_age", "_number", "_options", "at", "max_age", "response", "version")

    def __init__(self, response: Response, version: int, now: float) -> None:
        self.response = response
        self.version = version
        self.at = now
        self.max_age = response.max_age
        self._number = -1
        self._max_age = -1
        self._options = response.options

    def options(self, number: int, now: float) -> Options:
        """Return its options with the sequence number and the Max-Age that is left; made once for a burst."""
        max_age = max(0, self.max_age - int(now - self.at))
        if number != self._number or max_age != self._max_age:
            self._number = number
            self._max_age = max_age
            self._options = notification_options(self.response, number, max_age)
        return self._options


class Subject:
    """One representation of one resource, and its observers.

    `request` is what the handler is asked, its `path` that of the client that was first; `version` counts the changes,
    `behind` the observers that have not been sent the latest; `rendering` is kept while there are any. `quiet_at` is
    when the last of a series of non-confirmable notifications is to be confirmed.
    """

    __slots__ = (
        "behind", "confirmed_at", "is_running", "key", "observers", "quiet_at", "rendering", "request", "resource",
        "timer", "version",
    )  # fmt: skip

    def __init__(self, key: SubjectKey, resource: Resource, request: Request, now: float) -> None:
        self.key = key
        self.resource = resource
        self.request = request
        self.observers: dict[Peer, Observer] = {}
        self.version = 0
        self.behind = 0
        self.rendering: Optional[Rendering] = None
        self.is_running = False
        self.confirmed_at = now
        self.quiet_at = now
        self.timer: Optional[Timer] = None

    def changed(self) -> None:
        """Leave all observers behind."""
        self.version += 1
        self.behind = len(self.observers)


class Observer:
    """An entry in the list of observers.

    `number` is the sequence number that was sent last, `seen` the version, `content_format` that of the first response;
    `nons` counts notifications since the last confirmable one; `outgoing` is the notification that is outstanding, and
    `sent` what it says.
    """

    __slots__ = (
        "content_format", "etags", "nons", "number", "outgoing", "owner", "peer", "registering", "seen", "sent",
        "subject", "token",
    )  # fmt: skip

    def __init__(self, owner: Observers, peer: Peer, token: bytes, subject: Subject) -> None:
        self.owner = owner
        self.peer = peer
        self.token = token
        self.subject: Optional[Subject] = subject  # None once it is no observer any more
        self.seen = subject.version
        self.number = -1
        self.etags = NO_ETAGS
        self.content_format: Optional[int] = UNKNOWN_FORMAT
        self.registering = 0  # registrations whose response is not there yet
        self.nons = 0
        self.outgoing: Optional[Outgoing] = None
        self.sent: Optional[Rendering] = None

    def next_number(self, now: float) -> int:
        """Return the sequence number for a transmission at `now`: a clock's, but always a greater one (§4.4)."""
        number = int(now * _TICKS)
        if number <= self.number:
            number = self.number + 1
        self.number = number
        return number & _SEQUENCE_MASK

    def caught_up(self, version: int) -> None:
        """Note that `version` is on its way to it."""
        subject = self.subject
        if subject is not None:
            subject.behind += (version != subject.version) - (self.seen != subject.version)
            if not subject.behind:
                subject.rendering = None
        self.seen = version

    def outcome(self, error: Optional[CoapError], now: float) -> None:
        """The message layer's word on the notification: arrived, rejected, or nobody there (§4.5)."""
        self.owner.notification_ended(self, error, now)

    def renew(self, now: float) -> tuple[bool, Optional[Response]]:
        """Say what to send in place of a notification that is to be repeated; see `Reliability.notify`."""
        return self.owner.renewed(self, now)


def notification_options(response: Response, number: int, max_age: int) -> Options:
    """Return the options of `response` with the sequence number, and Max-Age spelt out (RFC 7641 §4.3.1)."""
    items = [item for item in response.options.items if item[0] != MAX_AGE]
    return Options((*items, (OBSERVE, encode_uint(number)), (MAX_AGE, encode_uint(max_age))))


def validated(notification: Response, etags: tuple[bytes, ...]) -> Response:
    """Return a 2.03 in place of a representation that the client has said it has (§4.3.2)."""
    etag = notification.etag if etags else None
    if etag is None or etag not in etags or notification.code != codes.CONTENT:
        return notification
    kept = [item for item in notification.options.items if item[0] in (OBSERVE, ETAG, MAX_AGE)]
    return Response(codes.VALID, options=kept)
