"""The operator's commands against a server that answers as it is told to."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from datetime import datetime, timezone

import pytest

from fleet.cli import watch
from fleet.model.api_answers import NodeHealthAnswer, StatusAnswer
from fleet.model.formats import JSON as JSON_FORMAT
from fleet.model.formats import decode
from fleet.operator.client import Answer
from minicoap.asyncio.partfile import SYNC_STEP
from minicoap.codec import codes, contentformats
from minicoap.codec.options import BLOCK2, IF_NONE_MATCH, REQUEST_TAG
from minicoap.core.body import TransferState, decode_block
from minicoap.core.request import Response
from tests.fleet.operator.fake_fleet import document
from tests.fleet.operator.samples import ARTIFACT, EXECUTION, JOB, NODE, STATUS


def status(state: str, **executions: dict) -> dict:
    """A job's status; an execution is what it has other than a pending one."""
    nodes = {name.replace("_", "-"): {**EXECUTION, **execution} for name, execution in executions.items()}
    states = [node["state"] for node in nodes.values()]
    return {**STATUS, "status": state, "counts": {s: states.count(s) for s in states}, "nodes": nodes}


# health, nodes, system


def test_health_is_a_page(fake, fleet):
    fake.say("GET", "/health", {"status": "ok", "nodes": {"online": 3}, "server": {"artifact_bytes": 2048}})

    assert fleet("health").out == "status  ok\nnodes\n  online  3\nserver\n  artifact bytes  2.0 KiB\n"


@pytest.mark.parametrize("arguments", [("health", "--json"), ("nodes", "--json"), ("nodes", "--json", "list")])
def test_with_json_the_servers_answer_is_printed_byte_for_byte(fake, fleet, arguments):
    raw = '{"status":  "ok", "nodes": [], "next": null, "later": "ü"}'.encode()
    for path in ("/health", "/nodes"):
        fake.say("GET", path, Response(codes.CONTENT, raw, contentformats.JSON))

    assert fleet(*arguments).out.encode() == raw + b"\n"


def test_nodes_are_a_table_over_all_pages(fake, fleet):
    ill = {"overall_healthy": False, "error_messages": ["Service docker is not running"]}
    now = datetime.now(timezone.utc).isoformat()
    second = {**NODE, "node_id": "worker-04", "last_seen": now, "status": "unhealthy", "health": ill}
    fake.say("GET", "/nodes", {"nodes": [NODE], "next": "x"}, {"nodes": [second], "next": None})

    ran = fleet("nodes", "list", "--status", "online")

    header, first, last = ran.out.splitlines()
    assert header.split() == ["NODE", "STATUS", "LAST", "SEEN", "ADDRESS", "HOSTNAME", "HEALTH"]
    assert first.startswith("worker-03  online     2025-09-17 ")
    assert first.endswith("  192.0.2.7:5683  worker-03  no report yet")
    assert last.startswith("worker-04  unhealthy  0 s ago")
    assert last.endswith("Service docker is not running")
    assert [asked.query for asked in fake.asked] == [("status=online",), ("status=online", "after=x")]


def test_all_pages_of_nodes_are_one_document(fake, fleet):
    fake.say("GET", "/nodes", {"nodes": [NODE], "next": "x"}, {"nodes": [NODE, NODE], "next": None})

    assert json.loads(fleet("nodes", "--json").out) == {"nodes": [NODE, NODE, NODE], "next": None}


def test_a_fleet_without_nodes_says_so(fake, fleet):
    fake.say("GET", "/nodes", {"nodes": [], "next": None})

    assert fleet("nodes").out == "no nodes\n"


def test_a_node_is_shown_with_all_that_the_server_says(fake, fleet):
    fake.say("GET", "/nodes/worker-03", {**NODE, "of_a_later_version": "x", "health": {"cpu_percent": 1.5}})

    out = fleet("nodes", "show", "worker-03").out

    assert "node id             worker-03\n" in out
    assert "of a later version  x\n" in out
    assert "health\n  cpu percent  1.5\n" in out


def test_nodes_are_removed_one_after_the_other(fake, fleet):
    fake.say("DELETE", "/nodes/a", {"status": "removed"})
    fake.say("DELETE", "/nodes/b", {"status": "removed"})

    assert fleet("nodes", "remove", "a", "b") == (0, "", "")
    assert [asked.path for asked in fake.asked] == ["/nodes/a", "/nodes/b"]


@pytest.mark.parametrize(
    ("action", "method", "body"),
    [("status", "GET", None), ("restart", "POST", "restart"), ("shutdown", "POST", "shutdown")],
)
def test_the_server_is_shown_and_told(fake, fleet, action, method, body):
    fake.say(method, "/system", {"status": "as you wish"})

    assert fleet("system", action).out == "status  as you wish\n"
    assert (fake.last.body or {}).get("action") == body if body else fake.last.body == b""


# refusals


def test_a_refusal_ends_with_1_and_names_the_field(fake, fleet):
    body = {"error": "unknown package type 'deb'; known are pip and file", "field": "$.package_type"}
    fake.say("POST", "/updates", document(body, codes.UNPROCESSABLE_ENTITY))

    ran = fleet("updates", "create", "--name", "x", "--version", "1", "--type", "deb", "--target", "all")

    assert ran == (
        1, "", "fleet updates: unknown package type 'deb'; known are pip and file (4.22 Unprocessable Entity)\n"
        "  field: $.package_type\n",
    )  # fmt: skip


def test_a_refusal_cannot_steer_the_terminal(fake, fleet):
    fake.say("GET", "/health", document({"error": "\x1b[2J", "field": "\x1b[1m"}, codes.FORBIDDEN))

    assert fleet("health").err == "fleet health: \\x1b[2J (4.03 Forbidden)\n  field: \\x1b[1m\n"


# firmware


def test_a_file_is_put_under_its_own_name_block_by_block(fake, fleet, tmp_path):
    content = bytes(range(256)) * 12
    sha256 = hashlib.sha256(content).hexdigest()
    (tmp_path / "demo.whl").write_bytes(content)
    fake.say("GET", "/firmware", {"firmware": [ARTIFACT], "next": None})
    fake.say("PUT", "/firmware/demo.whl", {"name": "demo.whl", "size": len(content), "sha256": sha256})

    ran = fleet("firmware", "put", str(tmp_path / "demo.whl"))

    assert ran == (0, f"demo.whl  3.0 KiB  sha256 {sha256}\n", "")
    assert fake.last.body == content
    assert fake.last.request.options.get(IF_NONE_MATCH) is None
    assert fake.last.query == (f"sha256={sha256}",)
    assert fake.last.request.options.get(REQUEST_TAG) == bytes.fromhex(sha256[:16])


def test_a_file_that_is_in_the_store_is_not_sent_again(fake, fleet, tmp_path):
    (tmp_path / "demo.whl").write_bytes(b"content")
    in_store(fake, b"content")

    ran = fleet("firmware", "put", str(tmp_path / "demo.whl"))

    assert ran == (0, "demo.whl  7 B  is in the store already\n", "")
    assert {asked.method for asked in fake.asked} == {"GET"}


def test_a_file_that_is_in_the_store_under_another_name_is_sent(fake, fleet, tmp_path):
    (tmp_path / "other.whl").write_bytes(b"content")
    sha256 = in_store(fake, b"content")
    fake.say("PUT", "/firmware/other.whl", {"name": "other.whl", "size": 7, "sha256": sha256})

    assert fleet("firmware", "put", str(tmp_path / "other.whl")).code == 0

    assert fake.last.body == b"content"


def test_a_file_is_put_under_another_name_if_that_is_free(fake, fleet, tmp_path):
    (tmp_path / "demo.whl").write_bytes(b"")
    taken = document({"error": "artifact 'x' exists already"}, codes.PRECONDITION_FAILED)
    fake.say("PUT", "/firmware/x", taken)

    ran = fleet("firmware", "put", str(tmp_path / "demo.whl"), "--name", "x", "--if-none-match")

    assert (ran.code, ran.err) == (1, "fleet firmware: artifact 'x' exists already (4.12 Precondition Failed)\n")
    assert fake.last.request.options.get(IF_NONE_MATCH) == b""


def test_a_file_that_arrived_damaged_is_not_called_stored(fake, fleet, tmp_path):
    (tmp_path / "demo.whl").write_bytes(b"content")
    fake.say("GET", "/firmware", {"firmware": [], "next": None})
    fake.say("PUT", "/firmware/demo.whl", {"sha256": "00" * 32})

    ran = fleet("firmware", "put", str(tmp_path / "demo.whl"))

    assert (ran.code, ran.out) == (1, "")
    assert "put it again" in ran.err


def test_a_file_that_is_not_there_is_wrong_use(fleet, tmp_path):
    ran = fleet("firmware", "put", str(tmp_path / "none.whl"))

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"fleet firmware: cannot read {tmp_path}/none.whl: ")


def in_store(fake, content: bytes, name: str = "demo.whl") -> str:
    sha256 = hashlib.sha256(content).hexdigest()
    other = {**ARTIFACT, "name": "another"}
    listed = {**ARTIFACT, "name": name, "size": len(content), "sha256": sha256}
    fake.say("GET", "/firmware", {"firmware": [other], "next": "x"}, {"firmware": [listed], "next": None})
    fake.say("GET", f"/firmware/{sha256}", Response(codes.CONTENT, content, contentformats.OCTET_STREAM))
    return sha256


def test_an_artifact_is_fetched_by_its_hash_and_checked(fake, fleet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = bytes(range(256)) * 12
    sha256 = in_store(fake, content)

    ran = fleet("firmware", "get", "demo.whl")

    assert ran == (0, f"demo.whl  3.0 KiB  sha256 {sha256}\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["demo.whl"]
    assert (tmp_path / "demo.whl").read_bytes() == content


@pytest.mark.parametrize("output", ["other.whl", "."])
def test_an_artifact_is_written_where_it_is_wanted(fake, fleet, tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    sha256 = in_store(fake, b"content")

    assert fleet("firmware", "get", sha256, "-o", output).code == 0

    assert [path.name for path in tmp_path.iterdir()] == ["demo.whl" if output == "." else output]


def test_an_artifact_that_is_not_what_the_store_lists_is_not_kept(fake, fleet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo.whl").write_bytes(b"the one before")
    sha256 = in_store(fake, b"content")
    fake.say("GET", f"/firmware/{sha256}", Response(codes.CONTENT, b"forgery", contentformats.OCTET_STREAM))

    ran = fleet("firmware", "get", "demo.whl")

    assert ran.code == 1
    assert "nothing was kept" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["demo.whl"]
    assert (tmp_path / "demo.whl").read_bytes() == b"the one before"


def test_an_artifact_that_was_broken_off_goes_on_where_it_stood(fake, fleet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = bytes(range(256)) * 400
    sha256 = in_store(fake, content)
    fake.say("GET", f"/firmware/{sha256}", Response(codes.CONTENT, content, contentformats.OCTET_STREAM, etag=b"etag"))
    state = TransferState(f"{fake.uri}/firmware/{sha256}", b"etag", 40 * 1024)
    (tmp_path / "demo.whl.unchecked.part").write_bytes(content[: 40 * 1024])
    (tmp_path / "demo.whl.unchecked.part.state").write_text(json.dumps(state.as_dict()))

    ran = fleet("firmware", "get", "demo.whl")

    assert ran == (0, f"demo.whl  100.0 KiB  sha256 {sha256}\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["demo.whl"]
    assert (tmp_path / "demo.whl").read_bytes() == content
    first = next(asked for asked in fake.asked if asked.path.endswith(sha256))
    assert decode_block(first.request.options.uint(BLOCK2)).number == 39


@pytest.mark.parametrize(("left", "fetches"), [(b"content", 0), (b"damaged", 1), (b"con", 1)])
def test_what_was_left_whole_is_checked_and_not_fetched_again(fake, fleet, tmp_path, monkeypatch, left, fetches):
    monkeypatch.chdir(tmp_path)
    sha256 = in_store(fake, b"content")
    (tmp_path / "demo.whl.unchecked").write_bytes(left)

    assert fleet("firmware", "get", "demo.whl").code == 0

    assert [path.name for path in tmp_path.iterdir()] == ["demo.whl"]
    assert (tmp_path / "demo.whl").read_bytes() == b"content"
    assert sum(asked.path.endswith(sha256) for asked in fake.asked) == fetches


class Watched:
    """A body that counts what is read of it, and calls `at_half` once half of it was."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.etag = b"etag"
        self.size = len(content)
        self.taken = 0
        self.at_half = lambda: None

    def read_at(self, offset: int, length: int) -> bytes:
        self.taken += length
        if offset >= self.size // 2:
            self.at_half()
        return self.content[offset : offset + length]


def test_a_fetch_that_was_killed_goes_on_and_fetches_little_twice(fake, fleet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = bytes(range(256)) * 4 * 5000
    sha256 = in_store(fake, content)
    body = Watched(content)
    fake.say("GET", f"/firmware/{sha256}", Response(codes.CONTENT, body, contentformats.OCTET_STREAM, etag=b"etag"))
    command = [sys.executable, "-m", "fleet.cli.main", "firmware", "get", "demo.whl"]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    body.at_half = process.kill

    assert process.wait(60) == -signal.SIGKILL
    assert not (tmp_path / "demo.whl").exists()
    body.at_half = lambda: None
    assert fleet("firmware", "get", "demo.whl") == (0, f"demo.whl  4.9 MiB  sha256 {sha256}\n", "")

    assert (tmp_path / "demo.whl").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["demo.whl"]
    twice = body.taken - len(content)
    print(f"{twice} bytes were fetched twice")
    assert 0 <= twice < SYNC_STEP + 128 * 1024  # since the last sync, and what was under way


def test_an_artifact_that_is_not_there_is_a_refusal(fake, fleet):
    fake.say("GET", "/firmware", {"firmware": [], "next": None})

    ran = fleet("firmware", "get", "demo.whl")

    assert (ran.code, ran.err[:42]) == (1, "fleet firmware: there is no artifact 'demo")


def test_a_place_that_cannot_be_written_is_wrong_use(fake, fleet):
    in_store(fake, b"content")

    ran = fleet("firmware", "get", "demo.whl", "-o", "/dev/null/x")

    assert ran.code == 2
    assert "Not a directory" in ran.err


def test_the_store_is_a_table(fake, fleet):
    fake.say("GET", "/firmware", {"firmware": [{**ARTIFACT, "size": 4096}], "next": None})

    header, row = fleet("firmware").out.splitlines()

    assert header.split() == ["NAME", "SIZE", "SHA-256", "CREATED"]
    assert row.split()[:4] == ["demo.whl", "4.0", "KiB", "ab" * 32]


def test_artifacts_are_deleted(fake, fleet):
    fake.say("DELETE", "/firmware/a", {"name": "a", "status": "deleted"})

    assert fleet("firmware", "delete", "a") == (0, "", "")


# updates

CREATED = {"job_id": "abc123", "status": "created"}


def test_a_job_is_created_from_flags_and_its_id_printed(fake, fleet):
    fake.say("POST", "/updates", CREATED)

    ran = fleet(
        "updates", "create", "--name", "demo", "--version", "1.1", "--type", "pip", "--target", "a", "--target", "b",
        "--package", "demo==1.1", "--package", "other>=2", "--artifact", "demo.whl",
    )  # fmt: skip

    assert ran == (0, "abc123\n", "")
    assert fake.last.body.pop("request_id")
    assert fake.last.body == {
        "name": "demo", "version": "1.1", "package_type": "pip", "target_nodes": ["a", "b"],
        "packages": ["demo==1.1", "other>=2"], "artifacts": ["demo.whl"],
    }  # fmt: skip


def test_flags_replace_fields_of_a_job_in_a_file(fake, fleet, tmp_path):
    job = {"name": "demo", "version": "1.0", "package_type": "pip", "target_nodes": ["all"], "policy": {"of": "later"}}
    (tmp_path / "job.json").write_text(json.dumps(job))
    fake.say("POST", "/updates", CREATED)

    assert fleet("updates", "create", "--file", str(tmp_path / "job.json"), "--version", "1.1").code == 0

    assert fake.last.body.pop("request_id")
    assert fake.last.body == {**job, "version": "1.1"}


def test_a_job_can_come_from_standard_input(fake, fleet, monkeypatch):
    job = {"name": "demo", "version": "1.0", "package_type": "pip", "target_nodes": ["all"], "request_id": "mine"}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(job)))
    fake.say("POST", "/updates", CREATED)

    assert fleet("updates", "create", "--file", "-").code == 0
    assert fake.last.body == job


@pytest.mark.parametrize(("as_json", "out"), [((), "abc123\n"), (("--json",), '{"job_id": "abc123", "status": "x"}\n')])
def test_a_job_can_be_begun_as_it_is_created(fake, fleet, as_json, out):
    fake.say("POST", "/updates", CREATED, {"job_id": "abc123", "status": "x"})
    job = ("--name", "demo", "--version", "1.1", "--type", "pip", "--target", "all")

    assert fleet("updates", "create", *job, "--install", *as_json) == (0, out, "")
    first, second = (asked.body for asked in fake.asked)
    assert (second["action"], second["job_id"]) == ("install", "abc123")
    assert first["request_id"] != second["request_id"]


@pytest.mark.parametrize(
    ("text", "artifact"),
    [
        ("demo.whl", "demo.whl"),
        ("app.conf=etc/app.conf", {"name": "app.conf", "path": "etc/app.conf"}),
        ("app.conf=etc/app.conf:0640", {"name": "app.conf", "path": "etc/app.conf", "mode": "0640"}),
        ("a:1=b=c", {"name": "a:1", "path": "b=c"}),
    ],
)
def test_an_artifact_may_have_a_place_and_a_mode(fake, fleet, text, artifact):
    fake.say("POST", "/updates", CREATED)

    fleet("updates", "create", "--name", "x", "--version", "1", "--type", "file", "--target", "all", "--artifact", text)

    assert fake.last.body["artifacts"] == [artifact]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "--name and --version and --type and --target must be given, or a job with --file"),
        (("--name", "x", "--version", "1", "--type", "pip"), "--target must be given"),
        (("--artifact", "a=b:rw"), "--artifact 'a=b:rw': write NAME, NAME=PATH or NAME=PATH:MODE"),
        (("--artifact", "=b"), "--artifact '=b': write NAME"),
        (("--file", "/-/none"), "--file /-/none: it cannot be read: No such file or directory"),
        (("--file", "BAD"), "--file BAD: it is no JSON: Expecting"),
        (("--file", "LIST"), '--file LIST: a job is an object, {"name": …}'),
        (("--file", "ACTION"), "--file ACTION: it holds an action and not a job"),
    ],
)
def test_a_job_that_cannot_be_sent_is_wrong_use(fake, fleet, tmp_path, arguments, complaint, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in (("BAD", "{"), ("LIST", "[]"), ("ACTION", '{"action": "install"}')):
        (tmp_path / name).write_text(content)

    ran = fleet("updates", "create", *arguments)

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"fleet updates: {complaint}")
    assert fake.asked == []


@pytest.mark.parametrize("action", ["install", "cancel", "pause", "resume", "retry", "delete"])
def test_jobs_are_steered(fake, fleet, action):
    fake.say("POST", "/updates", {"job_id": "a", "status": "one"}, {"job_id": "b", "status": "two"})

    assert fleet("updates", action, "a", "b") == (0, "a  one\nb  two\n", "")
    assert [(asked.body["action"], asked.body["job_id"]) for asked in fake.asked] == [(action, "a"), (action, "b")]


def test_jobs_are_a_table(fake, fleet):
    fake.say("GET", "/updates", {"updates": [JOB], "next": "x"}, {"updates": [{**JOB, "job_id": "def"}], "next": None})

    header, first, second = fleet("updates").out.splitlines()

    assert header.split() == ["JOB", "NAME", "VERSION", "TYPE", "STATUS", "NODES", "CREATED"]
    assert first.split()[:7] == ["abc123", "demo", "1.1", "pip", "running", "1", "pending"]
    assert second.split()[0] == "def"


def test_a_jobs_status_shows_each_node_and_what_it_printed(fake, fleet):
    failed = {"state": "failed", "attempt": 2, "reason": "install_failed", "output": "ERROR: no\x1b[2J\nsecond line\n"}
    waiting = {"state": "waiting", "waiting_for": "a trusted clock"}
    loading = {"state": "downloading", "bytes_done": 512, "bytes_total": 1024}
    first = {**status("running", a=failed), "counts": {"failed": 1, "waiting": 1, "downloading": 1}, "next": "x"}
    fake.say("GET", "/updates/abc123/status", first, status("running", b=waiting, c=loading))

    lines = fleet("updates", "status", "abc123").out.splitlines()

    assert lines[:2] == ["demo 1.1 (pip)  running", "nodes: 1 failed, 1 waiting, 1 downloading"]
    assert lines[3].split() == ["NODE", "STATE", "ATTEMPT", "DOWNLOADED", "REASON", "SINCE"]
    rows = [line.split() for line in lines[4:7]]
    assert [row[:3] for row in rows] == [["a", "failed", "2"], ["b", "waiting", "1"], ["c", "downloading", "1"]]
    assert "install_failed" in lines[4]
    assert "waits for a trusted clock" in lines[5]
    assert "50 % of 1.0 KiB" in lines[6]
    assert lines[7:] == ["", "a:", "  ERROR: no\\x1b[2J", "  second line"]


class Told:
    """A fleet whose server tells of these states, one after the other."""

    def __init__(self, *documents: dict, pages: tuple[dict, ...] = ()) -> None:
        self._states = documents
        self._pages = pages
        self.is_closed = False

    async def watch_status(self, job_id):
        try:
            for document_ in self._states:
                yield answer_of(document_, StatusAnswer)
        finally:
            self.is_closed = True

    async def watch_health(self, node_id):
        for document_ in self._states:
            yield answer_of(document_, NodeHealthAnswer)

    async def status(self, job_id):
        for page in self._pages:
            yield answer_of(page, StatusAnswer)


def answer_of(body: dict, kind: type) -> Answer:
    payload = json.dumps(body).encode()
    return Answer(decode(payload, JSON_FORMAT, kind), payload)


@pytest.mark.parametrize(("end", "code"), [("succeeded", 0), ("failed", 1), ("cancelled", 1)])
def test_watch_prints_changes_until_the_end_and_its_exit_code_says_how_it_ended(capsys, end, code):
    loading = {"state": "downloading", "bytes_done": 256, "bytes_total": 1024}
    further = {**loading, "bytes_done": 512}
    fleet = Told(
        status("running", a={}, b={}),
        status("running", a=loading, b={}),
        status("running", a=further, b={}),
        status(end, a={"state": "succeeded"}, b={"state": "failed", "attempt": 2, "reason": "no_space"}),
        status("never seen"),
    )

    assert asyncio.run(watch.watch(fleet, "abc123")) == code

    assert [line.split("  ", 1)[1] for line in capsys.readouterr().out.splitlines()] == [
        "a  pending",
        "b  pending",
        "job running: 2 pending",
        "a  downloading  25 % of 1.0 KiB",
        "a  succeeded",
        "b  failed  attempt 2  no_space",
        f"job {end}: 1 succeeded, 1 failed",
    ]
    assert fleet.is_closed


def test_watch_prints_documents_that_differ(capsys):
    first, last = status("running", a={}), status("succeeded", a={"state": "succeeded"})

    assert asyncio.run(watch.watch(Told(first, first, last), "abc123", as_json=True)) == 0

    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [first, last]


def test_watch_fetches_the_nodes_that_a_notification_has_no_room_for(capsys):
    done = {"state": "succeeded"}
    pages = ({**status("succeeded", a=done), "next": "x"}, status("succeeded", b=done))

    assert asyncio.run(watch.watch(Told(pages[0], pages=pages), "abc123")) == 0

    lines = [line.split("  ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert lines[:2] == ["a  succeeded", "b  succeeded"]


def test_watch_is_told_by_the_server(fake, fleet):
    fake.say("GET", "/updates/abc123/status", status("running", a={}), status("succeeded", a={"state": "succeeded"}))

    ran = fleet("updates", "watch", "abc123")

    assert ran.code == 0
    assert "job succeeded: 1 succeeded" in ran.out
    assert {asked.method for asked in fake.asked} == {"GET"}


def test_a_watched_node_is_told_of_by_the_server_report_by_report(capsys):
    messages = ["Service ssh is not running"]
    report = {"node_id": "n1", "cpu_percent": 3.4, "temperature": None, "error_messages": messages}
    first = {"node_id": "n1", "status": "online", "received_at": None, "health": None}
    second = {"node_id": "n1", "status": "unhealthy", "received_at": "2026-01-01T00:00:00Z", "health": report}

    assert asyncio.run(watch.watch_node(Told(first, second, second), "n1")) == 0

    assert [line.split("  ", 1)[1] for line in capsys.readouterr().out.splitlines()] == [
        "n1  online",
        "n1  unhealthy  CPU 3 %  Service ssh is not running",
    ]


def test_watch_of_an_unknown_job_is_a_refusal(fake, fleet):
    fake.say("GET", "/updates/j/status", document({"error": "there is no job 'j'"}, codes.NOT_FOUND))

    assert fleet("updates", "watch", "j") == (1, "", "fleet updates: there is no job 'j'\n")
