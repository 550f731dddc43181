"""`fleet server install`, `fleet agent install` and `uninstall`: the units of systemd that run them.

A unit carries the digest of its own text. So one that somebody changed by hand is known, and is neither replaced nor
removed without --force; one that nobody changed is.
"""

from __future__ import annotations

import argparse
import hashlib
import ipaddress
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, Optional

from fleet.agent.config import AgentConfig
from fleet.cli import configuration
from fleet.cli.configuration import Setting
from fleet.cli.exitcodes import DONE
from fleet.cli.units import HOMES, STATE_ROOT, Service, agent_unit, server_unit, socket_unit
from fleet.errors import UsageError
from fleet.host.files import SystemFiles
from fleet.server.config import ServerConfig

DIRECTORY = "/etc/systemd/system"
ENVIRONMENT_FILES = "/etc/default"

_PATHS = ("DIR", "PATH", "FILE")  # what the help calls the value of a setting that is a path
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,100}")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_MARK = "# fleet unit "


def main(role: str, settings: Sequence[Setting], arguments: Sequence[str]) -> int:
    """Run `fleet ROLE install` or `uninstall`; returns the exit code, raises UsageError."""
    action, *others = arguments
    parser = argparse.ArgumentParser(
        prog=f"fleet {role} {action}",
        description=f"Make `fleet {role}` a service of systemd; what it is to be started with is kept in its unit."
        if action == "install"
        else f"Remove the units of `fleet {role}`; its data stays.",
        formatter_class=configuration.LeanHelp,
        allow_abbrev=False,
    )
    parser.add_argument("--root", metavar="DIR", default="/", help="the root of the system, for images (default: /)")
    parser.add_argument("--name", default=f"fleet-{role}", help=f"the unit's name (default: fleet-{role})")
    parser.add_argument("--force", action="store_true", help="also where somebody changed a unit by hand")
    if action == "install":
        parser.add_argument("--print", action="store_true", help="print the units and write nothing")
        parser.add_argument("--run-as", metavar="USER", default="", help=_run_as_help(role))
        if role == "server":
            parser.add_argument("--socket", action="store_true", help="let systemd open the port, in a .socket unit")
            parser.add_argument("--passphrase-file", metavar="FILE", help="of the authority's key, if it has one")
        configuration.add_arguments(parser, settings)
    else:
        configuration.add_arguments(parser, [configuration.DEBUG])
    options = parser.parse_args(others)
    if not _NAME.fullmatch(options.name):
        raise UsageError(f"--name {options.name}: letters, digits, '_', '.' and '-' make a name; give such a one")
    directory = os.path.abspath(options.root) + DIRECTORY if options.root != "/" else DIRECTORY
    if action == "uninstall":
        return _uninstall(directory, options.name, options.force)
    units = _units(role, settings, options)
    if options.print:
        print("\n".join(f"# {DIRECTORY}/{name}\n{text}" for name, text in units.items()), end="")
        return DONE
    return _install(directory, units, options.force)


def _run_as_help(role: str) -> str:
    default = "one made up by systemd" if role == "server" else "root"
    return f"the user that it runs as, who exists (default: {default})"


# What the units say


def _units(role: str, settings: Sequence[Setting], options: argparse.Namespace) -> dict[str, str]:
    """The files by name."""
    if options.run_as and not _USER.fullmatch(options.run_as):
        raise UsageError(f"--run-as {options.run_as}: no user's name; give one that `getent passwd` knows")
    for setting in (*settings, Setting("config", configuration.text, "", "FILE")):
        value = getattr(options, setting.name)
        if value is not None and setting.metavar in _PATHS and value:
            setattr(options, setting.name, os.path.abspath(value))
    if options.data_dir is None:
        options.data_dir = f"{STATE_ROOT}/{options.name}"
    # What is set around this command is not set around the service: only flags and the file count, and below a file
    # there is no other.
    values = configuration.resolve(role, settings, options, {"XDG_CONFIG_HOME": os.devnull})
    service = Service(
        name=options.name,
        command=(sys.executable, "-m", "fleet.cli.main", role, *_flags(settings, options)),
        data_dir=options.data_dir,
        environment_file=f"{ENVIRONMENT_FILES}/{options.name}",
        # An environment's interpreter is a link to the one that it was made with.
        reads=tuple(filter(None, (sys.executable, os.path.realpath(sys.executable), options.config))),
        user=options.run_as,
    )
    _warn_of_hidden(service)
    if role == "server":
        return _server_units(service, ServerConfig(**values), options.socket, options.passphrase_file)
    return _agent_units(service, values)


def _server_units(
    service: Service, config: ServerConfig, is_activated: bool, passphrase_file: Optional[str]
) -> dict[str, str]:
    from fleet.server.listening import has_authority, serves_plain

    is_plain = serves_plain(config.plain_host, config)
    is_secure = has_authority(config)
    if not service.user:
        if not service.data_dir.startswith(STATE_ROOT + "/"):
            raise UsageError(
                f"--data-dir {service.data_dir}: outside of {STATE_ROOT} a user has to own it; add --run-as USER, or "
                f"give a directory below {STATE_ROOT}"
            )
        for path in service.reads:
            _check_reach(path)
    ports = [port for port, is_served in ((config.port, is_plain), (config.secure_port, is_secure)) if is_served]
    service = service._replace(port=min(ports), passphrase_file=passphrase_file and os.path.abspath(passphrase_file))
    if not is_activated:
        return _marked({f"{service.name}.service": server_unit(service)})
    listens = [_listen(config.plain_host, config.port)] if is_plain else []
    if is_secure:
        listens.append(_listen(config.host or "::", config.secure_port, "--secure-port"))
    service = service._replace(sockets=tuple(listens))
    return _marked({f"{service.name}.service": server_unit(service), f"{service.name}.socket": socket_unit(service)})


def _agent_units(service: Service, values: dict[str, Any]) -> dict[str, str]:
    name = service.environment_file
    for required in ("server", "node_id"):
        if required not in values:
            print(f"{required} is not given: put FLEET_{required.upper()}=… into {name}", file=sys.stderr)
    config = AgentConfig(**{"server": "", "node_id": "", **values})
    if config.server:
        from fleet.agent.main import server_uri

        server_uri(config)
    writes = []
    if config.python:
        python = os.path.abspath(config.python)
        prefix = os.path.realpath(os.path.dirname(os.path.dirname(python)))
        above = os.path.dirname(prefix)
        if above == "/":
            raise UsageError(
                f"--python {python}: its environment is put back by renaming, and that would take the right to write "
                "all of /; move it one directory down, as in /opt/app"
            )
        writes.append(above)
    if config.file_root is not None:
        writes.append(os.path.abspath(config.file_root))
    service = service._replace(
        port=config.port, python=config.python, writes=tuple(writes), watches_services=bool(config.services)
    )
    return _marked({f"{service.name}.service": agent_unit(service)})


def _flags(settings: Sequence[Setting], options: argparse.Namespace) -> list[str]:
    """What was given on the command line, once more."""
    flags = []
    for setting in settings:
        value = getattr(options, setting.name)
        if value is None:
            continue
        if setting.switch == value:
            flags.append(setting.flag_name)
            continue
        for item in value if setting.is_many else [value]:
            # In one word, since a value may begin with a dash.
            flags.append(f"{setting.flag_name}={item}")
    if options.config:
        flags.append(f"--config={options.config}")
    return flags


def _listen(host: str, port: int, flag: str = "--port") -> str:
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise UsageError(f"--host {host}: with --socket give an address, as in 192.0.2.7") from None
    if port == 0:
        raise UsageError(f"{flag} 0: with --socket give the port that nodes are to find")
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _warn_of_hidden(service: Service) -> None:
    for path in service.reads:
        if path.startswith(("/tmp/", "/var/tmp/")):
            print(f"{path}: the service has a /tmp of its own and will not find it; move it", file=sys.stderr)


def _check_reach(path: str) -> None:
    """Refuse what a user made up by systemd could not reach, as a home of root."""
    above = os.path.dirname(path)
    while above != "/":
        if any(above == home for home in HOMES) or (os.path.isdir(above) and not os.stat(above).st_mode & 0o001):
            raise UsageError(
                f"{path} cannot be reached by the user that systemd makes up: {above} is closed to others; move it, as "
                "to /opt, or add --run-as USER"
            )
        above = os.path.dirname(above)


# Files


def _marked(units: dict[str, str]) -> dict[str, str]:
    return {name: f"{_MARK}{_digest(text)}: changes to this file are better made by `systemctl edit {name}`\n{text}"
            for name, text in units.items()}  # fmt: skip


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _is_unchanged(text: Optional[str]) -> bool:
    """Whether a unit is as it was written here once."""
    if text is None or not text.startswith(_MARK):
        return False
    head, _, rest = text.partition("\n")
    return head[len(_MARK) :].partition(":")[0] == _digest(rest)


def _content(path: str) -> Optional[str]:
    """What is there; None if it is no file of text, as where the unit is masked."""
    if os.path.islink(path) or not os.path.isfile(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except ValueError:
        return None


def _install(directory: str, units: dict[str, str], force: bool) -> int:
    paths = {os.path.join(directory, name): text for name, text in units.items()}
    for path, text in paths.items():
        if os.path.lexists(path) and not force and _content(path) != text and not _is_unchanged(_content(path)):
            raise UsageError(f"{path} was changed by hand; --force replaces it, `systemctl edit` keeps changes apart")
    files = SystemFiles()
    try:
        files.make_directory(directory)
        for path, text in paths.items():
            if _content(path) == text:
                print(f"{path} is as it should be")
            else:
                files.replace(path, text.encode())
                os.chmod(path, 0o644)
                print(f"{path} written")
    except OSError as error:
        raise UsageError(
            f"{directory} cannot be written: {error.strerror}; run this as root, or with --root"
        ) from error
    if directory == DIRECTORY:
        started = next((name for name in units if name.endswith(".socket")), next(iter(units)))
        print(f"to start it, now and at each boot: systemctl daemon-reload && systemctl enable --now {started}")
    return DONE


def _uninstall(directory: str, name: str, force: bool) -> int:
    paths = [os.path.join(directory, f"{name}.{kind}") for kind in ("service", "socket")]
    there = [path for path in paths if os.path.lexists(path)]
    if not there:
        print(f"there is no {paths[0]}")
        return DONE
    for path in there:
        if not force and not _is_unchanged(_content(path)):
            raise UsageError(f"{path} was changed by hand; --force removes it all the same")
    files = SystemFiles()
    try:
        for path in there:
            files.remove(path)
            print(f"{path} removed")
    except OSError as error:
        raise UsageError(
            f"{directory} cannot be written: {error.strerror}; run this as root, or with --root"
        ) from error
    if directory == DIRECTORY:
        print(f"to end it: systemctl disable --now {' '.join(map(os.path.basename, there))}; systemctl daemon-reload")
    return DONE
