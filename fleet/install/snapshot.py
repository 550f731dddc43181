"""A copy of a directory kept beside it, to be put back at the same path.

Virtual environments do not relocate, so the copy only rests beside and goes back by rename. What the disk holds
says at any moment how far things are:

    DIRECTORY.fleet-backup.partial   a copy under way, worth nothing
    DIRECTORY.fleet-backup/          complete: it got this name when all of it was on the disk
        content/                     the copy; gone from here once it has been put back
        state.json                   whose it is (job and attempt), and its stage
    DIRECTORY.fleet-discard          being removed, worth nothing

The stage is SAVED until something may have touched the directory, CHANGING from then on, and CHANGED when the change
is complete and on the disk. A backup that was neither dropped nor restored belongs to a change that nobody accepted.
"""

import os
import shutil
from typing import Optional

import msgspec

from fleet.host.files import SystemFiles, sync_path
from fleet.install.interface import ROLLBACK_FAILED, UNSUPPORTED, InstallError
from fleet.install.kernel import sync_file_system

SAVED = "saved"
CHANGING = "changing"
CHANGED = "changed"


class _State(msgspec.Struct, frozen=True):
    job_id: str
    attempt: int
    stage: str


class Snapshot:
    """The backup of `directory` for one attempt of one job; nothing is touched before a method is called."""

    def __init__(self, directory: str, job_id: str, attempt: int) -> None:
        self.directory = directory
        self._job_id = job_id
        self._attempt = attempt
        self._parent = os.path.dirname(directory)
        self._backup = f"{directory}.fleet-backup"
        self._partial = f"{directory}.fleet-backup.partial"
        self._discard = f"{directory}.fleet-discard"
        self._content = os.path.join(self._backup, "content")
        self._state = os.path.join(self._backup, "state.json")

    def stage(self) -> Optional[str]:
        """SAVED, CHANGING or CHANGED; None where there is no backup of this attempt."""
        state = self._read()
        if state is None or (state.job_id, state.attempt) != (self._job_id, self._attempt):
            return None
        return state.stage

    def recover(self) -> None:
        """Undo a change that was begun and never accepted, whoever's it was, and remove leftovers."""
        state = self._read()
        if state is not None and state.stage != SAVED:
            self._restore()
        else:  # restored and not yet gone, or of no use: what it was taken of may have changed since
            self._drop()

    def save(self) -> None:
        """Make the copy, after `recover`; where it fails, nothing stays behind."""
        os.mkdir(self._partial, 0o700)
        try:
            copy_tree(self.directory, os.path.join(self._partial, "content"))
            self._write(self._partial, SAVED)
            sync_file_system(self._partial)
        except (OSError, InstallError):  # a full disk, most likely: the node needs the space more than we do
            remove_tree(self._partial)
            raise
        os.rename(self._partial, self._backup)
        sync_path(self._parent)

    def mark(self, stage: str) -> None:
        """Note how far the change is, durably; CHANGED makes the directory itself durable before."""
        if stage == CHANGED:
            sync_file_system(self.directory)
        self._write(self._backup, stage)

    def undo(self) -> None:
        """Put the copy of this attempt back at the path of the directory; where there is none, nothing was changed."""
        stage = self.stage()
        if stage in (CHANGING, CHANGED):
            self._restore()
        elif stage == SAVED or self._read() is None:
            self._drop()

    def accept(self) -> None:
        """Accept the directory as it is: the backup of this attempt is gone from one moment to the next."""
        if self.stage() is not None:
            self._drop()
        else:
            self._remove_leftovers()

    def clean_up(self) -> None:
        """Remove all but a backup that is still needed to undo a change."""
        state = self._read()
        if state is None or state.stage == SAVED:
            self._drop()
        else:
            self._remove_leftovers()

    def _restore(self) -> None:
        """Each of the two renames may be the last thing done: the next call goes on from what it finds."""
        if os.path.lexists(self.directory):
            remove_tree(self._discard)
            os.rename(self.directory, self._discard)
            sync_path(self._parent)
        os.rename(self._content, self.directory)
        sync_path(self._parent)
        sync_path(self._backup)
        self._drop()

    def _drop(self) -> None:
        """The one rename makes the backup worthless; what remains to be removed is harmless."""
        if os.path.lexists(self._backup):
            remove_tree(self._discard)
            os.rename(self._backup, self._discard)
            sync_path(self._parent)
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        remove_tree(self._partial)
        remove_tree(self._discard)

    def _read(self) -> Optional[_State]:
        """The state of a complete backup, None where there is none (any more)."""
        if not os.path.lexists(self._content):
            return None
        try:
            return msgspec.json.decode(SystemFiles().read(self._state), type=_State)
        except (FileNotFoundError, msgspec.MsgspecError) as error:
            raise InstallError(ROLLBACK_FAILED, f"the backup {self._backup} cannot be used: {error}") from error

    def _write(self, backup: str, stage: str) -> None:
        state = _State(self._job_id, self._attempt, stage)
        SystemFiles().replace(os.path.join(backup, "state.json"), msgspec.json.encode(state))


def copy_tree(source: str, target: str) -> None:
    """Copy a directory as it is: links as links; modes, times and extended attributes; owners where we may."""
    os.mkdir(target, 0o700)
    with os.scandir(source) as entries:
        for entry in entries:
            place = os.path.join(target, entry.name)
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), place)
                _copy_facts(entry.path, place)
            elif entry.is_dir():
                copy_tree(entry.path, place)
            elif entry.is_file():
                shutil.copyfile(entry.path, place)
                _copy_facts(entry.path, place)
            else:
                raise InstallError(UNSUPPORTED, f"{entry.path} is no file, directory or link: it cannot be kept")
    _copy_facts(source, target)


def tree_bytes(directory: str) -> int:
    """Bytes on the disk that a copy of the directory takes."""
    total = os.lstat(directory).st_blocks
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += tree_bytes(entry.path) // 512
            else:
                total += entry.stat(follow_symlinks=False).st_blocks
    return total * 512  # st_blocks counts in these, whatever the file system does: stat(2)


def remove_tree(path: str) -> None:
    """Remove a directory with all in it; one that is missing is fine."""
    if os.path.lexists(path):
        shutil.rmtree(path)


def _copy_facts(source: str, target: str) -> None:
    facts = os.lstat(source)
    mine = os.lstat(target)
    if (facts.st_uid, facts.st_gid) != (mine.st_uid, mine.st_gid) and os.geteuid() == 0:
        os.chown(target, facts.st_uid, facts.st_gid, follow_symlinks=False)  # before the mode: it clears set-uid bits
    shutil.copystat(source, target, follow_symlinks=False)
