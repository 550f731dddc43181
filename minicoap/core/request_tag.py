"""Telling apart the bodies that are under way to or from one resource at once, by Request-Tag (RFC 9175 §3.5.2).

An operation is matchable to another if both go to the same place with the same method and options. The first goes
without the option, the second with an empty one, further ones with a byte: whatever no other has at the moment. What
one that was cancelled or failed had is free again: the next starts with block 0 and overwrites what was there (§3.3).

An upload that may be gone on with later has a tag of its caller's, which no other body may have (§3.4): to go on is no
recycling, it is the same operation.
"""

from __future__ import annotations

from typing import Optional

from minicoap.core.request import Path
from minicoap.errors import UsageError

_ALONE: tuple[Optional[bytes], ...] = (None,)

Operation = tuple[Path, int, tuple[tuple[int, bytes], ...]]
"""Where to, the method, and the options in order, Block and Request-Tag left out."""


class RequestTags:
    """The tags in use; an operation takes one when it begins and gives it back at its end."""

    __slots__ = ("_in_use",)

    def __init__(self) -> None:
        self._in_use: dict[Operation, tuple[Optional[bytes], ...]] = {}

    def __len__(self) -> int:
        return sum(len(tags) for tags in self._in_use.values())

    def take(self, operation: Operation, *, always: bool) -> Optional[bytes]:
        """Return the shortest tag that no operation like this one has; None for no option, unless `always` one."""
        tags = self._in_use.get(operation, ())
        if not tags and not always:
            self._in_use[operation] = _ALONE
            return None
        tag: Optional[bytes] = b"" if always else None
        number = 0
        while tag in tags:
            tag = b"" if tag is None else number.to_bytes((number.bit_length() + 7) // 8 or 1, "big")
            number += tag != b""
        self._in_use[operation] = (*tags, tag)
        return tag

    def reserve(self, operation: Operation, tag: bytes) -> None:
        """Take the tag of an upload that goes on; raises UsageError if it is under way already."""
        tags = self._in_use.get(operation, ())
        if tag in tags:
            raise UsageError("this upload is under way already: another one like it has the same Request-Tag")
        self._in_use[operation] = (*tags, tag)

    def give_back(self, operation: Operation, tag: Optional[bytes]) -> None:
        """The operation has ended."""
        left = tuple([each for each in self._in_use[operation] if each != tag])
        if left:
            self._in_use[operation] = left
        else:
            del self._in_use[operation]
