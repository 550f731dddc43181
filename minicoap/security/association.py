"""One party behind DTLS, as the machine inside knows it: a path, whatever sessions at whatever addresses lead there."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

from minicoap.core.request import Path, SecurePath
from minicoap.security.handshakes import Channel
from minicoap.security.lost import DOUBTS_EVERY

_UNHEARD = 64  # confirmable messages remembered as unanswered, per association
_CONFIRMABLE, _NON_CONFIRMABLE = 0x40, 0x50  # first byte, token length aside
ASKED_IN_VAIN = 8  # requests that nobody repeats, with nothing heard, until their sender takes the way for lost
_AT_MOST_IN_VAIN = 1024


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

    __slots__ = (
        "_asked",
        "_unheard",
        "channel",
        "doubted_at",
        "following",
        "host",
        "key",
        "path",
        "patience",
        "queue",
        "resume",
        "touched",
    )  # fmt: skip

    def __init__(self, path: SecurePath, host: Optional[str], now: float) -> None:
        self.path = path
        self.host = host
        self.key = b""  # by which a client of ours is known when it resumes its session
        self.touched = now
        self.doubted_at = -DOUBTS_EVERY  # when its session was resumed because somebody said that it was lost
        self.channel: Optional[Channel] = None
        self.following: Optional[Channel] = None
        self.queue: list[bytes] = []
        self.resume: Any = None
        self._unheard: dict[bytes, None] = {}
        self._asked = 0  # non-confirmable requests with nothing heard since
        self.patience = ASKED_IN_VAIN  # how many of those there may be; to be reset by any message

    def heard(self, now: float) -> None:
        """Note that there is a way to and fro: a message came, or a session is open."""
        self.touched = now
        self._unheard.clear()
        self._asked = 0

    def is_unheard(self, message: bytes) -> bool:
        """Whether `message` shows that we are not heard.

        It is a confirmable one that was sent before, with nothing heard since, or a non-confirmable request after so
        many others. Those may be such that nothing is to be answered (RFC 7967): each time it takes twice as many.
        """
        kind = message[0] & 0xF0
        if kind == _NON_CONFIRMABLE and 0 < message[1] < 32:
            self._asked += 1
            if self._asked < self.patience:
                return False
            self._asked, self.patience = 0, min(2 * self.patience, _AT_MOST_IN_VAIN)
            return True
        if kind != _CONFIRMABLE:
            return False
        header = message[:4]
        if header in self._unheard:
            return True
        if len(self._unheard) < _UNHEARD:
            self._unheard[header] = None
        return False
