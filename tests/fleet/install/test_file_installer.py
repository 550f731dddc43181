"""Files of a job: all of them or none, wherever it is cut, and none outside of their root."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any, Optional

import pytest

from fleet.install.file import FileInstaller
from fleet.install.interface import NEW, OLD, PARTIAL, InstallError, Step
from tests.fleet.install.cutting import cuts, fingerprint
from tests.fleet.install.steps import make_step, stored

FILES = FileInstaller()


def make_job(place: Path) -> Step:
    """A root with three files, and a job that replaces two of them, adds two, one in new directories."""
    root = place / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "app.conf").write_text("old=1\n")
    (root / "etc" / "app.conf").chmod(0o640)
    (root / "run.sh").write_text("#!/bin/sh\necho old\n")
    (root / "other").write_text("nobody touches this\n")
    downloads = place / "downloads"
    return make_step(
        place,
        artifacts=(
            stored(downloads, "app.conf", b"new=1\n", path="etc/app.conf"),
            stored(downloads, "run.sh", b"#!/bin/sh\necho new\n", mode="0755"),
            stored(downloads, "deep", b"deep\n", path="a/b/deep", mode="600"),
            stored(downloads, "flat", b""),
        ),
    )


def root_of(step: Step) -> dict[str, Any]:
    """All files below the root, by path; directories without their times, which work in them changes."""
    return {
        path: facts[:1] + facts[2:] if facts[0].startswith("0o4") else facts
        for path, facts in fingerprint(Path(step.file_root)).items()
    }


def test_a_job_puts_its_files_in_place_with_their_modes(tmp_path: Path) -> None:
    step = make_job(tmp_path)
    assert not FILES.requirements(step).already_installed
    assert FILES.inspect(step) == OLD

    FILES.install(step)
    FILES.verify(step)
    assert FILES.inspect(step) == NEW
    FILES.commit(step)
    FILES.clean_up(step)

    found = {
        path: ((tmp_path / "root" / path).read_bytes(), facts[0])
        for path, facts in root_of(step).items()
        if facts[0].startswith("0o10")
    }
    assert found == {
        "etc/app.conf": (b"new=1\n", "0o100640"),  # the mode it had
        "run.sh": (b"#!/bin/sh\necho new\n", "0o100755"),
        "a/b/deep": (b"deep\n", "0o100600"),
        "flat": (b"", "0o100644"),
        "other": (b"nobody touches this\n", "0o100644"),
    }
    assert FILES.inspect(step) == NEW
    assert FILES.requirements(step).already_installed
    assert not Path(step.work_directory).exists()


def test_roll_back_restores_what_was_replaced_and_removes_what_was_new(tmp_path: Path) -> None:
    step = make_job(tmp_path)
    before = root_of(step)
    FILES.install(step)
    assert root_of(step) != before

    FILES.roll_back(step)

    assert root_of(step) == before
    assert FILES.inspect(step) == OLD
    FILES.roll_back(step)
    FILES.clean_up(step)
    assert root_of(step) == before


def test_an_install_cut_at_any_call_is_told_from_the_disk_and_rolled_back(tmp_path: Path, no_sync: None) -> None:
    seen = set()
    steps = {1: make_job(tmp_path / "1")}
    before = root_of(steps[1])
    for call in cuts(lambda call: FILES.install(steps[call])):
        step = steps[call]
        condition = FILES.inspect(step)
        seen.add(condition)
        if condition == OLD:
            assert root_of(step) == before, f"cut at {call}: called old, but changed"
        if condition == NEW:
            FILES.verify(step)
        if call % 2:
            FILES.roll_back(step)
            assert root_of(step) == before, f"cut at {call}: not rolled back"
        else:  # done again instead
            FILES.install(step)
            FILES.verify(step)
            FILES.roll_back(step)
            assert root_of(step) == before, f"cut at {call}: not rolled back after a second install"
        FILES.clean_up(step)
        assert not Path(step.work_directory).exists()
        steps[call + 1] = make_job(tmp_path / str(call + 1))
        before = root_of(steps[call + 1])
    assert seen == {OLD, PARTIAL, NEW}


def test_a_roll_back_cut_at_any_call_is_finished_by_the_next(tmp_path: Path, no_sync: None) -> None:
    before = {}
    steps: dict[int, Step] = {}

    def prepare(call: int) -> None:
        steps[call] = make_job(tmp_path / str(call))
        before[call] = root_of(steps[call])
        FILES.install(steps[call])

    prepare(1)
    for call in cuts(lambda call: FILES.roll_back(steps[call])):
        FILES.clean_up(steps[call])  # must not take what is needed

        FILES.roll_back(steps[call])

        assert root_of(steps[call]) == before[call], f"cut at {call}"
        prepare(call + 1)


def test_a_commit_cut_at_any_call_is_finished_by_the_next_or_by_clean_up(tmp_path: Path, no_sync: None) -> None:
    steps: dict[int, Step] = {}

    def prepare(call: int) -> None:
        steps[call] = make_job(tmp_path / str(call))
        FILES.install(steps[call])

    prepare(1)
    refused = 0
    for call in cuts(lambda call: FILES.commit(steps[call])):
        step, record = steps[call], Path(steps[call].work_directory) / "files.json"
        if call % 2:
            FILES.commit(step)
        elif record.exists() and "committed" in record.read_text():
            with pytest.raises(InstallError, match="committed"):
                FILES.roll_back(step)
            refused += 1
        else:
            FILES.commit(step)
        FILES.clean_up(step)
        FILES.verify(step)
        assert not [path for path in root_of(step) if "fleet" in path], f"cut at {call}: leftovers"
        prepare(call + 1)
    assert refused


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed process did is there whether it was synced or not; real syncs would only take their time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.parametrize("call", ["copyfile", "replace"])
def test_a_full_disk_is_rolled_back_to_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    step = make_job(tmp_path)
    before = root_of(step)
    with monkeypatch.context() as patch:
        target: Any = shutil if call == "copyfile" else os
        function, left = getattr(target, call), [3]

        def full(*arguments: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return function(*arguments)

        patch.setattr(target, call, full)
        with pytest.raises(OSError, match="No space"):
            FILES.install(step)

    assert FILES.inspect(step) == PARTIAL
    FILES.roll_back(step)
    assert root_of(step) == before


def test_without_hard_links_the_old_content_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_sync: None
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    steps = {1: make_job(tmp_path / "1")}
    before = root_of(steps[1])
    for call in cuts(lambda call: FILES.install(steps[call])):
        FILES.roll_back(steps[call])
        assert root_of(steps[call]) == before, f"cut at {call}"
        steps[call + 1] = make_job(tmp_path / str(call + 1))
        before = root_of(steps[call + 1])


REFUSED_PATHS = {
    "../outside": "no plain path",
    "a/../../outside": "no plain path",
    "/etc/passwd": "no plain path",
    "a//b": "no plain path",
    "./a": "no plain path",
    "dir/": "no plain path",
    "nul\0": "no plain path",
    "..": "no plain path",
    "link-out/file": "leads out of the file root",
    "link-up/file": "leads out of the file root",
    "link-file": "no regular file",
    "directory": "no regular file",
    "pipe": "no regular file",
    "plain/file": "needs a directory",
}


@pytest.mark.parametrize("path", REFUSED_PATHS)
@pytest.mark.parametrize("verb", ["requirements", "install"])
def test_a_path_that_leaves_the_root_or_cannot_be_a_file_is_refused(tmp_path: Path, path: str, verb: str) -> None:
    root = tmp_path / "root"
    (root / "directory").mkdir(parents=True)
    (root / "plain").write_text("a file\n")
    (root / "link-out").symlink_to(tmp_path)
    (root / "link-up").symlink_to("..")
    (root / "link-file").symlink_to(tmp_path / "outside")
    os.mkfifo(root / "pipe")
    step = make_step(tmp_path, artifacts=(stored(tmp_path / "downloads", "x", b"x", path=path),))

    with pytest.raises(InstallError, match=REFUSED_PATHS[path]) as caught:
        getattr(FILES, verb)(step)

    assert caught.value.reason == "unsupported"
    assert sorted(os.listdir(tmp_path)) == ["downloads", "root"]


def test_a_link_that_stays_in_the_root_is_followed(tmp_path: Path) -> None:
    (tmp_path / "root" / "v2").mkdir(parents=True)
    (tmp_path / "root" / "current").symlink_to("v2")
    step = make_step(tmp_path, artifacts=(stored(tmp_path / "downloads", "x", b"x", path="current/x"),))

    FILES.install(step)

    assert (tmp_path / "root" / "v2" / "x").read_bytes() == b"x"


def test_the_root_may_be_reached_by_a_link_and_is_made_when_missing(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    step = make_step(
        tmp_path, file_root=str(tmp_path / "link" / "files"), artifacts=(stored(tmp_path / "downloads", "x", b"x"),)
    )

    FILES.requirements(step)
    FILES.install(step)
    assert (tmp_path / "real" / "files" / "x").read_bytes() == b"x"
    FILES.roll_back(step)

    assert os.listdir(tmp_path / "real") == []


@pytest.mark.parametrize(
    ("paths", "mode", "packages", "text"),
    [
        (["a", "a"], None, (), "two files"),
        (["a", "a/b"], None, (), "two files"),
        (["a"], "8", (), "octal"),
        (["a"], "", (), "octal"),
        (["a"], "-1", (), "octal"),
        (["a"], "4755", (), "octal"),
        (["a"], "0o644", (), "octal"),
        (["a"], None, ("demo==1",), "no packages"),
    ],
)
def test_what_a_file_job_cannot_mean_is_refused(
    tmp_path: Path, paths: list[str], mode: Optional[str], packages: tuple[str, ...], text: str
) -> None:
    artifacts = tuple(stored(tmp_path / "downloads", "x", b"x", path=path, mode=mode) for path in paths)
    step = make_step(tmp_path, artifacts=artifacts, packages=packages)

    with pytest.raises(InstallError, match=text) as caught:
        FILES.requirements(step)

    assert caught.value.reason == "unsupported"


@pytest.mark.parametrize("damage", ["content", "mode", "missing", "link"])
def test_verify_finds(tmp_path: Path, damage: str) -> None:
    step = make_job(tmp_path)
    FILES.install(step)
    path = tmp_path / "root" / "run.sh"
    content = path.read_bytes()
    if damage == "content":
        path.write_bytes(content[:-1])
    elif damage == "mode":
        path.chmod(0o644)
    else:
        path.unlink()
    if damage == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(InstallError, match=r"run\.sh"):
        FILES.verify(step)
    assert FILES.inspect(step) == PARTIAL


def test_the_record_is_on_the_disk_before_anything_is_touched_and_new_content_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = make_job(tmp_path)
    trace: list[str] = []
    fsync, replace, link = os.fsync, os.replace, os.link

    def name(path: str) -> str:
        path = os.path.relpath(path, tmp_path)
        return os.path.join(os.path.dirname(path), "NEW" if path.endswith(".new") else os.path.basename(path))

    def traced_fsync(descriptor: int) -> None:
        trace.append("sync " + name(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def traced_replace(old: str, new: str) -> None:
        trace.append("put " + name(new))
        replace(old, new)

    def traced_link(old: str, new: str) -> None:
        trace.append("keep " + name(old))
        link(old, new)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "replace", traced_replace)
    monkeypatch.setattr(os, "link", traced_link)
    FILES.install(step)

    first = trace.index("put work/job-1/files.json")
    assert trace[first + 1] == "sync work/job-1"
    assert not [line for line in trace[:first] if "root" in line]
    rest = trace[first + 2 :]
    assert rest == [
        "sync root", "sync root/a",  # a and a/b were made
        "sync root/etc/NEW", "sync root/NEW", "sync root/a/b/NEW", "sync root/NEW",
        "keep root/etc/app.conf", "keep root/run.sh",
        "sync root", "sync root/a/b", "sync root/etc",
        "put root/etc/app.conf", "put root/run.sh", "put root/a/b/deep", "put root/flat",
        "sync root", "sync root/a/b", "sync root/etc",
        "sync work/job-1/files.json.tmp", "put work/job-1/files.json", "sync work/job-1",
    ]  # fmt: skip
