"""The audit trail of every store: rows with their commands, bounded, filtered, paged."""

from __future__ import annotations

from typing import Any

import pytest

from fleet.model.audit import NODES, OPERATORS, REFUSALS, AuditEntry, Origin
from fleet.server.commands import CancelJob, InstallJob, RecordAudit, RemoveNode
from fleet.server.queries import AuditDroppedQuery, AuditQuery
from fleet.server.store import interface
from tests.store.stores import an_artifact, creating, putting, registering

ALICE = Origin("operator alice", "192.0.2.5", 40000, "POST", "/updates")
BOB = Origin("operator bob", "192.0.2.6", 40001, "POST", "/updates")


def told(driver: Any, **filters: Any) -> list:
    return [
        (i.entry.origin.who, i.entry.what, i.entry.subject, i.entry.result) for i in driver.all(AuditQuery, **filters)
    ]


def entry(at: int, pool: str = REFUSALS, subject: str = "", count: int = 1) -> AuditEntry:
    return AuditEntry(at, pool, BOB, "access", subject, "4.03", count)


def test_a_command_leaves_a_row_that_says_what_became_of_it(disk):
    driver = disk.open()
    driver.ok(creating("j1", at=10, origin=ALICE))
    driver.apply(InstallJob(11, "gone", origin=BOB))
    driver.ok(putting(an_artifact("a.whl"), origin=ALICE))
    driver = disk.open()

    assert told(driver) == [
        ("operator alice", "firmware.put", "a.whl", "ok"),
        ("operator bob", "job.install", "gone", "not_found"),
        ("operator alice", "job.create", "j1", "ok"),
    ]
    row = driver.ask(AuditQuery()).items[-1].entry
    assert row == AuditEntry(10, OPERATORS, ALICE, "job.create", "j1", "ok")


def test_a_repeat_leaves_no_second_row_and_a_command_of_nobody_none(disk):
    driver = disk.open()
    driver.ok(creating("j1", request_id="r", origin=ALICE))
    driver.ok(creating("j2", request_id="r", origin=ALICE))
    driver.apply(CancelJob(12, "j1", "r", BOB))
    driver.ok(creating("j3"))

    assert [row[1:] for row in told(driver)] == [("job.cancel", "j1", "invalid"), ("job.create", "j1", "ok")]


def test_a_node_is_told_when_it_is_taken_in_and_removed_not_when_it_registers_again(disk):
    driver = disk.open()
    for at in (1, 2):
        driver.ok(registering("n1", at, origin=ALICE))
    driver.ok(RemoveNode(3, "n1", origin=ALICE))

    assert [row[1:] for row in told(driver)] == [("node.remove", "n1", "ok"), ("node.register", "n1", "ok")]
    assert driver.ask(AuditQuery()).items[-1].entry.pool == NODES


@pytest.mark.parametrize(
    ("filters", "subjects"),
    [
        ({"who": "operator alice"}, ["c", "a"]),
        ({"who": "alice"}, ["c", "a"]),
        ({"who": "ali"}, []),
        ({"who": "%"}, []),
        ({"what": "job"}, ["b", "a"]),
        ({"what": "job.create"}, ["a"]),
        ({"what": "jo"}, []),
        ({"what": "%"}, []),
        ({"result": "ok"}, ["c", "a"]),
        ({"since": 20}, ["c", "b"]),
        ({"who": "alice", "what": "job", "result": "ok", "since": 10}, ["a"]),
    ],
)
def test_rows_are_found_by_who_what_result_and_time(disk, filters, subjects):
    driver = disk.open()
    rows = [
        AuditEntry(10, OPERATORS, ALICE, "job.create", "a", "ok"),
        AuditEntry(20, OPERATORS, BOB, "job.cancel", "b", "illegal"),
        AuditEntry(30, OPERATORS, ALICE, "system.restart", "c", "ok"),
    ]
    driver.ok(RecordAudit(30, tuple(rows)))

    assert [row[2] for row in told(driver, **filters)] == subjects


def test_pages_follow_on_and_a_foreign_cursor_is_refused(disk):
    driver = disk.open()
    driver.ok(RecordAudit(1, tuple(entry(1, subject=str(number)) for number in range(7))))

    assert [item.entry.subject for item in driver.all(AuditQuery, limit=3)] == list("6543210")
    assert driver.ask(AuditQuery("x")).status == "invalid"


def test_a_flood_of_refusals_pushes_out_its_like_alone_and_how_many_is_told(disk, monkeypatch):
    for name in interface.AUDIT_LIMITS:
        monkeypatch.setitem(interface.AUDIT_LIMITS, name, 50)
    driver = disk.open()
    driver.ok(creating("j1", origin=ALICE))
    for number in range(40):
        driver.ok(RecordAudit(20, tuple(entry(20, subject=f"{number} {i}") for i in range(10))))

    rows = driver.all(AuditQuery)
    assert len(rows) == 51
    assert rows[0].entry.subject == "39 9"
    assert rows[-1].entry.what == "job.create"
    assert driver.ask(AuditDroppedQuery()).items == ((REFUSALS, 350),)


def test_rows_of_more_than_a_year_go_with_the_next_one(disk):
    driver = disk.open()
    driver.ok(RecordAudit(1, (entry(1, OPERATORS), entry(1), entry(2))))
    driver.ok(RecordAudit(2 + interface.AUDIT_KEPT_MS, (entry(2 + interface.AUDIT_KEPT_MS, NODES),)))

    assert [item.entry.at for item in driver.all(AuditQuery)] == [2 + interface.AUDIT_KEPT_MS, 2]
    assert driver.ask(AuditDroppedQuery()).items == ((OPERATORS, 1), (REFUSALS, 1))
