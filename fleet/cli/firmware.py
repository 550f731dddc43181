"""`fleet firmware`: the store of wheels and files that jobs install."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Sequence
from typing import Optional

from fleet.cli import session
from fleet.cli.exitcodes import DONE
from fleet.cli.output import Progress, human_size, local_time, print_document, printable, table
from fleet.errors import NotFoundError, PeerError, UsageError
from fleet.model.api_answers import ArtifactView
from fleet.model.formats import encode
from fleet.operator.client import Fleet
from minicoap.asyncio.files import FileSource
from minicoap.core.body import TransferState
from minicoap.errors import StorageError

UNCHECKED = ".unchecked"  # behind the name of a file whose hash is not known to be right yet


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    group = session.Group("firmware", "Put wheels and files into the store, get and delete them", default="list")
    put = group.action("put", _put, "Put a file into the store")
    put.add_argument("file", metavar="FILE")
    put.add_argument("--name", help="the name in the store (default: the file's own)")
    put.add_argument("--if-none-match", action="store_true", help="refuse to replace an artifact of that name")
    get = group.action("get", _get, "Fetch an artifact and check its SHA-256; goes on where it was broken off")
    get.add_argument("name", metavar="NAME", help="its name, or its SHA-256")
    get.add_argument("-o", "--output", metavar="FILE", help="where to write it (default: its name, here)")
    group.action("list", _list, "List what is in the store")
    delete = group.action("delete", _delete, "Take artifacts out of the store")
    delete.add_argument("names", metavar="NAME", nargs="+")
    return group.run(arguments)


async def _put(fleet: Fleet, options: argparse.Namespace) -> int:
    name = options.name or os.path.basename(options.file)
    try:
        source = FileSource(options.file)
    except StorageError as error:
        raise UsageError(str(error)) from error
    with source, Progress(name, source.size, sys.stderr) as progress:
        upload = _Upload(source, progress)
        answer = await fleet.put_artifact(name, upload, only_if_new=options.if_none_match)
    stored = answer.value.get("sha256", upload.sha256)
    if stored != upload.sha256:
        raise PeerError(f"the store took {name} with the SHA-256 {stored}, the file has {upload.sha256}; put it again")
    session.show_answer(options, answer, f"{printable(name)}  {human_size(source.size)}  sha256 {stored}")
    return DONE


async def _get(fleet: Fleet, options: argparse.Namespace) -> int:
    artifact = await _find(fleet, options.name)
    target = options.output or artifact.name
    if os.path.isdir(target):
        target = os.path.join(target, artifact.name)
    unchecked = target + UNCHECKED
    digest = hashlib.sha256()
    with Progress(artifact.name, artifact.size, sys.stderr) as progress:

        def moved_on(state: TransferState, size: Optional[int]) -> None:
            progress.at(state.offset)

        # By its content and not by its name, which may come to mean something else meanwhile.
        await fleet.get_artifact(artifact.sha256, unchecked, progress=moved_on, digest=digest)
    try:
        if digest.hexdigest() != artifact.sha256:
            os.remove(unchecked)
            raise PeerError(
                f"what came as {artifact.name} has the SHA-256 {digest.hexdigest()}, the store lists "
                f"{artifact.sha256}; nothing was kept"
            )
        os.replace(unchecked, target)
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}") from error
    if options.json:
        print_document(encode(artifact))
    else:
        print(f"{printable(target)}  {human_size(artifact.size)}  sha256 {artifact.sha256}")
    return DONE


async def _list(fleet: Fleet, options: argparse.Namespace) -> int:
    pages = await session.all_pages(fleet.artifacts(), options, "firmware")
    if pages is not None:
        rows = [_row(artifact) for page in pages for artifact in page.firmware]
        print(table(("NAME", ">SIZE", "SHA-256", "CREATED"), rows) if rows else "the store is empty")
    return DONE


async def _delete(fleet: Fleet, options: argparse.Namespace) -> int:
    for name in options.names:
        answer = await fleet.delete_artifact(name)
        if options.json:
            print_document(answer.payload)
    return DONE


async def _find(fleet: Fleet, name: str) -> ArtifactView:
    async for page in fleet.artifacts():
        for artifact in page.value.firmware:
            if name in (artifact.name, artifact.sha256):
                return artifact
    raise NotFoundError(f"there is no artifact {name!r} in the store; `fleet firmware list` shows what there is")


def _row(artifact: ArtifactView) -> tuple[str, ...]:
    return artifact.name, human_size(artifact.size), artifact.sha256, local_time(artifact.created_at)


class _Upload:
    """A file on its way to the store, watched and hashed."""

    def __init__(self, file: FileSource, progress: Progress) -> None:
        self._file = file
        self._progress = progress
        self._hash = hashlib.sha256()
        self._hashed = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    @property
    def size(self) -> int:
        return self._file.size

    @property
    def etag(self) -> Optional[bytes]:
        return self._file.etag

    def read_at(self, offset: int, length: int) -> bytes:
        data = self._file.read_at(offset, length)
        if offset == self._hashed:
            self._hash.update(data)
            self._hashed += len(data)
        self._progress.at(offset)
        return data
