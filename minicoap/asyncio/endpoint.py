"""The endpoint for programs that run on asyncio: requests are awaited, resources are served."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import ExitStack
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Callable, Optional, Union, cast

from minicoap.asyncio.addresses import resolve_local
from minicoap.asyncio.directory import register
from minicoap.asyncio.files import FileSource
from minicoap.asyncio.multicast import Answers, ask, join
from minicoap.asyncio.observation import observe
from minicoap.asyncio.reach import Reach
from minicoap.asyncio.tasks import Tasks
from minicoap.asyncio.transfers import (
    DownloadOptions,
    Progress,
    UploadOptions,
    download,
    download_file,
    upload,
    upload_with_record,
)
from minicoap.codec import codes, contentformats
from minicoap.codec.linkformat import Link, parse_links
from minicoap.codec.options import URI_HOST
from minicoap.codec.uri import CoapUri, format_uri, is_ip_literal, parse_uri
from minicoap.core.body import ClientSink, Digest, Source, TransferState
from minicoap.core.cache import Cache
from minicoap.core.directory import DEFAULT_LIFETIME, Facts, Registration
from minicoap.core.endpoint import EndpointCore
from minicoap.core.observe_client import Observation
from minicoap.core.parameters import Limits, TransmissionParameters
from minicoap.core.request import Path, Response
from minicoap.core.resource import Site
from minicoap.errors import (
    CoapError,
    NetworkError,
    PathError,
    PeerError,
    RequestTimeout,
    UsageError,
)
from minicoap.shell.entropy import SystemEntropy
from minicoap.shell.udp import UdpShell, open_for_all, open_socket

if TYPE_CHECKING:
    from minicoap.core.entropy import Entropy
    from minicoap.core.trace import Trace, TracedMachine
    from minicoap.security.credentials import Credentials
    from minicoap.security.sessions import SecurityLimits
    from minicoap.shell.secure import SecureShell

    Machine = Union[EndpointCore, TracedMachine]

_REACHED = 1024  # names whose working address is remembered

logger = logging.getLogger(__name__)


class Endpoint:
    """A CoAP endpoint: client and server on one UDP socket.

    Use it as ``async with Endpoint() as endpoint``. A client needs no more; `serve` binds the socket to an address of
    one's choice, where the resources of `site` are served then. A handler of `site` may be an ``async def`` function,
    which runs in a task of its own; a plain function answers several times as many requests.

    `parameters` and `limits` are the protocol's times and the bounds of memory (see `TransmissionParameters`,
    `Limits`); with a `cache`, fresh responses are not asked for again. `trace` is called with a `TraceEvent` for each
    message sent and received, as a `MessageLog` may be; tokens and message IDs come from `entropy`. Every request
    returns a `Response`, whatever its code: 4.xx and 5.xx are responses. Raised are UsageError for what cannot work,
    PathError, RequestTimeout and other NetworkErrors where no answer came, PeerError for one that broke the protocol,
    StorageError where a file failed.
    With `credentials` it speaks `coaps` too, as a client and as a server (see `minicoap.security.credentials`);
    `security_limits` bound its sessions. SecurityError is raised where they cannot be agreed on.

    Cancelling the task that waits for a request ends the request. Of a host's several addresses the next is tried where
    one cannot be reached.
    """

    def __init__(
        self,
        site: Optional[Site] = None,
        *,
        parameters: TransmissionParameters = TransmissionParameters(),  # noqa: B008  immutable
        limits: Limits = Limits(),  # noqa: B008  immutable
        cache: Optional[Cache] = None,
        credentials: Optional[Credentials] = None,
        security_limits: Optional[SecurityLimits] = None,
        trace: Optional[Trace] = None,
        entropy: Optional[Entropy] = None,
    ) -> None:
        self.core = EndpointCore(
            SystemEntropy() if entropy is None else entropy,
            site=site,
            parameters=parameters,
            limits=limits,
            cache=cache,
        )
        self._machine: Machine = self.core if trace is None else _traced(self.core, trace)
        self._credentials = credentials
        self._security_limits = security_limits
        self._secure: Optional[SecureShell] = None  # made with the first socket, if there are credentials
        self._shell: Optional[UdpShell] = None
        self._reach = Reach(self.core)
        self._tasks = Tasks(self.wake)
        self._observations: dict[Observation, None] = {}
        self._asking: dict[Answers, None] = {}  # requests to groups that are under way
        self._local: dict[str, UdpShell] = {}  # what is served, by scheme
        for resource in self.core.site.resources:
            for code, handler in resource.handlers.items():
                if iscoroutinefunction(handler):
                    resource.handlers[code] = self._tasks.handler(handler)

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; whoever still waits for a response gets a NetworkError."""
        self._tasks.close()
        self._reach.close()
        for answers in self._asking:
            answers.put_nowait(NetworkError("the endpoint was closed"))
        if self._shell is not None:
            for observation in list(self._observations):
                observation.cancel(asyncio.get_running_loop().time())
            self._shell.wake()  # a last word to the servers, sent once
            if self._secure is not None:
                self._secure.close()
            self._shell.close()

    async def serve(self, uri: str) -> None:
        """Bind to the host and port of `uri`, such as ``coap://127.0.0.1:5683``; port 0 takes any free one.

        ``coap://[::]`` serves all addresses of the machine, ``coap://0.0.0.0`` all of IPv4. Has to come before the
        first request, which would bind the socket otherwise. With credentials ``coaps://127.0.0.1:5684`` is served as
        well, or instead: call it twice for both. Raises PathError if the address is taken or not here.
        """
        target = self._parse(uri)
        if target.path or target.query:
            raise UsageError(f"{uri}: an endpoint serves a host and port; paths belong to the site's resources")
        is_bound = target.scheme in self._local or (self._shell is not None and not self._local)
        if self._reach.is_closed or is_bound or (self._local and self._credentials is None):
            raise UsageError("the endpoint is bound already; call serve before the first request")
        loop = asyncio.get_running_loop()
        family, address = await resolve_local(target.host, target.port, loop)
        try:
            sock = open_socket(family, address)
        except OSError as error:
            raise PathError(f"cannot serve {uri}: {error.strerror}", error) from error
        shell = self._run(sock, target.scheme)
        self._local[target.scheme] = shell
        if self._shell is None:
            self._shell = shell

    async def join(self, uri: str, *, interface: Optional[str] = None) -> None:
        """Become a member of the group of `uri`, such as ``coap://224.0.1.187``, and answer what it is asked.

        Served are the resources that say ``group=True``, and `/.well-known/core` (RFC 7252 §8). `interface` is the name
        of the one to listen on, in a URI also ``coap://[ff02::fd%25eth0]``. Comes after `serve`, whose address answers
        are sent from. Raises PathError where the system cannot, UsageError for what is no group.
        """
        target = self._parse(uri)
        if self._shell is None:
            raise UsageError("call serve first: answers to a group's requests come from there")
        join(self._machine.multicast_received, self._shell, target, interface)

    @property
    def local_uri(self) -> str:
        """Where the endpoint is bound, with the port it really has: the first of `local_uris`."""
        return self.local_uris[0]

    @property
    def local_uris(self) -> list[str]:
        """Where the endpoint is bound, in the order of `serve`. Raises UsageError before it is bound."""
        if self._shell is None:
            raise UsageError("the endpoint is not bound yet")
        bound = self._local or {"coap": self._shell}
        return [format_uri(CoapUri(scheme, *shell.local_address[:2])).rstrip("/") for scheme, shell in bound.items()]

    def credentials_changed(self) -> None:
        """Go by the credentials as they are after `Credentials.change`: who is not believed any more is cut off."""
        if self._secure is not None:
            self._secure.credentials_changed()

    def wake(self) -> None:
        """Send what the core has to send: due after each call to `core`, or to a `Deferred`, from outside a handler."""
        if self._secure is not None:
            self._secure.wake()
        elif self._shell is not None:
            self._shell.wake()

    async def get(self, uri: str, **arguments: Any) -> Response:
        """GET `uri`; see `request` for the arguments."""
        return await self.request(codes.GET, uri, **arguments)

    async def put(self, uri: str, payload: Union[bytes, Source] = b"", **arguments: Any) -> Response:
        """PUT `payload` to `uri`; see `request` for the arguments."""
        return await self.request(codes.PUT, uri, payload, **arguments)

    async def post(self, uri: str, payload: Union[bytes, Source] = b"", **arguments: Any) -> Response:
        """POST `payload` to `uri`; see `request` for the arguments."""
        return await self.request(codes.POST, uri, payload, **arguments)

    async def delete(self, uri: str, **arguments: Any) -> Response:
        """DELETE `uri`; see `request` for the arguments."""
        return await self.request(codes.DELETE, uri, **arguments)

    async def fetch(self, uri: str, payload: Union[bytes, Source] = b"", **arguments: Any) -> Response:
        """FETCH from `uri` what `payload` describes (RFC 8132 §2); see `request` for the arguments.

        Name the payload's `content_format`: a server need not take one without (§2.3.1).
        """
        return await self.request(codes.FETCH, uri, payload, **arguments)

    async def patch(self, uri: str, payload: Union[bytes, Source], **arguments: Any) -> Response:
        """PATCH `uri` as `payload` says (RFC 8132 §3): not to be repeated; see `request` for the arguments."""
        return await self.request(codes.PATCH, uri, payload, **arguments)

    async def ipatch(self, uri: str, payload: Union[bytes, Source], **arguments: Any) -> Response:
        """PATCH `uri` as `payload` says, with what may be repeated (iPATCH, RFC 8132 §3); see `request`."""
        return await self.request(codes.IPATCH, uri, payload, **arguments)

    async def download(
        self,
        uri: str,
        sink: Union[ClientSink, str, os.PathLike[str]],
        *,
        resume: Optional[TransferState] = None,
        restart: bool = False,
        window: int = 1,
        qblock: bool = False,
        progress: Optional[Progress] = None,
        digest: Optional[Digest] = None,
        **arguments: Any,
    ) -> Response:
        """GET `uri` into a file of that name, or into `sink`, in memory that does not depend on its size.

        A file grows as NAME.part, with its state beside it, and gets its name when it is whole. What an earlier
        download of the same URI left there is gone on with by itself. A sink's caller does so by `resume`, a state that
        `progress` was told. If the server has another body by now (another ETag), that is a BodyError, or with
        `restart` all is fetched anew; a state without ETag is of no use to a file, and believed for a sink.

        `window` is how many blocks may be under way at once. More than one is more than CoAP's NSTART allows, so
        congestion control decides how many of them are used (`minicoap.core.congestion`); 16 suits most links.
        With `qblock` the server sends ten blocks at a time without being asked for each, if it has Q-Block (RFC 9177);
        it does so in non-confirmable messages with ``confirmable=False``, and what is lost is asked for again.
        `progress(state, size)` is called as blocks arrive. `digest`, one that `hashlib` makes, is fed the body in
        order; what a file has already is read for it, for a sink the caller feeds it up to `resume.resume_at`.

        The response returned has no payload, unless it is a 4.xx or 5.xx. Raises StorageError for an OSError of a file
        or sink, UsageError for anything else that a sink or `progress` raised but BodyError; see `request` as well.
        """
        options = DownloadOptions(restart, window, qblock, progress, digest, arguments)
        if isinstance(sink, (str, os.PathLike)):
            if resume is not None:
                raise UsageError("the state of a file's download is beside the file; resume is for sinks")
            return await download_file(self._request, uri, os.fspath(sink), options)
        return await download(self._request, uri, sink, TransferState(uri) if resume is None else resume, options)

    async def upload(
        self,
        uri: str,
        source: Union[bytes, Source, str, os.PathLike[str]],
        *,
        code: int = codes.PUT,
        resume: Union[TransferState, str, os.PathLike[str], None] = None,
        window: int = 1,
        any_order: bool = False,
        qblock: bool = False,
        progress: Optional[Progress] = None,
        digest: Optional[Digest] = None,
        tagged: bool = False,
        **arguments: Any,
    ) -> Response:
        """PUT a file of that name, or bytes, or a `Source` to `uri`, or send it by another method `code`.

        One that was broken off is gone on with by `resume`: a state that `progress` was told, or the name of a file,
        which holds the state until the server has it all. The Request-Tag in it shows the server that it is the same
        body (RFC 9175). If the source's ETag or size is another now, or the server has let go of what it had, all is
        sent anew, which `progress` sees. Most servers know a client by its address and port, and keep a body for some
        minutes: they let an endpoint go on. For one of a later process a server has to do more, as the fleet's does.

        `window` is how many blocks may be under way at once, by congestion control as for `download`. It is used where
        the server shows that it acts on each block by itself (RFC 7959 §2.3), and where you say, by `any_order`, that
        it keeps blocks that come before their turn, as this endpoint's does; there are servers that damage the body
        then, without a word. With `qblock` ten are sent without an answer to each, if the server has Q-Block
        (RFC 9177), by ``confirmable=False`` in non-confirmable messages, and what is lost is sent again.

        `progress(state, size)` is called as blocks are taken. `digest`, one that `hashlib` makes, is fed the whole body
        in order. Two uploads to one resource at once are told apart by a Request-Tag; with `tagged` it is sent always,
        for other clients at the same address. See `request` for the rest.
        """
        options = UploadOptions(code, window, any_order, qblock, tagged, progress, digest, arguments)
        with ExitStack() as files:
            if isinstance(source, (str, os.PathLike)):
                source = files.enter_context(FileSource(os.fspath(source)))
            if isinstance(resume, (str, os.PathLike)):
                return await upload_with_record(self._request, uri, source, os.fspath(resume), options)
            return await upload(self._request, uri, source, resume, options)

    def observe(
        self,
        uri: str,
        *,
        code: int = codes.GET,
        payload: bytes = b"",
        content_format: Optional[int] = None,
        accept: Optional[int] = None,
        options: Iterable[tuple[int, bytes]] = (),
        confirmable: bool = True,
        timeout: Optional[float] = None,
        sink: Optional[Callable[[], ClientSink]] = None,
        patience: float = 300.0,
    ) -> AsyncGenerator[Response, None]:
        """Iterate over the states of `uri`: what it is now, and what it becomes (RFC 7641).

        ::

            async for response in endpoint.observe("coap://192.0.2.7/time"):
                print(response.text)

        Who is slow gets the latest state and misses those in between. The iteration ends after a 4.xx or 5.xx response,
        and after the one response of a server that does not support it, whose `is_notification` is false; leaving it
        tells the server. It survives a restart of the server, and raises what ended it if none answers for `patience`
        seconds: PathError, RequestTimeout or another CoapError, as `request` does, which says what the other arguments
        are. With `sink`, a function that returns a `ClientSink`, each body goes into one of its own.
        """
        target = self._parse(uri)
        items = list(options)
        if not is_ip_literal(target.host):
            items.append((URI_HOST, target.host.encode()))  # RFC 7252 §6.4
        return observe(
            self.core,
            self._open(),
            self._reach,
            target,
            self._observations,
            code=code,
            payload=payload,
            content_format=content_format,
            accept=accept,
            options=items,
            confirmable=confirmable,
            timeout=timeout,
            sink=sink,
            patience=patience,
        )

    def changed(self, path: str) -> None:
        """Have the observers of the resource at `path` be sent its new state; may be called from anywhere in the loop.

        See `Site.changed`.
        """
        self.core.site.changed(path)
        self.wake()

    async def request(
        self,
        code: int,
        uri: str,
        payload: Union[bytes, Source] = b"",
        *,
        content_format: Optional[int] = None,
        accept: Optional[int] = None,
        options: Iterable[tuple[int, bytes]] = (),
        confirmable: bool = True,
        timeout: Optional[float] = None,
        sink: Optional[ClientSink] = None,
        szx: Optional[int] = None,
        window: int = 1,
        qblock: bool = False,
        no_response: int = 0,
        parameters: Optional[TransmissionParameters] = None,
    ) -> Response:
        """Send a request with the method `code` and return its response.

        `payload` is bytes or a `Source` of any size; what is longer than 1024 bytes travels block by block, both ways.
        `content_format` says what it is, `accept` what the response is to be (numbers of `contentformats`). `options`
        are further (number, value) pairs. `confirmable` requests are repeated until acknowledged; others are sent once.
        `timeout` is the most that one exchange, a block's for example, may take in seconds. `sink` takes the body of a
        success. `szx` asks for blocks of at most 16 << szx bytes. `window` and `qblock` are as in `download`.
        `no_response` says which responses are not wanted: 2 for 2.xx, 8 for 4.xx, 16 for 5.xx, or their sum; what is
        returned then has the code EMPTY (RFC 7967). `parameters` are those of this request if the endpoint's will not
        do.
        """
        return await self._request(
            code,
            uri,
            payload,
            content_format=content_format,
            accept=accept,
            options=options,
            confirmable=confirmable,
            timeout=timeout,
            sink=sink,
            szx=szx,
            window=window,
            qblock=qblock,
            no_response=no_response,
            parameters=parameters,
        )

    async def _request(
        self,
        code: int,
        uri: str,
        payload: Union[bytes, Source],
        *,
        options: Iterable[tuple[int, bytes]] = (),
        **arguments: Any,
    ) -> Response:
        target = self._parse(uri)
        items = list(options)
        if not is_ip_literal(target.host):
            items.append((URI_HOST, target.host.encode()))  # RFC 7252 §6.4
        shell = self._open()

        def begin(
            path: Path, done: Callable[[Union[Response, CoapError]], None], now: float
        ) -> Callable[[float], None]:
            return self.core.request(
                code,
                path,
                done,
                now,
                uri_path=target.path,
                query=target.query,
                payload=payload,
                options=items,
                **arguments,
            ).cancel

        return cast(Response, await self._reach.outcome(code, target, shell, begin))

    async def multicast(
        self,
        uri: str,
        *,
        code: int = codes.GET,
        payload: bytes = b"",
        content_format: Optional[int] = None,
        accept: Optional[int] = None,
        options: Iterable[tuple[int, bytes]] = (),
        duration: Optional[float] = None,
        interface: Optional[str] = None,
    ) -> AsyncGenerator[tuple[str, Response], None]:
        """Ask all members of the group of `uri`: yields each one's own URI and its response, as they come.

        ::

            async for member, response in endpoint.multicast("coap://224.0.1.187/.well-known/core?rt=light"):
                print(member, response.text)

        It ends after `duration` seconds, ten where None. Members that do not have what is asked for stay silent.
        `interface` is the name of the one to ask on. Raises PathError if the group cannot be reached, UsageError for
        what is no group or what a group cannot be asked.
        """
        arguments = {
            "payload": payload,
            "content_format": content_format,
            "accept": accept,
            "options": options,
            "duration": duration,
        }
        answers: Answers = asyncio.Queue()
        if self._parse(uri).scheme != "coap":
            raise UsageError(f"{uri}: DTLS protects no groups (RFC 7252 §9.1); ask over coap")
        members = ask(self.core, self._open(), self._parse(uri), interface, code, answers, arguments)
        self._asking[answers] = None
        try:
            async for member in members:
                yield member
        finally:
            del self._asking[answers]
            await members.aclose()

    async def links(self, uri: str, **arguments: Any) -> list[Link]:
        """GET `uri` and read it as links (RFC 6690): `/.well-known/core` of an endpoint, a directory's lookup.

        Raises PeerError for what is no link format, or no success; see `request` for the arguments.
        """
        response = await self.get(uri, accept=contentformats.LINK_FORMAT, **arguments)
        if not response.is_success:
            raise PeerError(f"{uri} was answered {codes.code_name(response.code)}")
        return parse_links(response.text)

    async def register(
        self,
        uri: str,
        name: str,
        *,
        sector: str = "",
        lifetime: int = DEFAULT_LIFETIME,
        attributes: Optional[Mapping[str, str]] = None,
    ) -> Registration:
        """Register with the resource directory at `uri`, such as ``coap://rd.example``, under `name` (RFC 9176 §5.1).

        What is registered is this endpoint's `/.well-known/core`, which the directory reads from where the request
        came: so `serve` comes first. Once the directory has agreed, the registration is refreshed within its `lifetime`
        (seconds) until the endpoint is closed or the returned object's `stop(now)` called. Raises PeerError if the
        directory refuses, NetworkErrors if it cannot be reached, UsageError for what no directory takes.
        """
        target = self._parse(uri)
        if target.path or target.query:
            raise UsageError(f"{uri}: simple registration goes to a host; the path is /.well-known/rd")
        shell = self._open()
        (path, *_) = await self._reach.addresses(target, shell)
        return await register(self.core, shell, self._reach, uri, path, Facts(name, sector, lifetime, attributes or {}))

    async def takes_tokens(self, uri: str, length: int) -> bool:
        """Whether the endpoint of `uri` takes tokens of `length` bytes (RFC 8974 §2.2.2); good for half an hour."""

        def begin(path: Path, done: Callable[[Union[bool, CoapError]], None], now: float) -> None:
            self.core.try_token_length(path, length, done, now)

        return cast(bool, await self._reach.outcome(codes.GET, self._parse(uri), self._open(), begin))

    async def ping(self, uri: str, *, timeout: Optional[float] = None) -> float:
        """Ask the endpoint of `uri` for a sign of life (RFC 7252 §4.3) and return the seconds that it took.

        Raises RequestTimeout after `timeout` seconds, or after the usual repetitions of a confirmable message.
        """
        target = self._parse(uri)
        shell = self._open()
        loop = asyncio.get_running_loop()
        started = loop.time()

        def begin(path: Path, done: Callable[[Optional[CoapError]], None], now: float) -> None:
            self.core.ping(path, done, now)

        try:
            await asyncio.wait_for(self._reach.outcome(codes.GET, target, shell, begin), timeout)
        except asyncio.TimeoutError:
            raise RequestTimeout(f"no sign of life within {timeout} s") from None
        return loop.time() - started

    def _open(self) -> UdpShell:
        if self._reach.is_closed:
            raise UsageError("the endpoint is closed")
        if self._shell is None:
            self._shell = self._run(open_for_all(), "", serves=False)
        return self._shell

    def _run(self, sock: socket.socket, scheme: str, *, serves: bool = True) -> UdpShell:
        """Run the core on `sock`, with DTLS under it if there are credentials; requests of `scheme` are served."""
        loop = asyncio.get_running_loop()
        if self._credentials is None:
            return UdpShell(self._machine, sock, loop, serves=serves)
        if self._secure is None:
            from minicoap.security.sessions import SecurityLimits
            from minicoap.shell.secure import SecureShell

            limits = self._security_limits or SecurityLimits()
            self._secure = self._reach.secure = SecureShell(self._machine, self._credentials, loop, limits=limits)
        return self._secure.listen(sock, scheme, serves=serves)

    def _parse(self, uri: str) -> CoapUri:
        target = parse_uri(uri)
        if target.scheme == "coaps" and self._credentials is None:
            raise UsageError(f"{uri}: coaps needs credentials: Endpoint(credentials=Credentials(...))")
        return target


def _traced(core: EndpointCore, trace: Trace) -> TracedMachine:
    from minicoap.core.trace import TracedMachine

    return TracedMachine(core, trace, time.monotonic)
