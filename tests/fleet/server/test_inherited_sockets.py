"""Sockets that a server inherits are judged by where they listen, each by its own."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from fleet.errors import UsageError
from fleet.server.config import PKI_DIRECTORY, ServerConfig
from fleet.server.listening import _inherit


def a_socket(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    return sock


@pytest.mark.parametrize("first", ["coap", "coaps"])
def test_plain_coap_that_others_can_reach_is_refused_wherever_coaps_listens(tmp_path: Path, first: str) -> None:
    (tmp_path / PKI_DIRECTORY).mkdir()
    config = ServerConfig(data_dir=str(tmp_path))
    passed = [("coap", a_socket("0.0.0.0")), ("coaps", a_socket("127.0.0.1"))]

    with pytest.raises(UsageError, match=r"plain CoAP on 0\.0\.0\.0"):
        _inherit(config, passed if first == "coap" else passed[::-1])

    assert all(sock.fileno() < 0 for _, sock in passed), "what is refused is closed"


def test_plain_coap_on_loopback_may_stand_beside_coaps_for_all(tmp_path: Path) -> None:
    (tmp_path / PKI_DIRECTORY).mkdir()

    config, listening = _inherit(
        ServerConfig(data_dir=str(tmp_path)), [("coaps", a_socket("0.0.0.0")), ("coap", a_socket("127.0.0.1"))]
    )

    assert config.host == "127.0.0.1"
    listening.close()
