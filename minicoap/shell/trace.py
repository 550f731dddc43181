"""Where the messages of a traced endpoint are told: standard error, as lines for people or for programs."""

from __future__ import annotations

import json
import sys
import time
from typing import Callable, Optional, TextIO

from minicoap.core.machine import DatagramMachine
from minicoap.core.trace import TracedMachine, TraceEvent
from minicoap.errors import UsageError

TEXT, JSON = "text", "json"
FORMS = (TEXT, JSON)

_ERASE_LINE = "\r\x1b[K"  # of a progress line that stands there


class MessageLog:
    """What `Endpoint(trace=...)` takes: writes each message to `stream`, standard error where None.

    ::

        async with Endpoint(trace=MessageLog()) as endpoint:
            await endpoint.get("coap://192.0.2.7/time")

    `form` is "text", with the seconds since the log was made before each line, or "json", a document a line with the
    time of day as well. `clock` is the one of the events' times, `wall` returns seconds since 1970. A stream that
    cannot be written to any more ends the log and nothing else. Raises UsageError for another form.
    """

    def __init__(
        self,
        form: str = TEXT,
        stream: Optional[TextIO] = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        if form not in FORMS:
            raise UsageError(f"{form!r} is no form of a message log; there are {' and '.join(FORMS)}")
        self._stream: Optional[TextIO] = sys.stderr if stream is None else stream
        self._is_json = form == JSON
        self._began_at = clock()
        self._clock = clock
        self._wall = wall
        self._before = _ERASE_LINE if self._stream is not None and self._stream.isatty() else ""

    def __call__(self, event: TraceEvent) -> None:
        """Write one."""
        stream = self._stream
        if stream is None:
            return
        elapsed = event.at - self._began_at
        if self._is_json:
            at = self._wall() - (self._clock() - event.at)
            line = json.dumps({"time": iso_time(at), "elapsed": round(elapsed, 6), **event.document()})
        else:
            line = f"{elapsed:9.3f} {event.text()}"
        try:
            stream.write(f"{self._before}{line}\n")
            stream.flush()
        except (OSError, ValueError):  # nobody reads it, or it was closed: the endpoint has other things to do
            self._stream = None


def traced(machine: DatagramMachine, form: str = TEXT) -> TracedMachine:
    """Return `machine`, for a shell of asyncio, with a `MessageLog` on standard error around it."""
    return TracedMachine(machine, MessageLog(form), time.monotonic)


def iso_time(at: float) -> str:
    """Return seconds since 1970 as ISO 8601, UTC, with microseconds."""
    whole, micros = divmod(round(at * 1_000_000), 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{micros:06d}Z"
