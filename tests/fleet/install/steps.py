"""Steps and artifacts for tests of the installers."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Optional

from fleet.install.interface import Step, StepArtifact


def stored(
    directory: Path, name: str, content: bytes, *, path: Optional[str] = None, mode: Optional[str] = None
) -> StepArtifact:
    """An artifact whose bytes lie in `directory` under their hash, as a download does."""
    digest = hashlib.sha256(content).hexdigest()
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / digest
    file.write_bytes(content)
    return StepArtifact(name=name, size=len(content), sha256=digest, file=str(file), path=path, mode=mode)


def make_step(place: Path, **fields: Any) -> Step:
    """A step of job-1 whose directories are below `place`."""
    given = {
        "job_id": "job-1",
        "attempt": 1,
        "package_type": "file",
        "work_directory": str(place / "work" / "job-1"),
        "file_root": str(place / "root"),
        **fields,
    }
    return Step(**given)
