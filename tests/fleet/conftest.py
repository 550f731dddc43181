"""What holds for every test of the fleet: registers of certificates that a test opened end with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fleet.pki.register import Register


@pytest.fixture(autouse=True)
def registers_are_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    opened: list[Register] = []
    begin = Register.__init__

    def noted(self: Register, *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        opened.append(self)

    monkeypatch.setattr(Register, "__init__", noted)
    yield
    for register in opened:
        register.close()
