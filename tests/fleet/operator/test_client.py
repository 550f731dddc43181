"""The operator's client against a server that answers as it is told to."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Callable, Optional

import pytest

from fleet.errors import IllegalMoveError, NetworkError, NotFoundError, PeerError, RefusedError, UsageError
from fleet.operator.client import WINDOW, Fleet
from minicoap.asyncio.endpoint import Endpoint
from minicoap.codec import codes, contentformats
from minicoap.codec.options import IF_NONE_MATCH, REQUEST_TAG
from minicoap.core.request import Response
from tests.fleet.operator.fake_fleet import FakeFleet, document
from tests.fleet.operator.samples import ARTIFACT, DETAIL, JOB, NODE, STATUS

CREATE = {"name": "demo", "version": "1.1", "package_type": "pip", "target_nodes": ["all"]}


def ask(fake: FakeFleet, question: Callable[[Fleet], Awaitable[Any]]) -> Any:
    """What `question` returns, asked of the server on real sockets."""

    async def scenario() -> Any:
        async with Endpoint(fake.site) as server, Endpoint() as endpoint:
            await server.serve("coap://127.0.0.1:0")
            return await question(Fleet(endpoint, server.local_uri))

    return asyncio.run(scenario())


async def every(pages: AsyncIterator[Any]) -> list[Any]:
    return [page.value async for page in pages]


QUESTIONS: dict[str, tuple[Callable[[Fleet], Awaitable[Any]], str, str, Any, Any]] = {
    "health": (lambda fleet: fleet.health(), "GET", "/health", None, {"status": "ok"}),
    "nodes": (lambda fleet: every(fleet.nodes()), "GET", "/nodes", None, {"nodes": [NODE], "next": None}),
    "node": (lambda fleet: fleet.node("worker-03"), "GET", "/nodes/worker-03", None, NODE),
    "remove": (lambda fleet: fleet.remove_node("worker-03"), "DELETE", "/nodes/worker-03", None, {"status": "removed"}),
    "create": (lambda fleet: fleet.create(CREATE), "POST", "/updates", CREATE, {"job_id": "j", "status": "created"}),
    "install": (
        lambda fleet: fleet.act("install", "j"), "POST", "/updates", {"action": "install", "job_id": "j"},
        {"job_id": "j", "status": "preparing"},
    ),
    "jobs": (lambda fleet: every(fleet.jobs()), "GET", "/updates", None, {"updates": [JOB], "next": None}),
    "job": (lambda fleet: fleet.job("abc123"), "GET", "/updates/abc123", None, DETAIL),
    "status": (
        lambda fleet: every(fleet.status("abc123")), "GET", "/updates/abc123/status", None, STATUS,
    ),
    "artifacts": (
        lambda fleet: every(fleet.artifacts()), "GET", "/firmware", None, {"firmware": [ARTIFACT], "next": None},
    ),
    "put": (lambda fleet: fleet.put_artifact("d.whl", b"content"), "PUT", "/firmware/d.whl", b"content", ARTIFACT),
    "delete": (lambda fleet: fleet.delete_artifact("d.whl"), "DELETE", "/firmware/d.whl", None, {"status": "deleted"}),
    "system": (lambda fleet: fleet.system(), "GET", "/system", None, {"status": "running"}),
    "restart": (
        lambda fleet: fleet.system_action("restart"), "POST", "/system", {"action": "restart"},
        {"status": "restarting"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", QUESTIONS)
def test_each_question_is_asked_as_the_api_has_it(name):
    question, method, path, body, answer = QUESTIONS[name]
    fake = FakeFleet()
    fake.say(method, path, answer)

    ask(fake, question)

    sent = fake.last.body
    if isinstance(sent, dict):
        sent.pop("request_id", None)
    assert (fake.last.method, fake.last.path, sent or None, len(fake.asked)) == (method, path, body, 1)


@pytest.mark.parametrize("name", ["create", "install", "restart"])
def test_each_command_has_a_request_id_of_its_own(name):
    question, method, path, _, answer = QUESTIONS[name]
    fake = FakeFleet()
    fake.say(method, path, answer)

    ask(fake, question)
    ask(fake, question)

    first, second = (asked.body["request_id"] for asked in fake.asked)
    assert first != second
    assert len(first) == 32


def test_a_job_keeps_the_request_id_that_it_was_given():
    fake = FakeFleet()
    fake.say("POST", "/updates", {"job_id": "j", "status": "created"})

    ask(fake, lambda fleet: fleet.create({**CREATE, "request_id": "mine"}))

    assert fake.last.body["request_id"] == "mine"


def test_an_answer_is_typed_and_kept_as_it_came():
    fake = FakeFleet()
    raw = b'{"job_id": "j",   "status": "created", "of_a_later_version": 1}'
    fake.say("POST", "/updates", Response(codes.CREATED, raw, contentformats.JSON))

    answer = ask(fake, lambda fleet: fleet.create(CREATE))

    assert (answer.value.job_id, answer.value.status, answer.payload) == ("j", "created", raw)


@pytest.mark.parametrize(
    ("question", "method", "path", "pages", "cursors"),
    [
        (
            lambda fleet: every(fleet.nodes("offline")),
            "GET",
            "/nodes",
            [{"nodes": [NODE], "next": "b w"}, {"nodes": [], "next": "c"}, {"nodes": [NODE], "next": None}],
            [("status=offline",), ("status=offline", "after=b w"), ("status=offline", "after=c")],
        ),
        (
            lambda fleet: every(fleet.jobs()),
            "GET",
            "/updates",
            [{"updates": [JOB], "next": "x"}, {"updates": [], "next": None}],
            [(), ("after=x",)],
        ),
        (
            lambda fleet: every(fleet.status("abc123")),
            "GET",
            "/updates/abc123/status",
            [{**STATUS, "next": "n"}, STATUS],
            [(), ("after=n",)],
        ),
    ],
)
def test_pages_are_followed_to_the_last(question, method, path, pages, cursors):
    fake = FakeFleet()
    fake.say(method, path, *pages)

    answers = ask(fake, question)

    assert len(answers) == len(pages)
    assert [asked.query for asked in fake.asked] == cursors


def test_a_list_whose_pages_lead_to_themselves_is_given_up():
    fake = FakeFleet()
    fake.say("GET", "/nodes", {"nodes": [], "next": "same"})

    with pytest.raises(PeerError, match="does not end"):
        ask(fake, lambda fleet: every(fleet.nodes()))


REFUSALS: dict[str, tuple[Response, type, str, Optional[str]]] = {
    "an invalid field": (
        document({"error": "unknown package type 'deb'", "field": "$.package_type"}, codes.UNPROCESSABLE_ENTITY),
        RefusedError, "unknown package type 'deb'", "$.package_type",
    ),
    "not there": (document({"error": "no job 'j'"}, codes.NOT_FOUND), NotFoundError, "no job 'j'", None),
    "a part that is not there": (
        document({"error": "no artifact 'a'", "field": "$.artifacts[0]"}, codes.NOT_FOUND), NotFoundError,
        "no artifact 'a' ($.artifacts[0])", None,
    ),
    "an artifact in use": (
        document({"error": "needed by job j"}, codes.CONFLICT), RefusedError, "needed by job j", None,
    ),
    "overloaded": (
        document({"error": "busy"}, codes.SERVICE_UNAVAILABLE, max_age=5), RefusedError, "busy; try again in 5 s", None,
    ),
    "a diagnostic text": (Response(codes.BAD_OPTION, b"no such option"), RefusedError, "no such option", None),
    "no reason": (Response(codes.INTERNAL_SERVER_ERROR), RefusedError, "the server gave no reason", None),
    "another server's body": (
        Response(codes.BAD_REQUEST, b"[1]", contentformats.JSON), RefusedError, "[1]", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_is_raised_with_what_the_server_said(name):
    response, kind, text, field = REFUSALS[name]
    fake = FakeFleet()
    fake.say("POST", "/updates", response)

    with pytest.raises(PeerError) as raised:
        ask(fake, lambda fleet: fleet.create(CREATE))

    assert type(raised.value) is kind
    assert str(raised.value) == text
    assert getattr(raised.value, "field", None) == field


def test_an_illegal_move_says_the_state_and_what_is_legal():
    fake = FakeFleet()
    body = {"error": "the job is running", "state": "running", "legal": ["pause", "cancel"]}
    fake.say("POST", "/updates", document(body, codes.CONFLICT))

    with pytest.raises(IllegalMoveError) as raised:
        ask(fake, lambda fleet: fleet.act("install", "j"))

    assert (raised.value.state, raised.value.legal) == ("running", ("pause", "cancel"))


@pytest.mark.parametrize("payload", [b"hello", b'{"job_id": 7}', b""])
def test_an_answer_that_is_no_fleet_servers_is_called_that(payload):
    fake = FakeFleet()
    fake.say("POST", "/updates", Response(codes.CONTENT, payload, contentformats.JSON))

    with pytest.raises(PeerError, match="is not a fleet server's"):
        ask(fake, lambda fleet: fleet.create(CREATE))


def test_where_nobody_listens_there_is_no_answer():
    async def scenario() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        async with Endpoint() as endpoint:
            await Fleet(endpoint, f"coap://127.0.0.1:{port}", timeout=5).health()

    with pytest.raises(NetworkError, match="refused"):
        asyncio.run(scenario())


def test_a_long_artifact_arrives_whole_and_only_if_it_is_new():
    fake = FakeFleet()
    fake.say("PUT", "/firmware/demo.whl", ARTIFACT)
    content = bytes(range(256)) * 20 + b"end"

    ask(fake, lambda fleet: fleet.put_artifact("demo.whl", content, only_if_new=True))

    assert fake.last.body == content
    assert fake.last.request.options.all(IF_NONE_MATCH) == (b"",)
    assert fake.last.request.content_format == contentformats.OCTET_STREAM


def test_a_long_artifact_is_fetched_block_by_block():
    class Blocks:
        def __init__(self) -> None:
            self.lengths: list[int] = []
            self.data = b""

        def begin(self, response: Response, size: Optional[int]) -> None:
            self.size = size

        def write_at(self, offset: int, data: bytes) -> None:
            assert offset == len(self.data)
            self.lengths.append(len(data))
            self.data += data

    fake = FakeFleet()
    content = bytes(range(256)) * 8 + b"end"
    fake.say("GET", "/firmware/demo.whl", Response(codes.CONTENT, content, contentformats.OCTET_STREAM))
    sink = Blocks()

    ask(fake, lambda fleet: fleet.get_artifact("demo.whl", sink))

    assert (sink.data, sink.size, sink.lengths) == (content, len(content), [1024, 1024, 3])


@pytest.mark.parametrize("name", ["a b.whl", "ü.conf", "50%", "a%2Fb", "a&b=c?d#e"])
def test_a_name_reaches_the_server_as_it_is(name):
    fake = FakeFleet()
    # As the server does: it takes percent-encoding out of the option once more.
    encoded = name.replace("%", "%25")
    fake.say("DELETE", f"/firmware/{encoded}", {"status": "deleted"})

    ask(fake, lambda fleet: fleet.delete_artifact(name))

    assert fake.last.path == f"/firmware/{encoded}"


@pytest.mark.parametrize("name", ["", ".", "..", "x" * 256])
def test_a_name_that_cannot_be_one_is_not_sent(name):
    fake = FakeFleet()

    with pytest.raises(UsageError):
        ask(fake, lambda fleet: fleet.delete_artifact(name))

    assert fake.asked == []


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "192.0.2.7",
        "http://192.0.2.7",
        "coap://h/updates",
        "coap://h?x",
        "coap://h:0",
        "coap://",
    ],
)
def test_what_cannot_be_a_servers_uri_is_refused(uri):
    with pytest.raises(UsageError, match="coap"):
        Fleet(Endpoint(), uri)


def test_an_artifact_goes_on_behind_what_the_store_has_of_it_and_begins_anew_where_that_is_gone():
    fake = FakeFleet()
    content = bytes(range(256)) * 40
    sha256 = hashlib.sha256(content).hexdigest()
    fake.parts[sha256] = 5 * 1024 + 100  # says the store, and has forgotten it when the block comes
    fake.say("PUT", "/firmware/demo.whl", ARTIFACT)
    seen = []

    ask(
        fake,
        lambda fleet: fleet.put_artifact(
            "demo.whl", content, sha256=sha256, progress=lambda state, size: seen.append(state.offset)
        ),
    )

    assert fake.last.body == content
    assert [asked.method for asked in fake.asked] == ["GET", "PUT"]
    assert fake.last.query == (f"sha256={sha256}",)
    assert fake.last.request.options.get(REQUEST_TAG) == bytes.fromhex(sha256[:16])
    assert (seen[0], seen[-1]) == (0, len(content))


def test_an_artifact_is_put_with_a_window_since_a_fleets_server_takes_blocks_in_any_order(monkeypatch):
    told = {}

    class Watched(Endpoint):
        async def upload(self, *arguments: Any, **more: Any) -> Response:
            told.update(more)
            return await super().upload(*arguments, **more)

    monkeypatch.setitem(ask.__globals__, "Endpoint", Watched)
    fake = FakeFleet()
    fake.say("PUT", "/firmware/demo.whl", ARTIFACT)

    ask(fake, lambda fleet: fleet.put_artifact("demo.whl", bytes(5000)))

    assert (told["window"], told["any_order"]) == (WINDOW, True)


@pytest.mark.parametrize("content", [b"", b"x", bytes(1024)])
def test_a_small_artifact_is_not_asked_about(content):
    fake = FakeFleet()
    sha256 = hashlib.sha256(content).hexdigest()
    fake.say("PUT", "/firmware/demo.whl", ARTIFACT)

    ask(fake, lambda fleet: fleet.put_artifact("demo.whl", content, sha256=sha256))

    assert [(asked.method, asked.query) for asked in fake.asked] == [("PUT", (f"sha256={sha256}",))]
