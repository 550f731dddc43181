"""A CoAP endpoint in pure Python: client and server on one socket.

A server in ten lines::

    import asyncio, time
    from minicoap import Endpoint, Resource, Response, Site

    async def main() -> None:
        clock = Resource("/time", get=lambda request: Response(payload=time.strftime("%c").encode()), observable=True)
        async with Endpoint(Site(clock)) as endpoint:
            await endpoint.serve("coap://127.0.0.1:5683")
            while True:
                await asyncio.sleep(1)
                endpoint.changed("/time")

A client in five::

    from minicoap import Endpoint

    async def read() -> str:
        async with Endpoint() as endpoint:
            return (await endpoint.get("coap://127.0.0.1:5683/time")).text

Such a resource can be observed: it is shown whenever it changes::

    async def watch() -> None:
        async with Endpoint() as endpoint:
            async for response in endpoint.observe("coap://127.0.0.1:5683/time"):
                print(response.text)

`Endpoint` asks (`request`, `get`, `put`, ..., `download`, `upload`, `observe`, `multicast`, `links`, `ping`), serves
the `Resource` entries of a `Site` (`serve`, `join`, `changed`), or both. A handler is a function, plain or coroutine,
from `Request` to `Response`, or to a `Deferred` that is resolved later. Bodies of any size travel block by block: as
bytes, from a `Source`, into a `Sink` (a server's) or a `ClientSink`. Responses of class 4.xx and 5.xx are responses;
what is raised is a `CoapError`: `UsageError`, `PeerError`, `NetworkError` or `StorageError`. Methods, codes, options
and formats are numbers with names in the modules `codes`, `options` and `contentformats`.

Underneath, `EndpointCore` is the whole protocol without a socket or a clock; `UdpShell` runs it, or any other
`DatagramMachine`, on a UDP socket, and `minicoap.simulate` under a virtual clock over links that lose and reorder.

The manual is in docs/minicoap: how-tos whose programs are tested, a reference of every name below, what is supported of
which RFC, tracing. Names are imported when they are first used: who needs the codec alone pays for no event loop.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minicoap.asyncio.credentials import load_credentials, reload_credentials
    from minicoap.asyncio.endpoint import Endpoint
    from minicoap.asyncio.files import FileSink, FileSource
    from minicoap.codec import codes, contentformats, options
    from minicoap.codec.linkformat import Link, format_links, parse_links
    from minicoap.codec.message import Message, Options, decode, encode
    from minicoap.codec.uri import CoapUri, format_uri, parse_uri
    from minicoap.core.body import BytesSource, ClientSink, HashingSink, HashingSource, Sink, Source, TransferState
    from minicoap.core.cache import Cache
    from minicoap.core.description import describe
    from minicoap.core.endpoint import EndpointCore
    from minicoap.core.machine import DatagramMachine
    from minicoap.core.observe_client import Observation
    from minicoap.core.parameters import Limits, TransmissionParameters
    from minicoap.core.request import Deferred, Request, Response
    from minicoap.core.resource import Resource, Site
    from minicoap.core.trace import TracedMachine, TraceEvent
    from minicoap.errors import (
        BodyError,
        CoapError,
        MessageFormatError,
        NetworkError,
        OptionError,
        PathError,
        PeerError,
        RequestTimeout,
        ResetError,
        SecurityError,
        StorageError,
        UsageError,
    )
    from minicoap.security.credentials import Credentials
    from minicoap.security.sessions import SecureMachine, SecurityLimits
    from minicoap.shell.entropy import SystemEntropy
    from minicoap.shell.secure import SecureShell
    from minicoap.shell.trace import MessageLog
    from minicoap.shell.udp import UdpShell, open_socket

# Where the names are, below `minicoap`.
_PLACES = {
    "Endpoint": "asyncio.endpoint",
    "MessageLog": "shell.trace",
    "TraceEvent": "core.trace",
    "TracedMachine": "core.trace",
    "describe": "core.description",
    "SystemEntropy": "shell.entropy",
    "FileSink": "asyncio.files",
    "FileSource": "asyncio.files",
    "UdpShell": "shell.udp",
    "open_socket": "shell.udp",
    "codes": "codec.codes",
    "contentformats": "codec.contentformats",
    "options": "codec.options",
    "Link": "codec.linkformat",
    "format_links": "codec.linkformat",
    "parse_links": "codec.linkformat",
    "Message": "codec.message",
    "Options": "codec.message",
    "decode": "codec.message",
    "encode": "codec.message",
    "CoapUri": "codec.uri",
    "format_uri": "codec.uri",
    "parse_uri": "codec.uri",
    "BytesSource": "core.body",
    "ClientSink": "core.body",
    "HashingSink": "core.body",
    "HashingSource": "core.body",
    "Sink": "core.body",
    "Source": "core.body",
    "TransferState": "core.body",
    "Cache": "core.cache",
    "Credentials": "security.credentials",
    "SecureMachine": "security.sessions",
    "SecureShell": "shell.secure",
    "SecurityError": "errors",
    "SecurityLimits": "security.sessions",
    "load_credentials": "asyncio.credentials",
    "reload_credentials": "asyncio.credentials",
    "EndpointCore": "core.endpoint",
    "DatagramMachine": "core.machine",
    "Observation": "core.observe_client",
    "Limits": "core.parameters",
    "TransmissionParameters": "core.parameters",
    "Deferred": "core.request",
    "Request": "core.request",
    "Response": "core.request",
    "Resource": "core.resource",
    "Site": "core.resource",
    "BodyError": "errors",
    "CoapError": "errors",
    "MessageFormatError": "errors",
    "NetworkError": "errors",
    "OptionError": "errors",
    "PathError": "errors",
    "PeerError": "errors",
    "RequestTimeout": "errors",
    "ResetError": "errors",
    "StorageError": "errors",
    "UsageError": "errors",
}

__all__ = [
    "BodyError",
    "BytesSource",
    "Cache",
    "ClientSink",
    "CoapError",
    "CoapUri",
    "Credentials",
    "DatagramMachine",
    "Deferred",
    "Endpoint",
    "EndpointCore",
    "FileSink",
    "FileSource",
    "HashingSink",
    "HashingSource",
    "Limits",
    "Link",
    "Message",
    "MessageFormatError",
    "MessageLog",
    "NetworkError",
    "Observation",
    "OptionError",
    "Options",
    "PathError",
    "PeerError",
    "Request",
    "RequestTimeout",
    "ResetError",
    "Resource",
    "Response",
    "SecureMachine",
    "SecureShell",
    "SecurityError",
    "SecurityLimits",
    "Sink",
    "Site",
    "Source",
    "StorageError",
    "SystemEntropy",
    "TraceEvent",
    "TracedMachine",
    "TransferState",
    "TransmissionParameters",
    "UdpShell",
    "UsageError",
    "codes",
    "contentformats",
    "decode",
    "describe",
    "encode",
    "format_links",
    "format_uri",
    "load_credentials",
    "open_socket",
    "options",
    "parse_links",
    "parse_uri",
    "reload_credentials",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module at its first use (PEP 562)."""
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{place}")
    value = globals()[name] = module if place.endswith(f".{name}") else getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
