"""Role by resource by method, and nodes that act as another: codes written by hand, not taken from the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.model.roles import Principal
from fleet.server.access import NO, TABLE
from minicoap.codec import codes
from minicoap.codec.contentformats import MERGE_PATCH
from minicoap.codec.message import Options
from minicoap.codec.options import URI_PATH
from minicoap.core.identity import ANONYMOUS, Identity
from minicoap.core.request import Request, Response, SecurePath
from minicoap.core.resource import Resource
from tests.fleet.server.serving import Served, payload_of, segments

IDENTITIES = {
    "operator": Identity("x509", "o", (Principal("operator", "alice").uri,)),
    "viewer": Identity("x509", "v", (Principal("viewer", "victor").uri,)),
    "node": Identity("x509", "n", (Principal("node", "n1").uri,)),
    "other": Identity("x509", "x", (Principal("node", "n2").uri,)),
    "server": Identity("x509", "s", (Principal("server", "s1").uri,)),
    "two-names": Identity("x509", "b", (Principal("node", "n1").uri, Principal("operator", "alice").uri)),
    "anonymous": ANONYMOUS,
    "expired": Identity("x509", "o", (Principal("operator", "alice").uri,), 1.0),
}
GET, POST, PUT, DELETE, IPATCH = codes.GET, codes.POST, codes.PUT, codes.DELETE, codes.IPATCH
REPORT = {"action": "report", "job_id": "j", "node_id": "n1", "attempt": 1, "sequence": 1, "state": "downloading"}
HASH = "0" * 64

# Who gets through; everyone else is refused.
ASKED = [
    (GET, "/test", None, "operator viewer node other"),
    (GET, "/.well-known/core", None, "operator viewer node other"),
    (GET, "/health", None, "operator viewer"),
    (PUT, "/health", {"node_id": "n1"}, "operator node"),
    (IPATCH, "/health", {"node_id": "n1"}, "operator node"),
    (GET, "/nodes", None, "operator viewer"),
    (POST, "/nodes", {"node_id": "n1"}, "operator node"),
    (GET, "/nodes/n1", None, "operator viewer node"),
    (GET, "/nodes/gone", None, "operator viewer"),
    (DELETE, "/nodes/n1", None, "operator"),
    (GET, "/nodes/n1/health", None, "operator viewer node"),
    (GET, "/nodes/n1/metrics", None, "operator viewer node"),
    (GET, "/updates", None, "operator viewer"),
    (POST, "/updates", REPORT, "operator node"),
    (POST, "/updates", {"action": "install", "job_id": "j"}, "operator"),
    (POST, "/updates", {"action": "status", "job_id": "j"}, "operator"),
    (GET, "/updates/j", None, "operator viewer"),
    (GET, "/updates/j?node=n1", None, "operator viewer node"),
    (GET, "/updates/j/status", None, "operator viewer"),
    (GET, "/firmware", None, "operator viewer"),
    (GET, "/firmware/a.whl", None, "operator viewer"),
    (GET, f"/firmware/{HASH}", None, "operator viewer node other"),
    (PUT, "/firmware/a.whl", b"x", "operator"),
    (DELETE, "/firmware/a.whl", None, "operator"),
    (GET, "/system", None, "operator viewer"),
    (POST, "/system", {"action": "status"}, "operator"),
    (GET, "/enrolments", None, "operator"),
    (POST, "/enrolments", {"action": "accept", "node_id": "n1"}, "operator"),
    (GET, "/audit", None, "operator"),
    (GET, "/no/such/thing", None, "operator"),
]


def ask(served: Served, identity: Identity, code: int, path: str, body: object) -> object:
    """What the server's endpoint answers to somebody behind a security layer."""
    path, _, query = path.partition("?")
    arguments = payload_of(body, {"content_format": MERGE_PATCH} if code == IPATCH else {})
    secure = SecurePath(("192.0.2.9", 40000))
    secure.identity = identity
    return served.answer(secure, code, segments(path), (query,) if query else (), arguments)


@pytest.mark.parametrize("who", IDENTITIES)
@pytest.mark.parametrize(("code", "path", "body", "allowed"), ASKED)
def test_each_role_gets_what_is_its_own_and_a_bare_refusal_else(served, who, code, path, body, allowed):
    served.register("n1", "n2")

    response = ask(served, IDENTITIES[who], code, path, body)

    if who in allowed.split():
        assert response.code not in (codes.UNAUTHORIZED, codes.FORBIDDEN)
    else:
        assert response.code == (codes.UNAUTHORIZED if who in ("anonymous", "expired") else codes.FORBIDDEN)
        assert response.payload == b""


ENROLMENT = [
    (GET, "/.well-known/est/crts", "operator viewer node other server two-names anonymous expired"),
    (POST, "/.well-known/est/sen", "operator viewer node other server two-names anonymous expired"),
    (POST, "/.well-known/est/sren", "operator viewer node other"),
]


@pytest.mark.parametrize("who", IDENTITIES)
@pytest.mark.parametrize(("code", "path", "allowed"), ENROLMENT)
def test_enrolment_is_for_all_and_renewal_for_whoever_has_a_certificate(served, who, code, path, allowed):
    secure = SecurePath(("192.0.2.9", 40000))
    secure.identity = IDENTITIES[who]
    request = Request(code, secure, Options([(URI_PATH, part.encode()) for part in segments(path)]), b"", 0.0)
    nothing = lambda request: Response(codes.CONTENT)  # noqa: E731

    refused = served.server.services.access.guard(request, Resource(path, get=nothing, post=nothing))

    assert (refused is None) == (who in allowed.split())


def test_plain_requests_are_refused_unless_on_loopback_or_insecure():
    assert Served(insecure=False).ask(GET, "/test").code == codes.UNAUTHORIZED
    assert Served(insecure=True).ask(GET, "/test").code == codes.CONTENT


def test_the_documented_table_is_the_one_that_holds():
    shown = (Path(__file__).parents[3] / "docs/access.md").read_text("utf-8")
    rows = [
        f"| `{codes.METHOD_NAMES[row.method]} {row.resource}` | "
        + " | ".join("–" if cell == NO else cell for cell in (row.viewer, row.node, row.stranger))
        + " |"
        for row in TABLE
    ]

    assert [line for line in shown.splitlines() if line.startswith("| `")] == rows
