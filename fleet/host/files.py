"""Durable files: what has been fsynced survives a power cut, what `replace` and `rename` did is all or nothing.

The rules that make it so on Linux: data is durable after fsync of the file, a name after fsync of its directory,
and rename swaps a name in one step. Names made here (a new file, a rename, a new directory) are synced at once;
data written by `append` and `write_at` is durable after `fsync` only, so that a caller can batch.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Optional, Protocol

OPEN_FILES = 4  # descriptors kept open between calls: a journal and a download or two are hot, nothing else is


class Files(Protocol):
    """The files of a host; paths are strings, sizes bytes; an OSError of the system is the caller's to handle."""

    def read(self, path: str) -> bytes:
        """The whole content; FileNotFoundError where there is none."""

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end of the file."""

    def append(self, path: str, data: bytes) -> None:
        """Write at the end; the file is made if it is missing."""

    def write_at(self, path: str, offset: int, data: bytes) -> None:
        """Write at `offset`; the file is made if it is missing."""

    def size(self, path: str) -> Optional[int]:
        """Its size, None if there is no such file."""

    def truncate(self, path: str, size: int) -> None:
        """Cut (or extend with zeros) to `size`."""

    def fsync(self, path: str) -> None:
        """Return when what was written is on the disk."""

    def replace(self, path: str, data: bytes) -> None:
        """Put a whole new content there: atomic and durable."""

    def rename(self, path: str, new_path: str) -> None:
        """Give a file another name, replacing what has it: atomic and durable; its data must be synced before."""

    def remove(self, path: str) -> None:
        """Remove a file; one that is missing is fine."""

    def names(self, directory: str) -> list[str]:
        """The names in a directory, sorted."""

    def make_directory(self, path: str) -> None:
        """Make a directory and those above it; one that exists is fine."""

    def free_bytes(self, path: str) -> int:
        """Bytes that an unprivileged process may still write to the file system that holds `path`."""


class SystemFiles:
    """The files of the operating system; a few descriptors stay open between calls, `close` lets them go."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, int] = OrderedDict()

    def close(self) -> None:
        """Close the descriptors that are kept; the object stays usable."""
        while self._open:
            os.close(self._open.popitem()[1])

    def read(self, path: str) -> bytes:
        """The whole content; FileNotFoundError where there is none."""
        with open(path, "rb") as file:
            return file.read()

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end of the file."""
        descriptor = self._descriptor(path, create=False)
        pieces = []
        while length > 0:
            piece = os.pread(descriptor, length, offset)
            if not piece:
                break
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def append(self, path: str, data: bytes) -> None:
        """Write at the end; the file is made if it is missing."""
        # Not O_APPEND: pwrite on such a descriptor ignores its offset (Linux), and write_at shares the descriptor.
        descriptor = self._descriptor(path, create=True)
        _write_all(descriptor, data, os.fstat(descriptor).st_size)

    def write_at(self, path: str, offset: int, data: bytes) -> None:
        """Write at `offset`; the file is made if it is missing."""
        _write_all(self._descriptor(path, create=True), data, offset)

    def size(self, path: str) -> Optional[int]:
        """Its size, None if there is no such file."""
        try:
            return os.stat(path).st_size
        except FileNotFoundError:
            return None

    def truncate(self, path: str, size: int) -> None:
        """Cut (or extend with zeros) to `size`."""
        os.ftruncate(self._descriptor(path, create=False), size)

    def fsync(self, path: str) -> None:
        """Return when what was written is on the disk."""
        os.fsync(self._descriptor(path, create=False))

    def replace(self, path: str, data: bytes) -> None:
        """Put a whole new content there: atomic and durable."""
        self._forget(path)
        replace_file(path, data)

    def rename(self, path: str, new_path: str) -> None:
        """Give a file another name, replacing what has it: atomic and durable; its data must be synced before."""
        self._forget(path)
        self._forget(new_path)
        os.replace(path, new_path)
        sync_path(os.path.dirname(new_path))
        if os.path.dirname(path) != os.path.dirname(new_path):
            sync_path(os.path.dirname(path))

    def remove(self, path: str) -> None:
        """Remove a file; one that is missing is fine."""
        self._forget(path)
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        sync_path(os.path.dirname(path))

    def names(self, directory: str) -> list[str]:
        """The names in a directory, sorted."""
        return sorted(os.listdir(directory))

    def make_directory(self, path: str) -> None:
        """Make a directory and those above it; one that exists is fine."""
        if os.path.isdir(path):
            return
        parent = os.path.dirname(os.path.abspath(path))
        self.make_directory(parent)
        try:
            os.mkdir(path)
        except FileExistsError:
            if not os.path.isdir(path):
                raise
        sync_path(parent)

    def free_bytes(self, path: str) -> int:
        """Bytes that an unprivileged process may still write to the file system that holds `path`."""
        facts = os.statvfs(path)
        return facts.f_bavail * facts.f_frsize

    def _descriptor(self, path: str, *, create: bool) -> int:
        descriptor = self._open.get(path)
        if descriptor is not None:
            self._open.move_to_end(path)
            return descriptor
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            if not create:
                raise
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            sync_path(os.path.dirname(path))
        while len(self._open) >= OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        self._open[path] = descriptor
        return descriptor

    def _forget(self, path: str) -> None:
        descriptor = self._open.pop(path, None)
        if descriptor is not None:
            os.close(descriptor)


def replace_file(path: str, data: bytes, mode: int = 0o666) -> None:
    """Put a whole new content there, atomic and durable; `mode` is who may read it (less the umask), from its birth."""
    temporary = f"{path}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        descriptor = os.open(temporary, flags, mode)
    except FileExistsError:
        # What a crash left may have been made with other permissions, and be open elsewhere.
        os.unlink(temporary)
        descriptor = os.open(temporary, flags, mode)
    try:
        _write_all(descriptor, data, 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)
    sync_path(os.path.dirname(path))


def sync_path(path: str) -> None:
    """Make a file's data, or a directory's names, durable; the empty string is the current directory."""
    descriptor = os.open(path or ".", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written
