"""CoAPS with certificates, in place of ETSI's tests with pre-shared and raw public keys: RFC 7252 §9.1.3.3, RFC 6347.

Where the server speaks it has to be given (`--secure`), and a certificate if it asks for one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager

from minicoap.codec import codes
from minicoap.codec.message import CON, RST, decode
from minicoap.codec.options import URI_PATH
from minicoap.errors import MessageFormatError
from tools.conformance.frames import craft
from tools.conformance.model import ADVICE, CATALOGUE, SHOULD, Failure, Inconclusive, NotApplicable
from tools.conformance.peer import Peer
from tools.conformance.secure import HELLO_VERIFY_REQUEST, Refused, Secure, Session, hello_type

test = CATALOGUE.test
MANDATORY = "ECDHE-ECDSA-AES128-CCM8"


def secure(peer: Peer) -> Secure:
    """Return where the server speaks CoAPS."""
    if peer.secure is None:
        raise NotApplicable("it was not said where the server speaks CoAPS (--secure)")
    return peer.secure


@contextmanager
def session(peer: Peer, **more: object) -> Iterator[Session]:
    """Lend a session that was agreed on. Raises Refused where none was."""
    found = Session(secure(peer), **more)  # type: ignore[arg-type]
    try:
        found.handshake(peer.patience)
        yield found
    finally:
        found.close()


def allowed(peer: Peer) -> None:
    """Raise Inconclusive if the server lets nobody in with the certificate at hand."""
    try:
        with session(peer):
            return
    except Refused as error:
        raise Inconclusive(
            f"the server refuses the handshake: {error}; give it a certificate (--cert, --key)"
        ) from error


def answered(peer: Peer, found: Session) -> None:
    """GET what can be read, within a session, and judge how the answer travels."""
    message_id, token = peer.next_message_id(), peer.token()
    path = [(URI_PATH, segment.encode()) for segment in peer.path("readable")]
    try:
        data = found.ask(craft(CON, codes.GET, message_id, token, path), peer.patience)
    except Refused as error:
        raise Inconclusive(f"the session ended: {error}") from error
    try:
        message = decode(data)
    except MessageFormatError as error:
        raise Failure(f"what comes in a session is CoAP ({error})", "RFC 7252 §9.1") from error
    if message.type == RST or message.code == codes.EMPTY:
        raise Inconclusive("the request was not answered at once")
    if message.message_id == message_id and message.token != token:
        raise Failure("a response carries the token of its request", "RFC 7252 §5.3.1")


@test("X509_01", section="RFC 7252 §9.1, §9.1.3.3", needs=["readable"])
def success(peer: Peer) -> None:
    """CoAPS with a certificate
    Handshake; GET within the session: answered, by its token and message ID.
    """
    allowed(peer)
    with session(peer) as found:
        answered(peer, found)


@test("X509_02", section="RFC 7252 §9.1.3.3", needs=["readable"])
def mandatory_suite(peer: Peer) -> None:
    """The cipher suite that everybody has to have
    Handshake that offers TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8 alone: agreed on.
    """
    allowed(peer)
    try:
        with session(peer, suites=(MANDATORY,)) as found:
            answered(peer, found)
    except Refused as error:
        raise Failure(
            f"a server with certificates has TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8 (the handshake ended: {error})",
            "RFC 7252 §9.1.3.3",
        ) from error


@test("X509_03", section="RFC 6347 §4.2.1", level=SHOULD)
def cookie(peer: Peer) -> None:
    """A client hello from an address that may be forged
    ClientHello without cookie: HelloVerifyRequest, and not the server's certificate.
    """
    allowed(peer)
    with session(peer) as found:
        first = hello_type(found.received[0])
    if first == HELLO_VERIFY_REQUEST:
        return
    if ipaddress.ip_address(peer.local[0].partition("%")[0]).is_loopback:
        raise Inconclusive("no cookie was asked for; on this machine's own address none need be")
    raise Failure(
        "a server asks a client that it does not know for a cookie before it sends more than that", "RFC 6347 §4.2.1"
    )


@test("X509_04", section="RFC 6347 §4.2.4")
def lossy(peer: Peer) -> None:
    """CoAPS where packets get lost
    Lose the first datagram of the client's, then the first two, then four: the handshake comes to its end.
    """
    allowed(peer)
    for losing in (1, 2, 4):
        try:
            with session(peer, losing=losing):
                continue
        except Refused as error:
            raise Failure(
                f"a handshake whose packets get lost goes on when they are repeated (it ended: {error})",
                "RFC 6347 §4.2.4",
            ) from error


@test("X509_05", section="RFC 7252 §6.2, §9.1", level=ADVICE, needs=["readable"])
def plain(peer: Peer) -> None:
    """Plain CoAP where CoAPS is spoken
    GET, not encrypted, to the port of CoAPS: not answered.
    """
    allowed(peer)
    with peer.another(secure(peer).address) as other:
        sent = other.request(codes.GET, "readable")
        frame = other.receive(lambda frame: frame.message is not None and frame.message.token == sent.token, 1.0)
    if frame is not None:
        raise Failure("what is served by CoAPS is not given away unencrypted on the same port", "RFC 7252 §6.2", frame)
