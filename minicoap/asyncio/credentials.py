"""Credentials from files."""

from __future__ import annotations

from typing import Any, Optional

from minicoap.errors import StorageError
from minicoap.security.credentials import Credentials

_FILES = ("certificate", "key", "trust", "revoked")


def load_credentials(
    *,
    certificate: Optional[str] = None,
    key: Optional[str] = None,
    trust: Optional[str] = None,
    revoked: Optional[str] = None,
    **arguments: Any,
) -> Credentials:
    """Return `Credentials` whose PEM is in files of these names; `arguments` are its others.

    Raises StorageError where one cannot be read, UsageError for what cannot be used.
    """
    names = {"certificate": certificate, "key": key, "trust": trust, "revoked": revoked}
    pem: dict[str, Any] = {name: _read(file) for name, file in names.items() if file is not None}
    return Credentials(**pem, **arguments)


def reload_credentials(credentials: Credentials, **files: str) -> None:
    """Replace those parts of `credentials` that are named: certificate, key, trust, revoked. Errors as above."""
    credentials.change(**{name: _read(file) for name, file in files.items() if name in _FILES})


def _read(file: str) -> bytes:
    try:
        with open(file, "rb") as opened:
            return opened.read()
    except OSError as error:
        raise StorageError(f"{file} cannot be read", error) from error
