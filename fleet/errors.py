"""Errors of the fleet: you called it wrongly, the other side's message is bad, or nothing came back.

The text of each names what is wrong and what to do about it; it is shown to people as it stands.
"""

from __future__ import annotations

from typing import Optional, Sequence


class FleetError(Exception):
    """Root of everything this package raises on purpose."""


class UsageError(FleetError):
    """The caller passed something that cannot work; the text names it and the remedy."""


class PeerError(FleetError):
    """What the other side sent, or said, is the problem."""


class FormatError(PeerError):
    """The payload is no JSON or CBOR of the accepted kind (4.00)."""


class InvalidError(PeerError):
    """The payload is well-formed, but a field of it cannot be accepted (4.22); `field` is its path, `$.packages[0]`."""

    def __init__(self, text: str, field: str) -> None:
        super().__init__(text)
        self.field = field


class NotFoundError(PeerError):
    """The job, node or artifact named does not exist (4.04)."""


class IllegalMoveError(PeerError):
    """A job or an execution in `state` cannot do what was asked; `legal` lists what it can (4.09)."""

    def __init__(self, text: str, state: str, legal: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.state = state
        self.legal = tuple(legal)


class RefusedError(PeerError):
    """The fleet answered with an error response; `code` is its CoAP code, `field` what it complained about, if said."""

    def __init__(self, text: str, code: int, field: Optional[str] = None) -> None:
        super().__init__(text)
        self.code = code
        self.field = field


class DistrustError(PeerError):
    """One of both sides of a connection does not accept the other's certificate."""


class NetworkError(FleetError):
    """No usable answer came back through the network."""
