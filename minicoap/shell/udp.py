"""The UDP shell: a non-blocking socket and one timer of the event loop, around a machine that decides everything.

`add_reader` and our own `recvfrom` take an eighth of the time that a `DatagramProtocol` takes a datagram. Where the
system can tell (Linux), ICMP errors are read from the socket's error queue, which names the destination that failed:
a plain error of an unconnected socket may belong to any of them.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Callable, Optional

from minicoap.core.machine import DatagramMachine
from minicoap.core.request import Path
from minicoap.errors import PathError
from minicoap.shell.addresses import mapped
from minicoap.shell.loop import Loop, TimerHandle

if TYPE_CHECKING:
    from minicoap.shell.local import LocalAddresses

DATAGRAMS_A_WAKEUP = 64  # then the loop's other business gets its turn
DATAGRAMS_WAITING = 1024  # while the socket's buffer is full; more are lost, and repeated by who sent them
SOCKET_BUFFER = 1 << 20  # bytes, as far as the system allows: enough for a burst from a few thousand nodes
LARGEST_DATAGRAM = 65535  # bytes

_WILDCARDS = ("0.0.0.0", "::")
_SEND_ATTEMPTS = 8  # a send first reports what is pending about other destinations
_EXTENDED_ERROR = struct.Struct("=I")  # ee_errno, the first field of `struct sock_extended_err`

# Linux names that the socket module lacks (linux/in.h, linux/in6.h).
_IP_RECVERR = 11
_IPV6_RECVERR = 25
_MSG_ERRQUEUE = getattr(socket, "MSG_ERRQUEUE", None)


def open_socket(family: int, address: Path) -> socket.socket:
    """Return a non-blocking UDP socket bound to `address`; "::" is bound for IPv4 too. Raises OSError."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6 and address[0] == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        prepare_socket(sock)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def prepare_socket(sock: socket.socket) -> None:
    """Set the options that `UdpShell` relies on, also on a socket that somebody else opened. Raises OSError."""
    if _MSG_ERRQUEUE is not None:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)


def open_for_all() -> socket.socket:
    """Return a socket that reaches IPv6 and IPv4, or IPv4 alone on a host without IPv6. Raises PathError."""
    try:
        try:
            return open_socket(socket.AF_INET6, ("::", 0))
        except OSError:  # a host without IPv6
            return open_socket(socket.AF_INET, ("0.0.0.0", 0))
    except OSError as error:
        raise PathError(f"no UDP socket can be had: {error.strerror}", error) from error


class UdpShell:
    """Runs `machine` on `sock` in `loop`, from construction until `close`, which closes the socket too.

    Whoever calls the machine from outside (a request, a completion) calls `wake` afterwards. Where `serves` and the
    socket is bound to all addresses, what is asked of one of them is answered from there. With `exact` nothing wakes
    the process but what is due: for one that sleeps most of the time, and whose battery counts.
    """

    def __init__(
        self, machine: DatagramMachine, sock: socket.socket, loop: Loop, *, serves: bool = True, exact: bool = False
    ) -> None:
        self.local_address: Path = sock.getsockname()
        self.family = sock.family
        self._machine = machine
        self._socket = sock
        self._loop = loop
        self._exact = exact
        self._local = _local_addresses(sock) if serves else None
        self._receive = self._local.receive if self._local is not None else sock.recvfrom
        self._send: Callable[[bytes, Path], object] = self._local.send if self._local is not None else sock.sendto
        self._waiting: deque[tuple[bytes, Path]] = deque()
        self._timer: Optional[TimerHandle] = None
        self._busy = False
        self._group_sockets: list[socket.socket] = []
        loop.add_reader(sock, self._readable)
        self.wake()

    def wake(self) -> None:
        """Send what the machine has to send and arm its timer."""
        if not self._busy:  # else called by the machine's own doing: it is drained when that returns
            self._drain(self._loop.time())

    @property
    def main_socket(self) -> socket.socket:
        """The socket, for its options."""
        return self._socket

    def join(self, sock: socket.socket, received: Callable[[bytes, Path, float], None]) -> None:
        """Listen on another socket too, one of a group, and hand what comes there to `received`."""
        self._group_sockets.append(sock)
        self._loop.add_reader(sock, self._group_readable, sock, received)

    def close(self) -> None:
        """Stop, and close the socket. Calling it again does nothing."""
        if self._socket.fileno() < 0:
            return
        for sock in self._group_sockets:
            self._loop.remove_reader(sock)
            sock.close()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        if self._timer is not None:
            self._timer.cancel()
        self._socket.close()

    def _readable(self) -> None:
        now = self._loop.time()
        receive = self._receive
        datagram_received = self._machine.datagram_received
        self._busy = True
        try:
            for count in range(DATAGRAMS_A_WAKEUP):
                try:
                    data, path = receive(LARGEST_DATAGRAM)
                except BlockingIOError:
                    if not count:  # woken by the error queue alone
                        self._read_errors(now)
                    break
                except OSError:
                    self._read_errors(now)
                    continue
                datagram_received(data, path, now)
        finally:
            self._busy = False
            self._drain(now)

    def _group_readable(self, sock: socket.socket, received: Callable[[bytes, Path, float], None]) -> None:
        now = self._loop.time()
        is_mapped = sock.family != self.family  # IPv4 to a group, answered from an IPv6 socket
        self._busy = True
        try:
            for _ in range(DATAGRAMS_A_WAKEUP):
                try:
                    data, path = sock.recvfrom(LARGEST_DATAGRAM)
                except OSError:
                    break
                received(data, mapped(path) if is_mapped else path, now)
        finally:
            self._busy = False
            self._drain(now)

    def _drain(self, now: float) -> None:
        machine = self._machine
        if self._socket.fileno() < 0:
            return
        send = self._send
        while datagrams := machine.datagrams_to_send():
            for data, path in datagrams:
                if self._waiting:
                    self._wait(data, path)
                    continue
                try:
                    send(data, path)
                except OSError as error:
                    self._send_again(data, path, error, now)
        when = machine.next_timeout()
        timer = self._timer
        if timer is not None:
            # One that is due too early is left alone: arming costs more than finding out, once, that it was.
            if timer.when() == when or ((when is None or timer.when() < when) and not self._exact):
                return
            timer.cancel()
        self._timer = None if when is None else self._loop.call_at(when, self._expired)

    def _expired(self) -> None:
        self._timer = None
        now = self._loop.time()
        when = self._machine.next_timeout()
        if when is not None and when <= now:
            self._machine.handle_timeout(now)
        self._drain(now)

    def _send_again(self, data: bytes, path: Path, error: OSError, now: float) -> None:
        """Deal with a send that failed: wait for room, or find out whose error it was and repeat it if another's."""
        for _ in range(_SEND_ATTEMPTS):
            if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK):
                self._wait(data, path)
                return
            if error.errno == errno.ENOBUFS:  # the interface's queue is full: lost on the way, as any datagram may be
                return
            failed = self._read_errors(now)
            if path in failed:
                return
            if not failed:
                break
            try:
                self._send(data, path)
                return
            except OSError as again:
                error = again
        self._machine.path_failed(path, error, now)

    def _wait(self, data: bytes, path: Path) -> None:
        if not self._waiting:
            self._loop.add_writer(self._socket, self._writable)
        if len(self._waiting) < DATAGRAMS_WAITING:
            self._waiting.append((data, path))

    def _writable(self) -> None:
        now = self._loop.time()
        waiting, self._waiting = self._waiting, deque()
        self._loop.remove_writer(self._socket)
        while waiting:
            data, path = waiting.popleft()
            try:
                self._send(data, path)
            except OSError as error:
                self._send_again(data, path, error, now)
                if self._waiting:
                    self._waiting.extend(waiting)
                    break
        self._drain(now)

    def _read_errors(self, now: float) -> list[Path]:
        """Tell the machine what the error queue holds; return the destinations it names."""
        failed: list[Path] = []
        while _MSG_ERRQUEUE is not None:
            try:
                _, ancillary, _, path = self._socket.recvmsg(0, 512, _MSG_ERRQUEUE)
            except OSError:
                break
            for level, kind, data in ancillary:
                if (level, kind) in ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)):
                    if self._local is not None:
                        path = self._local.origin(ancillary, path)
                    number = _EXTENDED_ERROR.unpack_from(data)[0]
                    failed.append(path)
                    self._machine.path_failed(path, OSError(number, os.strerror(number)), now)
        return failed


def _local_addresses(sock: socket.socket) -> Optional[LocalAddresses]:
    """Return what tells the local addresses of `sock` apart, if it is bound to all and the system can tell."""
    if sock.getsockname()[0] not in _WILDCARDS or not hasattr(sock, "recvmsg"):
        return None
    from minicoap.shell.local import LocalAddresses

    return LocalAddresses(sock)
