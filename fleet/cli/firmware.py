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
READ_SIZE = 1 << 20  # bytes of a file that are hashed at a time


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    group = session.Group("firmware", "Put wheels and files into the store, get and delete them", default="list")
    put = group.action("put", _put, "Put a file into the store; goes on where it was broken off")
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
    sha256 = _hash_of(options.file)
    # That a name is free is for the server to say, in the moment in which it is taken.
    listed = None if options.if_none_match else await fleet.artifact(name)
    if listed is not None and listed.name == name and listed.sha256 == sha256:
        _show_artifact(options, listed, f"{printable(name)}  {human_size(listed.size)}  is in the store already")
        return DONE
    try:
        source = FileSource(options.file)
    except StorageError as error:
        raise UsageError(str(error)) from error
    with source, Progress(name, source.size, sys.stderr) as progress:
        answer = await fleet.put_artifact(
            name,
            source,
            sha256=sha256,
            only_if_new=options.if_none_match,
            progress=lambda state, size: progress.at(state.offset),
        )
    stored = answer.value.get("sha256", sha256)
    if stored != sha256:
        raise PeerError(f"the store took {name} with the SHA-256 {stored}, the file has {sha256}; put it again")
    session.show_answer(options, answer, f"{printable(name)}  {human_size(source.size)}  sha256 {stored}")
    return DONE


async def _get(fleet: Fleet, options: argparse.Namespace) -> int:
    artifact = await fleet.artifact(options.name)
    if artifact is None:
        raise NotFoundError(
            f"there is no artifact {options.name!r} in the store; `fleet firmware list` shows what there is"
        )
    target = options.output or artifact.name
    if os.path.isdir(target):
        target = os.path.join(target, artifact.name)
    unchecked = target + UNCHECKED
    if not _is_left_whole(unchecked, artifact):
        digest = hashlib.sha256()
        with Progress(artifact.name, artifact.size, sys.stderr) as progress:

            def moved_on(state: TransferState, size: Optional[int]) -> None:
                progress.at(state.offset)

            # By its content and not by its name, which may come to mean something else meanwhile.
            await fleet.get_artifact(artifact.sha256, unchecked, progress=moved_on, digest=digest)
        if digest.hexdigest() != artifact.sha256:
            _remove(unchecked)
            raise PeerError(
                f"what came as {artifact.name} has the SHA-256 {digest.hexdigest()}, the store lists "
                f"{artifact.sha256}; nothing was kept"
            )
    try:
        os.replace(unchecked, target)
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}") from error
    _show_artifact(options, artifact, f"{printable(target)}  {human_size(artifact.size)}  sha256 {artifact.sha256}")
    return DONE


def _is_left_whole(unchecked: str, artifact: ArtifactView) -> bool:
    """Whether an earlier run has fetched all of an artifact, and was ended before it could give it its name."""
    if not os.path.isfile(unchecked):
        return False
    return os.path.getsize(unchecked) == artifact.size and _hash_of(unchecked) == artifact.sha256


def _hash_of(file: str) -> str:
    digest = hashlib.sha256()
    try:
        with open(file, "rb") as opened:
            for data in iter(lambda: opened.read(READ_SIZE), b""):
                digest.update(data)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    return digest.hexdigest()


def _remove(file: str) -> None:
    try:
        os.remove(file)
    except OSError as error:
        raise UsageError(f"cannot remove {file}: {error.strerror}") from error


def _show_artifact(options: argparse.Namespace, artifact: ArtifactView, text: str) -> None:
    if options.json:
        print_document(encode(artifact))
    else:
        print(text)


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


def _row(artifact: ArtifactView) -> tuple[str, ...]:
    return artifact.name, human_size(artifact.size), artifact.sha256, local_time(artifact.created_at)
