"""FETCH, PATCH and iPATCH: RFC 8132. The tester cannot know what a resource takes; a role's path says what it is for.

`fetchable` takes a FETCH with a body in text/plain; `patchable` a PATCH and an iPATCH in application/merge-patch+json,
and has a representation in JSON.
"""

from __future__ import annotations

from minicoap.codec import codes
from minicoap.codec.contentformats import TEXT
from tools.conformance.frames import Frame
from tools.conformance.model import CATALOGUE, MUST, SHOULD, Failure, Inconclusive, NotApplicable
from tools.conformance.peer import Answer, Peer, Rejected, check, check_success

test = CATALOGUE.test
MERGE_PATCH = 52  # application/merge-patch+json (RFC 8132 §6)
UNASSIGNED_FORMAT = 65001


@test("METHOD_01", section="RFC 8132 §2, RFC 7252 §5.8", needs=["readable"])
def fetch_or_not(peer: Peer) -> None:
    """FETCH of what may not have it
    FETCH of what can be read, in a Content-Format that nobody has: 4.05, or 4.15 where FETCH is known.
    """
    peer.control()
    rule = "a method that is not known, here FETCH, is answered 4.05"
    try:
        answer = peer.ask(codes.FETCH, "readable", payload=b"?", content_format=UNASSIGNED_FORMAT)
    except Rejected as error:
        raise Failure(f"{rule} (a reset came)", "RFC 7252 §5.8", error.frame) from error
    if codes.is_success(answer.code):
        check(
            answer.code in (codes.CONTENT, codes.VALID),
            f"FETCH is not carried out as another method ({codes.code_name(answer.code)} came)", "RFC 8132 §2", answer,
        )  # fmt: skip


@test("METHOD_02", section="RFC 8132 §2", needs=["fetchable"])
def fetch(peer: Peer) -> None:
    """FETCH
    FETCH with a body: 2.05, confirmable and not. The same again: 2.05 again, since FETCH is safe.
    """
    for _ in range(2):
        answer = peer.ask(codes.FETCH, "fetchable", payload=b"conformance", content_format=TEXT)
        if answer.code == codes.METHOD_NOT_ALLOWED:
            raise NotApplicable("the resource has no FETCH")
        check_success(answer, codes.CONTENT, rule="a FETCH that is carried out is answered 2.05", section="RFC 8132 §2")


@test("METHOD_03", section="RFC 8132 §2.2", level=SHOULD, needs=["fetchable"])
def fetch_unsupported(peer: Peer) -> None:
    """FETCH with a body of a Content-Format that nobody has
    FETCH with Content-Format 65001: an error, such as 4.15.
    """
    known = peer.ask(codes.FETCH, "fetchable", payload=b"conformance", content_format=TEXT)
    if known.code != codes.CONTENT:
        raise Inconclusive(f"a FETCH in text/plain is answered {codes.code_name(known.code)}")
    answer = peer.ask(codes.FETCH, "fetchable", payload=b"conformance", content_format=UNASSIGNED_FORMAT)
    if codes.is_success(answer.code):
        raise Inconclusive("the resource takes any Content-Format")
    check(
        codes.is_client_error(answer.code),
        f"a body of a Content-Format that is not supported is the client's error ({codes.code_name(answer.code)} came)",
        "RFC 8132 §2.2",
        answer,
    )


def state(peer: Peer) -> Answer:
    """GET what can be patched."""
    answer = peer.ask(codes.GET, "patchable")
    if answer.code != codes.CONTENT:
        raise Inconclusive(f"the resource is answered {codes.code_name(answer.code)}")
    return answer


def patched(peer: Peer, code: int, body: bytes) -> Answer:
    """Send a patch, and judge that its answer is one for patches."""
    answer = peer.ask(code, "patchable", payload=body, content_format=MERGE_PATCH)
    if answer.code == codes.METHOD_NOT_ALLOWED:
        raise NotApplicable(f"the resource has no {codes.METHOD_NAMES[code]}")
    check_success(
        answer, codes.CHANGED, codes.CREATED, rule="a patch that is carried out is answered 2.04, or 2.01",
        section="RFC 8132 §3.3",
    )  # fmt: skip
    return answer


@test("METHOD_04", section="RFC 8132 §3, §3.3", needs=["patchable"])
def patch(peer: Peer) -> None:
    """PATCH and iPATCH
    PATCH with a member that changes: 2.04, and the representation has it. iPATCH likewise.
    The same iPATCH again changes nothing.
    """
    for code in (codes.PATCH, codes.IPATCH):
        value = peer.token(4).hex()
        last: Frame = patched(peer, code, b'{"conformance": "%s"}' % value.encode()).frame
        first = state(peer)
        if value.encode() not in first.payload:
            if state(peer).payload != first.payload:
                raise Inconclusive("the resource changes by itself")
            raise Failure("a patch that is answered by a success is carried out", "RFC 8132 §3", last)
    again = patched(peer, codes.IPATCH, b'{"conformance": "%s"}' % value.encode())
    if state(peer).payload != first.payload:
        raise Failure("the same iPATCH again changes nothing: it is idempotent", "RFC 8132 §3", again.frame)


@test("METHOD_05", section="RFC 8132 §3, §3.4", level=SHOULD, needs=["patchable"])
def broken_patch(peer: Peer) -> None:
    """A patch that cannot be carried out
    PATCH with a body that is no JSON: an error, and the representation is as it was.
    """
    before = state(peer)
    answer = peer.ask(codes.PATCH, "patchable", payload=b'{"conformance": "half', content_format=MERGE_PATCH)
    if answer.code == codes.METHOD_NOT_ALLOWED:
        raise NotApplicable("the resource has no PATCH")
    check(
        not codes.is_success(answer.code), "a patch that cannot be understood is not answered by a success",
        "RFC 8132 §3.4", answer,
    )  # fmt: skip
    after = state(peer)
    if after.payload != before.payload:
        if b"half" not in after.payload:
            raise Inconclusive("the resource changes by itself")
        rule = "a patch is carried out as a whole, or not at all"
        raise Failure(rule, "RFC 8132 §3", answer.frame, level=MUST)


@test("METHOD_06", section="RFC 8132 §3.4", level=SHOULD, needs=["patchable"])
def patch_unsupported(peer: Peer) -> None:
    """A patch in a Content-Format that nobody has
    PATCH with Content-Format 65001: an error, such as 4.15, and the representation is as it was.
    """
    before = state(peer)
    answer = peer.ask(codes.PATCH, "patchable", payload=b"{}", content_format=UNASSIGNED_FORMAT)
    if answer.code == codes.METHOD_NOT_ALLOWED:
        raise NotApplicable("the resource has no PATCH")
    check(
        not codes.is_success(answer.code),
        "a patch of a Content-Format that is not supported is not answered by a success",
        "RFC 8132 §3.4",
        answer,
    )
    if state(peer).payload != before.payload:
        raise Inconclusive("the resource changed; by itself, perhaps")
