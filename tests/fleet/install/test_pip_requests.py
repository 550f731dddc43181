"""What a pip job may ask for, and how pip's failures are read; pip itself runs in the system tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.install.interface import InstallError, StepArtifact
from fleet.install.pip import _arguments, _reason, asked_for
from tests.fleet.install.steps import make_step

ACCEPTED = [
    "demo",
    "demo==1.2",
    "Demo_Pkg.x-1 == 1.2.*",
    "demo>=1.2,<2,!=1.5",
    "demo~=1.4.2",
    "demo===1.0+local.1",
    "demo (>=1.0)",
    "demo[extra,other]==1!1.0",
    'demo==1.0; python_version < "3.10" and sys_platform == "linux"',
    "aiohttp==3.9.1",
]

REFUSED = [
    "",
    " ",
    "-r requirements.txt",
    "--index-url=http://evil.example",
    "-e .",
    "../demo",
    "./demo",
    "/tmp/demo",
    "demo/sub",
    "demo\\sub",
    ".",
    "demo @ https://evil.example/demo.whl",
    "demo @ demo.whl",
    "git+https://evil.example/demo",
    "https://evil.example/demo.whl",
    "file:///tmp/demo.whl",
    "demo-1.0-py3-none-any.whl",
    "demo.zip",
    "Demo.TAR.GZ",
    "demo==1.0\n--index-url=http://evil.example",
    "demo==1.0; /etc/passwd",
    "demo\0",
    "démo",
    "demo==1.0 --hash=sha256:00",
    "$(reboot)",
]


@pytest.mark.parametrize("package", ACCEPTED)
def test_a_requirement_is_passed_on_as_it_is(tmp_path: Path, package: str) -> None:
    assert asked_for(make_step(tmp_path, packages=("other", package))) == ["other", package]


@pytest.mark.parametrize("package", REFUSED)
def test_an_option_a_path_or_an_address_is_no_requirement(tmp_path: Path, package: str) -> None:
    with pytest.raises(InstallError, match="a requirement like") as caught:
        asked_for(make_step(tmp_path, packages=("other", package)))

    assert caught.value.reason == "unsupported"


@pytest.mark.parametrize(
    "name",
    [
        "../demo-1.0-py3-none-any.whl",
        "a/demo-1.0-py3-none-any.whl",
        "demo-1.0.tar.gz",
        "demo.whl",
        "demo-1.0-py3-none-any.whl\n",
        "-demo-1.0-py3-none-any.whl",
        "demo-1.0-py3-none-any.whl.exe",
        "..whl",
        "",
    ],
)
@pytest.mark.parametrize("packages", [(), ("demo",)])
def test_an_artifact_that_is_no_wheel_by_its_name_is_refused(
    tmp_path: Path, name: str, packages: tuple[str, ...]
) -> None:
    artifact = StepArtifact(name=name, size=1, sha256="", file="/nowhere")

    with pytest.raises(InstallError, match="PEP 427") as caught:
        asked_for(make_step(tmp_path, packages=packages, artifacts=(artifact,)))

    assert caught.value.reason == "unsupported"


def wheel(name: str) -> StepArtifact:
    return StepArtifact(name=name, size=1, sha256="", file="/nowhere")


@pytest.mark.parametrize(
    ("packages", "wheels", "asked", "arguments"),
    [
        (["a==1", "b"], [], ["a==1", "b"], ["a==1", "b"]),
        (["a==1"], ["a-1-py3-none-any.whl", "dep-2-py3-none-any.whl"], ["a==1"], ["a==1"]),
        (
            [],
            ["a_b-1.0-2-cp311-cp311-linux_x86_64.whl", "c-2!1.0+l-py3-none-any.whl"],
            ["a_b==1.0", "c==2!1.0+l"],
            ["W/a_b-1.0-2-cp311-cp311-linux_x86_64.whl", "W/c-2!1.0+l-py3-none-any.whl"],
        ),
        # Two builds of one version: pip knows which is for this platform.
        (
            [],
            ["a-1-cp311-cp311-linux_x86_64.whl", "a-1-cp311-cp311-linux_aarch64.whl"],
            ["a==1", "a==1"],
            ["a==1"],
        ),
        ([], [], ["app==3.1"], ["app==3.1"]),
    ],
)
def test_what_is_asked_of_pip(
    tmp_path: Path, packages: list[str], wheels: list[str], asked: list[str], arguments: list[str]
) -> None:
    step = make_step(
        tmp_path, name="app", version="3.1", packages=tuple(packages), artifacts=tuple(wheel(name) for name in wheels)
    )

    assert asked_for(step) == asked
    assert _arguments(step, "W") == arguments


def test_a_job_name_that_is_no_package_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match="a requirement like"):
        asked_for(make_step(tmp_path, name="../app", version="1"))


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("ERROR: No matching distribution found for demo==9", "version_not_found"),
        ("ERROR: Could not find a version that satisfies the requirement demo==9", "version_not_found"),
        (
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError'\n"
            "ERROR: No matching distribution found for demo==9",
            "install_failed",
        ),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "no_space"),
        ("ERROR: ResolutionImpossible: for help visit", "install_failed"),
        ("ERROR: Wheel 'demo' located at demo.whl is invalid.", "install_failed"),
        ("", "install_failed"),
    ],
)
def test_the_reason_is_read_from_the_output(output: str, reason: str) -> None:
    assert _reason(output) == reason
