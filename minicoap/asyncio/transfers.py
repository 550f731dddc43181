"""What `Endpoint.download` and `Endpoint.upload` do: requests with states, files, digests and progress around them."""

from __future__ import annotations

import os
from collections.abc import Awaitable
from typing import Any, Callable, NamedTuple, Optional, Union

from minicoap.asyncio.files import FileSink
from minicoap.asyncio.partfile import PartFile
from minicoap.codec import codes
from minicoap.core.block_client import Transfer
from minicoap.core.body import (
    ClientSink,
    Digest,
    HashingSink,
    HashingSource,
    Source,
    TransferState,
    as_source,
)
from minicoap.core.request import Response
from minicoap.errors import StorageError, UsageError

Progress = Callable[[TransferState, Optional[int]], None]
"""Told how far a transfer is, and how many bytes it has in all where that is known."""

Send = Callable[..., Awaitable[Response]]
"""Sends a request: its method, URI and payload, and what else `EndpointCore.request` takes."""


class DownloadOptions(NamedTuple):
    """What `Endpoint.download` was told, `arguments` being those of the request."""

    restart: bool
    window: int
    qblock: bool
    progress: Optional[Progress]
    digest: Optional[Digest]
    arguments: dict[str, Any]


async def download(send: Send, uri: str, sink: ClientSink, state: TransferState, options: DownloadOptions) -> Response:
    """GET `uri` into `sink`, from where `state` stands."""
    if state.uri != uri:
        raise UsageError(f"this is the state of a download of {state.uri}, not of {uri}")
    progress = options.progress

    def moved_on(transfer: Transfer) -> None:
        if progress is not None:
            progress(TransferState(uri, transfer.etag, transfer.received, transfer.szx), transfer.received_size)

    arguments = dict(options.arguments)
    offset = state.resume_at
    if offset:
        wanted = arguments.get("szx")
        arguments["szx"] = state.szx if wanted is None else min(wanted, state.szx)
        arguments["etag"] = state.etag
    return await send(
        codes.GET,
        uri,
        b"",
        sink=sink if options.digest is None else HashingSink(sink, options.digest),
        offset=offset,
        restart=options.restart,
        window=options.window,
        qblock=options.qblock,
        progress=moved_on if progress is not None else None,
        **arguments,
    )


async def download_file(send: Send, uri: str, name: str, options: DownloadOptions) -> Response:
    """GET `uri` into the file `name`, from where the state beside it stands."""
    if os.path.exists(name) and not os.path.isfile(name):  # a device or pipe: nothing to be renamed over
        with FileSink(name) as device:
            return await download(send, uri, device, TransferState(uri), options)
    with PartFile(name, uri, options.digest) as part:

        def moved_on(state: TransferState, size: Optional[int]) -> None:
            part.moved_on(state)
            if options.progress is not None:
                options.progress(state, size)

        response = await download(send, uri, part, part.state, options._replace(progress=moved_on))
        if response.is_success:
            try:
                part.finish()
            except OSError as error:
                raise StorageError(f"cannot give {name} its name", error) from error
        return response


class UploadOptions(NamedTuple):
    """What `Endpoint.upload` was told, `arguments` being those of the request."""

    code: int
    window: int
    any_order: bool
    qblock: bool
    tagged: bool
    progress: Optional[Progress]
    digest: Optional[Digest]
    arguments: dict[str, Any]


async def upload(
    send: Send, uri: str, payload: Union[bytes, Source], state: Optional[TransferState], options: UploadOptions
) -> Response:
    """Send `payload` to `uri`, from where `state` stands."""
    if state is not None and state.uri != uri:
        raise UsageError(f"this is the state of an upload to {state.uri}, not to {uri}")
    if state is not None and options.qblock:
        raise UsageError("an upload by Q-Block can only be begun anew; resume is for uploads by Block1")
    progress = options.progress
    arguments = dict(options.arguments)
    body = payload
    if options.digest is not None:
        body = HashingSource(as_source(payload), options.digest)
    if state is not None or progress is not None:
        body = as_source(body)
        state = _begun(uri, body, state)
        arguments["tag"] = state.tag
        if state.offset:
            wanted = arguments.get("szx")
            szx = arguments["szx"] = state.szx if wanted is None else min(wanted, state.szx)
            # What has been taken whole, but for the last block: that has to be sent for the answer to come.
            arguments["sent"] = min(state.offset, body.size - 1) >> (szx + 4) << (szx + 4)

    def moved_on(transfer: Transfer) -> None:
        # Once the response has begun, it is that which moves on.
        if progress is not None and state is not None and not transfer.received:
            progress(state._replace(offset=transfer.sent, szx=transfer.sent_szx), transfer.sent_size)

    return await send(
        options.code,
        uri,
        body,
        window=options.window,
        any_order=options.any_order,
        qblock=options.qblock,
        tagged=options.tagged,
        progress=moved_on if progress is not None else None,
        **arguments,
    )


async def upload_with_record(
    send: Send, uri: str, payload: Union[bytes, Source], name: str, options: UploadOptions
) -> Response:
    """Send `payload` to `uri`, from where the state in the file `name` stands."""
    from minicoap.asyncio.uploadstate import UploadState

    with UploadState(name, uri) as record:

        def moved_on(state: TransferState, size: Optional[int]) -> None:
            record.moved_on(state)
            if options.progress is not None:
                options.progress(state, size)

        response = await upload(send, uri, payload, record.state, options._replace(progress=moved_on))
        if response.is_success:
            record.finish()
        return response


def _begun(uri: str, source: Source, state: Optional[TransferState]) -> TransferState:
    """Return `state` if it is of this very body, else that of an upload which begins.

    That gets a Request-Tag which no other body has: its blocks must not be put together with those of another one, now
    or in a later process (RFC 9175 §3.4).
    """
    etag, size = source.etag, source.size
    if state is not None and state.tag is not None and etag is not None and (state.etag, state.size) == (etag, size):
        return state
    return TransferState(uri, etag, size=size, tag=os.urandom(8))
