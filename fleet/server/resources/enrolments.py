"""`/enrolments`: the devices that wait for a certificate, and an operator's word on them."""

from __future__ import annotations

from fleet.errors import NotFoundError, RefusedError, UsageError
from fleet.host.addresses import plain_host
from fleet.model.answers import FORMATS, answer, arguments, guarded, refusal
from fleet.model.enrolment import ACCEPT, Decision, DecisionAnswer, EnrolmentsAnswer, Waiting, parse_decision
from fleet.model.roles import principal_of
from fleet.model.times import iso_from_ms
from fleet.pki.registrar import Registrar
from fleet.server.commands import OK
from fleet.server.services import Services
from minicoap.codec import codes
from minicoap.core.request import Request, Response, address_of
from minicoap.core.resource import Resource


class EnrolmentsResource:
    """What `registrar` has waiting."""

    def __init__(self, services: Services, registrar: Registrar) -> None:
        self._services = services
        self._registrar = registrar

    def resources(self) -> list[Resource]:
        """The table's rows."""
        return [
            Resource(
                "/enrolments",
                get=guarded(self._list),
                post=guarded(self._decide),
                title="Devices that wait for a certificate",
                resource_type="fleet.enrolments",
                content_formats=FORMATS,
            )
        ]

    def _list(self, request: Request) -> Response:
        arguments(request)
        return answer(
            request,
            EnrolmentsAnswer(
                tuple(
                    Waiting(
                        node_id=pending.request.principal.name,
                        key=pending.request.key,
                        address=pending.host,
                        asked_at=iso_from_ms(pending.asked_at * 1000),
                        seen_at=iso_from_ms(pending.seen_at * 1000),
                        replaces=self._registrar.has_predecessor(pending.request),
                    )
                    for pending in self._registrar.pending(self._now())
                )
            ),
        )

    def _decide(self, request: Request) -> Response:
        arguments(request)
        decision = parse_decision(request.payload, request.content_format)
        response = self._carry_out(request, decision)
        result = OK if response.code == codes.CHANGED else response.code
        self._services.audit.record(request, f"node.{decision.action}", decision.node_id, result)
        return response

    def _carry_out(self, request: Request, decision: Decision) -> Response:
        node_id, key = decision.node_id, decision.key
        try:
            if decision.action == ACCEPT:
                by = _who(request)
                issued = self._registrar.accept(node_id, self._now(), by, key=key, replace=decision.replace)
                told = DecisionAnswer(node_id, "accepted", issued.key, issued.serial)
            else:
                rejected = self._registrar.reject(node_id, self._now(), key=key)
                told = DecisionAnswer(node_id, "rejected", rejected.request.key)
        except NotFoundError as error:
            return refusal(request, codes.NOT_FOUND, str(error))
        except UsageError as error:
            return refusal(request, codes.SERVICE_UNAVAILABLE, str(error))
        except RefusedError as error:
            return refusal(request, error.code, str(error))
        return answer(request, told, codes.CHANGED)

    def _now(self) -> int:
        return int(self._services.clock.wall())


def _who(request: Request) -> str:
    """Who decided, for the register; plain CoAP on loopback knows no more than the address."""
    principal = principal_of(request.identity.claims)
    return " ".join(principal) if principal is not None else f"somebody at {plain_host(address_of(request.path)[0])}"
