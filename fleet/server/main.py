"""The server's process: socket, database, signals, what the service manager hears, and its restart by itself.

On restart the process replaces itself and hands its socket on to its successor by systemd's protocol (LISTEN_FDS), so
that datagrams that arrive meanwhile wait in the kernel, and the port is the same even if it was any free one. To a
service manager it stays the same process (MAINPID), which reloads.
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
from typing import TYPE_CHECKING, Any, Callable, NoReturn, Optional

from fleet.errors import UsageError
from fleet.host.activation import hand_over, inherited_socket
from fleet.host.addresses import is_loopback
from fleet.host.clock import SystemClock
from fleet.host.facts import PsutilFacts
from fleet.host.files import SystemFiles
from fleet.host.lock import held
from fleet.host.notify import STOPPING, Heartbeat, service_manager
from fleet.server.config import PKI_DIRECTORY, ServerConfig
from fleet.server.resources.system import RESTART
from fleet.server.server import Server
from fleet.server.store.interface import Post
from fleet.server.store.sqlite import SqliteLedger
from minicoap.asyncio.addresses import resolve_local
from minicoap.asyncio.entropy import SystemEntropy
from minicoap.asyncio.udp import UdpShell, open_socket, prepare_socket
from minicoap.core.machine import DatagramMachine
from minicoap.errors import CoapError

if TYPE_CHECKING:
    from fleet.server.certification import Certification

logger = logging.getLogger(__name__)

FAILED = "failed"
_LINGER = 0.2  # seconds in which the last answers leave before a stop
_DRAIN = 10.0  # seconds that the ledger may take to answer what was asked of it before a stop


def run(config: ServerConfig, passphrase: Optional[bytes] = None) -> int:
    """Serve until told to stop; returns the exit code, or does not return if the server restarts.

    `passphrase` is that of the authority's key, if it has one. Raises UsageError for a configuration that cannot work.
    """
    check_protection(config.host, config.insecure)
    os.makedirs(config.data_dir, exist_ok=True)
    with held(config.data_dir, "server"):
        action, sock = asyncio.run(_serve(config, passphrase))
    if action == RESTART:
        _replace_process(sock)
    sock.close()
    return 1 if action == FAILED else 0


def check_protection(host: str, insecure: bool) -> None:
    """Raise UsageError if plain CoAP on `host` would be open to others and nobody said that this is meant."""
    if not is_loopback(host) and not insecure:
        raise UsageError(
            f"plain CoAP on {host} can be read and forged by anyone on the way; add --insecure if that is meant, or "
            "use --host 127.0.0.1"
        )


async def _serve(config: ServerConfig, passphrase: Optional[bytes]) -> tuple[str, socket.socket]:
    """Serve until stopped; returns why, and the socket for a successor."""
    loop = asyncio.get_running_loop()
    config, sock = await _listening_socket(config)
    stopped: asyncio.Future[str] = loop.create_future()
    hurried = asyncio.Event()
    manager = service_manager()
    shell: Optional[UdpShell] = None

    def stop(action: str) -> None:
        if not stopped.done():
            stopped.set_result(action)

    def signalled() -> None:
        if stopped.done():
            hurried.set()  # told twice, or during a restart: whoever still waits for an answer has to ask again
        stop("shutdown")

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
        loop.add_signal_handler(number, signalled)
    threading.excepthook = thread_failed
    revoked: list[str] = []  # until there is a server to write it down
    certification = _open_certification(config, passphrase, revoked)
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
        machine: DatagramMachine = server
        if config.debug:
            from minicoap.asyncio.trace import traced

            machine = traced(server, config.debug)
        shell = UdpShell(machine, sock, loop)
        heartbeat = Heartbeat(manager, loop, server.check, server.status)
        try:
            _announce(config, port)
            if certification is not None:
                _keep_up(certification, loop, server, revoked)
            heartbeat.begin()
            action = await stopped
            if action == RESTART:
                manager.tell_restart()
            else:
                manager.tell(STOPPING, status="answering what was asked before the end")
            if action != FAILED:  # then the ledger answers nothing any more
                await _drain(server, hurried)
            await _either(hurried, asyncio.ensure_future(asyncio.sleep(_LINGER)))
            if action == RESTART and hurried.is_set():
                action = "shutdown"
        finally:
            heartbeat.stop()
            shell.close()
            server.stop()
    finally:
        ledger.close()
        files.close()
        if certification is not None:
            certification.close()
    logger.info("stopped: %s", action)
    return action, successor


async def _drain(server: Server, hurried: asyncio.Event) -> None:
    """Wait until the ledger has answered what it was asked, and what followed from those answers, but not for ever."""
    for _ in range(2):
        answered = asyncio.Event()
        server.check(answered.set)
        if not await _either(hurried, asyncio.ensure_future(asyncio.wait_for(answered.wait(), _DRAIN))):
            return


async def _either(hurried: asyncio.Event, task: asyncio.Future[Any]) -> bool:
    """Wait for `task` to end or somebody to be in a hurry; whether the task came to a good end."""
    hurry = asyncio.ensure_future(hurried.wait())
    await asyncio.wait([task, hurry], return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if task.cancel():
        return False
    return task.exception() is None


def _open_certification(
    config: ServerConfig, passphrase: Optional[bytes], revoked: list[str]
) -> Optional[Certification]:
    """The certificates of this server; None where there is no authority, so that nobody is certified."""
    if not os.path.exists(os.path.join(config.data_dir, PKI_DIRECTORY)):
        return None
    # Only now: a server without certificates needs no `cryptography`.
    from fleet.server.certification import Certification

    certification = Certification(
        config.data_dir, SystemClock(), passphrase=passphrase, renewed=lambda: None, revoked=revoked.extend
    )
    revoked.clear()  # what was revoked before this start
    return certification


def _keep_up(certification: Certification, loop: asyncio.AbstractEventLoop, server: Server, revoked: list[str]) -> None:
    """Have done what is due about certificates, as long as the loop runs."""
    certification.run(loop.time())
    for serial in revoked:
        server.services.audit.revoked(serial)
    revoked.clear()
    loop.call_at(certification.next_due_at(), _keep_up, certification, loop, server, revoked)


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


async def _listening_socket(config: ServerConfig) -> tuple[ServerConfig, socket.socket]:
    """Return the socket to serve on, the inherited one if there is one, and the settings with where that listens."""
    sock = inherited_socket()
    if sock is None:
        try:
            family, address = await resolve_local(config.host, config.port, asyncio.get_running_loop())
            return config, open_socket(family, address)
        except (OSError, CoapError) as error:
            raise UsageError(f"cannot listen on --host {config.host} --port {config.port}: {error}") from error
    try:
        prepare_socket(sock)
        host = sock.getsockname()[0]
        # Whoever opened it chose the address; what was said of --host is true of another one.
        check_protection(host, config.insecure)
    except (OSError, UsageError):
        sock.close()
        raise
    return (config._replace(host=host) if _is_address(config.host) else config), sock


def _is_address(host: str) -> bool:
    """Whether `host` is an address, not a name (which nodes were told and are to go on using)."""
    return ":" in host or host.replace(".", "").isdecimal()


def _replace_process(sock: socket.socket) -> NoReturn:
    """Become a fresh process of the same command, which takes over the socket."""
    environment = {**os.environ, **hand_over(sock)}
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
