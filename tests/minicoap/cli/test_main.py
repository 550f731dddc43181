"""The command, as a user runs it: arguments in; output, errors and exit code out. The server runs in a thread."""

from __future__ import annotations

import asyncio
import io
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minicoap import (
    Endpoint,
    FileSource,
    Request,
    Resource,
    Response,
    Site,
    TransferState,
    TransmissionParameters,
    codes,
    contentformats,
)
from minicoap.cli.main import _verdict, main

BODY = bytes(range(256)) * 20


def describe(request: Request) -> Response:
    text = f"{codes.code_name(request.code)} {request.payload.decode()} {request.content_format} {request.accept}"
    return Response(codes.CONTENT, text.encode(), contentformats.TEXT, etag=b"\x01\x02")


def options_of(request: Request) -> Response:
    return Response(payload=" ".join(f"{number}={value.hex()}" for number, value in request.options.items).encode())


def site() -> Site:
    return Site(
        Resource("/describe", get=describe, put=describe, post=describe, fetch=describe, delete=describe, title="All"),
        Resource("/changed", put=lambda request: Response(codes.CHANGED), resource_type="silent"),
        Resource("/created", post=lambda request: Response(codes.CREATED, location_path=("updates", "7"))),
        Resource("/options", get=options_of, conditional=True),
        Resource("/est", post=lambda request: Response(codes.CHANGED, b"s3cret")),
        Resource("/binary", get=lambda request: Response(codes.CONTENT, b"\xff\x00", contentformats.OCTET_STREAM)),
        Resource("/member", get=describe, put=describe, group=True),
        Resource("/refused", get=lambda request: Response(codes.FORBIDDEN, b"not for you")),
        Resource("/body", get=lambda request: Response(payload=BODY, etag=b"v1"), put=lambda request: Response(
            codes.CHANGED, str(len(request.payload)).encode()
        )),
    )  # fmt: skip


@pytest.fixture(scope="module")
def uri() -> Iterator[str]:
    """A server that runs as long as the module's tests."""
    started: Any = threading.Event()
    state: dict[str, Any] = {}

    async def serve() -> None:
        state["loop"], state["stop"] = asyncio.get_running_loop(), asyncio.Event()
        prompt = TransmissionParameters(default_leisure=0.2)  # of what answers groups
        async with Endpoint(site(), parameters=prompt) as endpoint:
            await endpoint.serve("coap://0.0.0.0:0")
            port = endpoint.local_uri.rpartition(":")[2]
            await endpoint.join(f"coap://224.0.1.187:{port}", interface="lo")
            state["uri"] = f"coap://127.0.0.1:{port}"
            started.set()
            await state["stop"].wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(20)
    yield state["uri"]
    state["loop"].call_soon_threadsafe(state["stop"].set)
    thread.join(20)


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["get"], "GET  None None"),
        (["get", "--accept", "text"], "GET  None 0"),
        (["get", "--non"], "GET  None None"),
        (["put", "--payload", "x", "--content-format", "json"], "PUT x 50 None"),
        (["post", "--payload", "ü", "--content-format", "application/cbor"], "POST ü 60 None"),
        (["fetch", "--payload", "x", "--accept", "0", "--timeout", "10"], "FETCH x None 0"),
        (["delete"], "DELETE  None None"),
    ],
)
def test_payload_of_a_success_is_the_only_output(
    uri: str, arguments: list[str], output: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, f"{uri}/describe"]) == 0
    assert capfd.readouterr() == (output, "")


def test_verbose_shows_code_and_options_beside_the_output(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["get", "-v", f"{uri}/describe"]) == 0
    out, err = capfd.readouterr()
    assert out == "GET  None None"
    assert err == "2.05 Content\n  ETag: 0102\n  Content-Format: text/plain; charset=utf-8\n"


def test_success_without_payload_says_what_it_was(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["put", f"{uri}/changed"]) == 0
    assert main(["post", f"{uri}/created"]) == 0
    assert capfd.readouterr() == ("", "2.04 Changed\n2.01 Created /updates/7\n")


def test_refusal_is_told_on_standard_error_and_by_the_exit_code(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["get", f"{uri}/refused"]) == 1
    assert main(["get", f"{uri}/nothing"]) == 1
    assert capfd.readouterr() == ("", "4.03 Forbidden\nnot for you\n4.04 Not Found\nthere is nothing at this path\n")


def test_body_goes_into_a_file_and_comes_from_one(uri: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = str(tmp_path / "body")
    assert main(["get", f"{uri}/body", "-o", name]) == 0
    assert capfd.readouterr() == ("", "")
    assert Path(name).read_bytes() == BODY
    assert main(["put", f"{uri}/body", "--file", name]) == 0
    assert capfd.readouterr() == (str(len(BODY)), "")


def test_download_grows_beside_its_place_and_is_resumed_only_if_told(
    uri: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name = tmp_path / "body"
    state = TransferState(f"{uri}/body", b"v1", 4096)
    for resume, expected in (([], BODY), (["--resume"], b"#" * 3072 + BODY[3072:])):
        (tmp_path / "body.part").write_bytes(b"#" * 4096)
        (tmp_path / "body.part.state").write_text(json.dumps(state.as_dict()))
        assert main(["get", f"{uri}/body", "-o", str(name), "--window", "8", *resume]) == 0
        assert name.read_bytes() == expected
        assert [each.name for each in tmp_path.iterdir()] == ["body"]
    assert capfd.readouterr() == ("", "")


def test_qblock_sends_and_gets_what_is_long(
    uri: str, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    file = tmp_path / "sent"
    file.write_bytes(BODY)
    assert main(["put", f"{uri}/body", "--qblock", "--file", str(file)]) == 0
    assert capfdbinary.readouterr().out.strip() == str(len(BODY)).encode()
    assert main(["get", f"{uri}/body", "--qblock"]) == 0
    assert capfdbinary.readouterr().out == BODY
    assert main(["get", f"{uri}/body", "--qblock", "-o", str(tmp_path / "got")]) == 0
    assert (tmp_path / "got").read_bytes() == BODY


@pytest.mark.parametrize("arguments", [[], ["--window", "8"], ["--resume"], ["--resume", "--window", "8"]])
def test_file_is_sent_with_window_and_resume(
    uri: str, arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "it").write_bytes(BODY)
    # What an attempt of another process left: this server knows nothing of it, and gets all of it anew.
    with FileSource(str(tmp_path / "it")) as source:
        state = TransferState(f"{uri}/body", source.etag, 3072, 6, len(BODY), b"the tag")
    (tmp_path / "it.upload").write_text(json.dumps(state.as_dict()))
    assert main(["put", "-f", str(tmp_path / "it"), *arguments, "--debug", f"{uri}/body"]) == 0
    said = capfd.readouterr()
    assert said.out == str(len(BODY))
    first = said.err.splitlines()[0]
    assert f"Block1: {3 if '--resume' in arguments else 0}," in first
    assert (b"the tag".hex() in first) is ("--resume" in arguments)
    assert sorted(each.name for each in tmp_path.iterdir()) == (
        ["it"] if "--resume" in arguments else ["it", "it.upload"]
    )


@pytest.mark.parametrize("is_told", [True, False])
def test_that_the_server_takes_any_order_is_for_the_user_to_say(
    uri: str, is_told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "it").write_bytes(BODY)
    told: dict[str, Any] = {}
    upload = Endpoint.upload

    async def watched(self: Endpoint, *arguments: Any, **more: Any) -> Response:
        told.update(more)
        return await upload(self, *arguments, **more)

    monkeypatch.setattr(Endpoint, "upload", watched)
    flags = ["--any-order"] if is_told else []
    assert main(["put", "-f", str(tmp_path / "it"), "--window", "8", *flags, f"{uri}/body"]) == 0
    assert (told["window"], told["any_order"]) == (8, is_told)


@pytest.mark.parametrize("source", [["-f", "-"], ["-e", "x"], []])
def test_only_what_is_in_a_file_can_be_gone_on_with(source: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["put", "coap://127.0.0.1/x", "--resume", *source]) == 2
    assert "-f FILE" in capfd.readouterr().err


def test_window_serves_a_get_to_standard_output_too(uri: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["get", f"{uri}/body", "--window", "8"]) == 0
    assert capfdbinary.readouterr() == (BODY, b"")


@pytest.mark.parametrize("command", ["get", "put"])
def test_progress_is_shown_on_a_terminal(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    name = tmp_path / "body"
    name.write_bytes(BODY)
    monkeypatch.setattr("sys.stderr", terminal)
    assert main([command, f"{uri}/body", "--file" if command == "put" else "-o", str(name)]) == 0
    assert terminal.getvalue().startswith("\r 20 %  1024 B of 5120 B  ")
    assert "\r100 %  5120 B of 5120 B  " in terminal.getvalue()
    assert terminal.getvalue().endswith("/s\n")


def test_payload_comes_from_standard_input(
    uri: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"piped")))
    assert main(["post", f"{uri}/describe", "--file", "-"]) == 0
    assert capfd.readouterr().out == "POST piped None None"


def test_discover_lists_the_resources(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["discover", uri]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split() == ["path", "rt", "title"]
    assert [line.split()[0] for line in lines[1:]] == [
        "/describe", "/changed", "/created", "/options", "/est", "/binary", "/member", "/refused", "/body"
    ]  # fmt: skip
    assert main(["discover", uri, "--filter", "rt=sil*"]) == 0
    assert capfd.readouterr().out.splitlines() == ["path      rt", "/changed  silent"]


def test_ping_prints_the_time(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["ping", uri]) == 0
    assert capfd.readouterr().out.startswith("pong after ")


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        (["-O", "ETag=0x01ff", "-O", "if-match=0x"], "1= 4=01ff 11=6f7074696f6e73"),
        (["-O", "ETag=ab"], "4=6162 11=6f7074696f6e73"),
        (["-O", "Max-Age=256"], "11=6f7074696f6e73 14=0100"),
        (["-O", "65000=0xab", "-O", "2050=x=y"], "11=6f7074696f6e73 2050=783d79 65000=ab"),
        (["-O", "Uri-Query=0xa"], "11=6f7074696f6e73 15=307861"),
        (["-O", "Hop-Limit=0x10"], "11=6f7074696f6e73 16=10"),
        (["--block-size", "64"], "11=6f7074696f6e73 23=02"),
        (["-A", "json"], "11=6f7074696f6e73 17=32"),
    ],
)
def test_further_options_are_given_by_name_or_number(
    uri: str, arguments: list[str], seen: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["get", f"{uri}/options", *arguments]) == 0
    assert capfd.readouterr() == (seen, "")


def test_short_flags_say_the_same(uri: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "payload").write_bytes(b"x")
    assert main(["put", "-e", "x", "-t", "json", "-A", "text", "-N", f"{uri}/describe"]) == 0
    assert main(["put", "-f", str(tmp_path / "payload"), "-t", "50", "-A", "0", f"{uri}/describe"]) == 0
    assert capfd.readouterr() == ("PUT x 50 0" * 2, "")


@pytest.mark.parametrize("arguments", [["-N", "--no-response", "2,4,5"], ["--no-response", "2.xx", "--timeout", "0.1"]])
def test_response_that_is_declined_is_no_failure(
    uri: str, arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["put", f"{uri}/changed", *arguments]) == 0
    assert capfd.readouterr() == ("", "no response, as asked for\n")


def test_response_of_another_class_is_not_waited_for_long(
    uri: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("minicoap.cli.main._SILENCE", 0.1)
    assert main(["put", f"{uri}/changed", "--no-response", "2"]) == 0
    assert capfd.readouterr().err == "no response, as asked for\n"


@pytest.mark.parametrize(("found", "code"), [([True, False], 0), ([False, False], 1), ([], 3)])
def test_group_did_what_was_asked_if_one_member_did(
    found: list[bool], code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert _verdict(found) == code


@pytest.mark.parametrize(
    ("token", "shown"), [("00ff", " [00ff]"), ("", ""), ("0011223344556677", " [0011223344556677]")]
)
def test_token_may_be_given(uri: str, token: str, shown: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["get", f"{uri}/body", "--window", "4", "--token", token, "--debug"]) == 0
    lines = capfd.readouterr().err.splitlines()
    assert re.match(rf"    0\.\d+ -> 127.0.0.1:\d+  CON \d+{re.escape(shown)}  GET /body \| Block2: 0, ", lines[0])
    assert len({line.split("[")[1] for line in lines[2:] if "-> " in line}) == 4  # those of further blocks differ


def test_answers_are_documents_for_programs(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["get", "--json", f"{uri}/binary"]) == 0
    assert main(["get", "--json", f"{uri}/refused"]) == 1
    assert main(["ping", "--json", uri]) == 0
    assert main(["discover", "--json", uri, "--filter", "rt=silent"]) == 0
    out, err = capfd.readouterr()
    binary, refused, ping, link = map(json.loads, out.splitlines())
    assert err == ""
    assert binary == {
        "uri": f"{uri}/binary",
        "code": "2.05",
        "name": "2.05 Content",
        "options": [{"number": 12, "name": "Content-Format", "value": 42}],
        "data": "/wA=",
    }
    assert (refused["code"], refused["text"]) == ("4.03", "not for you")
    assert (ping["uri"], ping["seconds"] < 20) == (uri, True)
    assert link == {"uri": uri, "target": "/changed", "attributes": [["rt", "silent"]]}


def group(uri: str) -> str:
    return uri.replace("127.0.0.1", "224.0.1.187")


def test_each_member_of_a_group_answers_with_its_address(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    where = ["--interface", "lo", "--timeout", "2"]
    assert main(["get", f"{group(uri)}/member", *where]) == 0
    out, err = capfd.readouterr()
    assert re.fullmatch(r"coap://\S+  2\.05 Content\nGET  None None\n", out)
    assert err == ""
    assert main(["discover", group(uri), "--filter", "rt=silent", *where]) == 0
    header, row = capfd.readouterr().out.splitlines()
    assert header.split() == ["member", "path", "rt"]
    assert row.startswith("coap://")
    assert row.split()[1:] == ["/changed", "silent"]


def test_group_that_stays_silent_is_no_answer(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["get", f"{group(uri)}/nothing", "--interface", "lo", "--timeout", "0.1"]) == 3
    assert capfd.readouterr() == ("", "minicoap: no member of the group answered\n")
    assert main(["get", f"{group(uri)}/member", "-o", "/no/such/file"]) == 2
    assert "--output" in capfd.readouterr().err


COMMANDS = [
    ["get", "/describe"], ["put", "/describe", "-e", "x"], ["post", "/describe"], ["delete", "/describe"],
    ["fetch", "/describe"], ["patch", "/describe"], ["ipatch", "/describe"], ["observe", "/describe", "--count", "1"],
    ["discover", ""], ["ping", ""],
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=[command[0] for command in COMMANDS])
def test_every_command_shows_its_messages(uri: str, command: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    name, path, *more = command
    for arguments in (
        ["--debug", name, uri + path, *more], [name, "--debug", uri + path, *more], [name, uri + path, *more, "--debug"]
    ):  # fmt: skip
        assert main(arguments) in (0, 1)
        lines = capfd.readouterr().err.splitlines()
        assert lines[0].startswith("    0.0")
        assert " -> " in lines[0]
        assert any(" <- " in line for line in lines)
    assert main([name, uri + path, *more, "--debug=json"]) in (0, 1)
    documents = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    assert [document["direction"] for document in documents[:2]] == ["sent", "received"]
    assert {document["schema"] for document in documents} == {1}


def test_messages_of_an_enrolment_stay_secret(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    for flag in ("--debug", "--debug=json"):
        assert main(["post", f"{uri}/est?token=s3cret", "-e", "s3cret", flag]) == 0
        out, err = capfd.readouterr()
        assert out == "s3cret"
        assert "s3cret" not in err
        assert "enrolment" in err
        assert "token=..." in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["get", "http://h/"], "coap://"),
        (["get", "coaps://127.0.0.1/"], "--ca FILE"),
        (["put", "coap://127.0.0.1/x", "--file", "/no/such/file"], "/no/such/file"),
        (["get", "coap://127.0.0.1/x", "--qblock", "--window", "2"], "window"),
        (["get", "coap://[fe80::1%eth0]/"], "%25"),
        (["get", "coap://[fe80::1%25no-such-if]/"], "no-such-if"),
        (["get", "coap://224.0.1.187/", "--interface", "no-such-if"], "no-such-if"),
        (["get", "coaps://127.0.0.1/", "--ca", "/no/such/file"], "/no/such/file"),
    ],
)
def test_wrong_use_is_explained(arguments: list[str], says: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("minicoap: ")
    assert says in err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["get"],
        ["observe", "coap://h/", "--count", "0"],
        ["get", "coap://h/", "--accept", "nonsense"],
        ["get", "coap://h/", "--timeout", "soon"],
        ["get", "coap://h/", "--timeout", "-1"],
        ["get", "coap://h/", "--window", "0"],
        ["get", "coap://h/", "--window", "1000"],
        ["get", "coap://h/", "--window", "many"],
        ["put", "coap://h/", "--window", "0"],
        ["delete", "coap://h/", "--window", "2"],
        ["delete", "coap://h/", "--resume"],
        ["put", "coap://h/", "--payload", "x", "--file", "y"],
        ["get", "coap://h/", "--debug=xml"],
        ["get", "coap://h/", "--proxy", "coap://p"],
        ["get", "coap://h/", "--block-size", "100"],
        ["get", "coap://h/", "--no-response", "3"],
        ["get", "coap://h/", "--token", "f"],
        ["get", "coap://h/", "--token", "001122334455667788"],
        ["get", "coap://h/", "-O", "Observe=0"],
        ["get", "coap://h/", "-O", "block2=0"],
        ["get", "coap://h/", "-O", "No-Such=0"],
        ["get", "coap://h/", "-O", "0=x"],
        ["get", "coap://h/", "-O", "65536=x"],
        ["get", "coap://h/", "-O", "ETag"],
        ["get", "coap://h/", "-O", "ETag="],
        ["get", "coap://h/", "-O", "ETag=0x1"],
        ["get", "coap://h/", "-O", "If-None-Match=x"],
        ["get", "coap://h/", "-O", "Max-Age=soon"],
        ["observe", "coap://h/", "--duration", "0"],
        ["observe", "coap://h/", "--count", "²"],
    ],
)
def test_wrong_arguments_end_with_2(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        main(arguments)
    assert ending.value.code == 2


def test_file_that_cannot_be_written_is_wrong_use(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["get", f"{uri}/body", "-o", "/no/such/directory/file"]) == 2
    assert "/no/such/directory/file" in capfd.readouterr().err


def test_no_answer_ends_with_3(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 0))
        silent = f"coap://127.0.0.1:{mute.getsockname()[1]}"
        assert main(["get", f"{silent}/x", "--timeout", "0.01"]) == 3
        assert main(["discover", silent, "--timeout", "0.01"]) == 3
        assert main(["ping", silent, "--timeout", "0.01"]) == 3
    assert capfd.readouterr().err.count("minicoap: ") == 3
