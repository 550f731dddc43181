"""Who may do what: one table, role by resource by method, and the guard that holds every request to it.

What the table does not name, operators may do and nobody else. A refusal says nothing but its code, and is the same
whether what was asked for exists or not: 4.01 to whoever has shown no identity, 4.03 to the rest.
"""

from __future__ import annotations

from typing import Callable, NamedTuple, Optional

from fleet.model.artifacts import is_sha256
from fleet.model.roles import NODE, OPERATOR, VIEWER, Principal, principal_of
from minicoap.codec import codes
from minicoap.core.identity import Identity
from minicoap.core.request import Request, Response, SecurePath
from minicoap.core.resource import Resource

STRANGER = "stranger"
"""Who came through CoAPS without a certificate, or with one that names nobody of a fleet."""

YES = "yes"
NO = "no"
OWN_PATH = "own id in the path"
OWN_QUERY = "own id in the query"
OWN_BODY = "own id in the body"
BY_HASH = "by hash"


class Row(NamedTuple):
    """What viewers, nodes and strangers may do to a resource; operators may do everything."""

    resource: str
    method: int
    viewer: str
    node: str
    stranger: str


TABLE = (
    #   resource                   method         viewer  node       stranger
    Row("/.well-known/core",       codes.GET,     YES,    YES,       NO),
    Row("/.well-known/est/crts",   codes.GET,     YES,    YES,       YES),
    Row("/.well-known/est/sen",    codes.POST,    YES,    YES,       YES),
    Row("/.well-known/est/sren",   codes.POST,    YES,    YES,       NO),
    Row("/test",                   codes.GET,     YES,    YES,       NO),
    Row("/health",                 codes.GET,     YES,    NO,        NO),
    Row("/health",                 codes.PUT,     NO,     OWN_BODY,  NO),
    Row("/health",                 codes.IPATCH,  NO,     OWN_BODY,  NO),
    Row("/h",                      codes.IPATCH,  NO,     OWN_BODY,  NO),
    Row("/nodes",                  codes.GET,     YES,    NO,        NO),
    Row("/nodes",                  codes.POST,    NO,     OWN_BODY,  NO),
    Row("/nodes/{id}",             codes.GET,     YES,    OWN_PATH,  NO),
    Row("/nodes/{id}/health",      codes.GET,     YES,    OWN_PATH,  NO),
    Row("/nodes/{id}/metrics",     codes.GET,     YES,    OWN_PATH,  NO),
    Row("/updates",                codes.GET,     YES,    NO,        NO),
    Row("/updates",                codes.POST,    NO,     OWN_BODY,  NO),  # of a node: reports only
    Row("/updates/{id}",           codes.GET,     YES,    OWN_QUERY, NO),
    Row("/updates/{id}/status",    codes.GET,     YES,    NO,        NO),
    Row("/firmware",               codes.GET,     YES,    NO,        NO),
    Row("/firmware/{name}",        codes.GET,     YES,    BY_HASH,   NO),
    Row("/system",                 codes.GET,     YES,    NO,        NO),
)  # fmt: skip

_CACHED = 4096  # identities whose party is kept


class Party(NamedTuple):
    """Who asks: the role that counts, its name, and until when (UTC s) what proves it holds."""

    role: str
    name: str
    is_anonymous: bool = False
    expires_at: Optional[float] = None


_PLAIN = Party(OPERATOR, "", True)
_UNPROTECTED = Party(STRANGER, "", True)
"""Whoever has nothing that proves who it is, or nothing that still does."""


class Access:
    """The guard of a server's site.

    With `trusts_plain` whoever comes without security is an operator: on loopback, or where `--insecure` says so.
    `wall` is the clock in UTC seconds. `refused` is called with each refusal: the request,
    the template of the path (empty where nothing has it), the code.
    """

    def __init__(self, *, trusts_plain: bool, wall: Callable[[], float]) -> None:
        self._trusts_plain = trusts_plain
        self._wall = wall
        self._parties: dict[Identity, Party] = {}
        rows: dict[str, dict[str, dict[int, str]]] = {}
        for row in TABLE:
            for role, cell in ((VIEWER, row.viewer), (NODE, row.node), (STRANGER, row.stranger)):
                rows.setdefault(role, {}).setdefault(row.resource, {})[row.method] = cell
        self._rows = rows
        self.refused: Callable[[Request, str, int], None] = _nobody_counts
        self._cells: dict[tuple[str, Resource], dict[int, str]] = {}  # found before; a path takes time to write

    def party(self, request: Request) -> Party:
        """Return who asks."""
        path = request.path
        if not isinstance(path, SecurePath):
            return _PLAIN if self._trusts_plain else _UNPROTECTED
        identity = path.identity
        party = self._parties.get(identity)
        if party is None:
            if len(self._parties) >= _CACHED:
                self._parties.clear()
            party = self._parties[identity] = _party(identity)
        return party

    def guard(self, request: Request, resource: Optional[Resource]) -> Optional[Response]:
        """Return the refusal, or None to go on; see `minicoap.core.resource.Guard`."""
        path = request.path
        if self._trusts_plain and not isinstance(path, SecurePath):
            return None
        party = self.party(request)
        if party.expires_at is not None and self._wall() >= party.expires_at:
            party = _UNPROTECTED  # and can enrol, as whoever has no certificate
        if party.role == OPERATOR:
            return None
        if resource is not None and isinstance(path, SecurePath):
            cells = self._cells.get((party.role, resource))
            if cells is None:
                cells = self._cells[party.role, resource] = self._rows.get(party.role, {}).get(resource.path, {})
            if self._holds(cells.get(request.code, NO), party, request):
                return None
        return self._refuse(request, "" if resource is None else resource.path, party)

    def _refuse(self, request: Request, template: str, party: Party) -> Response:
        """Return what `party` is told where it may not do what it asks for."""
        code = codes.UNAUTHORIZED if party.is_anonymous else codes.FORBIDDEN
        self.refused(request, template, code)
        return Response(code, max_age=0)

    def refuses_node(self, request: Request, node_id: str) -> Optional[Response]:
        """Return the refusal of a body that speaks for `node_id`, None if whoever asks may: the cells `OWN_BODY`."""
        party = self.party(request)
        if party.role == OPERATOR or (party.role == NODE and party.name == node_id):
            return None
        return self._refuse(request, _fixed(request), party)

    def node_id(self, request: Request) -> Optional[str]:
        """Return who a node shows to be by its certificate; None for anybody else."""
        party = self.party(request)
        return party.name if party.role == NODE else None

    def refuses_steering(self, request: Request) -> Optional[Response]:
        """Return the refusal of a body that steers the fleet, which only operators may."""
        party = self.party(request)
        return None if party.role == OPERATOR else self._refuse(request, _fixed(request), party)

    def _holds(self, cell: str, party: Party, request: Request) -> bool:
        if cell in (YES, OWN_BODY):
            return True
        if cell == OWN_PATH:
            return request.args["id"] == party.name
        if cell == OWN_QUERY:
            return request.query == (f"node={party.name}",)
        return cell == BY_HASH and is_sha256(request.args["name"])


def _fixed(request: Request) -> str:
    """The path of a resource whose path has no parameters: of those that look into bodies."""
    return "/" + "/".join(request.options.path)


def _nobody_counts(request: Request, template: str, code: int) -> None:
    """Nobody is interested."""


def _party(identity: Identity) -> Party:
    principal: Optional[Principal] = principal_of(identity.claims)
    if principal is None or principal.role not in (NODE, OPERATOR, VIEWER):
        return Party(STRANGER, identity.subject, identity.scheme == "none", identity.expires_at)
    return Party(principal.role, principal.name, False, identity.expires_at)
