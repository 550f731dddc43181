"""Resources in a table: which handler answers a request, and what `/.well-known/core` says of them (RFC 6690)."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, Callable, Optional, Union, cast

from minicoap.codec import codes, contentformats
from minicoap.codec.linkformat import Link, format_links, matches
from minicoap.codec.message import Options
from minicoap.codec.options import ACCEPT, IF_MATCH, IF_NONE_MATCH
from minicoap.core.body import Sink
from minicoap.core.request import SAFE, Deferred, Request, Response
from minicoap.errors import OptionError, UsageError

Handler = Callable[[Request], Union[Response, Deferred]]
# What a shell that has tasks makes a Handler of (see `minicoap.asyncio.endpoint`).
CoroutineHandler = Callable[[Request], Coroutine[Any, Any, Response]]
AnyHandler = Union[Handler, CoroutineHandler]
OpenSink = Callable[[Request], Union[Sink, Response]]
ResumeSink = Callable[[Request], Union[Sink, Response, None]]
WriteBlock = Callable[[Request, int, bool], Union[Response, Deferred]]
Guard = Callable[[Request, Optional["Resource"]], Optional[Response]]
"""Says whether a request may go on to the resource that its path leads to, None if to none: None, or the refusal."""

_CONDITIONAL = 1 << IF_MATCH | 1 << IF_NONE_MATCH
_CACHED_PATHS = 1024  # spellings of paths whose normalised form is kept
_CACHED_SEGMENTS = 16  # of longer ones it is not: nobody needs them, and a flood of them would fill the memory
_CACHED_LENGTH = 512  # characters, likewise
WELL_KNOWN_CORE = (".well-known", "core")


class Resource:
    """One resource, or a family of them.

    `template` is its path, such as ``/time`` or ``/nodes/{id}/health``; a segment in braces matches any one segment,
    whose value reaches the handler in ``request.args``. `get`, `post`, … are handlers: functions that take a `Request`
    and return a `Response`, or a `Deferred` to be resolved later. A method without handler is answered 4.05.
    `upload` streams the bodies of PUT: it is called with the first block's request and returns a `Sink`, or a response
    that refuses. `resume`, beside it, is called with the request of a later block where the endpoint does not hold what
    came before: after a restart of its own, or of the client's. It returns a sink that does, by an attribute `offset`
    that says how many bytes, or None for 4.08; that it is the same body the request itself has to show, by a hash in
    its query for example. Other bodies are assembled up to `max_body` bytes, more is answered 4.13. `write_block` takes
    the blocks of PUT each by itself, in whatever order they come: it is called with the block's request, the offset in
    bytes at which its payload belongs, and whether the client says that more follow (RFC 7959 §2.3: not atomic).
    `content_formats` are what GET can return; an Accept that is not among them is answered 4.06 (empty: not checked).
    `accepts` are what the bodies of requests can be; a body of another Content-Format, or of none, is answered 4.15
    (empty: not checked). `conditional` says that the handlers honour If-Match and If-None-Match; otherwise these are
    answered 4.02, since both are critical. With `fresh`, requests that change something have to be that many seconds
    old at most, which the client shows by an Echo value (RFC 9175): one that does not is answered 4.01 with a value to
    repeat it with, and the blocks of an upload are as fresh as the first. `group` says that requests to a group that
    the endpoint belongs to are served too; others are ignored (RFC 7252 §8, §11.3).
    `observable` says that clients may observe it (RFC 7641): GET and FETCH, whose handlers then run anew for all
    observers together, on behalf of the first one, each time that `Site.changed` is called, so that the answer must not
    depend on who asks. Notifications are confirmable; with ``notify_confirmable=False``, for what changes often, most
    are not. `title`, `resource_type`, `interface`, `size` (bytes that GET returns, about) and `hidden` are for
    `/.well-known/core`.
    Raises UsageError for a template that is not a path.
    """

    __slots__ = (
        "accepts", "conditional", "content_formats", "fresh", "group", "handlers", "hidden", "interface", "max_body",
        "notify_confirmable", "observable", "resource_type", "resume", "segments", "size", "title", "upload",
        "write_block",
    )  # fmt: skip

    def __init__(
        self,
        template: str,
        *,
        get: Optional[AnyHandler] = None,
        post: Optional[AnyHandler] = None,
        put: Optional[AnyHandler] = None,
        delete: Optional[AnyHandler] = None,
        fetch: Optional[AnyHandler] = None,
        patch: Optional[AnyHandler] = None,
        ipatch: Optional[AnyHandler] = None,
        upload: Optional[OpenSink] = None,
        resume: Optional[ResumeSink] = None,
        write_block: Optional[WriteBlock] = None,
        title: str = "",
        resource_type: str = "",
        interface: str = "",
        size: Optional[int] = None,
        content_formats: Sequence[int] = (),
        accepts: Sequence[int] = (),
        conditional: bool = False,
        fresh: Optional[float] = None,
        group: bool = False,
        observable: bool = False,
        notify_confirmable: bool = True,
        max_body: int = 65536,
        hidden: bool = False,
    ) -> None:
        if not template.startswith("/"):
            raise UsageError(f"the template {template!r} has to begin with a slash")
        if sum(taker is not None for taker in (put, upload, write_block)) > 1:
            raise UsageError(f"{template}: only one of put, upload and write_block can have the bodies of PUT")
        if write_block is not None:
            write = write_block
            put = lambda request: write(request, 0, False)  # noqa: E731  a body in one message
        self.segments = tuple(template[1:].split("/")) if template != "/" else ()
        handlers = {
            codes.GET: get, codes.POST: post, codes.PUT: put, codes.DELETE: delete, codes.FETCH: fetch,
            codes.PATCH: patch, codes.IPATCH: ipatch,
        }  # fmt: skip
        self.handlers = {code: cast(Handler, handler) for code, handler in handlers.items() if handler is not None}
        self.upload = upload
        self.resume = resume
        self.write_block = write_block
        self.title = title
        self.resource_type = resource_type
        self.interface = interface
        self.size = size
        self.content_formats = tuple(content_formats)
        self.accepts = tuple(accepts)
        self.conditional = conditional
        self.fresh = fresh
        self.group = group
        self.observable = observable
        self.notify_confirmable = notify_confirmable
        self.max_body = max_body
        self.hidden = hidden

    @property
    def path(self) -> str:
        """The template as it was given."""
        return "/" + "/".join(self.segments)

    def arguments(self, path: tuple[str, ...]) -> Optional[dict[str, str]]:
        """Return the template's variables if `path` matches it, else None."""
        if len(path) != len(self.segments):
            return None
        arguments: dict[str, str] = {}
        for segment, value in zip(self.segments, path):
            if segment[:1] == "{" and segment[-1:] == "}" and value:
                arguments[segment[1:-1]] = value
            elif segment != value:
                return None
        return arguments

    def link(self) -> Link:
        """Return the resource as a link (RFC 6690 §2)."""
        attributes: list[tuple[str, Optional[str]]] = []
        for name, value in (("rt", self.resource_type), ("if", self.interface), ("title", self.title)):
            if value:
                attributes.append((name, value))
        if self.content_formats:
            attributes.append(("ct", " ".join(str(number) for number in self.content_formats)))
        if self.size is not None:
            attributes.append(("sz", str(self.size)))
        if self.observable:
            attributes.append(("obs", None))  # RFC 7641 §6
        return Link(self.path, tuple(attributes))


class Site:
    """The resources of an endpoint, `/.well-known/core` among them.

    With `lenient_paths` a path is understood however a client spells it: slashes within one option, empty segments, a
    trailing slash, percent-encoding; a ``..`` that comes of it is answered 4.00. Without, Uri-Path is taken literally,
    as RFC 7252 §6.4 has it.

    `guard` decides who may do what: it is called for each request once its path, however spelled, has led to a
    resource or to none, before anything about that is told and before a body is taken in; the blocks that follow the
    first one of a body, sent or received, are asked about too. What it returns is the answer. Observers are asked about
    when they register; to end an observation later is up to whoever ends what allowed it.
    """

    def __init__(self, *resources: Resource, lenient_paths: bool = False, guard: Optional[Guard] = None) -> None:
        self._lenient = lenient_paths
        self._guard = guard
        self._resources: list[Resource] = []
        self._static: dict[tuple[str, ...], Resource] = {}
        self._templates: list[Resource] = []
        self._normalised: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._on_change: list[Callable[[tuple[str, ...]], None]] = []
        self.observers = 0  # at all endpoints that serve it; they keep count
        self.add(Resource("/.well-known/core", get=self._well_known_core, hidden=True, group=True))
        for resource in resources:
            self.add(resource)

    @property
    def resources(self) -> tuple[Resource, ...]:
        """All resources, in the order in which they were added."""
        return tuple(self._resources)

    def add(self, resource: Resource) -> None:
        """Add a resource; raises UsageError if its path is taken."""
        if any(other.segments == resource.segments for other in self._resources):
            raise UsageError(f"there is a resource at {resource.path} already")
        self._resources.append(resource)
        if any(segment.startswith("{") for segment in resource.segments):
            self._templates.append(resource)
        else:
            self._static[resource.segments] = resource

    def changed(self, path: str) -> None:
        """Have the observers of the resource at `path`, such as ``/nodes/7``, be sent its new state (RFC 7641 §4.2).

        May be called from anywhere, also where nothing changed: this only makes a mark. Endpoints that serve the site
        do the rest when they are called next; from outside a handler their shell has to be woken
        (`minicoap.Endpoint.changed` does both). Raises UsageError for what is no path.
        """
        if not path.startswith("/"):
            raise UsageError(f"the path {path!r} has to begin with a slash")
        segments = tuple(path[1:].split("/")) if path != "/" else ()
        for listener in self._on_change:
            listener(segments)

    def is_observed(self) -> bool:
        """Whether anybody observes anything here: if not, `changed` need not be called."""
        return self.observers > 0

    def on_change(self, listener: Callable[[tuple[str, ...]], None]) -> None:
        """Have `listener` called with each path that has changed; for endpoints."""
        self._on_change.append(listener)

    def canonical(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """Return `path` as `changed` would be told of it, however the client spells it."""
        return self._normalise(path) if self._lenient and path not in self._static else path

    def route(self, request: Request) -> Union[Resource, Response]:
        """Return the resource that has a handler for `request`, its template's variables filled in; else the refusal.

        Raises OptionError for a path that is no text, or leads upwards.
        """
        options = request.options
        path = options.path
        resource = self._static.get(path) or self._find(path, request)
        if self._guard is not None:
            refused = self._guard(request, resource)
            if refused is not None:
                return refused
        code = request.code
        if resource is None:
            if code in codes.METHOD_NAMES:
                return Response.refusal(codes.NOT_FOUND, "there is nothing at this path")
            # RFC 7252 §5.8: a method nobody knows is refused as such, wherever it was meant for
            return Response.refusal(codes.METHOD_NOT_ALLOWED, f"there is no method {codes.code_text(code)}")
        if code not in resource.handlers and (resource.upload is None or code != codes.PUT):
            return Response.refusal(codes.METHOD_NOT_ALLOWED, _methods(resource))
        mask = options.mask
        if mask & 1 << ACCEPT and resource.content_formats and not _is_accepted(resource, options):
            return Response.refusal(codes.NOT_ACCEPTABLE)  # §5.9.2.7 has no payload for it
        if resource.accepts and request.payload and request.content_format not in resource.accepts:
            return Response.refusal(codes.UNSUPPORTED_CONTENT_FORMAT, _formats(resource))
        if mask & _CONDITIONAL and not resource.conditional:
            return Response.refusal(codes.BAD_OPTION, "If-Match and If-None-Match are not supported here")
        if resource.fresh is not None and code not in SAFE:
            age = request.age
            if age is None or age > resource.fresh:
                return request.challenge()
        return resource

    def find(self, request: Request) -> Optional[Resource]:
        """Return what the path of `request` leads to, its template's variables filled in, whoever asks.

        For requests that `route` let pass before, on behalf of those who observe. Raises OptionError like `route`.
        """
        path = request.options.path
        return self._static.get(path) or self._find(path, request)

    def refusal(self, request: Request) -> Optional[Response]:
        """Return the guard's answer to a request that goes on with what was begun, a further block; None to go on."""
        return None if self._guard is None else self._guard(request, self.find(request))

    def _find(self, path: tuple[str, ...], request: Request) -> Optional[Resource]:
        if self._lenient:
            meant = self._normalise(path)
            if meant is not path:
                path = meant
                resource = self._static.get(path)
                if resource is not None:
                    return resource
        for resource in self._templates:
            arguments = resource.arguments(path)
            if arguments is not None:
                request.args = arguments
                return resource
        return None

    def _normalise(self, path: tuple[str, ...]) -> tuple[str, ...]:
        text = "/".join(path)
        is_special = "%" in text or "//" in text or ".." in text or text[:1] == "/" or text[-1:] == "/"
        if not is_special and text.count("/") == len(path) - 1:
            return path  # as nearly all are
        known = self._normalised.get(path)
        if known is None:
            known = tuple(segment for segment in _unquote("/".join(path)).split("/") if segment)
            if ".." in known:
                raise OptionError("the path leads upwards", codes.BAD_REQUEST)
            if len(path) <= _CACHED_SEGMENTS and sum(map(len, path)) <= _CACHED_LENGTH:
                if len(self._normalised) >= _CACHED_PATHS:
                    self._normalised.clear()
                self._normalised[path] = known
        return known

    def _well_known_core(self, request: Request) -> Response:
        # A template is no URI, so a family of resources cannot be a link's target (RFC 6690 §2).
        links = [resource.link() for resource in self._static.values() if not resource.hidden]
        for query in request.query:
            links = [link for link in links if matches(link, query)]
        return Response(codes.CONTENT, format_links(links).encode(), contentformats.LINK_FORMAT)


def _is_accepted(resource: Resource, options: Options) -> bool:
    return options.uint(ACCEPT) in resource.content_formats


def _methods(resource: Resource) -> str:
    there = [codes.METHOD_NAMES[code] for code in resource.handlers]
    if resource.upload is not None:
        there.append(codes.METHOD_NAMES[codes.PUT])
    return f"only {', '.join(there)} here" if there else "no method here"


def _formats(resource: Resource) -> str:
    return f"only Content-Format {', '.join(map(str, resource.accepts))} here"


def _unquote(text: str) -> str:
    """Decode percent-encoding; raises OptionError for what is not UTF-8. A stray percent sign stands for itself."""
    if "%" not in text:
        return text
    data = text.encode()
    parts = data.split(b"%")
    decoded = bytearray(parts[0])
    for part in parts[1:]:
        try:
            decoded.append(int(part[:2].decode("ascii", "replace"), 16) if len(part) >= 2 else -1)
            decoded += part[2:]
        except ValueError:
            decoded += b"%" + part
    try:
        return decoded.decode()
    except UnicodeDecodeError as error:
        raise OptionError("the path is not UTF-8", codes.BAD_REQUEST) from error
