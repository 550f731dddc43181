"""Where a server listens: CoAPS where there is an authority, plain CoAP where nobody else can hear it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fleet.errors import UsageError
from fleet.server.config import PKI_DIRECTORY, ServerConfig
from fleet.server.listening import listen
from tests.system.processes import ROOT, environment

NAMES = ("fleet.example.com", "127.0.0.1")


def opened(tmp_path: Path, *, has_authority: bool = True, **settings: object) -> dict[str, tuple[str, str]]:
    """Where it listens, and under which URI it is known without its port, by scheme."""
    if has_authority:
        (tmp_path / PKI_DIRECTORY).mkdir()
    config = ServerConfig(port=0, secure_port=0, data_dir=str(tmp_path))._replace(**settings)
    _, listening = asyncio.run(listen(config))
    try:
        uris = listening.uris(config.host, NAMES)
        return {
            scheme: (sock.getsockname()[0], uris[scheme].rpartition(":")[0])
            for scheme, sock in listening.by_scheme().items()
        }
    finally:
        listening.close()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"coap": ("127.0.0.1", "coap://127.0.0.1"), "coaps": ("::", "coaps://fleet.example.com")}),
        ({"has_authority": False}, {"coap": ("127.0.0.1", "coap://127.0.0.1")}),
        ({"host": "0.0.0.0"}, {"coaps": ("0.0.0.0", "coaps://fleet.example.com")}),
        (
            {"host": "0.0.0.0", "insecure": True},
            {
                "coap": ("0.0.0.0", "coap://fleet.example.com"),
                "coaps": ("0.0.0.0", "coaps://fleet.example.com"),
            },
        ),
        (
            {"host": "127.0.0.2"},
            {"coap": ("127.0.0.2", "coap://127.0.0.2"), "coaps": ("127.0.0.2", "coaps://127.0.0.2")},
        ),
        ({"host": "::1"}, {"coap": ("::1", "coap://[::1]"), "coaps": ("::1", "coaps://[::1]")}),
        (
            {"host": "localhost"},
            {"coap": ("127.0.0.1", "coap://localhost"), "coaps": ("127.0.0.1", "coaps://localhost")},
        ),
    ],
)
def test_coaps_is_on_all_addresses_and_plain_coap_where_only_this_machine_is(tmp_path, settings, expected):
    found = opened(tmp_path, **settings)
    if settings.get("host") == "localhost":  # which may be ::1 first
        found = {scheme: ("127.0.0.1", uri) for scheme, (_, uri) in found.items()}

    assert found == expected


def test_without_an_authority_nothing_is_served_to_others_unless_it_is_meant(tmp_path):
    with pytest.raises(UsageError, match=r"0\.0\.0\.0 can be read and forged .*fleet pki init.*--insecure"):
        opened(tmp_path, has_authority=False, host="0.0.0.0")


def test_a_port_that_is_taken_is_told_and_the_other_is_given_back(tmp_path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 0))
        number = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"--secure-port {number}: .*in use"):
            opened(tmp_path, host="0.0.0.0", secure_port=number)


HANDED = """
import os, sys, asyncio, socket
from fleet.host.activation import hand_over
from fleet.server.config import ServerConfig
from fleet.server.listening import listen
config = ServerConfig(port=0, secure_port=0, data_dir=sys.argv[1])
config, listening = asyncio.run(listen(config))
print(sorted(listening.uris(config.host, ("h",)).items()), flush=True)
if len(sys.argv) > 2:
    held = [socket.socket() for _ in range(int(sys.argv[2]))]  # descriptors that are in the way
    successor = listening.duplicate()
    variables = {**os.environ, **hand_over(successor.by_scheme())}
    os.execve(sys.executable, [sys.executable, "-c", sys.argv[3], sys.argv[1]], variables)
"""


@pytest.mark.parametrize("in_the_way", [0, 7])
def test_a_successor_has_both_sockets_and_knows_which_is_which(tmp_path, in_the_way):
    (tmp_path / PKI_DIRECTORY).mkdir()
    command = [sys.executable, "-c", HANDED, str(tmp_path), str(in_the_way), HANDED]

    ran = subprocess.run(command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, check=True)

    before, after = ran.stdout.splitlines()
    assert before == after
    assert "coaps://h:" in after and "coap://127.0.0.1:" in after
