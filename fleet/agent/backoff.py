"""How long to wait before trying again: longer each time, never all nodes at once."""

from __future__ import annotations

from minicoap.core.entropy import Entropy


class Backoff:
    """Waits that double from `first` to at most `longest` seconds, each drawn from the upper half of its value."""

    def __init__(self, entropy: Entropy, first: float, longest: float) -> None:
        self._entropy = entropy
        self._first = first
        self._longest = longest
        self._next = first
        self.failures = 0

    def wait(self) -> float:
        """Count a failure and return how long to wait now, in seconds."""
        wait = self._next
        self.failures += 1
        self._next = min(self._longest, wait * 2)
        return self._entropy.uniform(wait / 2, wait)

    def reset(self) -> None:
        """It worked."""
        self._next = self._first
        self.failures = 0
