"""The child process that installs: one JSON object on stdin, one JSON object as the last line of stdout.

    {"verb": "install", "step": {...}}   ->   {"ok": true, "output": "..."}
                                         or   {"ok": false, "reason": "no_space", "output": "..."}

The exit code is 0 either way; any other end of the process is a crash of the installer, whose traceback is on stderr.

At most one worker, with what it started, is at work below a work directory: it holds a lock there, which its children
inherit, and the next worker waits for it. So an agent that was killed and started again does not look at an
environment which the last one's pip still changes. The kernel ends both soon: they die with their parents.
"""

import contextlib
import errno
import fcntl
import importlib
import os
import resource
import sys
from collections.abc import Iterator

import msgspec

from fleet.install.interface import (
    ENVIRONMENT_MISSING,
    HASH_MISMATCH,
    INSTALL_FAILED,
    NO_SPACE,
    ROLLBACK_FAILED,
    UNSUPPORTED,
    VERIFY_FAILED,
    Answer,
    Call,
    Installer,
    InstallError,
    Step,
    last_lines,
)
from fleet.install.kernel import die_with_parent
from fleet.install.verify import verify_hashes

INSTALLERS = {  # by package type; imported when asked for
    "file": ("fleet.install.file", "FileInstaller"),
    "pip": ("fleet.install.pip", "PipInstaller"),
}

SYSTEM_ERROR_REASONS = {  # by verb: what an OSError in it means
    "requirements": ENVIRONMENT_MISSING,
    "verify_hashes": HASH_MISMATCH,
    "install": INSTALL_FAILED,
    "verify": VERIFY_FAILED,
    "commit": INSTALL_FAILED,
    "roll_back": ROLLBACK_FAILED,
    "inspect": VERIFY_FAILED,
    "clean_up": INSTALL_FAILED,
}


def main() -> None:
    """Answer one call."""
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What anything here prints goes to stderr: the last line of stdout belongs to the answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with answers:
        answers.write(msgspec.json.encode(answer(sys.stdin.buffer.read())) + b"\n")


def answer(question: bytes) -> Answer:
    """Do what the question asks; every failure but a crash is an answer."""
    try:
        call = msgspec.json.decode(question, type=Call)
    except msgspec.MsgspecError as error:
        return Answer(ok=False, reason=UNSUPPORTED, output=f"the question to the installer is malformed: {error}")
    if call.verb not in SYSTEM_ERROR_REASONS:
        return Answer(ok=False, reason=UNSUPPORTED, output=f"unknown verb {call.verb!r}")
    if call.step.package_type not in INSTALLERS:
        return Answer(ok=False, reason=UNSUPPORTED, output=f"unknown package type {call.step.package_type!r}")
    try:
        with lock(call.step.work_directory):
            return perform(call.verb, call.step)
    except InstallError as error:
        return Answer(ok=False, reason=error.reason, output=last_lines(str(error)))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT) and call.verb != "roll_back"
        reason = NO_SPACE if full else SYSTEM_ERROR_REASONS[call.verb]
        return Answer(ok=False, reason=reason, output=str(error))


def perform(verb: str, step: Step) -> Answer:
    """Carry a known verb to the installer of a known package type."""
    if verb == "verify_hashes":
        verify_hashes(step.artifacts)
        return Answer(ok=True)
    module, name = INSTALLERS[step.package_type]
    installer: Installer = getattr(importlib.import_module(module), name)()
    if verb == "requirements":
        found = installer.requirements(step)
        if found.bytes_needed > found.bytes_free and not found.already_installed:
            text = f"{found.bytes_needed} bytes are needed, {found.bytes_free} are free"
            raise InstallError(NO_SPACE, text)
        return Answer(ok=True, **msgspec.structs.asdict(found))
    if verb == "inspect":
        return Answer(ok=True, condition=installer.inspect(step))
    if verb == "install":
        return Answer(ok=True, output=last_lines(installer.install(step)))
    getattr(installer, verb)(step)
    return Answer(ok=True)


@contextlib.contextmanager
def lock(work_directory: str) -> Iterator[None]:
    """Wait until no other worker, nor a child that one left, is at work; then keep them out.

    Children inherit the open lock: it is free when the last of them has ended, whatever became of this process.
    """
    directory = os.path.dirname(work_directory)
    os.makedirs(directory, exist_ok=True)
    descriptor = os.open(os.path.join(directory, ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.set_inheritable(descriptor, True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
