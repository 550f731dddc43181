"""Every role, resource and method, with certificates of every kind, over real sockets and DTLS.

What is expected is the table of `tests/fleet/server/test_access.py`, written by hand; here the identities are
certificates, good ones and others, and a server in a process of its own holds them to it.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Optional

from fleet.model.formats import encode
from fleet.model.roles import Principal
from fleet.pki.authority import Authority, create_authority, open_authority
from fleet.pki.certificates import decode_der
from fleet.pki.connection import client_credentials
from fleet.pki.keys import make_key
from fleet.pki.keystore import Holder
from minicoap.asyncio.endpoint import Endpoint
from minicoap.codec import codes
from minicoap.codec.contentformats import JSON, MERGE_PATCH, OCTET_STREAM
from minicoap.errors import NetworkError
from minicoap.security.credentials import Credentials
from tests.fleet.server.test_access import ASKED
from tests.system.certified import Fleet
from tests.system.processes import wait_until

# Those that come with a certificate; "anonymous" has none, and a server with its own is refused as a client.
NAMES = {
    "operator": Principal("operator", "alice"),
    "viewer": Principal("viewer", "victor"),
    "node": Principal("node", "n1"),
    "other": Principal("node", "n2"),
}


def a_holder(authority: Authority, principal: Principal, lifetime: Optional[int] = None) -> Holder:
    """Somebody with a certificate, for so many seconds."""
    key = make_key()
    with authority.register.change():
        issued = authority.issue(principal, key.public_key(), int(time.time()), "test", lifetime=lifetime)
    return Holder(principal, key, decode_der(issued.der), (authority.certificate,))


async def asked(endpoint: Endpoint, uri: str, code: int, path: str, body: object) -> Optional[int]:
    payload = body if isinstance(body, bytes) else b"" if body is None else encode(body)
    content_format = None if body is None else OCTET_STREAM if isinstance(body, bytes) else JSON
    if code == codes.IPATCH:
        content_format = MERGE_PATCH
    try:
        response = await endpoint.request(code, uri + path, payload, content_format=content_format, timeout=20)
    except NetworkError:
        return None
    if response.code in (codes.UNAUTHORIZED, codes.FORBIDDEN):
        assert response.body == b"", "a refusal tells nothing"
    return response.code


def test_everybody_gets_what_is_theirs_and_nobody_else_does(tmp_path: Path) -> None:
    async def play() -> None:
        with Fleet(tmp_path) as fleet:
            await fleet.begin()
            authority = open_authority(os.path.join(tmp_path, "server", "pki"), None)
            holders = {name: a_holder(authority, principal) for name, principal in NAMES.items()}
            async with Endpoint(credentials=client_credentials(holders["operator"])) as operator:
                for node_id in ("n1", "n2"):
                    code = await asked(operator, fleet.uri, codes.POST, "/nodes", {"node_id": node_id})
                    assert code == codes.CREATED
            # What an operator may do first may undo what others are about to ask for.
            for who in ("viewer", "node", "other", "anonymous", "operator"):
                credentials = client_credentials(holders[who]) if who in holders else Credentials(verify_server=False)
                async with Endpoint(credentials=credentials) as endpoint:
                    for code, path, body, allowed in ASKED:
                        got = await asked(endpoint, fleet.uri, code, path, body)
                        refusal = codes.UNAUTHORIZED if who == "anonymous" else codes.FORBIDDEN
                        if who in allowed.split():
                            assert got not in (None, codes.UNAUTHORIZED, codes.FORBIDDEN), (who, code, path, got)
                        else:
                            assert got == refusal, (who, code, path, got)
            authority.close()

    asyncio.run(play())


def test_certificates_that_are_no_good_get_no_session_in_any_role(tmp_path: Path) -> None:
    async def play() -> None:
        with Fleet(tmp_path) as fleet:
            await fleet.begin()
            authority = open_authority(os.path.join(tmp_path, "server", "pki"), None)
            elsewhere = create_authority(os.path.join(tmp_path, "elsewhere"), "elsewhere", int(time.time()))
            good, revoked, expired, foreign = (
                [a_holder(by, principal, lifetime) for principal in NAMES.values()]
                for by, lifetime in ((authority, None), (authority, None), (authority, 1), (elsewhere, None))
            )
            numbers = {holder.certificate.serial_number for holder in revoked}
            found = [issued for principal in NAMES.values() for issued in authority.register.of(principal)]
            authority.revoke([one for one in found if int(one.serial, 16) in numbers], int(time.time()))
            await wait_until(lambda: "4 certificates are revoked" in fleet.said("server"), "the server knowing it")
            await wait_until(lambda: time.time() > max(holder.not_after for holder in expired) + 1, "their end")

            for holder in good:
                assert await code_of(holder, authority, fleet.uri) is not None
            server = a_holder(authority, Principal("server", "s1"))
            for holder in (*revoked, *expired, *foreign, server):
                assert await code_of(holder, authority, fleet.uri) is None, holder
            authority.close()
            elsewhere.close()

    asyncio.run(play())


async def code_of(holder: Holder, authority: Authority, uri: str) -> Optional[int]:
    """What `holder`, who believes the server, is answered; None if there is no session."""
    credentials = client_credentials(holder._replace(trust=(authority.certificate,)))
    async with Endpoint(credentials=credentials) as endpoint:
        return await asked(endpoint, uri, codes.GET, "/test", None)
