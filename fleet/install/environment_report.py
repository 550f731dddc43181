"""What a Python environment holds, told by its own interpreter: `PYTHON -I environment_report.py`.

Run as a file by whatever interpreter a node's environment has, so it imports nothing of ours and nothing that is not
in a standard library of 3.8. A JSON object on stdin: `requirements`, strings to check; `pip`, the directory that holds
a package `pip` to borrow the reading of requirements from where the environment has none. One on stdout: `prefix`,
`base_prefix`, `has_pip`, and lists of texts: `invalid` requirements, `unsatisfied` ones, and `damaged` installations,
whose files are not what RECORD (the wheel's own list of files and hashes) says. An interrupted pip leaves these.
"""

import base64
import csv
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import sys
from typing import Any, Dict, List, Optional


def main() -> None:
    """Answer one question."""
    question = json.load(sys.stdin)
    report: Dict[str, Any] = {
        "prefix": sys.prefix,
        "base_prefix": sys.base_prefix,
        "has_pip": importlib.util.find_spec("pip") is not None,
        "invalid": [],
        "unsatisfied": [],
        "damaged": [],
    }
    if question["requirements"]:
        check(question["requirements"], question["pip"], report)
    print(json.dumps(report))


def check(requirements: List[str], pip: str, report: Dict[str, Any]) -> None:
    """Compare what is installed with what is asked for; requirements whose marker says 'not here' are met."""
    sys.path.append(pip)
    try:
        from pip._vendor.packaging.requirements import InvalidRequirement, Requirement
    finally:
        sys.path.remove(pip)  # before anything is looked for: it holds distributions of another environment
    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            report["invalid"].append(f"{text}: {str(error).splitlines()[0]}")
            continue
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            distribution = importlib.metadata.distribution(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            report["unsatisfied"].append(f"{text}: it is not installed")
            continue
        if not requirement.specifier.contains(distribution.version, prereleases=True):
            report["unsatisfied"].append(f"{text}: {distribution.version} is installed")
            continue
        damage = damage_of(distribution)
        if damage is not None:
            report["damaged"].append(f"{requirement.name} {distribution.version}: {damage}")


def damage_of(distribution: importlib.metadata.Distribution) -> Optional[str]:
    """The first file that is missing or is not as RECORD says, None where all are."""
    record = distribution.read_text("RECORD")
    if record is None:
        # What the operating system put where this environment looks too is not this environment's to keep whole.
        place = os.path.realpath(str(distribution.locate_file("")))
        inside = os.path.commonpath([place, os.path.realpath(sys.prefix)]) == os.path.realpath(sys.prefix)
        return "it has no RECORD" if inside else None
    for path, expected, *_ in csv.reader(record.splitlines()):
        if not expected:
            continue  # RECORD itself, and byte code, which Python makes anew
        algorithm, _, value = expected.partition("=")
        try:
            actual = digest_of(str(distribution.locate_file(path)), algorithm)
        except OSError:
            return f"{path} cannot be read"
        if actual != value:
            return f"{path} is not as it was installed"
    return None


def digest_of(path: str, algorithm: str) -> str:
    """The hash of a file as RECORD writes it (PEP 376): URL-safe base64 without padding."""
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()


if __name__ == "__main__":
    main()
