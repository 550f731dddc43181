"""Getting a certificate by EST over CoAPS (RFC 9148), as the client: what to ask, and what an answer means.

How a request travels is the caller's: `Exchange` is one request to the server over DTLS. Only the first one, for the
authority's certificates, may go over a connection whose server is not verified yet: what comes is held against a
fingerprint, and no more than that is believed of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Callable, NamedTuple, Optional, Union

from cryptography import x509

from fleet.errors import NetworkError, PeerError, RefusedError
from fleet.model.roles import Principal
from fleet.pki.certificates import certificate_fingerprint, decode_bundle, decode_der
from fleet.pki.keys import PrivateKey, grouped
from fleet.pki.keystore import Holder, Keystore
from minicoap.codec import codes
from minicoap.codec.contentformats import PKCS7_CERTS_ONLY, PKCS10, PKIX_CERTIFICATE
from minicoap.core.request import Response

ROOT = (".well-known", "est")  # RFC 9148 §4.1
SHORTEST_WAIT, LONGEST_WAIT = 1, 3600  # seconds between repeats, whatever the server says


class EstRequest(NamedTuple):
    """A request to an EST server, as `EndpointCore.request` and `Endpoint.request` take it."""

    code: int
    path: tuple[str, ...]
    payload: bytes = b""
    content_format: Optional[int] = None
    accept: Optional[int] = None


class Retry(NamedTuple):
    """The same request is to be sent again after so many `seconds`; `reason` is what the server says."""

    seconds: int
    reason: str


Exchange = Callable[[EstRequest], Awaitable[Response]]
"""Sends a request and returns the response; raises NetworkError."""


def authority_request() -> EstRequest:
    """Ask for the authority's certificates (RFC 9148 §4.2, /crts)."""
    return EstRequest(codes.GET, (*ROOT, "crts"), accept=PKCS7_CERTS_ONLY)


def enrol_request(der: bytes) -> EstRequest:
    """Ask for a first certificate (/sen)."""
    return EstRequest(codes.POST, (*ROOT, "sen"), der, PKCS10, PKIX_CERTIFICATE)


def renew_request(der: bytes) -> EstRequest:
    """Ask for the next certificate, over a connection that the present one secures (/sren)."""
    return EstRequest(codes.POST, (*ROOT, "sren"), der, PKCS10, PKIX_CERTIFICATE)


def read_authority(response: Response, fingerprint: Optional[str] = None) -> list[x509.Certificate]:
    """Return the authority's certificates; with a `fingerprint` only the one that has it. Raises PeerError."""
    if not response.is_success:
        raise _refusal(response)
    found = decode_bundle(response.body) if response.content_format != PKIX_CERTIFICATE else [decode_der(response.body)]
    if fingerprint is None:
        return found
    pinned = [certificate for certificate in found if certificate_fingerprint(certificate) == fingerprint]
    if not pinned:
        shown = ", ".join(grouped(certificate_fingerprint(certificate)) for certificate in found)
        raise PeerError(
            f"this is not the fleet that was meant: its authority's fingerprint is {shown}. Nothing was sent to it"
        )
    return pinned


def read_certificate(response: Response) -> Union[x509.Certificate, Retry]:
    """Return the certificate, or when to ask again (RFC 9148 §4.7). Raises RefusedError, and PeerError for nonsense."""
    if response.code == codes.SERVICE_UNAVAILABLE:
        return Retry(min(max(response.max_age, SHORTEST_WAIT), LONGEST_WAIT), response.text)
    if not response.is_success:
        raise _refusal(response)
    if response.content_format == PKIX_CERTIFICATE:
        return decode_der(response.body)
    return decode_bundle(response.body)[0]


async def enrol(
    exchange: Exchange,
    keystore: Keystore,
    principal: Principal,
    trust: Sequence[x509.Certificate],
    *,
    token: Optional[str] = None,
    key: Optional[PrivateKey] = None,
    waits: Callable[[str, Retry], Awaitable[None]],
) -> Holder:
    """Ask until there is a certificate, and keep it; safe to be killed and called again at any point.

    `exchange` goes to a server that `trust` verified. `key` is certified, a fresh one where there is none. `waits` is
    called with the fingerprint of our key, for people to compare, and what the server says; it returns when it is time
    to ask again. Raises RefusedError if the answer is no, PeerError if it is none, NetworkError if there is none: while
    we wait, that alone does not end it.
    """
    underway = keystore.begin(principal, token, key)
    is_waiting = False
    while True:
        try:
            answer = read_certificate(await exchange(enrol_request(underway.der)))
        except NetworkError as error:
            if not is_waiting:
                raise
            answer = Retry(30, str(error))
        if isinstance(answer, x509.Certificate):
            return keystore.finish(answer, trust)
        is_waiting = True
        await waits(underway.key, answer)


def _refusal(response: Response) -> RefusedError:
    return RefusedError(response.text or f"the server refused ({codes.code_name(response.code)})", response.code)
