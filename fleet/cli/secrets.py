"""Secrets for commands: from a file, the environment or a prompt, and never from the command line.

What stands on a command line can be read by every process of the machine, and is kept in the shell's history.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Mapping
from typing import Optional

from fleet.errors import UsageError

PASSPHRASE = "FLEET_CA_PASSPHRASE"
"""The variable that may hold the passphrase of the authority's key."""
TOKEN = "FLEET_TOKEN"
"""The variable that may hold an enrolment token."""

_LONGEST = 1024


def read_secret(
    what: str,
    file: Optional[str],
    variable: str,
    *,
    prompt: Optional[str],
    twice: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> Optional[str]:
    """Return the secret called `what` from `file`, else the environment's `variable`, else typed at `prompt`.

    `twice` has it typed twice. None where nobody is to be asked, or no terminal is there, or nothing was typed. Raises
    UsageError.
    """
    if file is not None:
        return _from_file(what, file)
    if environment.get(variable):
        return environment[variable]
    if prompt is None or not sys.stdin.isatty():
        return None
    secret = getpass.getpass(f"{prompt}: ")
    if twice and secret and getpass.getpass(f"{prompt}, once more: ") != secret:
        raise UsageError(f"the two {what}s are not the same")
    return secret or None


def _from_file(what: str, file: str) -> str:
    try:
        with open(file, encoding="utf-8") as stream:
            secret = stream.read(_LONGEST + 1)
    except OSError as error:
        raise UsageError(f"the {what} file {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UsageError(f"the {what} file {file} is no text") from None
    secret = secret.rstrip("\r\n")
    if not secret or len(secret) > _LONGEST or "\n" in secret:
        raise UsageError(f"the {what} file {file} has to hold one line and nothing else")
    return secret
