"""Observe, the client's side (RFC 7641 §3): one registration a target, kept alive, its notifications in order.

All who observe one target share a `Watch` (§3.1). It holds the exchange whose token the notifications carry, decides
which of them is the freshest (§3.4), fetches what is longer than a block (RFC 7959 §2.6), and registers again when
Max-Age has passed in silence (§3.3.1): under the same token, which leaves a server that still knows it with one entry.
Where there may be a new server, after an error, a reset or silence, it registers under a fresh token, so that nothing
sent under the old one can be taken for news.
"""

from __future__ import annotations

from typing import Callable, Optional, Union

from minicoap.codec import codes
from minicoap.codec.message import Message, Options
from minicoap.codec.options import BLOCK2, ETAG, OBSERVE, encode_uint
from minicoap.core.block_client import BodyOptions, Transfer
from minicoap.core.body import MAX_SZX, Block, ClientSink
from minicoap.core.entropy import Entropy
from minicoap.core.exchange import Answer, Exchange, Exchanges
from minicoap.core.observe_server import DEREGISTER, REGISTER
from minicoap.core.request import Path, Response
from minicoap.core.timers import Timer, Timers
from minicoap.errors import CoapError, NetworkError, PeerError, ResetError, UsageError

Update = Callable[[Union[Response, CoapError]], None]

JITTER = (5.0, 15.0)  # seconds after Max-Age before registering again (§3.3.1)
ORDERED_FOR = 128.0  # seconds; what comes later than that after the freshest is fresher, whatever its number (§3.4)
_HALF = 1 << 23  # of the sequence numbers' 24 bits
_LONGEST_PAUSE = 60.0  # seconds between attempts to register again
_AT_ONCE = float("-inf")

_Key = tuple[Path, int, tuple[tuple[int, bytes], ...], bytes]


class Observation:
    """What `EndpointCore.observe` returns: one caller's interest in a target, until it is over."""

    __slots__ = ("_update", "_watch", "is_over")

    def __init__(self, watch: Watch, update: Update) -> None:
        self._watch = watch
        self._update = update
        self.is_over = False

    def cancel(self, now: float) -> None:
        """Stop observing; nothing more is told. More than once is fine.

        If nobody else observes the target the server is told (RFC 7641 §3.6); what it still sends is rejected.
        """
        if not self.is_over:
            self.is_over = True
            self._watch.left(self, now)

    def tell(self, outcome: Union[Response, CoapError], is_last: bool) -> None:
        """Pass on a representation or the end."""
        if not self.is_over:
            self.is_over = is_last
            self._update(outcome)


class Registration(Exchange):
    """The exchange of a registration: it goes on after a response, since more may come with its token."""

    __slots__ = ("watch",)

    watch: Watch

    def receive(self, message: Message, now: float) -> bool:
        """Take the response or a notification."""
        if self.timer is not None:
            self.timer.cancel()
        if not self.confirmable:
            self.responded(now)
        self.watch.received(message, now)
        return True

    def sent(self, error: Optional[CoapError], now: float) -> None:
        """The message layer's word on the request; that it failed means nothing once a notification has come."""
        self.outgoing = None
        if error is not None and self.watch.is_registering:
            self.answer(error, now)


class Deregistration(Exchange):
    """The exchange that ends an observation under its token; to notifications that token is unknown already."""

    __slots__ = ()

    def receive(self, message: Message, now: float) -> bool:
        """Take the response; leave notifications to be rejected (§3.6)."""
        if message.options.mask & 1 << OBSERVE:
            return False
        self.close(now)
        return True


class Watch:
    """The observation of one target, for all who want to know of it."""

    def __init__(
        self,
        owner: Observations,
        key: _Key,
        *,
        confirmable: bool,
        timeout: Optional[float],
        sink: Optional[Callable[[], ClientSink]],
        szx: int,
        patience: float,
    ) -> None:
        self.key = key
        self.sink = sink
        self.is_registering = False  # a registration is under way and nothing has come since it was sent
        self._owner = owner
        self._path, self._code, self._options, self._payload = key
        self._confirmable = confirmable
        self._timeout = timeout
        self._szx = szx
        self._patience = patience
        self._callers: dict[Observation, None] = {}
        self._exchange: Optional[Registration] = None
        self._timer: Optional[Timer] = None
        self._number: Optional[int] = None  # of the freshest notification, and when it came
        self._arrived_at = 0.0
        self._is_established = False  # the server has agreed to notify, at least once
        self._failing_since: Optional[float] = None
        self._pause = 0.0
        self._fetch: Optional[Transfer] = None
        self._fetching: Optional[Message] = None  # the first block of what is fetched
        self._queued: Optional[Message] = None  # that of what is to be fetched next
        self._last: Optional[Response] = None  # what the callers have
        self._candidate: Optional[Response] = None  # whose ETag the server has (§3.3.2)
        self._names_etag = True

    # Callers

    def joined(self, update: Update, now: float) -> Observation:
        """Add a caller; one that is late gets what the others have, though not from inside this call."""
        observation = Observation(self, update)
        self._callers[observation] = None
        last = self._last
        if last is not None:
            self._owner.timers.at(_AT_ONCE, lambda now: observation.tell(last, False))
        return observation

    def left(self, observation: Observation, now: float) -> None:
        """Take a caller out; the last one ends the observation at the server too."""
        self._callers.pop(observation, None)
        if not self._callers:
            exchange = self._exchange
            self._end(now)
            if exchange is not None:
                self._owner.deregister(exchange, self._code, self._request_options(DEREGISTER), self._payload, now)

    def _tell(self, outcome: Union[Response, CoapError], is_last: bool) -> None:
        for caller in list(self._callers):
            caller.tell(outcome, is_last)

    def _finish(self, outcome: Union[Response, CoapError], now: float) -> None:
        self._end(now)
        self._tell(outcome, True)
        self._callers.clear()

    def _end(self, now: float) -> None:
        self._owner.forget(self)
        self._cancel_fetch(now)
        if self._timer is not None:
            self._timer.cancel()
        if self._exchange is not None:
            self._exchange.close(now)
            self._exchange = None

    # Registration

    def start(self, now: float) -> None:
        """Register; raises NetworkError if there is no room for the request."""
        error = self._send(now)
        if error is not None:
            self._end(now)
            raise error

    def _register(self, now: float) -> None:
        error = self._send(now)
        if error is not None:
            self._retry(error, now)

    def _register_anew(self, now: float) -> None:
        """Register under a fresh token; whatever comes first is the freshest then."""
        if self._exchange is not None:
            self._exchange.close(now)
            self._exchange = None
        self._number = None
        self._register(now)

    def _send(self, now: float) -> Optional[NetworkError]:
        exchange = self._exchange
        if exchange is None:
            opened = self._owner.exchanges.prepare(Registration, self._path, self._failed, now)
            if isinstance(opened, NetworkError):
                return opened
            exchange = self._exchange = opened
            exchange.watch = self
        self.is_registering = True
        if exchange.outgoing is not None:  # the last one is still being repeated
            return None
        self._candidate = self._last if self.sink is None and self._names_etag else None
        return self._owner.exchanges.send(
            exchange,
            self._code,
            self._request_options(REGISTER),
            self._payload,
            confirmable=self._confirmable,
            timeout=self._timeout,
            now=now,
        )

    def _request_options(self, observe: int) -> Options:
        """Return the options of the first registration, but for the ETag: so a 2.03 may do (§3.3.1, §3.6)."""
        items = [*self._options, (OBSERVE, encode_uint(observe))]
        if self._szx != MAX_SZX:
            items.append((BLOCK2, Block(0, False, self._szx).encode()))
        if self._candidate is not None and self._candidate.etag is not None:
            items.append((ETAG, self._candidate.etag))
        return Options(items)

    def _failed(self, error: Answer, now: float) -> None:
        """The registration got no answer, or its path failed; the exchange is closed."""
        assert isinstance(error, CoapError)
        self._exchange = None
        self._retry(error, now)

    def _retry(self, error: CoapError, now: float, pause: float = 0.0) -> None:
        """Register again after a while, unless it is of no use or has been tried for long enough."""
        self.is_registering = False
        if self._failing_since is None:
            self._failing_since = now
        is_final = isinstance(error, PeerError) and not isinstance(error, ResetError)
        if not self._is_established or is_final or now - self._failing_since >= self._patience:
            self._finish(error, now)
            return
        drawn = self._owner.entropy.uniform(*JITTER)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE) if self._pause else drawn
        self._arm(now + max(pause, self._pause), self._register_anew)

    def _arm(self, when: float, callback: Callable[[float], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._owner.timers.at(when, callback)

    # Notifications

    def received(self, message: Message, now: float) -> None:
        """Take a response or a notification."""
        was_registering = self.is_registering
        self.is_registering = False
        if message.code >> 5 != 2:
            self._refused(message, now)
            return
        number = message.options.uint(OBSERVE)
        if number is not None:
            if not self._is_newer(number, now):
                if was_registering:  # an old notification, or a server that has begun to count anew
                    self._register_anew(now)
                return
            self._is_established = True
        self._number = number
        self._arrived_at = now
        self._failing_since = None
        self._pause = 0.0
        max_age = Response(options=message.options).max_age
        # §3.3.1; where the server does not notify (any more) that means to ask it from time to time.
        self._arm(now + max_age + self._owner.entropy.uniform(*JITTER), self._register)
        if message.code == codes.VALID:
            self._validated(message, now)
        elif self._fetch is not None and _has_more(message):
            self._queued = message  # the one under way first: else what changes fast would never be had whole
        else:
            self._cancel_fetch(now)
            self._begin_fetch(message, now)

    def _is_newer(self, number: int, now: float) -> bool:
        """Whether a notification was sent after the freshest so far (§3.4)."""
        freshest = self._number
        if freshest is None or now > self._arrived_at + ORDERED_FOR:
            return True
        if freshest < number:
            return number - freshest < _HALF
        return freshest > number and freshest - number > _HALF

    def _refused(self, message: Message, now: float) -> None:
        """Take a response that is no 2.xx: the server has no entry of us any more (§3.2)."""
        response = Response(message.code, message.payload, options=message.options)
        if message.code == codes.SERVICE_UNAVAILABLE and self._is_established:
            # RFC 7252 §5.9.3.4: to be asked again after Max-Age
            self._retry(NetworkError("the server is not available (5.03)"), now, response.max_age)
        else:
            self._finish(response, now)

    def _validated(self, message: Message, now: float) -> None:
        """Take a 2.03: the state is one that we have told the server that we have (§3.3.2)."""
        self._cancel_fetch(now)
        etag = message.options.get(ETAG)
        candidate = self._candidate
        if self._last is not None and etag == self._last.etag:
            return
        if candidate is None or etag != candidate.etag:
            self._names_etag = False  # of an earlier registration, perhaps: ask for it, and name none any more
            self._register_anew(now)
            return
        self._deliver(candidate, message)

    # Bodies

    def _begin_fetch(self, message: Message, now: float) -> None:
        self._fetching = message
        self._fetch = Transfer(
            self._owner.exchanges,
            self._path,
            self._code,
            list(self._options),
            b"",
            self._fetched,
            BodyOptions(None if self.sink is None else self.sink(), szx=self._szx),
            confirmable=self._confirmable,
            timeout=self._timeout,
            assembled_limit=self._owner.assembled_limit,
        )
        self._fetch.go_on_from(message, now)

    def _cancel_fetch(self, now: float) -> None:
        if self._fetch is not None:
            self._fetch.cancel(now)
        self._fetch = self._fetching = self._queued = None

    def _fetched(self, outcome: Union[Response, CoapError]) -> None:
        first, queued = self._fetching, self._queued
        self._fetch = self._fetching = self._queued = None
        assert first is not None
        if queued is not None:
            self._owner.timers.at(_AT_ONCE, lambda now: self._go_on(queued, now))
        elif not isinstance(outcome, Response) or not outcome.is_success:
            # It changed meanwhile, most likely: what it is now is had by asking.
            self._owner.timers.at(_AT_ONCE, lambda now: self._fetch_failed(outcome, now))
        if isinstance(outcome, Response) and outcome.is_success:
            self._deliver(outcome, first)

    def _go_on(self, queued: Message, now: float) -> None:
        if self._callers and self._fetch is None:
            self._begin_fetch(queued, now)

    def _fetch_failed(self, outcome: Union[Response, CoapError], now: float) -> None:
        if not self._callers or self._fetch is not None:
            return
        if not self._is_established:
            self._finish(outcome, now)
            return
        if not isinstance(outcome, NetworkError):
            outcome = NetworkError(f"the body of a notification could not be fetched: {outcome}")
        self._retry(outcome, now)

    def _deliver(self, response: Response, first: Message) -> None:
        """Tell the callers of a representation, with the options of the message that announced it."""
        options = first.options
        if first.code == codes.VALID:
            options = response.options
        delivered = Response(response.code, response.payload, options=options)
        self._last = delivered
        is_last = not self._is_established
        if is_last:
            self._owner.forget(self)
            self._owner.timers.at(_AT_ONCE, self._end)
        self._tell(delivered, is_last)
        if is_last:
            self._callers.clear()


class Observations:
    """All observations of one endpoint as a client, by target."""

    def __init__(self, exchanges: Exchanges, timers: Timers, entropy: Entropy, assembled_limit: int) -> None:
        self.exchanges = exchanges
        self.timers = timers
        self.entropy = entropy
        self.assembled_limit = assembled_limit
        self.watches: dict[_Key, Watch] = {}

    def __len__(self) -> int:
        return len(self.watches)

    def observe(
        self,
        path: Path,
        code: int,
        options: list[tuple[int, bytes]],
        payload: bytes,
        update: Update,
        now: float,
        *,
        confirmable: bool,
        timeout: Optional[float],
        sink: Optional[Callable[[], ClientSink]],
        szx: int,
        patience: float,
    ) -> Observation:
        """See `EndpointCore.observe`."""
        key = (path, code, Options(options).items, payload)
        watch = self.watches.get(key)
        if watch is not None:
            if sink is not None or watch.sink is not None:
                raise UsageError("this target is observed already, and a sink is not shared")
            return watch.joined(update, now)
        watch = Watch(self, key, confirmable=confirmable, timeout=timeout, sink=sink, szx=szx, patience=patience)
        self.watches[key] = watch
        observation = watch.joined(update, now)
        watch.start(now)
        return observation

    def forget(self, watch: Watch) -> None:
        """Take a watch that is over out of the table."""
        if self.watches.get(watch.key) is watch:
            del self.watches[watch.key]

    def deregister(self, exchange: Exchange, code: int, options: Options, payload: bytes, now: float) -> None:
        """Tell the server that its notifications are not wanted any more; if that gets lost, resets will (§3.6)."""
        goodbye = Deregistration(self.exchanges, exchange.peer, exchange.token, _ignore)
        self.exchanges.send(goodbye, code, options, payload, confirmable=True, timeout=None, now=now)


def _has_more(message: Message) -> bool:
    block = message.options.uint(BLOCK2)
    return block is not None and block & 8 != 0


def _ignore(answer: Answer, now: float) -> None:
    """What becomes of a deregistration is of no consequence."""
