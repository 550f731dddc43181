"""DTLS, as the tester speaks it with a server: a handshake over a socket of its own, with certificates (RFC 7252 §9).

OpenSSL does it, through pyOpenSSL; who may be believed is not what is tested, so that any certificate of the server's
will do.
"""

from __future__ import annotations

import select
import socket
import time
from typing import TYPE_CHECKING, NamedTuple, Optional

from minicoap.security.dtls import MTU, SUITES
from tools.conformance.frames import Address
from tools.conformance.model import Inconclusive, NotApplicable

if TYPE_CHECKING:
    from OpenSSL import SSL

HANDSHAKE, ALERT = 22, 21  # content types of records (RFC 5246 §6.2.1)
CLIENT_HELLO, SERVER_HELLO, HELLO_VERIFY_REQUEST = 1, 2, 3  # types of handshake messages (RFC 6347 §4.3.2)
RECORD, MESSAGE = 13, 12  # bytes of their headers


class Secure(NamedTuple):
    """Where a server speaks CoAPS, and what it is shown: files of PEM, empty for an anonymous client."""

    address: Address
    certificate: str = ""
    key: str = ""


class Refused(Exception):
    """The handshake came to no good end."""


class Session:
    """A DTLS client; `suites` are those that it offers, of the many that `losing` names it loses the first."""

    def __init__(self, secure: Secure, *, suites: tuple[str, ...] = SUITES, losing: int = 0) -> None:
        try:
            from OpenSSL import SSL
        except ImportError:
            raise NotApplicable("pyOpenSSL is not installed here: pip install 'minicoap[dtls]'") from None
        self._ssl = SSL
        context = SSL.Context(SSL.DTLS_METHOD)
        context.set_min_proto_version(0xFEFD)
        context.set_max_proto_version(0xFEFD)
        context.set_cipher_list((":".join(suites) + ":@SECLEVEL=0").encode())
        context.set_options(SSL.OP_NO_QUERY_MTU)
        context.set_verify(SSL.VERIFY_NONE, lambda *_: True)
        if secure.certificate:
            for file in (secure.certificate, secure.key):
                with open(file, "rb"):  # OpenSSL does not say which is missing
                    pass
            try:
                context.use_certificate_chain_file(secure.certificate)
                context.use_privatekey_file(secure.key)
            except SSL.Error as error:
                raise ValueError(f"{secure.certificate} and {secure.key}: {_reason(error)}") from error
        self._connection: SSL.Connection = SSL.Connection(context, None)
        self._connection.set_ciphertext_mtu(MTU)
        self._connection.set_connect_state()
        self._losing = losing
        self.received: list[bytes] = []
        family, kind, protocol, _, target = socket.getaddrinfo(*secure.address, type=socket.SOCK_DGRAM)[0]
        self._socket = socket.socket(family, kind, protocol)
        self._socket.connect(target)

    @property
    def suite(self) -> Optional[str]:
        """The name of the cipher suite that was agreed on."""
        return self._connection.get_cipher_name()

    def close(self) -> None:
        """Say good-bye and close the socket."""
        try:
            self._connection.shutdown()
            self._flush()
        except (self._ssl.Error, OSError):
            pass  # whoever is not there any more need not be told
        self._socket.close()

    def handshake(self, patience: float) -> None:
        """Agree on a session. Raises Refused with the server's alert, Inconclusive if nothing comes."""
        until = time.monotonic() + patience
        while True:
            try:
                self._connection.do_handshake()
                self._flush()
                return
            except self._ssl.WantReadError:
                self._flush()
            except self._ssl.Error as error:
                raise Refused(_reason(error)) from error
            if not self._receive(until):
                raise Inconclusive("the handshake was not answered")

    def ask(self, message: bytes, patience: float) -> bytes:
        """Send a message and return what comes next. Raises Refused if the session ends instead."""
        until = time.monotonic() + patience
        self._connection.send(message)
        self._flush()
        while True:
            try:
                return self._connection.recv(65535)
            except self._ssl.WantReadError:
                if not self._receive(until):
                    raise Inconclusive("the request was not answered") from None
            except self._ssl.Error as error:
                raise Refused(_reason(error)) from error

    def _flush(self) -> None:
        while True:
            try:
                flight = self._connection.bio_read(65535)
            except self._ssl.WantReadError:
                return
            for datagram in _datagrams(flight):
                if self._losing:
                    self._losing -= 1
                else:
                    self._socket.send(datagram)

    def _receive(self, until: float) -> bool:
        """Take a datagram in, or let what has to be repeated be so; False when time is up."""
        while (left := until - time.monotonic()) > 0:
            timeout = self._connection.DTLSv1_get_timeout()
            ready = select.select([self._socket], [], [], left if timeout is None else min(left, timeout))[0]
            if ready:
                try:
                    datagram = self._socket.recv(65535)
                except OSError as error:
                    raise Inconclusive(f"the server's port: {error.strerror}") from error
                self.received.append(datagram)
                self._connection.bio_write(datagram)
                return True
            if timeout is not None:
                self._connection.DTLSv1_handle_timeout()
                self._flush()
        return False


def hello_type(datagram: bytes) -> Optional[int]:
    """Return the type of the first handshake message in a datagram; None if it is something else."""
    return datagram[RECORD] if len(datagram) > RECORD + MESSAGE and datagram[0] == HANDSHAKE else None


def _datagrams(flight: bytes) -> list[bytes]:
    """Return a flight's records in datagrams that fit the MTU."""
    found: list[bytes] = []
    while flight:
        length = RECORD + int.from_bytes(flight[11:13], "big")
        if found and len(found[-1]) + length <= MTU:
            found[-1] += flight[:length]
        else:
            found.append(flight[:length])
        flight = flight[length:]
    return found


def _reason(error: Exception) -> str:
    reasons = error.args[0] if error.args else ()
    return ", ".join(reason[-1] for reason in reasons) if isinstance(reasons, list) and reasons else "it ended"
