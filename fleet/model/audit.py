"""The audit trail: who did what, when, from where, with what result."""

from typing import Optional

import msgspec

OPERATORS = "operators"
"""What operators did or tried: the rows that matter most."""
NODES = "nodes"
"""Nodes taken in, and their certificates."""
REFUSALS = "refusals"
"""Requests refused for who asked, counted together."""
POOLS = (OPERATORS, NODES, REFUSALS)

TEXT_LIMIT = 128
"""Characters of a text in a row at most; what is longer is cut."""


class Origin(msgspec.Struct, frozen=True):
    """Where a request came from: `who` is role and name, as in `operator alice`, or `loopback` or `anonymous`."""

    who: str
    host: str
    port: int
    method: str
    path: str


class AuditEntry(msgspec.Struct, frozen=True):
    """What was done at `at` (UTC ms): `what` as in `job.install`, to which `subject`; `result` is `ok` or the refusal.

    Each `pool` is bounded for itself, so that rows of one cannot push out another's. `count` is how often it was done.
    """

    at: int
    pool: str
    origin: Origin
    what: str
    subject: str
    result: str
    count: int = 1


class AuditView(msgspec.Struct, frozen=True):
    """A row of `GET /audit`; the time is by the server's clock."""

    at: str
    who: str
    host: str
    port: int
    method: str
    path: str
    what: str
    subject: str
    result: str
    count: int


class AuditAnswer(msgspec.Struct, frozen=True):
    """To `GET /audit`, newest first; `dropped` is how many rows of each kind are kept no more."""

    entries: tuple[AuditView, ...]
    dropped: dict[str, int]
    next: Optional[str]


def cut(text: str) -> str:
    """`text` as short as a row has it."""
    return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 1] + "…"
