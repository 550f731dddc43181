"""Everything that a test sends and receives, as a pcapng file: what a report shows can be looked at with Wireshark.

`Recorder` writes what went through the tester's sockets, with headers of IP and UDP made up for it. `LiveCapture`
writes the packets themselves as an interface shows them, where the system lets us: this takes the right to open raw
sockets (root, or CAP_NET_RAW).
"""

from __future__ import annotations

import select
import threading
import time
from types import TracebackType
from typing import Any, BinaryIO, Optional

from minicoap.codec.pcapng import RAW, datagram, interface, packet, section
from minicoap.errors import UsageError
from tools.conformance.capture.files import Packet
from tools.conformance.capture.links import ETHERNET, Dissector
from tools.conformance.frames import Address, Frame

APPLICATION = "minicoap tools.conformance"
LINGER = 0.2  # seconds that the last packets may take from the interface to us


class Recorder:
    """Writes frames to a pcapng file, each at once. Raises OSError where the file cannot be written."""

    def __init__(self, file: str) -> None:
        self._stream: BinaryIO = open(file, "wb", buffering=0)  # noqa: SIM115  closed by `close`
        self._stream.write(section(APPLICATION) + interface("the tester's sockets"))

    def __call__(self, frame: Frame) -> None:
        """Write a frame."""
        self._stream.write(packet(frame.at, datagram(frame.source, frame.destination, frame.data)))

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: Optional[type[BaseException]], error: object, traceback: Optional[TracebackType]) -> None:
        self.close()


class LiveCapture:
    """Writes what passes an interface to and from `address` to a pcapng file, until `close`.

    Raises UsageError where the interface cannot be listened on, with what is missing.
    """

    def __init__(self, file: str, name: str, address: Address) -> None:
        self._socket, link_type = _listen(name)
        self._address = address
        self._link_type = link_type
        self._stop = threading.Event()
        try:
            self._stream: BinaryIO = open(file, "wb", buffering=0)  # noqa: SIM115  closed by `close`
        except OSError:
            self._socket.close()
            raise
        self._stream.write(section(APPLICATION) + interface(name, link_type))
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def __call__(self, frame: Frame) -> None:
        """Do nothing: the packet itself is captured."""

    def close(self) -> None:
        """Stop, once the last packets are written, and close the file."""
        time.sleep(LINGER)
        self._stop.set()
        self._thread.join()
        self._socket.close()
        self._stream.close()

    def __enter__(self) -> LiveCapture:
        return self

    def __exit__(self, kind: Optional[type[BaseException]], error: object, traceback: Optional[TracebackType]) -> None:
        self.close()

    def _run(self) -> None:
        dissector = Dissector()
        while not self._stop.is_set():
            if not select.select([self._socket], [], [], 0.05)[0]:
                continue
            _, data, at = self._socket.recv_raw()
            if not data:
                continue
            at = float(at) if at else time.time()
            found = dissector.datagram(Packet(0, at, self._link_type, data, len(data)))
            if found is not None and self._address in (found.source, found.destination):
                self._stream.write(packet(at, data))


def _listen(name: str) -> tuple[Any, int]:
    from scapy.config import conf
    from scapy.error import Scapy_Exception
    from scapy.layers.l2 import Ether

    try:
        # On the loopback interface each packet is seen twice, as it leaves and as it arrives, but not by the latter.
        sock: Any = conf.L2socket(iface=name) if name == conf.loopback_name else conf.L2listen(iface=name)
    except PermissionError as error:
        raise UsageError(
            f"--capture {name}: raw sockets are not permitted; run as root, or give Python CAP_NET_RAW"
        ) from error
    except (OSError, ValueError, Scapy_Exception) as error:
        raise UsageError(f"--capture {name}: {error}") from error
    return sock, ETHERNET if sock.LL is Ether else RAW
