"""The engine: what commands mean. Deterministic, without I/O, over the rows of one transaction."""

from .apply import apply

__all__ = ["apply"]
