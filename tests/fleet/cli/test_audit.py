"""`fleet audit` against a server that answers as it is told to."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest

from fleet.model.times import ms_from_iso
from minicoap.codec import codes
from minicoap.core.request import Response

ROW = {
    "at": "2026-09-17T10:00:00.000Z",
    "who": "operator alice",
    "host": "192.0.2.5",
    "port": 40000,
    "method": "POST",
    "path": "/updates",
    "what": "job.install",
    "subject": "j\x1b1",
    "result": "ok",
    "count": 1,
}
REFUSED = {
    **ROW,
    "who": "anonymous",
    "host": "2001:db8::1",
    "what": "access",
    "subject": "",
    "result": "4.01",
    "count": 9,
}


def test_rows_are_a_table_and_what_is_missing_is_said(fake, fleet):
    fake.say("GET", "/audit", {"entries": [ROW, REFUSED], "dropped": {"refusals": 7}, "next": "x"})

    ran = fleet("audit")

    header, first, second = ran.out.splitlines()
    assert header.split() == ["TIME", "WHO", "FROM", "WHAT", "SUBJECT", "RESULT", "COUNT"]
    assert first.endswith("operator alice  192.0.2.5:40000      job.install  j\\x1b1         ok          1")
    assert second.endswith("[2001:db8::1]:40000  access       POST /updates  4.01        9")
    assert ran.err == (
        "there is more than these 2; see --limit and --since\nthe oldest 7 rows of refusals are kept no more\n"
    )
    assert ran.code == 0
    assert fake.last.query == ("limit=50",)


def test_filters_go_to_the_server_and_json_is_its_answer(fake, fleet):
    fake.say("GET", "/audit", {"entries": [], "dropped": {}, "next": None})

    ran = fleet("audit", "--who", "alice", "--what", "job", "--result", "ok", "--limit", "5", "--json",
                "--since", "2026-09-17T10:00:00Z")  # fmt: skip

    assert json.loads(ran.out) == {"entries": [], "dropped": {}, "next": None}
    assert fake.last.query == ("who=alice", "what=job", "since=2026-09-17T10:00:00.000Z", "result=ok", "limit=5")
    assert fleet("audit").out == "nothing is known\n"


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("15m", 900), ("1h", 3600), ("7d", 604_800)])
def test_since_may_be_how_long_ago(fake, fleet, text, seconds):
    fake.say("GET", "/audit", {"entries": [], "dropped": {}, "next": None})

    fleet("audit", "--since", text)

    since = next(argument for argument in fake.last.query if argument.startswith("since="))[6:]
    ago = datetime.now(timezone.utc).timestamp() - ms_from_iso(since) / 1000
    assert seconds <= ago < seconds + 60


@pytest.mark.parametrize(
    "wrong", [("--since", "yesterday"), ("--since", "9" * 30 + "d"), ("--limit", "0"), ("--limit", "1001"), ("list",)]
)
def test_wrong_use_is_told(fleet, wrong, capsys):
    with pytest.raises(SystemExit) as exited:
        fleet("audit", *wrong)

    assert exited.value.code == 2


def test_a_refusal_is_exit_code_1(fake, fleet):
    fake.say("GET", "/audit", Response(codes.FORBIDDEN))

    assert fleet("audit").code == 1
