"""Which of this host's addresses a datagram came to, for a socket that is bound to all of them.

A client takes an answer only from the address that it asked (RFC 7252 §4.4, §5.3.2), but a socket bound to a wildcard
sends from whichever the routing table prefers. So each datagram's destination is read beside it (IP_PKTINFO,
IPV6_PKTINFO), and where it is not the one that is preferred anyway, the path has it as a further member; what is sent
to such a path leaves from there. A path without one means the preferred address, which is asked for as well, so that
both directions agree though the routes may change.
"""

from __future__ import annotations

import socket
import struct
from contextlib import closing

from minicoap.core.request import Path

Ancillary = list[tuple[int, int, bytes]]

_PLAIN = {socket.AF_INET: 2, socket.AF_INET6: 4}  # members of a socket address
_PREFERRED = 4096  # hosts whose preferred local address is kept; then they are asked for anew

# Linux names and numbers that the socket module lacks (linux/in.h, linux/in6.h).
_IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8)
_IPV6_RECVPKTINFO = getattr(socket, "IPV6_RECVPKTINFO", 49)
_IPV6_PKTINFO = getattr(socket, "IPV6_PKTINFO", 50)
_IN_PKTINFO = struct.Struct("=I4s4s")  # interface, local address, destination in the header
_IN6_PKTINFO = struct.Struct("=16sI")  # destination, interface
_ANCILLARY_SPACE = socket.CMSG_SPACE(_IN6_PKTINFO.size) if hasattr(socket, "CMSG_SPACE") else 0


class LocalAddresses:
    """Receives and sends on a wildcard socket, with the local address in the path where it matters."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._family = sock.family
        self._members = _PLAIN[sock.family]
        self._preferred: dict[str, str] = {}
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)

    def receive(self, size: int) -> tuple[bytes, Path]:
        """Return a datagram and its path, as `recvfrom` does. One sent to everybody is empty: nobody asked us."""
        data, ancillary, _, address = self._socket.recvmsg(size, _ANCILLARY_SPACE)
        local, is_ours = self._destination(ancillary)
        if not is_ours:
            return b"", address
        return data, self._path(address, local)

    def origin(self, ancillary: Ancillary, address: Path) -> Path:
        """Return the path that an entry of the error queue is about: it came back to where the datagram left from."""
        local, _ = self._destination(ancillary)
        return self._path(address, local)

    def send(self, data: bytes, path: Path) -> None:
        """Send a datagram as `sendto` does, from the address that `path` names or else the preferred one."""
        address = path[: self._members]
        local = path[self._members] if len(path) > self._members else self._preferred_for(address)
        try:
            self._socket.sendmsg((data,), self._source(local), 0, address)
        except OSError:
            self._preferred.pop(address[0], None)  # it may have ceased to be ours
            raise

    def _path(self, address: Path, local: str) -> Path:
        if not local or local == self._preferred_for(address):
            return address
        return (*address, local)

    def _destination(self, ancillary: Ancillary) -> tuple[str, bool]:
        """Return the local address in the ancillary data, and whether the datagram was sent to it alone."""
        for level, kind, value in ancillary:
            if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
                _, local, header = _IN_PKTINFO.unpack_from(value)
                # An entry of the error queue has no local address: the header's is the one.
                return socket.inet_ntop(socket.AF_INET, header), local in (header, bytes(4))
            if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO):
                header = value[:16]
                return socket.inet_ntop(socket.AF_INET6, header), header[0] != 0xFF
        return "", True

    def _preferred_for(self, address: Path) -> str:
        """Return the local address from which the routing table has us send to `address`."""
        host = address[0]
        local = self._preferred.get(host)
        if local is None:
            with closing(socket.socket(self._family, socket.SOCK_DGRAM)) as probe:
                if self._family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                try:
                    probe.connect(address)  # sends nothing
                    local = str(probe.getsockname()[0])
                except OSError:
                    return ""  # there is no way there now
            if len(self._preferred) >= _PREFERRED:
                self._preferred.clear()
            self._preferred[host] = local
        return local

    def _source(self, local: str) -> Ancillary:
        if not local:
            return []
        packed = socket.inet_pton(self._family, local)
        if self._family == socket.AF_INET6:
            return [(socket.IPPROTO_IPV6, _IPV6_PKTINFO, _IN6_PKTINFO.pack(packed, 0))]
        return [(socket.IPPROTO_IP, _IP_PKTINFO, _IN_PKTINFO.pack(0, packed, bytes(4)))]
