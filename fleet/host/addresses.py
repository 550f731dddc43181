"""Addresses that only this machine can reach: where plain CoAP can be read and forged by nobody else."""

LOOPBACK = ("::1", "localhost")


def is_loopback(host: str) -> bool:
    """Whether `host`, as a person writes it, can be reached from this machine only."""
    return host in LOOPBACK or host.startswith("127.")
