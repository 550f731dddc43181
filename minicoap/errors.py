"""Errors of this package: you called it wrongly, the peer misbehaved, the network failed, or your storage did.

Responses of class 4.xx and 5.xx are responses, not exceptions.
"""

from __future__ import annotations

from typing import Optional


class CoapError(Exception):
    """Root of everything this package raises on purpose."""


class UsageError(CoapError):
    """The caller passed something that cannot work; the text names it and the remedy."""


class PeerError(CoapError):
    """The other side broke the protocol."""


class MessageFormatError(PeerError):
    """The datagram is no well-formed CoAP message (RFC 7252 §3).

    `header` holds (type, code, message_id) where the first four bytes could be read, so that the message layer can
    reject a confirmable message with the matching Reset (§4.2); None where even that was impossible.
    """

    def __init__(self, text: str, header: Optional[tuple[int, int, int]] = None) -> None:
        super().__init__(text)
        self.header = header


class OptionError(PeerError):
    """An option cannot be used; `code` is the response code to answer with (RFC 7252 §5.4)."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class ResetError(PeerError):
    """The peer answered a message with Reset: it lacks the context to process it (RFC 7252 §4.2)."""


class BodyError(PeerError):
    """A block-wise body cannot be completed: it changed under way, has a hole or is too large (RFC 7959)."""


class NetworkError(CoapError):
    """No usable answer came back through the network."""


class RequestTimeout(NetworkError):
    """Neither acknowledgement nor response arrived in time (RFC 7252 §4.2, §4.8)."""


class PathError(NetworkError):
    """The operating system reported that the path does not work (ICMP, EMSGSIZE); `error` is its OSError."""

    def __init__(self, text: str, error: OSError) -> None:
        super().__init__(text)
        self.error = error


class SecurityError(NetworkError, OSError):
    """DTLS could not be agreed on, or has ended: the text says why, and what to do where that is known.

    `refused_by` is OURSELVES or PEER where that is because one does not accept what the other shows, else None.
    """

    OURSELVES = "ourselves"
    PEER = "peer"

    refused_by: Optional[str] = None


class StorageError(CoapError):
    """The caller's own source or sink of a body failed; `error` is its OSError."""

    def __init__(self, text: str, error: OSError) -> None:
        super().__init__(f"{text}: {error}")
        self.error = error
