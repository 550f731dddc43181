"""The agent as a machine: which job it takes, in which order things happen, and what a life leaves to the next."""

from __future__ import annotations

import json

import pytest

from fleet.agent.agent import STORAGE_RETRY
from fleet.agent.download import BLOCK
from fleet.agent.journal import Journal
from fleet.install.interface import NEW, OLD, Answer
from minicoap.codec import codes
from minicoap.core.request import Response
from tests.fleet.agent.noding import Node, a_job, told

CONTENT = bytes(range(256)) * 80  # twenty blocks
ALL_WELL = {
    verb: Answer(ok=True)
    for verb in ("requirements", "verify_hashes", "install", "verify", "commit", "roll_back", "clean_up")
}
WAY_OF_A_JOB = ["waiting", "downloading", "downloaded", "verifying", "installing", "testing", "committing", "succeeded"]
VERBS_OF_A_JOB = ["requirements", "requirements", "verify_hashes", "install", "verify", "commit", "clean_up"]


@pytest.fixture
def node():
    node = Node()
    node.server.say("GET", "/updates/j1", a_job(node.server.has(CONTENT)))
    node.server.waits("j1")
    return node


def boot(node, **answers):
    node.boot({**ALL_WELL, **answers})


def journal(node):
    return Journal(node.files, "data/journal").open()


def ended(node, times=1):
    """Whether the job is over on the node, and nothing of it is left."""
    is_over = len(node.processes.verbs) and node.agent.machine.job is None
    return is_over and sum(verb == "clean_up" for verb in node.processes.verbs) >= times


def finish(node):
    """Let the job end, and the server not name it any more."""
    node.until(lambda: ended(node))
    node.server.waits()
    assert journal(node) == []
    assert node.files.names("data/downloads") == []


def test_a_job_goes_its_way_and_each_step_is_reported(node):
    boot(node)
    finish(node)

    assert node.server.states() == WAY_OF_A_JOB
    assert node.processes.verbs == VERBS_OF_A_JOB
    sequences = [report["sequence"] for report in node.server.reports()]
    assert sequences == sorted(set(sequences))
    assert {report["attempt"] for report in node.server.reports()} == {1}
    assert node.server.reports()[-1]["bytes_done"] == len(CONTENT)
    assert node.server.reports()[-1]["bytes_total"] == len(CONTENT)


def test_the_installer_is_told_where_everything_is(node):
    boot(node)
    finish(node)

    (reference,) = a_job(node.server.has(CONTENT))["artifacts"]
    for child in node.processes.children:
        step = child.call.step
        assert (step.job_id, step.attempt, step.package_type, step.name, step.version) == ("j1", 1, "pip", "app", "1.0")
        assert (step.work_directory, step.python, step.file_root) == ("data/work/j1", "/env/bin/python", "data/files")
        (artifact,) = step.artifacts
        assert artifact.file == f"data/downloads/{reference['sha256']}"


def test_the_bytes_are_complete_before_they_are_checked(node):
    boot(node)
    node.until(lambda: "verify_hashes" in node.processes.verbs)

    (artifact,) = node.processes.children[-1].call.step.artifacts
    assert node.files.read(artifact.file) == CONTENT


@pytest.mark.parametrize(
    ("verb", "last", "verbs"),
    [
        ("requirements", ["rejected"], ["requirements", "clean_up"]),
        ("verify_hashes", ["verifying", "failed"], [*VERBS_OF_A_JOB[:3], "clean_up"]),
        ("install", ["installing", "rolling_back", "rolled_back"], [*VERBS_OF_A_JOB[:4], "roll_back", "clean_up"]),
        ("verify", ["testing", "rolling_back", "rolled_back"], [*VERBS_OF_A_JOB[:5], "roll_back", "clean_up"]),
    ],
)
def test_a_step_that_fails_is_told_with_its_reason_and_undone(node, verb, last, verbs):
    boot(node, **{verb: Answer(ok=False, reason="because", output="it said so")})
    finish(node)

    assert node.server.states()[-len(last) :] == last
    assert node.processes.verbs == verbs
    final = node.server.reports()[-1]
    assert (final["reason"], final["output"]) == ("because", "it said so")


def test_a_download_that_is_refused_fails_the_job(node):
    node.server.contents.clear()
    boot(node)
    finish(node)

    assert node.server.states()[-2:] == ["downloading", "failed"]
    assert node.server.reports()[-1]["reason"] == "artifact_refused"
    assert "install" not in node.processes.verbs


def test_a_full_disk_fails_the_job_with_that_reason(node):
    node.files.is_full = lambda operation, path: path.endswith(".part")
    boot(node)
    finish(node)

    assert node.server.states()[-1] == "failed"
    assert node.server.reports()[-1]["reason"] == "no_space"


def test_a_full_journal_holds_everything_until_there_is_room(node):
    boot(node)
    node.until(lambda: "verify_hashes" in node.processes.verbs)
    node.files.is_full = lambda operation, path: "journal" in path
    done = len(node.processes.verbs)
    node.world.run_for(20 * STORAGE_RETRY)
    assert node.processes.verbs[done:] == [], "begun before it was written down"
    assert "installing" not in node.server.states(), "told before it was written down"

    node.files.is_full = lambda operation, path: False
    finish(node)

    assert node.server.states() == WAY_OF_A_JOB
    assert node.processes.verbs == VERBS_OF_A_JOB


def test_what_is_there_already_is_not_installed(node):
    boot(node, requirements=Answer(ok=True, already_installed=True))
    finish(node)

    assert node.server.states() == ["waiting", "already_installed"]
    assert node.processes.verbs == ["requirements", "clean_up"]
    assert not any(asked.path.startswith("/firmware") for asked in node.server.asked)


def test_a_job_without_artifacts_downloads_nothing(node):
    node.server.say("GET", "/updates/j1", a_job())
    boot(node)
    finish(node)

    assert node.server.states() == WAY_OF_A_JOB


def test_a_job_is_begun_once_however_often_the_node_hears_of_it(node):
    boot(node)
    for _ in range(5):
        node.agent._hinted("j1")
    node.host.wake()
    finish(node)

    assert node.processes.verbs == VERBS_OF_A_JOB


def test_jobs_are_done_one_after_the_other(node):
    node.server.say("GET", "/updates/j2", a_job(node.server.has(b"second", "b.whl"), job_id="j2"))
    node.server.waits("j1", "j2")
    boot(node)
    node.until(lambda: ended(node, 2))

    reports = [(report["job_id"], report["state"]) for report in node.server.reports()]
    first_of_second = next(index for index, report in enumerate(reports) if report[0] == "j2")
    assert reports[first_of_second - 1] == ("j1", "succeeded")
    assert node.world.now < 5, "the second waited for a report of health"
    assert node.processes.verbs == VERBS_OF_A_JOB * 2


@pytest.mark.parametrize("code", [codes.NOT_FOUND, codes.CONFLICT])
def test_a_job_that_does_not_wait_any_more_is_left_alone(node, code):
    node.server.say("GET", "/updates/j1", told({"error": "no"}, code))
    boot(node)
    node.world.run_for(200)

    assert node.processes.children == []
    assert node.server.reports() == []


def test_a_job_that_could_not_be_fetched_is_asked_for_after_the_next_report(node):
    sorry = Response(codes.SERVICE_UNAVAILABLE)
    node.server.say("GET", "/updates/j1", sorry, sorry, a_job(node.server.has(CONTENT)))
    boot(node)
    finish(node)

    times = [asked.at for asked in node.server.of("GET", "/updates/j1")[:3]]
    assert 50 < times[1] - times[0] < 61


BAD_JOBS = {
    "no JSON": Response(codes.CONTENT, b"\xff"),
    "no job": {"job_id": "j1"},
    "a job id upwards": a_job(job_id="../j1"),
    "an artifact upwards": a_job({"name": "../a", "size": 1, "sha256": "0" * 64}),
    "a destination upwards": a_job({"name": "a", "size": 1, "sha256": "0" * 64, "path": "../../etc/x"}),
    "a hash that is a path": a_job({"name": "a", "size": 1, "sha256": "../../etc/passwd"}),
    "less than nothing": a_job({"name": "a", "size": -1, "sha256": "0" * 64}),
}


@pytest.mark.parametrize("what", BAD_JOBS)
def test_a_job_that_cannot_be_meant_touches_nothing(node, what):
    node.server.say("GET", "/updates/j1", BAD_JOBS[what])
    boot(node)
    node.world.run_for(200)

    assert node.processes.children == []
    assert [name for name in node.files.content if not name.startswith("data/journal")] == []


def test_a_job_that_cannot_be_read_is_rejected_so_that_it_does_not_wait_for_ever(node):
    node.server.say("GET", "/updates/j1", BAD_JOBS["a destination upwards"])
    boot(node)
    node.until(lambda: bool(node.server.reports()) and node.server.reports()[-1]["state"] == "rejected")

    assert node.server.reports()[-1]["reason"] == "unsupported"


@pytest.mark.parametrize("state", ["waiting", "downloading", "verifying"])
def test_a_cancelled_job_stops_at_once_where_nothing_is_changed(node, state):
    verbs = {"waiting": "requirements", "verifying": "verify_hashes"}
    boot(node)
    if state in verbs:
        del node.processes.answers[verbs[state]]
        node.until(lambda: verbs[state] in node.processes.verbs)
    else:
        node.until(lambda: len(node.blocks_asked()) > 5)
    node.server.say("GET", "/updates/j1", a_job(node.server.has(CONTENT), state="cancelling"))
    node.agent._hinted("j1")
    node.host.wake()
    if state in verbs:
        child = node.processes.children[-1]
        node.until(lambda: child.was_killed)
        assert "roll_back" not in node.processes.verbs, "begun while the other child still ran"
        node.host.call_later(0, child.exit, -9)
    node.until(lambda: node.agent.machine.state == "cancelling")
    asked = len(node.blocks_asked())
    finish(node)

    assert len(node.blocks_asked()) == asked, "the download went on"
    assert node.server.states()[-2:] == ["cancelling", "cancelled"]
    assert "install" not in node.processes.verbs


def test_a_job_cancelled_while_it_installs_is_undone_when_that_has_ended(node):
    boot(node)
    del node.processes.answers["install"]
    node.until(lambda: "install" in node.processes.verbs)
    node.server.say("POST", "/updates", told({"job_id": "j1", "state": "cancelling"}, codes.CHANGED))
    node.server.say("GET", "/updates/j1", a_job(node.server.has(CONTENT), state="cancelling"))
    node.agent._hinted("j1")
    node.host.wake()
    node.world.run_for(100)
    child = node.processes.children[-1]
    assert not child.was_killed

    node.host.call_later(0, child.end, Answer(ok=True))
    finish(node)

    assert node.processes.verbs[-3:] == ["install", "roll_back", "clean_up"]
    assert node.server.states()[-1] == "cancelled"


def test_a_report_that_is_answered_with_cancelling_cancels(node):
    boot(node)
    answers = [told({"job_id": "j1", "state": "waiting"}), told({"job_id": "j1", "state": "cancelling"})]
    node.server.say("POST", "/updates", *answers)
    finish(node)

    assert node.server.states()[-1] == "cancelled"


def test_a_job_that_the_server_does_not_know_any_more_is_given_up(node):
    boot(node)
    node.until(lambda: len(node.blocks_asked()) > 5)
    gone = told({"error": "no such job"}, codes.NOT_FOUND)
    node.server.say("GET", "/updates/j1", gone)
    node.server.say("POST", "/updates", gone)
    node.server.waits()
    node.until(lambda: ended(node), timeout=300)

    assert "install" not in node.processes.verbs
    assert journal(node) == []


def test_a_job_that_the_server_does_not_list_any_more_is_asked_for_all_the_same(node):
    boot(node)
    del node.processes.answers["install"]
    node.until(lambda: "install" in node.processes.verbs)
    node.server.say("GET", "/updates/j1", told({"error": "timed out"}, codes.CONFLICT))
    node.server.waits()
    node.world.run_for(130)

    node.host.call_later(0, node.processes.children[-1].end, Answer(ok=True))
    finish(node)

    assert node.processes.verbs[-2:] == ["roll_back", "clean_up"]


def test_another_attempt_of_the_job_begins_when_this_one_is_given_up(node):
    boot(node)
    node.until(lambda: len(node.blocks_asked()) > 5)
    node.server.say("GET", "/updates/j1", a_job(node.server.has(CONTENT), attempt=2))
    node.agent._hinted("j1")
    node.host.wake()
    node.until(lambda: ended(node, 2))

    attempts = [report["attempt"] for report in node.server.reports()]
    assert attempts == sorted(attempts)
    assert [report["state"] for report in node.server.reports() if report["attempt"] == 2][-1] == "succeeded"


def test_the_last_report_is_sent_until_the_server_has_it_and_the_next_job_waits_for_that(node):
    boot(node)
    node.until(lambda: node.agent.machine.state == "committing")
    node.world.partition(node.host, node.server.host)
    node.world.run_for(2000)
    assert node.agent.machine.state == "succeeded"
    assert journal(node) != []

    node.world.heal()
    finish(node)
    assert node.server.states()[-1] == "succeeded"


def test_a_server_that_knows_of_later_reports_is_told_behind_them(node):
    """A node that lost its data begins anew: what it says must not look old."""
    node.server.say("GET", "/updates/j1", a_job(node.server.has(CONTENT), sequence=500_000))
    boot(node)
    finish(node)

    assert min(report["sequence"] for report in node.server.reports()) > 500_000


@pytest.mark.parametrize("blocks", [1, 7, 19])
def test_a_killed_agent_goes_on_at_the_block_where_it_stood(node, blocks):
    boot(node)
    node.until(lambda: len(node.blocks_asked()) == blocks)
    before = node.blocks_asked()
    (part,) = (content for name, content in node.files.content.items() if name.endswith(".part"))
    stored = len(part) // BLOCK

    boot(node)
    finish(node)

    again = node.blocks_asked()[len(before) :]
    assert min(again) == stored, "what was there already was asked for again"
    assert node.server.states()[-1] == "succeeded"


def test_after_a_power_cut_only_what_was_synced_is_believed(node):
    boot(node)
    node.until(lambda: len(node.blocks_asked()) == 7)

    node.boot_number += 1
    boot(node)
    finish(node)

    assert node.blocks_asked().count(0) == 2
    assert node.server.states()[-1] == "succeeded"


@pytest.mark.parametrize(
    ("condition", "verbs"),
    [(OLD, ["inspect", "install", "verify"]), (NEW, ["inspect", "verify"]), ("", ["inspect", "roll_back", "install"])],
)
def test_an_agent_that_died_while_it_installed_looks_before_it_acts(node, condition, verbs):
    boot(node)
    del node.processes.answers["install"]
    node.until(lambda: "install" in node.processes.verbs)

    boot(node, inspect=Answer(ok=True, condition=condition))
    finish(node)

    assert node.processes.verbs[: len(verbs)] == verbs
    assert node.server.states()[-1] == "succeeded"


def test_an_agent_that_died_before_its_last_report_was_taken_sends_it_and_does_nothing_else(node):
    boot(node)
    node.until(lambda: node.agent.machine.state == "committing")
    node.world.partition(node.host, node.server.host)
    node.world.run_for(100)
    node.world.heal()

    boot(node)
    finish(node)

    assert node.processes.verbs == ["clean_up"]
    assert node.server.states()[-1] == "succeeded"


def test_progress_is_told_now_and_then_and_not_with_every_block(node):
    content = bytes(8 * 1024 * 1024)
    node.server.say("GET", "/updates/j1", a_job(node.server.has(content)))
    boot(node)
    finish(node)

    progress = [report["bytes_done"] for report in node.server.reports() if report["state"] == "downloading"]
    assert 3 < len(progress) < 40
    assert progress == sorted(progress)
    assert progress[-1] == len(content)


def test_a_journal_that_is_full_of_something_else_ends_nothing():
    node = Node()
    node.files.content["data/journal"] = b"\x00" * 100
    node.boot()

    node.until(lambda: node.agent.membership.is_registered)


def test_a_job_in_the_journal_that_cannot_be_read_ends_as_unsupported(node):
    boot(node)
    node.until(lambda: len(node.blocks_asked()) > 3)
    data = node.files.content["data/journal"]
    assert b'"package_type":"pip"' in data or b'"package_type": "pip"' in data
    records = Journal(node.files, "data/journal").open()
    broken = json.loads(bytes(records[0].description))
    broken["artifacts"][0]["sha256"] = "../x"
    rewritten = type(records[0])(
        records[0].job_id, records[0].attempt, type(records[0].description)(json.dumps(broken).encode())
    )
    Journal(node.files, "data/journal").rewrite([rewritten, *records[1:]])

    boot(node)
    node.until(lambda: node.agent.machine.job is None)

    assert node.server.reports()[-1]["state"] == "failed"
    assert node.server.reports()[-1]["reason"] == "unsupported"
