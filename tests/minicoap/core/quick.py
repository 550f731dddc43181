"""A server whose resources give and take long bodies, and what was said by Q-Block (RFC 9177), a line a message."""

from __future__ import annotations

from typing import Callable

from minicoap.codec import codes
from minicoap.codec.message import ACK, CON, NON, RST, Message, decode
from minicoap.codec.missingblocks import decode_missing
from minicoap.codec.options import CONTENT_FORMAT, Q_BLOCK1, Q_BLOCK2
from minicoap.core.qblock import MISSING_BLOCKS, decode_blocks
from minicoap.core.request import Request, Response
from minicoap.core.resource import Resource, Site
from minicoap.simulate.pair import Pair

_TYPES = {CON: "CON", NON: "NON", ACK: "ACK", RST: "RST"}


def body(blocks: int, more: int = 0) -> bytes:
    """A body of so many blocks of 1024 bytes, and so many bytes more; each four bytes of it another."""
    return b"".join(n.to_bytes(4, "big") for n in range(blocks * 256 + more // 4))


class Store:
    """A resource that gives `data` and keeps what it is sent."""

    def __init__(self, data: bytes = b"", etag: bytes = b"v1") -> None:
        self.data = data
        self.etag = etag
        self.taken: list[bytes] = []

    def site(self) -> Site:
        return Site(
            Resource("/x", get=self._get, put=self._put, post=self._turn, fetch=self._turn, max_body=1 << 20),
        )

    def _get(self, request: Request) -> Response:
        return Response(payload=self.data, etag=self.etag)

    def _put(self, request: Request) -> Response:
        self.taken.append(request.payload)
        return Response(codes.CHANGED)

    def _turn(self, request: Request) -> Response:
        self.taken.append(request.payload)
        return Response(codes.CONTENT, request.payload[::-1])


def described(message: Message) -> str:
    """One message as §10 shows it: type, code, the blocks that its options name, and those that are missing."""
    options = message.options
    words = [_TYPES[message.type], codes.code_text(message.code)]
    if message.code < 32:
        words[1] = codes.METHOD_NAMES.get(message.code, "0.00")
    for name, number in (("QB1", Q_BLOCK1), ("QB2", Q_BLOCK2)):
        words += [f"{name}:{block.number}/{block.more:d}" for block in decode_blocks(options, number)]
    if options.uint(CONTENT_FORMAT) == MISSING_BLOCKS:
        words.append("missing " + ",".join(map(str, decode_missing(message.payload, 100))))
    return " ".join(words)


def flow(pair: Pair) -> list[str]:
    """All that was said after the question whether there is Q-Block, an X behind what was lost."""
    return [
        f"{datagram.source[0][0]} {described(decode(datagram.data))}{'' if datagram.arrivals else ' X'}"
        for datagram in list(pair.world.trace)[2:]
    ]


def loses(*lost: str) -> Callable[[bytes], bool]:
    """Return what, as `Link.admits`, loses each message that is described so, once for each time it is named."""
    left = list(lost)

    def admits(data: bytes) -> bool:
        words = described(decode(data))
        if words in left:
            left.remove(words)
            return False
        return True

    return admits
