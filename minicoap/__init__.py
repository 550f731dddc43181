"""A CoAP endpoint in pure Python: client and server on one socket.

A client in five lines::

    from minicoap import Endpoint

    async def read() -> str:
        async with Endpoint() as endpoint:
            return (await endpoint.get("coap://127.0.0.1:5683/time")).text

A server in a dozen::

    import asyncio
    from datetime import datetime
    from minicoap import Endpoint, Request, Resource, Response, Site

    def time(request: Request) -> Response:
        return Response(payload=datetime.now().isoformat().encode())

    async def main() -> None:
        async with Endpoint(Site(Resource("/time", get=time, observable=True))) as endpoint:
            await endpoint.serve("coap://127.0.0.1:5683")
            while True:
                await asyncio.sleep(1)
                endpoint.changed("/time")

Such a resource can be observed: it is shown whenever it changes::

    async def watch() -> None:
        async with Endpoint() as endpoint:
            async for response in endpoint.observe("coap://127.0.0.1:5683/time"):
                print(response.text)

`Endpoint` is both; its methods `get`, `put`, `post`, `delete`, `fetch`, `patch`, `ipatch`, `request`, `download`,
`upload`, `links`, `register` (with a resource directory) and `ping` are coroutines, `multicast` is an asynchronous
iterator of what the members of a group answer, `observe` is an asynchronous iterator of the states of a resource, of
which a slow reader gets the latest; leaving it tells the server. `changed` has a handler run again for all who observe.
A handler is a plain function from `Request` to `Response`, or to a `Deferred` that is resolved later, or a coroutine
function. Bodies of any size travel block by block: as bytes, or from a `Source` and into a `Sink` (a server's) or
`ClientSink`, such as `FileSource` and `FileSink`. `download` writes a file or a sink, with several blocks under way if
told so; it goes on where an earlier one was broken off, by a `TransferState` that can be stored, and feeds a `hashlib`
digest on the way (`HashingSink` elsewhere). Codes, options and content formats are numbers with names in the modules
`codes`, `options` and `contentformats`. Responses of class 4.xx and 5.xx are responses; what is raised is a
`CoapError`: `UsageError`, `PeerError`, `NetworkError` or `StorageError`.

Underneath, `EndpointCore` is the whole protocol without a socket or a clock; `UdpShell` runs it, or any other
`DatagramMachine`, on a UDP socket, and `minicoap.simulate` under a virtual clock over links that lose and reorder.

Names are imported when they are first used: who needs the codec alone pays for no event loop.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minicoap.asyncio.credentials import load_credentials, reload_credentials
    from minicoap.asyncio.endpoint import Endpoint
    from minicoap.asyncio.entropy import SystemEntropy
    from minicoap.asyncio.files import FileSink, FileSource
    from minicoap.asyncio.secure import SecureShell
    from minicoap.asyncio.trace import MessageLog
    from minicoap.asyncio.udp import UdpShell, open_socket
    from minicoap.codec import codes, contentformats, options
    from minicoap.codec.linkformat import Link, format_links, parse_links
    from minicoap.codec.message import Message, Options, decode, encode
    from minicoap.codec.uri import CoapUri, format_uri, parse_uri
    from minicoap.core.body import BytesSource, ClientSink, HashingSink, Sink, Source, TransferState
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

# Where the names are, below `minicoap`.
_PLACES = {
    "Endpoint": "asyncio.endpoint",
    "MessageLog": "asyncio.trace",
    "TraceEvent": "core.trace",
    "TracedMachine": "core.trace",
    "describe": "core.description",
    "SystemEntropy": "asyncio.entropy",
    "FileSink": "asyncio.files",
    "FileSource": "asyncio.files",
    "UdpShell": "asyncio.udp",
    "open_socket": "asyncio.udp",
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
    "Sink": "core.body",
    "Source": "core.body",
    "TransferState": "core.body",
    "Cache": "core.cache",
    "Credentials": "security.credentials",
    "SecureMachine": "security.sessions",
    "SecureShell": "asyncio.secure",
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
