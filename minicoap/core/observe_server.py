"""Observe, the server's side (RFC 7641 §4): who wants to be told of changes, and the telling.

An observer is a client's entry in the list: a peer, the token of its registration, and a subject. A subject is one
representation of one resource: all observers that asked with the same options share it, so that a change runs the
handler once for all of them. `Site.changed` only counts up the subject's version and sees to it that the endpoint is
called again at once; notifications leave from there, a limited number a wake-up, and each carries the latest state.

An observer is behind while the version it was sent last is not the subject's. It is served when its peer has room for a
notification (§4.5.1, asked of the message layer), and passed over until then: states in between are skipped. A
notification that has to be repeated is renewed first (§4.5.2), so that a slow client too gets the latest.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Callable, Optional, Union

from minicoap.codec import codes
from minicoap.codec.message import Message, Options
from minicoap.codec.options import BLOCK1, BLOCK2, ETAG, OBSERVE
from minicoap.core.observer import (
    NO_ETAGS,
    UNKNOWN_FORMAT,
    Observer,
    Rendering,
    Subject,
    SubjectKey,
    notification_options,
    validated,
)
from minicoap.core.parameters import Limits
from minicoap.core.peer import Peer, Peers
from minicoap.core.request import Deferred, Path, Request, Response
from minicoap.core.resource import Site
from minicoap.core.timers import Timer, Timers
from minicoap.core.transmission import Transmission
from minicoap.errors import CoapError, OptionError

OBSERVABLE_METHODS = frozenset((codes.GET, codes.FETCH))  # RFC 7641 §2, RFC 8132 §2.4
REGISTER = 0
DEREGISTER = 1

NONS_IN_A_ROW = 5  # notifications to one observer without a confirmable one (§7)
CLOSING_DELAY = 3600.0  # seconds, the longest that the last of a series stays unconfirmed, whatever its Max-Age (§4.5)
CONFIRM_INTERVAL = 24 * 3600.0  # seconds after which every observer is asked whether it is still there (§4.5)
NOTIFICATIONS_A_WAKEUP = 256  # then the shell sends them, and other business gets its turn
BREATH = 0.001  # seconds until the next ones

_AT_ONCE = float("-inf")


Registering = tuple[Observer, int]  # an entry whose registration is being answered, and of which version


class Observers:
    """The lists of observers of one endpoint.

    `run` has a handler answer a request, `fit` makes a response ready for one datagram, `forget_body` lets go of the
    long body that it may have kept.
    """

    def __init__(
        self,
        site: Site,
        peers: Peers,
        timers: Timers,
        limits: Limits,
        run: Callable[[Request], Union[Response, Deferred]],
        fit: Callable[[Request, Response], Response],
        forget_body: Callable[[Request], None],
    ) -> None:
        self._site = site
        self._peers = peers
        self._timers = timers
        self._limits = limits
        self._run = run
        self._fit = fit
        self._forget_body = forget_body
        self._count = 0
        self._subjects: dict[SubjectKey, Subject] = {}
        self._by_path: dict[tuple[str, ...], dict[Subject, None]] = {}
        self._registering: dict[Request, Registering] = {}  # whose response is deferred
        self._changed: dict[Subject, None] = {}  # whose observers have to be gone through
        self._ready: deque[Observer] = deque()  # that may be behind and have room
        self._wakeup: Optional[Timer] = None
        self.transmission: Transmission  # set by the endpoint
        site.on_change(self.changed)

    def __len__(self) -> int:
        return self._count

    # The list

    def requested(self, message: Message, path: Path, now: float) -> Optional[Registering]:
        """Do what the Observe option of a request asks for (§4.1).

        Returned is the entry, new or updated, whose response is to be passed to `answered` or `deferred`; None if the
        request is to be answered as one without the option. `message` has that option still.
        """
        options = message.options
        value = options.uint(OBSERVE)
        if value not in (REGISTER, DEREGISTER):
            return None
        peer = self._peers.find(path)
        known = _find(peer, message.token)
        if value == DEREGISTER:
            if known is not None:
                self.remove(known, now)
            return None
        subject = self._subject(message, path, now)
        if subject is None or (peer := self._peers.reach(path, now)) is None:
            if known is not None:
                self.remove(known, now)
            return None
        if known is not None and known.subject is not subject:
            self.remove(known, now)
        observer = subject.observers.get(peer)
        if observer is not None and observer.token != message.token:
            # A client must not register twice for one target (§3.1): this one has forgotten that it had.
            self.remove(observer, now)
            observer = None
        if observer is None:
            observer = self._add(peer, message.token, subject, now)
            if observer is None:
                return None
            if known is not None:
                observer.number = known.number
        elif observer.outgoing is not None:  # the response says it better
            self.transmission.withdraw(observer.outgoing, now)
            observer.outgoing = observer.sent = None
        # Until the response is there nothing is notified: that would be newer, and be taken for older.
        observer.registering += 1
        observer.nons = 0
        observer.etags = options.all(ETAG) or NO_ETAGS
        return observer, subject.version

    def deferred(self, registering: Registering, request: Request) -> None:
        """Note that the response to a registration will be the one to `request`, later."""
        self._registering[request] = registering

    def late_response(self, request: Request, response: Response, now: float) -> Response:
        """Return `response`, made a notification if it is the first one of an observer."""
        registering = self._registering.pop(request, None) if self._registering else None
        return response if registering is None else self.answered(registering, response, now)

    def answered(self, registering: Registering, response: Response, now: float) -> Response:
        """Return the response to a registration as a notification, or as it is if it ends the matter (§4.1)."""
        observer, version = registering
        observer.registering -= 1
        subject = observer.subject
        if subject is None:
            return response
        if response.code >> 5 != 2:
            self.remove(observer, now)
            return response
        observer.caught_up(version)
        observer.content_format = UNKNOWN_FORMAT if response.code == codes.VALID else response.content_format
        if observer.seen != subject.version:
            self._make_ready(observer)
        notification = Response(response.code, response.payload)
        notification.options = notification_options(response, observer.next_number(now), response.max_age)
        return validated(notification, observer.etags)

    def refused(self, path: Path, token: bytes, now: float) -> None:
        """Learn that a registration was answered by something else than its representation, after all."""
        observer = _find(self._peers.find(path), token)
        if observer is not None:
            self.remove(observer, now)

    def remove(self, observer: Observer, now: float) -> None:
        """Take an entry out of the list."""
        subject = observer.subject
        if subject is None:
            return
        observer.caught_up(subject.version)
        observer.subject = None
        self._count -= 1
        self._site.observers -= 1
        peer = observer.peer
        del subject.observers[peer]
        peer.observers = tuple([other for other in peer.observers if other is not observer])
        if peer.owed is not None:
            peer.owed.pop(observer, None)
            if not peer.owed:
                peer.owed = None
        if observer.outgoing is not None:
            self.transmission.withdraw(observer.outgoing, now)
            observer.outgoing = observer.sent = None
        if not subject.observers:
            self._drop(subject)

    def remove_all(self, peer: Peer, now: float) -> None:
        """End all observations of a peer."""
        for observer in peer.observers:
            self.remove(observer, now)

    def _add(self, peer: Peer, token: bytes, subject: Subject, now: float) -> Optional[Observer]:
        if self._count >= self._limits.observers or len(peer.observers) >= self._limits.observers_per_peer:
            return None
        if not subject.observers:
            self._subjects[subject.key] = subject
            self._by_path.setdefault(subject.key[0], {})[subject] = None
            self._arm(subject, now + CONFIRM_INTERVAL)
        observer = Observer(self, peer, token, subject)
        subject.observers[peer] = observer
        peer.observers = (*peer.observers, observer)
        self._count += 1
        self._site.observers += 1
        return observer

    def _subject(self, message: Message, path: Path, now: float) -> Optional[Subject]:
        """Return the subject of a registration, not in any table yet if it is new; None if it cannot be observed."""
        options = message.options
        block = options.uint(BLOCK2)
        if options.mask & 1 << BLOCK1 or (block is not None and block >> 4):
            return None  # an observation is of the whole (RFC 7959 §2.6)
        request = Request(message.code, path, _without(options, (OBSERVE, ETAG)), message.payload, now)
        try:
            resource = self._site.route(request)
            if isinstance(resource, Response) or not resource.observable:
                return None
            key = (
                self._site.canonical(options.path), _sharing(request), message.code, request.options.items,
                message.payload,
            )  # fmt: skip
        except OptionError:
            return None
        return self._subjects.get(key) or Subject(key, resource, request, now)

    def _drop(self, subject: Subject) -> None:
        del self._subjects[subject.key]
        siblings = self._by_path[subject.key[0]]
        del siblings[subject]
        if not siblings:
            del self._by_path[subject.key[0]]
        if subject.timer is not None:
            subject.timer.cancel()
        subject.rendering = None
        self._changed.pop(subject, None)
        self._forget_body(_shared(subject.request))

    # Changes

    def changed(self, path: tuple[str, ...]) -> None:
        """Mark the observers of the resource at `path`, to be notified when the endpoint is called next."""
        for subject in self._by_path.get(path, ()):
            subject.changed()
            self._changed[subject] = None
            self._wake()

    def room_made(self, peer: Peer) -> None:
        """Learn that a notification may be sent to `peer` again."""
        if peer.owed is not None:
            self._ready.extend(peer.owed)
            peer.owed = None
            self._wake()

    def _make_ready(self, observer: Observer) -> None:
        self._ready.append(observer)
        self._wake()

    def _wake(self) -> None:
        if self._wakeup is None:
            self._wakeup = self._timers.at(_AT_ONCE, self._serve_ready)

    def _serve_ready(self, now: float) -> None:
        self._wakeup = None
        ready = self._ready
        for _ in range(NOTIFICATIONS_A_WAKEUP):
            while not ready and self._changed:
                subject = next(iter(self._changed))
                del self._changed[subject]
                ready.extend(subject.observers.values())
            if not ready:
                return
            self._serve(ready.popleft(), now)
        if (ready or self._changed) and self._wakeup is None:
            self._wakeup = self._timers.at(now + BREATH, self._serve_ready)

    def _serve(self, observer: Observer, now: float) -> None:
        """Notify an observer that is behind, if that can be done now; otherwise what hinders it calls again."""
        subject = observer.subject
        if subject is None or observer.seen == subject.version or observer.registering or observer.outgoing is not None:
            return
        peer = observer.peer
        if not self.transmission.has_room(peer):
            if peer.owed is None:
                peer.owed = {}
            peer.owed[observer] = None
            return
        rendering = self._rendering(subject, observer, now)
        if rendering is None or observer.subject is None:
            return
        confirmable = subject.resource.notify_confirmable or observer.nons >= NONS_IN_A_ROW
        response = self._notification(observer, rendering, now)
        if observer.subject is None:
            # Nothing follows this one, so it is confirmable; and whether it arrives changes nothing.
            self.transmission.notify(peer, response, observer.token, True, now, observer)
            return
        observer.outgoing = self.transmission.notify(peer, response, observer.token, confirmable, now, observer)
        if confirmable:
            observer.nons = 0
            observer.sent = rendering
        else:
            observer.nons += 1
            subject.quiet_at = now + min(rendering.max_age, CLOSING_DELAY)
            self._arm(subject, subject.quiet_at)

    def _notification(self, observer: Observer, rendering: Rendering, now: float) -> Response:
        """Return what `observer` is to be sent; one that gets anything but a 2.xx is an observer no more (§4.2)."""
        response = rendering.response
        if response.code >> 5 == 2 and response.code != codes.VALID:
            if observer.content_format == UNKNOWN_FORMAT:
                observer.content_format = response.content_format
            elif observer.content_format != response.content_format:
                response = Response.refusal(codes.NOT_ACCEPTABLE)
        observer.caught_up(rendering.version)
        if response.code >> 5 != 2:
            observer.outgoing = None  # the one under way, if any, is what becomes of this response
            self.remove(observer, now)
            return response
        if response.options.mask & 1 << BLOCK2 and observer.subject is not None and observer.subject.key[1] == ():
            # What is kept of an older body for this client alone would come before the new one, which is for all.
            request = observer.subject.request
            self._forget_body(Request(request.code, observer.peer.path, request.options, b"", now))
        notification = Response(response.code, response.payload)
        notification.options = rendering.options(observer.next_number(now), now)
        return validated(notification, observer.etags)

    def notification_ended(self, observer: Observer, error: Optional[CoapError], now: float) -> None:
        """Go on after a notification; its observer is removed if it was rejected or did not arrive (§4.5)."""
        observer.outgoing = observer.sent = None
        subject = observer.subject
        if subject is None:
            return
        if error is not None:
            self.remove(observer, now)
        elif observer.seen != subject.version:
            self._make_ready(observer)

    def renewed(self, observer: Observer, now: float) -> tuple[bool, Optional[Response]]:
        """Return whether another state is to be sent instead of an unacknowledged one, and the message (§4.5.2)."""
        subject = observer.subject
        if subject is None or observer.sent is None:
            return False, None
        if observer.seen != subject.version:
            rendering = self._rendering(subject, observer, now)
            if rendering is not None and observer.subject is not None:
                observer.sent = rendering
                return True, self._notification(observer, rendering, now)
        response = observer.sent.response
        notification = Response(response.code, response.payload)
        notification.options = observer.sent.options(observer.next_number(now), now)  # §4.4: a current number
        return False, validated(notification, observer.etags)

    # Renderings

    def _rendering(self, subject: Subject, observer: Observer, now: float) -> Optional[Rendering]:
        """Return a rendering that is newer than what `observer` has; None if it has to wait for the handler."""
        rendering = subject.rendering
        is_usable = rendering is not None and now <= rendering.at + rendering.max_age
        if not is_usable or (rendering is not None and rendering.version != subject.version):
            if not subject.is_running:
                self._render(subject, now)
                rendering = subject.rendering
            elif not is_usable:
                return None
        return rendering if rendering is not None and rendering.version > observer.seen else None

    def _render(self, subject: Subject, now: float) -> None:
        """Run the handler for all observers of `subject`."""
        version = subject.version
        asked = subject.request
        request = Request(asked.code, asked.path, asked.options, asked.payload, now)
        answer = self._run(request)
        if isinstance(answer, Deferred) and answer.response is not None:
            answer = answer.response
        if isinstance(answer, Response):
            self._rendered(subject, answer, version, now)
            return
        subject.is_running = True

        def resolved(request: Request, response: Response, now: float) -> None:
            subject.is_running = False
            if not subject.observers:
                return
            self._rendered(subject, response, version, now)
            self._changed[subject] = None
            self._wake()

        answer.on_resolved(resolved)

    def _rendered(self, subject: Subject, response: Response, version: int, now: float) -> None:
        request = _shared(subject.request)
        self._forget_body(request)
        subject.rendering = Rendering(self._fit(request, response), version, now)

    # Confirmation

    def _arm(self, subject: Subject, when: float) -> None:
        timer = subject.timer
        if timer is None or timer.callback is None or when < timer.deadline:
            if timer is not None:
                timer.cancel()
            subject.timer = self._timers.at(when, partial(self.check, subject))

    def check(self, subject: Subject, now: float) -> None:
        """Send a confirmable notification to whom the last was not, if that was long ago, and to all once a day (§4.5).

        So every observer has the latest state in the end, and none that is gone stays in the list.
        """
        daily_at = subject.confirmed_at + CONFIRM_INTERVAL
        is_daily = now >= daily_at
        if is_daily:
            subject.confirmed_at = now
            daily_at = now + CONFIRM_INTERVAL
        elif now < subject.quiet_at:
            self._arm(subject, min(subject.quiet_at, daily_at))
            return
        self._arm(subject, daily_at)
        subject.version += 1
        subject.behind = 0
        for observer in subject.observers.values():
            if is_daily or observer.nons or observer.seen != subject.version - 1:
                if is_daily or observer.nons:
                    observer.nons = NONS_IN_A_ROW
                subject.behind += 1
            else:
                observer.seen = subject.version
        if subject.behind:
            self._changed[subject] = None
            self._wake()


def _find(peer: Optional[Peer], token: bytes) -> Optional[Observer]:
    if peer is not None:
        for observer in peer.observers:
            if observer.token == token:
                return observer
    return None


def _without(options: Options, numbers: tuple[int, ...]) -> Options:
    return Options([item for item in options.items if item[0] not in numbers])


def _sharing(request: Request) -> Path:
    """Return whose a representation is: everyone's; that of a FETCH its client's own.

    Requests for further blocks of the latter come without the payload, so that nothing else tells them apart.
    """
    return () if request.code == codes.GET else request.path


def _shared(request: Request) -> Request:
    """Return the request under which a long body is kept for all who have been told of its first block."""
    return Request(request.code, _sharing(request), request.options, b"", request.now)
