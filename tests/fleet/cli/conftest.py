"""Commands are tested with a server of their own, and with no setting but the test's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

import pytest

from fleet.cli.main import main
from tests.fleet.operator.fake_fleet import FakeFleet, serving


class Ran(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in [name for name in os.environ if name.startswith("FLEET_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))


@pytest.fixture
def fake() -> Iterator[FakeFleet]:
    with serving(FakeFleet()) as fake:
        yield fake


@pytest.fixture
def fleet(fake: FakeFleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run `fleet` with these arguments against the server."""
    monkeypatch.setenv("FLEET_SERVER", fake.uri)

    def run(*arguments: str) -> Ran:
        code = main(arguments)
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run
