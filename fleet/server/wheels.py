"""Which wheels of the store a pip job needs: those it names, those its requirements allow, and what those require.

A job is pinned to contents when it is created, so that it installs the same bytes on every node, whatever is uploaded
later. What the store does not have is left to the node's own index.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Optional

from fleet.errors import InvalidError
from fleet.model.artifacts import Artifact
from fleet.model.jobs import ArtifactRef, JobSpec
from fleet.model.requirements import Requirement, normalise_name, parse_requirement
from fleet.server.artifacts import ArtifactStore
from fleet.server.wheelfile import UNREADABLE, head_of

WHEELS_LIMIT = 256  # that one job may be pinned to: each has to be opened
COMPARISONS_LIMIT = 50_000  # of a requirement with a wheel's version, for one job
REQUIREMENTS_LIMIT = 512  # that one wheel may have; those for its extras are not counted


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

    Raises InvalidError for a wheel that is none, and for what takes more looking up than one job may cost.
    """
    if spec.package_type != "pip":
        wanted = [(artifacts[wish.name], wish) for wish in spec.artifacts]
        refs = [ArtifactRef(found.name, found.size, found.sha256, wish.path, wish.mode) for found, wish in wanted]
        return Pinned(spec.packages, tuple(refs))
    packages = list(spec.packages)
    if not packages and not spec.artifacts:
        packages.append(f"{spec.name}=={spec.version}")
    chosen: dict[str, Artifact] = {}
    to_do = deque([parse_requirement(package) for package in packages])
    if len(spec.artifacts) > WHEELS_LIMIT:
        text = f"a job may have {WHEELS_LIMIT} wheels at most; make several jobs of it"
        raise InvalidError(text, f"$.artifacts[{WHEELS_LIMIT}]")
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
    compared = 0
    while to_do:
        requirement = to_do.popleft()
        candidates = by_project.get(requirement.name, ())
        compared += 1 + len(candidates)
        if compared > COMPARISONS_LIMIT:
            text = "the store has too many versions of what this needs to choose from; name the wheels in `artifacts`"
            raise InvalidError(text, "$.packages")
        for wheel in _newest(requirement, candidates):
            if wheel.artifact.name in seen:
                continue
            if len(chosen) >= WHEELS_LIMIT:
                text = f"the job would need more than {WHEELS_LIMIT} wheels of the store; make several jobs of it"
                raise InvalidError(text, "$.packages")
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
        with store.open(artifact.sha256) as file:
            head = head_of(file)
    except UNREADABLE as error:
        raise InvalidError(f"the wheel {artifact.name!r} cannot be read: {error}; upload it again", field) from error
    requirements: list[Requirement] = []
    for line in _requires_dist(head):
        try:
            requirement = parse_requirement(line)
        except ValueError:
            continue  # a URL or something newer: the node's pip will know, or say
        if "extra" in requirement.marker:
            continue
        if len(requirements) == REQUIREMENTS_LIMIT:
            text = f"the wheel {artifact.name!r} has more than {REQUIREMENTS_LIMIT} requirements"
            raise InvalidError(text, field)
        requirements.append(requirement)
    return requirements


def _requires_dist(head: str) -> Iterator[str]:
    """The values of the fields of that name, each on a line; lines that go on with a field begin with a space."""
    for line in head.split("\n"):
        name, colon, value = line.partition(":")
        if colon and name.lower() == "requires-dist":
            yield value.strip()
