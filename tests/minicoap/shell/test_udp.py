"""The UDP shell over real loopback sockets: what it feeds, sends, times and reports."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Optional

import pytest

from minicoap.shell import udp
from minicoap.shell.udp import UdpShell, open_socket
from tests.minicoap.simulate.machines import Recorder


def ipv6_works() -> bool:
    try:
        open_socket(socket.AF_INET6, ("::1", 0)).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not ipv6_works(), reason="this host has no IPv6")


class Watched(Recorder):
    """A recorder whose every call lets `until` look at its condition again."""

    def __init__(self, answer: Optional[bytes] = None) -> None:
        super().__init__(answer)
        self.called = asyncio.Event()

    def datagram_received(self, data: bytes, path: Any, now: float) -> None:
        super().datagram_received(data, path, now)
        self.called.set()

    def path_failed(self, path: Any, error: OSError, now: float) -> None:
        super().path_failed(path, error, now)
        self.called.set()

    def handle_timeout(self, now: float) -> None:
        super().handle_timeout(now)
        self.called.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async def wait() -> None:
            while not condition():
                self.called.clear()
                await self.called.wait()

        await asyncio.wait_for(wait(), 10)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run `scenario`; an exception that only the loop would hear of fails the test."""
    unheard: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
        await scenario()

    asyncio.run(main())
    assert unheard == []


def shell_of(machine: Recorder, family: int = socket.AF_INET, host: str = "127.0.0.1") -> UdpShell:
    return UdpShell(machine, open_socket(family, (host, 0)), asyncio.get_running_loop())


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), pytest.param(socket.AF_INET6, "::1", marks=needs_ipv6)]
)
def test_datagrams_go_there_and_back_under_the_socket_addresses(family: int, host: str) -> None:
    async def scenario() -> None:
        client, server = Watched(), Watched(answer=b"pong")
        near, far = shell_of(client, family, host), shell_of(server, family, host)
        client.outbox.append((b"ping", far.local_address))
        near.wake()
        await client.until(lambda: bool(client.received))
        assert server.received[0][:2] == (b"ping", near.local_address)
        assert client.received[0][:2] == (b"pong", far.local_address)
        near.close()
        far.close()

    run(scenario)


@needs_ipv6
def test_wildcard_ipv6_socket_serves_ipv4_too() -> None:
    async def scenario() -> None:
        client, server = Watched(), Watched(answer=b"pong")
        near, far = shell_of(client), shell_of(server, socket.AF_INET6, "::")
        client.outbox.append((b"ping", ("127.0.0.1", far.local_address[1])))
        near.wake()
        await client.until(lambda: bool(client.received))
        assert server.received[0][1] == ("::ffff:127.0.0.1", near.local_address[1], 0, 0)
        near.close()
        far.close()

    run(scenario)


def test_a_wakeup_takes_one_time_and_at_most_64_datagrams() -> None:
    async def scenario() -> None:
        machine = Watched()
        shell = shell_of(machine)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for number in range(100):
                sender.sendto(str(number).encode(), shell.local_address)
        await machine.until(lambda: len(machine.received) == 100)
        times = [now for _, _, now in machine.received]
        assert len(set(times[:64])) == 1
        assert len(set(times[64:])) == 1
        assert times[63] < times[64]
        assert [int(data) for data, _, _ in machine.received] == list(range(100))
        shell.close()

    run(scenario)


def test_timer_is_due_when_the_machine_says_and_can_move_forward() -> None:
    async def scenario() -> None:
        machine = Watched()
        shell = shell_of(machine)
        start = asyncio.get_running_loop().time()
        machine.due = [start + 3600.0]
        shell.wake()
        machine.due.append(start + 0.02)
        shell.wake()
        await machine.until(lambda: bool(machine.timeouts))
        assert machine.timeouts[0] >= start + 0.02
        assert machine.due == [start + 3600.0]
        shell.close()

    run(scenario)


def test_timeout_that_moved_back_does_not_come_early() -> None:
    async def scenario() -> None:
        machine = Watched()
        shell = shell_of(machine)
        start = asyncio.get_running_loop().time()
        machine.due = [start + 0.01]
        shell.wake()
        machine.due = [start + 0.05]
        shell.wake()
        await machine.until(lambda: bool(machine.timeouts))
        assert machine.timeouts == [pytest.approx(start + 0.05, abs=5)]
        assert machine.timeouts[0] >= start + 0.05
        shell.close()

    run(scenario)


@pytest.mark.skipif(udp._MSG_ERRQUEUE is None, reason="only Linux tells which destination an ICMP error is about")
@pytest.mark.parametrize(
    ("family", "host"),
    [
        (socket.AF_INET, "127.0.0.1"),
        pytest.param(socket.AF_INET6, "::1", marks=needs_ipv6),
        pytest.param(socket.AF_INET6, "::ffff:127.0.0.1", marks=needs_ipv6),
    ],
)
def test_icmp_error_reaches_the_machine_with_the_path_that_failed(family: int, host: str) -> None:
    async def scenario() -> None:
        client, server = Watched(), Watched(answer=b"pong")
        near, far = (
            shell_of(client, family, "::" if family == socket.AF_INET6 else host),
            shell_of(server, family, host),
        )
        closed = open_socket(family, (host, 0))
        gone = closed.getsockname()
        closed.close()
        client.outbox += [(b"a", gone), (b"b", far.local_address), (b"c", far.local_address)]
        near.wake()
        await client.until(lambda: bool(client.failures) and len(client.received) == 2)
        assert {(path, number) for path, number, _ in client.failures} == {(gone, errno.ECONNREFUSED)}
        assert [data for data, _, _ in server.received] == [b"b", b"c"]
        near.close()
        far.close()

    run(scenario)


@pytest.mark.skipif(udp._MSG_ERRQUEUE is None, reason="only Linux tells which destination an ICMP error is about")
def test_icmp_error_is_noticed_without_sending_again() -> None:
    async def scenario() -> None:
        client = Watched()
        near = shell_of(client)
        closed = open_socket(socket.AF_INET, ("127.0.0.1", 0))
        gone = closed.getsockname()
        closed.close()
        client.outbox.append((b"a", gone))
        near.wake()
        await client.until(lambda: bool(client.failures))
        assert [(path, number) for path, number, _ in client.failures] == [(gone, errno.ECONNREFUSED)]
        near.close()

    run(scenario)


class QueuedError:
    """A socket with nothing to receive but an entry in its error queue."""

    def __init__(self, sock: socket.socket, path: Any) -> None:
        self._sock = sock
        self._entries = [(b"", [(socket.IPPROTO_IP, 11, errno.EHOSTUNREACH.to_bytes(4, "little"))], 0, path)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def recvmsg(self, *arguments: Any) -> Any:
        if not self._entries:
            raise BlockingIOError
        return self._entries.pop()

    def recvfrom(self, size: int) -> Any:
        self._sock.recvfrom(size)
        raise BlockingIOError


@pytest.mark.skipif(udp._MSG_ERRQUEUE is None, reason="only Linux tells which destination an ICMP error is about")
@pytest.mark.skipif(sys.byteorder != "little", reason="the entry is written for little-endian machines")
def test_wakeup_by_the_error_queue_alone_reads_it() -> None:
    async def scenario() -> None:
        client = Watched()
        queued: Any = QueuedError(open_socket(socket.AF_INET, ("127.0.0.1", 0)), ("192.0.2.7", 5683))
        near = UdpShell(client, queued, asyncio.get_running_loop())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"wake up", near.local_address)
            await client.until(lambda: bool(client.failures))
        assert [(path, number) for path, number, _ in client.failures] == [(("192.0.2.7", 5683), errno.EHOSTUNREACH)]
        near.close()

    run(scenario)


@pytest.mark.parametrize("family", [socket.AF_INET, pytest.param(socket.AF_INET6, marks=needs_ipv6)])
def test_too_large_a_datagram_fails_its_path_once_and_no_other(family: int) -> None:
    async def scenario() -> None:
        host = "127.0.0.1" if family == socket.AF_INET else "::1"
        client, server = Watched(), Watched()
        near, far = shell_of(client, family, host), shell_of(server, family, host)
        client.outbox += [(bytes(70_000), far.local_address), (b"small", far.local_address)]
        near.wake()
        await server.until(lambda: bool(server.received))
        assert [(path, number) for path, number, _ in client.failures] == [(far.local_address, errno.EMSGSIZE)]
        assert server.received[0][0] == b"small"
        near.close()
        far.close()

    run(scenario)


class FullSocket:
    """A socket whose first sends find no room."""

    def __init__(self, sock: socket.socket, refusals: int) -> None:
        self._sock = sock
        self.refusals = refusals

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def sendto(self, data: bytes, path: Any) -> int:
        if self.refusals:
            self.refusals -= 1
            raise BlockingIOError(errno.EAGAIN, "no room")
        return self._sock.sendto(data, path)


@pytest.mark.parametrize(("datagrams", "arriving"), [(5, 5), (udp.DATAGRAMS_WAITING + 10, udp.DATAGRAMS_WAITING)])
def test_what_finds_no_room_waits_in_order_and_within_bounds(datagrams: int, arriving: int) -> None:
    async def scenario() -> None:
        client, server = Recorder(), Watched()
        far = shell_of(server)
        full: Any = FullSocket(open_socket(socket.AF_INET, ("127.0.0.1", 0)), refusals=2)
        near = UdpShell(client, full, asyncio.get_running_loop())
        client.outbox += [(str(number).encode(), far.local_address) for number in range(datagrams)]
        near.wake()
        await server.until(lambda: len(server.received) == arriving)
        assert [int(data) for data, _, _ in server.received] == list(range(arriving))
        near.close()
        far.close()

    run(scenario)


def test_machine_that_fails_is_drained_and_served_further() -> None:
    class Failing(Watched):
        def datagram_received(self, data: bytes, path: Any, now: float) -> None:
            super().datagram_received(data, path, now)
            if data == b"bad":
                raise OSError("of the machine's own making")

    async def scenario() -> None:
        loop, failures = asyncio.get_running_loop(), []
        loop.set_exception_handler(lambda _, context: failures.append(str(context["exception"])))
        machine = Failing(answer=b"ok")
        shell = shell_of(machine)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            for data in (b"bad", b"good"):
                sender.sendto(data, shell.local_address)
                assert await asyncio.wait_for(loop.sock_recv(sender, 10), 10) == b"ok"
        assert failures == ["of the machine's own making"]
        assert machine.failures == []
        shell.close()

    run(scenario)


def test_call_from_inside_the_machine_does_not_drain_it_twice() -> None:
    class Waking(Watched):
        shell: UdpShell
        depth = 0

        def datagram_received(self, data: bytes, path: Any, now: float) -> None:
            self.outbox.append((b"first", path))
            self.shell.wake()
            assert self.outbox, "drained while the machine is at work"
            super().datagram_received(data, path, now)

    async def scenario() -> None:
        machine = Waking()
        machine.shell = shell = shell_of(machine)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", shell.local_address)
            await machine.until(lambda: bool(machine.received))
        shell.close()

    run(scenario)


def test_closed_shell_does_nothing_and_can_be_closed_again() -> None:
    async def scenario() -> None:
        machine = Recorder()
        shell = shell_of(machine)
        machine.due = [asyncio.get_running_loop().time()]
        shell.wake()
        shell.close()
        shell.close()
        machine.outbox.append((b"x", ("127.0.0.1", 9)))
        shell.wake()
        for _ in range(3):
            await asyncio.sleep(0)
        assert machine.outbox
        assert machine.timeouts == []

    run(scenario)
