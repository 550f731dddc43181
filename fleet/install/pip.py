"""Wheels and requirements, installed by pip into a virtual environment.

pip cannot undo, and an interrupted one looks installed. So a copy of the whole environment is kept while it changes
(`snapshot`), and what counts as installed is what the environment's own interpreter reports (`environment_report`).

The store's wheels come first: pip is run without any index and without the node's configuration of pip, so that the
outcome is the same on every node. Only where that cannot satisfy the requirements does it run again as the node has
it configured, the store's wheels still among its sources.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import NamedTuple, Optional

import msgspec

from fleet.host.files import SystemFiles
from fleet.install.interface import (
    ENVIRONMENT_MISSING,
    INSTALL_FAILED,
    NEW,
    NO_SPACE,
    OLD,
    PARTIAL,
    UNSUPPORTED,
    VERIFY_FAILED,
    VERSION_NOT_FOUND,
    InstallError,
    Requirements,
    Step,
    StepArtifact,
    last_lines,
)
from fleet.install.kernel import die_with_parent
from fleet.install.snapshot import CHANGED, CHANGING, SAVED, Snapshot, remove_tree, tree_bytes

REPORT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "environment_report.py")
OUTPUT_KEPT = 65_536  # bytes of pip's output to look for reasons in

# A wheel's name, PEP 427: distribution, version, build number if any, and three tags.
WHEEL = re.compile(r"([A-Za-z0-9._]+)-([A-Za-z0-9._+!]+)(-[0-9][A-Za-z0-9._]*)?(-[A-Za-z0-9._]+){3}\.whl")
# A requirement, PEP 508, without the forms that name a URL; pip takes a path for anything with a slash in it.
REQUIREMENT = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*\s*(\[[A-Za-z0-9._,\s-]*\])?[\s()<>=!~A-Za-z0-9._,*+-]*(;[^\\/\n]*)?"
)
ARCHIVE_ENDINGS = (".whl", ".zip", ".tar", ".tgz", ".tbz", ".txz", ".gz", ".bz2", ".xz", ".lzma")

# Settings of pip that would put what is installed somewhere else than into the environment.
REDIRECTING = ("PIP_DRY_RUN", "PIP_PREFIX", "PIP_PYTHON", "PIP_ROOT", "PIP_TARGET", "PIP_USER")

CANNOT_BE_SATISFIED = (
    "No matching distribution found",
    "Could not find a version that satisfies",
    "ResolutionImpossible",
)
CONNECTION_BROKEN = "after connection broken by"


class Report(msgspec.Struct, frozen=True):
    """The answer of `environment_report`."""

    prefix: str
    base_prefix: str
    has_pip: bool
    invalid: list[str]
    unsatisfied: list[str]
    damaged: list[str]


class _PipRun(NamedTuple):
    exit_code: int
    output: str


class PipInstaller:
    """Packages of Python in the virtual environment of `step.python`."""

    def requirements(self, step: Step) -> Requirements:
        """Space for a copy of the environment and for the wheels unpacked; done already if all is there and whole."""
        snapshot = _snapshot(step)
        if snapshot.stage() is None:
            snapshot.recover()
        report = _report(step)
        if report.invalid:
            raise InstallError(UNSUPPORTED, "\n".join(report.invalid))
        if os.path.ismount(snapshot.directory) or not os.access(os.path.dirname(snapshot.directory), os.W_OK):
            text = f"{snapshot.directory} cannot be renamed, so a failed update of it could not be undone"
            raise InstallError(UNSUPPORTED, text)
        wheels = sum(artifact.size for artifact in step.artifacts)
        return Requirements(
            bytes_needed=tree_bytes(snapshot.directory) + 3 * wheels,  # the named copy, unpacked, compiled
            bytes_free=SystemFiles().free_bytes(snapshot.directory),
            reboot=False,
            can_roll_back=True,
            already_installed=not report.unsatisfied and not report.damaged,
        )

    def install(self, step: Step) -> str:
        """Keep a copy of the environment, then let pip change it; a change that was cut before is undone first."""
        snapshot = _snapshot(step)
        snapshot.recover()
        report = _report(step)
        wheels = _lay_out_wheels(step)
        arguments = _arguments(step, wheels)
        snapshot.save()
        snapshot.mark(CHANGING)
        if report.damaged:  # pip believes a version number; we have looked
            arguments = ["--force-reinstall", *arguments]
        output = _install(step, _pip_of(step, report), wheels, arguments)
        snapshot.mark(CHANGED)
        return output

    def verify(self, step: Step) -> None:
        """The versions asked for are installed, and their files are what RECORD says."""
        report = _report(step)
        if report.unsatisfied or report.damaged:
            raise InstallError(VERIFY_FAILED, last_lines("\n".join(report.unsatisfied + report.damaged)))

    def commit(self, step: Step) -> None:
        """Drop the copy of the environment."""
        _snapshot(step).accept()

    def roll_back(self, step: Step) -> None:
        """Put the copy back in the place of the environment."""
        _snapshot(step).undo()

    def inspect(self, step: Step) -> str:
        """From the stage of the copy, and from what is installed where that leaves it open."""
        stage = _snapshot(step).stage()
        if stage == SAVED:
            return OLD
        if stage == CHANGING:
            return PARTIAL
        try:
            self.verify(step)
        except InstallError:
            return OLD if stage is None else PARTIAL
        return NEW

    def clean_up(self, step: Step) -> None:
        """Remove the named wheels, pip's temporary files, and what is left of a copy that has served."""
        _snapshot(step).clean_up()
        remove_tree(step.work_directory)


def asked_for(step: Step) -> list[str]:
    """The requirements that a step comes to: its packages, or its wheels, or `name==version`; checked."""
    for artifact in step.artifacts:
        if WHEEL.fullmatch(artifact.name) is None:
            raise InstallError(UNSUPPORTED, f"{artifact.name}: a pip job takes wheels, named as PEP 427 says")
    for package in step.packages:
        plain = REQUIREMENT.fullmatch(package) is not None
        if not plain or package.partition(";")[0].strip().lower().endswith(ARCHIVE_ENDINGS):
            text = f"{package!r}: a requirement like name==1.2 is needed, no path, URL or option"
            raise InstallError(UNSUPPORTED, text)
    if step.packages:
        return list(step.packages)
    if step.artifacts:
        return [_requirement_of(artifact) for artifact in step.artifacts]
    return asked_for(msgspec.structs.replace(step, packages=(f"{step.name}=={step.version}",)))


def _requirement_of(artifact: StepArtifact) -> str:
    name, version = artifact.name.split("-")[:2]
    return f"{name}=={version}"


def _arguments(step: Step, wheels: str) -> list[str]:
    """What pip is told to install: requirements, or, where the job names wheels alone, these very files.

    Several wheels of one version are builds for different platforms, of which pip has to choose: by requirement.
    """
    asked = asked_for(step)
    if not step.artifacts or step.packages:
        return asked
    files = {requirement: os.path.join(wheels, artifact.name) for requirement, artifact in zip(asked, step.artifacts)}
    return [path if asked.count(requirement) == 1 else requirement for requirement, path in files.items()]


def _snapshot(step: Step) -> Snapshot:
    """The snapshot of the environment of `step.python`, found by its path alone: it may be away, half put back."""
    if not step.python:
        text = "this agent was started without --python, the interpreter whose environment pip jobs are to change"
        raise InstallError(ENVIRONMENT_MISSING, text)
    if not os.path.isabs(step.python):
        raise InstallError(ENVIRONMENT_MISSING, f"the interpreter's path must be absolute, not {step.python!r}")
    # Its own name, not what it links to: an environment's interpreter is a link to the system's.
    prefix = os.path.realpath(os.path.dirname(os.path.dirname(os.path.abspath(step.python))))
    return Snapshot(prefix, step.job_id, step.attempt)


def _report(step: Step) -> Report:
    """Ask the environment's interpreter what is there; refuse one that has no environment of its own."""
    prefix = _snapshot(step).directory
    own_pip = _own_pip()
    question = {"requirements": asked_for(step), "pip": os.path.dirname(own_pip) if own_pip else ""}
    try:
        run = subprocess.run(
            [step.python, "-I", "-B", REPORT],  # -B: looking must not leave byte code behind
            input=json.dumps(question).encode(),
            capture_output=True,
            env=_environment(step),
            check=False,
        )
    except OSError as error:
        raise InstallError(ENVIRONMENT_MISSING, f"{step.python} does not run: {error}") from error
    if run.returncode != 0:
        text = run.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise InstallError(ENVIRONMENT_MISSING, f"{step.python} cannot report what is installed: {text}")
    try:
        report = msgspec.json.decode(run.stdout.strip().rpartition(b"\n")[2], type=Report)
    except msgspec.MsgspecError as error:
        raise InstallError(ENVIRONMENT_MISSING, f"{step.python} does not report what is installed: {error}") from error
    if report.prefix == report.base_prefix or os.path.realpath(report.prefix) != prefix:
        text = f"{step.python} is not in a virtual environment; a system's packages are not touched"
        raise InstallError(ENVIRONMENT_MISSING, text)
    return report


def _own_pip() -> Optional[str]:
    """The directory of this interpreter's pip, if it has one."""
    found = importlib.util.find_spec("pip")
    return os.path.dirname(found.origin) if found is not None and found.origin is not None else None


def _pip_of(step: Step, report: Report) -> list[str]:
    """The command that runs pip in the environment: its own pip, or ours on loan.

    On loan as `pip --python` does it, by the runner in pip's directory, but without that command's second process
    between pip and us, which would let pip live on when we are killed.
    """
    if report.has_pip:
        return [step.python, "-I", "-m", "pip"]
    own_pip = _own_pip()
    runner = os.path.join(own_pip or "", "__pip-runner__.py")
    if not os.path.isfile(runner):
        text = f"the environment of {step.python} has no pip, and the agent's has none of 22.3 or newer to lend"
        raise InstallError(ENVIRONMENT_MISSING, text)
    return [step.python, "-I", runner]


def _lay_out_wheels(step: Step) -> str:
    """Give the downloaded wheels, which are stored by hash, their names back; answers with their directory."""
    wheels = os.path.join(step.work_directory, "wheels")
    remove_tree(step.work_directory)
    os.makedirs(wheels)
    os.mkdir(os.path.join(step.work_directory, "tmp"))
    for artifact in step.artifacts:
        place = os.path.join(wheels, artifact.name)
        try:
            os.link(artifact.file, place)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(artifact.file, place)
    return wheels


def _environment(step: Step) -> dict[str, str]:
    """Our environment without what would lead Python or pip elsewhere; temporary files where they are cleaned up."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTHON") and name != "VIRTUAL_ENV" and name not in REDIRECTING
    }
    return {**kept, "TMPDIR": os.path.join(step.work_directory, "tmp")}


def _install(step: Step, pip: Sequence[str], wheels: str, arguments: Sequence[str]) -> str:
    """Run pip from the store's wheels alone, and if they do not suffice with the node's index; answers its output."""
    options = ["--disable-pip-version-check", "--no-input", "--no-cache-dir", "--find-links", wheels]
    configured = _environment(step)
    bare = {name: value for name, value in configured.items() if not name.startswith("PIP_")}
    bare["PIP_CONFIG_FILE"] = os.devnull  # none of the configuration files is read
    run = _run([*pip, "install", "--no-index", *options, *arguments], step.work_directory, bare)
    if run.exit_code != 0 and any(text in run.output for text in CANNOT_BE_SATISFIED):
        run = _run([*pip, "install", *options, *arguments], step.work_directory, configured)
    if run.exit_code != 0:
        raise InstallError(_reason(run.output), last_lines(run.output) or f"pip ended with {run.exit_code}")
    return last_lines(run.output)


def _reason(output: str) -> str:
    """What made pip fail; an index that could not be reached does not tell that a version does not exist."""
    if "No space left on device" in output:
        return NO_SPACE
    if any(text in output for text in CANNOT_BE_SATISFIED[:2]) and CONNECTION_BROKEN not in output:
        return VERSION_NOT_FOUND
    return INSTALL_FAILED


def _run(arguments: Sequence[str], directory: str, environment: dict[str, str]) -> _PipRun:
    """Run pip to its end, keeping the end of what it says; it dies with us, and inherits the lock that we hold."""
    with subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=directory,
        env=environment,
        close_fds=False,  # descriptors are closed by default (PEP 446): all but the lock's
        preexec_fn=die_with_parent,  # noqa: PLW1509 - there are no threads here
    ) as process:
        assert process.stdout is not None
        kept = b""
        while True:
            piece = os.read(process.stdout.fileno(), OUTPUT_KEPT)
            if not piece:
                break
            kept = (kept + piece)[-OUTPUT_KEPT:]
    return _PipRun(process.returncode, kept.decode(errors="replace"))
