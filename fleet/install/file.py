"""Files put below a directory: all of a job's, or none.

Beside each destination, under names of this job, lie the new content until all of them are written, and then the
old one (a hard link, so it takes no space and goes back with owner, mode and attributes) until the job is committed.
What was there before is written down, durably, before anything is touched:

    WORK/files.json   the stage, and for each file whether there was one; the directories that were made
"""

import hashlib
import os
import shutil
from typing import NamedTuple, Optional

import msgspec

from fleet.host.files import SystemFiles, sync_path
from fleet.install.interface import (
    NEW,
    OLD,
    PARTIAL,
    ROLLBACK_FAILED,
    UNSUPPORTED,
    VERIFY_FAILED,
    InstallError,
    Requirements,
    Step,
    StepArtifact,
)
from fleet.install.snapshot import remove_tree
from fleet.install.verify import sha256_of

CHANGING = "changing"
CHANGED = "changed"
COMMITTED = "committed"

DEFAULT_MODE = 0o644  # of a new file; one that is replaced keeps the mode it has


class _Kept(msgspec.Struct, frozen=True):
    """What was at a destination before."""

    path: str  # absolute
    existed: bool


class _Record(msgspec.Struct, frozen=True):
    stage: str
    kept: list[_Kept]
    made_directories: list[str]  # outer ones first


class _Destination(NamedTuple):
    artifact: StepArtifact
    path: str  # absolute
    mode: Optional[int]


class FileInstaller:
    """Artifacts as files below `step.file_root`."""

    def requirements(self, step: Step) -> Requirements:
        """Space for the new files beside the old ones; done already if all have the right content and mode."""
        destinations = _destinations(step)
        return Requirements(
            bytes_needed=sum(artifact.size for artifact in step.artifacts),
            bytes_free=SystemFiles().free_bytes(_existing_ancestor(step.file_root)),
            reboot=False,
            can_roll_back=True,
            already_installed=all(_difference(destination) is None for destination in destinations),
        )

    def install(self, step: Step) -> str:
        """Write all new contents beside their destinations, then swap them in; a change that was cut is undone first.

        What can fail for lack of space, rights or a sound disk fails before the first file is replaced.
        """
        self.roll_back(step)
        destinations = _destinations(step)
        made = _missing_directories(destinations)
        kept = [_Kept(destination.path, os.path.lexists(destination.path)) for destination in destinations]
        record = _Record(CHANGING, kept, made)
        _write_record(step, record)
        for directory in made:
            os.mkdir(directory)
            sync_path(os.path.dirname(directory))
        for destination in destinations:
            _write_new(step, destination)
        for file in kept:
            if file.existed:
                _keep_old(step, file.path)
        _sync_directories_of(kept)
        for destination in destinations:
            os.replace(_aside(step, destination.path, "new"), destination.path)
        _sync_directories_of(kept)
        _write_record(step, msgspec.structs.replace(record, stage=CHANGED))
        return "\n".join(destination.path for destination in destinations)

    def verify(self, step: Step) -> None:
        """Each destination is a regular file with the artifact's content and mode."""
        for destination in _destinations(step):
            difference = _difference(destination)
            if difference is not None:
                raise InstallError(VERIFY_FAILED, f"{destination.path}: {difference}")

    def commit(self, step: Step) -> None:
        """Remove the old contents."""
        record = _read_record(step)
        if record is None:
            return
        _write_record(step, msgspec.structs.replace(record, stage=COMMITTED))  # the old ones go one by one
        for file in record.kept:
            _remove(_aside(step, file.path, "old"))
        SystemFiles().remove(_record_path(step))

    def roll_back(self, step: Step) -> None:
        """Put back what was replaced, remove what was new."""
        record = _read_record(step)
        if record is None:
            return
        if record.stage == COMMITTED:
            raise InstallError(ROLLBACK_FAILED, "the files were committed: the old ones are no longer there")
        for file in record.kept:
            for unfinished in ("new", "copy"):
                _remove(_aside(step, file.path, unfinished))
            old = _aside(step, file.path, "old")
            if not file.existed:
                _remove(file.path)
            elif os.path.lexists(old):
                os.replace(old, file.path)
                _remove(old)  # rename leaves both names alone where they are one file, as before the swap: rename(2)
        _sync_directories_of(record.kept)
        for directory in reversed(record.made_directories):
            if os.path.isdir(directory) and not os.listdir(directory):
                os.rmdir(directory)
                sync_path(os.path.dirname(directory))
        SystemFiles().remove(_record_path(step))

    def inspect(self, step: Step) -> str:
        """From the stage that was written down, and the contents where that leaves it open."""
        record = _read_record(step)
        if record is not None and record.stage == CHANGING:
            return PARTIAL
        try:
            self.verify(step)
        except InstallError:
            return OLD if record is None else PARTIAL
        return NEW

    def clean_up(self, step: Step) -> None:
        """Remove the working directory, unless it still says what a roll-back has to put back."""
        record = _read_record(step)
        if record is not None and record.stage == COMMITTED:
            self.commit(step)
            record = None
        if record is None:
            remove_tree(step.work_directory)


def _destinations(step: Step) -> list[_Destination]:
    """Where each artifact goes; InstallError for what leaves the root, or cannot be a file there."""
    if step.packages:
        raise InstallError(UNSUPPORTED, f"a file job has artifacts, no packages like {step.packages[0]!r}")
    if not os.path.isabs(step.file_root):
        raise InstallError(UNSUPPORTED, f"the file root must be an absolute path, not {step.file_root!r}")
    root = os.path.realpath(step.file_root)
    destinations = [
        _Destination(artifact, _resolve(root, artifact.path or artifact.name), _parse_mode(artifact))
        for artifact in step.artifacts
    ]
    paths = sorted(destination.path for destination in destinations)
    for path, following in zip(paths, paths[1:]):
        if path == following or following.startswith(path + "/"):
            raise InstallError(UNSUPPORTED, f"two files of the job want {path}")
    return destinations


def _resolve(root: str, path: str) -> str:
    """The absolute path of a destination, with links among its directories followed, and still below the root."""
    parts = path.split("/")
    if "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise InstallError(UNSUPPORTED, f"{path!r} is no plain path below the file root")
    directory = os.path.realpath(os.path.join(root, *parts[:-1]))
    if os.path.commonpath([root, directory]) != root:
        raise InstallError(UNSUPPORTED, f"{path!r} leads out of the file root, to {directory}")
    destination = os.path.join(directory, parts[-1])
    if os.path.islink(destination) or (os.path.lexists(destination) and not os.path.isfile(destination)):
        raise InstallError(UNSUPPORTED, f"{path!r} is there already, and no regular file")
    ancestor = _existing_ancestor(directory)
    if not os.path.isdir(ancestor):
        raise InstallError(UNSUPPORTED, f"{path!r} needs a directory where there is the file {ancestor}")
    return destination


def _parse_mode(artifact: StepArtifact) -> Optional[int]:
    if artifact.mode is None:
        return None
    if not artifact.mode or len(artifact.mode) > 4 or artifact.mode.strip("01234567") or int(artifact.mode, 8) > 0o777:
        raise InstallError(UNSUPPORTED, f"{artifact.name}: mode {artifact.mode!r} is not octal from 0 to 0777")
    return int(artifact.mode, 8)


def _difference(destination: _Destination) -> Optional[str]:
    """What is other than asked for at a destination, None if nothing is."""
    if not os.path.isfile(destination.path) or os.path.islink(destination.path):
        return "there is no such file"
    if sha256_of(destination.path) != destination.artifact.sha256.lower():
        return "the content is not the artifact's"
    mode = os.stat(destination.path).st_mode & 0o777
    if destination.mode is not None and mode != destination.mode:
        return f"the mode is {mode:04o}, not {destination.mode:04o}"
    return None


def _existing_ancestor(path: str) -> str:
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def _missing_directories(destinations: list[_Destination]) -> list[str]:
    """The directories that have to be made, outer ones first."""
    missing: list[str] = []
    for destination in destinations:
        directory = os.path.dirname(destination.path)
        chain: list[str] = []
        while not os.path.lexists(directory) and directory not in missing:
            chain.append(directory)
            directory = os.path.dirname(directory)
        missing.extend(reversed(chain))
    return missing


def _aside(step: Step, path: str, what: str) -> str:
    """The name beside a destination that holds its new or old content; short however long the destination's is."""
    directory, name = os.path.split(path)
    tag = hashlib.sha256(f"{step.job_id}\0{name}".encode()).hexdigest()[:24]
    return os.path.join(directory, f".fleet-{tag}.{what}")


def _write_new(step: Step, destination: _Destination) -> None:
    """Write the new content beside its destination, durably, with the mode and owner it is going to have."""
    new = _aside(step, destination.path, "new")
    shutil.copyfile(destination.artifact.file, new)
    mode = DEFAULT_MODE
    if os.path.lexists(destination.path):
        facts = os.stat(destination.path)
        mode = facts.st_mode & 0o777
        if os.geteuid() == 0:
            os.chown(new, facts.st_uid, facts.st_gid)
    os.chmod(new, mode if destination.mode is None else destination.mode)
    sync_path(new)


def _keep_old(step: Step, path: str) -> None:
    old = _aside(step, path, "old")
    try:
        os.link(path, old)
    except OSError:  # a file system without hard links: a copy then, which has its name only when it is whole
        copy = _aside(step, path, "copy")
        shutil.copy2(path, copy)
        sync_path(copy)
        os.replace(copy, old)


def _sync_directories_of(kept: list[_Kept]) -> None:
    """Make the names beside all destinations durable; a directory that a roll-back finds never made has none."""
    for directory in sorted({os.path.dirname(file.path) for file in kept}):
        if os.path.isdir(directory):
            sync_path(directory)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return  # gone before, or never made


def _record_path(step: Step) -> str:
    return os.path.join(step.work_directory, "files.json")


def _read_record(step: Step) -> Optional[_Record]:
    """What this job wrote down, in whichever attempt, None where there is nothing to undo."""
    try:
        return msgspec.json.decode(SystemFiles().read(_record_path(step)), type=_Record)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise InstallError(ROLLBACK_FAILED, f"{_record_path(step)} cannot be read: {error}") from error


def _write_record(step: Step, record: _Record) -> None:
    files = SystemFiles()
    files.make_directory(step.work_directory)
    files.replace(_record_path(step), msgspec.json.encode(record))
