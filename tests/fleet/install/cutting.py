"""Cutting a process short at each of its calls to the file system, as a power cut or SIGKILL would."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Callable

CALLS = (
    "chmod", "chown", "fsync", "ftruncate", "link", "mkdir", "open", "pwrite", "rename", "replace", "rmdir",
    "scandir", "sendfile", "symlink", "unlink", "utime", "write",
)  # fmt: skip
CUT = 9


def run_cut(act: Callable[[], Any], call: int) -> bool:
    """Run `act` in a child that ends, without a trace of clean-up, at its call number `call`; False once it got by."""
    child = os.fork()
    if child == 0:
        try:
            _arm(call)
            act()
        except BaseException:  # noqa: BLE001 - the child must not come back into the test runner
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, CUT), f"the child failed with {code}"
    return code == CUT


def cuts(act: Callable[[int], Any]) -> Iterator[int]:
    """Cut `act(call)` at its first call, its second, and so on; yields after each cut, ends when nothing is cut."""
    call = 1
    while run_cut(partial(act, call), call):
        yield call
        call += 1
    assert call > 1, "nothing was there to be cut"


def _arm(call: int) -> None:
    left = call

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os._exit(CUT)
            return function(*arguments, **options)

        return wrapper

    for name in CALLS:
        function = getattr(os, name)
        wrapper = counted(function)
        setattr(os, name, wrapper)
        if function in os.supports_follow_symlinks:  # shutil asks there before it dares
            os.supports_follow_symlinks.add(wrapper)


def fingerprint(directory: Path) -> dict[str, tuple[Any, ...]]:
    """All that a directory holds: for each path its mode, times, owner, and content or target."""
    found: dict[str, tuple[Any, ...]] = {}
    for place, directories, names in os.walk(directory):
        for path in [place] + [os.path.join(place, name) for name in directories + names]:
            facts = os.lstat(path)
            content = ""
            if stat.S_ISLNK(facts.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(facts.st_mode):
                with open(path, "rb") as file:
                    content = hashlib.sha256(file.read()).hexdigest()
            key = os.path.relpath(path, directory)
            found[key] = (oct(facts.st_mode), facts.st_mtime_ns, facts.st_uid, facts.st_gid, content)
    return found
