"""The bytes of the firmware store, kept by their SHA-256.

An upload goes to a file of its own, is synced, and then renamed to the hash of what came: a content is there whole or
not at all. One whose hash was told beforehand is a part until it is whole (`fleet.server.parts`). Which names lead to a
content, and which contents are still needed, the ledger knows; this file knows bytes.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import logging
from typing import Optional

from fleet.host.files import Files
from fleet.server.parts import SYNC_STEP, Parts

logger = logging.getLogger(__name__)

SERVED_LIMIT = 256  # contents that are known to be served


class StoreFullError(Exception):
    """The store has no room for a body of this size; `limit` is how long it may be."""

    def __init__(self, text: str, limit: int) -> None:
        super().__init__(text)
        self.limit = limit


class ArtifactStore:
    """The contents in `directory`, together at most `quota` bytes."""

    def __init__(self, files: Files, directory: str, quota: int) -> None:
        self._files = files
        self._contents = f"{directory}/contents"
        self._incoming = f"{directory}/incoming"
        self._quota = quota
        self._numbers = itertools.count(1)
        self._used = 0
        self._claimed: dict[str, int] = {}
        self._served: dict[str, ContentSource] = {}
        files.make_directory(self._contents)
        files.make_directory(self._incoming)
        for name in files.names(self._incoming):
            files.remove(f"{self._incoming}/{name}")
        for name in files.names(self._contents):
            self._used += files.size(f"{self._contents}/{name}") or 0
        self.parts = Parts(self, files, f"{directory}/parts")
        self._used += self.parts.size

    @property
    def used(self) -> int:
        """Bytes of all contents, parts and unfinished uploads."""
        return self._used

    def digests(self) -> list[str]:
        """The SHA-256 of every content."""
        return self._files.names(self._contents)

    def begin(self, expected: Optional[int]) -> Incoming:
        """Begin an upload; raises StoreFullError if `expected` bytes, where announced, are more than there is room."""
        self.check_room(expected)
        return Incoming(self, self._files, f"{self._incoming}/{next(self._numbers)}")

    def check_room(self, expected: Optional[int], taken: int = 0) -> None:
        """Raise StoreFullError if there is no room for an upload of `expected` bytes, of which so many are taken."""
        room = self.room() + taken
        if expected is not None and expected > room:
            raise StoreFullError(f"the store has room for {room} more bytes, not for {expected}", room)

    def room(self) -> int:
        """How many more bytes the store takes; parts that nobody sends to give way to them."""
        free = max(0, min(self._quota - self._used, self._files.free_bytes(self._contents)))
        return free + self.parts.idle_size

    def source(self, sha256: str) -> Optional[ContentSource]:
        """A content as the body of a response; None if it is not there."""
        path = self._path(sha256)
        size = self._files.size(path)
        return None if size is None else ContentSource(self._files, path, size, sha256)

    def served(self, sha256: str) -> Optional[ContentSource]:
        """A content that `serve` has returned not long ago, and that has not been removed or replaced since."""
        return self._served.get(sha256)

    def serve(self, sha256: str) -> Optional[ContentSource]:
        """As `source`, for a content that the ledger needs; it is `served` from now on."""
        source = self.source(sha256)
        if source is not None:
            while len(self._served) >= SERVED_LIMIT:
                del self._served[next(iter(self._served))]
            self._served[sha256] = source
        return source

    def open(self, sha256: str) -> io.RawIOBase:
        """A content as a file to be read; raises FileNotFoundError."""
        path = self._path(sha256)
        size = self._files.size(path)
        if size is None:
            raise FileNotFoundError(path)
        return _ContentFile(self._files, path, size)

    def claim(self, sha256: str) -> None:
        """Keep a content from being removed until `unclaim`: the ledger is about to be told of it."""
        self._claimed[sha256] = self._claimed.get(sha256, 0) + 1

    def unclaim(self, sha256: str) -> None:
        """Undo one `claim`."""
        self._claimed[sha256] -= 1
        if not self._claimed[sha256]:
            del self._claimed[sha256]

    def remove(self, sha256: str) -> None:
        """Remove a content, unless it is claimed."""
        self._served.pop(sha256, None)
        if sha256 in self._claimed:
            return
        path = self._path(sha256)
        size = self._files.size(path) or 0
        if self.let_go(path):
            self._used -= size

    def reserve(self, size: int, taken: int) -> None:
        """Count bytes about to be written, behind `taken` of the same upload; raises StoreFullError if too many."""
        while self._used + size > self._quota and self.parts.give_way():
            pass
        if self._used + size > self._quota:
            raise StoreFullError(f"the store's quota of {self._quota} bytes is used up", self.room() + taken)
        self._used += size

    def give_back(self, size: int) -> None:
        """Uncount the bytes of an upload that came to nothing."""
        self._used -= size

    def let_go(self, path: str) -> bool:
        """Remove a file that nobody needs; one that the disk does not let go of stays counted until the next start."""
        try:
            self._files.remove(path)
        except OSError as error:
            logger.error("%s cannot be removed: %s", path, error)
            return False
        return True

    def adopt(self, path: str, sha256: str) -> None:
        """Make a complete and synced upload a content, in the place of one that may have been damaged since."""
        self._served.pop(sha256, None)
        replaced = self._files.size(self._path(sha256))
        self._files.rename(path, self._path(sha256))
        self._used -= replaced or 0

    def _path(self, sha256: str) -> str:
        return f"{self._contents}/{sha256}"


class Incoming:
    """An upload under way."""

    def __init__(self, store: ArtifactStore, files: Files, path: str) -> None:
        self._store = store
        self._files = files
        self._path = path
        self._hash = hashlib.sha256()
        self._synced = 0
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append `data`; raises StoreFullError and OSError."""
        self._store.reserve(len(data), self.size)
        self.size += len(data)
        self._files.append(self._path, data)
        self._hash.update(data)
        if self.size - self._synced >= SYNC_STEP:
            self._synced = self.size
            self._files.fsync(self._path)

    def keep(self) -> str:
        """Make it a content and return its SHA-256; raises OSError."""
        if self.size == 0:
            self._files.append(self._path, b"")
        self._files.fsync(self._path)
        sha256 = self._hash.hexdigest()
        self._store.adopt(self._path, sha256)
        return sha256

    def drop(self) -> None:
        """Forget what came."""
        if self._store.let_go(self._path):
            self._store.give_back(self.size)
        self.size = 0


class ContentSource:
    """A content as the body of a response; its ETag is the beginning of its hash."""

    __slots__ = ("_files", "_path", "etag", "size")

    def __init__(self, files: Files, path: str, size: int, sha256: str) -> None:
        self._files = files
        self._path = path
        self.size = size
        self.etag: Optional[bytes] = bytes.fromhex(sha256[:16])

    def read_at(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`; raises OSError."""
        return self._files.read_at(self._path, offset, length)


class _ContentFile(io.RawIOBase):
    """A content with a position, for readers that want a file."""

    def __init__(self, files: Files, path: str, size: int) -> None:
        self._files = files
        self._path = path
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def read(self, size: int = -1) -> bytes:
        length = self._size - self._position if size is None or size < 0 else size
        data = self._files.read_at(self._path, self._position, length) if length > 0 else b""
        self._position += len(data)
        return data
