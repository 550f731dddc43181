"""The register of an authority: every certificate that it issued, what was revoked, and the enrolment tokens.

It is a database of its own beside the authority's key, since two kinds of process write it, the server (enrolment,
renewal) and `fleet pki` (all else), and neither must need the other to run. SQLite keeps them apart and what they wrote
through a power cut: a change is there whole or not at all. `is_changed` tells one process that another wrote, so that
a revocation takes effect at once. Times are UTC seconds, as in certificates.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Optional

from fleet.errors import UsageError
from fleet.model.roles import Principal
from fleet.pki.keys import PRIVATE

VERSION = 1
_PATIENCE = 10.0  # seconds that one process waits for another's change
_SCHEMA = """
CREATE TABLE certificates (
    serial TEXT PRIMARY KEY, role TEXT NOT NULL, name TEXT NOT NULL, key TEXT NOT NULL,
    not_before INTEGER NOT NULL, not_after INTEGER NOT NULL, issued_at INTEGER NOT NULL, issued_for TEXT NOT NULL,
    der BLOB NOT NULL, revoked_at INTEGER, reason TEXT NOT NULL DEFAULT ''
);
CREATE INDEX certificates_by_name ON certificates (role, name, issued_at);
CREATE INDEX certificates_by_key ON certificates (key);
CREATE INDEX certificates_revoked ON certificates (not_after) WHERE revoked_at IS NOT NULL;
CREATE TABLE tokens (
    hash TEXT PRIMARY KEY, node_id TEXT, replaces INTEGER NOT NULL, made_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL, uses_left INTEGER NOT NULL
);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT INTO counters VALUES ('revocation_list', 0);
PRAGMA user_version = 1;
"""
_COLUMNS = "serial, role, name, key, not_before, not_after, issued_at, issued_for, der, revoked_at, reason"
VALID = "valid"
EXPIRED = "expired"
REVOKED = "revoked"


class Issued(NamedTuple):
    """A certificate as the register has it: `key` is its key's fingerprint, `issued_for` what let it be issued."""

    serial: str
    role: str
    name: str
    key: str
    not_before: int
    not_after: int
    issued_at: int
    issued_for: str
    der: bytes
    revoked_at: Optional[int] = None
    reason: str = ""

    @property
    def principal(self) -> Principal:
        """Whose it is."""
        return Principal(self.role, self.name)

    def state(self, at: int) -> str:
        """Whether it is valid, expired or revoked at `at`."""
        if self.revoked_at is not None:
            return REVOKED
        return EXPIRED if at > self.not_after else VALID


class StoredToken(NamedTuple):
    """A token of which the hash alone is kept; `node_id` is the node that it is bound to, if any.

    One that `replaces` lets another device take the place of a node that has certificates already.
    """

    hash: str
    node_id: Optional[str]
    replaces: bool
    made_at: int
    expires_at: int
    uses_left: int

    @property
    def label(self) -> str:
        """What the token is called where it must not be told."""
        return self.hash[:8]


class Register:
    """The register at `path`, made if need be; close it when done. Raises UsageError where it cannot be opened."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            # Before SQLite makes it with the permissions of any other file; its journals get those of the database.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE))
            self._database = sqlite3.connect(path, isolation_level=None, timeout=_PATIENCE)
        except (OSError, sqlite3.Error) as error:
            raise UsageError(f"the register {path} cannot be opened: {error}") from error
        try:
            version = self._begin()
        except sqlite3.Error as error:
            self.close()
            raise UsageError(f"the register {path} cannot be opened: {error}") from error
        except UsageError:
            self.close()
            raise
        if version > VERSION:
            self.close()
            raise UsageError(f"the register {path} is of a newer version of this program")
        self._seen = self._version()

    def _begin(self) -> int:
        """Set the database up, and make its tables if it is new; returns the version that it had."""
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        with self.change():
            version = int(self._database.execute("PRAGMA user_version").fetchone()[0])
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    self._database.execute(statement)
        return version

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    @contextmanager
    def change(self) -> Iterator[None]:
        """Make all that is done within one change: durable at its end, undone if anything is raised.

        Raises UsageError if the disk is full, or another process keeps the register for itself.
        """
        self._run("BEGIN IMMEDIATE")
        try:
            yield
            self._run("COMMIT")
        except BaseException:
            # SQLite has undone it already where it could not even write what undoing needs.
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def is_changed(self) -> bool:
        """Whether anything was written, here or by another process, since this was asked last."""
        version = self._version()
        was, self._seen = self._seen, version
        return version != was

    def _version(self) -> tuple[int, int]:
        # The first changes with what others write, and with that alone.
        return int(self._run("PRAGMA data_version").fetchone()[0]), self._database.total_changes

    def _run(self, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        try:
            return self._database.execute(statement, values)
        except sqlite3.Error as error:
            raise UsageError(f"the register {self._path}: {error}") from error

    # Certificates

    def add(self, issued: Issued) -> None:
        """Enter a certificate."""
        self._run(f"INSERT INTO certificates ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?)", issued)

    def find(self, serial: str) -> Optional[Issued]:
        """The certificate of that number."""
        return next(iter(self._certificates("serial = ?", serial)), None)

    def of(self, principal: Principal) -> list[Issued]:
        """All certificates ever issued to `principal`, the newest first."""
        return self._certificates("role = ? AND name = ? ORDER BY issued_at DESC, rowid DESC", *principal)

    def of_key(self, key: str) -> list[Issued]:
        """All certificates of a key, the newest first."""
        return self._certificates("key = ? ORDER BY issued_at DESC, rowid DESC", key)

    def certificates(self, role: Optional[str] = None) -> list[Issued]:
        """All certificates, or those of a role, by role, name and age."""
        return self._certificates("? IS NULL OR role = ? ORDER BY role, name, issued_at, rowid", role, role)

    def revoke(self, serial: str, at: int, reason: str) -> None:
        """Mark a certificate as revoked; one that is keeps its first date and reason."""
        self._run(
            "UPDATE certificates SET revoked_at = ?, reason = ? WHERE serial = ? AND revoked_at IS NULL",
            (at, reason, serial),
        )

    def revoked(self, at: int) -> list[Issued]:
        """What is revoked and would still be valid at `at` if it were not."""
        return self._certificates("revoked_at IS NOT NULL AND not_after >= ? ORDER BY revoked_at, serial", at)

    def next_list_number(self) -> int:
        """Count the revocation lists, each of which has a number above the last."""
        self._run("UPDATE counters SET value = value + 1 WHERE name = 'revocation_list'")
        return int(self._run("SELECT value FROM counters WHERE name = 'revocation_list'").fetchone()[0])

    def _certificates(self, condition: str, *values: object) -> list[Issued]:
        rows = self._run(f"SELECT {_COLUMNS} FROM certificates WHERE {condition}", values)
        return [Issued(*row) for row in rows]

    # Tokens

    def add_token(self, token: StoredToken) -> None:
        """Enter a token, and forget those that are no use any more."""
        self._run("DELETE FROM tokens WHERE expires_at < ? OR uses_left = 0", (token.made_at,))
        self._run("INSERT INTO tokens VALUES (?,?,?,?,?,?)", token)

    def token(self, hash: str) -> Optional[StoredToken]:
        """The token of that hash."""
        return next(iter(self._tokens("hash = ?", hash)), None)

    def tokens(self, at: int) -> list[StoredToken]:
        """The tokens that can be used at `at`, the next to expire first."""
        return self._tokens("expires_at >= ? AND uses_left > 0 ORDER BY expires_at, hash", at)

    def spend(self, hash: str) -> None:
        """Use a token once."""
        self._run("UPDATE tokens SET uses_left = uses_left - 1 WHERE hash = ?", (hash,))

    def withdraw(self, hashes: Sequence[str]) -> None:
        """Let tokens be used no more."""
        for hash in hashes:
            self._run("DELETE FROM tokens WHERE hash = ?", (hash,))

    def _tokens(self, condition: str, *values: object) -> list[StoredToken]:
        columns = "hash, node_id, replaces, made_at, expires_at, uses_left"
        rows = self._run(f"SELECT {columns} FROM tokens WHERE {condition}", values)
        return [StoredToken(row[0], row[1], bool(row[2]), *row[3:]) for row in rows]
