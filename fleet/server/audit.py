"""The audit trail's way into the ledger: whose command it is, and what is no command of the ledger.

Refusals come as fast as somebody likes to send requests. They are counted in memory, by who, where from, method,
resource and code, and written once a minute: a flood costs some rows a minute, in a pool of their own.
"""

from __future__ import annotations

import logging
from typing import Optional, Union

from fleet.host.addresses import is_loopback, plain_host
from fleet.host.clock import Clock
from fleet.model.audit import NODES, OPERATORS, REFUSALS, AuditEntry, Origin, cut
from fleet.server.access import STRANGER, Access
from fleet.server.commands import OK, Outcome, RecordAudit
from fleet.server.store.interface import Ledger
from minicoap.codec import codes
from minicoap.core.request import Request, SecurePath, address_of

logger = logging.getLogger(__name__)

FLUSH_INTERVAL = 60.0
"""Seconds from the first refusal to when it is written, with those that came meanwhile."""
KEYS_LIMIT = 64
"""Refusals told apart between two writes; the others are counted together."""
ACCESS = "access"
_OTHERS = Origin("others", "", 0, "", "")


class AuditTrail:
    """Who asked, for the commands of a server, and rows about what is no command."""

    def __init__(self, ledger: Ledger, clock: Clock, access: Access) -> None:
        self._ledger = ledger
        self._clock = clock
        self._access = access
        self._refusals: dict[tuple[Origin, str, int], AuditEntry] = {}
        self._flush_at: Optional[float] = None

    def origin(self, request: Request) -> Origin:
        """Return who sent `request`, and from where."""
        return self._origin(request, cut("/" + "/".join(request.options.path)))

    def record(self, request: Request, what: str, subject: str, result: Union[str, int] = OK) -> None:
        """Write that an operator did or tried something; `result` is `ok` or the code of the refusal."""
        self._submit([self._entry(OPERATORS, self.origin(request), what, subject, result)])

    def certified(self, request: Request, what: str, subject: str) -> None:
        """Write that a device got a certificate."""
        self._submit([self._entry(NODES, self.origin(request), what, subject, OK)])

    def revoked(self, serial: str) -> None:
        """Write that a certificate was seen to be revoked, by whoever works on the register of this machine."""
        origin = Origin("this machine", "", 0, "", "")
        self._submit([self._entry(OPERATORS, origin, "certificate.revoke", serial, OK)])

    def refused(self, request: Request, resource: str, code: int, what: str = ACCESS) -> None:
        """Count a refusal; `resource` is the path's template, empty where there is none: what was typed may be secret.

        Never waits and never fails, whatever the flood.
        """
        # A port says little of who it is, and there are many of one host.
        origin = self._origin(request, resource)
        key = (Origin(origin.who, origin.host, 0, origin.method, resource), what, code)
        known = self._refusals.get(key)
        if known is None and len(self._refusals) >= KEYS_LIMIT:
            key = (_OTHERS, ACCESS, 0)
            known = self._refusals.get(key)
            origin, what, code = _OTHERS, ACCESS, 0
        if known is None:
            result = codes.code_text(code) if code else "refused"
            self._refusals[key] = self._entry(REFUSALS, origin, what, "", result)
        else:
            entry = known
            self._refusals[key] = AuditEntry(
                entry.at, REFUSALS, entry.origin, entry.what, "", entry.result, entry.count + 1
            )
        if self._flush_at is None:
            self._flush_at = self._clock.monotonic() + FLUSH_INTERVAL

    def next_due_at(self) -> Optional[float]:
        """When `flush` is due, in seconds of the monotonic clock; None while there is nothing to write."""
        return self._flush_at

    def flush(self) -> None:
        """Write the refusals that were counted."""
        self._flush_at = None
        if self._refusals:
            entries, self._refusals = list(self._refusals.values()), {}
            self._submit(entries)

    def _submit(self, entries: list[AuditEntry]) -> None:
        def done(outcome: Outcome) -> None:
            if not outcome.is_ok:
                for entry in entries:
                    logger.error("not in the audit trail: %s of %s: %s", entry.what, entry.origin.who, outcome.detail)

        self._ledger.submit(RecordAudit(entries[0].at, tuple(entries)), done)

    def _entry(self, pool: str, origin: Origin, what: str, subject: str, result: Union[str, int]) -> AuditEntry:
        told = codes.code_text(result) if isinstance(result, int) else result
        return AuditEntry(int(self._clock.wall() * 1000), pool, origin, what, cut(subject), told)

    def _origin(self, request: Request, path: str) -> Origin:
        address = address_of(request.path)
        host, port = plain_host(str(address[0])), int(address[1])
        method = codes.METHOD_NAMES.get(request.code, codes.code_text(request.code))
        return Origin(self._who(request, host), cut(host), port, method, path)

    def _who(self, request: Request, host: str) -> str:
        if not isinstance(request.path, SecurePath):
            return "loopback" if is_loopback(host) else "anonymous"
        party = self._access.party(request)
        if party.role == STRANGER and party.is_anonymous:
            return "anonymous"
        return cut(f"{party.role} {party.name}")
