"""Requests that a server has asked us not to repeat for a while: 4.29, Too Many Requests (RFC 8516 §4).

The refusal stands for its Max-Age: a similar request, of the same method and URI to the same server, gets it again
without a message being sent, with what is left of the time as Max-Age.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple, Optional

from minicoap.codec.message import Message, Options
from minicoap.codec.options import (
    DEFAULT_MAX_AGE,
    MAX_AGE,
    URI_HOST,
    URI_PATH,
    URI_PORT,
    URI_QUERY,
    decode_uint,
    encode_uint,
)
from minicoap.core.request import Path
from minicoap.core.timers import Timer, Timers

_URI = frozenset((URI_HOST, URI_PORT, URI_PATH, URI_QUERY))
_MOST = 1024  # refusals kept; further ones push out the oldest

_Key = tuple[Path, int, tuple[tuple[int, bytes], ...]]


class _Refusal(NamedTuple):
    until: float
    message: Message
    timer: Timer


class Backoff:
    """The refusals of one endpoint that still stand."""

    __slots__ = ("_refusals", "_timers")

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._refusals: dict[_Key, _Refusal] = {}

    def __len__(self) -> int:
        return len(self._refusals)

    def note(self, path: Path, code: int, options: Options, message: Message, now: float) -> None:
        """Keep the refusal `message` of a request with `code` and `options`."""
        max_age = message.options.get(MAX_AGE)
        until = now + (DEFAULT_MAX_AGE if max_age is None else decode_uint(max_age))
        key = _key(path, code, options)
        self._forget(key)
        if len(self._refusals) >= _MOST:
            self._forget(next(iter(self._refusals)))

        def expire(when: float) -> None:
            self._refusals.pop(key, None)

        self._refusals[key] = _Refusal(until, message, self._timers.at(until, expire))

    def recall(self, path: Path, code: int, options: Options, now: float) -> Optional[Message]:
        """Return the refusal that a request would only get again; None if it may be sent."""
        refusal = self._refusals.get(_key(path, code, options))
        if refusal is None or refusal.until <= now:
            return None
        message = refusal.message
        items = [item for item in message.options.items if item[0] != MAX_AGE]
        items.append((MAX_AGE, encode_uint(ceil(refusal.until - now))))
        return Message(message.type, message.code, message.message_id, b"", Options(items), message.payload)

    def _forget(self, key: _Key) -> None:
        refusal = self._refusals.pop(key, None)
        if refusal is not None:
            refusal.timer.cancel()


def _key(path: Path, code: int, options: Options) -> _Key:
    return path, code, tuple([item for item in options.items if item[0] in _URI])
