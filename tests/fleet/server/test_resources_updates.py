"""Jobs from creation to their end, as operators and nodes see them."""

from __future__ import annotations

import pytest

from fleet.model.artifacts import Artifact
from minicoap.codec import codes
from minicoap.codec.contentformats import CBOR, OCTET_STREAM
from minicoap.codec.options import LOCATION_PATH
from tests.fleet.install.wheels import build_wheel
from tests.fleet.server.serving import Client, Served, a_listener, document

GET, POST, PUT, DELETE = codes.GET, codes.POST, codes.PUT, codes.DELETE

FOUNDING_JOBS = (
    {"name": "update", "version": "1.0", "package_type": "pip", "target_nodes": ["all"]},
    {
        "name": "python-packages-update",
        "version": "2025.09.16",
        "package_type": "pip",
        "target_nodes": ["all"],
        "packages": ["aiocoap==0.4.7", "aiohttp==3.9.1"],
    },
)


@pytest.mark.parametrize("number", [None, CBOR], ids=["json", "cbor"])
@pytest.mark.parametrize("job", FOUNDING_JOBS, ids=["first", "second"])
def test_the_founding_documents_jobs_are_created_to_the_letter(served, job, number):
    arguments = {} if number is None else {"content_format": number}
    response = served.ask(POST, "/updates", job, **arguments)
    told = document(response)

    assert response.code == codes.CREATED
    assert (set(told), told["status"]) == ({"job_id", "status"}, "created")
    assert response.options.all(LOCATION_PATH) == (b"updates", told["job_id"].encode())
    detail = served.told(GET, f"/updates/{told['job_id']}")
    assert {name: detail[name] for name in ("name", "version", "package_type", "target_nodes")} == {
        name: job[name] for name in ("name", "version", "package_type", "target_nodes")
    }
    assert detail["packages"] == job.get("packages", ["update==1.0"])


def test_a_job_id_looks_like_the_founding_documents(served):
    served.register("n1")
    job_ids = [served.created() for _ in range(20)]

    assert len(set(job_ids)) == 20
    for job_id in job_ids:
        assert [len(part) for part in job_id.split("-")] == [8, 4, 4, 4, 12]


def test_the_way_of_a_job_is_seen_in_its_status(served):
    served.register("n1", "n2")
    job_id = served.created(**FOUNDING_JOBS[0])

    assert served.status(job_id)["status"] == "created"
    assert served.act("install", job_id) == {"job_id": job_id, "status": "preparing"}
    served.world.run_for(1)
    told = served.act("status", job_id)
    assert set(told) == {"job_id", "name", "version", "package_type", "status", "counts", "nodes", "next"}
    assert (told["status"], told["counts"], list(told["nodes"])) == ("running", {"pending": 2}, ["n1", "n2"])
    assert served.report(job_id, "n1", 1, "downloading", bytes_done=10, bytes_total=40).is_success
    execution = served.act("status", job_id)["nodes"]["n1"]
    assert set(execution) == {
        "state", "attempt", "bytes_done", "bytes_total", "reason", "waiting_for", "output", "updated_at",
    }  # fmt: skip
    assert (execution["state"], execution["bytes_done"], execution["bytes_total"]) == ("downloading", 10, 40)
    assert served.report(job_id, "n1", 2, "succeeded").is_success
    assert served.act("status", job_id)["counts"] == {"pending": 1, "succeeded": 1}
    assert served.report(job_id, "n2", 1, "already_installed").is_success
    assert served.act("status", job_id)["status"] == "succeeded"
    assert served.told(GET, "/updates")["updates"][0]["status"] == "succeeded"


def test_a_status_by_post_is_a_result_and_by_get_a_content(served):
    job_id = served.created()

    assert served.ask(POST, "/updates", {"action": "status", "job_id": job_id}).code == codes.CHANGED
    assert served.ask(GET, f"/updates/{job_id}/status").code == codes.CONTENT


def test_a_failure_is_told_with_its_reason_and_output(served):
    served.register("n1")
    job_id = served.running()
    said = {"reason": "version_not_found", "output": "No matching distribution\nfound for app==1.0"}

    assert served.report(job_id, "n1", 1, "failed", **said).is_success

    told = served.status(job_id)
    assert told["status"] == "failed"
    assert {name: told["nodes"]["n1"][name] for name in said} == said


def test_a_node_fetches_what_it_is_to_do(served, tmp_path):
    wheel = build_wheel(tmp_path, "app", "1.0", {"app.py": ""})
    stored = served.told(PUT, f"/firmware/{wheel.name}", wheel.read_bytes())
    served.register("n1")
    job_id = served.running()

    told = served.told(GET, f"/updates/{job_id}", query=["node=n1"])

    assert told == {
        "job_id": job_id, "attempt": 1, "name": "app", "version": "1.0", "package_type": "pip",
        "packages": ["app==1.0"], "state": "waiting", "sequence": 1,
        "artifacts": [
            {"name": wheel.name, "size": stored["size"], "sha256": stored["sha256"], "path": None, "mode": None}
        ],
    }  # fmt: skip


def test_a_file_job_carries_destinations_and_modes(served):
    stored = served.told(PUT, "/firmware/app.conf", b"x = 1\n")
    served.register("n1")
    wish = {"name": "app.conf", "path": "etc/app.conf", "mode": "0640"}
    job_id = served.running(package_type="file", artifacts=[wish])

    told = served.told(GET, f"/updates/{job_id}", query=["node=n1"])

    assert told["artifacts"] == [{**wish, "size": 6, "sha256": stored["sha256"]}]


def test_a_job_keeps_the_content_that_it_was_created_with(served):
    first = served.told(PUT, "/firmware/app.conf", b"first")
    served.register("n1")
    job_id = served.created(package_type="file", artifacts=["app.conf"])
    second = served.told(PUT, "/firmware/app.conf", b"second")

    assert served.told(GET, f"/updates/{job_id}")["artifacts"][0]["sha256"] == first["sha256"]
    assert served.ask(GET, f"/firmware/{first['sha256']}").body == b"first"
    served.act("cancel", job_id)
    served.world.run_for(1)
    assert served.ask(GET, f"/firmware/{first['sha256']}").code == codes.NOT_FOUND
    assert served.ask(GET, f"/firmware/{second['sha256']}").body == b"second"
    assert served.server.services.artifacts.used == 6


@pytest.mark.parametrize(
    ("actions", "reports", "code"),
    [
        ((), (), codes.NOT_FOUND),
        (("install",), (), codes.CONTENT),
        (("install", "pause"), (), codes.CONFLICT),
        (("install",), ("downloading",), codes.CONTENT),
        (("install",), ("succeeded",), codes.CONFLICT),
        (("install", "cancel"), (), codes.CONFLICT),
    ],
)
def test_a_job_is_handed_out_while_it_waits_for_the_node_only(served, actions, reports, code):
    served.register("n1", "n2")
    job_id = served.created()
    for action in actions:
        served.act(action, job_id)
        served.world.run_for(1)
    for sequence, state in enumerate(reports, 1):
        assert served.report(job_id, "n1", sequence, state).is_success

    assert served.ask(GET, f"/updates/{job_id}", query=["node=n1"]).code == code
    assert served.ask(GET, f"/updates/{job_id}", query=["node=n3"]).code == codes.NOT_FOUND


def test_what_its_node_has_fetched_is_cancelled_by_the_node_only(served):
    served.register("n1")
    served.register("n2")
    job_id = served.running()
    assert served.ask(GET, f"/updates/{job_id}", query=["node=n1"]).code == codes.CONTENT
    assert served.status(job_id)["counts"] == {"pending": 1, "waiting": 1}

    served.act("cancel", job_id)

    assert served.status(job_id)["counts"] == {"cancelled": 1, "cancelling": 1}
    assert document(served.report(job_id, "n1", 2, "succeeded"))["state"] == "succeeded"


def test_a_node_that_is_to_stop_is_told_when_it_fetches_and_when_it_reports(served):
    served.register("n1")
    job_id = served.running()
    assert served.report(job_id, "n1", 1, "downloading").is_success
    served.act("cancel", job_id)

    assert served.told(GET, f"/updates/{job_id}", query=["node=n1"])["state"] == "cancelling"
    assert document(served.report(job_id, "n1", 2, "downloaded"))["state"] == "cancelling"
    assert document(served.report(job_id, "n1", 3, "cancelled"))["state"] == "cancelled"
    assert served.status(job_id)["status"] == "cancelled"


def test_a_repeated_or_overtaken_report_changes_nothing(served):
    served.register("n1")
    job_id = served.running()
    assert served.report(job_id, "n1", 2, "verifying").is_success
    before = served.status(job_id)

    for sequence, state in ((2, "verifying"), (1, "downloading"), (2, "failed")):
        assert document(served.report(job_id, "n1", sequence, state)) == {"job_id": job_id, "state": "verifying"}

    assert served.status(job_id) == before


def test_a_report_of_another_attempt_is_refused(served):
    served.register("n1")
    job_id = served.running()
    assert served.report(job_id, "n1", 9, "failed").is_success
    served.act("retry", job_id)
    served.world.run_for(1)

    assert served.report(job_id, "n1", 10, "installing").code == codes.CONFLICT
    assert served.status(job_id)["nodes"]["n1"]["state"] == "pending"
    assert served.report(job_id, "n1", 1, "installing", attempt=2).is_success


def test_a_command_carried_out_once_gets_its_first_answer_ever_after(served):
    served.register("n1")
    create = {**FOUNDING_JOBS[0], "request_id": "create-1"}
    job_id = served.told(POST, "/updates", create)["job_id"]
    install = {"action": "install", "job_id": job_id, "request_id": "install-1"}
    first = served.told(POST, "/updates", install)
    served.world.run_for(1)

    for _ in range(2):
        assert served.told(POST, "/updates", create)["job_id"] == job_id
        assert served.told(POST, "/updates", install) == first
        assert served.ask(POST, "/updates", {**install, "request_id": "install-2"}).code == codes.CONFLICT
        served.boot()
    assert len(served.told(GET, "/updates")["updates"]) == 1
    assert served.status(job_id)["status"] == "running"


def test_a_repeat_gets_the_first_answer_when_what_it_was_created_from_is_gone(served):
    served.register("n1")
    served.ask(PUT, "/firmware/settings.txt", b"x", content_format=OCTET_STREAM)
    files = [{"name": "settings.txt", "path": "settings.txt"}]
    create = {
        "name": "settings", "version": "1", "package_type": "file", "artifacts": files, "target_nodes": ["n1"],
        "request_id": "create-1",
    }  # fmt: skip
    first = served.ask(POST, "/updates", create)
    assert first.code == codes.CREATED
    job_id = document(first)["job_id"]
    served.act("cancel", job_id)
    assert served.ask(DELETE, "/firmware/settings.txt").code == codes.DELETED

    for _ in range(2):
        again = served.ask(POST, "/updates", create)
        assert (again.code, document(again)) == (first.code, document(first))
        served.boot()

    assert served.ask(POST, "/updates", {**create, "request_id": "create-2"}).code == codes.NOT_FOUND
    other = served.ask(POST, "/updates", {**create, "name": "another"})
    assert (other.code, document(other)["field"]) == (codes.UNPROCESSABLE_ENTITY, "$.request_id")


def test_a_request_id_of_another_request_is_refused(served):
    served.register("n1")
    served.told(POST, "/updates", {**FOUNDING_JOBS[0], "request_id": "r"})

    response = served.ask(POST, "/updates", {"action": "install", "job_id": "x", "request_id": "r"})

    assert response.code == codes.UNPROCESSABLE_ENTITY
    assert document(response)["field"] == "$.request_id"


def test_jobs_are_listed_newest_first_and_in_pages(served):
    served.register("n1")
    job_ids = []
    for _ in range(5):
        job_ids.append(served.created())
        served.world.run_for(1)

    first = served.told(GET, "/updates", query=["limit=3"])
    rest = served.told(GET, "/updates", query=["limit=3", f"after={first['next']}"])

    assert [job["job_id"] for job in first["updates"] + rest["updates"]] == job_ids[::-1]
    assert rest["next"] is None


def test_a_status_comes_in_pages_too(served):
    served.register(*[f"n-{number:03}" for number in range(250)])
    job_id = served.running()

    seen, body = [], {"action": "status", "job_id": job_id}
    while True:
        told = served.told(POST, "/updates", body)
        assert told["counts"] == {"pending": 250}
        seen += told["nodes"]
        if told["next"] is None:
            break
        body = {**body, "after": told["next"], "limit": 75}

    assert seen == [f"n-{number:03}" for number in range(250)]
    assert len(served.told(GET, f"/updates/{job_id}/status", query=["limit=7"])["nodes"]) == 7


def test_nowhere_to_install_is_said_when_it_is_asked_for(served):
    job_id = served.created()

    response = served.ask(POST, "/updates", {"action": "install", "job_id": job_id})

    assert response.code == codes.CONFLICT
    assert "no node is registered" in document(response)["error"]


def test_a_job_is_deleted_with_its_executions(served):
    served.register("n1")
    job_id = served.running()
    assert served.report(job_id, "n1", 1, "succeeded").is_success

    assert served.act("delete", job_id) == {"job_id": job_id, "status": "deleted"}

    assert served.ask(GET, f"/updates/{job_id}").code == codes.NOT_FOUND
    assert served.told(GET, "/updates")["updates"] == []


def test_a_node_is_hinted_once_the_job_runs_and_counts_as_notified_when_it_heard(served):
    heard: list[bytes] = []
    node = Client(served, ("192.0.2.20", 5683), a_listener(heard))
    node.ask(POST, "/nodes", {"node_id": "n1"})
    node.ask(PUT, "/health", {"node_id": "n1"})

    job_id = served.running()
    served.world.run_for(1)

    assert heard == [b'{"job_id":"%s"}' % job_id.encode()]
    assert served.status(job_id)["nodes"]["n1"]["state"] == "notified"


def test_without_push_no_node_is_hinted(tmp_path):
    served = Served(push=False)
    heard: list[bytes] = []
    node = Client(served, ("192.0.2.20", 5683), a_listener(heard))
    node.ask(POST, "/nodes", {"node_id": "n1"})

    job_id = served.running()
    served.world.run_for(100)

    assert heard == []
    assert node.ask(PUT, "/health", {"node_id": "n1"}).body.count(job_id.encode()) == 1


@pytest.mark.parametrize("content", [b"", b"no zip file", b"PK\x03\x04" + bytes(50)])
def test_a_wheel_that_cannot_be_read_is_refused_when_the_job_is_created(served, content):
    served.told(PUT, "/firmware/app-1.0-py3-none-any.whl", content)
    wishes = {"$.packages": {"name": "app"}, "$.artifacts[0]": {"artifacts": ["app-1.0-py3-none-any.whl"]}}

    for field, fields in wishes.items():
        response = served.ask(POST, "/updates", {**FOUNDING_JOBS[0], **fields})
        assert response.code == codes.UNPROCESSABLE_ENTITY
        assert document(response)["field"] == field
        assert "upload it again" in document(response)["error"]
    assert served.told(GET, "/updates")["updates"] == []


def test_an_artifact_that_a_pip_job_cannot_take_is_refused(served):
    served.told(PUT, "/firmware/app.whl", b"x")

    response = served.ask(POST, "/updates", {**FOUNDING_JOBS[0], "artifacts": ["app.whl"]})

    assert response.code == codes.UNPROCESSABLE_ENTITY
    assert document(response)["field"] == "$.artifacts[0]"


def test_a_wheel_is_found_among_more_than_a_page_of_others(served, tmp_path):
    wheel = build_wheel(tmp_path, "zz-last", "1.0", {"zz.py": ""})
    served.told(PUT, f"/firmware/{wheel.name}", wheel.read_bytes())
    for number in range(1001):
        name = f"other-{number:04}"
        served.store.tables.artifacts[name] = Artifact(name, 1, "0" * 64, 1)

    job_id = served.created(name="zz-last", version="1.0")

    assert [item["name"] for item in served.told(GET, f"/updates/{job_id}")["artifacts"]] == [wheel.name]
