"""The engine: what commands mean. Deterministic, without I/O, over the rows of one transaction."""

from .apply import answer_again, apply

__all__ = ["answer_again", "apply"]
