"""What the tests of Observe share: a resource whose state changes, and messages of observers."""

from __future__ import annotations

from typing import Any, Optional

from minicoap.codec import codes
from minicoap.codec.message import ACK, CON, Message
from minicoap.codec.options import OBSERVE, encode_uint
from minicoap.core.request import Path, Request, Response
from minicoap.core.resource import Resource, Site
from tests.minicoap.core.solo import PEER, Solo, con, message

REGISTER = ((OBSERVE, b""),)
DEREGISTER = ((OBSERVE, b"\x01"),)


class State:
    """An observable resource at /state; each change is a new number."""

    def __init__(self, path: str = "/state", **resource: Any) -> None:
        self.value = 0
        self.size = 0  # bytes to fill the body up to
        self.code = codes.CONTENT
        self.content_format: Optional[int] = 0
        self.max_age: Optional[int] = None
        self.etags = False
        self.asked: list[Request] = []
        self.path = path
        self.site = Site(Resource(path, get=self.get, put=self.put, observable=True, **resource))

    def body(self) -> bytes:
        return (b"%d;" % self.value).ljust(self.size, b".")

    def get(self, request: Request) -> Response:
        self.asked.append(request)
        etag = b"v%d" % self.value if self.etags else None
        return Response(self.code, self.body(), self.content_format, max_age=self.max_age, etag=etag)

    def put(self, request: Request) -> Response:
        self.change()
        return Response(codes.CHANGED)

    def change(self) -> None:
        self.value += 1
        self.site.changed(self.path)


def register(message_id: int = 1, token: bytes = b"t", *uri_path: str, **more: Any) -> Message:
    options = (*REGISTER, *more.pop("options", ()))
    return con(more.pop("code", codes.GET), message_id, token, *(uri_path or ("state",)), options=options, **more)


def deregister(message_id: int = 2, token: bytes = b"t", *uri_path: str) -> Message:
    return con(codes.GET, message_id, token, *(uri_path or ("state",)), options=DEREGISTER)


def number(notification: Message) -> Optional[int]:
    return notification.options.uint(OBSERVE)


def value(notification: Message) -> int:
    return int(notification.payload.split(b";")[0])


def notify(
    type: int, message_id: int, token: bytes, sequence: Optional[int], payload: bytes = b"", **more: Any
) -> Message:
    """A notification, or a response without a number."""
    options = list(more.pop("options", ()))
    if sequence is not None:
        options.append((OBSERVE, encode_uint(sequence)))
    return message(type, more.pop("code", codes.CONTENT), message_id, token, options=tuple(options), payload=payload)


def acknowledging(solo: Solo, seconds: float, path: Path = PEER) -> list[tuple[float, Message]]:
    """Pass time as an observer that acknowledges what is confirmable at once; return what it was sent, and when."""
    end = solo.now + seconds
    sent: list[tuple[float, Message]] = []
    while (due := solo.core.next_timeout()) is not None and due <= end:
        solo.now = max(solo.now, due)
        for when, notification in solo.pass_time(0.0):
            sent.append((when, notification))
            if notification.type == CON:
                solo.put(message(ACK, 0, notification.message_id), path)
    solo.now = end
    return sent
