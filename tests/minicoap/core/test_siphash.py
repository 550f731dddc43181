"""The keyed hash, against the vectors of its authors (SipHash-2-4, 64 bits: key 00 to 0f, input 00, 01, …)."""

from __future__ import annotations

import pytest

from minicoap.core.siphash import siphash

KEY = bytes(range(16))
VECTORS = {
    0: "310e0edd47db6f72", 1: "fd67dc93c539f874", 2: "5a4fa9d909806c0d", 7: "37d1018bf50002ab",
    8: "6224939a79f5f593", 15: "e545be4961ca29a1", 63: "724506eb4c328a95",
}  # fmt: skip


@pytest.mark.parametrize(("length", "expected"), VECTORS.items())
def test_hash_is_that_of_its_authors(length: int, expected: str) -> None:
    assert siphash(KEY, bytes(range(length))).hex() == expected
