"""`/updates`: jobs are created, begun, watched and steered; nodes fetch theirs and report."""

from __future__ import annotations

from typing import Callable, Optional, Union

import msgspec

from fleet.errors import InvalidError
from fleet.model import executions, jobs
from fleet.model.answers import FORMATS, answer, arguments, guarded, refusal, refuse_error
from fleet.model.api import CreateRequest, JobAction, ReportRequest, StatusRequest, check_page, parse_update_request
from fleet.model.api_answers import (
    ActionAnswer,
    CreateAnswer,
    JobDetail,
    JobView,
    NodeJobAnswer,
    ReportAnswer,
    StatusAnswer,
    UpdatesAnswer,
    execution_view,
)
from fleet.model.artifacts import Artifact
from fleet.model.audit import Origin
from fleet.model.nodes import check_node_id
from fleet.model.times import iso_from_ms
from fleet.server import commands
from fleet.server.commands import Outcome
from fleet.server.queries import (
    AnswerQuery,
    ArtifactsQuery,
    ExecutionsQuery,
    JobItem,
    JobQuery,
    JobsQuery,
    NodeJobItem,
    NodeJobQuery,
    Page,
)
from fleet.server.refusals import refuse_outcome
from fleet.server.services import Answering, Services
from fleet.server.wheels import Pinned, pin
from minicoap.codec import codes
from minicoap.core.request import Deferred, Request, Response
from minicoap.core.resource import Resource

CREATING_LIMIT = 16  # jobs being created at once: each looks through the whole store

_ACTIONS: dict[str, Callable[[int, str, Optional[str], Optional[Origin]], commands.Command]] = {
    jobs.INSTALL: commands.InstallJob,
    jobs.CANCEL: commands.CancelJob,
    jobs.PAUSE: commands.PauseJob,
    jobs.RESUME: commands.ResumeJob,
    jobs.RETRY: commands.RetryJob,
    jobs.DELETE: commands.DeleteJob,
}


class UpdatesResource:
    """Jobs and executions."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._creating = 0  # jobs that are being created

    def resources(self) -> list[Resource]:
        """The table's rows."""
        return [
            Resource(
                "/updates",
                get=guarded(self._list),
                post=guarded(self._post),
                title="Update jobs",
                resource_type="fleet.updates",
                content_formats=FORMATS,
            ),
            Resource("/updates/{id}", get=guarded(self._show), content_formats=FORMATS),
            Resource("/updates/{id}/status", get=guarded(self._show_status), content_formats=FORMATS, observable=True),
        ]

    def _post(self, request: Request) -> Union[Response, Deferred]:
        arguments(request)
        wanted = parse_update_request(request.payload, request.content_format)
        access = self._services.access
        if isinstance(wanted, ReportRequest):
            refused = access.refuses_node(request, wanted.node_id)
        else:
            refused = access.refuses_steering(request)
        if refused is not None:
            return refused
        if isinstance(wanted, ReportRequest):
            return self._report(request, wanted)
        if isinstance(wanted, CreateRequest):
            return self._create(request, wanted)
        if isinstance(wanted, StatusRequest):
            return self._status(request, wanted.job_id, wanted.after, wanted.limit)
        return self._act(request, wanted)

    # Operators

    def _create(self, request: Request, wanted: CreateRequest) -> Union[Response, Deferred]:
        """Create a job, pinned to what the store has now."""
        services = self._services
        if self._creating >= CREATING_LIMIT:
            text = f"{CREATING_LIMIT} jobs are being created already; try again in a few seconds"
            return refusal(request, codes.SERVICE_UNAVAILABLE, text)
        self._creating += 1
        answering = Answering(services, request, ended=self._created)
        found: dict[str, Artifact] = {}

        def listed(page: Page[Artifact]) -> None:
            found.update((artifact.name, artifact) for artifact in page.items)
            if page.next is not None:
                answering.query(ArtifactsQuery(page.next, limit=1000), listed)
                return
            pinned = self._pin(request, wanted, found)
            if isinstance(pinned, Pinned):
                answering.submit(self._create_command(request, wanted, pinned), created)
                return
            # What a job was created from may be gone by now, and the request for it be repeated all the same.
            refused = pinned
            command = self._create_command(request, wanted, Pinned((), ()))
            answering.query(AnswerQuery(command), lambda page: not_pinned(page, refused))

        def not_pinned(page: Page[Outcome], refused: Response) -> None:
            if wanted.request_id is not None and page.items:
                created(page.items[0])
            else:
                answering.resolve(refused)

        def created(outcome: Outcome) -> None:
            if not outcome.is_ok or outcome.job_id is None:
                answering.resolve(refuse_outcome(request, outcome))
                return
            told = CreateAnswer(outcome.job_id, outcome.state or jobs.CREATED)
            answering.resolve(answer(request, told, codes.CREATED, location=("updates", outcome.job_id)))

        return answering.query(ArtifactsQuery(limit=1000), listed)

    def _created(self) -> None:
        self._creating -= 1

    def _pin(self, request: Request, wanted: CreateRequest, found: dict[str, Artifact]) -> Union[Pinned, Response]:
        for index, wish in enumerate(wanted.spec.artifacts):
            if wish.name not in found:
                text = f"there is no artifact {wish.name!r} in the store; PUT /firmware/{wish.name} first"
                return refusal(request, codes.NOT_FOUND, text, f"$.artifacts[{index}]")
        try:
            return pin(wanted.spec, found, self._services.artifacts)
        except InvalidError as error:
            return refuse_error(request, error)

    def _create_command(self, request: Request, wanted: CreateRequest, pinned: Pinned) -> commands.CreateJob:
        services = self._services
        spec = msgspec.structs.replace(wanted.spec, packages=pinned.packages)
        origin = services.audit.origin(request)
        return commands.CreateJob(services.at(), _new_id(services), spec, pinned.artifacts, wanted.request_id, origin)

    def _act(self, request: Request, wanted: JobAction) -> Deferred:
        def acted(request: Request, outcome: Outcome) -> Response:
            return answer(request, ActionAnswer(wanted.job_id, outcome.state or jobs.DELETE + "d"), codes.CHANGED)

        origin = self._services.audit.origin(request)
        command = _ACTIONS[wanted.action](self._services.at(), wanted.job_id, wanted.request_id, origin)
        return self._services.submit(request, command, acted)

    def _list(self, request: Request) -> Deferred:
        asked = arguments(request, "limit", "after")

        def listed(request: Request, page: Page[JobItem]) -> Response:
            return answer(request, UpdatesAnswer(tuple(_view(item) for item in page.items), page.next))

        return self._services.query(request, JobsQuery(asked.get("after"), check_page(asked.get("limit"))), listed)

    def _show_status(self, request: Request) -> Deferred:
        asked = arguments(request, "limit", "after")
        return self._status(request, request.args["id"], asked.get("after"), check_page(asked.get("limit")))

    def _status(self, request: Request, job_id: str, after: Optional[str], limit: int) -> Deferred:
        answering = Answering(self._services, request)

        def found(page: Page[JobItem]) -> None:
            if not page.items:
                answering.resolve(_unknown(request, job_id))
                return
            item = page.items[0]
            answering.query(ExecutionsQuery(job_id, after, limit), lambda page: told(item, page))

        def told(item: JobItem, page: Page[executions.Execution]) -> None:
            job = item.job
            nodes = {item.node_id: execution_view(item, iso_from_ms(item.updated_at)) for item in page.items}
            spec = job.spec
            status = StatusAnswer(
                job_id, spec.name, spec.version, spec.package_type, job.state, item.counts, nodes, page.next
            )
            # RFC 7252 §5.9.1: 2.05 is for GET; to a POST the result of the action is 2.04.
            code = codes.CHANGED if request.code == codes.POST else codes.CONTENT
            answering.resolve(answer(request, status, code))

        return answering.query(JobQuery(job_id), found)

    def _show(self, request: Request) -> Deferred:
        job_id = request.args["id"]
        asked = arguments(request, "node")
        if "node" in asked:
            return self._fetch(request, job_id, check_node_id(asked["node"], "node"))

        def shown(request: Request, page: Page[JobItem]) -> Response:
            return answer(request, _detail(page.items[0])) if page.items else _unknown(request, job_id)

        return self._services.query(request, JobQuery(job_id), shown)

    # Nodes

    def _fetch(self, request: Request, job_id: str, node_id: str) -> Deferred:
        """Tell a node what it is to do. With that it has begun: a cancellation from here on has to reach the node.

        Else one whose reports are lost could be through with a job that was cancelled here as not begun.
        """
        services = self._services
        answering = Answering(services, request)

        def fetched(page: Page[NodeJobItem]) -> None:
            if not page.items:
                answering.resolve(
                    refusal(request, codes.NOT_FOUND, f"no job {job_id[:80]!r} waits for node {node_id!r}")
                )
            elif not executions.waits_for_node(page.items[0].job.state, page.items[0].execution.state):
                job, execution = page.items[0].job, page.items[0].execution
                text = f"job {job_id} does not wait for node {node_id!r}: it is {execution.state}, the job {job.state}"
                answering.resolve(refusal(request, codes.CONFLICT, text, state=execution.state))
            elif page.items[0].execution.state in executions.NOT_BEGUN:
                begin(page.items[0])
            else:
                answering.resolve(answer(request, _node_job(page.items[0])))

        def begin(item: NodeJobItem) -> None:
            sequence = item.execution.sequence + 1
            execution = msgspec.structs.replace(item.execution, state=executions.WAITING, sequence=sequence)
            attempt, at = execution.attempt, services.at()
            command = commands.Report(at, job_id, node_id, attempt, sequence, execution.state)

            def begun(outcome: Outcome) -> None:
                told = _node_job(NodeJobItem(item.job, execution))
                answering.resolve(answer(request, told) if outcome.is_ok else refuse_outcome(request, outcome))

            answering.submit(command, begun)

        return answering.query(NodeJobQuery(job_id, node_id), fetched)

    def _report(self, request: Request, report: ReportRequest) -> Deferred:
        services = self._services
        at = services.at()
        presence = services.presences.find(report.node_id)
        is_believed = presence is None or services.heard(request, presence, at)

        def reported(request: Request, outcome: Outcome) -> Response:
            told = answer(request, ReportAnswer(report.job_id, outcome.state or report.state), codes.CHANGED)
            return services.told(request, told, is_believed)

        command = commands.Report(
            at,
            report.job_id,
            report.node_id,
            report.attempt,
            report.sequence,
            report.state,
            report.bytes_done,
            report.bytes_total,
            report.reason,
            report.waiting_for,
            report.output,
        )
        return services.submit(request, command, reported)


def _new_id(services: Services) -> str:
    """A random id in the form of a UUID."""
    digits = f"{services.entropy.integer(128):032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _unknown(request: Request, job_id: str) -> Response:
    return refusal(request, codes.NOT_FOUND, f"there is no job {job_id[:80]!r}; see GET /updates", "$.job_id")


def _node_job(item: NodeJobItem) -> NodeJobAnswer:
    job, execution = item.job, item.execution
    return NodeJobAnswer(
        job_id=job.job_id,
        attempt=execution.attempt,
        state=execution.state,
        sequence=execution.sequence,
        name=job.spec.name,
        version=job.spec.version,
        package_type=job.spec.package_type,
        packages=job.spec.packages,
        artifacts=job.artifacts,
    )


def _view(item: JobItem) -> JobView:
    job = item.job
    return JobView(
        job_id=job.job_id,
        name=job.spec.name,
        version=job.spec.version,
        package_type=job.spec.package_type,
        status=job.state,
        counts=item.counts,
        created_at=iso_from_ms(job.created_at),
        updated_at=iso_from_ms(job.updated_at),
    )


def _detail(item: JobItem) -> JobDetail:
    job = item.job
    return JobDetail(
        job_id=job.job_id,
        name=job.spec.name,
        version=job.spec.version,
        package_type=job.spec.package_type,
        status=job.state,
        counts=item.counts,
        target_nodes=job.spec.target_nodes,
        packages=job.spec.packages,
        artifacts=job.artifacts,
        created_at=iso_from_ms(job.created_at),
        updated_at=iso_from_ms(job.updated_at),
    )
