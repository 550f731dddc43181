"""`/.well-known/est`: enrolment and renewal of certificates over CoAPS (EST, RFC 7030, bound to CoAP by RFC 9148)."""

from __future__ import annotations

import logging
from typing import Callable, Optional, Union

from fleet.errors import FormatError, RefusedError, UsageError
from fleet.host.addresses import plain_host
from fleet.model.roles import Principal, principal_of
from fleet.pki.certificates import decode_der, encode_bundle, encode_der
from fleet.pki.register import Issued
from fleet.pki.registrar import Registrar, Wait
from fleet.pki.requests import LARGEST, CertificationRequest, read_request
from fleet.server.services import Services
from minicoap.codec import codes
from minicoap.codec.contentformats import PKCS7_CERTS_ONLY, PKCS10, PKIX_CERTIFICATE
from minicoap.core.request import Request, Response, SecurePath, address_of
from minicoap.core.resource import Resource

logger = logging.getLogger(__name__)

FORMATS = (PKCS7_CERTS_ONLY, PKIX_CERTIFICATE)
CLOCK_WAIT = 60  # seconds until a server whose clock is not right is asked again
X509 = "x509"

Decide = Callable[[CertificationRequest, Request, int], Union[Issued, Wait]]


class EstResource:
    """The functions of EST that RFC 9148 §4.2 has as mandatory; `registrar` decides."""

    def __init__(self, services: Services, registrar: Registrar) -> None:
        self._services = services
        self._registrar = registrar

    def resources(self) -> list[Resource]:
        """The table's rows."""
        return [
            Resource(
                "/.well-known/est/crts",
                get=self._authority,
                title="The authority's certificates",
                resource_type="ace.est.crts",
                content_formats=FORMATS,
            ),
            Resource(
                "/.well-known/est/sen",
                post=self._enrol,
                title="Enrolment",
                resource_type="ace.est.sen",
                content_formats=FORMATS,
                accepts=(PKCS10,),
                max_body=LARGEST,
            ),
            Resource(
                "/.well-known/est/sren",
                post=self._renew,
                title="Renewal",
                resource_type="ace.est.sren",
                content_formats=FORMATS,
                accepts=(PKCS10,),
                max_body=LARGEST,
            ),
        ]

    def _authority(self, request: Request) -> Response:
        if not isinstance(request.path, SecurePath):
            return _unprotected()
        authority = self._registrar.authority.certificate
        if request.accept == PKIX_CERTIFICATE:
            return Response(codes.CONTENT, encode_der(authority), PKIX_CERTIFICATE, max_age=0)
        return Response(codes.CONTENT, encode_bundle([authority]), PKCS7_CERTS_ONLY, max_age=0)

    def _enrol(self, request: Request) -> Response:
        def decide(wanted: CertificationRequest, request: Request, at: int) -> Union[Issued, Wait]:
            return self._registrar.enrol(wanted, plain_host(address_of(request.path)[0]), at)

        return self._answer(request, decide, "certificate.enrol")

    def _renew(self, request: Request) -> Response:
        def decide(wanted: CertificationRequest, request: Request, at: int) -> Union[Issued, Wait]:
            return self._registrar.renew(wanted, _principal(request), at)

        return self._answer(request, decide, "certificate.renew")

    def _answer(self, request: Request, decide: Decide, what: str) -> Response:
        # RFC 9148 §3: EST messages travel over DTLS, or not at all.
        if not isinstance(request.path, SecurePath):
            return _unprotected()
        if request.content_format != PKCS10:
            return Response(codes.UNSUPPORTED_CONTENT_FORMAT)
        clock = self._services.clock
        if not clock.is_wall_trusted():
            return _wait(Wait(CLOCK_WAIT, "the server's clock is not set, so that it cannot date certificates"))
        try:
            wanted = read_request(request.payload)
            decision = decide(wanted, request, int(clock.wall()))
        except FormatError as error:
            return _refuse(codes.BAD_REQUEST, str(error))
        except UsageError as error:
            logger.error("no certificate can be issued: %s", error)
            return _wait(Wait(CLOCK_WAIT, "the authority cannot issue certificates now"))
        except RefusedError as error:
            logger.warning("no certificate for %s port %s: %s", *address_of(request.path)[:2], error)
            self._services.audit.refused(request, "/" + "/".join(request.options.path), error.code, what)
            return _refuse(error.code, str(error))
        if isinstance(decision, Wait):
            return _wait(decision)
        logger.info("certificate %s for %s %s (%s)", decision.serial, *decision.principal, decision.issued_for)
        self._services.audit.certified(request, what, " ".join(decision.principal))
        if request.accept == PKIX_CERTIFICATE:
            return Response(codes.CHANGED, decision.der, PKIX_CERTIFICATE)
        # RFC 9148 §4.3: 281 where the client does not say.
        return Response(codes.CHANGED, encode_bundle([decode_der(decision.der)]), PKCS7_CERTS_ONLY)


def _principal(request: Request) -> Optional[Principal]:
    identity = request.identity
    return principal_of(identity.claims) if identity.scheme == X509 else None


def _unprotected() -> Response:
    # 4.01 and not 4.03: the same request over CoAPS may well be answered.
    return _refuse(codes.UNAUTHORIZED, "certificates are handed out over CoAPS only: ask coaps://")


def _refuse(code: int, text: str) -> Response:
    return Response(code, text.encode(), max_age=0)


def _wait(wait: Wait) -> Response:
    # RFC 9148 §4.7: Max-Age is when the identical request may be repeated.
    return Response(codes.SERVICE_UNAVAILABLE, wait.reason.encode(), max_age=wait.seconds)
