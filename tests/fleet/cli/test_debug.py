"""`--debug` of every command: each message on standard error, before and behind the action, and nothing secret."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from fleet.cli import main
from fleet.cli.configuration import debug_form, spelt_out
from fleet.cli.jsonlog import JsonFormatter
from tests.fleet.operator.samples import JOB, NODE


class Stopped(Exception):
    """A parser was about to parse."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and all below it."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from parsers(below)


@pytest.mark.parametrize(
    "group", [*main.GROUPS, "server install", "server uninstall", "agent install", "agent uninstall"]
)
def test_every_command_takes_it(group, monkeypatch):
    def stop(self: argparse.ArgumentParser, *arguments: Any) -> None:
        raise Stopped(self)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(Stopped) as stopped:
        main.main(group.split())

    lacking = [each.prog for each in parsers(stopped.value.parser) if "--debug" not in each._option_string_actions]
    assert lacking == []


PLACES = [
    ("--debug", "nodes", "list"),
    ("nodes", "--debug", "list"),
    ("nodes", "list", "--debug"),
    ("nodes", "--debug"),
]


@pytest.mark.parametrize("arguments", PLACES)
def test_it_may_stand_anywhere(fake, fleet, arguments):
    fake.say("GET", "/nodes", {"nodes": [NODE], "next": None})

    ran = fleet(*arguments)

    sent, received = ran.err.splitlines()
    assert ran.code == 0
    assert "  GET /nodes | Accept: application/json" in sent
    assert "  2.05 Content | Content-Format: application/json" in received
    assert ran.out == fleet("nodes").out


@pytest.mark.parametrize("arguments", [("--debug=json", "health"), ("health", "--debug=json")])
def test_json_is_for_programs(fake, fleet, arguments):
    fake.say("GET", "/health", {"status": "ok"})

    ran = fleet(*arguments, "--json")

    sent, received = map(json.loads, ran.err.splitlines())
    assert (sent["direction"], sent["message"]["target"]) == ("sent", "/health")
    assert (received["request"], received["message"]["code"]) == ("GET /health", "2.05")
    assert json.loads(ran.out) == {"status": "ok"}


def test_environment_and_configuration_file_know_it(fake, fleet, monkeypatch, tmp_path):
    pytest.importorskip("tomllib")
    fake.say("GET", "/health", {"status": "ok"})
    file = tmp_path / "fleet.toml"
    file.write_text("[operator]\ndebug = true\n")

    assert "GET /health" in fleet("health", "--config", str(file)).err
    monkeypatch.setenv("FLEET_DEBUG", "json")
    assert json.loads(fleet("health", "--config", str(file)).err.splitlines()[0])["schema"] == 1
    monkeypatch.setenv("FLEET_DEBUG", "off")
    assert fleet("health", "--config", str(file)).err == ""


def test_commands_that_change_something_show_what_they_send(fake, fleet):
    fake.say("POST", "/updates", {"job_id": JOB["job_id"], "status": "created"})

    err = fleet("updates", "create", "--name", "x", "--version", "1", "--type", "pip", "--target", "all", "--debug").err

    assert "POST /updates | Content-Format: application/json" in err
    assert '"request_id":' in err


def test_what_went_wrong_is_told_too(fake, fleet):
    ran = fleet("nodes", "show", "nobody", "--debug", "--server", fake.uri)
    assert ran.code == 1
    assert "4.04 Not Found" in ran.err
    ran = fleet("health", "--debug", "--server", "coap://127.0.0.1:1")
    assert ran.code == 3
    assert "  unreachable: Connection refused" in ran.err


def test_enrolment_tells_nothing_of_its_token(tmp_path, fleet, monkeypatch):
    pytest.importorskip("cryptography")
    monkeypatch.setenv("FLEET_TOKEN", "s3cret")
    ran = fleet(
        "enroll", "--debug", "--server", "coaps://127.0.0.1:1", "--fingerprint", "ab" * 32, "--node-id", "n1",
        "--data-dir", str(tmp_path),
    )  # fmt: skip
    assert ran.code in (2, 3)
    assert "s3cret" not in ran.err + ran.out


def test_enrolment_shows_its_messages(tmp_path, fleet, monkeypatch):
    pytest.importorskip("cryptography")
    from fleet.cli import enroll

    traces = []

    class Deaf(enroll.Endpoint):
        def __init__(self, **arguments: Any) -> None:
            traces.append(arguments["trace"])
            super().__init__(**arguments)

    monkeypatch.setattr(enroll, "Endpoint", Deaf)
    monkeypatch.setenv("FLEET_TOKEN", "s3cret")
    arguments = ("--server", "coaps://127.0.0.1:1", "--fingerprint", "ab" * 32, "--node-id", "n1")
    for flag in ("--debug", "--debug=json"):
        fleet("enroll", flag, *arguments, "--data-dir", str(tmp_path))
    fleet("enroll", *arguments, "--data-dir", str(tmp_path))
    assert [each if each is None else each.__class__.__name__ for each in traces] == ["MessageLog", "MessageLog", None]


@pytest.mark.parametrize("flag", ["--debug", "--debug=json"])
def test_service_that_is_installed_with_it_is_started_with_it(flag, fleet, capsys):
    ran = fleet("server", "install", "--print", flag, "--run-as", "root", "--data-dir", "/var/lib/f")
    assert ran.code == 0
    assert f"{flag} " in ran.out or f"{flag}\n" in ran.out


@pytest.mark.parametrize(
    ("value", "form"),
    [("text", "text"), ("json", "json"), (True, "text"), (False, ""), ("1", "text"), ("on", "text"), ("off", "")],
)
def test_values_of_the_setting(value, form):
    assert debug_form(value) == form


@pytest.mark.parametrize("value", ["xml", "", 1, None, ["json"]])
def test_other_values_are_none(value, fleet):
    with pytest.raises(ValueError, match="--debug=json"):
        debug_form(value)


def test_what_follows_the_flag_is_not_its_value():
    given = ["--debug", "nodes", "--debug=json", "--debugger"]
    assert spelt_out(given) == ["--debug=text", "nodes", "--debug=json", "--debugger"]


def test_another_form_is_wrong_use(fleet):
    assert fleet("health", "--debug=xml").err == (
        "fleet health: --debug: 'xml' is no way to show messages; write --debug or --debug=json\n"
    )


def test_log_records_are_documents_among_the_messages():
    record = logging.LogRecord("fleet.agent", logging.WARNING, "", 1, "no %s", ("answer",), None)
    record.created = 1_700_000_000.25

    assert json.loads(JsonFormatter().format(record)) == {
        "time": "2023-11-14T22:13:20.250000Z",
        "schema": 1,
        "event": "log",
        "level": "WARNING",
        "logger": "fleet.agent",
        "text": "no answer",
    }
    try:
        raise ValueError("wrong")
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    assert "ValueError: wrong" in json.loads(JsonFormatter().format(record))["traceback"]
