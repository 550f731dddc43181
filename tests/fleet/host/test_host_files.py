"""Files of the operating system: what they promise, and that the promises are kept by the right system calls."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fleet.host.files import OPEN_FILES, SystemFiles, replace_file


def test_what_was_written_is_read_whatever_way_it_was_written(tmp_path: Path) -> None:
    files, path = SystemFiles(), str(tmp_path / "data")

    files.append(path, b"abc")
    files.write_at(path, 5, b"fg")
    files.append(path, b"h")
    files.write_at(path, 3, b"de")

    assert files.read(path) == b"abcdefgh"
    assert files.read_at(path, 2, 3) == b"cde"
    assert files.read_at(path, 6, 100) == b"gh"
    assert files.read_at(path, 8, 1) == b""
    assert files.size(path) == 8


def test_truncate_cuts_and_the_next_append_goes_on_there(tmp_path: Path) -> None:
    files, path = SystemFiles(), str(tmp_path / "data")
    files.append(path, b"0123456789")

    files.truncate(path, 4)
    files.append(path, b"x")

    assert files.read(path) == b"0123x"


def test_missing_files(tmp_path: Path) -> None:
    files, path = SystemFiles(), str(tmp_path / "none")

    assert files.size(path) is None
    files.remove(path)
    for act in (
        lambda: files.read(path),
        lambda: files.read_at(path, 0, 1),
        lambda: files.truncate(path, 0),
        lambda: files.fsync(path),
        lambda: files.names(path),
        lambda: files.rename(path, path + "2"),
    ):
        with pytest.raises(FileNotFoundError):
            act()
    assert not os.path.exists(path)


def test_replace_rename_and_remove_leave_no_stale_descriptor_behind(tmp_path: Path) -> None:
    files, path, other = SystemFiles(), str(tmp_path / "data"), str(tmp_path / "other")
    files.append(path, b"one")
    files.append(other, b"other")

    files.replace(path, b"two")
    files.append(path, b"!")
    assert files.read(path) == b"two!"

    files.rename(other, path)
    files.append(path, b"?")
    assert files.read(path) == b"other?"

    files.remove(path)
    files.append(path, b"anew")
    assert files.read(path) == b"anew"
    assert files.names(str(tmp_path)) == ["data"]


def test_only_a_few_descriptors_stay_open_and_close_lets_them_go(tmp_path: Path) -> None:
    files, before = SystemFiles(), open_descriptors()

    for number in range(3 * OPEN_FILES):
        files.append(str(tmp_path / str(number)), b"x")

    assert open_descriptors() == before + OPEN_FILES
    files.close()
    assert open_descriptors() == before
    assert files.read_at(str(tmp_path / "0"), 0, 9) == b"x"
    files.close()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_failing_replace_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, path = SystemFiles(), str(tmp_path / "data")
    files.replace(path, b"old")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        files.replace(path, b"new")

    assert files.read(path) == b"old"


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, path, pwrite = SystemFiles(), str(tmp_path / "data"), os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: pwrite(descriptor, data[:3], offset))

    files.append(path, b"0123456789")
    files.replace(path + "2", b"0123456789")

    assert files.read(path) == files.read(path + "2") == b"0123456789"


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        # Each line: a call, and the durable order it owes: data before the name, the name before the answer.
        ("append-new", ["fsync DIR"]),
        ("append-known", []),
        ("fsync", ["fsync data"]),
        ("replace", ["fsync data.tmp", "rename data.tmp data", "fsync DIR"]),
        ("rename", ["rename data moved", "fsync DIR"]),
        ("rename-across", ["rename data moved", "fsync sub", "fsync DIR"]),
        ("remove", ["unlink data", "fsync DIR"]),
        ("make", ["mkdir a", "fsync DIR", "mkdir b", "fsync a"]),
    ],
)
def test_names_are_durable_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str, expected: list[str]
) -> None:
    files, path, directory = SystemFiles(), str(tmp_path / "data"), str(tmp_path)
    (tmp_path / "sub").mkdir()
    if act != "append-new":
        files.append(path, b"x")
    trace = traced(monkeypatch, directory)

    {
        "append-new": lambda: files.append(path, b"x"),
        "append-known": lambda: files.append(path, b"x"),
        "fsync": lambda: files.fsync(path),
        "replace": lambda: files.replace(path, b"y"),
        "rename": lambda: files.rename(path, str(tmp_path / "moved")),
        "rename-across": lambda: files.rename(path, str(tmp_path / "sub" / "moved")),
        "remove": lambda: files.remove(path),
        "make": lambda: files.make_directory(str(tmp_path / "a" / "b")),
    }[act]()

    assert trace == expected


def traced(monkeypatch: pytest.MonkeyPatch, directory: str) -> list[str]:
    """The durable system calls from now on, by the last part of the paths they concern."""
    trace: list[str] = []

    def name(path: str) -> str:
        return "DIR" if path == directory else os.path.basename(path)

    fsync, replace, unlink, mkdir = os.fsync, os.replace, os.unlink, os.mkdir

    def traced_fsync(descriptor: int) -> None:
        trace.append("fsync " + name(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def traced_replace(old: str, new: str) -> None:
        trace.append(f"rename {name(old)} {name(new)}")
        replace(old, new)

    def traced_unlink(path: str) -> None:
        trace.append("unlink " + name(path))
        unlink(path)

    def traced_mkdir(path: str) -> None:
        trace.append("mkdir " + name(path))
        mkdir(path)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "replace", traced_replace)
    monkeypatch.setattr(os, "unlink", traced_unlink)
    monkeypatch.setattr(os, "mkdir", traced_mkdir)
    return trace


def test_directories_and_space(tmp_path: Path) -> None:
    files = SystemFiles()

    files.make_directory(str(tmp_path / "a" / "b"))
    files.make_directory(str(tmp_path / "a" / "b"))
    files.append(str(tmp_path / "z"), b"")

    assert files.names(str(tmp_path)) == ["a", "z"]
    with pytest.raises(FileExistsError):
        files.make_directory(str(tmp_path / "z"))
    assert files.free_bytes(str(tmp_path)) > 0


def test_a_replaced_file_has_its_permissions_from_birth_whatever_a_crash_left(tmp_path: Path) -> None:
    path = str(tmp_path / "key")
    Path(path + ".tmp").write_text("left by a crash")
    os.chmod(path + ".tmp", 0o666)
    with open(path + ".tmp", "rb") as looking:
        replace_file(path, b"secret", 0o600)
        assert b"secret" not in looking.read()

    assert os.stat(path).st_mode & 0o777 == 0o600
    assert Path(path).read_bytes() == b"secret"
    assert os.listdir(tmp_path) == ["key"]
