"""A CoAP server with every resource that the conformance tests ask for; also a playground for clients.

    python -m tools.reference_server [--host 127.0.0.1] [--port 5683]

The names are those of the ETSI CoAP#4 descriptions, and of `tools.conformance.resources` for what these left out. With
port 0 the system chooses one; the address is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Optional, Union

from minicoap import Endpoint, Request, Resource, Response, Site, TransmissionParameters
from minicoap.codec import codes
from minicoap.codec.contentformats import JSON, LINK_FORMAT, TEXT
from minicoap.codec.options import LOCATION_QUERY
from minicoap.core.request import Deferred

XML = 41
MERGE_PATCH = 52  # application/merge-patch+json
LARGE = b"".join(b"%07d\n" % number for number in range(400))  # 3,200 bytes
HUGE = 1 << 20 | 1 << 10  # bytes: more than 65,536 blocks of 16
LINES = 8  # bytes of each line of what is huge
GONE = 3  # states after which what was deleted is there again
UPLOADS = 1 << 16  # bytes of a body that is taken
CREATED = 8  # resources that a client may create


class Huge:
    """Numbered lines, which are made when they are asked for."""

    size = HUGE
    etag = b"huge"

    def read_at(self, offset: int, length: int) -> bytes:
        """Return some of them."""
        first, last = offset // LINES, (offset + length - 1) // LINES + 1
        text = b"".join(b"%07x\n" % number for number in range(first, last))
        return text[offset - first * LINES :][:length]


class Reference:
    """The resources and their state. What takes a while takes `delay` seconds."""

    def __init__(self, delay: float) -> None:
        self.test = b"reference"
        self.validate = b"first"
        self.created: dict[str, bytes] = {}
        self.large_update = LARGE
        self.observed: Optional[bytes] = b"0"
        self.observed_format = TEXT
        self.gone = 0
        self.state = 0
        self.count = 0
        self.document: dict[str, object] = {"name": "reference"}
        self._delay = delay

    def site(self) -> Site:
        """Return the resources."""
        one = Resource
        return Site(
            one("/test", get=self.get_test, put=self.put_test, post=self.post_test, delete=deleted,
                title="read, written, deleted", resource_type="test", content_formats=[TEXT], size=9),
            one("/separate", get=self.separate, title="answers separately", interface="reference.slow"),
            one("/seg1/seg2/seg3", get=self.get_test, title="several segments"),
            one("/query", get=query, title="tells its query"),
            one("/location-query", post=location_query, title="creates what has a query"),
            one("/multi-format", get=multi_format, content_formats=[TEXT, XML], title="two representations"),
            one("/validate", get=self.get_validate, put=self.put_validate, conditional=True, title="has an ETag"),
            one("/create1", get=self.get_created, put=self.create, delete=self.remove, conditional=True,
                title="created and removed"),
            one("/large", get=lambda _: Response(payload=LARGE, content_format=TEXT, etag=b"large"),
                title="several blocks", size=len(LARGE), resource_type="block long"),
            one("/large-update", get=self.get_large, put=self.put_large, title="written in several blocks",
                max_body=UPLOADS, resource_type="block"),
            one("/large-create", post=self.large_create, title="creates from several blocks", max_body=UPLOADS,
                resource_type="block"),
            one("/large-create/{name}", get=self.get_place, put=self.put_place, hidden=True),
            one("/large-post", post=large_post, title="several blocks both ways", max_body=UPLOADS,
                resource_type="block"),
            one("/huge", get=lambda _: Response(payload=Huge(), content_format=TEXT), title="65,600 blocks", size=HUGE,
                resource_type="block long"),
            one("/huge-update", write_block=lambda *_: Response(codes.CHANGED), title="takes blocks in any order"),
            one("/obs", get=self.get_observed, put=self.put_observed, delete=self.end_observed, observable=True,
                title="changes by itself", resource_type="observe", interface="reference.changes"),
            one("/obs-non", get=self.get_state, observable=True, title="tells its changes by NON",
                resource_type="observe", interface="reference.changes", notify_confirmable=False),
            one("/obs-large", get=self.get_observed_large, observable=True, title="changes, in several blocks",
                resource_type="observe long"),
            one("/obs-pumping", get=self.get_observed_pumping, observable=True, title="changes, long and short",
                resource_type="observe"),
            one("/counter", get=self.get_count, post=self.post_count, title="counts what is posted"),
            one("/fresh", post=lambda _: Response(codes.CHANGED), fresh=60.0, title="wants fresh requests"),
            one("/fetch", fetch=lambda request: Response(payload=request.payload[::-1], content_format=TEXT),
                accepts=[TEXT], title="gives back, turned round, what it is asked with"),
            one("/patch", get=self.get_document, patch=self.patch, ipatch=self.patch, accepts=[MERGE_PATCH],
                title="a JSON document"),
            one("/path", get=path, content_formats=[LINK_FORMAT], title="leads further"),
            one("/path/sub1", get=lambda _: Response(payload=b"/path/sub1", content_format=TEXT), hidden=True),
            one("/path/sub2", get=lambda _: Response(payload=b"/path/sub2", content_format=TEXT), hidden=True),
        )  # fmt: skip

    def get_test(self, request: Request) -> Response:
        return Response(payload=self.test, content_format=TEXT)

    def put_test(self, request: Request) -> Response:
        self.test = request.payload or self.test
        return Response(codes.CHANGED)

    def post_test(self, request: Request) -> Response:
        return Response(codes.CREATED, location_path=("location1", "location2", "location3"))

    async def separate(self, request: Request) -> Response:
        await asyncio.sleep(self._delay)
        return Response(payload=b"separate", content_format=TEXT)

    def get_validate(self, request: Request) -> Response:
        return Response(payload=self.validate, content_format=TEXT, etag=self._etag(), max_age=1)

    def put_validate(self, request: Request) -> Response:
        if not request.meets_conditions(self._etag()):
            return Response(codes.PRECONDITION_FAILED)
        self.validate = request.payload
        return Response(codes.CHANGED)

    def _etag(self) -> bytes:
        return self.validate[:7] + bytes((sum(self.validate) & 0xFF,))

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

    def large_create(self, request: Request) -> Response:
        self.count += 1
        name = f"place{self.count % CREATED}"
        self.created[name] = request.payload
        return Response(codes.CREATED, location_path=("large-create", name))

    def get_place(self, request: Request) -> Response:
        body = self.created.get(request.args["name"])
        return Response(codes.NOT_FOUND) if body is None else Response(payload=body, content_format=TEXT)

    def put_place(self, request: Request) -> Response:
        if request.args["name"] not in self.created:
            return Response(codes.NOT_FOUND)
        self.created[request.args["name"]] = request.payload
        return Response(codes.CHANGED)

    def get_observed(self, request: Request) -> Response:
        if self.observed is None:
            return Response(codes.NOT_FOUND)
        return Response(payload=self.observed, content_format=self.observed_format, max_age=2)

    def get_state(self, request: Request) -> Response:
        return Response(payload=b"%d" % self.state, content_format=TEXT, max_age=2)

    def get_observed_large(self, request: Request) -> Response:
        return Response(payload=b"%06d\n" % self.state + LARGE[: 2000 + 8 * (self.state % 50)], content_format=TEXT)

    def get_observed_pumping(self, request: Request) -> Response:
        return Response(payload=b"%06d\n" % self.state + LARGE[: self.state % 2 * 2000], content_format=TEXT)

    def put_observed(self, request: Request) -> Response:
        self.observed = request.payload or b"0"
        if request.content_format is not None:
            self.observed_format = request.content_format
        return Response(codes.CHANGED)

    def end_observed(self, request: Request) -> Response:
        self.observed, self.observed_format, self.gone = None, TEXT, GONE
        return Response(codes.DELETED)

    def get_count(self, request: Request) -> Response:
        return Response(payload=b"%d" % self.count, content_format=TEXT)

    def post_count(self, request: Request) -> Response:
        self.count += 1
        return Response(codes.CHANGED, b"%d" % self.count, TEXT)

    def get_document(self, request: Request) -> Response:
        return Response(payload=json.dumps(self.document).encode(), content_format=JSON)

    def patch(self, request: Request) -> Response:
        try:
            changes = json.loads(request.payload)
        except ValueError:
            return Response(codes.BAD_REQUEST)
        if not isinstance(changes, dict) or len(changes) > CREATED:
            return Response(codes.UNPROCESSABLE_ENTITY)
        self.document = dict(list({**self.document, **changes}.items())[-CREATED:])
        return Response(codes.CHANGED)

    def step(self) -> None:
        """Let what is observed change."""
        self.state += 1
        if self.observed is None:
            self.gone -= 1
            if self.gone <= 0:
                self.observed = b"0"
        else:
            self.observed = b"%d" % (int(self.observed) + 1 if self.observed.isdigit() else 1)


def deleted(request: Request) -> Response:
    """Say that it is."""
    return Response(codes.DELETED)


def query(request: Request) -> Response:
    """Tell the query."""
    return Response(payload="&".join(request.query).encode() or b"no query", content_format=TEXT)


def location_query(request: Request) -> Response:
    """Say that something was created whose URI has a query."""
    return Response(codes.CREATED, options=[(LOCATION_QUERY, b"first=1"), (LOCATION_QUERY, b"second=2")])


def multi_format(request: Request) -> Response:
    """Give one of two representations."""
    if request.accept == XML:
        return Response(payload=b"<text/>", content_format=XML)
    return Response(payload=b"text", content_format=TEXT)


def path(request: Request) -> Response:
    """Give the links of what is below."""
    return Response(payload=b"</path/sub1>,</path/sub2>", content_format=LINK_FORMAT)


def large_post(request: Request) -> Union[Response, Deferred]:
    """Give back, turned round, what was posted, and more."""
    return Response(codes.CHANGED, request.payload[::-1] + LARGE, TEXT)


async def serve(
    uri: str,
    *,
    period: float = 2.0,
    delay: float = 3.0,
    parameters: TransmissionParameters = TransmissionParameters(),  # noqa: B008  immutable
) -> None:
    """Serve until cancelled; what is observed changes every `period` seconds, what takes a while takes `delay`."""
    reference = Reference(delay)
    async with Endpoint(reference.site(), parameters=parameters) as endpoint:
        await endpoint.serve(uri)
        print(f"listening on {endpoint.local_uri}", flush=True)
        while True:
            await asyncio.sleep(period)
            reference.step()
            for changed in ("/obs", "/obs-non", "/obs-large", "/obs-pumping"):
                endpoint.changed(changed)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5683)
    parser.add_argument("--period", type=float, default=2.0, metavar="S", help="from change to change (default 2)")
    parser.add_argument("--delay", type=float, default=3.0, metavar="S", help="that /separate takes (default 3)")
    parser.add_argument(
        "--quick", action="store_true", help="repeat messages after a quarter of a second, and twice only: for tests"
    )
    options = parser.parse_args()
    parameters = TransmissionParameters()
    if options.quick:
        parameters = TransmissionParameters(ack_timeout=0.25, max_retransmit=3, congestion_controlled=True)
    host = f"[{options.host}]" if ":" in options.host else options.host
    uri = f"coap://{host}:{options.port}"
    try:
        asyncio.run(serve(uri, period=options.period, delay=options.delay, parameters=parameters))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
