"""CoAPS with programs of others: libcoap's clients and servers with OpenSSL and GnuTLS, and OpenSSL's own client."""

from __future__ import annotations

import asyncio
import shutil
import socket
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest

from minicoap import Endpoint, NetworkError, Resource, Response, Site
from tests.minicoap.security.certificates import Authority
from tests.minicoap.security.pair import (
    AUTHORITY,
    NODE_PAIR,
    SERVER_PAIR,
    client_credentials,
    server_credentials,
    whoami,
)

BODY = b"0123456789" * 1000


class Files(NamedTuple):
    """PEM files as the programs want them."""

    certificate: str
    key: str
    authority: str


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed here (Debian: libcoap3-bin, openssl)")
    return found


def files(folder: Path, certificate: bytes, key: bytes) -> Files:
    names = ("certificate.pem", "key.pem", "authority.pem")
    for name, content in zip(names, (certificate, key, AUTHORITY.certificate)):
        (folder / name).write_bytes(content)
    return Files(*(str(folder / name) for name in names))


@pytest.fixture
def node(tmp_path: Path) -> Files:
    return files(tmp_path, NODE_PAIR.certificate, NODE_PAIR.key)


def run(scenario: Callable[[], Awaitable[Any]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 60))


async def output(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(*arguments, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT)
    said, _ = await process.communicate()
    return said.decode(errors="replace")


async def serving(server: Endpoint) -> str:
    await server.serve("coaps://127.0.0.1:0")
    return server.local_uri


def site() -> Site:
    return Site(Resource("/whoami", get=whoami), Resource("/body", get=lambda request: Response(payload=BODY)))


@pytest.mark.parametrize("name", ["coap-client-openssl", "coap-client-gnutls"])
def test_foreign_clients_are_known_by_their_certificates(name: str, node: Files) -> None:
    client = program(name)

    async def scenario() -> None:
        async with Endpoint(site(), credentials=server_credentials()) as server:
            uri = await serving(server)
            proof = ("-c", node.certificate, "-j", node.key, "-C", node.authority)
            assert await output(client, "-B", "10", *proof, f"{uri}/whoami") == "x509 n1 urn:fleet:node:n1\n"
            assert await output(client, "-B", "10", *proof, f"{uri}/body") == BODY.decode() + "\n"
            assert await output(client, "-B", "10", "-R", node.authority, f"{uri}/whoami") == "none \n"
        async with Endpoint(site(), credentials=server_credentials(require_certificate=True)) as server:
            uri = await serving(server)
            assert "x509 n1" in await output(client, "-B", "10", *proof, f"{uri}/whoami")
            assert "none" not in await output(client, "-B", "2", "-R", node.authority, f"{uri}/whoami")

    run(scenario)


@pytest.mark.parametrize("name", ["coap-client-openssl", "coap-client-gnutls"])
def test_foreign_clients_of_another_authority_get_nothing(name: str, tmp_path: Path) -> None:
    client = program(name)
    stranger = Authority("another").issue("n1", uris=["urn:fleet:node:n1"])
    node = files(tmp_path, stranger.certificate, stranger.key)

    async def scenario() -> None:
        async with Endpoint(site(), credentials=server_credentials()) as server:
            uri = await serving(server)
            proof = ("-c", node.certificate, "-j", node.key, "-C", node.authority)
            said = await output(client, "-B", "2", *proof, f"{uri}/whoami")
            assert "x509" not in said
            assert "none" not in said

    run(scenario)


@pytest.mark.parametrize("name", ["coap-server-openssl", "coap-server-gnutls"])
def test_foreign_servers_answer_us(name: str, tmp_path: Path) -> None:
    program_path = program(name)
    pem = files(tmp_path, SERVER_PAIR.certificate, SERVER_PAIR.key)

    async def scenario() -> None:
        port = free_port()
        arguments = ("-A", "127.0.0.1", "-p", str(port - 1), "-c", pem.certificate, "-j", pem.key, "-C", pem.authority)
        process = await asyncio.create_subprocess_exec(program_path, *arguments, stdout=DEVNULL, stderr=DEVNULL)
        try:
            async with Endpoint(credentials=client_credentials()) as client:
                for _ in range(50):  # until it listens
                    try:
                        response = await client.get(f"coaps://127.0.0.1:{port}/", timeout=5)
                        break
                    except NetworkError as error:
                        failure = error
                        await asyncio.sleep(0.1)
                else:
                    raise failure
                assert "libcoap" in response.text
                assert (await client.get(f"coaps://127.0.0.1:{port}/.well-known/core")).is_success
        finally:
            process.kill()
            await process.wait()

    run(scenario)


def free_port() -> int:
    """Return a port that is free, and so is the one below, which libcoap takes for plain CoAP."""
    while True:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as below,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as above,
        ):
            below.bind(("127.0.0.1", 0))
            try:
                above.bind(("127.0.0.1", below.getsockname()[1] + 1))
            except OSError:
                continue
            return int(above.getsockname()[1])


@pytest.mark.parametrize(
    ("suites", "agreed"),
    [
        ("ALL", "ECDHE-ECDSA-CHACHA20-POLY1305"),
        ("ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"),
        ("ECDHE-ECDSA-AES128-CCM8:@SECLEVEL=0", "ECDHE-ECDSA-AES128-CCM8"),
        ("ECDHE-ECDSA-AES128-SHA256", "(NONE)"),
        ("ECDHE-ECDSA-NULL-SHA:@SECLEVEL=0", "(NONE)"),
    ],
)
def test_openssl_s_client_gets_the_suite_that_the_server_prefers_and_no_weak_one(
    suites: str, agreed: str, node: Files
) -> None:
    openssl = program("openssl")

    async def scenario() -> None:
        async with Endpoint(site(), credentials=server_credentials()) as server:
            port = (await serving(server)).rpartition(":")[2]
            said = await output(
                openssl, "s_client", "-dtls1_2", "-connect", f"127.0.0.1:{port}", "-cipher", suites,
                "-cert", node.certificate, "-key", node.key, "-CAfile", node.authority,
            )  # fmt: skip
            assert f"Cipher is {agreed}" in said
            if agreed != "(NONE)":
                assert "Verify return code: 0 (ok)" in said

    run(scenario)


def test_openssl_s_client_resumes_its_session_from_another_port_and_after_a_restart_shakes_hands_in_full(
    node: Files, tmp_path: Path
) -> None:
    openssl = program("openssl")
    ticket = str(tmp_path / "session.pem")

    async def connect(port: str, *more: str) -> str:
        return await output(
            openssl, "s_client", "-dtls1_2", "-connect", f"127.0.0.1:{port}", "-cert", node.certificate,
            "-key", node.key, "-CAfile", node.authority, *more,
        )  # fmt: skip

    async def scenario() -> None:
        async with Endpoint(site(), credentials=server_credentials()) as server:
            port = (await serving(server)).rpartition(":")[2]
            assert "New, " in await connect(port, "-sess_out", ticket)
            assert "Reused, " in await connect(port, "-sess_in", ticket)
            assert "Reused, " in await connect(port, "-sess_in", ticket)
        async with Endpoint(site(), credentials=server_credentials()) as server:  # which has another key for tickets
            port = (await serving(server)).rpartition(":")[2]
            said = await connect(port, "-sess_in", ticket)
            assert "New, " in said
            assert "Verify return code: 0 (ok)" in said

    run(scenario)
