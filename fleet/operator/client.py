"""A client of the fleet's API: coroutines that ask a server and return what it answered, typed.

    async with Endpoint() as endpoint:
        fleet = Fleet(endpoint, "coap://127.0.0.1:5683")
        created = await fleet.create({"name": "demo", "version": "1.1", "package_type": "pip", "target_nodes": ["all"]})
        await fleet.act("install", created.value.job_id)
        async for page in fleet.status(created.value.job_id):
            print(page.value.status, page.value.counts)

A refusal of the server is raised, unlike in `minicoap`: NotFoundError (4.04), IllegalMoveError (4.09 with the state and
what is legal in it), RefusedError with code and field for any other. NetworkError says that no usable answer came,
UsageError that the call cannot work. Commands carry a `request_id` of their own, so that what the network repeats is
done once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Callable, Generic, Optional, Protocol, TypeVar, Union

from fleet import errors
from fleet.errors import IllegalMoveError, NotFoundError, PeerError, RefusedError
from fleet.model.api_answers import (
    ActionAnswer,
    ArtifactView,
    CreateAnswer,
    ErrorAnswer,
    FirmwareAnswer,
    JobDetail,
    NodeHealthAnswer,
    NodesAnswer,
    NodeView,
    PartAnswer,
    StatusAnswer,
    UpdatesAnswer,
)
from fleet.model.audit import AuditAnswer
from fleet.model.enrolment import DecisionAnswer, EnrolmentsAnswer
from fleet.model.formats import JSON, decode, encode
from fleet.model.senml import SENML_JSON, Record, decode_senml
from minicoap.asyncio.endpoint import Endpoint
from minicoap.asyncio.transfers import Progress as TransferProgress
from minicoap.codec import codes, contentformats
from minicoap.codec.options import IF_NONE_MATCH, MAX_AGE
from minicoap.codec.uri import CoapUri, format_uri, parse_uri
from minicoap.core.body import ClientSink, Digest, Source, TransferState, as_source
from minicoap.core.request import Response
from minicoap.errors import CoapError, PathError, SecurityError, StorageError, UsageError

PATIENCE = 60.0  # seconds that a watched server may stay away, since it may be restarting
UNOBSERVED_PAUSE = 2.0  # seconds until a server that has no room for another observer is asked again
WINDOW = 16  # blocks of an artifact under way at most; congestion control decides how many
LONGEST_MESSAGE = 1024  # bytes of content that need no blocks
ANSWER_TIMEOUT = 30.0  # seconds for one exchange: four or five attempts of a confirmable message (RFC 7252 §4.2)

T = TypeVar("T")
Document = dict[str, Any]


class Answer(Generic[T]):
    """An answer of the server: `payload` as it came, JSON, and `value` as what it means."""

    __slots__ = ("payload", "value")

    def __init__(self, value: T, payload: bytes) -> None:
        self.value = value
        self.payload = payload


class Paged(Protocol):
    """An answer that may be one page of several; `next` is the cursor of the page that follows."""

    @property
    def next(self) -> Optional[str]:
        """None on the last page."""


P = TypeVar("P", bound=Paged)


class Fleet:
    """A fleet's server, as an operator's program sees it.

    `server` is its URI, scheme, host and port only; `timeout` the most seconds that one exchange may take, a block's
    for example. Raises UsageError for a URI that cannot be a server's.
    """

    def __init__(self, endpoint: Endpoint, server: str, *, timeout: float = ANSWER_TIMEOUT) -> None:
        self.server = server
        self._endpoint = endpoint
        self._target = parse_server(server)
        self._timeout = timeout

    # Health and nodes

    async def health(self) -> Answer[Document]:
        """The fleet on a page."""
        return await self._ask(codes.GET, ("health",), Document)

    def nodes(self, status: Optional[str] = None) -> AsyncIterator[Answer[NodesAnswer]]:
        """All nodes, page by page; with `status` only those that have it."""
        query = () if status is None else (f"status={status}",)
        return _pages(lambda after: self._list("nodes", NodesAnswer, after, query))

    async def node(self, node_id: str) -> Answer[NodeView]:
        """One node."""
        return await self._ask(codes.GET, ("nodes", node_id), NodeView)

    def watch_health(self, node_id: str) -> AsyncGenerator[Answer[NodeHealthAnswer], None]:
        """A node's last health report, now and whenever there is a new one (RFC 7641); close it when done."""
        return self._watch(("nodes", node_id, "health"), NodeHealthAnswer)

    async def metrics(self, node_id: str, hours: int = 24) -> Answer[list[Record]]:
        """What a node measured in the last `hours`, 1 to 720: means of five minutes, of hours beyond two days."""
        step = 300 if hours <= 48 else 3600
        query = (f"resolution={step}", f"limit={hours * 3600 // step}")
        response = await self._request(codes.GET, ("nodes", node_id, "metrics"), query=query, accept=SENML_JSON)
        return _checked(lambda: decode_senml(response.body, response.content_format), response, "the metrics")

    async def remove_node(self, node_id: str) -> Answer[Document]:
        """Forget a node; one that is not there is fine."""
        return await self._ask(codes.DELETE, ("nodes", node_id), Document)

    # Enrolment

    async def enrolments(self) -> Answer[EnrolmentsAnswer]:
        """The devices that wait for a certificate."""
        return await self._ask(codes.GET, ("enrolments",), EnrolmentsAnswer)

    async def decide(
        self, action: str, node_id: str, *, key: Optional[str] = None, replace: bool = False
    ) -> Answer[DecisionAnswer]:
        """Accept or reject a device that waits; `key` is its key's fingerprint, or the beginning of that.

        With `replace` it takes the place of the one that had its id.
        """
        body: Document = {"action": action, "node_id": node_id, "replace": replace}
        if key is not None:
            body["key"] = key
        return await self._ask(codes.POST, ("enrolments",), DecisionAnswer, body)

    # Jobs

    async def create(self, job: Mapping[str, Any]) -> Answer[CreateAnswer]:
        """Create a job from its fields as the API names them; it is the server that checks them."""
        body = {"request_id": new_request_id(), **job}
        return await self._ask(codes.POST, ("updates",), CreateAnswer, body)

    async def act(self, action: str, job_id: str, request_id: Optional[str] = None) -> Answer[ActionAnswer]:
        """Have a job do `action`: install, cancel, pause, resume, retry or delete."""
        body = {"action": action, "job_id": job_id, "request_id": request_id or new_request_id()}
        return await self._ask(codes.POST, ("updates",), ActionAnswer, body)

    def jobs(self) -> AsyncIterator[Answer[UpdatesAnswer]]:
        """All jobs, newest first, page by page."""
        return _pages(lambda after: self._list("updates", UpdatesAnswer, after))

    async def job(self, job_id: str) -> Answer[JobDetail]:
        """One job and what it was created from."""
        return await self._ask(codes.GET, ("updates", job_id), JobDetail)

    def status(self, job_id: str) -> AsyncIterator[Answer[StatusAnswer]]:
        """A job's status; each page has the job's state and counts, and some of its nodes."""

        def fetch(after: Optional[str]) -> Awaitable[Answer[StatusAnswer]]:
            # By GET, which viewers may use too, and not by the action of POST /updates.
            query = () if after is None else (f"after={after}",)
            return self._ask(codes.GET, ("updates", job_id, "status"), StatusAnswer, query=query)

        return _pages(fetch)

    def watch_status(self, job_id: str) -> AsyncGenerator[Answer[StatusAnswer], None]:
        """A job's status with the first page of its nodes, now and whenever it changes; close it when done."""
        return self._watch(("updates", job_id, "status"), StatusAnswer)

    # Firmware

    def artifacts(self) -> AsyncIterator[Answer[FirmwareAnswer]]:
        """What the firmware store holds, page by page."""
        return _pages(lambda after: self._list("firmware", FirmwareAnswer, after))

    async def artifact(self, name: str) -> Optional[ArtifactView]:
        """What the store lists under a name or a SHA-256 in hex, a name before a hash; None if there is no such."""
        found: Optional[ArtifactView] = None
        async for page in self.artifacts():
            for artifact in page.value.firmware:
                if artifact.name == name:
                    return artifact
                if artifact.sha256 == name and found is None:
                    found = artifact
        return found

    async def put_artifact(
        self,
        name: str,
        content: Union[bytes, Source],
        *,
        sha256: Optional[str] = None,
        only_if_new: bool = False,
        progress: Optional[TransferProgress] = None,
    ) -> Answer[Document]:
        """Put `content` into the store, block by block; `only_if_new` refuses to replace another of that name.

        Several blocks are under way at once, as many as the network takes. With `sha256`, its SHA-256 in hex, it goes
        on behind what earlier uploads of that content left in the store, whoever sent it, and the store takes nothing
        else for it. `progress` is told what the server has taken, see `minicoap.Endpoint.upload`.
        """
        source = as_source(content)
        target = self._uri(("firmware", name), () if sha256 is None else (f"sha256={sha256}",))
        # A fleet's server keeps blocks that come before their turn.
        arguments: dict[str, Any] = {"window": WINDOW if source.size else 1, "any_order": True}
        if sha256 is not None and source.size > LONGEST_MESSAGE:
            # Of this content there is one operation, whoever carries it out: it has one Request-Tag (RFC 9175 §3.4).
            tag = bytes.fromhex(sha256[:16])
            done = (await self.part(sha256)).value.bytes_done
            arguments["resume"] = TransferState(target, source.etag, min(done, source.size), size=source.size, tag=tag)
        with self._errors():
            response = await self._endpoint.upload(
                target,
                source,
                content_format=contentformats.OCTET_STREAM,
                accept=JSON,
                options=((IF_NONE_MATCH, b""),) if only_if_new else (),
                progress=progress,
                timeout=self._timeout,
                **arguments,
            )
        if not response.is_success:
            raise _refusal(response)
        return _answer(response, Document, f"PUT /firmware/{name}")

    async def part(self, sha256: str) -> Answer[PartAnswer]:
        """How much of a content with this SHA-256 unfinished uploads have left in the store."""
        return await self._ask(codes.GET, ("firmware",), PartAnswer, query=(f"sha256={sha256}",))

    async def get_artifact(
        self,
        name: str,
        into: Union[ClientSink, str],
        *,
        progress: Optional[TransferProgress] = None,
        digest: Optional[Digest] = None,
    ) -> None:
        """Fetch an artifact by its name, or better by its SHA-256 in hex, into a file or a sink.

        Several blocks are under way at once, as many as the network takes. A file goes on where a fetch that was broken
        off left it, by `into` with `.part` behind it. See `minicoap.Endpoint.download` for `progress` and `digest`.
        """
        with self._errors():
            response = await self._endpoint.download(
                self._uri(("firmware", name)),
                into,
                restart=True,
                window=WINDOW,
                progress=progress,
                digest=digest,
                timeout=self._timeout,
            )
        if not response.is_success:
            raise _refusal(response)

    async def delete_artifact(self, name: str) -> Answer[Document]:
        """Take an artifact out of the store; one that is not there is fine."""
        return await self._ask(codes.DELETE, ("firmware", name), Document)

    # Audit

    async def audit(
        self,
        *,
        who: Optional[str] = None,
        what: Optional[str] = None,
        since: Optional[str] = None,
        result: Optional[str] = None,
        limit: int = 100,
    ) -> Answer[AuditAnswer]:
        """Who did what, the newest `limit` (1 to 1000) rows; `since` is ISO 8601 text."""
        asked = (("who", who), ("what", what), ("since", since), ("result", result), ("limit", str(limit)))
        query = tuple(f"{name}={value}" for name, value in asked if value is not None)
        return await self._ask(codes.GET, ("audit",), AuditAnswer, query=query)

    # System

    async def system(self) -> Answer[Document]:
        """The server's versions, uptime, memory, load and database."""
        return await self._ask(codes.GET, ("system",), Document)

    async def system_action(self, action: str, request_id: Optional[str] = None) -> Answer[Document]:
        """Have the server do `action`: status, restart or shutdown."""
        body = {"action": action, "request_id": request_id or new_request_id()}
        return await self._ask(codes.POST, ("system",), Document, body)

    def _list(
        self, name: str, kind: type[T], after: Optional[str], query: tuple[str, ...] = ()
    ) -> Awaitable[Answer[T]]:
        return self._ask(codes.GET, (name,), kind, query=query if after is None else (*query, f"after={after}"))

    async def _ask(
        self,
        code: int,
        path: Sequence[str],
        kind: type[T],
        body: Optional[Document] = None,
        *,
        query: tuple[str, ...] = (),
    ) -> Answer[T]:
        payload = b"" if body is None else encode(body)
        content_format = None if body is None else JSON
        response = await self._request(code, path, query=query, payload=payload, content_format=content_format)
        return _answer(response, kind, f"{codes.code_name(code)} /{'/'.join(path)}")

    async def _request(
        self,
        code: int,
        path: Sequence[str],
        *,
        query: tuple[str, ...] = (),
        payload: Union[bytes, Source] = b"",
        content_format: Optional[int] = None,
        accept: Optional[int] = JSON,
        options: Sequence[tuple[int, bytes]] = (),
    ) -> Response:
        with self._errors():
            response = await self._endpoint.request(
                code,
                self._uri(path, query),
                payload,
                content_format=content_format,
                accept=accept,
                options=options,
                timeout=self._timeout,
            )
        if not response.is_success:
            raise _refusal(response)
        return response

    async def _watch(self, path: Sequence[str], kind: type[T]) -> AsyncGenerator[Answer[T], None]:
        """Observe a resource; a server that has no room for another observer is asked again and again instead."""
        while True:
            states = self._endpoint.observe(self._uri(path), accept=JSON, timeout=self._timeout, patience=PATIENCE)
            try:
                with self._errors():
                    async for response in states:
                        if not response.is_success:
                            raise _refusal(response)
                        yield _answer(response, kind, f"GET /{'/'.join(path)}")
            finally:
                await states.aclose()
            await asyncio.sleep(UNOBSERVED_PAUSE)

    def _uri(self, path: Sequence[str], query: tuple[str, ...] = ()) -> str:
        return format_uri(self._target._replace(path=tuple(map(_segment, path)), query=query))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the errors of the endpoint into ours."""
        try:
            yield
        except (UsageError, StorageError) as error:
            raise errors.UsageError(str(error)) from error
        except PathError as error:
            raise errors.NetworkError(str(error)) from error
        except CoapError as error:
            if isinstance(error, SecurityError) and error.refused_by is not None:
                raise errors.DistrustError(_distrust(self.server, error)) from error
            raise errors.NetworkError(f"no answer from {self.server}: {error}") from error


def parse_server(server: str) -> CoapUri:
    """Take a server's URI apart; raises UsageError for one that cannot be asked."""
    try:
        target = parse_uri(server)
    except UsageError as error:
        raise errors.UsageError(f"{error}; a server's is like coaps://192.0.2.7") from error
    if not target.port or target.query or any(target.path):
        raise errors.UsageError(f"{server}: give scheme, host and port of the server only, as in coap://192.0.2.7:5683")
    return target


def new_request_id() -> str:
    """A random id for one command."""
    return os.urandom(16).hex()


def _segment(text: str) -> str:
    if text in ("", ".", ".."):
        raise errors.UsageError(f"{text!r} cannot be the name of anything")
    # The server takes percent-encoding out of the option once more, for clients that leave it in.
    return text.replace("%", "%25")


async def _pages(fetch: Callable[[Optional[str]], Awaitable[Answer[P]]]) -> AsyncIterator[Answer[P]]:
    """Fetch page after page, each with the cursor that the one before gave."""
    after: Optional[str] = None
    while True:
        page = await fetch(after)
        yield page
        following = page.value.next
        if following is None:
            return
        if following == after:
            raise PeerError(f"the server's list does not end: the page after {after!r} leads to itself")
        after = following


def _answer(response: Response, kind: type[T], asked: str) -> Answer[T]:
    return _checked(lambda: decode(response.body, response.content_format, kind), response, asked)


def _checked(read: Callable[[], T], response: Response, asked: str) -> Answer[T]:
    try:
        return Answer(read(), response.body)
    except (PeerError, errors.UsageError) as error:
        raise PeerError(
            f"the answer to {asked} is not a fleet server's: {error}; is one of this version running there?"
        ) from error


def _refusal(response: Response) -> PeerError:
    """What an error response says, as the error to raise."""
    code = response.code
    said = _error_answer(response)
    text = said.error or _UNSAID.get(code, "the server gave no reason")
    if code in (codes.SERVICE_UNAVAILABLE, codes.TOO_MANY_REQUESTS) and response.options.get(MAX_AGE) is not None:
        text += f"; try again in {response.max_age} s"
    if code == codes.NOT_FOUND and said.error:
        return NotFoundError(f"{text} ({said.field})" if said.field else text)
    if code == codes.CONFLICT and said.state:
        return IllegalMoveError(text, said.state, said.legal)
    return RefusedError(text, code, said.field)


# A server says nothing of why somebody may not do something.
_UNSAID = {
    codes.UNAUTHORIZED: "nobody may do this without a certificate that is valid; see --credentials",
    codes.FORBIDDEN: "this certificate's holder may not do this; `fleet pki issue operator NAME` makes one for who may",
}


def _distrust(server: str, error: SecurityError) -> str:
    if error.refused_by == SecurityError.OURSELVES:
        return (
            f"{server} is no server of the fleet that the certificate in use is from: {error}. --server names another "
            "server, --credentials another fleet's certificate"
        )
    return (
        f"{server} refuses the certificate in use: it was revoked, or another fleet's authority issued it. Have "
        "`fleet pki issue` make another, and name its directory by --credentials"
    )


def _error_answer(response: Response) -> ErrorAnswer:
    if response.content_format in (None, contentformats.TEXT):
        return ErrorAnswer(response.text)
    try:
        return decode(response.body, response.content_format, ErrorAnswer)
    except (PeerError, errors.UsageError):
        return ErrorAnswer(response.text)  # a proxy's, or another server's
