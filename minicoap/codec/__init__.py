"""Bytes to messages and back, and the registries: pure functions and tables."""
