"""What a wheel says of itself: the head of its METADATA, read with bounds that hold whatever the file claims.

A wheel is a zip archive (PEP 427), and an archive can claim anything: a directory of millions of files, a file that
unpacks to a thousand times its size. So neither is ever read as a whole. Of the directory, up to DIRECTORY_LIMIT bytes
are searched for the one name that counts; of METADATA no more is unpacked than its head may have, which is all that
counts of it (core metadata: what follows the first empty line is the description).
"""

from __future__ import annotations

import io
import struct
import zlib

DIRECTORY_LIMIT = 4 * 1024 * 1024  # bytes: some 40,000 files
HEAD_LIMIT = 256 * 1024  # bytes of METADATA before its first empty line; whole licences are found there

# What `head_of` raises for bytes that are no wheel, or a damaged one.
UNREADABLE = (OSError, ValueError, struct.error, zlib.error)

_END = struct.Struct("<4s4xHHLLH")  # of central directory record: signature, entries here and in all, size, offset
_ENTRY = struct.Struct("<4s4xHH4xLLLHHH8xL")  # in the directory, up to the file's name
_LOCAL = struct.Struct("<4s22xHH")  # before the file's bytes, up to its name
_END_SIGNATURE = b"PK\5\6"
_ENTRY_SIGNATURE = b"PK\1\2"
_LOCAL_SIGNATURE = b"PK\3\4"
_COMMENT_LIMIT = 0xFFFF  # bytes that may follow the end record
_ENCRYPTED = 1
_STORED, _DEFLATED = 0, 8
_METADATA = b".dist-info/METADATA"
_NAME_LIMIT = 255  # bytes of a file's name that is looked at


def head_of(file: io.RawIOBase) -> str:
    """Return what stands before the first empty line of a wheel's METADATA; raises one of UNREADABLE."""
    end = file.seek(0, io.SEEK_END)
    start = max(0, end - _COMMENT_LIMIT - _END.size)
    tail = _read(file, start, end - start)
    at = tail.rfind(_END_SIGNATURE, 0, len(tail) - _END.size + len(_END_SIGNATURE))
    if at < 0:
        raise ValueError("it is no zip file")
    _, _, _, size, offset, _ = _END.unpack_from(tail, at)
    directory_at = start + at - size
    if size > DIRECTORY_LIMIT or directory_at < offset:
        raise ValueError(f"its directory of files is larger than {DIRECTORY_LIMIT} bytes, or damaged")
    directory = _read(file, directory_at, size)
    return _head(file, directory, directory_at - offset)


def _head(file: io.RawIOBase, directory: bytes, before: int) -> str:
    """Find METADATA in the directory and unpack its head; `before` bytes stand before the archive."""
    found = directory.find(_METADATA)
    while found >= 0:
        end = found + len(_METADATA)
        at = directory.rfind(_ENTRY_SIGNATURE, max(0, end - _NAME_LIMIT - _ENTRY.size), found)
        if at >= 0:
            _, flags, method, checksum, packed, size, length, _, _, offset = _ENTRY.unpack_from(directory, at)
            name_at = at + _ENTRY.size
            if name_at + length == end and b"/" not in directory[name_at:found]:
                if flags & _ENCRYPTED or method not in (_STORED, _DEFLATED):
                    raise ValueError("its METADATA is encrypted, or compressed by another method than deflate")
                return _unpack(_packed(file, before + offset, packed), method, size, checksum)
        found = directory.find(_METADATA, end)
    raise ValueError("it has no METADATA")


def _packed(file: io.RawIOBase, at: int, size: int) -> bytes:
    """The bytes of the file whose local header is at `at`, as far as they can matter."""
    signature, name_length, extra_length = _LOCAL.unpack(_read(file, at, _LOCAL.size))
    if signature != _LOCAL_SIGNATURE:
        raise ValueError("its METADATA is not where its directory says")
    return _read(file, at + _LOCAL.size + name_length + extra_length, min(size, HEAD_LIMIT))


def _unpack(packed: bytes, method: int, size: int, checksum: int) -> str:
    data = packed if method == _STORED else zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, HEAD_LIMIT)
    if len(data) == size and zlib.crc32(data) != checksum:
        raise ValueError("its METADATA is damaged")
    head, empty_line, _ = data.replace(b"\r\n", b"\n").partition(b"\n\n")
    if not empty_line and len(data) != size:
        raise ValueError(f"the head of its METADATA is longer than {HEAD_LIMIT} bytes, or damaged")
    return head.decode(errors="replace")


def _read(file: io.RawIOBase, at: int, size: int) -> bytes:
    file.seek(at)
    data = file.read(size)
    if data is None or len(data) != size:
        raise ValueError("it ends too early")
    return data
