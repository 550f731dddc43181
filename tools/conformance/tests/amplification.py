"""How much a server sends to an address that may be forged: RFC 7252 §4.6 and §11.3, RFC 9175 §2.4."""

from __future__ import annotations

import ipaddress

from minicoap.codec import codes
from minicoap.codec.options import ECHO
from tools.conformance.model import ADVICE, CATALOGUE, SHOULD, Failure, Inconclusive, NotApplicable
from tools.conformance.peer import Peer, check

test = CATALOGUE.test
FACTOR = 3  # bytes out for each byte in (RFC 9175 §2.4)
SAFE = 136  # bytes that are never too many (RFC 9175 §2.4)
LARGEST = 1152  # bytes of a message, if nothing is known of the path (RFC 7252 §4.6)


def is_local(peer: Peer) -> bool:
    """Whether the server is on this machine, whose addresses nobody forges."""
    return ipaddress.ip_address(peer.local[0].partition("%")[0]).is_loopback


@test("AMPLIFICATION_01", section="RFC 7252 §11.3, RFC 9175 §2.4, §2.6", level=ADVICE)
def factor(peer: Peer) -> None:
    """What an address gets that was never heard of
    GET of /.well-known/core and of what is large, from a fresh port: not more than three times the request's bytes,
    or 136; more only after the client showed, by an Echo value, that it is where it says.
    """
    if is_local(peer):
        raise NotApplicable("the server is on this machine, whose addresses nobody forges")
    wanted: list[tuple[str, ...]] = [(".well-known", "core")]
    if peer.has("large"):
        wanted.append(peer.path("large"))
    for path in wanted:
        with peer.another() as other:
            sent = other.request(codes.GET, path)
            answer = other.answer(sent)
            if answer.code == codes.UNAUTHORIZED and answer.option(ECHO) is not None:
                continue
            received = len(answer.frame.data)
            check(
                received <= max(FACTOR * len(sent.frame.data), SAFE),
                f"an address that may be forged is sent {FACTOR} times the bytes that came from it at most, or {SAFE}; "
                f"{received} bytes answer {len(sent.frame.data)}", "RFC 9175 §2.4, §2.6", answer,
            )  # fmt: skip


@test("AMPLIFICATION_02", section="RFC 7252 §4.6", level=SHOULD)
def message_size(peer: Peer) -> None:
    """How large a message is
    GET of /.well-known/core and of what is large: no message of more than 1,152 bytes.
    """
    wanted: list[tuple[str, ...]] = [(".well-known", "core")]
    if peer.has("large"):
        wanted.append(peer.path("large"))
    for path in wanted:
        answer = peer.ask(codes.GET, path)
        length = len(answer.frame.data)
        if length <= LARGEST:
            continue
        if is_local(peer) or length <= 1472:
            raise Inconclusive(f"a message has {length} bytes; the path to this address may take that")
        raise Failure(
            f"a message fits into one IP packet: {LARGEST} bytes, if nothing is known of the path; {length} came",
            "RFC 7252 §4.6", answer.frame,
        )  # fmt: skip


@test("AMPLIFICATION_03", section="RFC 7252 §4.2, §4.3", needs=["readable"])
def one_for_one(peer: Peer) -> None:
    """How many messages answer one
    GET, non-confirmable: one response, unless it is repeated for want of an acknowledgement.
    """
    peer.control()
    sent = peer.request(codes.GET, "readable", type=1)
    found: set[int] = set()
    last = None
    while True:
        frame = peer.receive(
            lambda frame: frame.message is not None and frame.message.token == sent.token, max(peer.grace, 0.5)
        )
        if frame is None or frame.message is None:
            break
        found.add(frame.message.message_id)
        last = frame
        if frame.message.type == 0:
            peer.acknowledge(frame.message)
    if not found:
        raise Inconclusive("the request was not answered")
    if len(found) > 1:
        raise Failure("a request has one response", "RFC 7252 §5.2", last)
