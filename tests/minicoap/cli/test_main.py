"""The command, as a user runs it: arguments in; output, errors and exit code out. The server runs in a thread."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minicoap import Endpoint, Request, Resource, Response, Site, TransferState, codes, contentformats
from minicoap.cli.main import main

BODY = bytes(range(256)) * 20


def describe(request: Request) -> Response:
    text = f"{codes.code_name(request.code)} {request.payload.decode()} {request.content_format} {request.accept}"
    return Response(codes.CONTENT, text.encode(), contentformats.TEXT, etag=b"\x01\x02")


def site() -> Site:
    return Site(
        Resource("/describe", get=describe, put=describe, post=describe, fetch=describe, delete=describe, title="All"),
        Resource("/changed", put=lambda request: Response(codes.CHANGED), resource_type="silent"),
        Resource("/created", post=lambda request: Response(codes.CREATED, location_path=("updates", "7"))),
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
        async with Endpoint(site()) as endpoint:
            await endpoint.serve("coap://127.0.0.1:0")
            state["uri"] = endpoint.local_uri
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
    assert [line.split()[0] for line in lines[1:]] == ["/describe", "/changed", "/created", "/refused", "/body"]
    assert main(["discover", uri, "--filter", "rt=sil*"]) == 0
    assert capfd.readouterr().out.splitlines() == ["path      rt", "/changed  silent"]


def test_ping_prints_the_time(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["ping", uri]) == 0
    assert capfd.readouterr().out.startswith("pong after ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["get", "http://h/"], "coap://"),
        (["get", "coaps://127.0.0.1/"], "--ca FILE"),
        (["put", "coap://127.0.0.1/x", "--file", "/no/such/file"], "/no/such/file"),
        (["get", "coap://127.0.0.1/x", "--qblock", "--window", "2"], "window"),
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
        ["put", "coap://h/", "--window", "2"],
        ["put", "coap://h/", "--payload", "x", "--file", "y"],
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
