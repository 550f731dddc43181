"""`fleet updates`: jobs are created, installed, watched and steered."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from fleet.cli import session
from fleet.cli.exitcodes import DONE
from fleet.cli.output import counts_text, local_time, printable, share, table
from fleet.cli.watch import watch
from fleet.errors import UsageError
from fleet.model.api_answers import ExecutionView, JobView, StatusAnswer
from fleet.operator.client import Fleet

# name=path:mode
_ARTIFACT = re.compile(r"(?P<name>[^=]+)(?:=(?P<path>[^:]+)(?::(?P<mode>[0-7]{3,4}))?)?\Z")

_ACTIONS = {
    "install": "Begin with jobs that were created",
    "cancel": "Stop jobs; nodes that are in the middle of it end as they must",
    "pause": "Hand out jobs to no further nodes",
    "resume": "Go on with paused jobs",
    "retry": "Have the nodes that did not succeed try again",
    "delete": "Forget jobs that are at an end",
}


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    group = session.Group("updates", "Create update jobs, install, watch and steer them", default="list")
    group.action("list", _list, "List all jobs, newest first")
    create = group.action("create", _create, "Create a job and print its id")
    create.add_argument("--name", help="what is updated; of a pip job without packages and artifacts, the package")
    create.add_argument("--version", help="to which version")
    create.add_argument("--type", dest="package_type", metavar="TYPE", help="pip or file")
    create.add_argument(
        "--target", dest="target_nodes", action="append", metavar="all|ID", help="which nodes; may be given repeatedly"
    )
    create.add_argument(
        "--package", dest="packages", action="append", metavar="REQ", help="a requirement, as in demo==1.2; repeatedly"
    )
    create.add_argument(
        "--artifact",
        dest="artifacts",
        action="append",
        metavar="NAME[=PATH[:MODE]]",
        help="an artifact of the store; of a file job with the place below the node's file root; repeatedly",
    )
    create.add_argument("--file", metavar="FILE", help="a job as JSON (- is standard input); flags replace its fields")
    create.add_argument("--install", action="store_true", help="begin with it at once")
    status = group.action("status", _status, "Show how far a job is on each node")
    status.add_argument("job_id", metavar="JOB")
    watching = group.action("watch", _watch, "Print what changes until the job ends; exit code 0 if it succeeded")
    watching.add_argument("job_id", metavar="JOB")
    for name, purpose in _ACTIONS.items():
        action = group.action(name, _act, purpose)
        action.add_argument("job_ids", metavar="JOB", nargs="+")
        action.set_defaults(action=name)
    return group.run(arguments)


async def _list(fleet: Fleet, options: argparse.Namespace) -> int:
    pages = await session.all_pages(fleet.jobs(), options, "updates")
    if pages is not None:
        rows = [_job_row(job) for page in pages for job in page.updates]
        print(table(("JOB", "NAME", "VERSION", "TYPE", "STATUS", "NODES", "CREATED"), rows) if rows else "no jobs")
    return DONE


async def _create(fleet: Fleet, options: argparse.Namespace) -> int:
    created = await fleet.create(job_of(options))
    job_id = created.value.job_id
    if not options.install:
        session.show_answer(options, created, printable(job_id))
        return DONE
    if not options.json:
        print(printable(job_id), flush=True)
    session.show_answer(options, await fleet.act("install", job_id), "")
    return DONE


async def _act(fleet: Fleet, options: argparse.Namespace) -> int:
    for job_id in options.job_ids:
        answer = await fleet.act(options.action, job_id)
        session.show_answer(options, answer, f"{printable(job_id)}  {printable(answer.value.status)}")
    return DONE


async def _status(fleet: Fleet, options: argparse.Namespace) -> int:
    pages = await session.all_pages(fleet.status(options.job_id), options, "nodes")
    if pages is not None:
        print(status_text(pages))
    return DONE


async def _watch(fleet: Fleet, options: argparse.Namespace) -> int:
    return await watch(fleet, options.job_id, as_json=options.json)


def job_of(options: argparse.Namespace) -> dict[str, Any]:
    """The job that the options of `create` describe. The server checks it; here only what it would not understand."""
    job = _job_file(options.file) if options.file is not None else {}
    for field in ("name", "version", "package_type", "target_nodes", "packages"):
        if getattr(options, field) is not None:
            job[field] = getattr(options, field)
    if options.artifacts is not None:
        job["artifacts"] = [_artifact(text) for text in options.artifacts]
    flags = {"name": "--name", "version": "--version", "package_type": "--type", "target_nodes": "--target"}
    absent = [flag for field, flag in flags.items() if field not in job]
    if absent:
        raise UsageError(f"{' and '.join(absent)} must be given, or a job with --file")
    return job


def status_text(pages: Sequence[StatusAnswer]) -> str:
    """A job's status on a page: the job, counts, a row for each node, then the last lines that nodes printed."""
    job = pages[0]
    nodes = {node_id: view for page in pages for node_id, view in page.nodes.items()}
    parts = [
        f"{printable(job.name)} {printable(job.version)} ({printable(job.package_type)})  {printable(job.status)}",
        f"nodes: {counts_text(job.counts) or 'none yet'}",
    ]
    if nodes:
        header = ("NODE", "STATE", ">ATTEMPT", "DOWNLOADED", "REASON", "SINCE")
        parts += ["", table(header, (_node_row(node_id, view) for node_id, view in nodes.items()))]
    for node_id, view in nodes.items():
        if view.output and view.output.strip():
            parts += ["", f"{printable(node_id)}:", *("  " + printable(line) for line in view.output.splitlines())]
    return "\n".join(parts)


def _job_row(job: JobView) -> tuple[str, ...]:
    counts = counts_text(job.counts)
    return job.job_id, job.name, job.version, job.package_type, job.status, counts, local_time(job.created_at)


def _node_row(node_id: str, view: ExecutionView) -> tuple[str, ...]:
    reason = view.reason or (f"waits for {view.waiting_for}" if view.waiting_for else "")
    downloaded = share(view.bytes_done, view.bytes_total)
    return node_id, view.state, str(view.attempt), downloaded, reason, local_time(view.updated_at)


def _job_file(file: str) -> dict[str, Any]:
    try:
        if file == "-":
            job = json.load(sys.stdin)
        else:
            with open(file, encoding="utf-8") as stream:
                job = json.load(stream)
    except OSError as error:
        raise UsageError(f"--file {file}: it cannot be read: {error.strerror}") from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are such
        raise UsageError(f"--file {file}: it is no JSON: {error}") from error
    if not isinstance(job, dict):
        raise UsageError(f'--file {file}: a job is an object, {{"name": …}}')
    if "action" in job:
        raise UsageError(f"--file {file}: it holds an action and not a job; leave 'action' away")
    return job


def _artifact(text: str) -> Any:
    parts = _ARTIFACT.match(text)
    if parts is None:
        raise UsageError(
            f"--artifact {text!r}: write NAME, NAME=PATH or NAME=PATH:MODE, as in app.conf=etc/app.conf:0644"
        )
    wish = {name: value for name, value in parts.groupdict().items() if value is not None}
    return wish if len(wish) > 1 else wish["name"]
