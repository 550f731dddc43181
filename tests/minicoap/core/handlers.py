"""Resources whose handlers tests can look into."""

from __future__ import annotations

from minicoap.codec import codes
from minicoap.core.request import Deferred, Request, Response
from minicoap.core.resource import Resource, Site


class Counter:
    """A resource that counts how often it was asked, and answers with the number."""

    def __init__(self) -> None:
        self.count = 0

    def handle(self, request: Request) -> Response:
        self.count += 1
        return Response(codes.CHANGED, b"%d" % self.count)

    def site(self) -> Site:
        handle = self.handle
        return Site(
            Resource(
                "/counter", get=handle, post=handle, put=handle, delete=handle, fetch=handle, patch=handle,
                ipatch=handle, conditional=True,
            )
        )  # fmt: skip


class Later:
    """A resource whose answers are given when the test says so."""

    def __init__(self) -> None:
        self.deferred: list[Deferred] = []

    def handle(self, request: Request) -> Deferred:
        self.deferred.append(request.defer())
        return self.deferred[-1]

    def site(self) -> Site:
        return Site(Resource("/later", get=self.handle, post=self.handle))
