"""Who may ask a node what, once its server is spoken to over CoAPS.

Its server may ask everything through the session that the node has opened with it; other servers, operators and
viewers may look. Nobody else gets an answer that says anything.
"""

from __future__ import annotations

from typing import Optional

from fleet.model.roles import OPERATOR, SERVER, VIEWER, principal_of
from minicoap.codec import codes
from minicoap.core.request import SAFE, Path, Request, Response, SecurePath
from minicoap.core.resource import Resource


class Access:
    """The guard of the site of a node whose server is at `server`."""

    def __init__(self, server: Path) -> None:
        self._server = server

    def guard(self, request: Request, resource: Optional[Resource]) -> Optional[Response]:
        """Return the refusal of a request, None to go on; see `minicoap.core.resource.Guard`."""
        if not isinstance(request.path, SecurePath) or request.identity.scheme == "none":
            return Response(codes.UNAUTHORIZED, max_age=0)
        principal = principal_of(request.identity.claims)
        role = None if principal is None else principal.role
        if role == SERVER and request.path == self._server:
            return None
        if role in (SERVER, OPERATOR, VIEWER) and request.code in SAFE:
            return None
        return Response(codes.FORBIDDEN, max_age=0)
