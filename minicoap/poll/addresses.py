"""Names are looked up in a thread: the system's resolver may take half a minute, and cannot be waited for in poll."""

from __future__ import annotations

import socket
import threading
from typing import Callable, Union

from minicoap.core.request import Path
from minicoap.errors import CoapError
from minicoap.poll.loop import Loop
from minicoap.shell.addresses import family_to_look_up, for_socket, looked_up, parse_literal, unknown_host


def resolve(host: str, port: int, family: int, loop: Loop, done: Callable[[Union[Path, CoapError]], None]) -> None:
    """Call `done` in the loop with where `host` is, best first, for a socket of `family`.

    Or with PathError where a name has no address, UsageError for an address that the socket cannot reach.
    """
    try:
        literal = parse_literal(host, port, family)
    except CoapError as error:
        loop.call_at(loop.time(), done, error)
        return
    if literal is not None:
        loop.call_at(loop.time(), done, literal)
        return

    def look_up() -> None:
        outcome: Union[Path, CoapError]
        try:
            found = socket.getaddrinfo(host, port, family=family_to_look_up(family), type=socket.SOCK_DGRAM)
            outcome = for_socket(looked_up(host, found), family)[0]
        except OSError as error:
            outcome = unknown_host(host, error)
        except CoapError as error:
            outcome = error
        loop.call_soon_threadsafe(done, outcome)

    # Nobody waits for it at the end of the process.
    threading.Thread(target=look_up, name=f"look up {host}", daemon=True).start()
