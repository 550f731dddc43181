"""What a client that uses Q-Block (RFC 9177) knows of servers, and the kinds of exchange that it has with them."""

from __future__ import annotations

from typing import Callable, Optional

from minicoap.codec.message import Message
from minicoap.core.entropy import Entropy
from minicoap.core.exchange import Answer, Exchange, Exchanges
from minicoap.core.peer import Peer
from minicoap.core.request import NOT_UNDERSTOOD, Path
from minicoap.core.timers import Timers

_KNOWN = 1024  # servers of which is remembered whether they have Q-Block


class QuickPeers:
    """What is known of servers: whether they have Q-Block, and until when a silent one is sent no further body."""

    __slots__ = ("_entropy", "_has", "_next_tag", "_silent_until", "timers")

    def __init__(self, timers: Timers, entropy: Entropy) -> None:
        self.timers = timers
        self._entropy = entropy
        self._has: dict[Path, bool] = {}
        self._silent_until: dict[Path, float] = {}
        self._next_tag = entropy.integer(32)

    def has_quick(self, path: Path) -> Optional[bool]:
        """Whether the server at `path` has Q-Block; None if that is not known."""
        return self._has.get(path)

    def note(self, path: Path, has_quick: bool) -> None:
        """Remember that, of the last ones."""
        self._has.pop(path, None)
        if len(self._has) >= _KNOWN:
            del self._has[next(iter(self._has))]
        self._has[path] = has_quick

    def silent_until(self, path: Path) -> float:
        """Until when no further body goes to `path` (§7.2)."""
        return self._silent_until.get(path, 0.0)

    def note_silence(self, path: Path, until: Optional[float], now: float) -> None:
        """A body to `path` has not been answered, so that the next one has to wait; None: it was answered."""
        self._silent_until.pop(path, None)
        if until is not None:
            for other in [other for other, end in self._silent_until.items() if end <= now]:
                del self._silent_until[other]
            if len(self._silent_until) >= _KNOWN:
                del self._silent_until[next(iter(self._silent_until))]
            self._silent_until[path] = until

    def tag(self) -> bytes:
        """Return a Request-Tag that no other body of this endpoint has had (§4.3)."""
        self._next_tag = (self._next_tag + 1) & 0xFFFFFFFF
        return self._next_tag.to_bytes(4, "big")

    def pause(self, low: float, high: float) -> float:
        """Draw NON_TIMEOUT_RANDOM (§7.2)."""
        return self._entropy.uniform(low, high)


class Probe(Exchange):
    """The request that finds out whether a server has Q-Block."""

    refused = NOT_UNDERSTOOD


class QuickExchange(Exchange):
    """All requests of one body: `tokens` tells the block that each was for, -1 for none."""

    __slots__ = ("on_message", "tokens")

    refused = NOT_UNDERSTOOD
    is_one_message = False
    on_message: Callable[[Message, float], bool]

    def __init__(
        self, exchanges: Exchanges, peer: Peer, token: bytes, on_answer: Callable[[Answer, float], None]
    ) -> None:
        super().__init__(exchanges, peer, token, on_answer)
        self.tokens: dict[bytes, int] = {}

    def listen(self, token: bytes, number: int, limit: int) -> None:
        """Take what answers `token`, too; of the last `limit` ones."""
        tokens = self.tokens
        if len(tokens) >= limit:
            self.release(next(other for other in tokens if other != self.token))
        tokens[token] = number
        self.peer.opened(token, self)

    def release(self, token: bytes) -> None:
        """Nothing more is expected to answer `token`."""
        if token != self.token and self.tokens.pop(token, None) is not None:
            self.peer.closed(token)

    def close(self, now: float) -> None:
        """End it without an answer."""
        for token in self.tokens:
            self.peer.closed(token)
        super().close(now)

    def receive(self, message: Message, now: float) -> bool:
        """Take one of the responses; False if it is to be rejected."""
        return self.on_message(message, now)
