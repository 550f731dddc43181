"""Who may have which certificate: the registrar decides on requests, the authority signs (RFC 7030 §1.1, RFC 9148).

A device is let in by a token, or by an operator who accepts it while it waits; whoever has a certificate renews it by
that. An id that once had a certificate is taken: another key gets it only where somebody said so. Requests that wait
are kept in memory alone, since anybody can send them, and their senders repeat them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple, Optional, Union

from fleet.errors import InvalidError, NotFoundError, RefusedError
from fleet.model.roles import NODE, Principal
from fleet.pki.authority import Authority
from fleet.pki.register import REVOKED, VALID, Issued
from fleet.pki.requests import CertificationRequest
from fleet.pki.tokens import token_hash
from minicoap.codec import codes

MOST_PENDING = 1024  # requests that wait for an operator
MOST_PENDING_OF_A_HOST = 64
POLL = 15  # seconds after which a device that waits asks again
PENDING_LIFETIME = 3600  # seconds without a repeat after which a request that waits, or was rejected, is forgotten
RENEWAL_PAUSE = 60  # seconds between two certificates that one party gets by renewal


class Pending(NamedTuple):
    """A request that waits for an operator, or was rejected by one. Times are UTC seconds."""

    request: CertificationRequest
    host: str
    asked_at: int
    seen_at: int
    is_rejected: bool = False


class Wait(NamedTuple):
    """The request is to be repeated after so many `seconds` (RFC 9148 §4.7)."""

    seconds: int
    reason: str


class Registrar:
    """Decides on requests for certificates of `authority`."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self._register = authority.register
        self._pending: OrderedDict[str, Pending] = OrderedDict()  # by key, the one longest silent first

    def enrol(self, request: CertificationRequest, host: str, at: int) -> Union[Issued, Wait]:
        """Return the certificate that was asked for from `host`, or how long to wait. Raises RefusedError.

        A repeat gets the same certificate, so that an answer that was lost costs nothing.
        """
        if request.principal.role != NODE:
            raise _refused(f"only nodes enrol; a certificate for a {request.principal.role} is made by fleet pki issue")
        if self.authority.key is None:
            return Wait(POLL, "the authority's key is locked; the server was started without its passphrase")
        known = self._known(request, at)
        if known is not None:
            return known
        if request.token is not None:
            return self._enrol_by_token(request, request.token, at)
        return self._wait(request, host, at)

    def renew(self, request: CertificationRequest, principal: Optional[Principal], at: int) -> Union[Issued, Wait]:
        """Return a new certificate for `principal`, proved by its last one (RFC 7030 §4.2.2). Raises RefusedError."""
        if principal is None:
            raise _refused("a certificate is renewed by the certificate that one has")
        if request.principal != principal:
            raise _refused("a certificate is renewed for the name that it has, and no other")
        if self.authority.key is None:
            return Wait(POLL, "the authority's key is locked; the server was started without its passphrase")
        with self._register.change():
            ours = self._register.of(principal)
            valid = [issued for issued in ours if issued.state(at) == VALID]
            if not valid:
                raise _refused("the certificate is revoked, or not of this authority")
            self._refuse_revoked_key(request)
            latest = valid[0]
            if latest.key == request.key and at - latest.issued_at < (latest.not_after - latest.issued_at) // 2:
                return latest
            wait = latest.issued_at + RENEWAL_PAUSE - at
            if latest.issued_for.startswith("renewal") and wait > 0:
                return Wait(wait, "this certificate was renewed a moment ago")
            return self.authority.issue(principal, request.public_key, at, f"renewal of {latest.serial}")

    # What waits

    def pending(self, at: int) -> list[Pending]:
        """The requests that wait for an operator, the first to ask first."""
        self._forget(at)
        return sorted(
            (pending for pending in self._pending.values() if not pending.is_rejected),
            key=lambda pending: (pending.asked_at, pending.request.key),
        )

    def has_predecessor(self, request: CertificationRequest) -> bool:
        """Whether another key had a certificate in this name: the device would take another's place."""
        return any(issued.key != request.key for issued in self._register.of(request.principal))

    def accept(self, node_id: str, at: int, by: str, *, key: Optional[str] = None, replace: bool = False) -> Issued:
        """Issue the certificate that `node_id` waits for; the device fetches it by its next repeat.

        `key` is the fingerprint that was compared, or its beginning; needed where several devices ask for one id.
        `replace` lets the device take the place of one that had the id. Raises NotFoundError, RefusedError,
        InvalidError if several ask, UsageError if nothing can be signed.
        """
        request = self._chosen(node_id, at, key).request
        with self._register.change():
            self._refuse_revoked_key(request)
            if self.has_predecessor(request) and not replace:
                raise RefusedError(
                    f"{node_id} had a certificate for another key: if this device is to take its place, replace it",
                    codes.CONFLICT,
                )
            superseded = self._supersede(request, at) if replace else []
            issued = self.authority.issue(request.principal, request.public_key, at, f"accepted by {by}")
        del self._pending[request.key]
        if superseded:
            self.authority.write_revocation_list(at)
        return issued

    def reject(self, node_id: str, at: int, *, key: Optional[str] = None) -> Pending:
        """Refuse what `node_id` waits for. Raises NotFoundError, and InvalidError if several ask."""
        pending = self._chosen(node_id, at, key)
        self._pending[pending.request.key] = pending._replace(is_rejected=True, seen_at=at)
        self._pending.move_to_end(pending.request.key)
        return pending

    # Rules

    def _known(self, request: CertificationRequest, at: int) -> Optional[Issued]:
        """The certificate that this very key got before in this name."""
        self._refuse_revoked_key(request)
        for issued in self._register.of_key(request.key):
            if issued.principal == request.principal and issued.state(at) == VALID:
                return issued
        return None

    def _enrol_by_token(self, request: CertificationRequest, token: str, at: int) -> Issued:
        with self._register.change():
            stored = self._register.token(token_hash(token))
            if stored is None:
                raise _refused("this enrolment token is unknown, or used up")
            if stored.expires_at < at:
                raise _refused("this enrolment token has expired; make a new one by fleet pki token")
            if stored.uses_left < 1:
                raise _refused("this enrolment token is used up; make a new one by fleet pki token")
            if stored.node_id is not None and stored.node_id != request.principal.name:
                raise _refused("this enrolment token is for another node")
            if self.has_predecessor(request) and not stored.replaces:
                raise _refused(
                    f"{request.principal.name} has a certificate for another key: choose another id, or have an "
                    f"operator say fleet pki replace {request.principal.name}"
                )
            self._register.spend(stored.hash)
            superseded = self._supersede(request, at) if stored.replaces else []
            issued = self.authority.issue(request.principal, request.public_key, at, f"token {stored.label}")
        self._pending.pop(request.key, None)
        if superseded:
            self.authority.write_revocation_list(at)
        return issued

    def _wait(self, request: CertificationRequest, host: str, at: int) -> Wait:
        self._forget(at)
        known = self._pending.get(request.key)
        if known is not None and known.is_rejected:
            raise _refused("an operator rejected this device")
        if known is None:
            of_host = sum(pending.host == host for pending in self._pending.values())
            if len(self._pending) >= MOST_PENDING or of_host >= MOST_PENDING_OF_A_HOST:
                return Wait(4 * POLL, "too many devices wait for an operator already")
            known = Pending(request, host, at, at)
        self._pending[request.key] = known._replace(request=request, host=host, seen_at=at)
        self._pending.move_to_end(request.key)
        return Wait(POLL, "waits for an operator: fleet nodes accept")

    def _forget(self, at: int) -> None:
        while self._pending:
            key, longest_silent = next(iter(self._pending.items()))
            if longest_silent.seen_at + PENDING_LIFETIME >= at:
                return
            del self._pending[key]

    def _chosen(self, node_id: str, at: int, key: Optional[str]) -> Pending:
        wanted = (key or "").replace(":", "").lower()
        asking = [pending for pending in self.pending(at) if pending.request.principal.name == node_id]
        found = [pending for pending in asking if pending.request.key.startswith(wanted)]
        if not found:
            beside = f" with this key, but {len(asking)} with another" if asking else ""
            raise NotFoundError(f"no device waits to be {node_id[:80]!r}{beside}")
        if len(found) > 1:
            raise InvalidError(f"{len(found)} devices ask for {node_id}: say which by its key's fingerprint", "$.key")
        return found[0]

    def _supersede(self, request: CertificationRequest, at: int) -> list[Issued]:
        others = [issued for issued in self._register.of(request.principal) if issued.key != request.key]
        return self.authority.mark_revoked(others, at, "superseded")

    def _refuse_revoked_key(self, request: CertificationRequest) -> None:
        if any(issued.state(0) == REVOKED for issued in self._register.of_key(request.key)):
            raise _refused("a certificate of this key was revoked; the device has to make a new key")


def _refused(text: str) -> RefusedError:
    return RefusedError(text, codes.FORBIDDEN)
