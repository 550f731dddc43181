"""One party behind DTLS, as the machine inside knows it: a path, whatever sessions at whatever addresses lead there."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

from minicoap.core.request import Path, SecurePath
from minicoap.security.handshakes import Channel

_UNHEARD = 64  # confirmable messages remembered as unanswered, per association
_CONFIRMABLE = 0x40  # first byte, token length aside


class ServerName(NamedTuple):
    """The last member of a client's path: which server is to be at that address."""

    host: str


def server_path(address: Path, host: str) -> SecurePath:
    """Return the path to the server at `address` whose certificate has to be one of `host`, below DTLS."""
    path = SecurePath((*address, ServerName(host)))
    path.address = address
    return path


class Association:
    """One party: what is inside knows it as `path`. `host` is the name of a server, None if that is us."""

    __slots__ = ("_unheard", "channel", "following", "host", "key", "path", "queue", "resume", "touched")

    def __init__(self, path: SecurePath, host: Optional[str], now: float) -> None:
        self.path = path
        self.host = host
        self.key = b""  # by which a client of ours is known when it resumes its session
        self.touched = now
        self.channel: Optional[Channel] = None
        self.following: Optional[Channel] = None
        self.queue: list[bytes] = []
        self.resume: Any = None
        self._unheard: dict[bytes, None] = {}

    def heard(self, now: float) -> None:
        """Note that a message came."""
        self.touched = now
        self._unheard.clear()

    def is_unheard(self, message: bytes) -> bool:
        """Whether `message` is a confirmable one that was sent before, with nothing heard since."""
        if message[0] & 0xF0 != _CONFIRMABLE:
            return False
        header = message[:4]
        if header in self._unheard:
            return True
        if len(self._unheard) < _UNHEARD:
            self._unheard[header] = None
        return False
