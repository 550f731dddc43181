"""`fleet agent`: runs the agent of a node until it is told to stop, or makes it a service.

This imports what the agent itself needs and no more: it stays in memory as long as the node is up.
"""

from __future__ import annotations

import sys

# msgspec takes typing_extensions where that is installed, by whatever wants it; since Python 3.11 it has nothing that
# msgspec needs, and would bring `inspect` and `ast`, 1.3 MB. A later import of it still works.
if sys.version_info >= (3, 11) and not {"msgspec", "typing_extensions"} & sys.modules.keys():
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    import msgspec  # noqa: F401

    del sys.modules["typing_extensions"]
import argparse
from collections.abc import Sequence
from typing import Any

from fleet.agent.config import AgentConfig
from fleet.cli import configuration
from fleet.cli.configuration import Setting
from fleet.cli.process import begin_log, make_data_directory
from fleet.errors import InvalidError
from fleet.model.nodes import check_node_id


def _node_id(value: Any) -> str:
    try:
        return check_node_id(configuration.text(value))
    except InvalidError as error:
        raise ValueError(str(error)) from error


SETTINGS = (
    Setting("server", configuration.text, "the fleet's server, as in coap://192.0.2.7:5683", "URI"),
    Setting("node_id", _node_id, "this node's id in the fleet", "ID"),
    Setting("data_dir", configuration.text, "where journal and downloads are kept (default: fleet-agent)", "DIR"),
    Setting("port", configuration.port, "the UDP port for hints, 0 for any free one (default: 5683)", "PORT"),
    Setting("python", configuration.text, "the interpreter whose environment pip jobs change", "PATH"),
    Setting("file_root", configuration.text, "what file jobs stay below (default: files in --data-dir)", "DIR"),
    Setting("groups", configuration.text, "a group that this node is in; repeatedly", "G", "--group", is_many=True),
    Setting(
        "services",
        configuration.text,
        "a service to report the state of; repeatedly",
        "NAME",
        "--service",
        is_many=True,
    ),
    Setting("health_interval", configuration.seconds, "how often to report (default: as the server says)", "SECONDS"),
    Setting("insecure", configuration.switch, "allow plain CoAP to a server on another machine", switch="true"),
    configuration.DEBUG,
)

REQUIRED = ("server", "node_id")


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code; raises UsageError."""
    if arguments and arguments[0] in ("install", "uninstall"):
        from fleet.cli import service

        return service.main("agent", SETTINGS, arguments)
    parser = argparse.ArgumentParser(
        prog="fleet agent",
        description="Run the agent of a node until it is told to stop; `fleet agent install` makes it a service.",
        formatter_class=configuration.LeanHelp,
        allow_abbrev=False,
    )
    configuration.add_arguments(parser, SETTINGS)
    parser.add_argument("--check-config", action="store_true", help="say what is wrong with all of this, and end")
    options = parser.parse_args(arguments)
    if options.check_config:
        from fleet.cli.check import check_agent

        return check_agent(*configuration.resolve_all("agent", SETTINGS, options, required=REQUIRED))
    config = AgentConfig(**configuration.resolve("agent", SETTINGS, options, required=REQUIRED))
    begin_log(config.debug)
    make_data_directory(config.data_dir)
    from fleet.agent.main import run

    return run(config)
