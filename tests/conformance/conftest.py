"""Skips what stands here where scapy, which the tester crafts its packets with, is missing."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests below this folder a reason to be skipped."""
    if find_spec("scapy") is not None:
        return
    missing = pytest.mark.skip(reason="the conformance tester crafts its packets with scapy: pip install 'scapy>=2.6'")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(missing)
