"""Enrolment as operators steer it: which devices wait for a certificate, and the decision on one."""

from typing import Optional

import msgspec

from fleet.errors import InvalidError
from fleet.model.formats import convert, decode_unambiguous
from fleet.model.nodes import check_node_id

ACCEPT = "accept"
REJECT = "reject"
DECISIONS = (ACCEPT, REJECT)


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /enrolments`: `key` is the fingerprint, or its beginning, that was compared with the device's.

    With `replace` the device takes the place of the one that had its id.
    """

    action: str
    node_id: str
    key: Optional[str] = None
    replace: bool = False


class DecisionAnswer(msgspec.Struct, frozen=True):
    """To `POST /enrolments`; `serial` is the certificate's, where one was issued."""

    node_id: str
    status: str
    key: str
    serial: Optional[str] = None


class Waiting(msgspec.Struct, frozen=True):
    """A device that waits: `key` is the SHA-256 of its public key in hex, `replaces` whether its id is another's."""

    node_id: str
    key: str
    address: str
    asked_at: str
    seen_at: str
    replaces: bool


class EnrolmentsAnswer(msgspec.Struct, frozen=True):
    """To `GET /enrolments`, the first to ask first."""

    enrolments: tuple[Waiting, ...]


def parse_decision(payload: bytes, content_format: Optional[int]) -> Decision:
    """Read the payload of `POST /enrolments`. Raises FormatError and InvalidError."""
    decision = convert(decode_unambiguous(payload, content_format), Decision)
    if decision.action not in DECISIONS:
        raise InvalidError(f"unknown action {decision.action[:80]!r}; known are {', '.join(DECISIONS)}", "$.action")
    check_node_id(decision.node_id)
    if decision.key is not None and not decision.key.replace(":", "").isalnum():
        raise InvalidError("the fingerprint is no hex digits", "$.key")
    return decision
