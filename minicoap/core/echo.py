"""Echo: a value that a client brings back, and by that shows when it asked and that it is where it says (RFC 9175 §2).

A value is the time at which it was made and a keyed hash of that time and the address it was made for (Appendix A, item
2): nothing is kept for it, and a restart, which draws another key, makes all earlier ones worthless.
"""

from __future__ import annotations

from typing import Optional

from minicoap.codec.message import Message, Options
from minicoap.codec.options import ECHO
from minicoap.core.entropy import Entropy
from minicoap.core.peer import Peers
from minicoap.core.request import Path, SecurePath
from minicoap.core.siphash import siphash

_TIME_BYTES = 5  # milliseconds; they come round after 34 years
_TIME_MASK = (1 << 8 * _TIME_BYTES) - 1

# §2.4: what a request of four bytes may be answered with, though its address was never verified, if all headers below
# CoAP are counted: three times 14 + 40 + 8 + 4 bytes, less those headers.
SAFE_ANSWER = 136


class Echo:
    """Makes Echo values and recognises them; they are good for `lifetime` seconds."""

    __slots__ = ("_entropy", "_key", "_lifetime")

    def __init__(self, entropy: Entropy, lifetime: float) -> None:
        self._entropy = entropy
        self._lifetime = lifetime
        self._key = b""

    def value(self, path: Path, now: float) -> bytes:
        """Return a value for the endpoint at `path`."""
        if not self._key:
            self._key = self._entropy.token(16)
        time = (int(now * 1000) & _TIME_MASK).to_bytes(_TIME_BYTES, "big")
        return time + self._hash(time, path)

    def age(self, value: bytes, path: Path, now: float) -> Optional[float]:
        """Return how many seconds ago `value` was made here for `path`; None if it was not, or too long ago."""
        time = value[:_TIME_BYTES]
        if not self._key or value[_TIME_BYTES:] != self._hash(time, path):
            return None
        age = ((int(now * 1000) - int.from_bytes(time, "big")) & _TIME_MASK) / 1000
        return age if age <= self._lifetime else None

    def _hash(self, time: bytes, path: Path) -> bytes:
        return siphash(self._key, time + f"{path[0]} {path[1]}".encode())


class AddressGuard:
    """Decides what may be sent to addresses that may be forged (§2.4, item 3; RFC 7252 §11.3).

    An answer has at most `factor` times the bytes of its request (0: any), unless its address has been verified: by an
    Echo value, because it has answered a request of ours, or by the handshake of a security layer.
    """

    __slots__ = ("_echo", "_factor", "_peers")

    def __init__(self, echo: Echo, peers: Peers, factor: int) -> None:
        self._echo = echo
        self._peers = peers
        self._factor = factor

    def note(self, options: Options, path: Path, now: float) -> None:
        """Believe the address of whoever brings back a value that was sent there."""
        value = options.get(ECHO)
        if value is not None and self._echo.age(value, path, now) is not None:
            peer = self._peers.reach(path, now)
            if peer is not None:
                peer.verified = True

    def is_too_much(self, size: int, message: Message, path: Path) -> bool:
        """Whether an answer of `size` bytes must not be sent to where `message` came from."""
        asked = 4 + len(message.token) + len(message.options.raw) + len(message.payload)
        if size <= self._factor * asked or self.needs_no_proof(path):
            return False
        peer = self._peers.find(path)
        return peer is None or not peer.verified

    def needs_no_proof(self, path: Path) -> bool:
        """Whether nobody else can send in the name of `path`: this machine's, or one behind a security layer.

        Where there is no `factor` nobody needs a proof.
        """
        return not self._factor or is_loopback(path) or isinstance(path, SecurePath)


def is_loopback(path: Path) -> bool:
    """Whether `path` leads to this very machine, whose programs need not lie about where they are."""
    host = str(path[0])
    return host.startswith(("127.", "::ffff:127.")) or host == "::1"
