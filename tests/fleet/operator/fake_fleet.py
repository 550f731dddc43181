"""A server that answers as it is told to and remembers what it was asked, for tests of those who ask."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable, NamedTuple, Optional, Union

from minicoap.asyncio.endpoint import Endpoint
from minicoap.codec import codes, contentformats
from minicoap.core.request import Request, Response
from minicoap.core.resource import Resource, Site

Said = Union[Response, Callable[[Request], Response]]


class Asked(NamedTuple):
    """A request as the server saw it."""

    method: str
    path: str
    query: tuple[str, ...]
    body: Any
    request: Request


class FakeFleet:
    """Answers are queued by `say`; the last one for a resource is repeated, and where there is none it is 4.04."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.parts: dict[str, int] = {}  # bytes that unfinished uploads have left, by the SHA-256 of the content
        self.uri = ""
        self._answers: dict[tuple[str, str], list[Said]] = {}
        self.site = Site(*map(self._resource, ("/health", "/nodes", "/nodes/{id}", "/updates", "/updates/{id}")))
        for template in ("/firmware", "/firmware/{id}", "/system", "/updates/{id}/status", "/nodes/{id}/health"):
            self.site.add(self._resource(template))
        for template in ("/nodes/{id}/metrics", "/enrolments", "/audit"):
            self.site.add(self._resource(template))

    def say(self, method: str, path: str, *answers: Any) -> None:
        """Answer `method` on `path` by these, one after the other: documents, responses or functions."""
        self._answers[method, path] = [a if isinstance(a, Response) or callable(a) else document(a) for a in answers]

    @property
    def last(self) -> Asked:
        """The last request."""
        return self.asked[-1]

    def _resource(self, template: str) -> Resource:
        answer = self._answer
        return Resource(
            template,
            get=answer,
            post=answer,
            put=answer,
            delete=answer,
            conditional=True,
            max_body=1 << 24,
            observable=template.endswith(("/status", "/health")),
        )

    def _answer(self, request: Request) -> Response:
        path = "/" + "/".join(request.uri_path)
        method = codes.code_name(request.code)
        body: Any = request.payload
        if request.content_format == contentformats.JSON:
            body = json.loads(body)
        self.asked.append(Asked(method, path, request.query, body, request))
        if method == "GET" and request.query[:1] and request.query[0].startswith("sha256="):
            sha256 = request.query[0][7:]
            return document({"sha256": sha256, "bytes_done": self.parts.get(sha256, 0)})
        said = self._answers.get((method, path), [])
        if not said:
            return document({"error": f"there is no {path}"}, codes.NOT_FOUND)
        following = said.pop(0) if len(said) > 1 else said[0]
        if len(said) > 1 or following is not said[0]:
            self.site.changed(path)  # there is more to tell
        return following(request) if callable(following) else following


def document(body: Any, code: int = codes.CONTENT, max_age: Optional[int] = None) -> Response:
    """A JSON response."""
    return Response(code, json.dumps(body).encode(), contentformats.JSON, max_age=max_age)


@contextmanager
def serving(fake: FakeFleet) -> Iterator[FakeFleet]:
    """Run the server in a thread with a loop of its own, for programs that have theirs."""
    started = threading.Event()
    loop = asyncio.new_event_loop()
    stopped = loop.create_future()

    async def serve() -> None:
        async with Endpoint(fake.site) as endpoint:
            await endpoint.serve("coap://127.0.0.1:0")
            fake.uri = endpoint.local_uri
            started.set()
            await stopped

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert started.wait(10)
        yield fake
    finally:
        loop.call_soon_threadsafe(stopped.set_result, None)
        thread.join(10)
        loop.close()
