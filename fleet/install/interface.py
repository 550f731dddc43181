"""What an installer is, and the words that the agent and the worker exchange about it."""

from typing import Optional, Protocol

import msgspec

from fleet.errors import FleetError

# Reason codes: why a verb failed. They travel to the job's status as they stand.
HASH_MISMATCH = "hash_mismatch"
NO_SPACE = "no_space"
VERSION_NOT_FOUND = "version_not_found"
INSTALL_FAILED = "install_failed"
VERIFY_FAILED = "verify_failed"
ROLLBACK_FAILED = "rollback_failed"
UNSUPPORTED = "unsupported"
ENVIRONMENT_MISSING = "environment_missing"

# What `inspect` finds on the disk.
OLD = "old"  # nothing of the step is in place
NEW = "new"  # all of it is, and verified
PARTIAL = "partial"  # anything else: to be rolled back

OUTPUT_LINES = 20
OUTPUT_BYTES = 2_048


class StepArtifact(msgspec.Struct, frozen=True):
    """An artifact on this node: `file` is where its bytes are, `path` (below the file root) where they belong."""

    name: str
    size: int
    sha256: str
    file: str
    path: Optional[str] = None
    mode: Optional[str] = None  # octal, as in "0644"


class Step(msgspec.Struct, frozen=True):
    """What is to be installed, and where."""

    job_id: str
    attempt: int
    package_type: str
    work_directory: str  # the installer's own; it makes it and, in `clean_up`, removes it
    name: str = ""
    version: str = ""
    packages: tuple[str, ...] = ()
    artifacts: tuple[StepArtifact, ...] = ()
    python: str = ""  # the interpreter of the environment that pip jobs change
    file_root: str = ""  # the directory that file jobs stay below


class Call(msgspec.Struct, frozen=True):
    """One question to the worker, on its stdin."""

    verb: str
    step: Step


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The worker's answer, the last line of its stdout; `ok` decides which of the other fields mean something."""

    ok: bool
    reason: str = ""
    output: str = ""
    condition: str = ""  # of `inspect`
    bytes_needed: int = 0  # this and the following: of `requirements`
    bytes_free: int = 0
    reboot: bool = False
    can_roll_back: bool = False
    already_installed: bool = False


class Requirements(msgspec.Struct, frozen=True):
    """What a step takes: bytes on the file system it changes and bytes free there; whether it is done already."""

    bytes_needed: int
    bytes_free: int
    reboot: bool
    can_roll_back: bool
    already_installed: bool


class InstallError(FleetError):
    """A verb failed; `reason` is one of the codes above, the text what a person reads in the job's status."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Installer(Protocol):
    """One package type. Every verb is idempotent, and may be killed at any point of it; failures are InstallErrors.

    The order is requirements, install, verify, commit, clean_up; roll_back takes the place of what follows `install`
    where that, or `verify`, failed. `inspect` is asked when a verb was cut.
    """

    def requirements(self, step: Step) -> Requirements:
        """Whether the step can be done here, before anything is downloaded."""

    def install(self, step: Step) -> str:
        """Do it, keeping what a roll-back needs; answers with the last lines of output."""

    def verify(self, step: Step) -> None:
        """Check that what is in place is what was asked for, and whole."""

    def commit(self, step: Step) -> None:
        """Accept it: from here on there is no way back."""

    def roll_back(self, step: Step) -> None:
        """Put back exactly what was there before."""

    def inspect(self, step: Step) -> str:
        """Say what a cut left: OLD, NEW or PARTIAL."""

    def clean_up(self, step: Step) -> None:
        """Remove what only the step needed, but nothing that a roll-back still needs."""


def last_lines(text: str) -> str:
    """The end of a program's output, short enough for a report."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    kept = "\n".join(lines[-OUTPUT_LINES:])
    return kept.encode(errors="replace")[-OUTPUT_BYTES:].decode(errors="ignore")
