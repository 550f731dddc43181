"""Each test of the resources has a server of its own."""

from __future__ import annotations

import pytest

from tests.fleet.server.serving import Served


@pytest.fixture
def served() -> Served:
    return Served()
