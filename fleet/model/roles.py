"""Who is who in a fleet: the names that certificates carry as URIs among their subject's alternative names.

Such a URI is ``urn:fleet:ROLE:NAME``, for instance ``urn:fleet:node:pump-7`` or ``urn:fleet:operator:alice``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Optional

from fleet.errors import UsageError

NODE = "node"
OPERATOR = "operator"
VIEWER = "viewer"
SERVER = "server"
ROLES = (NODE, OPERATOR, VIEWER, SERVER)

_PREFIX = "urn:fleet:"
_UNRESERVED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")


class Principal(NamedTuple):
    """Somebody in a role: a node by its id, an operator, viewer or server by name."""

    role: str
    name: str

    @property
    def uri(self) -> str:
        """The name as certificates have it; characters that a URI may not hold are percent-encoded (RFC 3986 §2.1)."""
        return f"{_PREFIX}{self.role}:{_encoded(self.name)}"


def parse_principal(uri: str) -> Principal:
    """Read a URI as `Principal.uri` writes it. Raises UsageError for any other."""
    role, colon, name = uri[len(_PREFIX) :].partition(":")
    if not uri.startswith(_PREFIX) or role not in ROLES or not colon or not name:
        raise UsageError(f"{uri!r} is no name of a fleet: urn:fleet:{{{'|'.join(ROLES)}}}:NAME")
    principal = Principal(role, _decoded(name, uri))
    if principal.uri != uri:  # one name has one spelling
        raise UsageError(f"{uri!r} is not written as {principal.uri!r}")
    return principal


def principal_of(claims: Iterable[str]) -> Optional[Principal]:
    """Return whom the URIs of a certificate name; None if they name nobody of a fleet, or more than one."""
    found = [uri for uri in claims if uri.startswith(_PREFIX)]
    if len(found) != 1:
        return None
    try:
        return parse_principal(found[0])
    except UsageError:
        return None


def _encoded(name: str) -> str:
    return "".join(
        chr(byte) if chr(byte) in _UNRESERVED else f"%{byte:02X}" for byte in name.encode("utf-8", "surrogateescape")
    )


def _decoded(text: str, uri: str) -> str:
    head, *rest = text.encode().split(b"%")
    try:
        return (head + b"".join(bytes.fromhex(part[:2].decode()) + part[2:] for part in rest)).decode()
    except (UnicodeDecodeError, ValueError):
        raise UsageError(f"{uri!r} has percent-encoding that is no UTF-8") from None
