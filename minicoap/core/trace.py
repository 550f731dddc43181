"""What an endpoint sends and receives, told message by message: a machine around a machine.

It sees what the machine within sees, above DTLS for example, reads it once more for itself and changes nothing. An
endpoint that is not traced has no such machine around it, so that tracing costs nothing when it is off.

A message is related to those before it: a response to its request by token, an acknowledgement by message ID, a
repetition to what it repeats. For that as much is remembered as `_REMEMBERED` says, as long as message IDs are good.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Callable, NamedTuple, Optional, Protocol

from minicoap.codec import codes
from minicoap.codec.message import ACK, CON, NON, RST, Message, decode
from minicoap.codec.options import OBSERVE, URI_PATH
from minicoap.core.description import describe, facts, printable, target
from minicoap.core.machine import DatagramMachine
from minicoap.core.parameters import TransmissionParameters
from minicoap.core.request import Path, SecurePath
from minicoap.core.secrecy import ENROLMENT, NO_REQUEST, is_enrolment, why_hidden
from minicoap.errors import MessageFormatError, NetworkError

SENT, RECEIVED = "sent", "received"
MESSAGE, MALFORMED, UNREACHABLE, ENDED = "message", "malformed", "unreachable", "ended"
SCHEMA = 1  # of `TraceEvent.document`; changes when a program that reads it would have to

_REMEMBERED = 4096  # messages, and requests
_LIFETIME = TransmissionParameters().exchange_lifetime  # seconds
_MALFORMED_SHOWN = 24  # bytes
_GROUP: Path = ("a group",)  # where members answer from
_PING = "a ping"
_MALFORMED = "what was malformed"


class TraceEvent(NamedTuple):
    """One message, or one error, of an endpoint that is traced.

    `at` is when, in seconds of the endpoint's clock; `kind` is "message", "malformed", "unreachable" or, of a secure
    session, "ended"; `direction` is "sent" or "received", `path` the other side. `data` is the datagram, `message` what
    it says; `error` why it says nothing, or why the other side cannot be reached. `repeats` is how often the same was
    seen before, `request` what a response answers or an acknowledgement is for, such as "GET /time", `elapsed` the
    seconds since that. `hidden` says why the payload must not be shown, `is_group` that it was sent to a group.
    """

    at: float
    kind: str
    direction: str
    path: Path
    data: bytes = b""
    message: Optional[Message] = None
    error: str = ""
    repeats: int = 0
    request: str = ""
    elapsed: Optional[float] = None
    hidden: str = ""
    is_group: bool = False

    def text(self) -> str:
        """Return it as a line for people."""
        arrow = "->" if self.direction == SENT else "<-"
        peer = peer_text(self.path)
        if self.kind == UNREACHABLE:
            return f"{arrow} {peer}  unreachable: {self.error}"
        if self.kind == ENDED:
            return f"{arrow} {peer}  {self.error}"
        if self.message is None:
            shown = self.data[:_MALFORMED_SHOWN].hex()
            more = " ..." if len(self.data) > _MALFORMED_SHOWN else ""
            size = len(self.data)
            return f"{arrow} {peer}  malformed: {self.error} | {size} byte{'s' if size != 1 else ''} {shown}{more}"
        notes = "; ".join(filter(None, (self._repetition(), self._relation(), "to the group" if self.is_group else "")))
        return f"{arrow} {peer}  {describe(self.message, self.hidden)}{f'  ({notes})' if notes else ''}"

    def document(self) -> dict[str, Any]:
        """Return it for programs, as `docs/minicoap/tracing.md` describes; all of it can be written as JSON."""
        found: dict[str, Any] = {
            "schema": SCHEMA,
            "event": self.kind,
            "direction": self.direction,
            "peer": _peer_facts(self.path),
        }
        if self.data:
            found["size"] = len(self.data)
        if self.message is not None:
            found["message"] = facts(self.message, self.hidden)
            found["repeats"] = self.repeats
        if self.error:
            found["error"] = self.error
        if self.request:
            found["request"] = self.request
        if self.elapsed is not None:
            found["after"] = round(self.elapsed, 6)
        if self.is_group:
            found["group"] = True
        return found

    def _repetition(self) -> str:
        if not self.repeats:
            return ""
        if self.direction == RECEIVED:
            return f"duplicate {self.repeats}"
        assert self.message is not None
        return f"retransmission {self.repeats}" if self.message.type == CON else f"sent again, {self.repeats}"

    def _relation(self) -> str:
        if not self.request:
            is_ping = self.message is not None and self.message.type == CON and not self.message.code
            return "ping" if is_ping else ""
        assert self.message is not None
        verb = ""
        if self.message.code == codes.EMPTY:
            is_pong = self.message.type == RST and self.request == _PING  # RFC 7252 §4.3
            verb = "answers " if is_pong else "acknowledges " if self.message.type == ACK else "rejects "
        return f"{verb}{self.request}{'' if self.elapsed is None else f', {_duration(self.elapsed)}'}"


Trace = Callable[[TraceEvent], None]
"""What an endpoint calls for each message while it is traced."""


class _GroupMember(Protocol):
    """A machine that hears what is sent to a group, as `EndpointCore` does."""

    def multicast_received(self, data: bytes, path: Path, now: float) -> None:
        """Take a datagram that was sent to a group."""


class _Seen:
    """A message of which later ones may be repetitions, and which they may acknowledge."""

    __slots__ = ("at", "repeats", "text")

    def __init__(self, at: float, text: str) -> None:
        self.at = at
        self.text = text
        self.repeats = 0


class _Asked:
    """A request, to which responses with its token belong."""

    __slots__ = ("at", "is_answered", "is_enrolment", "text")

    def __init__(self, at: float, text: str, is_enrolment: bool) -> None:
        self.at = at
        self.text = text
        self.is_enrolment = is_enrolment
        self.is_answered = False


class TracedMachine:
    """`machine` as it is, with `trace` called for each message before it gets there, or once it has been sent.

    `clock` returns seconds of the clock that the machine is run by: `time.monotonic` for asyncio's, in the simulator
    ``lambda: world.now``.
    """

    def __init__(self, machine: DatagramMachine, trace: Trace, clock: Callable[[], float]) -> None:
        self.machine = machine
        self._trace = trace
        self._clock = clock
        self._seen: OrderedDict[tuple[Any, ...], _Seen] = OrderedDict()
        self._asked: OrderedDict[tuple[Any, ...], _Asked] = OrderedDict()

    def datagram_received(self, data: bytes, path: Path, now: float) -> None:
        """Tell what arrived, and hand it on."""
        self._tell(data, path, RECEIVED)
        self.machine.datagram_received(data, path, now)

    def multicast_received(self, data: bytes, path: Path, now: float) -> None:
        """Tell what arrived for a group, and hand it on to a machine that is a member."""
        self._tell(data, path, RECEIVED, is_group=True)
        member: _GroupMember = self.machine  # type: ignore[assignment]  # joined by who knows that it is one
        member.multicast_received(data, path, now)

    def path_failed(self, path: Path, error: OSError, now: float) -> None:
        """Tell it, and hand it on."""
        text = printable(str(getattr(error, "strerror", None) or error))
        kind = ENDED if isinstance(error, NetworkError) else UNREACHABLE
        self._trace(TraceEvent(self._clock(), kind, RECEIVED, path, error=text))
        self.machine.path_failed(path, error, now)

    def datagrams_to_send(self) -> list[tuple[bytes, Path]]:
        """Return what is to be sent, having told it."""
        datagrams = self.machine.datagrams_to_send()
        for data, path in datagrams:
            self._tell(data, path, SENT)
        return datagrams

    def next_timeout(self) -> Optional[float]:
        """When the machine wants to be called."""
        return self.machine.next_timeout()

    def handle_timeout(self, now: float) -> None:
        """Have it do what is due."""
        self.machine.handle_timeout(now)

    def _tell(self, data: bytes, path: Path, direction: str, *, is_group: bool = False) -> None:
        at = self._clock()
        try:
            message = decode(data)
        except MessageFormatError as error:
            if error.header is not None:  # it may be rejected
                _remember(self._seen, (direction == SENT, *path[:2], error.header[2], True), _Seen(at, _MALFORMED))
            if data:  # what an empty datagram stands for, a shell has dealt with
                self._trace(TraceEvent(at, MALFORMED, direction, path, data, error=str(error), is_group=is_group))
            return
        seen = self._earlier(message, path, direction, at)
        asked = self._request_of(message, path, direction, at, is_new=seen is None)
        text, since = self._cause(message, path, direction, asked)
        self._trace(
            TraceEvent(
                at,
                MESSAGE,
                direction,
                path,
                data,
                message,
                repeats=0 if seen is None else seen.repeats,
                request=text,
                elapsed=None if since is None else at - since,
                hidden=_why_hidden(message, asked),
                is_group=is_group,
            )
        )

    def _earlier(self, message: Message, path: Path, direction: str, at: float) -> Optional[_Seen]:
        """Return what `message` repeats, having counted it; None if it is new, and remember it then."""
        begins = message.type in (CON, NON)
        # The IDs of both sides have nothing to do with each other; those of answers are the other side's.
        key: tuple[Any, ...] = (direction == SENT, *path[:2], message.message_id, begins)
        what = f"{message.code} {message.token.hex()}"
        seen = self._seen.get((*key, what))
        if seen is not None and at - seen.at < _LIFETIME:
            seen.repeats += 1
            return seen
        new = _Seen(at, _call(message))
        _remember(self._seen, (*key, what), new)
        if begins:
            _remember(self._seen, key, new)
        return None

    def _request_of(self, message: Message, path: Path, direction: str, at: float, *, is_new: bool) -> Optional[_Asked]:
        """Return the request that `message` is, or answers."""
        if codes.is_request(message.code):
            # What a group is asked, its members answer, each from its own address (RFC 7252 §8.2).
            where = _GROUP if direction == SENT and _is_group(_host(path)) else path[:2]
            key = (direction == SENT, where, message.token)
            asked = self._asked.get(key)
            if is_new or asked is None:
                segments = [value for number, value in message.options.items if number == URI_PATH]
                asked = _remember(self._asked, key, _Asked(at, _call(message), is_enrolment(segments)))
            return asked
        if not codes.is_response(message.code):
            return None
        for where in (path[:2], _GROUP):
            key = (direction != SENT, where, message.token)
            asked = self._asked.get(key)
            if asked is not None:
                self._asked.move_to_end(key)  # of an observation many notifications may come
                return asked
        return None

    def _cause(
        self, message: Message, path: Path, direction: str, asked: Optional[_Asked]
    ) -> tuple[str, Optional[float]]:
        """Return what `message` answers, acknowledges or rejects, and when that was; not with every later state."""
        if asked is not None:
            if codes.is_request(message.code):
                return "", None
            is_later_state = asked.is_answered and message.options.mask & 1 << OBSERVE
            asked.is_answered = True
            return asked.text, None if is_later_state else asked.at
        if message.type in (ACK, RST):
            cause = self._seen.get((direction != SENT, *path[:2], message.message_id, True))
            if cause is not None:
                return cause.text, cause.at
        return "", None


def peer_text(path: Path) -> str:
    """Return the other side as people write it: `192.0.2.7:5683`, `[2001:db8::1]:5683`; who it is, if proved."""
    host = _host(path)
    text = f"[{host}]:{path[1]}" if ":" in host else f"{host}:{path[1]}"
    if isinstance(path, SecurePath):
        return f"coaps {text}{f' {printable(path.identity.subject)}' if path.identity.subject else ''}"
    return text


def _peer_facts(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"host": _host(path), "port": path[1], "secure": isinstance(path, SecurePath)}
    if isinstance(path, SecurePath):
        found["identity"] = {"scheme": path.identity.scheme, "subject": path.identity.subject}
    return found


def _host(path: Path) -> str:
    host = str(path[0])
    if host.startswith("::ffff:") and "." in host:
        return host[len("::ffff:") :]
    scope = path[3] if ":" in host and len(path) > 3 and isinstance(path[3], int) else 0
    return f"{host}%{scope}" if scope else host


def _is_group(host: str) -> bool:
    """Whether `host` is a multicast address (RFC 1112 §4, RFC 4291 §2.7)."""
    if ":" in host:
        return host.lower().startswith("ff")
    first = host.partition(".")[0]
    return first.isdigit() and 224 <= int(first) <= 239


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _call(message: Message) -> str:
    """What a message is, for those that refer to it."""
    if not message.code:
        return _PING if message.type == CON else ""
    return f"{codes.code_name(message.code)}{target(message)}"


def _why_hidden(message: Message, asked: Optional[_Asked]) -> str:
    if not message.payload:
        return ""
    if asked is not None and asked.is_enrolment:
        return ENROLMENT
    if asked is None and codes.is_response(message.code):
        return NO_REQUEST
    return why_hidden(message)


def _remember(memory: OrderedDict[tuple[Any, ...], Any], key: tuple[Any, ...], value: Any) -> Any:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > _REMEMBERED:
        memory.popitem(last=False)
    return value
