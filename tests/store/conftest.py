"""Every contract test runs over each store."""

import pytest

from tests.store.stores import MemoryDisk, SqliteDisk


@pytest.fixture(params=["memory", "sqlite"])
def disk(request, tmp_path):
    made = MemoryDisk() if request.param == "memory" else SqliteDisk(str(tmp_path / "fleet.db"))
    yield made
    made.close()


@pytest.fixture
def store(disk):
    return disk.open()
