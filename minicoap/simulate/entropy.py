"""Randomness from a seed, as independent streams by name.

The Mersenne twister under `random()` and `getrandbits()`, and its seeding from text, are the same in every Python that
this package runs on, and none of them depends on the hash seed.
"""

from __future__ import annotations

from random import Random


class SeededEntropy:
    """An `Entropy` (see `minicoap.core.entropy`) that repeats itself: same seed and name, same values."""

    __slots__ = ("_random",)

    def __init__(self, seed: int, name: str) -> None:
        self._random = Random(f"{seed}/{name}")

    def token(self, length: int) -> bytes:
        """Return `length` bytes, 1 or more."""
        return self._random.getrandbits(8 * length).to_bytes(length, "big")

    def uniform(self, low: float, high: float) -> float:
        """Return a number between `low` and `high`."""
        return low + (high - low) * self._random.random()

    def integer(self, bits: int) -> int:
        """Return a number of so many random bits."""
        return self._random.getrandbits(bits)
