"""A pretended DTLS for worlds: the engine of `SecureMachine` under the virtual clock, repeatable from a seed.

OpenSSL keeps its own clock and draws its own random numbers. This has what is to be seen of DTLS 1.2 (RFC 6347) from
outside: hellos answered by a stateless cookie, a handshake of several flights in several datagrams that are repeated
when their answer does not come, records with epochs and numbers behind a window against replay, resumption by tickets,
alerts and good-byes; sizes are those of ChaCha20-Poly1305. What is pretended is the secrecy: records are in the clear
behind a keyed hash that only their session can make, a certificate is plain data that its bearer is believed to own,
and its issuer is a name. Whether a certificate is accepted is decided by the `Credentials` that real sessions have.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Callable, NamedTuple, Optional

from minicoap.core.entropy import Entropy
from minicoap.core.machine import DatagramMachine
from minicoap.errors import UsageError
from minicoap.security.credentials import Certificate, Credentials
from minicoap.security.dtls import CLOSED, HANDSHAKE, LARGEST_RECORD, OPEN, WallClock
from minicoap.security.hello import CLIENT_HELLO, HELLO_VERIFY, MESSAGE_HEADER, RECORD_HEADER, hello_random
from minicoap.security.sessions import SecureMachine, SecurityLimits
from minicoap.simulate.records import TAG, VERSION, Window, digest, message_of, pack, record_of, split, tag, unpack
from minicoap.simulate.world import World

AUTHORITY = "authority"
"""The issuer whom everybody in a world trusts unless told otherwise."""

MTU = 512  # bytes of a handshake's datagrams: a flight with a certificate takes several, as real ones do
OVERHEAD = RECORD_HEADER + TAG
REPEAT_AFTER = 1.0  # seconds until a flight is repeated for the first time, then twice that (RFC 6347 §4.2.4.1)
REPEAT_AT_MOST = 60.0  # seconds

_ALERT, _HANDSHAKE, _APPLICATION_DATA = 21, 22, 23
_SERVER_HELLO, _TICKET = 2, 4
_CERTIFICATE, _CERTIFICATE_REQUEST, _HELLO_DONE, _KEY_EXCHANGE, _FINISHED = 11, 13, 14, 16, 20
_CERTIFICATE_SIZE = 420  # bytes, at least: what a small one on P-256 has
_COOKIE_LENGTH = RECORD_HEADER + MESSAGE_HEADER + 35  # where it stands in a hello, whose session ID is empty
_PARAMETERS = b"\0\2\xcc\xa9\1\0"  # one suite, no compression
_EARLY = 16  # messages kept that came before their turn, records before their keys
_LARGEST_MESSAGE = 16384  # bytes (RFC 5246 §6.2.1)

_CLOSE_NOTIFY = 0
_ALERTS = {
    40: "handshake failure",
    42: "bad certificate",
    44: "certificate revoked",
    45: "certificate expired",
    48: "unknown ca",
    80: "internal error",
}
_ALERT_OF = {name: number for number, name in _ALERTS.items()}


def make_certificate(
    subject: str,
    *,
    issuer: str = AUTHORITY,
    serial: int = 1,
    uris: Sequence[str] = (),
    names: Sequence[str] = (),
    not_before: float = 0.0,
    not_after: float = 4e9,
) -> Certificate:
    """Return a certificate: nobody has signed it, and `issuer` is to be believed. Dates in UTC seconds since 1970."""
    facts = [subject, list(uris), list(names), issuer, serial, not_before, not_after]
    return _read_certificate(json.dumps(facts).encode().ljust(_CERTIFICATE_SIZE))


def _read_certificate(der: bytes) -> Certificate:
    subject, uris, names, issuer, serial, not_before, not_after = json.loads(der)
    fingerprint = sha256(der).hexdigest()
    return Certificate(subject, tuple(uris), tuple(names), (), issuer, serial, fingerprint, not_before, not_after, der)


def message_in(datagram: bytes) -> Optional[bytes]:
    """Return the message that a datagram carries; None for one of a handshake, and for an alert."""
    if len(datagram) < OVERHEAD or datagram[0] != _APPLICATION_DATA:
        return None
    return datagram[RECORD_HEADER:-TAG]


def secured(
    world: World,
    name: str,
    inner: DatagramMachine,
    *,
    certificate: Optional[Certificate] = None,
    credentials: Optional[Credentials] = None,
    limits: SecurityLimits = SecurityLimits(),  # noqa: B008  immutable
) -> SecureMachine:
    """Return `inner` behind pretended DTLS. `name` has to be a new one for each life: a process forgets its secrets."""
    credentials = Credentials() if credentials is None else credentials
    entropy = world.entropy(f"{name}/dtls")
    engine = PretendedDtls(credentials, entropy, lambda: world.now, certificate=certificate)
    return SecureMachine(inner, credentials, entropy, engine.wall, limits=limits, engine=engine)


class PretendedDtls:
    """Makes sessions, as `minicoap.security.dtls.Dtls` does. `clock` is the world's, in seconds.

    `certificate` is our own, `authorities` are the issuers that are believed, `revoked` the serials that are not any
    more; `change` replaces them. Of `credentials` counts what is not PEM: pins, names, dates, `verify`.
    """

    def __init__(
        self,
        credentials: Credentials,
        entropy: Entropy,
        clock: Callable[[], float],
        *,
        certificate: Optional[Certificate] = None,
        authorities: Sequence[str] = (AUTHORITY,),
        revoked: Sequence[int] = (),
        wall: WallClock = lambda: None,
    ) -> None:
        self.credentials = credentials
        self.entropy = entropy
        self.clock = clock
        self.certificate = certificate
        self.authorities = tuple(authorities)
        self.revoked = tuple(revoked)
        self.wall = wall
        self.generation = credentials.generation
        self._ticket_key = entropy.token(32)

    def change(
        self,
        *,
        certificate: Optional[Certificate] = None,
        authorities: Optional[Sequence[str]] = None,
        revoked: Optional[Sequence[int]] = None,
    ) -> None:
        """Replace what is not None; tell the machine afterwards (`SecureMachine.credentials_changed`)."""
        self.certificate = self.certificate if certificate is None else certificate
        self.authorities = self.authorities if authorities is None else tuple(authorities)
        self.revoked = self.revoked if revoked is None else tuple(revoked)
        self.credentials.generation += 1

    def refresh(self) -> None:
        """Make the next sessions by what the credentials are now; tickets of earlier ones become worthless."""
        if self.generation != self.credentials.generation:
            self.generation = self.credentials.generation
            self._ticket_key = self.entropy.token(32)

    @property
    def serves(self) -> bool:
        """Whether there is a certificate to be a server with."""
        return self.certificate is not None

    def accept(self, hello: bytes) -> PretendedSession:
        """Begin a session with the client of `hello`, whose cookie is known to be good."""
        self.refresh()
        session = PretendedSession(self, None, hello_random(hello) or b"")
        session.accept(hello[_COOKIE_LENGTH + 1 + hello[_COOKIE_LENGTH] + len(_PARAMETERS) :])
        return session

    def connect(self, host: str, resume: Optional[Resumption] = None) -> PretendedSession:
        """Begin a session with the server at `host`, whose certificate has to fit; `resume` is from an earlier one."""
        self.refresh()
        if self.credentials.asks_authorities and not self.authorities:
            raise UsageError("no server can be believed: give the certificates of authorities, or a fingerprint")
        session = PretendedSession(self, host, self.entropy.token(32))
        session.begin(resume if resume is not None and resume.generation == self.generation else None)
        return session

    def objection(self, certificate: Certificate, host: Optional[str]) -> Optional[str]:
        """Return what speaks against the party of `certificate`; `host` is where a server was asked, None a client."""
        if host is None:
            return self.credentials.objection(certificate, self.wall())
        return self.credentials.server_objection(certificate, host, self.wall())

    def is_trusted(self, session: PretendedSession) -> bool:
        """Whether an authority of ours has issued the party's certificate and not taken it back since; dates aside."""
        certificate = session.certificate
        return certificate is None or not self.alert(certificate)

    def alert(self, certificate: Certificate) -> str:
        """Return the alert that is due to who shows `certificate`; empty if its issuer stands by it."""
        if certificate.issuer not in self.authorities:
            return "unknown ca"
        return "certificate revoked" if certificate.serial in self.revoked else ""

    def ticket(self, master: bytes, certificate: Optional[Certificate]) -> bytes:
        """Return what a client shows to resume its session; only we can make one."""
        content = pack(master, b"" if certificate is None else certificate.der)
        return content + digest(self._ticket_key, content)

    def open_ticket(self, ticket: bytes) -> Optional[tuple[bytes, Optional[Certificate]]]:
        """Return the secret and the certificate of a ticket; None if it is not ours, or not any more."""
        content, proof = ticket[:-TAG], ticket[-TAG:]
        fields = unpack(content) if proof == digest(self._ticket_key, content) else None
        if fields is None:
            return None
        master, der = fields
        return master, _read_certificate(der) if der else None


class Resumption(NamedTuple):
    """What a client keeps of a session."""

    ticket: bytes
    master: bytes
    certificate: Certificate
    generation: int


class PretendedSession:
    """One association, as `minicoap.security.dtls.DtlsSession` is one."""

    def __init__(self, dtls: PretendedDtls, host: Optional[str], random: bytes) -> None:
        self.state = HANDSHAKE
        self.reason = ""
        self.certificate: Optional[Certificate] = None
        self.random = random
        self.key = b""
        self._dtls = dtls
        self._host = host
        self._master = b""
        self._server_random = b""
        self._resume: Optional[Resumption] = None
        self._ticket = b""
        self._is_resumed = False
        self._keys: Optional[tuple[bytes, bytes]] = None  # ours, theirs
        self._records: list[bytes] = []  # to be sent
        self._numbers = [0, 0]  # of the next record, by epoch
        self._flight: list[tuple[int, bytes]] = []  # epoch and message, kept to be repeated
        self._spoken = self._heard = 0  # number of the next message that we send, and of the next that we await
        self._early: dict[int, tuple[int, bytes]] = {}
        self._held: list[bytes] = []  # records that came before their keys
        self._window = Window()
        self._wait = REPEAT_AFTER
        self._due_at = 0.0

    # What `SecureMachine` asks

    def receive(self, data: bytes) -> list[bytes]:
        """Take a datagram; return the messages that were in it. What is forged, repeated or too old is none."""
        messages: list[bytes] = []
        if len(data) <= LARGEST_RECORD:
            for record in split(data):
                self._take(record, messages)
        return messages

    def send(self, message: bytes) -> bool:
        """Protect and send `message`; False if it is longer than a record can be or the session is not open."""
        if self.state != OPEN or len(message) > _LARGEST_MESSAGE:
            return False
        self._write(_APPLICATION_DATA, 1, message)
        return True

    def datagrams(self) -> list[bytes]:
        """Return what is to be sent, records joined in datagrams of at most MTU bytes, and forget it."""
        datagrams: list[bytes] = []
        for record in self._records:
            if datagrams and len(datagrams[-1]) + len(record) <= MTU:
                datagrams[-1] += record
            else:
                datagrams.append(record)
        self._records.clear()
        return datagrams

    def timeout(self) -> Optional[float]:
        """Return in how many seconds `repeat` is due; None if nothing is waited for."""
        return max(0.0, self._due_at - self._dtls.clock()) if self.state == HANDSHAKE else None

    def repeat(self) -> None:
        """Send again what has remained without an answer, if it is time (RFC 6347 §4.2.4)."""
        now = self._dtls.clock()
        if self.state == HANDSHAKE and now >= self._due_at:
            self._wait = min(2 * self._wait, REPEAT_AT_MOST)
            self._due_at = now + self._wait
            self._send_flight()

    def close(self) -> None:
        """Say good-bye; the session may be resumed."""
        if self.state == OPEN:
            self._write(_ALERT, 1, bytes((1, _CLOSE_NOTIFY)))
        self.drop()

    def drop(self) -> None:
        """End it without a word."""
        self.state = CLOSED

    def resumable(self) -> Optional[Resumption]:
        """Return what `PretendedDtls.connect` takes to resume this session, as a client."""
        if not self._ticket or self.certificate is None:
            return None
        return Resumption(self._ticket, self._master, self.certificate, self._dtls.generation)

    # Beginnings

    def begin(self, resume: Optional[Resumption]) -> None:
        """Send the hello of a client."""
        self._resume = resume
        self._say((0, CLIENT_HELLO, self._hello(b"")))

    def accept(self, ticket: bytes) -> None:
        """Answer the hello that brought the cookie: the client's second message, as ours will be our second."""
        self._spoken, self._heard = 1, 2
        self._server_random = self._dtls.entropy.token(32)
        opened = self._dtls.open_ticket(ticket)
        if opened is not None:
            self._is_resumed = True
            self._master, self.certificate = opened
            self._make_keys()
            self._say((0, _SERVER_HELLO, self._server_random + b"\1"), self._new_ticket(), (1, _FINISHED, b""))
            return
        certificate = self._dtls.certificate
        assert certificate is not None
        self._say(
            (0, _SERVER_HELLO, self._server_random + b"\0"),
            (0, _CERTIFICATE, certificate.der),
            (0, _CERTIFICATE_REQUEST, b""),
            (0, _HELLO_DONE, b""),
        )

    def _hello(self, cookie: bytes) -> bytes:
        ticket = b"" if self._resume is None else self._resume.ticket
        return VERSION + self.random + bytes((0, len(cookie))) + cookie + _PARAMETERS + ticket

    def _new_ticket(self) -> tuple[int, int, bytes]:
        return (0, _TICKET, self._dtls.ticket(self._master, self.certificate))

    # Records

    def _write(self, content: int, epoch: int, data: bytes) -> None:
        number = self._numbers[epoch]
        self._numbers[epoch] += 1
        if epoch:
            assert self._keys is not None
            data += tag(self._keys[0], content, number, data)
        self._records.append(record_of(content, epoch, number, data))

    def _take(self, record: bytes, messages: list[bytes]) -> None:
        if self.state == CLOSED:
            return
        content, epoch, data = record[0], record[4], record[RECORD_HEADER:]
        if not epoch:
            if self.state == HANDSHAKE:  # afterwards nothing without protection counts
                self._take_content(content, data, messages)
            return
        if self._keys is None:
            if len(self._held) < _EARLY:
                self._held.append(record)
            return
        number = int.from_bytes(record[5:11], "big")
        data, proof = data[:-TAG], data[-TAG:]
        if proof == tag(self._keys[1], content, number, data) and self._window.admits(number):
            self._take_content(content, data, messages)

    def _take_content(self, content: int, data: bytes, messages: list[bytes]) -> None:
        if content == _APPLICATION_DATA:
            if self.state == OPEN:
                messages.append(data)
        elif content == _ALERT and len(data) == 2:
            if data[1] == _CLOSE_NOTIFY:  # which is answered by ours (RFC 5246 §7.2.1)
                self.close()
            else:
                self._end(f"alert {_ALERTS.get(data[1], data[1])}")
        elif content == _HANDSHAKE and len(data) >= MESSAGE_HEADER:
            self._take_message(data[0], int.from_bytes(data[4:6], "big"), data[MESSAGE_HEADER:], messages)

    # Messages of the handshake

    def _say(self, *messages: tuple[int, int, bytes]) -> None:
        """Send a flight: messages by epoch, type and body. Its repetitions begin."""
        self._flight = []
        for epoch, kind, body in messages:
            self._flight.append((epoch, message_of(kind, self._spoken, body)))
            self._spoken += 1
        self._wait = REPEAT_AFTER
        self._due_at = self._dtls.clock() + REPEAT_AFTER
        self._send_flight()

    def _send_flight(self) -> None:
        for epoch, message in self._flight:
            self._write(_HANDSHAKE, epoch, message)

    def _take_message(self, kind: int, number: int, body: bytes, messages: list[bytes]) -> None:
        if number < self._heard:
            if self._is_asked_again(kind):
                self._send_flight()
            return
        if number < self._heard + _EARLY:
            self._early[number] = (kind, body)
        while self._heard in self._early and self.state == HANDSHAKE:
            self._heard += 1
            self._go_on(*self._early.pop(self._heard - 1))
        if self._keys is not None and self._held:
            held, self._held = self._held, []
            for record in held:
                self._take(record, messages)

    def _is_asked_again(self, kind: int) -> bool:
        """Whether a message of before ends the other side's flight and shows that ours was lost (RFC 6347 §4.2.4)."""
        if self.state == HANDSHAKE:
            return kind in (CLIENT_HELLO, _HELLO_DONE)
        return kind == _FINISHED and self._is_resumed == (self._host is not None)  # whose flight was the last

    def _go_on(self, kind: int, body: bytes) -> None:
        step = (_AS_SERVER if self._host is None else _AS_CLIENT).get(kind)
        if step is None:
            self._refuse("handshake failure", f"message {kind} out of turn")
        else:
            step(self, body)

    def _verify_requested(self, body: bytes) -> None:
        self._say((0, CLIENT_HELLO, self._hello(body[3:])))  # behind version and length

    def _server_hello(self, body: bytes) -> None:
        self._server_random = body[:32]
        if body[32:] == b"\1" and self._resume is not None:
            self._is_resumed = True
            self._master, self.certificate = self._resume.master, self._resume.certificate
            self._make_keys()

    def _server_certificate(self, body: bytes) -> None:
        assert self._host is not None
        certificate = self.certificate = _read_certificate(body)
        alert = self._dtls.alert(certificate) if self._dtls.credentials.asks_authorities else ""
        if alert == "unknown ca":
            self._refuse(alert, "certificate refused: it comes from an authority that is not trusted")
        elif alert:
            self._refuse(alert, "certificate refused: it has been revoked")
        else:
            self._object(certificate)

    def _hello_done(self, body: bytes) -> None:
        ours = self._dtls.certificate
        secret = self._dtls.entropy.token(32)
        self._master = digest(secret, self.random + self._server_random)
        self._make_keys()
        self._say((0, _CERTIFICATE, b"" if ours is None else ours.der), (0, _KEY_EXCHANGE, secret), (1, _FINISHED, b""))

    def _ticket_given(self, body: bytes) -> None:
        self._ticket = body

    def _server_finished(self, body: bytes) -> None:
        if self._is_resumed:
            self._say((1, _FINISHED, b""))
        self._open()

    def _client_certificate(self, body: bytes) -> None:
        if not body:
            if self._dtls.credentials.require_certificate:
                self._refuse("handshake failure", "peer did not return a certificate")
            return
        certificate = self.certificate = _read_certificate(body)
        alert = self._dtls.alert(certificate)
        if alert:
            self._refuse(alert, f"certificate refused: {alert}")
        else:
            self._object(certificate)

    def _key_exchange(self, body: bytes) -> None:
        self._master = digest(body, self.random + self._server_random)
        self._make_keys()

    def _client_finished(self, body: bytes) -> None:
        if not self._is_resumed:
            self._say(self._new_ticket(), (1, _FINISHED, b""))
        self._open()

    def _nothing(self, body: bytes) -> None:
        pass

    # Ends and outcomes

    def _make_keys(self) -> None:
        randoms = self.random + self._server_random
        client, server = digest(self._master, b"client" + randoms), digest(self._master, b"server" + randoms)
        self._keys = (server, client) if self._host is None else (client, server)

    def _open(self) -> None:
        self.key = digest(self._master, b"name")
        self.state = OPEN
        if self._is_resumed and self.certificate is not None:  # nobody has asked about it yet
            objection = self._dtls.objection(self.certificate, self._host)
            if objection is not None:
                self.close()
                self.reason = f"certificate refused: {objection}"

    def _object(self, certificate: Certificate) -> None:
        objection = self._dtls.objection(certificate, self._host)
        if objection is not None:
            alert = objection.replace("has ", "")
            self._refuse(alert if alert in _ALERT_OF else "bad certificate", f"certificate refused: {objection}")

    def _refuse(self, alert: str, reason: str) -> None:
        self._write(_ALERT, 0, bytes((2, _ALERT_OF[alert])))
        self._end(reason)

    def _end(self, reason: str) -> None:
        self.state = CLOSED
        self.reason = reason


_Step = Callable[[PretendedSession, bytes], None]

_AS_CLIENT: dict[int, _Step] = {
    HELLO_VERIFY: PretendedSession._verify_requested,
    _SERVER_HELLO: PretendedSession._server_hello,
    _CERTIFICATE: PretendedSession._server_certificate,
    _CERTIFICATE_REQUEST: PretendedSession._nothing,
    _HELLO_DONE: PretendedSession._hello_done,
    _TICKET: PretendedSession._ticket_given,
    _FINISHED: PretendedSession._server_finished,
}
_AS_SERVER: dict[int, _Step] = {
    _CERTIFICATE: PretendedSession._client_certificate,
    _KEY_EXCHANGE: PretendedSession._key_exchange,
    _FINISHED: PretendedSession._client_finished,
}
