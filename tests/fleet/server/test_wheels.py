"""Which wheels of the store a pip job is pinned to."""

from __future__ import annotations

import hashlib
import io
import random
import struct
import tracemalloc
import zipfile

import pytest

from fleet.errors import InvalidError
from fleet.model.artifacts import Artifact
from fleet.model.jobs import ArtifactWish, JobSpec
from fleet.server import wheels
from fleet.server.artifacts import ArtifactStore
from fleet.server.wheelfile import DIRECTORY_LIMIT, HEAD_LIMIT
from fleet.server.wheels import pin, wheel_of
from tests.fleet.install.wheels import build_wheel
from tests.fleet.pretended import MemoryFiles


class Shelf:
    """A store and what is in it, filled with wheels made by hand."""

    def __init__(self, directory):
        self.directory = directory
        self.store = ArtifactStore(MemoryFiles(), "store", 1 << 30)
        self.artifacts = {}

    def put(self, name, content):
        incoming = self.store.begin(None)
        incoming.write(content)
        incoming.keep()
        self.artifacts[name] = Artifact(name, len(content), hashlib.sha256(content).hexdigest(), 1)

    def wheel(self, name, version, requires=()):
        path = build_wheel(self.directory, name, version, {f"{name.replace('-', '_')}.py": ""}, requires)
        self.put(path.name, path.read_bytes())
        return path.name

    def pinned(self, *packages, name="app", version="1.0", artifacts=(), package_type="pip"):
        wishes = tuple(wish if isinstance(wish, ArtifactWish) else ArtifactWish(wish) for wish in artifacts)
        spec = JobSpec(name, version, package_type, ("all",), packages, wishes)
        return pin(spec, self.artifacts, self.store)

    def names(self, *packages, **arguments):
        return [reference.name for reference in self.pinned(*packages, **arguments).artifacts]


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path)


NAMES = {
    "app-1.0-py3-none-any.whl": ("app", "1.0"),
    "My_App.Core-2.0.post1-1-cp311-cp311-manylinux_2_17_aarch64.whl": ("my-app-core", "2.0.post1"),
    "app-1.0-py3-none.whl": None,
    "app-1.0.tar.gz": None,
    "app.whl": None,
    "a-b-c-d-e-f-g.whl": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_a_wheel_is_known_by_its_name(name):
    wheel = wheel_of(Artifact(name, 1, "0" * 64, 1))

    assert (wheel and (wheel.project, wheel.version)) == NAMES[name]


def test_a_job_without_packages_means_itself(shelf):
    name = shelf.wheel("app", "1.0")

    pinned = shelf.pinned()

    assert pinned.packages == ("app==1.0",)
    (reference,) = pinned.artifacts
    assert (reference.name, reference.sha256) == (name, shelf.artifacts[name].sha256)


@pytest.mark.parametrize(
    ("requirement", "version"),
    [("app", "1.10"), ("app==1.2", "1.2"), ("app<1.10", "1.9"), ("APP>=1.2,!=1.10", "1.9"), ("app>1.10", None)],
)
def test_the_newest_version_that_is_allowed_is_taken(shelf, requirement, version):
    for each in ("1.2", "1.9", "1.10", "2.0rc1"):
        shelf.wheel("app", each)

    expected = [] if version is None else [f"app-{version}-py3-none-any.whl"]
    if requirement == "app>1.10":
        expected = ["app-2.0rc1-py3-none-any.whl"]  # nothing else is newer
    assert shelf.names(requirement) == expected


def test_all_builds_of_a_version_are_taken_for_pip_to_choose_from(shelf):
    content = (shelf.directory / shelf.wheel("app", "1.0")).read_bytes()
    shelf.put("app-1.0-cp311-cp311-linux_aarch64.whl", content)

    assert shelf.names("app") == ["app-1.0-py3-none-any.whl", "app-1.0-cp311-cp311-linux_aarch64.whl"]


def test_what_a_wheel_requires_is_taken_too_and_what_that_requires(shelf):
    shelf.wheel("app", "1.0", ["middle>=2"])
    shelf.wheel("middle", "1.0")
    shelf.wheel("middle", "2.5", ["Deep.Down", "absent", "app"])
    shelf.wheel("deep-down", "0.1")
    shelf.wheel("unrelated", "1.0")

    assert shelf.names() == [
        "app-1.0-py3-none-any.whl", "middle-2.5-py3-none-any.whl", "deep_down-0.1-py3-none-any.whl",
    ]  # fmt: skip


def test_extras_are_left_out_and_markers_left_to_pip(shelf):
    shelf.wheel("app", "1.0", ["tests; extra == 'test'", "win; sys_platform == 'win32'", "x @ https://example.org/x"])
    for name in ("tests", "win", "x"):
        shelf.wheel(name, "1.0")

    assert shelf.names() == ["app-1.0-py3-none-any.whl", "win-1.0-py3-none-any.whl"]


def test_a_wheel_that_is_named_brings_its_requirement_and_what_it_requires(shelf):
    name = shelf.wheel("app", "1.0", ["dep"])
    shelf.wheel("app", "2.0")
    dep = shelf.wheel("dep", "3.0")

    pinned = shelf.pinned("dep>=1", artifacts=[name])

    assert pinned.packages == ("dep>=1", "app==1.0")
    assert [reference.name for reference in pinned.artifacts] == [name, dep]


def test_a_job_with_wheels_only_does_not_mean_itself(shelf):
    assert shelf.pinned(name="rollout", version="7", artifacts=[shelf.wheel("app", "1.0")]).packages == ("app==1.0",)


def test_what_the_store_does_not_have_is_left_to_the_nodes_index(shelf):
    assert shelf.pinned("aiocoap==0.4.7") == (("aiocoap==0.4.7",), ())


def test_a_file_job_is_pinned_to_what_it_names(shelf):
    shelf.put("app.conf", b"x")
    wish = ArtifactWish("app.conf", "etc/app.conf", "0600")

    (reference,) = shelf.pinned(package_type="file", artifacts=[wish]).artifacts

    assert (reference.name, reference.path, reference.mode, reference.size) == ("app.conf", "etc/app.conf", "0600", 1)


def test_an_artifact_not_named_like_a_wheel_is_refused(shelf):
    shelf.put("app.whl", b"x")

    with pytest.raises(InvalidError, match="not named like a wheel") as error:
        shelf.pinned(artifacts=["app.whl"])
    assert error.value.field == "$.artifacts[0]"


def zipped(*members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(holder := io.BytesIO(), "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return holder.getvalue()


METADATA = "Metadata-Version: 2.1\nName: app\nVersion: 1.0\n"
UNREADABLE = {
    "nothing": b"",
    "no zip": b"text",
    "no METADATA": zipped(("app.py", "")),
    "METADATA elsewhere": zipped(("x/app-1.0.dist-info/METADATA", METADATA)),
    "a METADATA without end": zipped(("app-1.0.dist-info/METADATA", METADATA + " " * HEAD_LIMIT)),
    "a method that wheels do not use": zipped(("app-1.0.dist-info/METADATA", METADATA), method=zipfile.ZIP_LZMA),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_wheel_that_cannot_be_read_is_refused(shelf, what):
    shelf.put("app-1.0-py3-none-any.whl", UNREADABLE[what])

    with pytest.raises(InvalidError, match="cannot be read"):
        shelf.pinned()


def test_a_damaged_wheel_is_read_or_refused_and_nothing_else(shelf):
    whole = zipped(("app-1.0.dist-info/METADATA", METADATA * 5), ("app.py", "x = 1\n"))
    chance = random.Random(3)
    refused = 0
    for _ in range(3000):
        damaged = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        shelf.put("app-1.0-py3-none-any.whl", bytes(damaged))
        try:
            shelf.pinned()
        except InvalidError:
            refused += 1

    assert refused > 1000


def test_a_long_description_and_what_stands_in_it_do_not_matter(shelf):
    metadata = METADATA + "Requires-Dist: dep\n\nRequires-Dist: other\n" + "x" * 3 * HEAD_LIMIT
    shelf.put("app-1.0-py3-none-any.whl", zipped(("app-1.0.dist-info/METADATA", metadata)))
    for name in ("dep", "other"):
        shelf.wheel(name, "1.0")

    assert shelf.names() == ["app-1.0-py3-none-any.whl", "dep-1.0-py3-none-any.whl"]


def test_a_metadata_that_is_not_what_was_packed_is_refused(shelf):
    whole = zipped(("app-1.0.dist-info/METADATA", METADATA + "Requires-Dist: dep"), method=zipfile.ZIP_STORED)
    shelf.put("app-1.0-py3-none-any.whl", whole.replace(b": dep", b": dip"))

    with pytest.raises(InvalidError, match="METADATA is damaged"):
        shelf.pinned()


def test_no_more_is_unpacked_than_the_head_may_have(shelf):
    bomb = zipped(("app-1.0.dist-info/METADATA", METADATA + "X: " + " " * (64 << 20)))
    assert len(bomb) < 100_000
    shelf.put("app-1.0-py3-none-any.whl", bomb)

    tracemalloc.start()
    try:
        with pytest.raises(InvalidError, match="head of its METADATA is longer"):
            shelf.pinned()
        assert tracemalloc.get_traced_memory()[1] < 8 * HEAD_LIMIT
    finally:
        tracemalloc.stop()


def test_a_directory_larger_than_any_wheels_is_not_read(shelf):
    end = struct.pack("<4s4xHHLLH", b"PK\5\6", 0xFFFF, 0xFFFF, DIRECTORY_LIMIT + 1, 0, 0)
    shelf.put("app-1.0-py3-none-any.whl", bytes(DIRECTORY_LIMIT + 1) + end)

    with pytest.raises(InvalidError, match="directory of files is larger"):
        shelf.pinned()


def test_the_wheels_of_a_job_are_bounded(shelf, monkeypatch):
    monkeypatch.setattr(wheels, "WHEELS_LIMIT", 3)
    chain = [shelf.wheel(f"app{n}", "1.0", [f"app{n + 1}"]) for n in range(4)]

    assert len(shelf.names("app1")) == 3
    for artifacts, field in ((chain, "$.artifacts[3]"), (chain[:1], "$.packages")):
        with pytest.raises(InvalidError, match="make several jobs of it") as error:
            shelf.pinned(artifacts=artifacts)
        assert error.value.field == field


def test_requirements_of_a_wheel_and_what_they_are_compared_with_are_bounded(shelf, monkeypatch):
    monkeypatch.setattr(wheels, "REQUIREMENTS_LIMIT", 3)
    monkeypatch.setattr(wheels, "COMPARISONS_LIMIT", 10)
    shelf.wheel("app", "1.0", ["dep"] * 3 + ["extra; extra == 'x'"] * 9)
    shelf.wheel("big", "1.0", ["dep"] * 4)
    shelf.wheel("dep", "1.0")

    assert len(shelf.names("app")) == 2
    with pytest.raises(InvalidError, match="more than 3 requirements"):
        shelf.pinned("big")
    shelf.wheel("dep", "2.0")
    with pytest.raises(InvalidError, match="too many versions"):
        shelf.pinned("app")
