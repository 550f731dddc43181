"""`--check-config`: what would keep a server or an agent from running as it is configured, all of it at once.

Nothing is made or changed, and nothing is sent; what is found is a line that names the setting and the remedy.
"""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import os
import socket
from collections.abc import Sequence
from typing import Any, Callable, Optional
from urllib.parse import quote

from fleet.agent.config import AgentConfig
from fleet.cli.exitcodes import DONE, WRONG_USE
from fleet.cli.secrets import PASSPHRASE, read_secret
from fleet.errors import UsageError
from fleet.host.addresses import is_loopback
from fleet.server.config import ServerConfig

UNDER_WAY = "runs"  # another process has the data directory: then what it holds cannot be free


def check_server(values: dict[str, Any], problems: Sequence[UsageError], passphrase_file: Optional[str]) -> int:
    """Print what is wrong with a server of these settings; returns the exit code. `problems` were found in reading."""
    from fleet.server.listening import has_authority, serves_plain

    config = ServerConfig(**values)
    found = [str(problem) for problem in problems]
    found += _raised(lambda: serves_plain(config.plain_host, config))
    found += _raised(lambda: read_secret("passphrase", passphrase_file, PASSPHRASE, prompt=None))
    state = _check_data_directory(config.data_dir, "server", found)
    if state != UNDER_WAY:
        host = config.plain_host
        if is_loopback(host) or config.insecure or not has_authority(config):
            _check_port(f"--host {host} --port {config.port}", host, config.port, found)
        if has_authority(config):
            host = config.host or "0.0.0.0"
            _check_port(f"--host {host} --secure-port {config.secure_port}", host, config.secure_port, found)
            _check_packages(found)
        _check_database(os.path.join(config.data_dir, "fleet.sqlite"), found)
    return _tell("server", found, state, config.data_dir)


def check_agent(values: dict[str, Any], problems: Sequence[UsageError]) -> int:
    """Print what is wrong with an agent of these settings; returns the exit code. `problems` were found in reading."""
    from fleet.agent.main import open_secured, server_uri

    config = AgentConfig(**{"server": "", "node_id": "", **values})
    found = [str(problem) for problem in problems]
    if config.server:
        unusable = _raised(lambda: server_uri(config))
        found += unusable
        if config.node_id and not unusable and server_uri(config).scheme == "coaps":
            found += _raised(lambda: open_secured(config._replace(data_dir=os.path.abspath(config.data_dir))))
    state = _check_data_directory(config.data_dir, "agent", found)
    if state != UNDER_WAY:
        _check_port(f"--port {config.port}", config.host or "0.0.0.0", config.port, found)
    if config.python:
        _check_environment(os.path.abspath(config.python), found)
    if config.file_root is not None:
        _check_directory("--file-root", os.path.abspath(config.file_root), found)
    return _tell("agent", found, state, config.data_dir)


def _tell(who: str, found: list[str], state: str, data_dir: str) -> int:
    for problem in found:
        print(problem)
    if state == UNDER_WAY:
        print(f"the {who} on {data_dir} is running: its port and its files were left alone")
    if found:
        print(f"{len(found)} to be put right")
        return WRONG_USE
    print("nothing is wrong")
    return DONE


def _raised(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except UsageError as error:
        return [str(error)]
    return []


def _check_directory(flag: str, path: str, found: list[str]) -> bool:
    """Whether a directory can be written, or made where it is missing; what is wrong goes to `found`."""
    if os.path.isdir(path):
        if os.access(path, os.R_OK | os.W_OK | os.X_OK):
            return True
        found.append(f"{flag} {path}: user {os.geteuid()} cannot write it; chown it, or give another directory")
        return False
    if os.path.lexists(path):
        found.append(f"{flag} {path}: this is no directory; give another, or remove it")
        return False
    above = os.path.dirname(path)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        found.append(f"{flag} {path}: it cannot be made, {above} is no directory; give another")
    elif not os.access(above, os.W_OK | os.X_OK):
        found.append(
            f"{flag} {path}: user {os.geteuid()} cannot make it in {above}; make it, or give another directory"
        )
    return False


def _check_data_directory(data_dir: str, who: str, found: list[str]) -> str:
    path = os.path.abspath(data_dir)
    if not _check_directory("--data-dir", path, found):
        return ""
    lock = os.path.join(path, "lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    except OSError as error:
        found.append(f"--data-dir {path}: {lock} cannot be written: {error.strerror}; chown what is in there")
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return UNDER_WAY
    finally:
        os.close(descriptor)
    for name in ("fleet.sqlite",) if who == "server" else ("journal",):
        file = os.path.join(path, name)
        if os.path.lexists(file) and not os.access(file, os.R_OK | os.W_OK):
            found.append(f"--data-dir {path}: user {os.geteuid()} cannot write {file}; chown what is in there")
    return ""


def _check_port(flags: str, host: str, port: int, found: list[str]) -> None:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as error:
        found.append(f"{flags}: {error.strerror}; give an address of this machine")
        return
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(address)
        except OSError as error:
            remedy = {
                errno.EADDRINUSE: "another process has it; stop that, or give another port",
                errno.EADDRNOTAVAIL: "this machine has no such address; give one that `ip address` shows",
                errno.EACCES: "ports below 1024 need CAP_NET_BIND_SERVICE; give a higher one",
            }.get(error.errno or 0, "give another")
            found.append(f"{flags}: {error.strerror}: {remedy}")


def _check_packages(found: list[str]) -> None:
    if importlib.util.find_spec("OpenSSL") is None or importlib.util.find_spec("cryptography") is None:
        found.append("CoAPS needs pyOpenSSL and cryptography: pip install 'minicoap[fleet,dtls]'")


def _check_database(path: str, found: list[str]) -> None:
    import sqlite3

    from fleet.server.store.migrations import newest

    if not os.path.exists(path):
        return
    try:
        # Immutable: not even the files that a reader of a WAL makes.
        database = sqlite3.connect(f"file:{quote(path)}?mode=ro&immutable=1", uri=True)
        try:
            version = int(database.execute("PRAGMA user_version").fetchone()[0])
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        finally:
            database.close()
    except sqlite3.Error as error:
        found.append(f"--data-dir: the database {path} cannot be opened: {error}; put a copy back, or move it away")
        return
    if version > newest():
        found.append(
            f"--data-dir: the database {path} has schema {version}, and this version of fleet knows {newest()}; start "
            "the newer one that wrote it, or give another directory"
        )


def _check_environment(python: str, found: list[str]) -> None:
    """What `fleet.install.pip` asks of the environment whose interpreter this is."""
    prefix = os.path.realpath(os.path.dirname(os.path.dirname(python)))
    above = os.path.dirname(prefix)
    if not os.access(python, os.X_OK) or os.path.isdir(python):
        found.append(f"--python {python}: no program that can be run; give bin/python of a virtual environment")
    elif not os.path.exists(os.path.join(prefix, "pyvenv.cfg")):
        found.append(f"--python {python}: {prefix} is no virtual environment; make one: python3 -m venv DIRECTORY")
    elif not os.access(prefix, os.W_OK):
        found.append(f"--python {python}: user {os.geteuid()} cannot write {prefix}; chown it")
    elif os.path.ismount(prefix) or not os.access(above, os.W_OK):
        found.append(
            f"--python {python}: {prefix} cannot be renamed within {above}, so no failed update could be undone; "
            "move the environment to a directory that can be written"
        )
