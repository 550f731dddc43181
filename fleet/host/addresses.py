"""Addresses that only this machine can reach: where plain CoAP can be read and forged by nobody else."""

LOOPBACK = ("::1", "localhost")
_MAPPED = "::ffff:"


def is_loopback(host: str) -> bool:
    """Whether `host`, as a person writes it, can be reached from this machine only."""
    return host in LOOPBACK or host.startswith("127.")


def plain_host(host: str) -> str:
    """Return an address as a person writes it: 192.0.2.7 for what an IPv6 socket has as ::ffff:192.0.2.7."""
    return host[len(_MAPPED) :] if host.startswith(_MAPPED) and "." in host else host
