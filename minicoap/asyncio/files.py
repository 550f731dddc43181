"""Files as bodies: read block by block for an upload, written block by block by a download."""

from __future__ import annotations

import os
import zlib
from typing import BinaryIO, Optional

from minicoap.core.request import Response
from minicoap.errors import StorageError


class FileSource:
    """A file as the body of a request or response; a context manager that closes it. Raises StorageError.

    Its ETag, where none is given, is made of the file's identity, length and time of change.
    """

    def __init__(self, name: str, *, etag: Optional[bytes] = None) -> None:
        try:
            self._file: BinaryIO = open(name, "rb")  # noqa: SIM115  closed by `close`
        except OSError as error:
            raise StorageError(f"cannot read {name}", error) from error
        found = os.fstat(self._file.fileno())
        self._size = found.st_size
        if etag is None:
            etag = zlib.crc32(f"{found.st_ino} {found.st_size} {found.st_mtime_ns}".encode()).to_bytes(4, "big")
        self._etag = etag

    def __enter__(self) -> FileSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def size(self) -> int:
        """The file's length in bytes when it was opened."""
        return self._size

    @property
    def etag(self) -> Optional[bytes]:
        """What was given, or what changes with the file."""
        return self._etag

    def read_at(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, fewer at the end; raises OSError."""
        return os.pread(self._file.fileno(), length, offset)


class FileSink:
    """Writes the body of a response into a file, or to a device; a context manager that closes it.

    It is opened and emptied when the first block is there: a refusal leaves it untouched.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._file: Optional[BinaryIO] = None

    def __enter__(self) -> FileSink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, if it was opened."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def begin(self, response: Response, size: Optional[int]) -> None:
        """Open the file; raises OSError."""
        self.close()
        self._file = open(self._name, "wb")  # noqa: SIM115  closed by `close`

    def write_at(self, offset: int, data: bytes) -> None:
        """Write the next block; raises OSError."""
        if self._file is not None:
            self._file.write(data)
