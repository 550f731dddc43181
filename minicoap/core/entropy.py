"""Randomness as an argument: what the core needs of it, so that a simulation can repeat itself."""

from __future__ import annotations

from typing import Protocol


class Entropy(Protocol):
    """A source of randomness; tokens have to be unpredictable to others (RFC 7252 §5.3.1)."""

    def token(self, length: int) -> bytes:
        """Return `length` random bytes."""

    def uniform(self, low: float, high: float) -> float:
        """Return a number between `low` and `high`."""

    def integer(self, bits: int) -> int:
        """Return a number of `bits` random bits."""
