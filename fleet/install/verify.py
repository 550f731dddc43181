"""The check that an artifact's bytes are the ones the job names."""

import hashlib
import os
from collections.abc import Iterable

from fleet.install.interface import HASH_MISMATCH, InstallError, StepArtifact

CHUNK = 1 << 20


def verify_hashes(artifacts: Iterable[StepArtifact]) -> None:
    """Raise InstallError (hash_mismatch) naming the first artifact whose file is not of its size and SHA-256."""
    for artifact in artifacts:
        try:
            size = os.stat(artifact.file).st_size
        except FileNotFoundError:
            raise InstallError(HASH_MISMATCH, f"{artifact.name}: there is no file {artifact.file}") from None
        if size != artifact.size:
            raise InstallError(HASH_MISMATCH, f"{artifact.name}: {size} bytes, the job says {artifact.size}")
        digest = sha256_of(artifact.file)
        if digest != artifact.sha256.lower():
            raise InstallError(HASH_MISMATCH, f"{artifact.name}: SHA-256 is {digest}, the job says {artifact.sha256}")


def sha256_of(path: str) -> str:
    """The SHA-256 of a file in hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while True:
            piece = file.read(CHUNK)
            if not piece:
                return digest.hexdigest()
            digest.update(piece)
