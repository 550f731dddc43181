"""The tests of CoAPS pass against a server of ours with certificates, also one that lets nobody in without."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from minicoap import Endpoint, Resource, Response, Site
from tests.conformance.servers import catalogue
from tools.conformance.frames import Address
from tools.conformance.model import INCONCLUSIVE, PASS, Test
from tools.conformance.runner import Runner
from tools.conformance.secure import Secure

pytest.importorskip("OpenSSL", reason="CoAPS needs pyOpenSSL: pip install 'minicoap[dtls]'")

from minicoap.security.credentials import Credentials
from tests.minicoap.security.certificates import Authority

TESTS = [test for test in catalogue() if test.id.startswith("X509_")]


@contextmanager
def served(credentials: Credentials) -> Iterator[tuple[Address, Address]]:
    """Serve over CoAP and CoAPS, in a thread of its own; yields both addresses."""
    ready = threading.Event()
    found: list[Address] = []
    running: list[Any] = []

    async def serve() -> None:
        over = asyncio.Event()
        running.extend((asyncio.get_running_loop(), over))
        site = Site(Resource("/test", get=lambda _: Response(payload=b"secret")))
        async with Endpoint(site, credentials=credentials) as endpoint:
            await endpoint.serve("coap://127.0.0.1:0")
            await endpoint.serve("coaps://127.0.0.1:0")
            found.extend(("127.0.0.1", int(uri.rpartition(":")[2])) for uri in sorted(endpoint.local_uris))
            ready.set()
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(60)
    try:
        yield found[0], found[1]
    finally:
        loop, over = running
        loop.call_soon_threadsafe(over.set)
        thread.join(60)


@pytest.mark.parametrize("required", [False, True], ids=["anonymous", "certified"])
@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.id)
def test_our_server_passes(test: Test, required: bool, tmp_path: Path) -> None:
    authority = Authority()
    server = authority.issue("server", hosts=["127.0.0.1"])
    client = authority.issue("client")
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"
    certificate.write_bytes(client.certificate)
    key.write_bytes(client.key)
    credentials = Credentials(
        certificate=server.certificate, key=server.key, trust=authority.certificate, require_certificate=required
    )
    with served(credentials) as (plain, secure):
        shown = Secure(secure, str(certificate), str(key)) if required else Secure(secure)
        runner = Runner(plain, {"readable": ("test",)}, patience=30.0, grace=0.3, secure=shown)
        result = runner.run_one(test)

        assert result.verdict == PASS, result.reason
        if required:
            stranger = Runner(plain, {"readable": ("test",)}, patience=30.0, grace=0.3, secure=Secure(secure))
            assert stranger.run_one(test).verdict == INCONCLUSIVE
