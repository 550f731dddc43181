"""A directory's backup: cut at every call to the file system, it says what is there and puts back what was."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from fleet.install import snapshot as module
from fleet.install.interface import ROLLBACK_FAILED, UNSUPPORTED, InstallError
from fleet.install.snapshot import CHANGED, CHANGING, SAVED, Snapshot, copy_tree, tree_bytes
from tests.fleet.install.cutting import cuts, fingerprint

OURS = ("job-1", 1)
OTHERS = ("job-2", 1)


def make_environment(place: Path) -> Path:
    """A small directory of all that an environment is made of."""
    environment = place / "environment"
    (environment / "lib" / "package").mkdir(parents=True)
    (environment / "bin").mkdir()
    (environment / "lib" / "package" / "module.py").write_text("version = 1\n")
    (environment / "lib" / "package" / "empty").write_text("")
    (environment / "lib" / "gone.py").write_text("to be removed\n")
    (environment / "lib64").symlink_to("lib")
    (environment / "bin" / "python").symlink_to("/nonexistent/python")
    (environment / "bin" / "tool").write_text("#!/bin/sh\n")
    (environment / "bin" / "tool").chmod(0o755)
    os.utime(environment / "lib" / "package" / "module.py", ns=(10**18, 10**18 + 1))
    return environment


def change(environment: Path) -> None:
    (environment / "lib" / "package" / "module.py").write_text("version = 2\n")
    os.unlink(environment / "lib" / "gone.py")
    os.mkdir(environment / "lib" / "new")
    (environment / "lib" / "new" / "file").write_text("new\n")


def contents(environment: Path) -> dict[str, object]:
    """The fingerprint without the times, to compare two makings."""
    return {path: (facts[0], facts[-1]) for path, facts in fingerprint(environment).items()}


def update(environment: Path, owner: tuple[str, int]) -> None:
    """What an installer does, up to the point where it asks for the verdict."""
    snapshot = Snapshot(str(environment), *owner)
    snapshot.recover()
    snapshot.save()
    snapshot.mark(CHANGING)
    change(environment)
    snapshot.mark(CHANGED)


def beside(environment: Path) -> list[str]:
    return sorted(path.name for path in environment.parent.iterdir() if path != environment)


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed process did is there whether it was synced or not; real syncs would only take their time."""
    monkeypatch.setattr(module, "sync_file_system", lambda path: None)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def test_a_copy_is_the_same_to_the_nanosecond(tmp_path: Path) -> None:
    environment = make_environment(tmp_path)

    copy_tree(str(environment), str(tmp_path / "copy"))

    assert fingerprint(tmp_path / "copy") == fingerprint(environment)
    assert tree_bytes(str(environment)) == tree_bytes(str(tmp_path / "copy")) > 0


def test_a_copy_keeps_owners(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    environment = make_environment(tmp_path)
    os.chown(environment / "lib" / "gone.py", 1234, 1235)
    os.chown(environment / "bin" / "python", 1236, 1237, follow_symlinks=False)

    copy_tree(str(environment), str(tmp_path / "copy"))

    assert fingerprint(tmp_path / "copy") == fingerprint(environment)


def test_what_cannot_be_copied_is_refused_and_nothing_stays_behind(tmp_path: Path) -> None:
    environment = make_environment(tmp_path)
    os.mkfifo(environment / "pipe")

    with pytest.raises(InstallError, match="pipe") as caught:
        Snapshot(str(environment), *OURS).save()

    assert caught.value.reason == UNSUPPORTED
    assert beside(environment) == []


def test_undo_gives_back_exactly_what_was_there_and_leaves_nothing_beside(tmp_path: Path) -> None:
    environment = make_environment(tmp_path)
    before = fingerprint(environment)
    update(environment, OURS)
    snapshot = Snapshot(str(environment), *OURS)
    assert snapshot.stage() == CHANGED
    assert fingerprint(environment) != before

    snapshot.undo()

    assert fingerprint(environment) == before
    assert beside(environment) == []
    assert snapshot.stage() is None
    snapshot.undo()
    assert fingerprint(environment) == before


def test_accept_keeps_the_change_and_leaves_nothing_beside(tmp_path: Path) -> None:
    environment = make_environment(tmp_path)
    update(environment, OURS)
    after = fingerprint(environment)

    Snapshot(str(environment), *OURS).accept()
    Snapshot(str(environment), *OURS).undo()

    assert fingerprint(environment) == after
    assert beside(environment) == []


@pytest.mark.usefixtures("quick_disk")
def test_an_update_cut_at_any_call_says_how_far_it_came_and_can_be_undone(tmp_path: Path) -> None:
    seen = set()
    changed = contents_after_change(tmp_path / "changed")

    def cut(call: int) -> None:
        update(tmp_path / str(call) / "environment", OURS)

    make_environment(tmp_path / "1")
    before = fingerprint(tmp_path / "1" / "environment")
    for call in cuts(cut):
        environment = tmp_path / str(call) / "environment"
        snapshot = Snapshot(str(environment), *OURS)
        stage = snapshot.stage()
        seen.add(stage)
        if stage in (None, SAVED):
            assert fingerprint(environment) == before, f"cut at {call}: {stage}, but changed"
        if stage == CHANGED:
            assert contents(environment) == changed, f"cut at {call}: {stage}, but not all of it"

        snapshot.undo()
        snapshot.clean_up()

        assert fingerprint(environment) == before, f"cut at {call}: not undone"
        assert beside(environment) == [], f"cut at {call}: leftovers"
        make_environment(tmp_path / str(call + 1))
        before = fingerprint(tmp_path / str(call + 1) / "environment")
    assert seen >= {None, SAVED, CHANGING}


def contents_after_change(place: Path) -> dict[str, object]:
    environment = make_environment(place)
    change(environment)
    return contents(environment)


@pytest.mark.parametrize("stage", [CHANGING, CHANGED])
@pytest.mark.usefixtures("quick_disk")
def test_undo_cut_at_any_call_is_finished_by_the_next(tmp_path: Path, stage: str) -> None:
    fingerprints = {}

    def prepare(call: int) -> None:
        environment = make_environment(tmp_path / str(call))
        fingerprints[call] = fingerprint(environment)
        update(environment, OURS)
        Snapshot(str(environment), *OURS).mark(stage)

    prepare(1)
    for call in cuts(lambda call: Snapshot(str(tmp_path / str(call) / "environment"), *OURS).undo()):
        environment = tmp_path / str(call) / "environment"
        snapshot = Snapshot(str(environment), *OURS)

        snapshot.clean_up()  # must not take what is needed
        snapshot.undo()

        assert fingerprint(environment) == fingerprints[call], f"cut at {call}"
        assert beside(environment) == [], f"cut at {call}"
        prepare(call + 1)


@pytest.mark.usefixtures("quick_disk")
def test_accept_cut_at_any_call_is_either_undone_whole_or_finished(tmp_path: Path) -> None:
    fingerprints = {}
    verdicts = set()

    def prepare(call: int) -> None:
        environment = make_environment(tmp_path / str(call))
        old = fingerprint(environment)
        update(environment, OURS)
        fingerprints[call] = (old, fingerprint(environment))

    prepare(1)
    for call in cuts(lambda call: Snapshot(str(tmp_path / str(call) / "environment"), *OURS).accept()):
        environment = tmp_path / str(call) / "environment"
        old, new = fingerprints[call]
        assert fingerprint(environment) == new
        accepted = Snapshot(str(environment), *OURS).stage() is None
        verdicts.add(accepted)

        if call % 2:
            Snapshot(str(environment), *OURS).accept()
            assert fingerprint(environment) == new
        else:
            Snapshot(str(environment), *OURS).undo()
            assert fingerprint(environment) == (new if accepted else old), f"cut at {call}"
        assert beside(environment) == [], f"cut at {call}"
        prepare(call + 1)
    assert verdicts == {True, False}


@pytest.mark.usefixtures("quick_disk")
def test_an_unfinished_change_of_another_job_is_undone_by_the_next_however_often_that_is_cut(tmp_path: Path) -> None:
    fingerprints = {}

    def prepare(call: int) -> None:
        environment = make_environment(tmp_path / str(call))
        fingerprints[call] = fingerprint(environment)
        update(environment, OTHERS)

    prepare(1)
    for call in cuts(lambda call: Snapshot(str(tmp_path / str(call) / "environment"), *OURS).recover()):
        environment = tmp_path / str(call) / "environment"
        snapshot = Snapshot(str(environment), *OURS)
        assert snapshot.stage() is None, "it is not ours"
        snapshot.clean_up()

        snapshot.recover()

        assert fingerprint(environment) == fingerprints[call], f"cut at {call}"
        assert beside(environment) == []
        prepare(call + 1)


def test_verbs_of_one_attempt_leave_the_backup_of_another_alone(tmp_path: Path) -> None:
    environment = make_environment(tmp_path)
    before = fingerprint(environment)
    update(environment, OTHERS)
    changed = fingerprint(environment)

    for snapshot in (Snapshot(str(environment), *OURS), Snapshot(str(environment), OTHERS[0], 2)):
        snapshot.undo()
        snapshot.accept()
        snapshot.clean_up()

    assert fingerprint(environment) == changed
    Snapshot(str(environment), *OTHERS).undo()
    assert fingerprint(environment) == before


def test_a_full_disk_while_copying_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = make_environment(tmp_path)

    def full(source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", target)

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space"):
        Snapshot(str(environment), *OURS).save()

    assert beside(environment) == []


def test_a_backup_whose_record_is_unreadable_is_neither_used_nor_lost(tmp_path: Path) -> None:
    environment = make_environment(tmp_path)
    update(environment, OURS)
    (tmp_path / "environment.fleet-backup" / "state.json").write_text("{")

    for verb in ("recover", "undo", "accept", "clean_up"):
        with pytest.raises(InstallError, match="cannot be used") as caught:
            getattr(Snapshot(str(environment), *OURS), verb)()
        assert caught.value.reason == ROLLBACK_FAILED

    assert (tmp_path / "environment.fleet-backup" / "content" / "lib" / "gone.py").exists()


def test_the_disk_holds_the_copy_before_its_name_and_the_change_before_its_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = make_environment(tmp_path)
    trace: list[str] = []

    def name(path: str) -> str:
        return os.path.relpath(path, tmp_path).replace("environment.fleet-", "")

    sync, rename, replace = module.sync_file_system, os.rename, os.replace

    def traced_sync(path: str) -> None:
        trace.append(f"sync all {name(path)}")
        sync(path)

    def traced_rename(old: str, new: str) -> None:
        trace.append(f"{name(old)} -> {name(new)}")
        rename(old, new)

    def traced_path(path: str) -> None:
        trace.append(f"sync {name(path)}")

    monkeypatch.setattr(module, "sync_file_system", traced_sync)
    monkeypatch.setattr(module, "sync_path", traced_path)
    monkeypatch.setattr(os, "rename", traced_rename)
    monkeypatch.setattr(os, "replace", lambda old, new: (trace.append(f"write {name(new)}"), replace(old, new))[1])

    update(environment, OURS)
    Snapshot(str(environment), *OURS).undo()

    assert trace == [
        "write backup.partial/state.json",
        "sync all backup.partial",
        "backup.partial -> backup",
        "sync .",
        "write backup/state.json",  # CHANGING
        "sync all environment",
        "write backup/state.json",  # CHANGED
        "environment -> discard",
        "sync .",
        "backup/content -> environment",
        "sync .",
        "sync backup",
        "backup -> discard",
        "sync .",
    ]
