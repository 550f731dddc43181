"""`/firmware`: artifacts are put by Block1, listed, fetched by Block2 under their name or hash, and deleted.

A body is put in one go, or, if the request says what its SHA-256 is, in as many as it takes: blocks that came stay when
the client or the server goes away, and any client may go on behind them.
"""

from __future__ import annotations

import logging
from typing import Callable, Optional, Union

import msgspec

from fleet.errors import InvalidError
from fleet.model.answers import FORMATS, answer, arguments, guarded, refusal, refuse_error
from fleet.model.api import check_page
from fleet.model.api_answers import ArtifactView, FirmwareAnswer, PartAnswer
from fleet.model.artifacts import Artifact, check_artifact_name, is_sha256
from fleet.model.times import iso_from_ms
from fleet.server import commands
from fleet.server.artifacts import ContentSource, Incoming, StoreFullError
from fleet.server.commands import DeleteArtifact, Outcome, PutArtifact
from fleet.server.parts import Part
from fleet.server.queries import ArtifactQuery, ArtifactsQuery, Page
from fleet.server.refusals import refuse_outcome
from fleet.server.services import Answering, Services
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
                resume=self._resume,
                delete=guarded(self._delete),
                conditional=True,
            ),
        ]

    def _list(self, request: Request) -> Union[Response, Deferred]:
        if _names_hash(request):
            sha256 = _hash_in(request) or ""
            part = self._services.artifacts.parts.find(sha256)
            return answer(request, PartAnswer(sha256, 0 if part is None else part.size))
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
        # Each block that a node asks for after it was away comes here: what was found for the first holds for them.
        source = self._services.artifacts.served(name) if by_hash else None
        if source is not None:
            return _content(request, source, _FOREVER)

        def found(request: Request, page: Page[Artifact]) -> Response:
            if not page.items:
                return refusal(request, codes.NOT_FOUND, f"there is no artifact {name[:80]!r}; see GET /firmware")
            artifact = page.items[0]
            source = self._services.artifacts.serve(artifact.sha256)
            if source is None:
                logger.error("the content %s of artifact %s is missing", artifact.sha256, artifact.name)
                text = "the artifact's bytes are missing; upload it again"
                return refusal(request, codes.INTERNAL_SERVER_ERROR, text)
            return _content(request, source, _FOREVER if by_hash else 0)

        query = ArtifactQuery(sha256=name) if by_hash else ArtifactQuery(name=name)
        return self._services.query(request, query, found)

    def _open(self, request: Request) -> Union[Sink, Response]:
        """Begin to take an artifact's bytes, or go on to."""
        if request.accept not in _ANSWERS:
            return refusal(request, codes.NOT_ACCEPTABLE, "")
        name = request.args["name"]
        try:
            sha256 = _hash_in(request)
            check_artifact_name(name, "name")
            if is_sha256(name):
                raise InvalidError("a name that looks like a hash would hide the artifact with that hash", "name")
        except InvalidError as error:
            return refuse_error(request, error)
        store = self._services.artifacts
        expected = request.options.uint(SIZE1)
        try:
            if sha256 is None:
                return _Upload(self._services, request, name, store.begin(expected))
            return _PartUpload(self._services, request, name, store.parts.begin(sha256, expected))
        except StoreFullError as error:
            return _full(request, error)

    def _resume(self, request: Request) -> Union[Sink, Response, None]:
        """Go on with an artifact of which there may be a part."""
        return self._open(request) if _names_hash(request) else None

    def _delete(self, request: Request) -> Union[Response, Deferred]:
        if request.accept not in _ANSWERS:
            return refusal(request, codes.NOT_ACCEPTABLE, "")
        arguments(request)
        if request.options.mask & 1 << IF_NONE_MATCH:
            return refusal(request, codes.BAD_OPTION, "DELETE takes no If-None-Match; it takes If-Match")
        services = self._services
        name = request.args["name"]
        answering = Answering(services, request)

        def conditions_known(replaces: Optional[str]) -> None:
            command = DeleteArtifact(services.at(), name, replaces, origin=services.audit.origin(request))
            answering.submit(command, done)

        def done(outcome: Outcome) -> None:
            # RFC 7252 §5.8.4: deleting what is not there is a success too.
            if outcome.is_ok or outcome.status == commands.NOT_FOUND:
                answering.resolve(answer(request, DeletedAnswer(name), codes.DELETED))
            else:
                answering.resolve(refuse_outcome(request, outcome))

        return _check_condition(answering, name, conditions_known)


def _check_condition(answering: Answering, name: str, known: Callable[[Optional[str]], None]) -> Deferred:
    """Turn If-Match from ETags into the hash that the store compares, None for no condition (RFC 7252 §5.10.8.1).

    `known` is called with it; a condition that does not hold is the answer.
    """
    request = answering.request
    if not request.options.mask & 1 << IF_MATCH:
        known(None)
        return answering.deferred

    def found(page: Page[Artifact]) -> None:
        wanted = request.options.all(IF_MATCH)
        sha256 = page.items[0].sha256 if page.items else None
        if sha256 is None or not (b"" in wanted or bytes.fromhex(sha256[:16]) in wanted):
            text = f"If-Match does not hold: {name!r} is another content, or none"
            answering.resolve(refusal(request, codes.PRECONDITION_FAILED, text))
            return
        known(sha256)

    return answering.query(ArtifactQuery(name=name), found)


class _Storing:
    """An upload under way; `sha256` is known once its bytes are kept."""

    def __init__(self, services: Services, request: Request, name: str) -> None:
        self._services = services
        self._request = request
        self._name = name
        self._sha256 = ""
        self._size = 0
        self._is_kept = False  # under a name that the ledger knows

    def _store(self, answer: Deferred, sha256: str, size: int) -> None:
        """Have the ledger know the name of what has been kept."""
        self._sha256 = sha256
        self._size = size
        self._services.artifacts.claim(sha256)
        answering = Answering(self._services, self._request, deferred=answer, ended=self._ended)
        _check_condition(answering, self._name, lambda replaces: self._put(answering, replaces))

    def _put(self, answering: Answering, replaces: Optional[str]) -> None:
        request = self._request
        at = self._services.at()
        artifact = Artifact(self._name, self._size, self._sha256, at)
        only_new = bool(request.options.mask & 1 << IF_NONE_MATCH)
        origin = self._services.audit.origin(request)

        def done(outcome: Outcome) -> None:
            if not outcome.is_ok:
                answering.resolve(refuse_outcome(request, outcome))
                return
            self._is_kept = True
            told = StoredAnswer(self._name, self._size, self._sha256)
            if outcome.created:
                answering.resolve(answer(request, told, codes.CREATED, location=("firmware", self._name)))
            else:
                answering.resolve(answer(request, told, codes.CHANGED))

        answering.submit(PutArtifact(at, artifact, only_new, replaces, origin=origin), done)

    def _ended(self) -> None:
        self._services.artifacts.unclaim(self._sha256)
        if not self._is_kept:
            self._services.ledger.query(ArtifactQuery(sha256=self._sha256), self._remove_if_unknown)

    def _remove_if_unknown(self, page: Page[Artifact]) -> None:
        if page.status == commands.OK and not page.items:
            self._services.artifacts.remove(self._sha256)

    def _failed(self, error: OSError) -> Response:
        logger.error("the upload of %s failed: %s", self._name, error)
        text = f"the server cannot store the artifact: {error.strerror or error}; free space there and try again"
        return refusal(self._request, codes.SERVICE_UNAVAILABLE, text)

    def _resolve(self, answer: Deferred, response: Response) -> None:
        answer.resolve(response, self._services.clock.monotonic())


class _Upload(_Storing):
    """The sink of an upload whose content is not known beforehand."""

    def __init__(self, services: Services, request: Request, name: str, incoming: Incoming) -> None:
        super().__init__(services, request, name)
        self._incoming = incoming

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
        size = self._incoming.size
        try:
            sha256 = self._incoming.keep()
        except OSError as error:
            self._incoming.drop()
            self._resolve(answer, self._failed(error))
            return
        self._store(answer, sha256, size)

    def abort(self, reason: str) -> None:
        """Forget what came."""
        self._incoming.drop()


class _PartUpload(_Storing):
    """The sink of an upload that says what its content is: one of those that send to a part."""

    def __init__(self, services: Services, request: Request, name: str, part: Part) -> None:
        super().__init__(services, request, name)
        self._part = part
        self._began_at = part.size

    @property
    def offset(self) -> int:
        """How much there is."""
        return self._part.size

    def write_at(self, offset: int, data: bytes) -> Optional[Response]:
        """Take a block."""
        part = self._part
        if part.is_over:
            return self._begin_anew()
        try:
            part.write(data)
        except StoreFullError as error:
            return _full(self._request, error)
        except OSError as error:
            return self._failed(error)
        return None

    def finish(self, answer: Deferred) -> None:
        """Make a content of it, if it is what it was to be, and have the ledger know its name."""

        def hashed(error: Optional[OSError]) -> None:
            try:
                response = self._failed(error) if error is not None else self._keep()
            except OSError as failure:
                response = self._failed(failure)
            self._leave()
            if response is not None:
                self._resolve(answer, response)
            else:
                self._store(answer, self._part.sha256, self._part.size)

        self._part.when_hashed(hashed)

    def abort(self, reason: str) -> None:
        """Leave what came to whoever goes on with it."""
        self._leave()

    def _leave(self) -> None:
        self._services.artifacts.parts.leave(self._part, self._services.clock.monotonic())

    def _keep(self) -> Optional[Response]:
        """Keep it; returns the answer if that cannot be."""
        part = self._part
        if part.is_over:  # by another upload of it
            return None if self._services.artifacts.source(part.sha256) is not None else self._begin_anew()
        if part.keep():
            return None
        if self._began_at:
            return self._begin_anew()
        text = f"what came has another SHA-256 than the request says, {part.sha256}"
        return refuse_error(self._request, InvalidError(text, "sha256"))

    def _begin_anew(self) -> Response:
        text = "what was kept of this content is gone; begin with its first block"
        return refusal(self._request, codes.REQUEST_ENTITY_INCOMPLETE, text)


def _names_hash(request: Request) -> bool:
    return any(argument.startswith("sha256=") for argument in request.query)


def _hash_in(request: Request) -> Optional[str]:
    """Return the SHA-256 that a query says the content has; raises InvalidError for what is none."""
    sha256 = arguments(request, "sha256").get("sha256")
    if sha256 is not None and not is_sha256(sha256):
        raise InvalidError("a SHA-256 has 64 hexadecimal digits, in lower case", "sha256")
    return sha256


def _content(request: Request, source: ContentSource, max_age: int) -> Response:
    if source.etag in request.options.all(ETAG):
        return Response(codes.VALID, etag=source.etag, max_age=max_age)
    return Response(codes.CONTENT, source, contentformats.OCTET_STREAM, etag=source.etag, max_age=max_age)


def _full(request: Request, error: StoreFullError) -> Response:
    response = refusal(request, codes.REQUEST_ENTITY_TOO_LARGE, f"{error}; delete artifacts or raise the quota")
    limit = (SIZE1, encode_uint(error.limit))
    return Response(response.code, response.payload, options=(*response.options.items, limit))
