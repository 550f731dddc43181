"""Which wheels of the store a pip job needs: those it names, those its requirements allow, and what those require.

A job is pinned to contents when it is created, so that it installs the same bytes on every node, whatever is uploaded
later. What the store does not have is left to the node's own index.
"""

from __future__ import annotations

import email.parser
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, NamedTuple, Optional, cast

from fleet.errors import InvalidError
from fleet.model.artifacts import Artifact
from fleet.model.jobs import ArtifactRef, JobSpec
from fleet.model.requirements import Requirement, normalise_name, parse_requirement
from fleet.server.artifacts import ArtifactStore

METADATA_LIMIT = 1024 * 1024  # bytes; a larger METADATA is none
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # of compression, as wheels are written

# What zipfile raises for bytes that are no zip file, or a damaged one.
_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError,
)  # fmt: skip


class Wheel(NamedTuple):
    """A wheel of the store: normalised project name and version, from its file name (PEP 427)."""

    artifact: Artifact
    project: str
    version: str


def wheel_of(artifact: Artifact) -> Optional[Wheel]:
    """Return what an artifact's name says of it as a wheel; None if it is none."""
    parts = artifact.name[: -len(".whl")].split("-") if artifact.name.endswith(".whl") else []
    if len(parts) not in (5, 6):
        return None
    return Wheel(artifact, normalise_name(parts[0]), parts[1])


class Pinned(NamedTuple):
    """What a job's nodes are to install: requirement strings, and the contents of the store that may satisfy them."""

    packages: tuple[str, ...]
    artifacts: tuple[ArtifactRef, ...]


def pin(spec: JobSpec, artifacts: Mapping[str, Artifact], store: ArtifactStore) -> Pinned:
    """Pin a job to contents of the store; `artifacts` are all it has, by name, and every wish is among them.

    Raises InvalidError for a wheel that is none.
    """
    if spec.package_type != "pip":
        wanted = [(artifacts[wish.name], wish) for wish in spec.artifacts]
        refs = [ArtifactRef(found.name, found.size, found.sha256, wish.path, wish.mode) for found, wish in wanted]
        return Pinned(spec.packages, tuple(refs))
    packages = list(spec.packages)
    if not packages and not spec.artifacts:
        packages.append(f"{spec.name}=={spec.version}")
    chosen: dict[str, Artifact] = {}
    to_do: list[Requirement] = [parse_requirement(package) for package in packages]
    for index, wish in enumerate(spec.artifacts):
        wheel = wheel_of(artifacts[wish.name])
        if wheel is None:
            text = f"{wish.name!r} is not named like a wheel (name-version-python-abi-platform.whl)"
            raise InvalidError(text, f"$.artifacts[{index}]")
        chosen[wish.name] = wheel.artifact
        packages.append(f"{wheel.project}=={wheel.version}")
        to_do.extend(_required_by(wheel.artifact, store, f"$.artifacts[{index}]"))
    by_project: dict[str, list[Wheel]] = {}
    for artifact in artifacts.values():
        wheel = wheel_of(artifact)
        if wheel is not None:
            by_project.setdefault(wheel.project, []).append(wheel)
    seen: dict[str, None] = {}
    while to_do:
        requirement = to_do.pop(0)
        for wheel in _newest(requirement, by_project.get(requirement.name, ())):
            if wheel.artifact.name in seen:
                continue
            seen[wheel.artifact.name] = None
            chosen[wheel.artifact.name] = wheel.artifact
            to_do.extend(_required_by(wheel.artifact, store, "$.packages"))
    refs = [ArtifactRef(found.name, found.size, found.sha256) for found in chosen.values()]
    return Pinned(tuple(packages), tuple(refs))


def _newest(requirement: Requirement, wheels: Iterable[Wheel]) -> list[Wheel]:
    """The wheels of the newest version that is allowed; several where there is one a platform."""
    wheels = list(wheels)
    version = requirement.newest([wheel.version for wheel in wheels])
    return [wheel for wheel in wheels if wheel.version == version]


def _required_by(artifact: Artifact, store: ArtifactStore, field: str) -> Sequence[Requirement]:
    """The requirements that a wheel's metadata name, markers not considered: the node's pip decides on those."""
    try:
        # RawIOBase has all that zipfile asks of a file; typeshed wants the whole of IO[bytes].
        with zipfile.ZipFile(cast(IO[bytes], store.open(artifact.sha256))) as archive:
            text = _metadata(archive)
    except _UNREADABLE as error:
        raise InvalidError(f"the wheel {artifact.name!r} cannot be read: {error}; upload it again", field) from error
    requirements = []
    for line in email.parser.HeaderParser().parsestr(text).get_all("Requires-Dist") or ():
        try:
            requirement = parse_requirement(line)
        except ValueError:
            continue  # a URL or something newer: the node's pip will know, or say
        if "extra" not in requirement.marker:
            requirements.append(requirement)
    return requirements


def _metadata(archive: zipfile.ZipFile) -> str:
    for info in archive.infolist():
        directory, _, name = info.filename.partition("/")
        if name == "METADATA" and directory.endswith(".dist-info") and info.file_size <= METADATA_LIMIT:
            if info.compress_type not in METHODS:
                raise ValueError("its METADATA is compressed by another method than deflate")
            with archive.open(info) as file:
                return file.read(METADATA_LIMIT).decode(errors="replace")
    raise ValueError("it has no METADATA")
