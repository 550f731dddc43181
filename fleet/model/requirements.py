"""Requirement strings such as `name==1.2`: their parts, and which versions they allow.

The part of PEP 508 and PEP 440 that is needed to choose wheels from the store; pip on the node has the last word. No
URLs: what a job installs comes from the store or from the node's own index.
"""

import re
from typing import Iterable, NamedTuple, Optional

REQUIREMENT_LIMIT = 1024  # characters

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
# Of text without runs of spaces: with them, or a name that may end anywhere, matching takes the square of its length.
_REQUIREMENT = re.compile(
    rf"(?P<name>{_NAME})(?![A-Za-z0-9._-]) ?(?:\[(?P<extras>[A-Za-z0-9._,\s-]*)\])?\s*"
    r"(?:\((?P<bracketed>[^()]*)\)|(?P<bare>[^;()@]*?))\s*(?:;(?P<marker>.*))?\Z"
)
_SPECIFIER = re.compile(r"\s*(===|==|!=|~=|<=|>=|<|>)\s*([A-Za-z0-9.!+*_-]+)\s*\Z")
_VERSION = re.compile(
    r"v?(?:(?P<epoch>\d+)!)?(?P<release>\d+(?:\.\d+)*)"
    r"(?:[-_.]?(?P<pre>a|b|c|rc|alpha|beta|pre|preview)[-_.]?(?P<pre_number>\d*))?"
    r"(?:-(?P<post_only>\d+)|[-_.]?(?P<post>post|rev|r)[-_.]?(?P<post_number>\d*))?"
    r"(?:[-_.]?(?P<dev>dev)[-_.]?(?P<dev_number>\d*))?"
    r"(?:\+(?P<local>[a-z0-9]+(?:[-_.][a-z0-9]+)*))?\Z",
    re.IGNORECASE,
)
_PRE_RANK = {"a": 0, "alpha": 0, "b": 1, "beta": 1, "c": 2, "rc": 2, "pre": 2, "preview": 2}

VersionKey = tuple[int, tuple[int, ...], tuple[int, int], int, float]


class Requirement(NamedTuple):
    """A parsed requirement: normalised `name`, `extras`, (operator, version) pairs, and the `marker` as text."""

    name: str
    extras: tuple[str, ...]
    specifiers: tuple[tuple[str, str], ...]
    marker: str

    def allows(self, version: str) -> bool:
        """Whether `version` satisfies every specifier; a version that PEP 440 does not know satisfies only `===`."""
        return all(_satisfies(version, operator, wanted) for operator, wanted in self.specifiers)

    def newest(self, versions: Iterable[str]) -> Optional[str]:
        """The newest of `versions` that is allowed, or None; a pre-release only if one is named, or nothing else is."""
        allowed = [version for version in versions if self.allows(version)]
        named = any(is_prerelease(wanted) for _operator, wanted in self.specifiers)
        finals = [version for version in allowed if named or not is_prerelease(version)]
        candidates = finals or allowed
        return max(candidates, key=_sort_key) if candidates else None


def normalise_name(name: str) -> str:
    """A project's name as PEP 503 compares it: lower case, runs of `-`, `_` and `.` as one `-`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_project_name(text: str) -> bool:
    """Whether `text` is a valid project name (PEP 508)."""
    return re.fullmatch(_NAME, text) is not None


def is_version(text: str) -> bool:
    """Whether `text` is a version in the sense of PEP 440."""
    return version_key(text) is not None


def parse_requirement(text: str) -> Requirement:
    """Take a requirement string apart; raises ValueError with a text that says what is wrong."""
    if len(text) > REQUIREMENT_LIMIT:
        raise ValueError(f"the requirement {text[:100]!r}... is longer than {REQUIREMENT_LIMIT} characters")
    match = _REQUIREMENT.match(" ".join(text.split()))
    if match is None:
        raise ValueError(f"{text[:100]!r} is no requirement; write it as name==1.2 (no URL, path or option)")
    written = match["bracketed"] if match["bracketed"] is not None else match["bare"]
    specifiers = []
    for part in written.split(",") if written.strip() else ():
        specifier = _SPECIFIER.match(part)
        if specifier is None:
            raise ValueError(
                f"{part.strip()[:100]!r} in {text[:100]!r} is no version specifier; write it as ==1.2 or >=1,<2"
            )
        operator, version = specifier.groups()
        bare = version[:-2] if operator in ("==", "!=") and version.endswith(".*") else version
        if operator != "===" and not is_version(bare):
            raise ValueError(f"{version!r} in {text[:100]!r} is no version; write it as in 1.2 or 2025.9.16")
        specifiers.append((operator, version))
    extras = tuple(normalise_name(extra.strip()) for extra in (match["extras"] or "").split(",") if extra.strip())
    return Requirement(normalise_name(match["name"]), extras, tuple(specifiers), (match["marker"] or "").strip())


def version_key(version: str) -> Optional[VersionKey]:
    """A key that orders versions as PEP 440 does, local parts left out; None for what is no version."""
    match = _VERSION.match(version.strip())
    if match is None:
        return None
    release = tuple(int(part) for part in match["release"].split("."))
    while len(release) > 1 and release[-1] == 0:
        release = release[:-1]
    is_dev = match["dev"] is not None
    dev: float = int(match["dev_number"] or 0) if is_dev else float("inf")
    post = -1
    if match["post_only"] is not None:
        post = int(match["post_only"])
    elif match["post"] is not None:
        post = int(match["post_number"] or 0)
    if match["pre"] is not None:
        pre = (_PRE_RANK[match["pre"].lower()], int(match["pre_number"] or 0))
    elif is_dev and post < 0:
        pre = (-1, 0)  # 1.0.dev1 comes before 1.0a1
    else:
        pre = (3, 0)
    return int(match["epoch"] or 0), release, pre, post, dev


def is_prerelease(version: str) -> bool:
    """Whether `version` is an alpha, beta, candidate or development release."""
    match = _VERSION.match(version.strip())
    return match is not None and (match["pre"] is not None or match["dev"] is not None)


def _sort_key(version: str) -> VersionKey:
    return version_key(version) or (-1, (), (0, 0), 0, 0)


def _satisfies(version: str, operator: str, wanted: str) -> bool:
    if operator == "===":
        return version.lower() == wanted.lower()
    if operator in ("==", "!=") and wanted.endswith(".*"):
        return _has_prefix(version, wanted[:-2]) == (operator == "==")
    have, want = version_key(version), version_key(wanted)
    if have is None or want is None:
        return False
    if operator == "~=":
        # ~=1.4.2 means >=1.4.2, ==1.4.*
        return have >= want and _has_prefix(version, ".".join(_release(wanted)[:-1]))
    if operator in ("==", "!="):
        same = have == want and ("+" not in wanted or version.lower() == wanted.lower())
        return same == (operator == "==")
    if operator == "<=":
        return have <= want
    if operator == ">=":
        return have >= want
    if operator == "<":
        # 1.0rc1 is no '<1.0' (PEP 440, exclusive ordered comparison).
        return have < want and not (is_prerelease(version) and not is_prerelease(wanted) and have[:2] == want[:2])
    return have > want and not (have[3] >= 0 and want[3] < 0 and have[:2] == want[:2])


def _release(version: str) -> list[str]:
    match = _VERSION.match(version.strip())
    return match["release"].split(".") if match is not None else []


def _has_prefix(version: str, prefix: str) -> bool:
    have, want = [int(part) for part in _release(version)], [int(part) for part in _release(prefix)]
    have += [0] * (len(want) - len(have))
    return bool(want) and have[: len(want)] == want
