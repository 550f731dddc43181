"""Migrations: the numbered files of `schema/`, applied in order; `PRAGMA user_version` says how far a database is."""

import sqlite3
from pathlib import Path

from fleet.errors import UsageError

_SCHEMA = Path(__file__).parent / "schema"


def newest() -> int:
    """The number of the schema that this version knows."""
    return _number(_steps()[-1])


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a database to this version's schema, each step in a transaction of its own.

    Raises UsageError for a database that a newer version wrote.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > newest():
        raise UsageError(
            f"the database has schema {version}, and this version of fleet knows {newest()}: start the newer one that"
            " wrote it, or give another --data-dir"
        )
    for step in _steps():
        number = _number(step)
        if number > version:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{step.read_text('utf-8')}\nPRAGMA user_version = {number};\nCOMMIT;"
            )


def _steps() -> list[Path]:
    return sorted(_SCHEMA.glob("[0-9][0-9][0-9][0-9]_*.sql"))


def _number(step: Path) -> int:
    return int(step.name[:4])
