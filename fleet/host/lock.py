"""A data directory held by one process: two on the same files would undo each other's work."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from fleet.errors import UsageError


@contextlib.contextmanager
def held(directory: str, who: str) -> Iterator[None]:
    """Hold `directory` for `who`, "server" or "agent"; raises UsageError if another process has it, or it is no use."""
    try:
        descriptor = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(f"--data-dir {directory} cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another {who} runs on {directory}; stop it, or give another --data-dir") from None
        yield
    finally:
        os.close(descriptor)
