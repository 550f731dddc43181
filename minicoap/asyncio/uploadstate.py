"""The file that tells a later process how far an upload has come.

It is written each `SAVE_STEP` bytes and at the end of an attempt that came to nothing. Nothing depends on it: a state
that is behind costs the blocks between, and without one the upload begins anew. So it is not synced.
"""

from __future__ import annotations

import json
import os

from minicoap.core.body import TransferState
from minicoap.errors import StorageError, UsageError

SAVE_STEP = 64 * 1024  # bytes


class UploadState:
    """The state of the upload to `uri` in the file `name`; a context manager that saves it.

    `state` is what an earlier attempt left, or how far this one is. Raises StorageError, `moved_on` OSError.
    """

    def __init__(self, name: str, uri: str) -> None:
        self._name = name
        self._is_saved = True
        self._saved = 0  # bytes
        self.state = TransferState(uri)
        try:
            with open(name, encoding="utf-8") as file:
                state = TransferState.from_dict(json.load(file))
            if state.uri == uri:
                self.state = state
        except (FileNotFoundError, ValueError, UsageError):  # none, or none of ours: begin at the beginning
            pass
        except OSError as error:
            raise StorageError(f"the state of the upload cannot be read from {name}", error) from error

    def __enter__(self) -> UploadState:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_saved:
            try:
                self._save()
            except OSError as error:
                raise StorageError("the state of the upload cannot be saved", error) from error

    def moved_on(self, state: TransferState) -> None:
        """The server has so much."""
        self.state = state
        self._is_saved = False
        if not self._saved <= state.offset < self._saved + SAVE_STEP:
            self._save()

    def finish(self) -> None:
        """The server has it all."""
        self._is_saved = True
        try:
            os.remove(self._name)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StorageError(f"{self._name} cannot be removed", error) from error

    def _save(self) -> None:
        self._is_saved = True
        self._saved = self.state.offset
        with open(f"{self._name}.new", "w", encoding="utf-8") as file:
            json.dump(self.state.as_dict(), file)
        os.replace(f"{self._name}.new", self._name)
