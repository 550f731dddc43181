"""A CoAP server with every resource that the conformance tests ask for; also a playground for clients.

    python -m tools.reference_server [--host 127.0.0.1] [--port 5683]

The names are those of the ETSI CoAP#4 descriptions.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Union

from minicoap import Endpoint, Request, Resource, Response, Site
from minicoap.codec import codes
from minicoap.codec.contentformats import TEXT
from minicoap.core.request import Deferred

XML = 41
WHILE = 3.0  # seconds that `/separate` takes
PERIOD = 2.0  # seconds from one state of what is observed to the next
LARGE = b"".join(b"%07d\n" % number for number in range(400))  # 3,200 bytes


class Reference:
    """The resources and their state."""

    def __init__(self) -> None:
        self.test = b"reference"
        self.validate = b"first"
        self.created: dict[str, bytes] = {}
        self.large_update = LARGE
        self.observed = b"0"
        self.observed_format = TEXT
        self.pending: dict[Deferred, float] = {}

    def site(self) -> Site:
        """Return the resources."""
        return Site(
            Resource("/test", get=self.get_test, put=self.put_test, post=self.post_test, delete=deleted,
                     title="read, written, deleted", resource_type="test", content_formats=[TEXT], size=9),
            Resource("/separate", get=separate, title="answers separately"),
            Resource("/seg1/seg2/seg3", get=self.get_test, title="several segments"),
            Resource("/query", get=query, title="tells its query"),
            Resource("/location-query", post=location_query, title="creates what has a query"),
            Resource("/multi-format", get=multi_format, content_formats=[TEXT, XML], title="two representations"),
            Resource("/validate", get=self.get_validate, put=self.put_validate, conditional=True, title="has an ETag"),
            Resource("/create1", get=self.get_created, put=self.create, delete=self.remove, conditional=True,
                     title="created and removed"),
            Resource("/large", get=lambda _: Response(payload=LARGE, content_format=TEXT, etag=b"large"),
                     title="several blocks", size=len(LARGE), resource_type="block"),
            Resource("/large-update", get=self.get_large, put=self.put_large, title="written in several blocks",
                     max_body=1 << 16, resource_type="block"),
            Resource("/large-create", post=large_create, title="creates from several blocks", max_body=1 << 16,
                     resource_type="block"),
            Resource("/large-post", post=large_post, title="several blocks both ways", max_body=1 << 16,
                     resource_type="block"),
            Resource("/obs", get=self.get_observed, put=self.put_observed, delete=self.end_observed, observable=True,
                     title="changes every two seconds", resource_type="observe"),
            Resource("/obs-non", get=self.get_observed, observable=True, title="tells its changes by NON",
                     resource_type="observe", notify_confirmable=False),
            Resource("/obs-large", get=self.get_observed_large, observable=True, title="changes, in several blocks",
                     resource_type="observe"),
            Resource("/obs-reset", post=lambda _: Response(codes.CHANGED), title="forgets observers"),
        )  # fmt: skip

    def get_test(self, request: Request) -> Response:
        return Response(payload=self.test, content_format=TEXT)

    def put_test(self, request: Request) -> Response:
        self.test = request.payload or self.test
        return Response(codes.CHANGED)

    def post_test(self, request: Request) -> Response:
        return Response(codes.CREATED, location_path=("location1", "location2", "location3"))

    def get_validate(self, request: Request) -> Response:
        return Response(payload=self.validate, content_format=TEXT, etag=self._etag(), max_age=1)

    def put_validate(self, request: Request) -> Response:
        if not request.meets_conditions(self._etag()):
            return Response(codes.PRECONDITION_FAILED)
        self.validate = request.payload
        return Response(codes.CHANGED)

    def _etag(self) -> bytes:
        return self.validate[:7] + bytes((len(self.validate) & 0xFF,))

    def get_created(self, request: Request) -> Response:
        body = self.created.get("create1")
        return Response(codes.NOT_FOUND) if body is None else Response(payload=body, content_format=TEXT)

    def create(self, request: Request) -> Response:
        is_new = "create1" not in self.created
        if not request.meets_conditions(None if is_new else b"create1"):
            return Response(codes.PRECONDITION_FAILED)
        self.created["create1"] = request.payload
        return Response(codes.CREATED if is_new else codes.CHANGED)

    def remove(self, request: Request) -> Response:
        self.created.pop("create1", None)
        return Response(codes.DELETED)

    def get_large(self, request: Request) -> Response:
        return Response(payload=self.large_update, content_format=TEXT)

    def put_large(self, request: Request) -> Response:
        self.large_update = request.payload
        return Response(codes.CHANGED)

    def get_observed(self, request: Request) -> Response:
        return Response(payload=self.observed, content_format=self.observed_format, max_age=5)

    def get_observed_large(self, request: Request) -> Response:
        return Response(payload=self.observed * 1 + LARGE[: 2000 + 8 * (int(self.observed) % 50)], content_format=TEXT)

    def put_observed(self, request: Request) -> Response:
        self.observed = request.payload or self.observed
        if request.content_format is not None:
            self.observed_format = request.content_format
        return Response(codes.CHANGED)

    def end_observed(self, request: Request) -> Response:
        self.observed, self.observed_format = b"0", TEXT
        return Response(codes.DELETED)

    def step(self) -> None:
        """Let what is observed change."""
        self.observed = b"%d" % (int(self.observed) + 1 if self.observed.isdigit() else 1)


def deleted(request: Request) -> Response:
    return Response(codes.DELETED)


async def separate(request: Request) -> Response:
    await asyncio.sleep(WHILE)
    return Response(payload=b"separate", content_format=TEXT)


def query(request: Request) -> Response:
    return Response(payload="&".join(request.query).encode() or b"no query", content_format=TEXT)


def location_query(request: Request) -> Response:
    return Response(codes.CREATED, location_query=("first=1", "second=2"))


def multi_format(request: Request) -> Response:
    if request.accept == XML:
        return Response(payload=b"<text/>", content_format=XML)
    return Response(payload=b"text", content_format=TEXT)


def large_create(request: Request) -> Response:
    return Response(codes.CREATED, location_path=("large-create", "1"))


def large_post(request: Request) -> Union[Response, Deferred]:
    return Response(codes.CHANGED, request.payload[::-1] + LARGE, TEXT)


async def serve(uri: str, announce: bool = True) -> None:
    """Serve until cancelled."""
    reference = Reference()
    async with Endpoint(reference.site()) as endpoint:
        await endpoint.serve(uri)
        if announce:
            print(f"listening on {endpoint.local_uri}", flush=True)
        while True:
            await asyncio.sleep(PERIOD)
            reference.step()
            for path in ("/obs", "/obs-non", "/obs-large"):
                endpoint.changed(path)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5683)
    options = parser.parse_args()
    host = f"[{options.host}]" if ":" in options.host else options.host
    try:
        asyncio.run(serve(f"coap://{host}:{options.port}"))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
