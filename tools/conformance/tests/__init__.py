"""The tests of servers: each module enters its own into `tools.conformance.model.CATALOGUE`."""

from importlib import import_module

MODULES = (
    "core", "lossy", "block", "observe", "link", "dtls", "x509", "malformed", "options", "messages", "bodies",
    "extensions", "methods", "qblock", "amplification",
)  # fmt: skip


def load() -> None:
    """Enter all tests into the catalogue, in the order of `MODULES`."""
    for name in MODULES:
        import_module(f"tools.conformance.tests.{name}")
