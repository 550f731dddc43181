"""Artifacts: named bytes of the firmware store, known by their SHA-256, and the rules for their names."""

import re
from typing import Optional

import msgspec

from fleet.errors import InvalidError

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_MODE = re.compile(r"0?[0-7]{3}\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Artifact(msgspec.Struct, frozen=True):
    """An artifact's row: `size` in bytes, `sha256` in hex, `created_at` (of this content) in UTC ms."""

    name: str
    size: int
    sha256: str
    created_at: int


def check_artifact_name(name: str, field: str = "$.name") -> str:
    """Return `name` if it may name an artifact, that is one file in one directory; else raise InvalidError."""
    problem = _name_problem(name)
    if problem:
        raise InvalidError(f"{name[:80]!r} is no artifact name: {problem}", field)
    return name


def check_destination(path: str, field: str = "$.path") -> str:
    """Return `path` if it is a relative path that stays below its root; else raise InvalidError."""
    if path.startswith("/"):
        raise InvalidError(f"{path[:80]!r} is absolute; give a path relative to the node's file root", field)
    for segment in path.split("/"):
        problem = _name_problem(segment)
        if problem:
            raise InvalidError(f"{path[:80]!r} is no destination: a segment of it {problem}", field)
    if len(path.encode("utf-8", "replace")) > 1024:
        raise InvalidError("the path is longer than 1024 bytes; shorten it", field)
    return path


def check_mode(mode: str, field: str = "$.mode") -> str:
    """Return `mode` if it is a file mode in octal, `0644`; else raise InvalidError. Set-id and sticky bits are not."""
    if not _MODE.match(mode):
        raise InvalidError(f"{mode[:80]!r} is no file mode; write it in octal, as in '0644'", field)
    return mode


def is_sha256(text: str) -> bool:
    """Whether `text` is a SHA-256 in lower-case hex."""
    return _SHA256.match(text) is not None


def _name_problem(name: str) -> Optional[str]:
    if not name:
        return "is empty"
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return "cannot be written as UTF-8"
    if length > 255:
        return "is longer than 255 bytes"
    if "/" in name or "\\" in name:
        return "holds a '/' or a '\\'"
    if name in (".", ".."):
        return "is '.' or '..'"
    if _CONTROL.search(name):
        return "holds a control character"
    return None
