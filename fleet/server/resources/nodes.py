"""`/nodes`: registration, the list, single nodes and their last health."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional, Union

import msgspec

from fleet.errors import InvalidError
from fleet.host.addresses import plain_host
from fleet.model.answers import FORMATS, NAMES_FORMAT, answer, arguments, guarded, refusal
from fleet.model.api import check_page, parse_registration
from fleet.model.api_answers import NodeHealthAnswer, NodesAnswer, NodeView, RegistrationAnswer
from fleet.model.formats import CBOR
from fleet.model.times import iso_from_ms
from fleet.server.commands import NOT_FOUND, Outcome, RegisterNode, RemoveNode
from fleet.server.presence import OFFLINE, STATUSES
from fleet.server.queries import NodeIdsQuery, NodeItem, NodeQuery, NodesQuery, Page, decode_cursor, encode_cursor
from fleet.server.refusals import refuse_outcome
from fleet.server.resources.health import last_health
from fleet.server.services import Answering, Services
from minicoap.codec import codes
from minicoap.core.fairness import host_of
from minicoap.core.request import Deferred, Request, Response, address_of
from minicoap.core.resource import Resource

JOINING_LIMIT = 1024  # new nodes being registered at once, so that nobody waits for long behind a flood of them
JOINING_PER_HOST = 256
REGISTRATION_LIMIT = 8192  # bytes
_FEW = 5000  # nodes that have a status
_IDS_AT_ONCE = 5000  # looked through for a status at a time, so that others get their turn
PAGE_REPORTS_LIMIT = 1024 * 1024  # bytes of reports on one page of the list, which is shorter where they are long


class RemovedAnswer(msgspec.Struct, frozen=True):
    """To `DELETE /nodes/{id}`."""

    node_id: str
    status: str = "removed"


class NodesResource:
    """The registered nodes."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._joining: dict[str, str] = {}  # new nodes that are being registered, with their hosts

    def resources(self) -> list[Resource]:
        """The table's rows."""
        return [
            Resource(
                "/nodes",
                get=guarded(self._list),
                post=guarded(self._register),
                max_body=REGISTRATION_LIMIT,
                title="Nodes",
                resource_type="fleet.nodes",
                content_formats=FORMATS,
                observable=True,
            ),
            Resource("/nodes/{id}", get=guarded(self._show), delete=guarded(self._remove), content_formats=FORMATS),
            Resource("/nodes/{id}/health", get=guarded(self._health), content_formats=FORMATS, observable=True),
        ]

    def _register(self, request: Request) -> Union[Response, Deferred]:
        arguments(request)
        services = self._services
        if len(request.payload) > REGISTRATION_LIMIT:
            text = f"the registration has {len(request.payload)} bytes; it may have {REGISTRATION_LIMIT}"
            return refusal(request, codes.REQUEST_ENTITY_TOO_LARGE, text)
        registration = parse_registration(request.payload, request.content_format)
        refused = services.access.refuses_node(request, registration.node_id)
        if refused is not None:
            return refused
        host, port = address_of(request.path)[:2]
        if services.presences.find(registration.node_id) is None:
            refused = self._refuses_new(request)
            if refused is not None:
                return refused
            self._joining[registration.node_id] = host_of(request.path)
        at = services.at()

        def done(outcome: Outcome) -> None:
            answering.resolve(registered(request, outcome) if outcome.is_ok else refuse_outcome(request, outcome))

        def joined() -> None:
            self._joining.pop(registration.node_id, None)

        def registered(request: Request, outcome: Outcome) -> Response:
            presence = services.presences.add(registration.node_id)
            is_believed = services.heard(request, presence, at)
            told = RegistrationAnswer(
                registration.node_id,
                "registered" if outcome.created else "updated",
                services.servers_for(request),
                services.config.health_interval,
                iso_from_ms(services.at()),
            )
            if outcome.created:
                response = answer(request, told, codes.CREATED, location=("nodes", registration.node_id))
            else:
                response = answer(request, told, codes.CHANGED)
            return services.told(request, response, is_believed)

        answering = Answering(services, request, ended=joined)
        command = RegisterNode(
            at, registration, str(host), int(port), registration.request_id, services.audit.origin(request)
        )
        return answering.submit(command, done)

    def _refuses_new(self, request: Request) -> Optional[Response]:
        """Return the refusal of a node that is new, None if there is room for it; those known are always served."""
        most = self._services.config.max_nodes
        if len(self._services.presences) + len(self._joining) >= most:
            text = f"{most} nodes are registered, as many as the server takes (--max-nodes); remove some"
            return refusal(request, codes.SERVICE_UNAVAILABLE, text)
        host = host_of(request.path)
        if sum(other == host for other in self._joining.values()) >= JOINING_PER_HOST:
            text = f"{JOINING_PER_HOST} nodes are registering from this host already; try again in a few seconds"
            return refusal(request, codes.TOO_MANY_REQUESTS, text)
        if len(self._joining) >= JOINING_LIMIT:
            text = "more nodes are registering than the server can take in; try again in a few seconds"
            return refusal(request, codes.SERVICE_UNAVAILABLE, text)
        return None

    def _remove(self, request: Request) -> Deferred:
        arguments(request)
        node_id = request.args["id"]
        answering = Answering(self._services, request)

        def done(outcome: Outcome) -> None:
            # RFC 7252 §5.8.4: deleting what is not there is a success too.
            if outcome.is_ok or outcome.status == NOT_FOUND:
                answering.resolve(answer(request, RemovedAnswer(node_id), codes.DELETED))
            else:
                answering.resolve(refuse_outcome(request, outcome))

        command = RemoveNode(self._services.at(), node_id, origin=self._services.audit.origin(request))
        return answering.submit(command, done)

    def _list(self, request: Request) -> Union[Response, Deferred]:
        asked = arguments(request, "status", "group", "q", "limit", "after")
        status = asked.get("status")
        if status is not None and status not in STATUSES:
            raise InvalidError(f"{status[:80]!r} is no status; use one of {', '.join(STATUSES)}", "status")

        query = NodesQuery(asked.get("after"), check_page(asked.get("limit")), asked.get("group"), asked.get("q"))
        if status is None:
            return self._services.query(request, query, lambda request, page: self._listed(request, page, page.next))
        presences, at = self._services.presences, self._services.at()
        after = "" if query.after is None else str(decode_cursor(query.after, str)[0])
        if query.group is None and query.text is None:
            answering = Answering(self._services, request)
            return self._show_these(answering, presences.with_status(status, after, query.limit + 1, at), query.limit)
        few = presences.with_status(status, after, _FEW + 1, at)
        if len(few) <= _FEW:  # the store chooses among them
            query = NodesQuery(None, query.limit, query.group, query.text, tuple(few))
            return self._services.query(request, query, lambda request, page: self._listed(request, page, page.next))
        return self._filter(request, query, status, at)

    def _listed(self, request: Request, page: Page[NodeItem], following: Optional[str]) -> Response:
        items, following = self._fitting(page, following)
        return answer(request, NodesAnswer(tuple(self._view(item) for item in items), following))

    def _show_these(self, answering: Answering, node_ids: Sequence[str], limit: int) -> Deferred:
        """Answer with the first `limit` of these nodes; if there are more, with where to go on."""
        shown = tuple(node_ids[:limit])
        following = encode_cursor(shown[-1]) if len(node_ids) > limit else None

        def found(page: Page[NodeItem]) -> None:
            answering.resolve(self._listed(answering.request, page, following))

        return answering.query(NodesQuery(limit=limit, node_ids=shown), found)

    def _filter(self, request: Request, query: NodesQuery, status: str, at: int) -> Deferred:
        """Answer with what the store finds and memory knows to have the status, as very many have."""
        presences = self._services.presences
        answering = Answering(self._services, request)
        chosen: list[str] = []

        def found(page: Page[str]) -> None:
            chosen.extend(presences.having(status, page.items, at))
            if page.next is None or len(chosen) > query.limit:
                self._show_these(answering, chosen, query.limit)
            else:
                answering.query(NodeIdsQuery(page.next, _IDS_AT_ONCE, query.group, query.text), found)

        return answering.query(NodeIdsQuery(query.after, _IDS_AT_ONCE, query.group, query.text), found)

    def _show(self, request: Request) -> Deferred:
        arguments(request)

        def shown(request: Request, page: Page[NodeItem]) -> Response:
            return answer(request, self._view(page.items[0])) if page.items else _unknown(request)

        return self._services.query(request, NodeQuery(request.args["id"]), shown)

    def _health(self, request: Request) -> Response:
        arguments(request)
        node_id = request.args["id"]
        presence = self._services.presences.find(node_id)
        if presence is None:
            return _unknown(request)
        status = self._services.presences.status(presence, self._services.at())
        received = iso_from_ms(presence.seen_at) if presence.has_reported else None
        body = presence.body
        # The report as it came, but for a client that wants to have it in another format.
        is_json = body and not (
            request.options.mask & NAMES_FORMAT and CBOR in (request.accept, request.content_format)
        )
        health = msgspec.Raw(body) if is_json else last_health(body)
        return answer(request, NodeHealthAnswer(node_id, status, received, health))

    def _fitting(self, page: Page[NodeItem], following: Optional[str]) -> tuple[Sequence[NodeItem], Optional[str]]:
        """Return as much of a page as makes an answer of bearable size, at least one item, and where to go on."""
        size = 0
        for count, item in enumerate(page.items):
            presence = self._services.presences.find(item.node.node_id)
            size += 0 if presence is None else len(presence.body)
            if size > PAGE_REPORTS_LIMIT and count:
                return page.items[:count], encode_cursor(page.items[count - 1].node.node_id)
        return page.items, following

    def _view(self, item: NodeItem) -> NodeView:
        node = item.node
        presence = self._services.presences.find(node.node_id)
        status = OFFLINE if presence is None else self._services.presences.status(presence, self._services.at())
        path = None if presence is None else presence.path
        host, port = (node.host, node.port) if path is None else address_of(path)[:2]
        host = plain_host(host)
        registration = node.registration
        return NodeView(
            node_id=node.node_id,
            status=status,
            last_seen=iso_from_ms(presence.seen_at) if presence is not None and presence.seen_at else None,
            registered_at=iso_from_ms(node.created_at),
            address=f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}",
            hostname=registration.hostname,
            ip_address=registration.ip_address,
            groups=registration.groups,
            services=registration.services,
            drivers=registration.drivers,
            system_info=registration.system_info,
            health=last_health(presence.body) if presence is not None else None,
        )


def _unknown(request: Request) -> Response:
    return refusal(request, codes.NOT_FOUND, f"there is no node {request.args['id'][:80]!r}; see GET /nodes")
