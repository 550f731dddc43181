"""`/audit`: who did what, for operators to look up."""

from __future__ import annotations

from typing import Optional

from fleet.errors import InvalidError
from fleet.model.answers import FORMATS, answer, arguments, guarded
from fleet.model.api import check_page
from fleet.model.audit import TEXT_LIMIT, AuditAnswer, AuditView
from fleet.model.times import iso_from_ms, ms_from_iso
from fleet.server.queries import AuditDroppedQuery, AuditItem, AuditQuery, Page
from fleet.server.services import Answering, Services
from minicoap.core.request import Deferred, Request
from minicoap.core.resource import Resource


class AuditResource:
    """The audit trail."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def resources(self) -> list[Resource]:
        """The table's rows."""
        return [
            Resource(
                "/audit",
                get=guarded(self._list),
                title="Who did what",
                resource_type="fleet.audit",
                content_formats=FORMATS,
            )
        ]

    def _list(self, request: Request) -> Deferred:
        asked = arguments(request, "who", "what", "result", "since", "limit", "after")
        for name in ("who", "what", "result"):
            if name in asked and not 0 < len(asked[name]) <= TEXT_LIMIT:
                raise InvalidError(f"give 1 to {TEXT_LIMIT} characters", name)
        since: Optional[int] = ms_from_iso(asked["since"], "since") if "since" in asked else None
        query = AuditQuery(
            asked.get("after"),
            check_page(asked.get("limit")),
            asked.get("who"),
            asked.get("what"),
            asked.get("result"),
            since,
        )
        answering = Answering(self._services, request)

        def found(page: Page[AuditItem]) -> None:
            answering.query(AuditDroppedQuery(), lambda dropped: told(page, dropped))

        def told(page: Page[AuditItem], dropped: Page[tuple[str, int]]) -> None:
            entries = tuple(_view(item) for item in page.items)
            answering.resolve(answer(request, AuditAnswer(entries, dict(dropped.items), page.next)))

        return answering.query(query, found)


def _view(item: AuditItem) -> AuditView:
    entry, origin = item.entry, item.entry.origin
    return AuditView(
        at=iso_from_ms(entry.at),
        who=origin.who,
        host=origin.host,
        port=origin.port,
        method=origin.method,
        path=origin.path,
        what=entry.what,
        subject=entry.subject,
        result=entry.result,
        count=entry.count,
    )
