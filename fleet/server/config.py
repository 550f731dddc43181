"""What a server is told when it starts."""

from __future__ import annotations

from typing import NamedTuple

DEFAULT_PORT = 5683
DEFAULT_SECURE_PORT = 5684
PKI_DIRECTORY = "pki"  # of the authority, within the data directory


class ServerConfig(NamedTuple):
    """Settings of a server.

    `host` is where it listens ("": with CoAPS on all addresses, with plain CoAP where only this machine reaches it),
    `port` for plain CoAP and `secure_port` for CoAPS (0: any free port); `data_dir` where it keeps everything.
    `health_interval`, in seconds, is what nodes are told; a node not heard of for three of them is offline.
    `artifact_quota`, in bytes, bounds the firmware store, `max_nodes` the nodes that may be registered. Without `push`
    nodes learn of jobs when they report. `debug` is how each message is shown on standard error: "text", "json", or ""
    for not at all.
    """

    host: str = ""
    port: int = DEFAULT_PORT
    data_dir: str = "fleet-server"
    insecure: bool = False
    push: bool = True
    health_interval: float = 60.0
    artifact_quota: int = 8 * 1024 * 1024 * 1024
    max_nodes: int = 200_000
    debug: str = ""
    secure_port: int = DEFAULT_SECURE_PORT

    @property
    def plain_host(self) -> str:
        """Where plain CoAP is served, if it is."""
        return self.host or "127.0.0.1"
