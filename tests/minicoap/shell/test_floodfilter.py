"""What the system lets through to a socket in a flood of hellos."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from typing import Any

import pytest

from minicoap import Endpoint, Resource, Site
from minicoap.core.endpoint import EndpointCore
from minicoap.security.dtls import Dtls
from minicoap.security.hello import Admission
from minicoap.shell.entropy import SystemEntropy
from minicoap.shell.floodfilter import admit
from minicoap.shell.secure import SecureShell
from minicoap.shell.udp import open_socket
from tests.minicoap.security.pair import HOST, client_credentials, server_credentials, whoami, with_cookie

HELLO = Dtls(client_credentials(), time.time).connect(HOST).datagrams()[0]
PROVEN = with_cookie(HELLO, bytes(16))
NEVER = 31  # one in two milliards
OTHERS = (
    b"\x40\x01\x00\x01",  # CoAP
    b"\x17\xfe\xfd\x00\x01" + bytes(40),  # a session's record
    b"\x16\xfe\xfd\x00\x01" + bytes(8) + b"\x01" + bytes(60),  # a handshake's message under protection
    b"\x16\xfe\xfd\x00\x00" + bytes(8) + b"\x0b" + bytes(60),  # a certificate
    b"\x15\xfe\xfd\x00\x00" + bytes(10),  # an alert
)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can do this")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_hellos_of_either_kind_are_drawn_by_lot_and_nothing_else_is(family: socket.AddressFamily) -> None:
    host = "127.0.0.1" if family == socket.AF_INET else "::"
    try:
        sock = open_socket(family, (host, 0))
    except OSError:
        pytest.skip("this host has no IPv6")
    with sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        address = ("127.0.0.1", sock.getsockname()[1])

        def let_through(*admission: Any) -> list[bytes]:
            admit(sock, Admission(*admission))
            for data in (HELLO, PROVEN, *OTHERS):
                sender.sendto(data, address)
            found = []
            while True:  # loopback has delivered when `sendto` returns
                try:
                    found.append(sock.recv(2048))
                except BlockingIOError:
                    return found

        assert let_through(NEVER, 0) == [PROVEN, *OTHERS]
        assert let_through(0, NEVER) == [HELLO, *OTHERS]
        assert let_through(NEVER, NEVER) == list(OTHERS)
        assert let_through(0, 0) == [HELLO, PROVEN, *OTHERS]
        assert let_through(0, 0) == [HELLO, PROVEN, *OTHERS], "there was none to be taken away"
        ours = sender.getsockname()[1]
        others = frozenset(range(40_000, 41_900)) - {ours}
        assert let_through(0, 0, others) == [HELLO, PROVEN, OTHERS[0]]
        assert let_through(0, 0, frozenset()) == [HELLO, PROVEN, OTHERS[0]]
        assert let_through(NEVER, NEVER, others | {ours}) == list(OTHERS)
        for port in (1, 2, 65_535):  # wherever ours stands among them
            assert let_through(NEVER, 0, frozenset({ours, port, *range(10_000, 10_000 + 251 * port % 1000)})) == [
                PROVEN,
                *OTHERS,
            ]
        assert let_through(NEVER, NEVER, frozenset(range(1, 3000))) == list(OTHERS), "too many for a program"
        came = sum(HELLO in let_through(1, 0) for _ in range(200))
        assert 50 < came < 150


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can do this")
def test_where_the_system_will_not_have_it_so_that_is_told_once_and_nothing_else_happens(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        sock = open_socket(socket.AF_INET, ("127.0.0.1", 0))
        admit(sock, Admission(0, NEVER))
        sock.setsockopt(socket.SOL_SOCKET, 44, 1)  # SO_LOCK_FILTER: as it is it has to remain
        shell = SecureShell(EndpointCore(SystemEntropy()), server_credentials(), asyncio.get_running_loop())
        shell.listen(sock)
        assert shell.machine.reception.admit is None
        shell.close()

    asyncio.run(scenario())
    (record,) = caplog.records
    assert "does not keep out what floods the port of CoAPS: [Errno 1]" in record.getMessage()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can do this")
def test_a_socket_that_a_predecessor_left_in_a_flood_lets_everything_through_again() -> None:
    async def scenario() -> None:
        sock = open_socket(socket.AF_INET, ("127.0.0.1", 0))
        admit(sock, Admission(NEVER, NEVER, frozenset()))
        core = EndpointCore(SystemEntropy(), site=Site(Resource("/whoami", get=whoami)))
        shell = SecureShell(core, server_credentials(), asyncio.get_running_loop())
        shell.listen(sock)
        async with Endpoint(credentials=client_credentials()) as client:
            uri = f"coaps://127.0.0.1:{sock.getsockname()[1]}/whoami"
            assert (await client.get(uri, timeout=50)).text == "x509 n1 urn:fleet:node:n1"
        shell.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))
