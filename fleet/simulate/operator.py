"""The operator of the simulated fleet: artifacts are put, jobs created, begun, paused, cancelled, retried, over CoAP.

Each job has a script, a generator that asks and waits. What gets no answer, or that the server cannot do it now, is
asked again under the same request id, as our client does. What was answered is held against the store later: an
acknowledged command survives whatever dies.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Generator
from typing import Any, NamedTuple, Optional, Union

import msgspec

from fleet.model import jobs
from fleet.model.formats import JSON
from fleet.model.roles import OPERATOR, Principal
from fleet.simulate.device import digest_of
from fleet.simulate.invariants import InvariantError, Invariants, JobTruth, require
from fleet.simulate.security import Speech
from fleet.simulate.server import DATA_DIR, SimulatedServer
from minicoap.codec import codes
from minicoap.core.endpoint import EndpointCore
from minicoap.core.request import Response
from minicoap.errors import CoapError, NetworkError
from minicoap.simulate.world import World

RETRY = (2.0, 15.0)  # seconds until something is asked again, from and to
POLL = (10.0, 30.0)  # seconds between looks at a job


class Ask(NamedTuple):
    """A request; `code` and path, and the JSON or bytes that go with it."""

    code: int
    path: tuple[str, ...]
    payload: bytes = b""
    content_format: Optional[int] = None
    query: tuple[str, ...] = ()


Script = Generator[Union[float, Ask], Any, None]  # seconds are waited for; an Ask is answered by its Response


class JobPlan(NamedTuple):
    """A job to be: when (seconds), what, where (None: everywhere), and what happens to it."""

    name: str
    version: str
    package_type: str
    artifacts: tuple[tuple[str, bytes], ...]
    packages: tuple[str, ...] = ()
    targets: Optional[tuple[str, ...]] = None
    at: float = 0.0
    pause_after: float = 0.0  # seconds after the install; this and the following: 0 for never
    resume_after: float = 0.0  # seconds after the pause
    cancel_after: float = 0.0  # seconds after the install, or the resume
    retries: int = 2  # while it does not succeed
    delete: bool = False  # once it is at an end


class SimulatedOperator:
    """The operator, who knows that `nodes` nodes are to be there before jobs make sense."""

    def __init__(
        self, world: World, server: SimulatedServer, invariants: Invariants, nodes: int, *, security: Speech
    ) -> None:
        self.host = world.host(("operator", 5683))
        self.core = EndpointCore(world.entropy("operator"))
        self.ends: dict[str, str] = {}  # of jobs, by name
        self._world = world
        self._server = server
        self._invariants = invariants
        self._nodes = nodes
        self._chance = world.entropy("operator/mind")
        self._all_registered = False
        self._running = 0
        self._requests = 0
        self._acknowledged: dict[str, tuple[str, ...]] = {}  # job id -> the states that it may be in since
        self._stored: dict[str, str] = {}  # artifact -> SHA-256
        self._path = security.server_path(server.host.address)
        self.host.boot(security.machine(Principal(OPERATOR, "op"), 1, self.core))

    @property
    def is_done(self) -> bool:
        """Whether every script came to its end."""
        return self._running == 0

    def start(self, script: Script) -> None:
        """Begin a script."""
        self._running += 1
        self._advance(script, None)

    # What was acknowledged

    def check_acknowledged(self) -> None:
        """Everything that was answered is there."""
        tables = self._server.store.tables
        for job_id, states in self._acknowledged.items():
            job = tables.jobs.get(job_id)
            state = "deleted" if job is None else job.state
            require(state in states, "job {} is {}, but {} was acknowledged", job_id, state, states)
        for name, sha256 in self._stored.items():
            artifact = tables.artifacts.get(name)
            require(artifact is not None and artifact.sha256 == sha256, "the artifact {} is lost", name)
            path = f"{DATA_DIR}/artifacts/contents/{sha256}"
            is_there = self._server.disk.size(path) is not None
            require(is_there and digest_of(self._server.disk.read(path)) == sha256, "the bytes of {} are lost", name)
        named = {job.spec.name for job in tables.jobs.values()}
        require(len(named) == len(tables.jobs), "a job was created twice: {}", tables.jobs)

    # The scripts

    def gather(self) -> Script:
        """Wait until all nodes are registered; the jobs' scripts begin then."""
        while not self._all_registered:
            yield self._chance.uniform(*POLL)
            answer = yield Ask(codes.GET, ("nodes",), query=("limit=1000",))
            self._all_registered = len(msgspec.json.decode(answer.payload)["nodes"]) == self._nodes

    def job(self, plan: JobPlan) -> Script:
        """All of a job's life."""
        yield plan.at
        while not self._all_registered:
            yield 1.0
        for name, data in plan.artifacts:
            # Half of them as `fleet firmware put` does, so that what a crash left is gone on with.
            query = (f"sha256={digest_of(data)}",) if self._chance.uniform(0, 1) < 0.5 else ()
            answer = yield Ask(codes.PUT, ("firmware", name), data, query=query)
            require(answer.code in (codes.CREATED, codes.CHANGED), "PUT {}: {}", name, answer.text)
            self._stored[name] = digest_of(data)
        job_id = yield from self._create(plan)
        yield from self._act(job_id, jobs.INSTALL, *jobs.STATES[1:])
        if plan.pause_after:
            yield plan.pause_after
            yield from self._act(job_id, jobs.PAUSE, *jobs.STATES[1:])
            yield plan.resume_after
            yield from self._act(job_id, jobs.RESUME, *jobs.STATES[1:])
        if plan.cancel_after:
            yield plan.cancel_after
            yield from self._act(job_id, jobs.CANCEL, jobs.CANCELLING, jobs.CANCELLED)
        for _ in range(plan.retries):
            if (yield from self._end(job_id)) == jobs.SUCCEEDED:
                break
            yield self._chance.uniform(0, 5)
            yield from self._act(job_id, jobs.RETRY, *jobs.STATES[1:])
        self.ends[plan.name] = yield from self._end(job_id)
        if plan.delete:
            yield from self._act(job_id, jobs.DELETE, "deleted")

    def restart_server(self, at: float) -> Script:
        """Have the server restart by itself."""
        yield at
        yield self._post(("system",), {"action": "restart"})

    def _create(self, plan: JobPlan) -> Generator[Any, Any, str]:
        wanted: dict[str, Any] = {
            "name": plan.name,
            "version": plan.version,
            "package_type": plan.package_type,
            "target_nodes": ["all"] if plan.targets is None else list(plan.targets),
            "packages": list(plan.packages),
            "artifacts": [name for name, _ in plan.artifacts],
        }
        answer = yield self._post(("updates",), wanted)
        require(answer.code == codes.CREATED, "job {} was not created: {}", plan.name, answer.text)
        job_id: str = msgspec.json.decode(answer.payload)["job_id"]
        hashes = {name: digest_of(data) for name, data in plan.artifacts}
        self._invariants.jobs[job_id] = JobTruth(plan.name, plan.targets, hashes)
        self._acknowledged[job_id] = (jobs.CREATED,)
        return job_id

    def _act(self, job_id: str, action: str, *then: str) -> Generator[Any, Any, None]:
        """Ask for an action; once it is acknowledged the job can only be in one of the states `then`."""
        # While the answer is under way, it may have been done or not.
        self._acknowledged[job_id] = (*self._acknowledged[job_id], *then)
        answer: Response = yield self._post(("updates",), {"action": action, "job_id": job_id})
        require(answer.is_success or answer.code == codes.CONFLICT, "{}: {} {}", action, answer.code, answer.text)
        if answer.is_success:
            self._acknowledged[job_id] = then

    def _end(self, job_id: str) -> Generator[Any, Any, str]:
        """Wait for the end of a job and return it."""
        while True:
            yield self._chance.uniform(*POLL)
            answer = yield Ask(codes.GET, ("updates", job_id, "status"), query=("limit=1",))
            require(answer.is_success, "status: {} {}", answer.code, answer.text)
            state: str = msgspec.json.decode(answer.payload)["status"]
            if state in jobs.JOB_ENDS:
                return state

    def _post(self, path: tuple[str, ...], body: dict[str, Any]) -> Ask:
        self._requests += 1
        return Ask(codes.POST, path, msgspec.json.encode({**body, "request_id": f"op-{self._requests}"}), JSON)

    # How scripts go on

    def _advance(self, script: Script, answer: Optional[Response]) -> None:
        try:
            wanted = script.send(answer)
        except StopIteration:
            self._running -= 1
            return
        if isinstance(wanted, Ask):
            self._ask(script, wanted)
        else:
            self.host.call_later(wanted, self._advance, script, None)

    def _ask(self, script: Script, ask: Ask) -> None:
        def done(outcome: Union[Response, CoapError]) -> None:
            if isinstance(outcome, Response) and outcome.code == codes.INTERNAL_SERVER_ERROR:
                raise InvariantError(f"{ask.path}: {outcome.text}")
            if isinstance(outcome, Response) and outcome.code not in _TRY_AGAIN:
                self._advance(script, outcome)
            else:
                self.host.call_later(self._chance.uniform(*RETRY), self._ask, script, ask)

        try:
            self.core.request(
                ask.code,
                self._path,
                done,
                self._world.now,
                uri_path=ask.path,
                query=ask.query,
                payload=ask.payload,
                content_format=ask.content_format,
            )
        except NetworkError:
            self.host.call_later(self._chance.uniform(*RETRY), self._ask, script, ask)


_TRY_AGAIN = (
    codes.SERVICE_UNAVAILABLE,
    codes.TOO_MANY_REQUESTS,
    codes.REQUEST_ENTITY_INCOMPLETE,  # the server died between two blocks of an upload
    codes.BAD_REQUEST,  # a list became shorter between two blocks of it: there is no block of that number any more
)


def make_wheel(project: str, version: str) -> tuple[str, bytes]:
    """A wheel without code: its file name and its bytes, always the same."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        text = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n"
        archive.writestr(zipfile.ZipInfo(f"{project}-{version}.dist-info/METADATA"), text)
    return f"{project}-{version}-py3-none-any.whl", packed.getvalue()
