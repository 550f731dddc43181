"""The requests of the API: what each may hold, and the reading of it; the answers are in `fleet.model.api_answers`.

A job and an action are obeyed to the letter or refused: a field that this version does not know is an InvalidError
that names it. A node's message may come from a newer version: what is unknown in it is ignored. Reading raises
FormatError (4.00) and InvalidError (4.22) only.
"""

from typing import Any, Optional, Union

import msgspec

from fleet.errors import InvalidError

from . import executions, jobs
from .artifacts import check_artifact_name, check_destination, check_mode
from .formats import CBOR, convert, decode, decode_unambiguous
from .health import HealthReport
from .jobs import ArtifactWish, JobSpec
from .nodes import Registration, check_node_id
from .requirements import is_project_name, is_version, parse_requirement
from .targets import check_targets

REPORT = "report"
PACKAGE_TYPES = ("pip", "file")
SYSTEM_ACTIONS = ("status", "restart", "shutdown")
ID_LIMIT = 128
TEXT_LIMIT = 255
OUTPUT_LIMIT = 4096
PAGE_LIMIT = 1000
PAGE_DEFAULT = 100


class CreateRequest(msgspec.Struct, frozen=True):
    """A job to be created."""

    spec: JobSpec
    request_id: Optional[str] = None


class JobAction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /updates` with `action` install, cancel, pause, resume, retry or delete."""

    action: str
    job_id: str
    request_id: Optional[str] = None


class StatusRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /updates` with `action` status; `after` and `limit` page through the nodes."""

    action: str
    job_id: str
    after: Optional[str] = None
    limit: int = PAGE_DEFAULT
    request_id: Optional[str] = None


class ReportRequest(msgspec.Struct, frozen=True):
    """`POST /updates` with `action` report: how far a node is. Sizes in bytes; `output` is the last lines of it."""

    action: str
    job_id: str
    node_id: str
    attempt: int
    sequence: int
    state: str
    bytes_done: int = 0
    bytes_total: Optional[int] = None
    reason: Optional[str] = None
    waiting_for: Optional[str] = None
    output: Optional[str] = None


class SystemAction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /system`."""

    action: str
    request_id: Optional[str] = None


class Hint(msgspec.Struct, frozen=True):
    """`POST /updates/available` on a node: this job waits for you."""

    job_id: str


UpdateRequest = Union[CreateRequest, JobAction, StatusRequest, ReportRequest]


class _CreateBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    version: str
    package_type: str
    target_nodes: tuple[str, ...]
    packages: tuple[str, ...] = ()
    artifacts: tuple[Union[str, ArtifactWish], ...] = ()
    request_id: Optional[str] = None


class _Whose(msgspec.Struct, frozen=True):
    node_id: str


class _Action(msgspec.Struct, frozen=True):
    action: Optional[str] = None


def parse_update_request(payload: bytes, content_format: Optional[int]) -> UpdateRequest:
    """Read the payload of `POST /updates` as what its `action` says; without one it creates a job."""
    # Reports are the many: they are recognised, and read, without a dict in between.
    action = decode(payload, content_format, _Action).action
    if action == REPORT:
        return check_report(decode(payload, content_format, ReportRequest))
    body = decode_unambiguous(payload, content_format)
    if action is None:
        return create_request(body)
    if action == jobs.STATUS:
        status = convert(body, StatusRequest)
        _check_id(status.job_id, "$.job_id")
        _check_request_id(status.request_id)
        if not 1 <= status.limit <= PAGE_LIMIT:
            raise InvalidError(f"the limit is {status.limit}; give one from 1 to {PAGE_LIMIT}", "$.limit")
        return status
    if action not in jobs.ACTIONS:
        legal = ", ".join((*jobs.ACTIONS, REPORT))
        raise InvalidError(f"unknown action {action[:80]!r}; known are {legal}, and none to create a job", "$.action")
    request = convert(body, JobAction)
    _check_id(request.job_id, "$.job_id")
    _check_request_id(request.request_id)
    return request


def parse_create(payload: bytes, content_format: Optional[int]) -> CreateRequest:
    """Read the payload of `POST /updates` without an action."""
    return create_request(decode_unambiguous(payload, content_format))


def create_request(body: Any) -> CreateRequest:
    """Check a decoded body that creates a job; raises InvalidError naming the field."""
    _refuse_later_features(body)
    wanted = convert(body, _CreateBody)
    _check_request_id(wanted.request_id)
    _check_text(wanted.name, "$.name")
    _check_text(wanted.version, "$.version")
    if wanted.package_type not in PACKAGE_TYPES:
        known = " and ".join(PACKAGE_TYPES)
        raise InvalidError(f"unknown package type {wanted.package_type[:80]!r}; known are {known}", "$.package_type")
    check_targets(wanted.target_nodes)
    wishes = tuple(_check_wish(wish, f"$.artifacts[{index}]") for index, wish in enumerate(wanted.artifacts))
    if wanted.package_type == "pip":
        _check_pip(wanted, wishes)
    else:
        _check_files(wanted, wishes)
    spec = JobSpec(wanted.name, wanted.version, wanted.package_type, wanted.target_nodes, wanted.packages, wishes)
    return CreateRequest(spec, wanted.request_id)


def check_report(report: ReportRequest) -> ReportRequest:
    """Check a node's report and cut its texts to their limits; raises InvalidError naming the field."""
    _check_id(report.job_id, "$.job_id")
    check_node_id(report.node_id)
    for name, value, least in (
        ("attempt", report.attempt, 1),
        ("sequence", report.sequence, 1),
        ("bytes_done", report.bytes_done, 0),
        ("bytes_total", report.bytes_total or 0, 0),
    ):
        if not least <= value < 1 << 63:
            raise InvalidError(f"{name} is {value}; give an integer of at least {least}", f"$.{name}")
    if report.state not in executions.NODE_STATES:
        legal = ", ".join(state for state in executions.STATES if state in executions.NODE_STATES)
        raise InvalidError(f"a node cannot report the state {report.state[:80]!r}; it can: {legal}", "$.state")
    texts = (report.reason, report.waiting_for, report.output)
    if texts == (None, None, None):
        return report
    return msgspec.structs.replace(
        report,
        reason=report.reason and report.reason[:TEXT_LIMIT],
        waiting_for=report.waiting_for and report.waiting_for[:TEXT_LIMIT],
        output=report.output and report.output[-OUTPUT_LIMIT:],
    )


def parse_registration(payload: bytes, content_format: Optional[int]) -> Registration:
    """Read the payload of `POST /nodes`."""
    registration = decode(payload, content_format, Registration)
    check_node_id(registration.node_id)
    _check_request_id(registration.request_id)
    return registration


def parse_health(payload: bytes, content_format: Optional[int]) -> HealthReport:
    """Read the payload of `PUT /health`."""
    report = decode(payload, content_format, HealthReport)
    if content_format != CBOR:
        decode(payload, content_format, object)  # it is kept as it is: all of it has to be readable later on
    check_node_id(report.node_id)
    return report


def parse_health_patch(payload: bytes, content_format: Optional[int]) -> tuple[str, dict[str, Any]]:
    """Read the payload of `iPATCH /health`, JSON or CBOR: whose report it is of, and the merge patch."""
    patch = decode(payload, content_format, dict[str, Any])
    return check_node_id(convert(patch, _Whose).node_id), patch


def parse_brief_report(payload: bytes) -> tuple[Optional[str], dict[str, Any]]:
    """Read the payload of `iPATCH /h`: whose report it is of, None if that is not said, and the merge patch."""
    if not payload:
        return None, {}
    patch = decode(payload, CBOR, dict[str, Any])
    return (check_node_id(convert(patch, _Whose).node_id) if "node_id" in patch else None), patch


def parse_system_action(payload: bytes, content_format: Optional[int]) -> SystemAction:
    """Read the payload of `POST /system`."""
    request = convert(decode_unambiguous(payload, content_format), SystemAction)
    _check_request_id(request.request_id)
    if request.action not in SYSTEM_ACTIONS:
        known = ", ".join(SYSTEM_ACTIONS)
        raise InvalidError(f"unknown action {request.action[:80]!r}; known are {known}", "$.action")
    return request


def parse_hint(payload: bytes, content_format: Optional[int]) -> Hint:
    """Read the payload of `POST /updates/available`."""
    hint = decode(payload, content_format, Hint)
    _check_id(hint.job_id, "$.job_id")
    return hint


def check_page(limit: Optional[str]) -> int:
    """Read the `limit` of a list from its query text, the default without one; raises InvalidError."""
    if limit is None:
        return PAGE_DEFAULT
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 4 and 1 <= int(limit) <= PAGE_LIMIT):
        raise InvalidError(f"{limit[:80]!r} is no limit; give a number from 1 to {PAGE_LIMIT}", "limit")
    return int(limit)


def _refuse_later_features(body: Any) -> None:
    """Say of what the format has a place for, but this version does not build, that it is just that."""
    if not isinstance(body, dict):
        return
    if isinstance(body.get("target_nodes"), dict):
        raise InvalidError(
            'groups and filters are not supported by this version; write ["all"] or the ids of nodes', "$.target_nodes"
        )
    if "policy" in body:
        raise InvalidError("policies are not supported by this version; leave the field away", "$.policy")


def _check_wish(wish: Union[str, ArtifactWish], field: str) -> ArtifactWish:
    if isinstance(wish, str):
        check_artifact_name(wish, field)
        return ArtifactWish(wish)
    check_artifact_name(wish.name, f"{field}.name")
    if wish.path is not None:
        check_destination(wish.path, f"{field}.path")
    if wish.mode is not None:
        check_mode(wish.mode, f"{field}.mode")
    return wish


def _check_pip(wanted: _CreateBody, wishes: tuple[ArtifactWish, ...]) -> None:
    for index, text in enumerate(wanted.packages):
        field = f"$.packages[{index}]"
        _check_text(text, field)
        try:
            requirement = parse_requirement(text)
        except ValueError as error:
            raise InvalidError(str(error), field) from None
        if requirement.marker:
            raise InvalidError("environment markers are not supported in a job; leave the part after ';' away", field)
    for index, wish in enumerate(wishes):
        field = f"$.artifacts[{index}]"
        if not wish.name.endswith(".whl"):
            raise InvalidError(f"{wish.name!r} is no wheel; a pip job takes artifacts that end in .whl", field)
        if wish.path is not None or wish.mode is not None:
            part = "path" if wish.path is not None else "mode"
            raise InvalidError(f"a wheel has no {part} to be given; only file jobs have", f"{field}.{part}")
    if wanted.packages or wishes:
        return
    # As in the founding document's first example, the job itself then names the requirement name==version.
    if not is_project_name(wanted.name):
        raise InvalidError(
            f"{wanted.name!r} is no package name, and neither packages nor artifacts say what to install", "$.name"
        )
    if not is_version(wanted.version):
        raise InvalidError(
            f"{wanted.version!r} is no package version, and neither packages nor artifacts say what to install",
            "$.version",
        )


def _check_files(wanted: _CreateBody, wishes: tuple[ArtifactWish, ...]) -> None:
    if wanted.packages:
        raise InvalidError("a file job takes no packages; name its files in artifacts", "$.packages")
    if not wishes:
        raise InvalidError("a file job needs the names of its files; put them into the store first", "$.artifacts")
    destinations: dict[str, int] = {}
    for index, wish in enumerate(wishes):
        destination = wish.path or wish.name
        if destination in destinations:
            first = f"$.artifacts[{destinations[destination]}]"
            raise InvalidError(f"{destination!r} is written twice; {first} goes there too", f"$.artifacts[{index}]")
        destinations[destination] = index


def _check_id(text: str, field: str) -> None:
    if not 0 < len(text) <= ID_LIMIT:
        raise InvalidError(f"an id has 1 to {ID_LIMIT} characters; this has {len(text)}", field)


def _check_request_id(request_id: Optional[str]) -> None:
    if request_id is not None:
        _check_id(request_id, "$.request_id")


def _check_text(text: str, field: str) -> None:
    if not text.strip():
        raise InvalidError("the text is empty", field)
    if len(text) > TEXT_LIMIT:
        raise InvalidError(f"the text has {len(text)} characters; shorten it to {TEXT_LIMIT}", field)
    if not text.isprintable():
        raise InvalidError("the text holds a control character; remove it", field)
