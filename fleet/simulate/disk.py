"""A disk that keeps what was fsynced apart from what was only written, and can be cut, full or broken.

It promises what `fleet.host.files.SystemFiles` does on Linux: data is durable after `fsync`; a name, a rename, a
removal and `replace` are durable on return. Of what was written and not synced a power cut leaves anything: nothing,
all, a torn beginning, or some of the writes with zeros between them. The death of a process leaves everything.
"""

from __future__ import annotations

import errno
from typing import Optional

from minicoap.core.entropy import Entropy

DEFAULT_CAPACITY = 1 << 30  # bytes

_Change = tuple[int, Optional[bytes]]  # a write: where and what; a truncation: the size, and None


class PowerCut(BaseException):
    """The host dies here, in the middle of a call. No handler of errors may take it for one, so it is no Exception."""


class _File:
    """One file: `content` is what processes see, `durable` what is on the disk, `pending` what is yet to get there."""

    __slots__ = ("content", "durable", "pending")

    def __init__(self, content: bytes = b"") -> None:
        self.content = bytearray(content)
        self.durable = bytearray(content)
        self.pending: list[_Change] = []

    def change(self, change: _Change) -> None:
        """Do it for processes to see, and remember that the disk has yet to."""
        _apply(self.content, change)
        self.pending.append(change)

    def sync(self) -> None:
        """Do on the disk what is pending."""
        for change in self.pending:
            _apply(self.durable, change)
        self.pending.clear()

    def lose(self, entropy: Entropy) -> None:
        """Keep of what is pending what a power cut happens to leave."""
        for change in _survivors(self.pending, entropy):
            _apply(self.durable, change)
        self.pending.clear()
        self.content = bytearray(self.durable)


class SimulatedFiles:
    """`Files` of a pretended host; `capacity` in bytes.

    `points` counts the moments before and after each call that changes something, see `cut_after`. `calls` counts those
    calls; the one numbered `fail_at` raises OSError with `fail_errno`.
    """

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        self.capacity = capacity
        self.points = 0
        self._cut_at = 0
        self._gaps: tuple[int, ...] = ()
        self.calls = 0
        self.fail_at = 0
        self.fail_errno = errno.EIO
        self._files: dict[str, _File] = {}
        self._directories: dict[str, None] = {"": None, "/": None}
        self._used = 0

    def cut_after(self, *gaps: int) -> None:
        """Have a call raise PowerCut after so many points more, another one after so many more, and so on."""
        self._gaps = gaps[1:]
        self._cut_at = self.points + gaps[0] if gaps else 0

    def power_cut(self, entropy: Entropy) -> None:
        """Lose what a power cut loses."""
        for file in self._files.values():
            if file.pending:
                self._used -= len(file.content)
                file.lose(entropy)
                self._used += len(file.content)

    # Files

    def read(self, path: str) -> bytes:
        """See Files."""
        return bytes(self._file(path).content)

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        """See Files."""
        return bytes(self._file(path).content[offset : offset + length])

    def append(self, path: str, data: bytes) -> None:
        """See Files."""
        file = self._files.get(path)
        self._write(path, 0 if file is None else len(file.content), data)

    def write_at(self, path: str, offset: int, data: bytes) -> None:
        """See Files."""
        self._write(path, offset, data)

    def size(self, path: str) -> Optional[int]:
        """See Files."""
        file = self._files.get(path)
        return None if file is None else len(file.content)

    def truncate(self, path: str, size: int) -> None:
        """See Files."""
        file = self._file(path)
        self._begin(path)
        if size != len(file.content):
            self._used += size - len(file.content)
            file.change((size, None))
        self._point()

    def fsync(self, path: str) -> None:
        """See Files."""
        file = self._file(path)
        self._begin(path)
        file.sync()
        self._point()

    def replace(self, path: str, data: bytes) -> None:
        """See Files."""
        self._begin(path)
        temporary = f"{path}.tmp"
        self._take_out(temporary)
        self._check_directory(path)
        file = self._files[temporary] = _File()
        self._fill(file, path, 0, data)
        file.sync()
        self._take_out(path)
        self._files[path] = self._files.pop(temporary)
        self._point()

    def rename(self, path: str, new_path: str) -> None:
        """See Files."""
        self._file(path)
        self._begin(path)
        self._check_directory(new_path)
        self._take_out(new_path)
        self._files[new_path] = self._files.pop(path)
        self._point()

    def remove(self, path: str) -> None:
        """See Files."""
        if path not in self._files:
            return
        self._begin(path)
        self._take_out(path)
        self._point()

    def names(self, directory: str) -> list[str]:
        """See Files."""
        if directory not in self._directories:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", directory)
        prefix = f"{directory}/"
        paths = [*self._files, *self._directories]
        found = {path[len(prefix) :].split("/", 1)[0] for path in paths if path.startswith(prefix)}
        return sorted(found)

    def make_directory(self, path: str) -> None:
        """See Files."""
        if path in self._directories:
            return
        self.make_directory(_directory_of(path))
        self._begin(path)
        self._directories[path] = None
        self._point()

    def free_bytes(self, path: str) -> int:
        """See Files."""
        return max(0, self.capacity - self._used)

    # What can go wrong

    def _write(self, path: str, offset: int, data: bytes) -> None:
        self._begin(path)
        file = self._files.get(path)
        if file is None:
            self._check_directory(path)
            file = self._files[path] = _File()
        self._fill(file, path, offset, data)
        self._point()

    def _fill(self, file: _File, path: str, offset: int, data: bytes) -> None:
        """Write as much as there is room for; raises ENOSPC where that is not all."""
        growth = max(0, offset + len(data) - len(file.content))
        room = max(0, self.capacity - self._used)
        written = data if growth <= room else data[: max(0, len(data) - growth + room)]
        if written:
            before = len(file.content)
            file.change((offset, written))
            self._used += len(file.content) - before
        if len(written) < len(data):
            raise OSError(errno.ENOSPC, "No space left on device", path)

    def _begin(self, path: str) -> None:
        self._point()
        self.calls += 1
        if self.calls == self.fail_at:
            raise OSError(self.fail_errno, "the disk fails here", path)

    def _point(self) -> None:
        self.points += 1
        if self.points == self._cut_at:
            self.cut_after(*self._gaps)
            raise PowerCut

    def _file(self, path: str) -> _File:
        file = self._files.get(path)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return file

    def _check_directory(self, path: str) -> None:
        if _directory_of(path) not in self._directories:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)

    def _take_out(self, path: str) -> None:
        file = self._files.pop(path, None)
        if file is not None:
            self._used -= len(file.content)


def _directory_of(path: str) -> str:
    return path.rpartition("/")[0]


def _apply(content: bytearray, change: _Change) -> None:
    offset, data = change
    if data is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _lost(offset: int, data: Optional[bytes]) -> _Change:
    """A write that did not reach the disk, where the file's size did: there are zeros, if nothing was there before."""
    return offset + len(data or b""), b""


def _survivors(pending: list[_Change], entropy: Entropy) -> list[_Change]:
    """What of the pending changes a power cut leaves: they are begun in order, and any write may be lost or torn.

    A truncation is never lost before a later change: file systems keep changes of a file's size in order.
    """
    kind = entropy.integer(2)
    if kind == 0:
        return []
    if kind == 1:
        return pending
    kept = pending[: int(entropy.uniform(0, len(pending) + 1))]
    if kind == 3:
        kept = [change if change[1] is None or entropy.integer(1) else _lost(*change) for change in kept]
    if kept and kept[-1][1] is not None:
        offset, data = kept[-1]
        assert data is not None
        kept = [*kept[:-1], (offset, data[: int(entropy.uniform(0, len(data) + 1))])]
    return kept
