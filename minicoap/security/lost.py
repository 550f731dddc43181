"""A session that the other side does not have any more, which it says by an alert of its own (RFC 5246 §7.2.1).

A server that was started anew, or had to make room, cannot read what its former clients send, and who sends messages
that are not to be confirmed would not notice for long. So whoever gets data of a session that it does not have answers
by the alert that one is closed. Nobody can protect that alert: it is believed no further than that the session is worth
being resumed, beside which the present one goes on until the new one is open. An attacker who forges it has a client
resume its session once in a while, and no more; data that is answered is longer than its answer, alerts are never
answered.
"""

from __future__ import annotations

from typing import Optional

_ALERT, _APPLICATION_DATA = 21, 23  # content types (RFC 5246 §6.2.1)
_EPOCH = slice(3, 5)  # of a record (RFC 6347 §4.1): 0 before there are keys
_NO_KEYS = b"\0\0"

# DTLS 1.2, no keys, record 0, two bytes: a warning, close_notify.
NOTICE = bytes((_ALERT, 0xFE, 0xFD)) + bytes(8) + b"\x00\x02\x01\x00"

NOTICES_A_SECOND = 256  # to all; further senders hear of it at their next record
DOUBTS_EVERY = 60.0  # seconds between resumptions that a notice leads to


def is_notice(data: bytes) -> bool:
    """Whether a datagram says, unprotected, that there is no session."""
    return data == NOTICE


class Notices:
    """Decides who is told that its session is lost."""

    def __init__(self) -> None:
        self._second = -1.0
        self._count = 0

    def answer(self, data: bytes, now: float) -> Optional[bytes]:
        """Return the answer to a datagram that belongs to no session; None for silence."""
        if len(data) <= len(NOTICE) or data[0] != _APPLICATION_DATA or data[_EPOCH] == _NO_KEYS:
            return None
        if now >= self._second + 1.0:
            self._second, self._count = now, 0
        self._count += 1
        return NOTICE if self._count <= NOTICES_A_SECOND else None
