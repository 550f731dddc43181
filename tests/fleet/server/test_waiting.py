"""Which jobs wait for which node, as the feed of changes tells it."""

from __future__ import annotations

import pytest

from fleet.model import executions, jobs
from fleet.server.changes import DELETED, EXECUTION, JOB, NODE, REMOVED, Change
from fleet.server.queries import WaitingItem
from fleet.server.waiting import Waiting


def job(state, job_id="j1"):
    return Change(0, 0, JOB, state, job_id=job_id)


def execution(state, node_id="n1", job_id="j1"):
    return Change(0, 0, EXECUTION, state, job_id=job_id, node_id=node_id)


def following(*changes):
    waiting = Waiting()
    for change in changes:
        waiting.follow(change)
    return waiting


CASES = {
    "nothing": ((), False),
    "prepared": ((job(jobs.PREPARING), execution("pending")), False),
    "running": ((job(jobs.PREPARING), execution("pending"), job(jobs.RUNNING)), True),
    "notified": ((job(jobs.RUNNING), execution("notified")), True),
    "under way": ((job(jobs.RUNNING), execution("installing")), True),
    "paused": ((job(jobs.RUNNING), execution("pending"), job(jobs.PAUSED)), False),
    "paused in the middle": ((job(jobs.RUNNING), execution("downloading"), job(jobs.PAUSED)), True),
    "being cancelled, not begun": ((job(jobs.RUNNING), execution("pending"), job(jobs.CANCELLING)), False),
    "to be cancelled": ((job(jobs.RUNNING), execution("cancelling"), job(jobs.CANCELLING)), True),
    "an unknown job": ((execution("pending"),), False),
    "removed": ((job(jobs.RUNNING), execution("pending"), Change(0, 0, NODE, REMOVED, node_id="n1")), False),
    "deleted": ((job(jobs.RUNNING), execution("pending"), execution(DELETED), job(DELETED)), False),
}


@pytest.mark.parametrize("case", CASES)
def test_a_job_waits_while_the_node_has_to_act(case):
    changes, waits = CASES[case]

    assert following(*changes).jobs_for("n1") == (("j1",) if waits else ())


@pytest.mark.parametrize("end", sorted(executions.ENDS))
def test_nothing_is_kept_of_an_execution_at_its_end(end):
    waiting = following(job(jobs.RUNNING), execution("installing"), execution(end))

    assert (len(waiting), waiting.jobs_for("n1")) == (0, ())


@pytest.mark.parametrize("end", sorted(jobs.JOB_ENDS))
def test_nothing_is_kept_of_a_job_at_its_end(end):
    waiting = following(job(jobs.RUNNING), execution("pending"), execution("succeeded"), job(end))

    assert (waiting._by_node, waiting._jobs) == ({}, {})


def test_a_retry_waits_again():
    changes = job(jobs.RUNNING), execution("failed"), job(jobs.FAILED), job(jobs.RUNNING), execution("pending")

    assert following(*changes).jobs_for("n1") == ("j1",)


def test_several_jobs_wait_in_the_order_in_which_they_came():
    waiting = following(*[job(jobs.RUNNING, f"j{n}") for n in (2, 1)])
    for job_id in ("j2", "j1"):
        waiting.follow(execution("pending", job_id=job_id))

    assert waiting.jobs_for("n1") == ("j2", "j1")
    assert len(waiting) == 2


def test_what_the_store_says_is_the_same_as_what_the_feed_told():
    told = following(job(jobs.RUNNING), execution("pending"))
    restored = Waiting()
    restored.add(WaitingItem("n1", "j1", jobs.RUNNING, "pending"))

    assert (restored._by_node, restored._jobs) == (told._by_node, told._jobs)
