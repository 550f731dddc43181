"""The file that a download grows in: NAME.part, with its state beside it, until it is whole and becomes NAME.

Whatever ends a download before its time (a lost network, a cancelled task, a killed process, a power cut), the next one
of the same URI goes on where the state says. The state never promises more than the file has: the file is synced before
the state is replaced, each time `SYNC_STEP` bytes have come.
"""

from __future__ import annotations

import json
import os
from typing import Optional

from minicoap.codec.options import BLOCK2, Q_BLOCK2
from minicoap.core.body import Digest, TransferState, decode_block
from minicoap.core.request import Response
from minicoap.errors import StorageError, UsageError

SYNC_STEP = 1024 * 1024  # bytes between syncs: what a power cut costs at most
_CHUNK = 64 * 1024  # bytes read at a time of what is stored already


class PartFile:
    """A `ClientSink` for the download of `uri` to the file `name`; a context manager that saves the state and closes.

    `state` is what an earlier download left, or how far this one is. `digest` is fed what is stored already when the
    server has shown that the body is the same. A file is made when the first block is there: a refusal leaves all as it
    was. Methods raise OSError.
    """

    any_order = True

    def __init__(self, name: str, uri: str, digest: Optional[Digest] = None) -> None:
        self._name = name
        self._part = part_name(name)
        self._digest = digest
        self._file: Optional[int] = None
        self._synced = 0
        self.state = self._stored_state(uri)

    def __enter__(self) -> PartFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            try:
                self._sync()
            except OSError as error:
                raise StorageError(f"the state of {self._part} cannot be saved", error) from error
            finally:
                self._close()

    # ClientSink

    def begin(self, response: Response, size: Optional[int]) -> None:
        """Open the file and cut it to where the download goes on, as the first block's number tells."""
        value = response.options.uint(BLOCK2)
        if value is None:
            value = response.options.uint(Q_BLOCK2)
        block = None if value is None else decode_block(value)
        offset = block.offset if block is not None else 0
        # What is stored may be of another body: after a crash it must not pass for this one's beginning.
        if not offset and _remove(_state_name(self._part)):
            _sync_directory(self._part)
        self._file = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        os.ftruncate(self._file, offset)
        self._synced = offset
        if self._digest is not None:
            for at in range(0, offset, _CHUNK):
                self._digest.update(os.pread(self._file, min(_CHUNK, offset - at), at))

    def write_at(self, offset: int, data: bytes) -> None:
        """Write a block, in whatever order."""
        if self._file is not None:
            os.pwrite(self._file, data, offset)

    # Beyond

    def moved_on(self, state: TransferState) -> None:
        """So much is there without a gap."""
        self.state = state
        if state.offset - self._synced >= SYNC_STEP:
            self._sync()

    def finish(self) -> None:
        """The body is whole: sync it and give it its name."""
        if self._file is None:
            return
        os.ftruncate(self._file, self.state.offset)
        os.fsync(self._file)
        self._close()
        os.replace(self._part, self._name)
        _sync_directory(self._name)
        _remove(_state_name(self._part))

    def _stored_state(self, uri: str) -> TransferState:
        """Return the state beside the file if it can be believed: of this URI, of a body with a name, of a file."""
        try:
            with open(_state_name(self._part), encoding="utf-8") as file:
                state = TransferState.from_dict(json.load(file))
            if state.uri == uri and state.etag is not None and os.path.getsize(self._part) >= state.offset:
                return state
        except (OSError, ValueError, UsageError):  # none, or none of ours: begin at the beginning
            pass
        return TransferState(uri)

    def _sync(self) -> None:
        assert self._file is not None
        os.fsync(self._file)
        name = _state_name(self._part)
        with open(f"{name}.new", "w", encoding="utf-8") as file:
            json.dump(self.state.as_dict(), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(f"{name}.new", name)
        self._synced = self.state.offset

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def part_name(name: str) -> str:
    """Return what the file is called until it is whole."""
    return f"{name}.part"


def discard_part(name: str) -> None:
    """Forget what an earlier download of `name` left; raises StorageError."""
    try:
        _remove(_state_name(part_name(name)))
        _remove(part_name(name))
    except OSError as error:
        raise StorageError(f"{part_name(name)} cannot be removed", error) from error


def _state_name(part: str) -> str:
    return f"{part}.state"


def _sync_directory(name: str) -> None:
    """Have the removal or the renaming of a file survive a power cut."""
    directory = os.open(os.path.dirname(name) or ".", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _remove(name: str) -> bool:
    """Remove a file; False if there was none."""
    try:
        os.remove(name)
    except FileNotFoundError:
        return False
    return True
