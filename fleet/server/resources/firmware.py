"""`/firmware`: artifacts are put by Block1, listed, fetched by Block2 under their name or hash, and deleted."""

from __future__ import annotations

import logging
from typing import Callable, Optional, Union

import msgspec

from fleet.errors import InvalidError
from fleet.model.answers import FORMATS, answer, arguments, guarded, refusal, refuse_error
from fleet.model.api import check_page
from fleet.model.api_answers import ArtifactView, FirmwareAnswer
from fleet.model.artifacts import Artifact, check_artifact_name, is_sha256
from fleet.model.times import iso_from_ms
from fleet.server import commands
from fleet.server.artifacts import Incoming, StoreFullError
from fleet.server.commands import DeleteArtifact, Outcome, PutArtifact
from fleet.server.queries import ArtifactQuery, ArtifactsQuery, Page
from fleet.server.refusals import refuse_outcome, refuse_page
from fleet.server.services import Services
from minicoap.codec import codes, contentformats
from minicoap.codec.options import ETAG, IF_MATCH, IF_NONE_MATCH, SIZE1, encode_uint
from minicoap.core.body import Sink
from minicoap.core.request import Deferred, Request, Response
from minicoap.core.resource import Resource

logger = logging.getLogger(__name__)

_FOREVER = 31_536_000  # seconds: bytes named by their hash never change
_CONDITIONS = 1 << IF_MATCH | 1 << IF_NONE_MATCH
_BYTES = (None, contentformats.OCTET_STREAM)
_ANSWERS = (None, *FORMATS)
_Known = Callable[[Optional[str], Optional[Response]], None]


class StoredAnswer(msgspec.Struct, frozen=True):
    """To `PUT /firmware/{name}`."""

    name: str
    size: int
    sha256: str
    status: str = "stored"


class DeletedAnswer(msgspec.Struct, frozen=True):
    """To `DELETE /firmware/{name}`."""

    name: str
    status: str = "deleted"


class FirmwareResource:
    """The firmware store."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def resources(self) -> list[Resource]:
        """The table's rows."""
        return [
            Resource(
                "/firmware",
                get=guarded(self._list),
                title="Firmware store",
                resource_type="fleet.firmware",
                content_formats=FORMATS,
            ),
            Resource(
                "/firmware/{name}",
                get=guarded(self._get),
                upload=self._open,
                delete=guarded(self._delete),
                conditional=True,
            ),
        ]

    def _list(self, request: Request) -> Deferred:
        asked = arguments(request, "limit", "after")

        def listed(request: Request, page: Page[Artifact]) -> Response:
            views = [
                ArtifactView(item.name, item.size, item.sha256, iso_from_ms(item.created_at)) for item in page.items
            ]
            return answer(request, FirmwareAnswer(tuple(views), page.next))

        query = ArtifactsQuery(asked.get("after"), check_page(asked.get("limit")))
        return self._services.query(request, query, listed)

    def _get(self, request: Request) -> Union[Response, Deferred]:
        if request.accept not in _BYTES:
            return refusal(request, codes.NOT_ACCEPTABLE, "")
        arguments(request)
        if request.options.mask & _CONDITIONS:
            return refusal(request, codes.BAD_OPTION, "GET takes no If-Match and no If-None-Match; it takes ETag")
        name = request.args["name"]
        by_hash = is_sha256(name)

        def found(request: Request, page: Page[Artifact]) -> Response:
            if not page.items:
                return refusal(request, codes.NOT_FOUND, f"there is no artifact {name[:80]!r}; see GET /firmware")
            artifact = page.items[0]
            source = self._services.artifacts.source(artifact.sha256)
            if source is None or source.etag is None:
                logger.error("the content %s of artifact %s is missing", artifact.sha256, artifact.name)
                text = "the artifact's bytes are missing; upload it again"
                return refusal(request, codes.INTERNAL_SERVER_ERROR, text)
            max_age = _FOREVER if by_hash else 0
            if source.etag in request.options.all(ETAG):
                return Response(codes.VALID, etag=source.etag, max_age=max_age)
            return Response(codes.CONTENT, source, contentformats.OCTET_STREAM, etag=source.etag, max_age=max_age)

        query = ArtifactQuery(sha256=name) if by_hash else ArtifactQuery(name=name)
        return self._services.query(request, query, found)

    def _open(self, request: Request) -> Union[Sink, Response]:
        """Begin to take an artifact's bytes."""
        if request.accept not in _ANSWERS:
            return refusal(request, codes.NOT_ACCEPTABLE, "")
        name = request.args["name"]
        try:
            arguments(request)
            check_artifact_name(name, "name")
            if is_sha256(name):
                raise InvalidError("a name that looks like a hash would hide the artifact with that hash", "name")
        except InvalidError as error:
            return refuse_error(request, error)
        try:
            incoming = self._services.artifacts.begin(request.options.uint(SIZE1))
        except StoreFullError as error:
            return _full(request, error)
        return _Upload(self._services, request, name, incoming)

    def _delete(self, request: Request) -> Union[Response, Deferred]:
        if request.accept not in _ANSWERS:
            return refusal(request, codes.NOT_ACCEPTABLE, "")
        arguments(request)
        if request.options.mask & 1 << IF_NONE_MATCH:
            return refusal(request, codes.BAD_OPTION, "DELETE takes no If-None-Match; it takes If-Match")
        services = self._services
        name = request.args["name"]
        deferred = request.defer()

        def conditions_known(replaces: Optional[str], refused: Optional[Response]) -> None:
            if refused is not None:
                deferred.resolve(refused, services.clock.monotonic())
                return
            command = DeleteArtifact(services.at(), name, replaces, origin=services.audit.origin(request))
            services.ledger.submit(command, done)

        def done(outcome: Outcome) -> None:
            # RFC 7252 §5.8.4: deleting what is not there is a success too.
            if outcome.is_ok or outcome.status == commands.NOT_FOUND:
                response = answer(request, DeletedAnswer(name), codes.DELETED)
            else:
                response = refuse_outcome(request, outcome)
            deferred.resolve(response, services.clock.monotonic())

        _Condition(services, request, name, conditions_known).find()
        return deferred


class _Condition:
    """If-Match of a request, turned from ETags into the hash that the store compares (RFC 7252 §5.10.8.1)."""

    def __init__(self, services: Services, request: Request, name: str, done: _Known) -> None:
        self._services = services
        self._request = request
        self._name = name
        self._done = done

    def find(self) -> None:
        """Call `done` with the hash to compare, or None for no condition, or the refusal."""
        if not self._request.options.mask & 1 << IF_MATCH:
            self._done(None, None)
            return
        self._services.ledger.query(ArtifactQuery(name=self._name), self._found)

    def _found(self, page: Page[Artifact]) -> None:
        if page.status != commands.OK:
            self._done(None, refuse_page(self._request, page))
            return
        wanted = self._request.options.all(IF_MATCH)
        sha256 = page.items[0].sha256 if page.items else None
        if sha256 is None or not (b"" in wanted or bytes.fromhex(sha256[:16]) in wanted):
            text = f"If-Match does not hold: {self._name!r} is another content, or none"
            self._done(None, refusal(self._request, codes.PRECONDITION_FAILED, text))
            return
        self._done(sha256, None)


class _Upload:
    """The sink of one upload."""

    def __init__(self, services: Services, request: Request, name: str, incoming: Incoming) -> None:
        self._services = services
        self._request = request
        self._name = name
        self._incoming = incoming
        self._sha256 = ""
        self._answer: Optional[Deferred] = None

    def write_at(self, offset: int, data: bytes) -> Optional[Response]:
        """Take a block."""
        try:
            self._incoming.write(data)
        except StoreFullError as error:
            return _full(self._request, error)
        except OSError as error:
            return self._failed(error)
        return None

    def finish(self, answer: Deferred) -> None:
        """Keep the content, then have the ledger know its name."""
        self._answer = answer
        try:
            self._sha256 = self._incoming.keep()
        except OSError as error:
            self._incoming.drop()
            answer.resolve(self._failed(error), self._services.clock.monotonic())
            return
        self._services.artifacts.claim(self._sha256)
        _Condition(self._services, self._request, self._name, self._condition_known).find()

    def abort(self, reason: str) -> None:
        """Forget what came."""
        self._incoming.drop()

    def _condition_known(self, replaces: Optional[str], refused: Optional[Response]) -> None:
        if refused is not None:
            self._settle(refused, keeps=False)
            return
        at = self._services.at()
        artifact = Artifact(self._name, self._incoming.size, self._sha256, at)
        only_new = bool(self._request.options.mask & 1 << IF_NONE_MATCH)
        origin = self._services.audit.origin(self._request)
        self._services.ledger.submit(PutArtifact(at, artifact, only_new, replaces, origin=origin), self._put)

    def _put(self, outcome: Outcome) -> None:
        if not outcome.is_ok:
            self._settle(refuse_outcome(self._request, outcome), keeps=False)
            return
        told = StoredAnswer(self._name, self._incoming.size, self._sha256)
        if outcome.created:
            response = answer(self._request, told, codes.CREATED, location=("firmware", self._name))
        else:
            response = answer(self._request, told, codes.CHANGED)
        self._settle(response, keeps=True)

    def _settle(self, response: Response, *, keeps: bool) -> None:
        self._services.artifacts.unclaim(self._sha256)
        if not keeps:
            self._services.ledger.query(ArtifactQuery(sha256=self._sha256), self._remove_if_unknown)
        assert self._answer is not None
        self._answer.resolve(response, self._services.clock.monotonic())

    def _remove_if_unknown(self, page: Page[Artifact]) -> None:
        if page.status == commands.OK and not page.items:
            self._services.artifacts.remove(self._sha256)

    def _failed(self, error: OSError) -> Response:
        logger.error("the upload of %s failed: %s", self._name, error)
        text = f"the server cannot store the artifact: {error.strerror or error}; free space there and try again"
        return refusal(self._request, codes.SERVICE_UNAVAILABLE, text)


def _full(request: Request, error: StoreFullError) -> Response:
    response = refusal(request, codes.REQUEST_ENTITY_TOO_LARGE, f"{error}; delete artifacts or raise the quota")
    limit = (SIZE1, encode_uint(error.limit))
    return Response(response.code, response.payload, options=(*response.options.items, limit))
