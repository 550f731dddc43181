"""`minicoap observe`, as a user runs it. The server runs in a thread; the command itself changes what it observes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from minicoap import Endpoint, Request, Resource, Response, Site, codes
from minicoap.cli.main import main


@pytest.fixture
def uri() -> Iterator[str]:
    """A server whose counter goes on soon after each time that it has been asked; from 3 on it is gone at /gone."""
    started = threading.Event()
    state: dict[str, Any] = {"count": 0}

    def count(request: Request) -> Response:
        now, state["count"] = state["count"], state["count"] + 1
        state["loop"].call_later(0.02, state["endpoint"].changed, "/" + request.uri_path[0])
        if now >= 3 and request.uri_path == ("gone",):
            return Response(codes.NOT_FOUND, b"used up")
        return Response(payload=b"%d" % now if request.uri_path != ("lines",) else b"%d\n" % now)

    site = Site(
        Resource("/count", get=count, observable=True),
        Resource("/lines", get=count, observable=True),
        Resource("/gone", get=count, observable=True),
        Resource("/long", get=lambda request: Response(payload=b"." * 3000), observable=True),
        Resource("/still", get=lambda request: Response(payload=b"still")),
    )

    async def serve() -> None:
        state["loop"], state["stop"] = asyncio.get_running_loop(), asyncio.Event()
        async with Endpoint(site) as endpoint:
            await endpoint.serve("coap://127.0.0.1:0")
            state["uri"] = endpoint.local_uri
            state["endpoint"] = endpoint
            started.set()
            await state["stop"].wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(20)
    yield state["uri"]
    state["loop"].call_soon_threadsafe(state["stop"].set)
    thread.join(20)


@pytest.mark.parametrize("path", ["count", "lines"])
@pytest.mark.parametrize("more", [[], ["--non"]])
def test_each_state_is_a_line_until_the_count_is_reached(
    uri: str, path: str, more: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["observe", f"{uri}/{path}", "--count", "3", *more]) == 0
    out, err = capfd.readouterr()
    lines = out.split("\n")
    assert (len(lines), lines.pop(), err) == (4, "", "")
    assert sorted(set(map(int, lines))) == list(map(int, lines))


def test_time_that_is_over_ends_it(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["observe", f"{uri}/long", "--duration", "0.3"]) == 0
    assert capfd.readouterr() == ("." * 3000 + "\n", "")


def test_verbose_shows_code_and_options(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["observe", "-v", f"{uri}/count", "--count", "1"]) == 0
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 1
    assert err.startswith("2.05 Content\n  Observe: ")
    assert "  Max-Age: 60 s\n" in err


def test_resource_that_cannot_be_observed_is_shown_once(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["observe", f"{uri}/still"]) == 0
    assert capfd.readouterr() == ("still\n", "the server does not tell of changes: this is how it is now\n")


def test_refusal_ends_it(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["observe", f"{uri}/nothing"]) == 1
    assert capfd.readouterr() == ("", "4.04 Not Found\nthere is nothing at this path\n")
    assert main(["observe", f"{uri}/gone"]) == 1
    out, err = capfd.readouterr()
    assert set(out.split()) <= {"0", "1", "2"}
    assert err == "4.04 Not Found\nused up\n"


def test_nobody_there_is_no_answer(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["observe", "coap://127.0.0.1:1/x"]) == 3
    assert "cannot be reached" in capfd.readouterr().err
    assert main(["observe", "coap://[100::1]/x", "--duration", "0.05"]) == 3
    assert capfd.readouterr().err
