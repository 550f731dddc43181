"""The server's process: socket, database, signals, and its restart by itself.

On restart the process replaces itself and hands its socket on to its successor by systemd's protocol (LISTEN_FDS), so
that datagrams that arrive meanwhile wait in the kernel, and the port is the same even if it was any free one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sqlite3
import sys
import threading
from typing import TYPE_CHECKING, Callable, NoReturn, Optional

from fleet.errors import UsageError
from fleet.host.addresses import is_loopback
from fleet.host.clock import SystemClock
from fleet.host.facts import PsutilFacts
from fleet.host.files import SystemFiles
from fleet.host.lock import held
from fleet.server.config import PKI_DIRECTORY, ServerConfig
from fleet.server.resources.system import RESTART
from fleet.server.server import Server
from fleet.server.store.interface import Post
from fleet.server.store.sqlite import SqliteLedger
from minicoap.asyncio.addresses import resolve_local
from minicoap.asyncio.entropy import SystemEntropy
from minicoap.asyncio.udp import UdpShell, open_socket
from minicoap.errors import CoapError

if TYPE_CHECKING:
    from fleet.server.certification import Certification

logger = logging.getLogger(__name__)

_INHERITED_SOCKET = 3  # the first descriptor of systemd's protocol, sd_listen_fds(3)
FAILED = "failed"
_LINGER = 0.2  # seconds in which the last answers leave before a stop


def run(config: ServerConfig, passphrase: Optional[bytes] = None) -> int:
    """Serve until told to stop; returns the exit code, or does not return if the server restarts.

    `passphrase` is that of the authority's key, if it has one. Raises UsageError for a configuration that cannot work.
    """
    if not is_loopback(config.host) and not config.insecure:
        raise UsageError(
            f"plain CoAP on {config.host} can be read and forged by anyone on the way; add --insecure if that is "
            "meant, or use --host 127.0.0.1"
        )
    os.makedirs(config.data_dir, exist_ok=True)
    with held(config.data_dir, "server"):
        action, sock = asyncio.run(_serve(config, passphrase))
    if action == RESTART:
        _replace_process(sock)
    sock.close()
    return 1 if action == FAILED else 0


async def _serve(config: ServerConfig, passphrase: Optional[bytes]) -> tuple[str, socket.socket]:
    """Serve until stopped; returns why, and the socket for a successor."""
    loop = asyncio.get_running_loop()
    sock = await _listening_socket(config)
    stopped: asyncio.Future[str] = loop.create_future()
    shell: Optional[UdpShell] = None

    def stop(action: str) -> None:
        if not stopped.done():
            stopped.set_result(action)

    def post(completion: Callable[[], None]) -> None:
        loop.call_soon_threadsafe(complete, completion)

    def complete(completion: Callable[[], None]) -> None:
        completion()
        if shell is not None:
            shell.wake()

    def thread_failed(failure: threading.ExceptHookArgs) -> None:
        # Without one of the ledger's threads nothing can be done any more: whoever watches over us is to start anew.
        logger.critical("a thread failed", exc_info=failure.exc_value)
        loop.call_soon_threadsafe(stop, FAILED)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, "shutdown")
    threading.excepthook = thread_failed
    certification = _open_certification(config, passphrase)
    ledger = _open_ledger(config, post)
    files = SystemFiles()
    try:
        port = sock.getsockname()[1]
        server = Server(
            config,
            ledger=ledger,
            clock=SystemClock(),
            entropy=SystemEntropy(),
            files=files,
            facts=PsutilFacts(config.data_dir),
            servers=(_uri(config.host, port),),
            act=stop,
            registrar=None if certification is None else certification.registrar,
        )
        ready = asyncio.Event()
        server.start(ready.set)
        await ready.wait()
        successor = sock.dup()
        shell = UdpShell(server, sock, loop)
        try:
            _announce(config, port)
            if certification is not None:
                _keep_up(certification, loop)
            action = await stopped
            await asyncio.sleep(_LINGER)
        finally:
            shell.close()
            server.stop()
    finally:
        ledger.close()
        files.close()
        if certification is not None:
            certification.close()
    logger.info("stopped: %s", action)
    return action, successor


def _open_certification(config: ServerConfig, passphrase: Optional[bytes]) -> Optional[Certification]:
    """The certificates of this server; None where there is no authority, so that nobody is certified."""
    if not os.path.exists(os.path.join(config.data_dir, PKI_DIRECTORY)):
        return None
    # Only now: a server without certificates needs no `cryptography`.
    from fleet.server.certification import Certification

    return Certification(
        config.data_dir, SystemClock(), passphrase=passphrase, renewed=lambda: None, revoked=lambda serials: None
    )


def _keep_up(certification: Certification, loop: asyncio.AbstractEventLoop) -> None:
    """Have done what is due about certificates, as long as the loop runs."""
    certification.run(loop.time())
    loop.call_at(certification.next_due_at(), _keep_up, certification, loop)


def _open_ledger(config: ServerConfig, post: Post) -> SqliteLedger:
    database = os.path.join(config.data_dir, "fleet.sqlite")
    try:
        return SqliteLedger(database, post)
    except sqlite3.Error as error:
        raise UsageError(f"the database {database} cannot be opened: {error}") from error


def _announce(config: ServerConfig, port: int) -> None:
    print(f"listening on {_uri(config.host, port)}", flush=True)
    if is_loopback(config.host):
        print("plain CoAP on loopback: everyone on this machine is an operator", flush=True)
    else:
        print("plain CoAP without protection (--insecure): everyone who reaches it is an operator", flush=True)


async def _listening_socket(config: ServerConfig) -> socket.socket:
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS") == "1":
        sock = socket.socket(fileno=_INHERITED_SOCKET)
        sock.setblocking(False)
        os.set_inheritable(_INHERITED_SOCKET, False)
        for name in ("LISTEN_PID", "LISTEN_FDS"):
            del os.environ[name]
        return sock
    try:
        family, address = await resolve_local(config.host, config.port, asyncio.get_running_loop())
        return open_socket(family, address)
    except (OSError, CoapError) as error:
        raise UsageError(f"cannot listen on --host {config.host} --port {config.port}: {error}") from error


def _replace_process(sock: socket.socket) -> NoReturn:
    """Become a fresh process of the same command, which takes over the socket."""
    os.dup2(sock.fileno(), _INHERITED_SOCKET, inheritable=True)
    environment = {**os.environ, "LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    logging.shutdown()
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *_own_arguments()], environment)


def _own_arguments() -> list[str]:
    """What follows the interpreter in the command line that started this process."""
    main = getattr(sys.modules["__main__"], "__spec__", None)
    if main is None:
        return sys.argv
    # Started by `python -m`: the file alone would look for its imports beside itself.
    name = main.name[: -len(".__main__")] if main.name.endswith(".__main__") else main.name
    return ["-m", name, *sys.argv[1:]]


def _uri(host: str, port: int) -> str:
    if host in ("", "0.0.0.0", "::"):
        host = socket.gethostname()
    return f"coap://[{host}]:{port}" if ":" in host else f"coap://{host}:{port}"
