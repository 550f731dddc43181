"""What an agent is told when it starts."""

from __future__ import annotations

from typing import NamedTuple, Optional


class AgentConfig(NamedTuple):
    """Settings of an agent.

    `server` is the server's URI, `data_dir` where journal and downloads are kept, `host` and `port` where hints are
    received ("": on all addresses, 0: any free port). `python` is the interpreter into whose environment pip jobs
    install, `file_root` the directory that file jobs stay below (None: `files` in the data directory), `services` the
    names whose state health reports tell. `health_interval` in seconds overrides what the server asks for. `insecure`
    allows plain CoAP to a server on another machine. `debug` is how each message is shown on standard error: "text",
    "json", or "" for not at all.
    """

    server: str
    node_id: str
    data_dir: str = "fleet-agent"
    host: str = ""
    port: int = 5683
    python: str = ""
    file_root: Optional[str] = None
    groups: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    health_interval: Optional[float] = None
    insecure: bool = False
    debug: str = ""
