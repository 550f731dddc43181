"""Contents of the firmware store that are not whole yet, named by the SHA-256 that they are to have.

A part outlives the upload that it came by, and the server: it goes on when somebody sends what follows, whoever that
is. Whether all of it is right the hash says when it is whole; a part that is not, after a power cut perhaps, is let go
of. It is hashed as it comes. What a server that was restarted has to hash again it reads in steps, between all else.

Parts take room of the store's quota. Those that nobody sends to give way to whole contents and to newer parts, the one
that was left the longest ago first; there are `PART_LIMIT` of them at most, each for `PART_LIFETIME`.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Callable, Optional

from fleet.host.files import Files
from fleet.model.artifacts import is_sha256

if TYPE_CHECKING:
    from fleet.server.artifacts import ArtifactStore

PART_LIMIT = 16
PART_LIFETIME = 86_400.0  # seconds since somebody sent to it, or since the server's start
SYNC_STEP = 4 * 1024 * 1024  # bytes between syncs, so that no single one holds the server up for long
HASH_STEP = 256 * 1024  # bytes read and hashed at a time

logger = logging.getLogger(__name__)


class Part:
    """What there is of the content with the hash `sha256`; `size` bytes from its beginning."""

    def __init__(self, parts: Parts, path: str, sha256: str, size: int) -> None:
        self.sha256 = sha256
        self.size = size
        self.path = path
        self.users = 0
        self.left_at: Optional[float] = None  # None: not known
        self.is_over = False  # it is a content now, or gone
        self._parts = parts
        self._synced = size
        self._hash = hashlib.sha256()
        self._hashed = 0
        self._waiting: list[Callable[[Optional[OSError]], None]] = []

    def write(self, data: bytes) -> None:
        """Append `data`; raises StoreFullError and OSError."""
        parts = self._parts
        parts.store.reserve(len(data), self.size)
        try:
            parts.files.write_at(self.path, self.size, data)
        except OSError:
            parts.store.give_back(len(data))
            raise
        if self._hashed == self.size:
            self._hash.update(data)
            self._hashed += len(data)
        self.size += len(data)
        if self.size - self._synced >= SYNC_STEP:
            self.sync()

    def sync(self) -> None:
        """Have what came survive a power cut; raises OSError."""
        if self._synced < self.size:
            self._synced = self.size
            self._parts.files.fsync(self.path)

    def when_hashed(self, done: Callable[[Optional[OSError]], None]) -> None:
        """Call `done` once all of it is hashed, now or later; with the error if it cannot be read."""
        if self.is_hashed:
            done(None)
        else:
            self._waiting.append(done)
            self._parts.to_be_hashed(self)

    @property
    def is_hashed(self) -> bool:
        """Whether all that came has been hashed."""
        return self._hashed == self.size

    def hash_on(self) -> None:
        """Hash a step of what has not been hashed; tell those who wait if that was the last."""
        error: Optional[OSError] = None
        try:
            data = self._parts.files.read_at(self.path, self._hashed, min(HASH_STEP, self.size - self._hashed))
            if not data:
                raise OSError("the file has become shorter")
            self._hash.update(data)
            self._hashed += len(data)
        except OSError as failure:
            error = failure
        if error is not None or self.is_hashed:
            waiting, self._waiting = self._waiting, []
            self._parts.is_hashed(self)
            for done in waiting:
                done(error)

    def keep(self) -> bool:
        """Make it a content; False if it is not the one that it was to be, and gone. Raises OSError."""
        if self._hash.hexdigest() != self.sha256:
            self.drop()
            return False
        files = self._parts.files
        if self.size == 0:
            files.write_at(self.path, 0, b"")
        if files.size(self.path) != self.size:  # of a block that the disk had no room for
            files.truncate(self.path, self.size)
        files.fsync(self.path)
        self._parts.store.adopt(self.path, self.sha256)
        self.is_over = True
        self._parts.forget(self)
        return True

    def drop(self) -> None:
        """Let go of it."""
        if self.is_over:
            return
        self.is_over = True
        self._parts.forget(self)
        if self._parts.store.let_go(self.path):
            self._parts.store.give_back(self.size)


class Parts:
    """All parts of `store`, in `directory`: those that an earlier server left too."""

    def __init__(self, store: ArtifactStore, files: Files, directory: str) -> None:
        self.store = store
        self.files = files
        self._directory = directory
        self._parts: dict[str, Part] = {}  # those left the longest ago first
        self._unhashed: dict[Part, None] = {}
        files.make_directory(directory)
        for name in files.names(directory):
            path = f"{directory}/{name}"
            if is_sha256(name):
                self._parts[name] = Part(self, path, name, files.size(path) or 0)
            else:
                files.remove(path)

    def __len__(self) -> int:
        return len(self._parts)

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return sum(part.size for part in self._parts.values())

    @property
    def idle_size(self) -> int:
        """Bytes of those that nobody sends to."""
        return sum(part.size for part in self._parts.values() if not part.users)

    def find(self, sha256: str) -> Optional[Part]:
        """What there is of a content; None if that is nothing."""
        return self._parts.get(sha256)

    def begin(self, sha256: str, expected: Optional[int]) -> Part:
        """Return what there is of a content, for somebody who has `expected` bytes of it, all, and is about to send.

        Raises StoreFullError if they are more than there is room for. `leave` has to follow.
        """
        part = self._parts.get(sha256)
        if part is not None and expected is not None and expected < part.size:
            part.drop()  # that was another content
            part = None
        if part is None:
            part = Part(self, f"{self._directory}/{sha256}", sha256, 0)
        part.users += 1
        try:
            self.store.check_room(expected, part.size)
        except Exception:
            part.users -= 1
            raise
        self._parts[sha256] = part
        if not part.is_hashed:
            self._unhashed[part] = None
        return part

    def leave(self, part: Part, now: float) -> None:
        """Somebody sends no more to a part."""
        part.users -= 1
        if part.users or part.is_over:
            return
        part.left_at = now
        self._parts[part.sha256] = self._parts.pop(part.sha256)
        self._unhashed.pop(part, None)
        if not part.size:
            part.drop()
            return
        try:
            part.sync()
        except OSError as error:
            logger.error("%s cannot be synced: %s", part.path, error)
        idle = [each for each in self._parts.values() if not each.users]
        for each in idle[: max(0, len(idle) - PART_LIMIT)]:
            each.drop()

    def give_way(self) -> bool:
        """Let go of the part that was left the longest ago; False if there is none."""
        for part in self._parts.values():
            if not part.users:
                part.drop()
                return True
        return False

    def expire(self, now: float) -> None:
        """Let go of parts that were left too long ago."""
        for part in [part for part in self._parts.values() if not part.users]:
            if part.left_at is None:
                part.left_at = now
            elif part.left_at + PART_LIFETIME <= now:
                part.drop()

    @property
    def has_unhashed(self) -> bool:
        """Whether there is something for `hash_on` to do."""
        return bool(self._unhashed)

    def hash_on(self) -> None:
        """Hash a step of a part that is sent to."""
        for part in self._unhashed:
            part.hash_on()
            return

    def to_be_hashed(self, part: Part) -> None:
        """Somebody waits for a part's hash."""
        self._unhashed[part] = None

    def is_hashed(self, part: Part) -> None:
        """There is nothing more to hash of a part, or it cannot be read."""
        self._unhashed.pop(part, None)

    def forget(self, part: Part) -> None:
        """A part is over."""
        if self._parts.get(part.sha256) is part:
            del self._parts[part.sha256]
        self._unhashed.pop(part, None)
