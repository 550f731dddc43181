"""Randomness from the operating system, without the modules that would load OpenSSL for it."""

from __future__ import annotations

from os import urandom

BUFFERED = 1024  # bytes fetched at a time: a system call costs more than a token


class SystemEntropy:
    """An `Entropy` (see `minicoap.core.entropy`) that nobody can predict."""

    __slots__ = ("_at", "_bytes")

    def __init__(self) -> None:
        self._bytes = b""
        self._at = 0

    def token(self, length: int) -> bytes:
        """Return `length` random bytes, at most 1024."""
        end = self._at + length
        if end > len(self._bytes):
            self._bytes = urandom(BUFFERED)
            self._at, end = 0, length
        token = self._bytes[self._at : end]
        self._at = end
        return token

    def uniform(self, low: float, high: float) -> float:
        """Return a number between `low` and `high`."""
        return low + (high - low) * (self.integer(53) / (1 << 53))

    def integer(self, bits: int) -> int:
        """Return a number of so many random bits."""
        length = (bits + 7) // 8
        return int.from_bytes(self.token(length), "big") >> (8 * length - bits)
