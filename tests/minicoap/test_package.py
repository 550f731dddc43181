"""The public face of the package: its names, what they cost, and the programs in its manual."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import minicoap


def test_every_public_name_can_be_had_and_has_a_manual() -> None:
    assert sorted(minicoap._PLACES) == sorted(minicoap.__all__)
    for name in minicoap.__all__:
        assert getattr(minicoap, name).__doc__, name
    assert set(minicoap.__all__) <= set(dir(minicoap))


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        minicoap.nothing_of_the_kind  # noqa: B018


@pytest.mark.parametrize(
    ("use", "absent"),
    [
        ("import minicoap", ["minicoap.codec", "asyncio", "socket"]),
        ("import minicoap; minicoap.encode", ["minicoap.core", "asyncio", "socket"]),
        ("import minicoap; minicoap.EndpointCore", ["minicoap.asyncio", "asyncio", "socket", "random"]),
        ("import sys; sys.modules['ssl'] = None; import minicoap; minicoap.Endpoint", ["hashlib", "secrets", "random"]),
    ],
)
def test_a_name_costs_only_what_it_needs(use: str, absent: list[str]) -> None:
    program = f"{use}\nimport sys\nprint(*[name for name in {absent!r} if sys.modules.get(name)])"
    root = Path(minicoap.__file__).parents[1]
    ended = subprocess.run([sys.executable, "-c", program], cwd=root, check=True, capture_output=True, text=True)
    assert ended.stdout == "\n"


def programs() -> list[str]:
    found = re.findall(r"::\n\n((?:    .*\n|\n)+)", minicoap.__doc__ or "")
    return [textwrap.dedent(program) for program in found]


def test_programs_in_the_manual_are_short_and_work_together() -> None:
    server, client, observer = programs()
    assert len([line for line in client.splitlines() if line.strip()]) <= 5
    assert len([line for line in server.splitlines() if line.strip()]) <= 10
    assert len([line for line in observer.splitlines() if line.strip()]) <= 4
    names: dict[str, Any] = {}
    bound: list[str] = []

    async def scenario() -> str:
        original = minicoap.Endpoint.serve

        async def serve(self: Any, uri: str) -> None:
            await original(self, uri.replace(":5683", ":0"))
            bound.append(self.local_uri)

        names_of_server: dict[str, Any] = {}
        exec(server, names_of_server)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(minicoap.Endpoint, "serve", serve)
            task = asyncio.ensure_future(names_of_server["main"]())
            while not bound and not task.done():
                await asyncio.sleep(0)
        exec(client.replace("coap://127.0.0.1:5683", bound[0]), names)
        text: str = await asyncio.wait_for(names["read"](), 20)
        shown: list[str] = []
        names["print"] = shown.append
        exec(observer.replace("coap://127.0.0.1:5683", bound[0]), names)
        watching = asyncio.ensure_future(names["watch"]())
        while len(shown) < 2 and not watching.done():
            await asyncio.sleep(0.01)
        assert len(set(shown)) == len(shown)
        watching.cancel()
        task.cancel()
        for ended in (watching, task):
            with pytest.raises(asyncio.CancelledError):
                await ended
        return text

    assert re.match(r".*\d\d:\d\d:\d\d", asyncio.run(scenario()))
