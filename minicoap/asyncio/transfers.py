"""What `Endpoint.download` and `Endpoint.upload` do: requests with states, files, digests and progress around them."""

from __future__ import annotations

import os
from collections.abc import Awaitable
from typing import Any, Callable, NamedTuple, Optional, Union

from minicoap.asyncio.files import FileSink
from minicoap.asyncio.partfile import PartFile
from minicoap.codec import codes
from minicoap.core.block_client import Transfer
from minicoap.core.body import ClientSink, Digest, HashingSink, Source, TransferState
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


async def upload(
    send: Send, uri: str, source: Union[bytes, Source], progress: Optional[Progress], arguments: dict[str, Any]
) -> Response:
    """Send `source` to `uri`."""

    def moved_on(transfer: Transfer) -> None:
        # Once the response has begun, it is that which moves on.
        if progress is not None and transfer.sent and not transfer.received:
            progress(TransferState(uri, None, transfer.sent), transfer.sent_size)

    code = arguments.pop("code")
    return await send(code, uri, source, progress=moved_on if progress is not None else None, **arguments)
