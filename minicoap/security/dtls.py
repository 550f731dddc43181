"""DTLS 1.2 (RFC 6347) by OpenSSL over memory: datagrams go in and come out, nothing here touches a socket.

A `Dtls` holds the two contexts, one for each role; hellos come here when their cookie was found to be good
(`minicoap.security.hello`). A `DtlsSession` is one association, from that hello to its last alert. OpenSSL measures the
time of its own repetitions itself; `DtlsSession.timeout` says how long until then.

The suites are all authenticated encryption: ChaCha20-Poly1305 first, whose records are 29 bytes longer than what they
carry, against the 37 of AES-GCM; and TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8, which RFC 7252 §9.1.3.3 demands. OpenSSL takes
that one for too weak unless its security level is 0; what level 1 forbids besides (weak signatures) is refused here.

A session is resumed by a ticket (RFC 5077), which the client keeps: a server remembers nothing of those who have left.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Callable, Optional, cast

from minicoap.errors import UsageError
from minicoap.security.credentials import (
    INSTALL,
    Certificate,
    Credentials,
    certificate_facts,
    date_objection,
    is_weak,
)
from minicoap.security.hello import RECORD_HEADER

if TYPE_CHECKING:
    from OpenSSL import SSL, crypto

SUITES = (
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-CCM8",
)
MTU = 1232  # bytes of a handshake's datagrams: what IPv6 carries everywhere, less its headers
LARGEST_RECORD = RECORD_HEADER + 16384 + 2048

HANDSHAKE, OPEN, CLOSED = "handshake", "open", "closed"
REFUSED = "certificate refused"  # how a reason begins that is ours

_NO_AUTO_CHAIN = 8  # SSL_MODE_NO_AUTO_CHAIN: an authority's certificate is not sent to those who have it
# What OpenSSL finds and does not decide. X509_V_ERR_UNABLE_TO_GET_CRL: this issuer has given us no list. Then dates,
# which are held against our own clock (X509_V_ERR_CERT_NOT_YET_VALID, CERT_HAS_EXPIRED), and those of a list, which
# goes on to hold until there is a newer one (X509_V_ERR_CRL_NOT_YET_VALID, CRL_HAS_EXPIRED).
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME
_DATES = (9, 10)
_LISTS = (3, 11, 12)

WallClock = Callable[[], Optional[float]]
"""Returns UTC seconds since 1970, or None while nobody can say."""


class Dtls:
    """Makes sessions out of `credentials`; `wall` tells the time that certificates are held against."""

    def __init__(self, credentials: Credentials, wall: WallClock) -> None:
        try:
            from OpenSSL import SSL
        except ImportError as error:
            raise UsageError(INSTALL) from error
        self.ssl = SSL
        self._credentials = credentials
        self._wall = wall
        self._generation = 0
        self._build()

    def _build(self) -> None:
        credentials = self._credentials
        self._generation = credentials.generation
        from OpenSSL import crypto

        self._anchors = crypto.X509Store()
        self._anchors.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN | _NO_CHECK_TIME)
        for certificate in credentials.trust:
            self._anchors.add_cert(crypto.X509.from_cryptography(certificate))
        self._client = self._context(self.ssl.VERIFY_PEER)
        mode = self.ssl.VERIFY_PEER
        if credentials.require_certificate:
            mode |= self.ssl.VERIFY_FAIL_IF_NO_PEER_CERT
        self._server = self._context(mode)

    def refresh(self) -> None:
        """Make the next sessions by what the credentials are now; tickets of earlier ones become worthless."""
        if self._generation != self._credentials.generation:
            self._build()

    @property
    def serves(self) -> bool:
        """Whether there is a certificate to be a server with."""
        return bool(self._credentials.chain)

    def accept(self, hello: bytes) -> Optional[DtlsSession]:
        """Begin a session with the client of `hello`, whose cookie is known to be ours; None for one without sense."""
        self.refresh()
        connection = self._connection(self._server)
        connection.set_accept_state()
        connection.bio_write(hello)
        try:
            connection.DTLSv1_listen()
        except self.ssl.Error:
            return None
        session = DtlsSession(self, connection, None, int.from_bytes(hello[5:11], "big") - 1)
        session.proceed()
        return session

    def connect(self, host: str, resume: Optional[SSL.Session] = None) -> DtlsSession:
        """Begin a session with the server at `host`, whose certificate has to fit; `resume` is from an earlier one."""
        self.refresh()
        credentials = self._credentials
        if credentials.asks_authorities and not credentials.trust:
            raise UsageError("no server can be believed: give the certificates of authorities, or a fingerprint")
        connection = self._connection(self._client)
        connection.set_connect_state()
        if resume is not None and resume._context is self._client:
            connection.set_session(resume)
        session = DtlsSession(self, connection, host)
        session.proceed()
        return session

    def _connection(self, context: SSL.Context) -> SSL.Connection:
        connection = self.ssl.Connection(context, None)
        connection.set_ciphertext_mtu(MTU)
        return connection

    def _context(self, mode: int) -> SSL.Context:
        from cryptography.hazmat.primitives.asymmetric import ec
        from OpenSSL import crypto

        ssl = self.ssl
        credentials = self._credentials
        context: SSL.Context = ssl.Context(ssl.DTLS_METHOD)
        context.set_min_proto_version(0xFEFD)
        context.set_max_proto_version(0xFEFD)
        context.set_cipher_list((":".join(SUITES) + ":@SECLEVEL=0").encode())
        context.set_options(
            ssl.OP_CIPHER_SERVER_PREFERENCE
            | ssl.OP_NO_RENEGOTIATION
            | ssl.OP_NO_COMPRESSION
            | ssl.OP_NO_QUERY_MTU
            | ssl.OP_COOKIE_EXCHANGE
        )
        context.set_mode(ssl.MODE_RELEASE_BUFFERS | _NO_AUTO_CHAIN)
        context.set_tmp_ecdh(ec.SECP256R1())
        context.set_session_cache_mode(ssl.SESS_CACHE_OFF)
        context.set_session_id(b"minicoap")
        context.set_verify(mode, self._verified)
        # Asked about hellos whose cookie was looked at before; the rest never comes here.
        context.set_cookie_verify_callback(lambda _connection, _cookie: True)
        if credentials.key is not None:
            context.use_certificate(credentials.chain[0])
            for certificate in credentials.chain[1:]:
                context.add_extra_chain_cert(certificate)
            context.use_privatekey(credentials.key)
        store = context.get_cert_store()
        assert store is not None
        for certificate in credentials.trust:
            store.add_cert(crypto.X509.from_cryptography(certificate))
        for revoked in credentials.revoked:
            store.add_crl(revoked)
        flags = crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL if credentials.revoked else 0
        store.set_flags(flags | crypto.X509StoreFlags.PARTIAL_CHAIN)
        return context

    def _verified(self, connection: SSL.Connection, x509: crypto.X509, error: int, depth: int, is_fine: int) -> bool:
        """OpenSSL's verdict on one certificate of a chain, from the authority's down to the party's own."""
        session = connection.get_app_data()
        if error in _LISTS:
            return True
        is_pinned = session.host is not None and not self._credentials.asks_authorities
        if error and error not in _DATES and not is_pinned:
            session.refuse(_verify_error(error))
            return False
        certificate = x509.to_cryptography()
        if depth:
            if is_pinned:
                return True
            is_root = certificate.subject == certificate.issuer
            objection = "its signature is too weak" if is_weak(certificate) and not is_root else None
            objection = objection or date_objection(
                certificate.not_valid_before_utc.timestamp(),
                certificate.not_valid_after_utc.timestamp(),
                self._wall(),
            )
        elif is_weak(certificate) and not is_pinned:
            objection = "its signature is too weak"
        else:
            session.certificate = certificate_facts(certificate)
            objection = self.objection(session.certificate, session.host)
        if objection is not None:
            session.refuse(objection)
        return objection is None

    def objection(self, certificate: Certificate, host: Optional[str]) -> Optional[str]:
        """Return what speaks against the party of `certificate`; `host` is where a server was asked, None a client."""
        if host is None:
            return self._credentials.objection(certificate, self._wall())
        return self._credentials.server_objection(certificate, host, self._wall())

    def is_trusted(self, session: DtlsSession) -> bool:
        """Whether an authority of ours has issued the party's certificate and not taken it back since; dates aside."""
        from OpenSSL import crypto

        self.refresh()
        leaf = session.connection.get_peer_certificate()
        if leaf is None:
            return True
        chain = session.connection.get_peer_cert_chain()
        try:
            issuers = crypto.X509StoreContext(self._anchors, leaf, chain).get_verified_chain()[1:]
        except crypto.X509StoreContextError:
            return False
        return not any(
            revoked.issuer == issuer.to_cryptography().subject
            and revoked.is_signature_valid(cast(Any, issuer.to_cryptography().public_key()))
            and revoked.get_revoked_certificate_by_serial_number(certificate.get_serial_number()) is not None
            for certificate, issuer in zip([leaf, *issuers], issuers)
            for revoked in self._credentials.revoked
        )


class DtlsSession:
    """One association. `host` is where the server was asked, None if we are the server.

    `state` goes from HANDSHAKE to OPEN to CLOSED; `reason` says why it was closed if not by either side's wish.
    `certificate` is the other side's, None if it has shown none. `random` is the client's, which tells one handshake
    from the next; `key` is the same for a session and those that resume it.
    """

    __slots__ = ("_dtls", "_message", "_shift", "certificate", "connection", "host", "key", "random", "reason", "state")

    def __init__(self, dtls: Dtls, connection: SSL.Connection, host: Optional[str], shift: int = 0) -> None:
        self._dtls = dtls
        self._shift = shift
        self._message = ""
        self.connection = connection
        self.host = host
        self.state = HANDSHAKE
        self.reason = ""
        self.certificate: Optional[Certificate] = None
        self.random = b""
        self.key = b""
        connection.set_app_data(self)

    def refuse(self, objection: str) -> None:
        """Say why the other side's certificate is not accepted; the first word counts."""
        self._message = self._message or objection

    def receive(self, data: bytes) -> list[bytes]:
        """Take a datagram; return the messages that were in it. What is forged, repeated or too old is none."""
        if self.state == CLOSED or len(data) > LARGEST_RECORD:
            return []
        self.connection.bio_write(data)
        if self.state == HANDSHAKE and not self.proceed():
            return []
        return self._read()

    def proceed(self) -> bool:
        """Go on with the handshake as far as possible; whether it is complete."""
        ssl = self._dtls.ssl
        connection = self.connection
        try:
            connection.do_handshake()
        except ssl.WantReadError:
            self.random = self.random or connection.client_random() or b""
            return False
        except ssl.Error as error:
            self._fail(error)
            return False
        self.random = connection.client_random() or b""
        self.key = hashlib.sha256(connection.master_key() or b"").digest()[:16]
        if self.certificate is None:  # resumed: OpenSSL has the certificate from then, and did not ask about it
            peer = connection.get_peer_certificate(as_cryptography=True)
            if peer is not None:
                self.certificate = certificate_facts(peer)
                objection = self._dtls.objection(self.certificate, self.host)
                if objection is not None:
                    self.state = OPEN
                    self.close()
                    self.reason = f"{REFUSED}: {objection}"
                    return False
        self.state = OPEN
        return True

    def _read(self) -> list[bytes]:
        ssl = self._dtls.ssl
        connection = self.connection
        messages: list[bytes] = []
        while True:
            try:
                messages.append(connection.recv(LARGEST_RECORD))
            except ssl.WantReadError:
                return messages
            except ssl.ZeroReturnError:  # close_notify, which is answered by ours (RFC 5246 §7.2.1)
                self.close()
                return messages
            except ssl.Error as error:
                self._fail(error)
                return messages

    def send(self, message: bytes) -> bool:
        """Protect and send `message`; False if it is longer than a record can be or the session is not open."""
        if self.state != OPEN:
            return False
        ssl = self._dtls.ssl
        try:
            self.connection.send(message)
        except ssl.WantReadError:
            return False
        except ssl.Error as error:
            if len(message) <= 16384:
                self._fail(error)
            return False
        return True

    def datagrams(self) -> list[bytes]:
        """Return what is to be sent, and forget it."""
        datagrams = _drain(self.connection)
        return [_renumber(datagram, self._shift) for datagram in datagrams] if self._shift > 0 else datagrams

    def timeout(self) -> Optional[float]:
        """Return in how many seconds `repeat` is due; None if nothing is waited for."""
        return self.connection.DTLSv1_get_timeout() if self.state == HANDSHAKE else None

    def repeat(self) -> None:
        """Send again what has remained without an answer, if it is time (RFC 6347 §4.2.4)."""
        try:
            self.connection.DTLSv1_handle_timeout()
        except self._dtls.ssl.Error as error:
            self._fail(error)

    def close(self) -> None:
        """Say good-bye; the session may be resumed (RFC 5246 §7.2.1)."""
        if self.state == OPEN:
            try:
                self.connection.shutdown()
            except self._dtls.ssl.Error as error:
                self._fail(error)
        self.drop()

    def drop(self) -> None:
        """End it without a word; it may be resumed unless it failed."""
        if self.state == OPEN:
            # Or OpenSSL takes it for broken off, and forbids its resumption.
            self.connection.set_shutdown(self._dtls.ssl.SENT_SHUTDOWN | self._dtls.ssl.RECEIVED_SHUTDOWN)
        self._end()

    def _end(self) -> None:
        self.state = CLOSED
        # It points back at us: together they would keep OpenSSL's memory until the collector of cycles comes by.
        self.connection.set_app_data(None)

    def resumable(self) -> Optional[SSL.Session]:
        """Return what `Dtls.connect` takes to resume this session, as a client."""
        return self.connection.get_session()

    def _fail(self, error: SSL.Error) -> None:
        self._end()
        if self._message:
            self.reason = f"{REFUSED}: {self._message}"
        else:
            texts = [str(part[-1]) for part in error.args[0]] if error.args else []
            self.reason = texts[-1] if texts else "broken off"
        if self.certificate is not None and self.host is not None:
            self.reason += f" (fingerprint {self.certificate.fingerprint})"


def _verify_error(number: int) -> str:
    return _VERIFY_ERRORS.get(number, f"OpenSSL's verification error {number}")


_VERIFY_ERRORS = {
    2: "its issuer is not known",
    7: "its signature is wrong",
    18: "it is signed by itself",
    19: "it comes from another authority",
    20: "it comes from an authority that is not trusted",
    21: "it comes from an authority that is not trusted",
    23: "it has been revoked",
    24: "its issuer is no authority",
    26: "it is not meant for this use",
}


def _drain(connection: SSL.Connection) -> list[bytes]:
    """Return what OpenSSL has written, records joined in datagrams of at most MTU bytes."""
    written = b""
    from OpenSSL.SSL import WantReadError

    while True:
        try:
            written += connection.bio_read(65536)
        except WantReadError:
            break
    if len(written) <= MTU:
        return [written] if written else []
    datagrams: list[bytes] = []
    begin = at = 0
    while at < len(written):
        end = at + RECORD_HEADER + int.from_bytes(written[at + 11 : at + 13], "big")
        if end - begin > MTU and at > begin:
            datagrams.append(written[begin:at])
            begin = at
        at = end
    datagrams.append(written[begin:])
    return datagrams


def _renumber(datagram: bytes, shift: int) -> bytes:
    """Add `shift` to the numbers of the records without protection.

    A server's numbers go on from the hello that brought the cookie (RFC 6347 §4.2.1), but OpenSSL has them begin at 1,
    which the client has seen in an answer to an earlier hello if that had to be repeated; it would drop the first.
    """
    shifted = bytearray(datagram)
    at = 0
    while at + RECORD_HEADER <= len(shifted):
        if shifted[at + 3 : at + 5] == b"\0\0":
            number = int.from_bytes(shifted[at + 5 : at + 11], "big") + shift
            shifted[at + 5 : at + 11] = number.to_bytes(6, "big")
        at += RECORD_HEADER + int.from_bytes(shifted[at + 11 : at + 13], "big")
    return bytes(shifted)
