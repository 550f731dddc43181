"""`/audit`, and what requests leave in it."""

from __future__ import annotations

import pytest

from fleet.model.audit import OPERATORS, REFUSALS
from fleet.model.roles import Principal
from fleet.server.audit import FLUSH_INTERVAL, KEYS_LIMIT
from fleet.server.queries import AuditQuery
from minicoap.codec import codes
from minicoap.codec.contentformats import CBOR
from minicoap.core.identity import ANONYMOUS, Identity
from minicoap.core.request import SecurePath
from tests.fleet.server.serving import document, payload_of, segments

GET, POST, PUT, DELETE = codes.GET, codes.POST, codes.PUT, codes.DELETE
VIEWER = Identity("x509", "v", (Principal("viewer", "victor").uri,))
ALICE = Identity("x509", "a", (Principal("operator", "alice").uri,))


def ask(served, identity, code, path, body=None, host="192.0.2.77", port=4000):
    secure = SecurePath((host, port))
    secure.identity = identity
    return served.answer(secure, code, segments(path), (), payload_of(body, {}))


def entries(served, query=""):
    return served.told(GET, "/audit", query=(query,) if query else ())["entries"]


def passes(served, seconds):
    end = served.world.now + seconds
    done = []
    served.host.call_later(seconds, lambda: done.append(end))
    assert served.world.run_until(lambda: bool(done))


def test_what_an_operator_does_is_told_with_who_and_from_where(served):
    job = {"name": "app", "version": "1", "package_type": "pip", "target_nodes": ["all"]}
    job_id = document(ask(served, ALICE, POST, "/updates", job))["job_id"]
    ask(served, ALICE, POST, "/updates", {"action": "pause", "job_id": job_id})

    pause, create = entries(served)

    assert create["at"].startswith("2026-09-21T")
    del create["at"], pause["at"]
    origin = {"who": "operator alice", "host": "192.0.2.77", "port": 4000, "method": "POST", "path": "/updates"}
    assert create == {**origin, "what": "job.create", "subject": job_id, "result": "ok", "count": 1}
    assert pause == {**origin, "what": "job.pause", "subject": job_id, "result": "illegal", "count": 1}


def test_everything_that_an_operator_changes_leaves_a_row(served):
    served.register("n1", "n1")
    served.ask(PUT, "/firmware/a.bin", b"x")
    served.ask(DELETE, "/firmware/a.bin")
    served.ask(DELETE, "/nodes/n1")
    served.ask(POST, "/system", {"action": "restart"})
    served.ask(POST, "/system", {"action": "status"})
    served.ask(GET, "/nodes")

    rows = entries(served)

    assert [(row["what"], row["subject"]) for row in rows] == [
        ("system.restart", ""),
        ("node.remove", "n1"),
        ("firmware.delete", "a.bin"),
        ("firmware.put", "a.bin"),
        ("node.register", "n1"),
    ]
    assert {row["who"] for row in rows} == {"anonymous"}


def test_plain_coap_of_this_machine_is_told_apart(served):
    served.answer(("127.0.0.1", 7), DELETE, ("nodes", "n1"), (), {})

    assert [(row["who"], row["host"], row["port"], row["result"]) for row in entries(served)] == [
        ("loopback", "127.0.0.1", 7, "not_found")
    ]


def test_refusals_are_counted_and_written_once_a_minute(served):
    for port in range(5):
        ask(served, VIEWER, DELETE, f"/nodes/n{port}", port=4000 + port)
    ask(served, ANONYMOUS, GET, "/secret-token")
    ask(served, VIEWER, POST, "/updates", {"action": "install", "job_id": "j"})
    assert entries(served) == []

    passes(served, FLUSH_INTERVAL + 1)

    assert sorted((r["who"], r["method"], r["path"], r["result"], r["count"]) for r in entries(served)) == [
        ("anonymous", "GET", "", "4.01", 1),
        ("viewer victor", "DELETE", "/nodes/{id}", "4.03", 5),
        ("viewer victor", "POST", "/updates", "4.03", 1),
    ]


def test_a_flood_from_everywhere_costs_a_bounded_number_of_rows_and_is_counted_whole(served):
    ask(served, ALICE, DELETE, "/nodes/n1")
    for number in range(1000):
        ask(served, ANONYMOUS, GET, "/nodes", host=f"192.0.{number // 250}.{number % 250}")
    assert len(served.server.services.audit._refusals) == KEYS_LIMIT + 1

    served.server.stop()
    pages = []
    served.server.services.ledger.query(AuditQuery(limit=1000), pages.append)
    assert served.world.run_until(lambda: bool(pages))

    found = [item.entry for item in pages[0].items]
    assert len([entry for entry in found if entry.pool == REFUSALS]) == KEYS_LIMIT + 1
    assert sum(entry.count for entry in found if entry.pool == REFUSALS) == 1000
    assert [entry.what for entry in found if entry.pool == OPERATORS] == ["node.remove"]


def test_a_command_that_the_store_could_not_take_leaves_no_row_and_one_answered_has_its(served):
    job = {"name": "app", "version": "1.0", "package_type": "pip", "target_nodes": ["all"]}
    answers = []
    for writes in range(10):
        served.store.writes_left = writes
        answers.append(served.ask(POST, "/updates", job))
        served.store.writes_left = None
        if answers[-1].is_success:
            break
        assert answers[-1].code == codes.SERVICE_UNAVAILABLE
        assert entries(served) == []
    assert len(answers) > 3
    served.boot()

    assert [(row["what"], row["subject"]) for row in entries(served)] == [
        ("job.create", document(answers[-1])["job_id"])
    ]
    assert len(served.told(GET, "/updates")["updates"]) == 1


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("who=anonymous", codes.CONTENT),
        ("since=2026-01-01T00:00:00Z", codes.CONTENT),
        ("since=yesterday", codes.UNPROCESSABLE_ENTITY),
        ("limit=0", codes.UNPROCESSABLE_ENTITY),
        ("after=x", codes.UNPROCESSABLE_ENTITY),
        ("who=", codes.UNPROCESSABLE_ENTITY),
        ("whom=alice", codes.UNPROCESSABLE_ENTITY),
    ],
)
def test_what_is_asked_wrongly_is_refused(served, query, code):
    assert served.ask(GET, "/audit", query=(query,)).code == code


def test_it_is_told_in_cbor_too_and_in_pages(served):
    for number in range(3):
        served.ask(DELETE, f"/nodes/n{number}")

    first = served.ask(GET, "/audit", query=("limit=2",), accept=CBOR)
    rest = served.told(GET, "/audit", query=("limit=2", f"after={document(first)['next']}"))

    assert first.content_format == CBOR
    assert [row["subject"] for row in document(first)["entries"] + rest["entries"]] == ["n2", "n1", "n0"]
    assert rest["next"] is None
    assert rest["dropped"] == {}
