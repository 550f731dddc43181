"""A disk that keeps what was fsynced apart from what was only written, for tests that cut the power."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Optional


class SimDisk:
    """Files of a pretended host (`fleet.host.files.Files`).

    `written` is what a running process reads, `durable` what a power cut leaves for sure. `on_step` is called before
    and after each call that changes the disk, and may raise. `failing` counts such calls down; the one that takes it
    to zero fails as on a full disk, an append half done.
    """

    def __init__(self) -> None:
        self.durable: dict[str, bytes] = {}
        self.written: dict[str, bytes] = {}
        self.on_step: Callable[[], None] = lambda: None
        self.failing = 0
        self.failing_path = ""

    def copy(self) -> SimDisk:
        """The same disk once more."""
        disk = SimDisk()
        disk.durable = dict(self.durable)
        disk.written = dict(self.written)
        return disk

    def after_power_cut(self) -> list[SimDisk]:
        """Every disk that a power cut now may leave: nothing, a part, zeros, or all of what was not fsynced."""
        kinds = ("nothing", "half", "zeros", "everything")
        disks: list[SimDisk] = []
        for kind in kinds:
            disk = SimDisk()
            for path, durable in self.durable.items():
                disk.durable[path] = _survivor(durable, self.written.get(path, durable), kind)
            disk.written = dict(disk.durable)
            if all(disk.durable != other.durable for other in disks):
                disks.append(disk)
        return disks

    def read(self, path: str) -> bytes:
        if path not in self.written:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        return self.written[path]

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        return self.read(path)[offset : offset + length]

    def append(self, path: str, data: bytes) -> None:
        self.write_at(path, len(self.written.get(path, b"")), data)

    def write_at(self, path: str, offset: int, data: bytes) -> None:
        self.on_step()
        before = self.written.get(path, b"")
        self.durable.setdefault(path, b"")
        fails = self._fails(path)
        if fails:
            data = data[: len(data) // 2]
        self.written[path] = before[:offset].ljust(offset, b"\0") + data + before[offset + len(data) :]
        if fails:
            raise OSError(errno.ENOSPC, "no space left on device", path)
        self.on_step()

    def size(self, path: str) -> Optional[int]:
        return len(self.written[path]) if path in self.written else None

    def truncate(self, path: str, size: int) -> None:
        self.on_step()
        self.written[path] = self.read(path)[:size].ljust(size, b"\0")
        self.on_step()

    def fsync(self, path: str) -> None:
        self.on_step()
        data = self.read(path)
        if self._fails(path):
            raise OSError(errno.ENOSPC, "no space left on device", path)
        self.durable[path] = data
        self.on_step()

    def replace(self, path: str, data: bytes) -> None:
        self.on_step()
        if self._fails(path):
            raise OSError(errno.ENOSPC, "no space left on device", path)
        self.durable[path] = self.written[path] = data
        self.on_step()

    def rename(self, path: str, new_path: str) -> None:
        self.on_step()
        self.written[new_path] = self.written.pop(path)
        self.durable[new_path] = self.durable.pop(path)
        self.on_step()

    def remove(self, path: str) -> None:
        self.on_step()
        self.durable.pop(path, None)
        self.written.pop(path, None)
        self.on_step()

    def names(self, directory: str) -> list[str]:
        prefix = directory.rstrip("/") + "/"
        return sorted({path[len(prefix) :].split("/")[0] for path in self.written if path.startswith(prefix)})

    def make_directory(self, path: str) -> None:
        """Directories need no making here."""

    def free_bytes(self, path: str) -> int:
        return 1 << 30

    def _fails(self, path: str) -> bool:
        if path.startswith(self.failing_path):
            self.failing -= 1
            return self.failing == 0
        return False


def _survivor(durable: bytes, written: bytes, kind: str) -> bytes:
    if kind == "nothing" or durable == written:
        return durable
    if kind == "everything" or not written.startswith(durable):
        return written
    rest = len(written) - len(durable)
    if kind == "zeros":
        return durable + bytes(rest)
    return written[: len(durable) + rest // 2]
