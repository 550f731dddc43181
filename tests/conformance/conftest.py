"""Skips what stands here where scapy, which the tester crafts its packets with, is missing."""

from __future__ import annotations

import pytest

pytest.importorskip("scapy", reason="the conformance tester crafts its packets with scapy: pip install 'scapy>=2.6'")
