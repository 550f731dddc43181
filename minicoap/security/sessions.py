"""CoAP over DTLS (RFC 7252 §9.1) as a machine around a machine: datagrams on one side, messages on the other.

What is inside sees a `SecurePath` where a message came by DTLS: it is the name of an *association*, and stays the same
when the other side moves and resumes its session from another address, so that observations and exchanges go on. An
association has one open *channel*, a session at an address, and perhaps another that is to follow it. A server's
association begins with its channel and ends with it; a client's is named by where it leads to, opens a channel when
there is something to send, and another if nothing is heard on that: at the first repetition of a confirmable message
(RFC 7252 §4.2) it resumes its session, because a router in between may have forgotten the way back, or the server us;
also if the server says that it did (`minicoap.security.lost`).

Everything is bounded by `SecurityLimits`. Nothing at all is kept of a client that has not shown to be where it says.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Callable, NamedTuple, Optional

from minicoap.core.entropy import Entropy
from minicoap.core.identity import ANONYMOUS
from minicoap.core.machine import DatagramMachine
from minicoap.core.request import Path, SecurePath
from minicoap.core.timers import Timer, Timers
from minicoap.errors import SecurityError, UsageError
from minicoap.security.association import ASKED_IN_VAIN, Association, ServerName, server_path
from minicoap.security.credentials import Credentials
from minicoap.security.dtls import CLOSED, HANDSHAKE, OPEN, REFUSED, Dtls, WallClock
from minicoap.security.engine import Engine, Session
from minicoap.security.handshakes import Calls, Channel, Handshakes
from minicoap.security.hello import ADMITTED, HELLO_VERIFY, RECORD_HEADER, Reception, hello_random
from minicoap.security.lost import DOUBTS_EVERY, Notices, is_notice
from minicoap.security.remedies import remedy

logger = logging.getLogger(__name__)

# First bytes: DTLS content types and what RFC 7983 leaves for others of its kind; CoAP begins with 0x40 to 0x7F.
_DTLS_FIRST, _DTLS_LAST = 20, 63
_SWEEP = 30.0  # seconds between looks for what is idle or expired
_DISTURBANCES = 8  # after which a client's handshake counts as failed
_FAILURES_TOLD = 10  # handshakes with clients, in so many seconds; of others only how many there were
_FAILURES_PERIOD = 10.0


class SecurityLimits(NamedTuple):
    """How many sessions are kept, and how long. Each overflow has the answer named beside it."""

    sessions: int = 1024  # about 80 KiB each; further ones push out the one that was silent for longest
    anonymous_sessions: int = 64  # of those, clients without a certificate; the same among themselves
    half_open: int = 256  # handshakes under way, after the cookie; further ones push out the oldest
    queued: int = 64  # messages per association that wait for its handshake; further ones are lost
    handshake_timeout: float = 60.0  # seconds a handshake may take
    idle_lifetime: float = 86_400.0  # seconds without a message after which a session is closed


class SecureMachine:
    """Runs `inner` over DTLS, and over plain CoAP beside it on the same socket; client and server at once.

    `wall` returns UTC seconds, or None as long as that is not known; then no certificate is too old or too young. It is
    asked for every handshake, and every half minute for the sessions that are open. Unless `serves_plain`, requests
    that come without DTLS are not answered; what is asked of others without it still is. Clients make a path by
    `path_to` and hand it to `inner`. Raises UsageError if pyOpenSSL is not installed.
    """

    def __init__(
        self,
        inner: DatagramMachine,
        credentials: Credentials,
        entropy: Entropy,
        wall: WallClock,
        *,
        limits: SecurityLimits = SecurityLimits(),  # noqa: B008  immutable
        serves_plain: bool = False,
        engine: Optional[Engine] = None,
    ) -> None:
        self.inner = inner
        self.serves_plain = serves_plain
        self._credentials = credentials
        self._shown = credentials.chain[:1]
        self._limits = limits
        self._engine: Engine = engine if engine is not None else Dtls(credentials, wall)
        self._outbox: list[tuple[bytes, Path]] = []
        self._timers = Timers()
        self.reception = Reception(
            entropy, self._timers, self._held, lambda: {address[1] for address in self._channels}
        )
        self._notices = Notices()
        self._sweep: Optional[Timer] = None
        self._now = 0.0
        self._count = 0
        self._failures = 0
        self._failures_since = -_FAILURES_PERIOD
        self._channels: dict[Path, list[Channel]] = {}  # by address
        self._handshakes = Handshakes(
            limits.half_open,
            limits.handshake_timeout,
            self._timers,
            Calls(self._accept, self._make_room, self._begin_anew, self._go_on),
        )
        self._associations: dict[Path, Association] = {}  # in the order of last use
        self._anonymous: dict[Path, None] = {}  # those of them that have no certificate, in the same order
        self._by_key: dict[bytes, Association] = {}  # clients of ours

    # DatagramMachine

    def datagram_received(self, data: bytes, path: Path, now: float) -> None:
        """Take a datagram from `path`, of DTLS or of plain CoAP: the first byte tells (RFC 7983)."""
        if data and _DTLS_FIRST <= data[0] <= _DTLS_LAST:
            self.record_received(data, path, now)
        elif self.serves_plain or not _asks(data):
            self.inner.datagram_received(data, path, now)

    def record_received(self, data: bytes, path: Path, now: float) -> None:
        """Take a datagram from `path`, where nothing but DTLS is spoken."""
        self._now = now
        if not data or not _DTLS_FIRST <= data[0] <= _DTLS_LAST:
            return
        channels = self._channels.get(path)
        random = hello_random(data)
        if random is not None:
            for channel in channels or ():
                if channel.session.random == random:  # repeated by the client or the network, or replayed
                    if channel.session.state == HANDSHAKE:
                        self._feed(channel, data, now)
                    return
            self._hello(data, path, now)
        elif channels is not None:
            if is_notice(data):
                self._doubt(channels, now)
                return
            for channel in channels[:]:  # forged to all but one of them, which drop it
                self._feed(channel, data, now)
        else:
            self.reception.stray(now)
            notice = self._notices.answer(data, now)
            if notice is not None:
                self._outbox.append((notice, path))

    def path_failed(self, path: Path, error: OSError, now: float) -> None:
        """Pass on what the operating system reported of an address: handshakes end, sessions bear it."""
        self._now = now
        self.inner.path_failed(path, error, now)
        for channel in self._channels.get(path, [])[:]:
            association = channel.association
            if channel.session.state == HANDSHAKE:
                self._remove(channel)
                if association is not None:
                    self._gave_up(association, error, now)
            elif association is not None:
                self.inner.path_failed(association.path, error, now)

    def datagrams_to_send(self) -> list[tuple[bytes, Path]]:
        """Return what is to be sent, and forget it."""
        while messages := self.inner.datagrams_to_send():
            for data, path in messages:
                if path.__class__ is SecurePath:
                    self._send(data, path, self._now)
                else:
                    self._outbox.append((data, path))
        outbox, self._outbox = self._outbox, []
        return outbox

    def next_timeout(self) -> Optional[float]:
        """When the earliest timer is due, of the machine inside or of a handshake."""
        ours = self._timers.next_deadline()
        theirs = self.inner.next_timeout()
        if ours is None or theirs is None:
            return theirs if ours is None else ours
        return min(ours, theirs)

    def handle_timeout(self, now: float) -> None:
        """Do what is due, inside and here."""
        self._now = now
        self._timers.run(now)
        when = self.inner.next_timeout()
        if when is not None and when <= now:
            self.inner.handle_timeout(now)

    # What others ask of it

    def path_to(self, address: Path, host: str) -> SecurePath:
        """Return the path to the server at `address`; see `server_path`."""
        return server_path(address, host)

    def credentials_changed(self, now: float) -> None:
        """Go by the credentials as they are now: sessions with those who are not believed any more are closed.

        Servers that know us by another certificate than our present one are shown that, in a session that follows: what
        is under way goes on meanwhile.
        """
        self._now = now
        self._engine.refresh()
        self._check_all(now, self._engine.is_trusted)
        shown, self._shown = self._shown, self._credentials.chain[:1]
        if shown == self._shown:
            return
        for association in list(self._associations.values()):
            if association.host is not None:
                association.resume = None  # in the name of the former one
                if association.channel is not None and association.following is None:
                    self._connect(association, now)

    def close(self, now: float) -> None:
        """Say good-bye to everybody, once `inner` has nothing more to send."""
        self._outbox += self.datagrams_to_send()
        for association in list(self._associations.values()):
            for channel in (association.channel, association.following):
                if channel is not None:
                    channel.session.close()
                    self._flush(channel)
                    self._remove(channel)
            association.channel = association.following = None
        for channel in self._handshakes:
            self._remove(channel)
        self._associations.clear()
        self._anonymous.clear()
        self._by_key.clear()

    def end(self, path: Path, reason: str, now: float) -> None:
        """Close the session of `path`, if there is one."""
        self._now = now
        association = self._associations.get(path)
        if association is not None:
            self._end(association, SecurityError(reason), now)

    def footprint(self) -> dict[str, int]:
        """Say what is kept."""
        return {
            "half_open": len(self._handshakes),
            "channels": sum(len(channels) for channels in self._channels.values()),
            "associations": len(self._associations),
            "anonymous": len(self._anonymous),
            "timers": len(self._timers),
        }

    def _held(self) -> str:
        handshakes = self._handshakes
        return (
            f"{len(self._associations)} sessions; {len(handshakes)} handshakes under way,"
            f" {handshakes.pushed_out} had to make room, {handshakes.dropped} found none"
        )

    # Handshakes

    def _hello(self, data: bytes, address: Path, now: float) -> None:
        if not self._engine.serves:
            return
        answer = self.reception.receive(data, address, now)
        if answer == ADMITTED:
            self._handshakes.receive(data, address, now)
        elif answer is not None:
            self._outbox.append((answer, address))

    def _accept(self, hello: bytes, address: Path, now: float) -> None:
        session = self._engine.accept(hello)
        if session is None:
            return
        for channel in self._channels.get(address, [])[:]:
            if channel.association is None:
                self._remove(channel)  # its client began anew
        self._begin(Channel(address, session, None), now)

    def _begin(self, channel: Channel, now: float) -> None:
        self._handshakes.begin(channel, now)
        self._channels.setdefault(channel.address, []).append(channel)
        self._flush(channel)

    def _make_room(self, channel: Channel, now: float) -> None:
        self._remove(channel)
        if channel.association is not None:
            self._gave_up(channel.association, SecurityError("too many handshakes are under way"), now)
        else:
            channel.session.reason = "it had to make room for another"
            self._log_failure(channel, now)

    def _go_on(self, channel: Channel, now: float) -> bool:
        self._now = now
        self._flush(channel)
        if channel.session.state != CLOSED:
            return True
        self._failed(channel, now)
        return False

    def _begin_anew(self, channel: Channel, now: float) -> None:
        channel.session.drop()
        association = channel.association
        assert association is not None and association.host is not None
        try:
            channel.session = self._engine.connect(association.host, association.resume)
        except UsageError as error:
            channel.session.reason = str(error)

    def _feed(self, channel: Channel, data: bytes, now: float) -> None:
        session = channel.session
        was = session.state
        if was == HANDSHAKE and data[RECORD_HEADER : RECORD_HEADER + 1] != bytes((HELLO_VERIFY,)):
            channel.heard_at = now  # whoever wants a cookie again takes us for another
        messages = session.receive(data)
        self._flush(channel)
        if was == HANDSHAKE and session.state == OPEN:
            self._opened(channel, now)
        association = channel.association
        if association is not None and messages:
            channel.has_carried = True
            self._heard(association, now)
            association.patience = ASKED_IN_VAIN
            for message in messages:
                self.inner.datagram_received(message, association.path, now)
        if session.state == CLOSED:
            if was == HANDSHAKE:
                if _is_disturbed(channel):
                    self._begin_anew(channel, now)
                self._go_on(channel, now)
            else:
                self._closed(channel, now)

    def _opened(self, channel: Channel, now: float) -> None:
        session = channel.session
        self._handshakes.end(channel)
        association = channel.association
        identity = ANONYMOUS if session.certificate is None else session.certificate.identity
        if association is None:
            association = self._by_key.get(session.key)
            if association is None:
                association = self._admit(channel, now)
            channel.association = association
        former = association.channel
        association.channel, association.following = channel, None
        association.path.identity = identity
        association.path.address = channel.address
        if former is not None and former is not channel:
            former.session.drop()
            self._remove(former)
        self._heard(association, now)
        if association.host is not None:
            association.resume = session.resumable()
            waiting, association.queue = association.queue, []
            for message in waiting:
                session.send(message)
            self._flush(channel)
        if self._sweep is None:
            self._sweep = self._timers.at(now + _SWEEP, self._sweep_due)

    def _admit(self, channel: Channel, now: float) -> Association:
        """Make a new client of ours known, in the place of whom its address belonged to."""
        for other in self._channels.get(channel.address, [])[:]:
            former = other.association
            if other is not channel and former is not None and former.host is None:
                self._end(former, SecurityError("another session has taken its place"), now)
        is_anonymous = channel.session.certificate is None
        if is_anonymous and len(self._anonymous) >= self._limits.anonymous_sessions:
            self._evict(self._associations[next(iter(self._anonymous))], now)
        if len(self._associations) >= self._limits.sessions:
            self._evict(next(iter(self._associations.values())), now)
        self._count += 1
        path = SecurePath((*channel.address, f"dtls {self._count}"))
        association = self._associations[path] = Association(path, None, now)
        association.key = channel.session.key
        self._by_key[association.key] = association
        if is_anonymous:
            self._anonymous[path] = None
        return association

    def _failed(self, channel: Channel, now: float) -> None:
        """A handshake has come to nothing."""
        self._remove(channel)
        association = channel.association
        reason = channel.session.reason
        if association is None:
            self._log_failure(channel, now)
            return
        association.resume = None
        where = f"{association.host} at {channel.address[0]} port {channel.address[1]}"
        error = SecurityError(f"no DTLS session with {where}: {reason}{remedy(reason)}")
        if reason.startswith(REFUSED):
            error.refused_by = SecurityError.OURSELVES
        elif " alert " in reason:
            error.refused_by = SecurityError.PEER
        self._gave_up(association, error, now)

    def _log_failure(self, channel: Channel, now: float) -> None:
        """Tell of a handshake with a client that failed, and of no more than a few a minute."""
        if now >= self._failures_since + _FAILURES_PERIOD:
            if self._failures > _FAILURES_TOLD:
                logger.info("%d more DTLS handshakes failed; %s", self._failures - _FAILURES_TOLD, self._held())
            self._failures_since, self._failures = now, 0
        self._failures += 1
        if self._failures <= _FAILURES_TOLD:
            host, port = channel.address[:2]
            logger.info("DTLS handshake with %s port %s failed: %s", host, port, channel.session.reason)

    def _gave_up(self, association: Association, error: OSError, now: float) -> None:
        association.following = None
        association.queue.clear()
        if association.channel is None:
            self._forget(association)
        self.inner.path_failed(association.path, error, now)

    # Sessions

    def _send(self, data: bytes, path: Path, now: float) -> None:
        association = self._associations.get(path)
        if association is None:
            if not isinstance(path[-1], ServerName):
                self.inner.path_failed(path, SecurityError("its DTLS session has ended"), now)
                return
            association = self._reach(path, now)
        channel = association.channel
        if channel is not None:
            if channel.session.send(data):
                self._flush(channel)
            elif channel.session.state == CLOSED:
                self._closed(channel, now)
            if association.host is None:
                return
            if not association.is_unheard(data) or association.following is not None:
                return
        if data not in association.queue and len(association.queue) < self._limits.queued:
            association.queue.append(data)
        if association.following is None:
            self._connect(association, now)

    def _reach(self, path: Path, now: float) -> Association:
        if len(self._associations) >= self._limits.sessions:
            self._evict(next(iter(self._associations.values())), now)
        assert isinstance(path, SecurePath)
        association = self._associations[path] = Association(path, path[-1].host, now)
        return association

    def _connect(self, association: Association, now: float) -> None:
        assert association.host is not None
        try:
            session = self._engine.connect(association.host, association.resume)
        except UsageError as error:
            self._gave_up(association, SecurityError(str(error)), now)
            return
        channel = association.following = Channel(association.path[:-1], session, association)
        self._begin(channel, now)

    def _doubt(self, channels: Sequence[Channel], now: float) -> None:
        """Resume the sessions with a server that says, or of which somebody says, that it has lost them."""
        for channel in channels:
            association = channel.association
            if association is None or association.host is None or association.channel is not channel:
                continue
            if association.following is None and now >= association.doubted_at + DOUBTS_EVERY:
                association.doubted_at = now
                self._connect(association, now)

    def _heard(self, association: Association, now: float) -> None:
        association.heard(now)
        path = association.path
        associations = self._associations
        if associations.pop(path, None) is not None:
            associations[path] = association
            if path in self._anonymous:
                del self._anonymous[path]
                self._anonymous[path] = None

    def _closed(self, channel: Channel, now: float) -> None:
        """A session that was open has ended, by the other side's wish or by an alert."""
        self._remove(channel)
        association = channel.association
        if association is None or association.channel is not channel:
            return
        association.channel = None
        reason = channel.session.reason
        if association.host is None:
            self._end(
                association, SecurityError(f"the DTLS session has ended: {reason or 'closed by the client'}"), now
            )
        elif reason or not channel.has_carried:
            association.resume = None  # a server that does not believe us any more says so in a full handshake

    def _evict(self, association: Association, now: float) -> None:
        self._end(association, SecurityError("its DTLS session had to make room for another"), now)

    def _end(self, association: Association, error: SecurityError, now: float) -> None:
        for channel in (association.channel, association.following):
            if channel is not None:
                channel.session.close()
                self._flush(channel)
                self._remove(channel)
        association.channel = association.following = None
        self._forget(association)
        self.inner.path_failed(association.path, error, now)

    def _forget(self, association: Association) -> None:
        self._associations.pop(association.path, None)
        self._anonymous.pop(association.path, None)
        if self._by_key.get(association.key) is association:
            del self._by_key[association.key]

    def _remove(self, channel: Channel) -> None:
        channel.session.drop()
        self._handshakes.end(channel)
        channels = self._channels.get(channel.address)
        if channels is not None and channel in channels:
            channels.remove(channel)
            if not channels:
                del self._channels[channel.address]

    def _flush(self, channel: Channel) -> None:
        address = channel.address
        self._outbox += [(datagram, address) for datagram in channel.session.datagrams()]

    def _sweep_due(self, now: float) -> None:
        self._now = now
        self._sweep = None
        idle = now - self._limits.idle_lifetime
        for association in list(self._associations.values()):
            if association.touched > idle:
                break
            if association.host is None:
                self._end(association, SecurityError("its DTLS session was not used for too long"), now)
            elif association.channel is not None:
                association.channel.session.close()
                self._flush(association.channel)
                self._remove(association.channel)
                association.channel = None
        self._check_all(now, lambda session: True)
        if self._associations:
            self._sweep = self._timers.at(now + _SWEEP, self._sweep_due)

    def _check_all(self, now: float, is_trusted: Callable[[Session], bool]) -> None:
        """Close the sessions whose other side is not to be believed any more."""
        for association in list(self._associations.values()):
            channel = association.channel
            certificate = None if channel is None else channel.session.certificate
            if channel is None or certificate is None:
                continue
            objection = self._engine.objection(certificate, association.host)
            is_pinned = association.host is not None and not self._credentials.asks_authorities
            if objection is None and (is_pinned or is_trusted(channel.session)):
                continue
            association.resume = None
            reason = objection or "its certificate is not trusted any more"
            self._end(association, SecurityError(f"the DTLS session was closed: {reason}"), now)


def _is_disturbed(channel: Channel) -> bool:
    """Whether a client's handshake has failed by what anybody on the way may have put in, and is worth another try.

    Nothing protects its messages before it is complete: those of an earlier one that are repeated make no sense.
    """
    reason = channel.session.reason
    if channel.association is None or " alert " in reason or reason.startswith(REFUSED):
        return False
    channel.disturbances += 1
    return channel.disturbances <= _DISTURBANCES


def _asks(data: bytes) -> bool:
    """Whether `data` is a message that would be answered without having been asked for: a request, a ping."""
    return len(data) >= 2 and data[1] < 32 and not data[0] & 0x20
