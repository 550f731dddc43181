"""`fleet server`: runs the server until it is told to stop, or makes it a service."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from fleet.cli import configuration
from fleet.cli.configuration import Setting
from fleet.cli.process import begin_log, make_data_directory
from fleet.cli.secrets import PASSPHRASE, read_secret
from fleet.server.config import DEFAULT_PORT, DEFAULT_SECURE_PORT, ServerConfig

SETTINGS = (
    Setting("host", configuration.text, "the address to listen on (default: for CoAPS all, else 127.0.0.1)", "ADDRESS"),
    Setting("port", configuration.port, f"the UDP port, 0 for any free one (default: {DEFAULT_PORT})", "PORT"),
    Setting(
        "secure_port",
        configuration.port,
        f"the UDP port of CoAPS, served where fleet pki init was run (default: {DEFAULT_SECURE_PORT})",
        "PORT",
    ),
    Setting("data_dir", configuration.text, "where everything is kept; made if need be (default: fleet-server)", "DIR"),
    Setting("insecure", configuration.switch, "allow plain CoAP on an address that others can reach", switch="true"),
    Setting("health_interval", configuration.seconds, "how often nodes are to report (default: 60)", "SECONDS"),
    Setting("artifact_quota", configuration.size, "the most that the store may hold (default: 8 GiB)", "BYTES"),
    Setting("max_nodes", configuration.count, "the most nodes that may be registered (default: 200000)", "NUMBER"),
    Setting("push", configuration.switch, "give nodes no hints of jobs that wait", flag="--no-push", switch="false"),
    configuration.DEBUG,
)


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code; raises UsageError."""
    if arguments and arguments[0] in ("install", "uninstall"):
        from fleet.cli import service

        return service.main("server", SETTINGS, arguments)
    parser = argparse.ArgumentParser(
        prog="fleet server",
        description="Run a fleet's server until it is told to stop; `fleet server install` makes it a service.",
        formatter_class=configuration.LeanHelp,
        allow_abbrev=False,
    )
    configuration.add_arguments(parser, SETTINGS)
    parser.add_argument(
        "--passphrase-file", metavar="FILE", help=f"of the authority's key, if it has one (or: {PASSPHRASE})"
    )
    parser.add_argument("--check-config", action="store_true", help="say what is wrong with all of this, and end")
    options = parser.parse_args(arguments)
    if options.check_config:
        from fleet.cli.check import check_server

        return check_server(*configuration.resolve_all("server", SETTINGS, options), options.passphrase_file)
    config = ServerConfig(**configuration.resolve("server", SETTINGS, options))
    passphrase = read_secret("passphrase", options.passphrase_file, PASSPHRASE, prompt=None)
    begin_log(config.debug)
    make_data_directory(config.data_dir)
    # Now, when nothing can be wrong any more with what was given.
    from fleet.server.main import run

    return run(config, None if passphrase is None else passphrase.encode())
