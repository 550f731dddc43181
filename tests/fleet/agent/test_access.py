"""Who may ask a node what over CoAPS: a table of roles by method, and through which session."""

from __future__ import annotations

import pytest

from fleet.agent.access import Access
from minicoap.codec import codes
from minicoap.codec.message import Options
from minicoap.core.identity import ANONYMOUS, Identity
from minicoap.core.request import Path, Request, SecurePath
from minicoap.core.resource import Resource

ADDRESS = ("192.0.2.1", 5684)
RESOURCE = Resource("/health")
FINE = None


def secure(address: Path, *claims: str, identity: Identity = ANONYMOUS) -> SecurePath:
    path = SecurePath(address)
    path.identity = Identity("x509", "", claims) if claims else identity
    return path


SERVER = secure(ADDRESS, "urn:fleet:server:server")


@pytest.mark.parametrize(
    ("path", "get", "post"),
    [
        (SERVER, FINE, FINE),
        (secure(("192.0.2.7", 9), "urn:fleet:server:server"), FINE, codes.FORBIDDEN),
        (secure(ADDRESS, "urn:fleet:node:n2"), codes.FORBIDDEN, codes.FORBIDDEN),
        (secure(("192.0.2.7", 9), "urn:fleet:operator:alice"), FINE, codes.FORBIDDEN),
        (secure(("192.0.2.7", 9), "urn:fleet:viewer:wall"), FINE, codes.FORBIDDEN),
        (secure(("192.0.2.7", 9), "urn:fleet:node:n1"), codes.FORBIDDEN, codes.FORBIDDEN),
        (secure(("192.0.2.7", 9), "urn:other:operator"), codes.FORBIDDEN, codes.FORBIDDEN),
        (secure(("192.0.2.7", 9), "urn:fleet:node:n1", "urn:fleet:server:s"), codes.FORBIDDEN, codes.FORBIDDEN),
        (secure(("192.0.2.7", 9)), codes.UNAUTHORIZED, codes.UNAUTHORIZED),
        (ADDRESS, codes.UNAUTHORIZED, codes.UNAUTHORIZED),
        (("192.0.2.7", 9), codes.UNAUTHORIZED, codes.UNAUTHORIZED),
    ],
)
def test_only_its_server_may_hint_a_node_and_only_through_their_session(path, get, post):
    guard = Access(SERVER).guard

    for method, expected in ((codes.GET, get), (codes.POST, post), (codes.PUT, post), (codes.DELETE, post)):
        for resource in (RESOURCE, None):  # what is not there is refused in the same words
            refusal = guard(Request(method, path, Options(()), b"", 0.0), resource)
            assert (None if refusal is None else refusal.code) == expected
            assert refusal is None or refusal.payload == b""
