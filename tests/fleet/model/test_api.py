"""Requests as they come over the wire: the founding document's to the letter, and of others what is wrong, by field."""

import json

import cbor2
import pytest

from fleet.errors import FormatError, InvalidError
from fleet.model import jobs
from fleet.model.api import (
    CreateRequest,
    Hint,
    JobAction,
    ReportRequest,
    StatusRequest,
    check_page,
    parse_create,
    parse_health,
    parse_hint,
    parse_registration,
    parse_system_action,
    parse_update_request,
)
from fleet.model.api_answers import ErrorAnswer
from fleet.model.formats import CBOR, JSON, decode, encode
from fleet.model.health import HealthReport
from fleet.model.jobs import ArtifactWish, JobSpec
from fleet.model.nodes import Registration

# The founding document's payloads to the letter.
FIRST_EXAMPLE = b'{"name": "update", "version": "1.0", "package_type": "pip", "target_nodes": ["all"]}'
CREATE = b"""{
  "name": "python-packages-update",
  "version": "2025.09.16",
  "package_type": "pip",
  "target_nodes": ["all"],
  "packages": ["aiocoap==0.4.7", "aiohttp==3.9.1"]
}"""
TRIGGER = b"""{
  "action": "install",
  "job_id": "abc123-def456-ghi789"
}"""
STATUS = b'{"action": "status", "job_id": "abc123-def456-ghi789"}'
HEALTH = b"""{
  "node_id": "node-123",
  "overall_healthy": true,
  "cpu_percent": 15.5,
  "memory_percent": 45.2,
  "disk_percent": 30.1,
  "temperature": 42.5,
  "services_status": {
    "systemd": true,
    "network": true,
    "ssh": true,
    "docker": false
  },
  "error_messages": ["Service docker is not running"]
}"""
REGISTER = b"""{
  "node_id": "worker-03",
  "hostname": "worker-03",
  "ip_address": "<NODE_IP>",
  "status": "online",
  "last_seen": "2025-09-17T10:00:00",
  "services": ["docker", "ssh"],
  "drivers": ["gpio", "i2c"],
  "system_info": {
    "os": "linux",
    "arch": "arm64"
  }
}"""


def both(payload: bytes) -> list:
    """The same payload in each format."""
    in_numbers = encode(json.loads(payload), CBOR, numbers=True)
    return [(payload, None), (payload, JSON), (cbor2.dumps(json.loads(payload)), CBOR), (in_numbers, CBOR)]


@pytest.mark.parametrize(
    ("parse", "payload", "expected"),
    [
        (
            parse_update_request,
            FIRST_EXAMPLE,
            CreateRequest(JobSpec("update", "1.0", "pip", ("all",))),
        ),
        (
            parse_update_request,
            CREATE,
            CreateRequest(
                JobSpec("python-packages-update", "2025.09.16", "pip", ("all",), ("aiocoap==0.4.7", "aiohttp==3.9.1"))
            ),
        ),
        (parse_update_request, TRIGGER, JobAction("install", "abc123-def456-ghi789")),
        (parse_update_request, STATUS, StatusRequest("status", "abc123-def456-ghi789")),
        (parse_system_action, b'{"action": "restart"}', None),
        (parse_system_action, b'{"action": "shutdown"}', None),
        (parse_system_action, b'{"action": "status"}', None),
        (
            parse_health,
            HEALTH,
            HealthReport(
                "node-123",
                True,
                15.5,
                45.2,
                30.1,
                42.5,
                {"systemd": True, "network": True, "ssh": True, "docker": False},
                ("Service docker is not running",),
            ),
        ),
        (
            parse_registration,
            REGISTER,
            Registration(
                node_id="worker-03",
                hostname="worker-03",
                ip_address="<NODE_IP>",
                status="online",
                last_seen="2025-09-17T10:00:00",
                services=("docker", "ssh"),
                drivers=("gpio", "i2c"),
                system_info={"os": "linux", "arch": "arm64"},
            ),
        ),
    ],
)
def test_the_founding_payloads_are_understood_in_both_formats(parse, payload, expected):
    for written, content_format in both(payload):
        parsed = parse(written, content_format)
        assert expected is None or parsed == expected


def a_job(**changes):
    body = {"name": "update", "version": "1.0", "package_type": "pip", "target_nodes": ["all"]}
    body.update(changes)
    return {key: value for key, value in body.items() if value is not ...}


WRONG_JOBS = [
    # What is changed of a good job, the field that is to be named, a word of the remedy.
    ({"name": ...}, "$.name", "required"),
    ({"name": ""}, "$.name", "empty"),
    ({"name": 5}, "$.name", "expected `str`"),
    ({"name": "a\nb", "packages": ["a"]}, "$.name", "control"),
    ({"name": "x" * 300, "packages": ["a"]}, "$.name", "shorten"),
    ({"name": "two words"}, "$.name", "package name"),
    ({"version": ...}, "$.version", "required"),
    ({"version": "newest"}, "$.version", "package version"),
    ({"version": 1.0}, "$.version", "expected `str`"),
    ({"package_type": ...}, "$.package_type", "required"),
    ({"package_type": "rpm"}, "$.package_type", "pip and file"),
    ({"package_type": "deb"}, "$.package_type", "pip and file"),
    ({"target_nodes": ...}, "$.target_nodes", "required"),
    ({"target_nodes": []}, "$.target_nodes", '["all"]'),
    ({"target_nodes": "all"}, "$.target_nodes", "expected `array`"),
    ({"target_nodes": [1]}, "$.target_nodes[0]", "expected `str`"),
    ({"target_nodes": ["n1", "all"]}, "$.target_nodes[1]", "stands alone"),
    ({"target_nodes": ["n1", "n2", "n1"]}, "$.target_nodes[2]", "twice"),
    ({"target_nodes": ["n1", "../n2"]}, "$.target_nodes[1]", "no node id"),
    ({"target_nodes": {"groups": ["a"]}}, "$.target_nodes", "not supported"),
    ({"policy": {}}, "$.policy", "not supported"),
    ({"dry_run": True}, "$.dry_run", "does not know"),
    ({"packages": "requests"}, "$.packages", "expected `array`"),
    ({"packages": ["requests", 5]}, "$.packages[1]", "expected `str`"),
    ({"packages": ["requests ==="]}, "$.packages[0]", "specifier"),
    ({"packages": ["good", "--index-url=http://x"]}, "$.packages[1]", "no requirement"),
    ({"packages": ["a @ http://x/a.whl"]}, "$.packages[0]", "no requirement"),
    ({"packages": ["./a.whl"]}, "$.packages[0]", "no requirement"),
    ({"packages": ["a; python_version<'3'"]}, "$.packages[0]", "markers"),
    ({"artifacts": ["../a.whl"]}, "$.artifacts[0]", "holds a '/'"),
    ({"artifacts": ["a.whl", ".."]}, "$.artifacts[1]", "'..'"),
    ({"artifacts": ["a.tar.gz"]}, "$.artifacts[0]", ".whl"),
    ({"artifacts": [{"name": "a.whl", "path": "x"}]}, "$.artifacts[0].path", "only file jobs"),
    ({"artifacts": [{"name": "a.whl", "owner": "root"}]}, "$.artifacts[0].owner", "does not know"),
    ({"package_type": "file"}, "$.artifacts", "names of its files"),
    ({"package_type": "file", "packages": ["a"], "artifacts": ["b"]}, "$.packages", "no packages"),
    ({"package_type": "file", "artifacts": [{"name": "b", "path": "/etc/b"}]}, "$.artifacts[0].path", "absolute"),
    ({"package_type": "file", "artifacts": [{"name": "b", "path": "x/../../b"}]}, "$.artifacts[0].path", "'..'"),
    ({"package_type": "file", "artifacts": [{"name": "b", "path": "x//b"}]}, "$.artifacts[0].path", "empty"),
    ({"package_type": "file", "artifacts": [{"name": "b", "mode": "4755"}]}, "$.artifacts[0].mode", "octal"),
    ({"package_type": "file", "artifacts": ["b", {"name": "c", "path": "b"}]}, "$.artifacts[1]", "twice"),
    ({"request_id": ""}, "$.request_id", "characters"),
    ({"request_id": 5}, "$.request_id", "expected `str"),
]


@pytest.mark.parametrize(("changes", "field", "remedy"), WRONG_JOBS, ids=lambda value: str(value)[:60])
def test_what_is_wrong_with_a_job_is_named_with_its_field_in_both_formats(changes, field, remedy):
    for payload, content_format in both(json.dumps(a_job(**changes)).encode()):
        with pytest.raises(InvalidError) as caught:
            parse_create(payload, content_format)
        assert caught.value.field == field
        assert remedy in str(caught.value)


def test_a_file_job_takes_names_and_objects():
    body = a_job(
        package_type="file", artifacts=["app.conf", {"name": "app.conf", "path": "etc/app.conf", "mode": "0644"}]
    )

    spec = parse_create(encode(body), JSON).spec

    assert spec.artifacts == (ArtifactWish("app.conf"), ArtifactWish("app.conf", "etc/app.conf", "0644"))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"action": "explode", "job_id": "a"}, "$.action"),
        ({"action": "", "job_id": "a"}, "$.action"),
        ({"action": 5, "job_id": "a"}, "$.action"),
        ({"action": "install"}, "$.job_id"),
        ({"action": "install", "job_id": ""}, "$.job_id"),
        ({"action": "install", "job_id": "x" * 129}, "$.job_id"),
        ({"action": "install", "job_id": ["a"]}, "$.job_id"),
        ({"action": "install", "job_id": "a", "force": True}, "$.force"),
        ({"action": "status", "job_id": "a", "limit": 0}, "$.limit"),
        ({"action": "status", "job_id": "a", "limit": 1001}, "$.limit"),
        ({"action": "status", "job_id": "a", "verbose": 1}, "$.verbose"),
        ([], "$"),
        (5, "$"),
        (None, "$"),
        ("install", "$"),
    ],
)
def test_what_is_wrong_with_an_action_is_named_with_its_field_in_both_formats(body, field):
    for payload, content_format in both(json.dumps(body).encode()):
        with pytest.raises(InvalidError) as caught:
            parse_update_request(payload, content_format)
        assert caught.value.field == field


def test_an_unknown_action_says_which_are_known():
    with pytest.raises(InvalidError, match="install, pause, resume, cancel, retry, delete, status, report"):
        parse_update_request(b'{"action": "explode"}', None)


@pytest.mark.parametrize("action", [action for action in jobs.ACTIONS if action != "status"])
def test_each_action_is_read_with_its_request_id(action):
    payload = encode({"action": action, "job_id": "j1", "request_id": "r1"})

    assert parse_update_request(payload, JSON) == JobAction(action, "j1", "r1")


REPORT = {"action": "report", "job_id": "j1", "node_id": "n1", "attempt": 1, "sequence": 2, "state": "downloading"}


def test_a_report_is_read_and_what_a_newer_node_says_more_is_ignored():
    for payload, content_format in both(json.dumps({**REPORT, "bytes_done": 5, "mood": "good"}).encode()):
        parsed = parse_update_request(payload, content_format)
        assert parsed == ReportRequest("report", "j1", "n1", 1, 2, "downloading", 5)


def test_texts_of_a_report_are_cut_and_output_keeps_its_end():
    body = {**REPORT, "reason": "r" * 999, "waiting_for": "w" * 999, "output": "a" * 9999 + "end"}

    parsed = parse_update_request(encode(body), JSON)

    assert isinstance(parsed, ReportRequest)
    assert (len(parsed.reason), len(parsed.waiting_for), len(parsed.output)) == (255, 255, 4096)
    assert parsed.output.endswith("aend")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"state": "pending"}, "$.state"),
        ({"state": "timed_out"}, "$.state"),
        ({"state": "happy"}, "$.state"),
        ({"attempt": 0}, "$.attempt"),
        ({"attempt": "1"}, "$.attempt"),
        ({"sequence": 0}, "$.sequence"),
        ({"sequence": 1 << 63}, "$.sequence"),
        ({"bytes_done": -1}, "$.bytes_done"),
        ({"bytes_total": -1}, "$.bytes_total"),
        ({"node_id": ".n"}, "$.node_id"),
        ({"job_id": ""}, "$.job_id"),
    ],
)
def test_what_is_wrong_with_a_report_is_named_with_its_field(changes, field):
    with pytest.raises(InvalidError) as caught:
        parse_update_request(encode({**REPORT, **changes}), JSON)
    assert caught.value.field == field


@pytest.mark.parametrize("parse", [parse_registration, parse_health])
def test_of_a_nodes_message_only_its_id_is_required_and_unknown_fields_are_ignored(parse):
    assert parse(b'{"node_id": "n1", "fur": "black"}', None).node_id == "n1"
    for payload, field in [
        (b"{}", "$.node_id"),
        (b'{"node_id": ""}', "$.node_id"),
        (b'{"node_id": "a/b"}', "$.node_id"),
        (b"[]", "$"),
    ]:
        with pytest.raises(InvalidError) as caught:
            parse(payload, None)
        assert caught.value.field == field


def test_a_wrong_type_deep_in_a_nodes_message_is_named():
    with pytest.raises(InvalidError) as caught:
        parse_health(b'{"node_id": "n1", "services_status": {"ssh": "up"}}', None)
    assert caught.value.field == "$.services_status[...]"


@pytest.mark.parametrize(
    ("payload", "field"), [(b'{"action": "jump"}', "$.action"), (b'{"action":"restart","x":1}', "$.x")]
)
def test_an_action_on_the_system_is_obeyed_to_the_letter_or_refused(payload, field):
    with pytest.raises(InvalidError) as caught:
        parse_system_action(payload, None)
    assert caught.value.field == field


def test_a_hint_is_read():
    assert parse_hint(b'{"job_id": "j1", "later": 1}', None) == Hint("j1")
    with pytest.raises(InvalidError):
        parse_hint(b"{}", None)


@pytest.mark.parametrize(
    "parse", [parse_update_request, parse_create, parse_registration, parse_health, parse_system_action]
)
@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"\xff",
        b'{"a": 1,}',
        b"{'a': 1}",
        b'{"node_id": "n1"} x',
        b"NaN",
        b'{"a": NaN}',
        b'{"a":"\\ud800"}',
    ],
)
def test_what_is_no_json_is_a_format_error(parse, payload):
    with pytest.raises(FormatError):
        parse(payload, JSON)


def test_a_key_given_twice_is_refused_where_it_is_to_be_obeyed():
    with pytest.raises(FormatError, match="'job_id' is there twice"):
        parse_update_request(b'{"action": "delete", "job_id": "a", "job_id": "b"}', None)
    with pytest.raises(FormatError, match="'path' is there twice"):
        parse_create(b'{"artifacts": [{"name": "a", "path": "b", "path": "c"}]}', None)


@pytest.mark.parametrize(("limit", "expected"), [(None, 100), ("1", 1), ("1000", 1000)])
def test_the_limit_of_a_page_is_read(limit, expected):
    assert check_page(limit) == expected


@pytest.mark.parametrize("limit", ["", "0", "1001", "-1", "1e3", "99999", "²", "１"])
def test_a_limit_that_is_none_is_refused(limit):
    with pytest.raises(InvalidError) as caught:
        check_page(limit)
    assert caught.value.field == "limit"


def test_an_error_says_only_what_there_is_to_say():
    assert encode(ErrorAnswer("no")) == b'{"error":"no"}'
    answer = ErrorAnswer("no", "$.name", "running", ("pause",))
    assert decode(encode(answer, CBOR), CBOR, ErrorAnswer) == answer
