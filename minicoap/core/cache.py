"""A client's cache: responses that are still fresh, and those that need but be confirmed (RFC 7252 §5.6).

What is asked for again while its Max-Age lasts is answered without a message. After that, a response with an ETag is
asked for with it, and a 2.03 makes it fresh again; any other response takes its place. What changes a resource makes
all that is known of it stale (§5.9.1).
"""

from __future__ import annotations

from math import ceil
from typing import Callable, NamedTuple, Optional, Union

from minicoap.codec import codes
from minicoap.codec.message import Options
from minicoap.codec.options import (
    ECHO,
    ETAG,
    LOCATION_PATH,
    LOCATION_QUERY,
    MAX_AGE,
    OBSERVE,
    URI_HOST,
    URI_PATH,
    URI_PORT,
    URI_QUERY,
    encode_uint,
    is_no_cache_key,
)
from minicoap.core.request import SAFE, ClientRequest, Path, Response
from minicoap.core.timers import Timer, Timers
from minicoap.errors import CoapError

Items = list[tuple[int, bytes]]
Done = Callable[[Union[Response, CoapError]], None]

_URI = frozenset((URI_HOST, URI_PORT, URI_PATH, URI_QUERY))
_CHANGES = frozenset(
    (codes.CREATED, codes.DELETED, codes.CHANGED, codes.REQUEST_ENTITY_INCOMPLETE, codes.REQUEST_ENTITY_TOO_LARGE)
)
_LOCATION = 1 << LOCATION_PATH | 1 << LOCATION_QUERY


Send = Callable[[Items, Done], ClientRequest]


class _Key(NamedTuple):
    path: Path
    code: int
    options: tuple[tuple[int, bytes], ...]
    payload: bytes  # of a FETCH (RFC 8132 §2.1)


class _Entry:
    __slots__ = ("expires_at", "response")

    def __init__(self, response: Response, expires_at: float) -> None:
        self.response = response
        self.expires_at = expires_at

    @property
    def size(self) -> int:
        return len(self.response.body) + len(self.response.options.raw)


class Cached:
    """A request that is answered from the cache, or goes through it."""

    __slots__ = ("_done", "request", "timer")

    def __init__(self, done: Done) -> None:
        self._done: Optional[Done] = done
        self.request: Optional[ClientRequest] = None
        self.timer: Optional[Timer] = None

    @property
    def is_done(self) -> bool:
        """Whether the outcome has been told, or the request was cancelled."""
        return self._done is None

    def cancel(self, now: float) -> None:
        """Stop; the outcome will not be told. More than once is fine."""
        self._done = None
        if self.timer is not None:
            self.timer.cancel()
        if self.request is not None:
            self.request.cancel(now)

    def finish(self, outcome: Union[Response, CoapError]) -> None:
        """Tell the outcome."""
        done = self._done
        self._done = None
        if done is not None:
            done(outcome)


class Cache:
    """Responses of at most `entries` requests and `size` bytes; the ones not used for the longest time go first.

    Give it to an endpoint: ``Endpoint(cache=Cache())``. Requests into a sink, with a body of their own other than a
    FETCH's, that observe or bring an ETag themselves go past it.
    """

    __slots__ = ("_bytes", "_entries", "_limit", "_size")

    def __init__(self, entries: int = 1024, size: int = 1 << 20) -> None:
        self._limit = entries
        self._size = size
        self._bytes = 0
        self._entries: dict[_Key, _Entry] = {}  # in the order of their last use

    def __len__(self) -> int:
        return len(self._entries)

    def request(
        self,
        path: Path,
        code: int,
        items: Items,
        payload: bytes,
        done: Done,
        send: Send,
        timers: Timers,
        now: float,
    ) -> Cached:
        """Answer a request from what is known, or have `send(items, done)` send it; `done` is called later."""
        asked = Cached(done)
        if code not in SAFE:

            def changed(outcome: Union[Response, CoapError]) -> None:
                if _may_have_changed(outcome):
                    self._expire(path, items)
                    if isinstance(outcome, Response) and outcome.options.mask & _LOCATION:
                        self._expire(path, _location(items, outcome))
                asked.finish(outcome)

            asked.request = send(items, changed)
            return asked
        if any(number in (ETAG, OBSERVE) for number, _ in items):
            asked.request = send(items, asked.finish)
            return asked
        key = _Key(path, code, _key_options(items), payload)
        entry = self._take(key)
        if entry is not None and now < entry.expires_at:
            fresh = _aged(entry, now)
            asked.timer = timers.at(now, lambda when: asked.finish(fresh))
            return asked
        etag = entry.response.etag if entry is not None else None
        stale = entry

        def answered(outcome: Union[Response, CoapError]) -> None:
            if isinstance(outcome, Response):
                if stale is not None and outcome.code == codes.VALID and outcome.etag == etag:
                    outcome = _confirmed(stale.response, outcome)
                self._put(key, outcome, now)
            asked.finish(outcome)

        # §5.6.2: the one stored response that applies
        asked.request = send(items if etag is None else [*items, (ETAG, etag)], answered)
        return asked

    def _take(self, key: _Key) -> Optional[_Entry]:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._entries[key] = entry
        return entry

    def _put(self, key: _Key, response: Response, now: float) -> None:
        """Keep `response` to a request that was sent at `now`, if it may be kept."""
        self._drop(key)
        max_age = response.max_age
        if not _is_cacheable(response) or (not max_age and response.etag is None):
            return
        entry = _Entry(response, now + max_age)
        if entry.size > self._size:
            return
        self._entries[key] = entry
        self._bytes += entry.size
        while len(self._entries) > self._limit or self._bytes > self._size:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: _Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry.size

    def _expire(self, path: Path, items: Items) -> None:
        """Mark what is known of a resource as not fresh (§5.9.1)."""
        uri = _uri(items)
        for key, entry in self._entries.items():
            if key.path == path and _uri(key.options) == uri:
                entry.expires_at = 0.0


def _may_have_changed(outcome: Union[Response, CoapError]) -> bool:
    """Whether the resource may be another one after a request that was to change it.

    Nobody knows where no answer came, nor after a server error; and a server need not take the blocks of a body as one,
    so that it may have taken some before it refused the next (RFC 7959 §2.10).
    """
    return not isinstance(outcome, Response) or outcome.code in _CHANGES or outcome.code >= codes.INTERNAL_SERVER_ERROR


def _location(items: Items, response: Response) -> Items:
    """Return the options of the URI that `response` says was created (RFC 7252 §5.9.1.1, §5.10.7)."""
    located = [item for item in items if item[0] in (URI_HOST, URI_PORT)]
    located.extend((URI_PATH, value) for value in response.options.all(LOCATION_PATH))
    located.extend((URI_QUERY, value) for value in response.options.all(LOCATION_QUERY))
    return located


def _is_cacheable(response: Response) -> bool:
    """Whether a response of this code may be kept (§5.9): 2.05, and errors, for their Max-Age."""
    if response.code == codes.CONTENT:
        return True
    return response.code >> 5 in (4, 5) and not response.options.all(ECHO)


def _aged(entry: _Entry, now: float) -> Response:
    response = entry.response
    items = [item for item in response.options.items if item[0] != MAX_AGE]
    items.append((MAX_AGE, encode_uint(ceil(entry.expires_at - now))))
    return Response(response.code, response.payload, options=items)


def _confirmed(stored: Response, valid: Response) -> Response:
    """Return the stored response with the options of the 2.03 that confirms it (§5.9.1.3)."""
    replaced = {number for number, _ in valid.options.items} | {MAX_AGE}
    items = [item for item in stored.options.items if item[0] not in replaced]
    return Response(stored.code, stored.payload, options=[*items, *valid.options.items])


def _key_options(items: Items) -> tuple[tuple[int, bytes], ...]:
    return Options([item for item in items if not is_no_cache_key(item[0])]).items


def _uri(items: Union[Items, tuple[tuple[int, bytes], ...]]) -> tuple[tuple[int, bytes], ...]:
    return Options([item for item in items if item[0] in _URI]).items
